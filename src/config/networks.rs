//! Networks and single addresses, as in `trusted_proxies = ["10.0.0.0/8", "192.0.2.1"]`.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::catalog::access::network;

/// Networks; none by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

impl Networks {
    /// From their texts.
    ///
    /// # Errors
    /// What is wrong with the first that is not one, to be read after the key.
    pub fn parse<T: AsRef<str>>(items: &[T]) -> Result<Self, String> {
        let read = |item: &T| {
            let text = item.as_ref().trim();
            network(text)
                .ok_or_else(|| format!("holds {text:?}, which is neither an address nor a network"))
        };
        items.iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    /// Whether an address is in one of them. IPv4 written as IPv6 (`::ffff:a.b.c.d`) counts as
    /// IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whether every IPv4 address, or every IPv6 address, is in one of them.
    #[must_use]
    pub fn hold_a_whole_family(&self) -> bool {
        self.0.iter().any(|network| network.prefix_len() == 0)
    }

    /// As they are written.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_networks_are_read_and_compared() {
        let networks = Networks::parse(&[
            "10.0.0.0/8",
            " 192.0.2.1 ",
            "2001:db8::/32",
            "::ffff:198.51.100.0/120",
        ])
        .unwrap();
        for (address, inside) in [
            ("10.255.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("11.0.0.0", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
            ("198.51.100.7", true),
        ] {
            assert_eq!(
                networks.contains(address.parse().unwrap()),
                inside,
                "{address}"
            );
        }
        assert_eq!(
            networks.to_string(),
            "10.0.0.0/8, 192.0.2.1/32, 2001:db8::/32, 198.51.100.0/24"
        );
        assert!(!networks.hold_a_whole_family() && !Networks::default().hold_a_whole_family());
        for (all, address) in [("0.0.0.0/0", "203.0.113.9"), ("::/0", "2001:db8::1")] {
            let networks = Networks::parse(&[all]).unwrap();
            assert!(networks.hold_a_whole_family() && networks.contains(address.parse().unwrap()));
        }
        for text in [
            "",
            "localhost",
            "10.0.0.0/33",
            "10.0.0",
            "ip:10.0.0.0/8",
            "*",
        ] {
            let error = Networks::parse(&["10.0.0.1", text]).unwrap_err();
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }
}
