//! What the translation has to know of this machine: its addresses, names, and the folder paths
//! start from.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs, UdpSocket};
use std::path::{Path, PathBuf};

/// An address of a network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name, as in `eth0`.
    pub name: String,
    /// Address.
    pub ip: IpAddr,
}

/// Facts that differ between machines.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Addresses in the order of the system; those of one interface may stand apart.
    pub interfaces: Vec<Interface>,
    /// The address that packets to far places leave from.
    pub outward: Option<IpAddr>,
    /// Whether a socket on `[::]` takes IPv4 as well: then `:9999` means both, as in Go.
    pub dual_stack: bool,
    /// Relative paths start here.
    pub folder: PathBuf,
    /// Finds an address for a host name.
    pub resolve: fn(&str) -> Option<IpAddr>,
}

/// Why an address cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No port, or no number.
    #[error("{0:?} is not an address; write HOST:PORT or :PORT")]
    Form(String),
    /// A name without an address.
    #[error("{0:?}: no address is known for this name")]
    Unresolved(String),
    /// A template of go-sockaddr that is not known here.
    #[error("{0:?}: of templates, GetPrivateIP, GetPublicIP and GetInterfaceIP \"NAME\" are known")]
    Template(String),
    /// A template that finds nothing.
    #[error("{0:?}: no interface of this machine has such an address")]
    NoInterface(String),
}

impl Machine {
    /// Looks at this machine. Addresses that cannot be listed are none.
    #[must_use]
    pub fn here() -> Self {
        Self::with(if_addrs::get_if_addrs().unwrap_or_default())
    }

    /// Looks at this machine.
    ///
    /// # Errors
    /// Its addresses cannot be listed.
    pub fn look() -> io::Result<Self> {
        if_addrs::get_if_addrs().map(Self::with)
    }

    fn with(addresses: Vec<if_addrs::Interface>) -> Self {
        Self {
            interfaces: addresses
                .into_iter()
                .map(|it| Interface {
                    ip: it.ip(),
                    name: it.name,
                })
                .collect(),
            outward: outward(),
            dual_stack: dual_stack(),
            folder: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            resolve: |name| {
                (name, 0)
                    .to_socket_addrs()
                    .ok()?
                    .map(|address| address.ip())
                    .next()
            },
        }
    }

    /// A machine without a network: for tests and documents.
    #[must_use]
    pub fn bare() -> Self {
        let local = |name: &str| (name == "localhost").then_some(IpAddr::from([127, 0, 0, 1]));
        Self {
            interfaces: Vec::new(),
            outward: None,
            dual_stack: false,
            folder: PathBuf::from("/srv"),
            resolve: local,
        }
    }

    /// Defaults that differ between machines.
    pub(super) fn defaults(&self) -> BTreeMap<&'static str, String> {
        BTreeMap::from([(
            "proxy.localip",
            self.first_global()
                .map(|ip| ip.to_string())
                .unwrap_or_default(),
        )])
    }

    /// The first address that others may reach this machine by; private ones count.
    #[must_use]
    pub fn first_global(&self) -> Option<IpAddr> {
        self.interfaces
            .iter()
            .map(|it| it.ip)
            .find(is_global_unicast)
    }

    /// A path as seen from everywhere.
    #[must_use]
    pub fn absolute(&self, path: &str) -> String {
        self.folder.join(Path::new(path)).display().to_string()
    }

    /// The socket address behind `HOST:PORT`, `:PORT`, `[IPv6]:PORT`, also with templates.
    ///
    /// # Errors
    /// What the text is not.
    pub fn socket(&self, text: &str) -> Result<SocketAddr, AddressError> {
        let text = self.expand(text)?;
        let wrong = || AddressError::Form(text.clone());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port: u16 = match port {
            "http" => 80,
            "https" => 443,
            port => port.parse().map_err(|_| wrong())?,
        };
        let unbracketed = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        let ip = match unbracketed.unwrap_or(host) {
            "" if self.dual_stack => Ipv6Addr::UNSPECIFIED.into(),
            "" => IpAddr::from([0, 0, 0, 0]),
            host => match host.parse() {
                Ok(ip @ IpAddr::V6(_)) if unbracketed.is_none() => {
                    return Err(AddressError::Form(format!("{ip}:{port}")));
                }
                Ok(ip) => ip,
                Err(_) if host.contains([' ', '/', ':']) => return Err(wrong()),
                Err(_) => {
                    (self.resolve)(host).ok_or_else(|| AddressError::Unresolved(host.to_owned()))?
                }
            },
        };
        Ok(SocketAddr::new(ip, port))
    }

    /// The same for an address that others connect to: a name in it stands for any address of this
    /// machine.
    ///
    /// # Errors
    /// What the text is not.
    pub fn advertised(&self, text: &str) -> Result<SocketAddr, AddressError> {
        let text = self.expand(text)?;
        let is_name = |host: &str| {
            host.chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        };
        match text.rsplit_once(':') {
            Some((host, port)) if is_name(host) && host.parse::<IpAddr>().is_err() => {
                self.socket(&format!("0.0.0.0:{port}"))
            }
            _ => self.socket(&text),
        }
    }

    /// Puts addresses in the place of templates like `{{ GetPrivateIP }}`.
    ///
    /// # Errors
    /// A template that is not known, or finds nothing.
    pub fn expand(&self, text: &str) -> Result<String, AddressError> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let unknown = || AddressError::Template(text.to_owned());
            let (template, after) = after.split_once("}}").ok_or_else(unknown)?;
            let words: Vec<&str> = template.split_whitespace().collect();
            let ip = match words[..] {
                ["GetPrivateIP"] => self.find(is_private),
                ["GetPublicIP"] => self.find(|ip| is_global_unicast(ip) && !is_private(ip)),
                ["GetInterfaceIP", name] => {
                    let name = name.trim_matches(['"', '`']);
                    self.interfaces
                        .iter()
                        .find(|it| it.name == name)
                        .map(|it| it.ip)
                }
                _ => return Err(unknown()),
            };
            out.push_str(before);
            match ip.ok_or_else(|| AddressError::NoInterface(text.to_owned()))? {
                IpAddr::V6(ip) if after.starts_with(':') && !before.ends_with('[') => {
                    out.push_str(&format!("[{ip}]"))
                }
                ip => out.push_str(&ip.to_string()),
            }
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }

    /// The first such address, beginning with the interface that leads outward.
    fn find(&self, wanted: impl Fn(&IpAddr) -> bool) -> Option<IpAddr> {
        self.outward
            .into_iter()
            .chain(self.interfaces.iter().map(|it| it.ip))
            .find(wanted)
    }
}

/// Whether other machines may reach it; private ones count (Go's `IsGlobalUnicast`).
#[must_use]
pub fn is_global_unicast(ip: &IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !link_local && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast()
}

fn is_private(ip: &IpAddr) -> bool {
    match ip {
        // 100.64.0.0/10 is shared space inside providers (RFC 6598), which go-sockaddr counts too.
        IpAddr::V4(ip) => ip.is_private() || (ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64),
        IpAddr::V6(ip) => ip.is_unique_local(),
    }
}

/// The address that packets to far places leave from. Connecting a UDP socket sends nothing; the
/// system only looks up the way.
#[must_use]
pub fn outward() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // A documentation address (RFC 5737), which no machine has.
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn dual_stack() -> bool {
    let only_v6 = std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only")
        .is_ok_and(|text| text.trim() == "1");
    !only_v6 && TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        let interface = |name: &str, ip: &str| Interface {
            name: name.to_owned(),
            ip: ip.parse().unwrap(),
        };
        let interfaces = vec![
            interface("lo", "127.0.0.1"),
            interface("eth1", "198.51.100.7"),
            interface("eth0", "10.0.0.5"),
            interface("eth2", "10.0.0.6"),
            interface("six", "fd00::1"),
        ];
        Machine {
            interfaces,
            outward: Some([10, 0, 0, 6].into()),
            ..Machine::bare()
        }
    }

    #[test]
    fn addresses() {
        let cases = [
            (":9999", "0.0.0.0:9999"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::1]:80", "[::1]:80"),
            ("localhost:http", "127.0.0.1:80"),
            ("{{ GetPrivateIP }}:1", "10.0.0.6:1"),
            ("{{GetPublicIP}}:1", "198.51.100.7:1"),
            ("{{GetInterfaceIP \"eth0\"}}:1", "10.0.0.5:1"),
            ("{{GetInterfaceIP \"six\"}}:1", "[fd00::1]:1"),
            ("[{{GetInterfaceIP \"six\"}}]:1", "[fd00::1]:1"),
        ];
        for (text, expected) in cases {
            assert_eq!(
                machine().socket(text).map(|address| address.to_string()),
                Ok(expected.to_owned()),
                "{text}"
            );
        }
        let dual = Machine {
            dual_stack: true,
            ..machine()
        };
        assert_eq!(dual.socket(":1").unwrap().to_string(), "[::]:1");
        for text in [
            "",
            "9999",
            "h:x",
            "h:70000",
            "::1:80",
            "nobody.test:1",
            "{{ x }}:1",
            "{{:1",
            "{{GetInterfaceIP \"x\"}}:1",
        ] {
            assert!(machine().socket(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_first_global_address_is_the_default() {
        assert_eq!(machine().defaults()["proxy.localip"], "198.51.100.7");
        assert_eq!(Machine::bare().defaults()["proxy.localip"], "");
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let here = Machine::here();
        assert!(here.folder.is_absolute());
        assert_eq!((here.resolve)("127.0.0.1"), Some([127, 0, 0, 1].into()));
    }
}
