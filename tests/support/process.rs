//! What a process costs, from `/proc`.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// State of an open connection in `/proc/net/tcp`.
const ESTABLISHED: &str = "01";

/// A process by its id.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

impl Process {
    /// CPU time so far of all its present threads. Exact, unlike `/proc/PID/stat`, which counts
    /// clock ticks and misses or overstates what wakes for microseconds.
    pub fn cpu(self) -> Duration {
        let tasks = fs::read_dir(self.path("task")).expect("a running process");
        let nanoseconds = tasks.filter_map(|task| {
            let schedstat = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            schedstat.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanoseconds.sum())
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(self) -> u64 {
        let status = fs::read_to_string(self.path("status")).expect("a running process");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("VmRSS");
        line.trim()
            .trim_end_matches(" kB")
            .parse::<u64>()
            .expect("a number")
            * 1024
    }

    /// Its open TCP connections (IPv4) to this address.
    pub fn connections_to(self, address: SocketAddr) -> usize {
        let SocketAddr::V4(address) = address else {
            return 0;
        };
        // Addresses are written as the number that the machine's memory holds.
        let ip = u32::from_ne_bytes(address.ip().octets());
        let remote = format!("{ip:08X}:{:04X}", address.port());
        let own: Vec<String> = fs::read_dir(self.path("fd"))
            .expect("its descriptors")
            .filter_map(|entry| {
                fs::read_link(entry.ok()?.path())
                    .ok()?
                    .into_os_string()
                    .into_string()
                    .ok()
            })
            .collect();
        let table = fs::read_to_string(self.path("net/tcp")).expect("its connections");
        let is_own = |inode: &str| own.contains(&format!("socket:[{inode}]"));
        let mut count = 0;
        for line in table.lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            if fields[2] == remote && fields[3] == ESTABLISHED && is_own(fields[9]) {
                count += 1;
            }
        }
        count
    }

    fn path(self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.0))
    }
}
