//! Talks to systemd when it wants that (`NOTIFY_SOCKET`, `WATCHDOG_USEC`); does nothing otherwise.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use sd_notify::NotifyState;

/// Clients are served.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The end has begun.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Still alive.
pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`alive`] is wanted: half of what systemd waits for.
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn tell(states: &[NotifyState<'_>]) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let lines: String = states.iter().map(|state| format!("{state}\n")).collect();
    let told = address(name.as_bytes()).and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        // A manager that does not read must not hold up the thread that tells it something.
        socket.set_nonblocking(true)?;
        match socket.send_to_addr(lines.as_bytes(), &address) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !is_beat(states) => {
                socket.set_nonblocking(false)?;
                let wait = move || socket.send_to_addr(lines.as_bytes(), &address);
                std::thread::Builder::new()
                    .name("lb-notify".to_owned())
                    .spawn(wait)?;
                Ok(())
            }
            sent => sent.map(drop),
        }
    });
    if let Err(error) = told {
        tracing::debug!(%error, "systemd does not listen");
    }
}

/// Whether there will be a next one soon.
fn is_beat(states: &[NotifyState<'_>]) -> bool {
    matches!(states, [NotifyState::Watchdog])
}

/// A path, or a name without a file behind a leading `@` (sd_notify(3)).
fn address(name: &[u8]) -> io::Result<SocketAddr> {
    match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(Path::new(OsStr::from_bytes(name))),
    }
}
