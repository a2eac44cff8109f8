//! Signals: which of them end a command that runs long, in order, and which must not end it at all.
//!
//! A signal that is not listened to kills the process (signal(7)), and every connection with it.
//! What is listened to here stays so for the rest of the process, whether or not a task waits for
//! it.

use std::future::{pending, poll_fn};
use std::io;
use std::task::Poll;

use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM, SIGINT and SIGQUIT: the orderly end. SIGQUIT is what container images of other servers
/// have their runtime send (`STOPSIGNAL`), and no more than the others a reason to leave a core
/// file.
#[derive(Debug)]
pub struct Ending {
    signals: Vec<Signal>,
}

impl Ending {
    /// Listens from now on. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen() -> io::Result<Self> {
        let kinds = [
            SignalKind::terminate(),
            SignalKind::interrupt(),
            SignalKind::quit(),
        ];
        Ok(Self {
            signals: kinds.into_iter().map(signal).collect::<io::Result<_>>()?,
        })
    }

    /// The same for a command that belongs to its terminal: the end of that (SIGHUP) ends it too,
    /// unless it was started with SIGHUP ignored, as by `nohup`.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen_with_terminal() -> io::Result<Self> {
        let mut ending = Self::listen()?;
        if !is_hangup_ignored() {
            ending.signals.push(signal(SignalKind::hangup())?);
        }
        Ok(ending)
    }

    /// Waits for one of them. Cancel safe: what came meanwhile is told at the next call.
    pub async fn came(&mut self) {
        poll_fn(|cx| {
            let mut came = false;
            // All of them, so that each wakes this task.
            for signal in &mut self.signals {
                came |= signal.poll_recv(cx).is_ready();
            }
            if came { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// Signals that would kill the process but mean nothing to it: sent to the wrong one of several
/// programs, to all of a container, by a timer or limit that was inherited.
#[derive(Debug)]
pub struct Harmless {
    signals: Vec<(&'static str, Signal)>,
}

impl Harmless {
    /// Listens from now on. Must be called inside a Tokio runtime.
    ///
    /// SIGUSR1 and SIGUSR2 reopen log files elsewhere; here the logs are the standard streams.
    /// SIGXFSZ comes when a log file reaches its limit: the line is lost then, which is counted,
    /// and nothing else. SIGPIPE is ignored by the standard library.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen() -> io::Result<Self> {
        let kinds = [
            ("SIGUSR1", SignalKind::user_defined1()),
            ("SIGUSR2", SignalKind::user_defined2()),
            ("SIGALRM", SignalKind::alarm()),
            ("SIGIO", SignalKind::io()),
            ("SIGVTALRM", SignalKind::from_raw(Number::VTALARM.as_raw())),
            ("SIGPROF", SignalKind::from_raw(Number::PROF.as_raw())),
            ("SIGXFSZ", SignalKind::from_raw(Number::XFSZ.as_raw())),
            #[cfg(target_os = "linux")]
            ("SIGPWR", SignalKind::from_raw(Number::POWER.as_raw())),
        ];
        let signals = kinds
            .into_iter()
            .map(|(name, kind)| Ok((name, signal(kind)?)));
        Ok(Self {
            signals: signals.collect::<io::Result<_>>()?,
        })
    }

    /// Waits for one of them, and returns its name. Cancel safe.
    pub async fn came(&mut self) -> &'static str {
        poll_fn(|cx| {
            let mut came = Poll::Pending;
            for (name, signal) in &mut self.signals {
                if signal.poll_recv(cx).is_ready() {
                    came = Poll::Ready(*name);
                }
            }
            came
        })
        .await
    }
}

/// As [`Ending::came`] with the terminal, for ever where signals cannot be listened to; harmless
/// ones are ignored from then on.
pub async fn end_came_with_terminal() {
    let _ignored = Harmless::listen();
    match Ending::listen_with_terminal() {
        Ok(mut ending) => ending.came().await,
        Err(_) => pending().await,
    }
}

/// Whether this process was started with SIGHUP ignored. Where that cannot be told, it counts as
/// such.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignores_hangup(&status)
}

fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // The first bit is that of signal 1.
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_none_or(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_hangup_stays_ignored() {
        let of = |mask: &str| format!("Name:\tlb\nSigIgn:\t{mask}\nSigCgt:\t0000000000000001\n");
        assert!(ignores_hangup(&of("0000000000001001")));
        assert!(!ignores_hangup(&of("0000000000001000")));
        assert!(ignores_hangup(""));
    }
}
