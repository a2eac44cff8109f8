//! Figures of the process itself, read from Linux `/proc` at each scrape.
//!
//! Every figure is optional: on another system, or behind a restricted `/proc`, the series is left
//! out rather than shown as zero. The parsers are pure; [`Process::read`] does the reading.

use std::fs;

/// Clock ticks per second in `/proc/PID/stat` (`USER_HZ`): fixed at 100 by the kernel's interface
/// on every architecture this program is built for.
const TICKS_PER_SECOND: f64 = 100.0;

/// What `/proc` shows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// User and system time, in seconds.
    pub cpu_seconds: Option<f64>,
    /// Resident memory, in bytes.
    pub resident_bytes: Option<f64>,
    /// Virtual memory, in bytes.
    pub virtual_bytes: Option<f64>,
    /// Open file descriptors.
    pub open_fds: Option<f64>,
    /// Soft limit of file descriptors; infinity when unlimited.
    pub max_fds: Option<f64>,
    /// Start, in Unix seconds.
    pub start_seconds: Option<f64>,
    pub threads: Option<f64>,
}

impl Process {
    /// Reads the present figures of this process.
    #[must_use]
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mut process = Self::parse(
            &text("/proc/self/stat"),
            &text("/proc/self/status"),
            &text("/proc/self/limits"),
            &text("/proc/stat"),
        );
        // The directory handle that counts is itself one of the entries.
        process.open_fds = fs::read_dir("/proc/self/fd")
            .ok()
            .map(|entries| entries.count().saturating_sub(1) as f64);
        process
    }

    fn parse(stat: &str, status: &str, limits: &str, system_stat: &str) -> Self {
        let (cpu_seconds, since_boot) = stat_times(stat);
        let boot = labelled(system_stat, "btime");
        Self {
            cpu_seconds,
            resident_bytes: labelled(status, "VmRSS:").map(|kib| kib * 1024.0),
            virtual_bytes: labelled(status, "VmSize:").map(|kib| kib * 1024.0),
            open_fds: None,
            max_fds: max_fds(limits),
            start_seconds: boot.zip(since_boot).map(|(boot, since)| boot + since),
            threads: labelled(status, "Threads:"),
        }
    }
}

/// The name of this machine.
#[must_use]
pub(crate) fn hostname() -> String {
    // Not from /proc, of which a unit may hide all but processes (ProcSubset=pid).
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// CPU seconds, and start in seconds after boot: fields 14, 15 and 22 of proc_pid_stat(5).
fn stat_times(stat: &str) -> (Option<f64>, Option<f64>) {
    // The second field is the program's name in parentheses and may hold blanks and parentheses
    // itself.
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return (None, None);
    };
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let ticks = |number: usize| {
        fields
            .get(number - 3)
            .and_then(|field| field.parse::<f64>().ok())
    };
    let cpu = ticks(14)
        .zip(ticks(15))
        .map(|(user, system)| (user + system) / TICKS_PER_SECOND);
    (cpu, ticks(22).map(|start| start / TICKS_PER_SECOND))
}

/// The number behind a label at the start of a line.
fn labelled(text: &str, label: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// The soft limit in the `Max open files` line.
fn max_fds(limits: &str) -> Option<f64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(f64::INFINITY),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "77 (a) b (c) S 1 77 77 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 9 0 1000 9 1 18446744073709551615";

    #[test]
    fn figures_are_found_behind_an_odd_program_name() {
        let status = "Name:\tlb\nVmSize:\t  2048 kB\nVmRSS:\t  1024 kB\nThreads:\t9\n";
        let limits =
            "Limit Soft Limit Hard Limit Units\nMax open files            1024   524288   files\n";
        let process = Process::parse(STAT, status, limits, "cpu 1 2\nbtime 1700000000\n");
        assert_eq!(
            process,
            Process {
                cpu_seconds: Some(3.0),
                resident_bytes: Some(1024.0 * 1024.0),
                virtual_bytes: Some(2048.0 * 1024.0),
                open_fds: None,
                max_fds: Some(1024.0),
                start_seconds: Some(1_700_000_010.0),
                threads: Some(9.0),
            }
        );
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        assert_eq!(
            Process::parse("", "VmRSS: x", "Max open files", "btime"),
            Process::default()
        );
        assert_eq!(Process::parse("1 (x) S 1 2", "", "", "").cpu_seconds, None);
        assert_eq!(
            max_fds("Max open files  unlimited unlimited files"),
            Some(f64::INFINITY)
        );
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_all_figures() {
        let process = Process::read();
        assert!(
            process
                .resident_bytes
                .is_some_and(|bytes| bytes > 100_000.0),
            "{process:?}"
        );
        assert!(
            process.open_fds.is_some_and(|fds| fds >= 3.0),
            "{process:?}"
        );
        assert!(
            process.start_seconds.is_some_and(|start| start > 1e9),
            "{process:?}"
        );
        assert!(
            process.threads.is_some() && process.max_fds.is_some() && process.cpu_seconds.is_some()
        );
    }
}
