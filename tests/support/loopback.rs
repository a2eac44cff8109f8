//! Addresses, networks and ports of the loopback interface that no other test uses. They are checked
//! when they are given out; nothing holds them until they are used.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

/// A loopback address that no other test uses: from the process id and a counter, and checked.
pub fn free_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // The last part is neither 0 nor 255; a test that needs more goes on to the next net.
        let (net, host) = (pid.wrapping_add(number / 254), 1 + number % 254);
        let ip = Ipv4Addr::new(127, 16 + ((net >> 8) % 200) as u8, net as u8, host as u8);
        if [8300, 8301, 8500, 8501]
            .iter()
            .all(|&port| TcpListener::bind((ip, port)).is_ok())
        {
            return ip.to_string();
        }
    }
}

/// First three numbers of a loopback network that no other cluster uses: from the process id and a
/// counter, and checked at the first nodes' addresses.
pub fn free_network() -> [u8; 3] {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    for _ in 0..255 {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Below 217 are those of single agents.
        let [a, b, c] = [127, 217 + (pid % 38) as u8, (pid / 38 + number) as u8];
        let is_free = |node: u8| {
            let ip = Ipv4Addr::new(a, b, c, node);
            [8300, 8301, 8501, 4646]
                .iter()
                .all(|&port| TcpListener::bind((ip, port)).is_ok())
        };
        if (11..=13).all(is_free) {
            return [a, b, c];
        }
    }
    panic!("no free loopback network");
}

/// A port that was free a moment ago: a TCP route names its port, so it cannot be left to the
/// system. Taken below the range from which the system gives out ports, so that no other
/// listener on port 0 meets it.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 4000).unwrap() * 3;
    loop {
        let port = 12_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 16_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
