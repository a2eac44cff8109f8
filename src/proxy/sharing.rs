//! Which other processes listen on an address, as the kernel's tables tell.
//!
//! `SO_REUSEPORT` lets the workers of one process share an address, and with it any other process
//! of the same user: the kernel then deals connections out to both. So an address is bound alone
//! (see [`crate::proxy::listener`]), unless taking over is configured; and which process shares one
//! is looked up here. Reading `/proc/self/net/tcp` needs no rights; to name the process behind a
//! socket needs those over it.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long it is remembered which process has a socket open.
const HOLDER_KEPT: Duration = Duration::from_secs(60);

/// State `LISTEN` in the table. Rows of that state come first.
const LISTEN: &str = "0A";

/// A listening socket of this machine (of this network namespace).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// The address it listens on.
    pub address: SocketAddr,
    /// What identifies the socket.
    pub inode: u64,
}

/// A process, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Its id, and the name of its program.
    pub process: Option<(u32, String)>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.process {
            Some((pid, name)) => write!(f, "pid {pid} ({name})"),
            None => f.write_str("another process, which cannot be looked up"),
        }
    }
}

/// All listening sockets; empty where the tables cannot be read.
#[must_use]
pub fn listening() -> Vec<Listening> {
    let mut found = Vec::new();
    for path in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        let Ok(table) = fs::File::open(path) else {
            continue;
        };
        // Rows of connections, which may be many, are not read.
        let rows = BufReader::new(table).lines().map_while(Result::ok).skip(1);
        found.extend(rows.map_while(|row| parse(&row)));
    }
    found
}

/// One row of `/proc/net/tcp` (proc_pid_net(5)); none when it is not one of a listening socket.
fn parse(row: &str) -> Option<Listening> {
    let mut fields = row.split_whitespace();
    let local = fields.nth(1)?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?.parse().ok()?;
    if state != LISTEN {
        return None;
    }
    let (ip, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of four bytes, each in the order of the machine.
    let word = |at: usize| {
        Some(
            u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16)
                .ok()?
                .to_ne_bytes(),
        )
    };
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
            }
            IpAddr::from(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(Listening {
        address: SocketAddr::new(ip, port),
        inode,
    })
}

/// Whether connections to `ours` may reach a socket on `other`. Of two protocol families only a
/// wildcard of IPv6 that is ours counts: ours take IPv4 as well, others may not.
#[must_use]
pub fn overlaps(ours: SocketAddr, other: SocketAddr) -> bool {
    let (a, b) = (ours.ip().to_canonical(), other.ip().to_canonical());
    let meets = match (a, b) {
        (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => {
            a == b || a.is_unspecified() || b.is_unspecified()
        }
        (IpAddr::V6(_), IpAddr::V4(_)) => a.is_unspecified(),
        (IpAddr::V4(_), IpAddr::V6(_)) => false,
    };
    meets && ours.port() == other.port()
}

/// Whether connections to one of these addresses may reach a socket on the other.
#[must_use]
pub fn meet(a: SocketAddr, b: SocketAddr) -> bool {
    overlaps(a, b) || overlaps(b, a)
}

/// The number by which the kernel's tables know a socket.
#[must_use]
pub fn inode_of(socket: &impl AsFd) -> Option<u64> {
    let same: OwnedFd = socket.as_fd().try_clone_to_owned().ok()?;
    fs::File::from(same)
        .metadata()
        .ok()
        .map(|metadata| metadata.ino())
}

/// Which of `listening` have `address`, besides `own`.
#[must_use]
pub fn others(address: SocketAddr, own: &[u64], listening: &[Listening]) -> Vec<u64> {
    let foreign = listening
        .iter()
        .filter(|it| overlaps(address, it.address) && !own.contains(&it.inode));
    foreign.map(|it| it.inode).collect()
}

/// Which process has one of these sockets open: the one with the lowest id that may be looked at.
/// All open files of all processes are read for that, so what was found is kept for a minute: a
/// port that another process has is tried again each second.
#[must_use]
pub fn holder(inodes: &[u64]) -> Holder {
    static FOUND: Mutex<Vec<(Vec<u64>, Instant, Holder)>> = Mutex::new(Vec::new());
    let now = Instant::now();
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    found.retain(|(_, at, _)| now.duration_since(*at) < HOLDER_KEPT);
    if let Some((.., holder)) = found.iter().find(|(sockets, ..)| sockets == inodes) {
        return holder.clone();
    }
    let holder = look_for_holder(inodes);
    found.push((inodes.to_vec(), now, holder.clone()));
    holder
}

fn look_for_holder(inodes: &[u64]) -> Holder {
    let names: Vec<String> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        files
            .filter_map(|file| fs::read_link(file.path()).ok())
            .any(|target| names.iter().any(|name| target.as_os_str() == name.as_str()))
    };
    let process = pids.filter(has).min().map(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        (pid, name.trim().to_owned())
    });
    Holder { process }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_table_are_read() {
        let listening = |row: &str| parse(row).map(|it| (it.address.to_string(), it.inode));
        let row = "   0: 0100007F:270F 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 43684 1 0000 100 0 0 10 0";
        assert_eq!(listening(row), Some(("127.0.0.1:9999".to_owned(), 43684)));
        let six = "   1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7 1 0000 100 0 0 10 0";
        assert_eq!(listening(six), Some(("[::1]:80".to_owned(), 7)));
        for row in [
            row.replace(" 0A ", " 01 ").as_str(),
            "",
            "  sl  local_address rem_address   st",
            "0: x:y z 0A",
        ] {
            assert_eq!(listening(row), None, "{row}");
        }
    }

    #[test]
    fn addresses_meet_as_the_kernel_deals_connections_out() {
        let cases = [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("[::]:80", "0.0.0.0:80", true),
            ("[::]:80", "[::1]:80", true),
            ("0.0.0.0:80", "[::]:80", false),
            ("[::1]:80", "127.0.0.1:80", false),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
        ];
        for (ours, other, wanted) in cases {
            assert_eq!(
                overlaps(ours.parse().unwrap(), other.parse().unwrap()),
                wanted,
                "{ours} {other}"
            );
        }
    }

    #[test]
    fn an_open_socket_is_found_with_its_process() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(socket) = std::net::TcpListener::bind(address) else {
                continue;
            };
            let (address, inode) = (socket.local_addr().unwrap(), inode_of(&socket).unwrap());
            let all = listening();
            assert!(
                all.contains(&Listening { address, inode }),
                "{address} {inode} {all:?}"
            );
            assert_eq!(others(address, &[], &all), [inode]);
            assert!(others(address, &[inode], &all).is_empty());
            assert_eq!(
                holder(&[inode]).process.map(|(pid, _)| pid),
                Some(std::process::id())
            );
        }
        assert_eq!(holder(&[u64::MAX]).process, None);
    }
}
