//! What `ss`, `lsof`, `netstat`, `ip` and `ifconfig` print, read.

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
    /// Whether nobody else can listen on this address and its port.
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

/// Listening sockets out of `ss -Hltnp`, `lsof -nP -iTCP -sTCP:LISTEN` or `netstat -ltn`.
pub(super) fn listeners(lines: &[&str]) -> Vec<Listener> {
    lines.iter().filter_map(|line| listener(line)).collect()
}

fn listener(line: &str) -> Option<Listener> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    if fields.first() == Some(&"LISTEN") {
        // LISTEN 0 4096 127.0.0.1:8501 0.0.0.0:* users:(("consul",pid=12,fd=3))
        let (address, port) = socket(fields.get(3)?)?;
        let users = fields.get(5).copied().unwrap_or_default();
        let command = users.split('"').nth(1).map(str::to_owned);
        let pid = users
            .split_once("pid=")
            .and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
        return Some(Listener {
            address,
            port,
            pid,
            command,
        });
    }
    if fields.last() == Some(&"(LISTEN)") {
        // consul 12 root 3u IPv4 0x0 0t0 TCP 127.0.0.1:8501 (LISTEN)
        let (address, port) = socket(fields.get(fields.len().checked_sub(2)?)?)?;
        let command = fields.first().map(|&command| command.to_owned());
        return Some(Listener {
            address,
            port,
            pid: fields.get(1)?.parse().ok(),
            command,
        });
    }
    if fields.last() == Some(&"LISTEN") && fields.first()?.starts_with("tcp") {
        // tcp 0 0 127.0.0.1:8501 0.0.0.0:* LISTEN
        let (address, port) = socket(fields.get(3)?)?;
        return Some(Listener {
            address,
            port,
            pid: None,
            command: None,
        });
    }
    None
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

/// Whether an address is the machine's, after `ip -o addr` or `ifconfig -a`. On Linux a whole
/// prefix belongs to the loopback interface, where elsewhere each address is set up.
pub(super) fn holds_address(lines: &[&str], address: IpAddr, linux: bool) -> bool {
    lines.iter().any(|line| {
        let mut fields = line.split_whitespace();
        let its = fields
            .by_ref()
            .find(|field| matches!(*field, "inet" | "inet6"))
            .and(fields.next());
        let Some(its) = its else { return false };
        let its = its
            .trim_start_matches("addr:")
            .split('%')
            .next()
            .unwrap_or_default();
        match its.parse::<IpNet>() {
            Ok(net) => {
                net.addr() == address || linux && net.addr().is_loopback() && net.contains(&address)
            }
            Err(_) => {
                its.parse() == Ok(address) || linux && its == "127.0.0.1" && is_loopback_v4(address)
            }
        }
    })
}

fn is_loopback_v4(address: IpAddr) -> bool {
    address.is_ipv4() && address.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_read_whatever_tool_printed_them() {
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
            (
                "consul 12 root 3u IPv4 0x0 0t0 TCP 127.0.0.1:8501 (LISTEN)",
                ("127.0.0.1", 8501, Some(12)),
            ),
            ("tcp6 0 0 :::22 :::* LISTEN", ("::", 22, None)),
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
            "COMMAND PID USER",
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
        let linux = [
            "1: lo    inet 127.0.0.1/8 scope host lo",
            "2: eth0    inet 10.0.0.17/24 brd 10.0.0.255 scope",
        ];
        let mac = [
            "lo0: flags=8049<UP>",
            "\tinet 127.0.0.1 netmask 0xff000000",
            "\tinet6 fe80::1%lo0 prefixlen 64",
        ];
        for (lines, address, is_linux, expected) in [
            (&linux[..], "10.0.0.17", true, true),
            (&linux, "10.0.0.18", true, false),
            (&linux, "127.0.1.11", true, true),
            (&mac, "127.0.1.11", false, false),
            (&mac, "127.0.0.1", false, true),
            (&mac, "fe80::1", false, true),
        ] {
            assert_eq!(
                holds_address(lines, address.parse().unwrap(), is_linux),
                expected,
                "{address}"
            );
        }
    }
}
