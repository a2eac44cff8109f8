//! What `ss` and `ip` print, read.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// A listening TCP socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    /// Its address; None: all of them.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
    pub(super) pid: Option<u32>,
    pub(super) command: Option<String>,
}

impl Listener {
    /// Whether nothing else can listen on this address and its port.
    pub(super) fn is_in_the_way_of(&self, address: IpAddr) -> bool {
        // `::` takes IPv4, too, unless told otherwise, which cannot be seen.
        self.address.is_none_or(|its| {
            its == address || its.is_unspecified() && (its.is_ipv6() || address.is_ipv4())
        })
    }

    /// Whose it is, for people.
    pub(super) fn describe(&self) -> Option<String> {
        match (&self.command, self.pid) {
            (Some(command), Some(pid)) => Some(format!("{command}, pid {pid}")),
            (Some(command), None) => Some(command.clone()),
            (None, Some(pid)) => Some(format!("pid {pid}")),
            (None, None) => None,
        }
    }
}

/// Listening sockets out of `ss -Hltnp`.
pub(super) fn listeners(lines: &[&str]) -> Vec<Listener> {
    lines.iter().filter_map(|line| listener(line)).collect()
}

/// `LISTEN 0 4096 127.0.0.1:8501 0.0.0.0:* users:(("consul",pid=12,fd=3))`.
fn listener(line: &str) -> Option<Listener> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    if fields.first() != Some(&"LISTEN") {
        return None;
    }
    let (address, port) = socket(fields.get(3)?)?;
    let users = fields.get(5).copied().unwrap_or_default();
    let command = users.split('"').nth(1).map(str::to_owned);
    let pid = users
        .split_once("pid=")
        .and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
    Some(Listener {
        address,
        port,
        pid,
        command,
    })
}

/// `127.0.0.1%lo:80`, `[::1]:80`, `:::80`, `*:80`.
fn socket(text: &str) -> Option<(Option<IpAddr>, u16)> {
    let (address, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    let address = address.split('%').next()?;
    if address == "*" {
        return Some((None, port));
    }
    let address: IpAddr = address.parse().ok()?;
    Some((Some(unmapped(address)), port))
}

/// An IPv4 address that is written as an IPv6 one, as itself.
fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) if v6 != Ipv6Addr::LOCALHOST => {
            v6.to_ipv4_mapped().map_or(address, IpAddr::V4)
        }
        _ => address,
    }
}

/// Addresses of the machine with their networks, out of `ip -o addr`.
pub(super) fn addresses(lines: &[&str]) -> Vec<IpNet> {
    let address = |line: &&str| {
        let mut fields = line.split_whitespace();
        fields.find(|field| matches!(*field, "inet" | "inet6"))?;
        let text = fields.next()?;
        // One with a peer stands there without its network.
        let alone = || text.parse::<IpAddr>().ok().map(IpNet::from);
        text.parse().ok().or_else(alone)
    };
    lines.iter().filter_map(address).collect()
}

/// Whether an address is among those of the machine: a whole network belongs to the loopback
/// interface. Where none could be told, it may be.
pub(super) fn holds_address(own: &[IpNet], address: IpAddr) -> bool {
    let holds =
        |net: &IpNet| net.addr() == address || net.addr().is_loopback() && net.contains(&address);
    own.is_empty() || own.iter().any(holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_read() {
        for (line, expected) in [
            (
                r#"LISTEN 0 4096 127.0.0.1:8501 0.0.0.0:* users:(("consul",pid=12,fd=3))"#,
                ("127.0.0.1", 8501, Some(12)),
            ),
            (
                r"LISTEN 0      128          0.0.0.0:22        0.0.0.0:*",
                ("0.0.0.0", 22, None),
            ),
            (r"LISTEN 0 128 [::1]:631 [::]:*", ("::1", 631, None)),
            (
                r"LISTEN 0 128 127.0.0.53%lo:53 0.0.0.0:*",
                ("127.0.0.53", 53, None),
            ),
            (
                r"LISTEN 0 128 [::ffff:127.0.0.1]:8080 *:*",
                ("127.0.0.1", 8080, None),
            ),
            (r"LISTEN 0 128 :::22 :::*", ("::", 22, None)),
        ] {
            let listener = listener(line).unwrap();
            let address = listener.address.unwrap().to_string();
            assert_eq!(
                (address.as_str(), listener.port, listener.pid),
                expected,
                "{line}"
            );
        }
        assert_eq!(listener("LISTEN 0 128 *:80 *:*").unwrap().address, None);
        for line in [
            "",
            "LISTEN",
            "LISTEN 0 1 nonsense",
            "LISTEN 0 1 a:b *:*",
            "ESTAB 0 0 127.0.0.1:1 127.0.0.1:2",
            "tcp LISTEN",
        ] {
            assert_eq!(listener(line), None, "{line}");
        }
    }

    #[test]
    fn a_socket_on_all_addresses_is_in_everybodys_way() {
        let of = |address: Option<&str>| Listener {
            address: address.map(|address| address.parse().unwrap()),
            port: 1,
            pid: None,
            command: None,
        };
        let address = "10.0.0.1".parse().unwrap();
        for (its, expected) in [
            (None, true),
            (Some("0.0.0.0"), true),
            (Some("::"), true),
            (Some("10.0.0.1"), true),
            (Some("127.0.0.1"), false),
        ] {
            assert_eq!(of(its).is_in_the_way_of(address), expected, "{its:?}");
        }
        assert!(!of(Some("0.0.0.0")).is_in_the_way_of("fd00::1".parse().unwrap()));
    }

    #[test]
    fn addresses_are_found() {
        let own = addresses(&[
            "1: lo    inet 127.0.0.1/8 scope host lo\\       valid_lft forever",
            "1: lo    inet6 ::1/128 scope host",
            "2: eth0    inet 10.0.0.17/24 brd 10.0.0.255 scope global",
            "2: eth0    inet6 fe80::1/64 scope link",
            "3: wg0    inet 10.9.0.1 peer 10.9.0.2/32 scope global",
            "nonsense",
        ]);
        for (address, expected) in [
            ("10.0.0.17", true),
            ("10.0.0.18", false),
            ("10.9.0.1", true),
            ("127.0.1.11", true),
            ("fe80::1", true),
            ("::1", true),
            ("::2", false),
        ] {
            let found = holds_address(&own, address.parse().unwrap());
            assert_eq!(found, expected, "{address}");
        }
        assert!(
            holds_address(&[], [10, 0, 0, 1].into()),
            "without `ip` it cannot be told"
        );
    }
}
