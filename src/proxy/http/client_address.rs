//! Which address is the client's where requests come through proxies: senders that `[proxy]
//! trusted_proxies` names are believed about it, others are not.
//!
//! Pure. A proxy appends the address of its own client to what it got, so a chain is true from its
//! right end as far as trusted proxies wrote it: the client is the first address from the right
//! that is not a trusted proxy's. What stands further left is that client's own word.

use std::net::IpAddr;

use http::HeaderMap;
use smallvec::SmallVec;

use super::forwarded::{self, Hop};
use crate::config::{ClientAddress, Networks, ProxyConfig};

/// What `[proxy]` says of senders that name other addresses.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies {
    networks: Networks,
    rule: ClientAddress,
}

/// The client of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address, or the last one on the way to it that is known.
    pub address: IpAddr,
    /// A trusted proxy names one that cannot be read: `address` is not the client's own.
    pub is_unknown: bool,
}

impl Client {
    /// One that is known.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        Self {
            address,
            is_unknown: false,
        }
    }
}

impl TrustedProxies {
    /// Those of a configuration.
    #[must_use]
    pub fn new(config: &ProxyConfig) -> Self {
        Self {
            networks: config.trusted_proxies.clone(),
            rule: config.client_address,
        }
    }

    /// Whether a sender is believed.
    #[must_use]
    pub fn contain(&self, sender: IpAddr) -> bool {
        self.networks.contains(sender)
    }

    /// Whether rules for addresses look at every hop.
    #[must_use]
    pub fn check_every_hop(&self) -> bool {
        self.rule == ClientAddress::Peer
    }

    /// The client of a request with these fields from `sender`.
    #[must_use]
    pub fn client(&self, sender: IpAddr, fields: &HeaderMap) -> Client {
        if self.rule == ClientAddress::Peer || !self.contain(sender) {
            return Client::at(sender);
        }
        let mut hops: SmallVec<[Hop; 8]> = forwarded::listed_hops(fields).collect();
        if hops.is_empty() {
            hops.extend(forwarded::hops_of_elements(fields));
        }
        if hops.is_empty() {
            hops.extend(forwarded::real_ip(fields));
        }
        let mut nearest = sender;
        for hop in hops.into_iter().rev() {
            match hop {
                Hop::Address(address) if self.contain(address) => nearest = address,
                Hop::Address(address) => return Client::at(address),
                Hop::Unknown => {
                    return Client {
                        address: nearest,
                        is_unknown: true,
                    };
                }
            }
        }
        Client::at(nearest)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn trusted(rule: ClientAddress) -> TrustedProxies {
        TrustedProxies {
            networks: Networks::parse(&["10.0.0.0/8", "2001:db8:a::/48"]).unwrap(),
            rule,
        }
    }

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn the_client_is_the_last_address_that_is_not_a_trusted_proxys() {
        const XFF: &str = "x-forwarded-for";
        const REAL: &str = "x-real-ip";
        const FORWARDED: &str = "forwarded";
        // Fields of a trusted sender at 10.0.0.1; the client, `?` behind it where it is not known.
        let table: &[(&[(&'static str, &str)], &str)] = &[
            (&[], "10.0.0.1"),
            (&[(XFF, "203.0.113.9")], "203.0.113.9"),
            (&[(XFF, "203.0.113.9:4711")], "203.0.113.9"),
            (&[(XFF, "198.51.100.1, 203.0.113.9")], "203.0.113.9"),
            (
                &[(XFF, "198.51.100.1, 203.0.113.9, 10.0.0.2")],
                "203.0.113.9",
            ),
            (
                &[
                    (XFF, "198.51.100.1"),
                    (XFF, "203.0.113.9"),
                    (XFF, "10.1.1.1,10.2.2.2"),
                ],
                "203.0.113.9",
            ),
            (&[(XFF, "203.0.113.9, ::ffff:10.0.0.2")], "203.0.113.9"),
            (&[(XFF, "2001:db8::1, [2001:db8:a::1]:443")], "2001:db8::1"),
            // All of them are trusted: the first knows where it comes from.
            (&[(XFF, "10.3.3.3, 10.2.2.2")], "10.3.3.3"),
            (&[(XFF, "")], "10.0.0.1"),
            (&[(XFF, "unknown")], "10.0.0.1?"),
            (&[(XFF, "203.0.113.9, unknown")], "10.0.0.1?"),
            (&[(XFF, "203.0.113.9, unknown, 10.0.0.2")], "10.0.0.2?"),
            // What cannot be read does not matter where a client wrote it.
            (&[(XFF, "unknown, 203.0.113.9")], "203.0.113.9"),
            (&[(FORWARDED, "for=203.0.113.9;proto=https")], "203.0.113.9"),
            (
                &[(
                    FORWARDED,
                    "for=198.51.100.1, for=\"203.0.113.9:1\", for=10.0.0.2",
                )],
                "203.0.113.9",
            ),
            (&[(FORWARDED, "for=203.0.113.9, for=_hidden")], "10.0.0.1?"),
            (
                &[(FORWARDED, "for=203.0.113.9, for=\"10.0.0.2")],
                "10.0.0.1?",
            ),
            // An element without `for` is a hop that is not named; it does not stand for the
            // client's own one before it.
            (&[(FORWARDED, "for=203.0.113.9, proto=https")], "10.0.0.1?"),
            (
                &[(FORWARDED, "for=203.0.113.9"), (FORWARDED, "by=10.0.0.2")],
                "10.0.0.1?",
            ),
            (&[(FORWARDED, "proto=https;by=10.0.0.2")], "10.0.0.1"),
            (&[(REAL, "203.0.113.9")], "203.0.113.9"),
            (&[(REAL, "x")], "10.0.0.1?"),
            (&[(REAL, "203.0.113.9"), (REAL, "203.0.113.8")], "10.0.0.1?"),
            (&[(REAL, "203.0.113.9, 203.0.113.8")], "10.0.0.1?"),
            (
                &[
                    (FORWARDED, "for=198.51.100.1"),
                    (XFF, "203.0.113.9"),
                    (REAL, "198.51.100.2"),
                ],
                "203.0.113.9",
            ),
            (
                &[(REAL, "198.51.100.2"), (FORWARDED, "for=203.0.113.9")],
                "203.0.113.9",
            ),
            (&[("x-forwarded-proto", "https")], "10.0.0.1"),
        ];
        let show = |client: Client| {
            let unknown = if client.is_unknown { "?" } else { "" };
            format!("{}{unknown}", client.address)
        };
        let (sender, stranger) = ("10.0.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap());
        for (fields, wanted) in table {
            let map = map(fields);
            let client = trusted(ClientAddress::Forwarded).client(sender, &map);
            assert_eq!(show(client), *wanted, "{fields:?}");
            let believed = trusted(ClientAddress::Forwarded).client(stranger, &map);
            assert_eq!(believed, Client::at(stranger), "{fields:?}");
            let peer = trusted(ClientAddress::Peer).client(sender, &map);
            assert_eq!(peer, Client::at(sender), "{fields:?}");
            let none = TrustedProxies::default().client(sender, &map);
            assert_eq!(none, Client::at(sender), "{fields:?}");
        }
    }

    /// Addresses outside of the trusted networks.
    fn outside() -> impl Strategy<Value = IpAddr> {
        any::<IpAddr>()
            .prop_map(|address| address.to_canonical())
            .prop_filter("trusted", |address| {
                !trusted(ClientAddress::Forwarded).contain(*address)
            })
    }

    fn inside() -> impl Strategy<Value = IpAddr> {
        any::<[u8; 3]>().prop_map(|[a, b, c]| IpAddr::from([10, a, b, c]))
    }

    fn element(address: &IpAddr) -> String {
        match address {
            IpAddr::V4(address) => format!("for={address}"),
            IpAddr::V6(address) => format!("for=\"[{address}]\""),
        }
    }

    proptest! {
        /// Whatever a client writes into its own fields, the trusted proxies behind it append its
        /// address.
        #[test]
        fn what_the_client_writes_never_matters(
            forged in "[ -~]{0,40}",
            more: Vec<IpAddr>,
            client in outside(),
            chain in prop::collection::vec(inside(), 0..5),
            joined: bool,
        ) {
            let sender = IpAddr::from([10, 0, 0, 1]);
            let appended: Vec<String> = std::iter::once(&client)
                .chain(&chain)
                .map(ToString::to_string)
                .collect();
            let appended = appended.join(", ");
            let more: Vec<String> = more.iter().map(ToString::to_string).collect();
            let left = format!("{forged}, {}", more.join(","));
            let fields = match joined {
                true => map(&[("x-forwarded-for", &format!("{left}, {appended}"))]),
                false => map(&[("x-forwarded-for", &left), ("x-forwarded-for", &appended)]),
            };
            let found = trusted(ClientAddress::Forwarded).client(sender, &fields);
            prop_assert_eq!(found, Client::at(client));
        }

        /// The same of `Forwarded`, where proxies add fields of their own.
        #[test]
        fn nor_in_forwarded(
            forged in "[ -~]{0,40}",
            client in outside(),
            chain in prop::collection::vec(inside(), 0..5),
        ) {
            let sender = IpAddr::from([10, 0, 0, 1]);
            let appended: Vec<String> =
                std::iter::once(&client).chain(&chain).map(element).collect();
            let fields = map(&[("forwarded", &forged), ("forwarded", &appended.join(", "))]);
            let found = trusted(ClientAddress::Forwarded).client(sender, &fields);
            prop_assert_eq!(found, Client::at(client));
        }

        /// Nothing that an untrusted sender writes matters.
        #[test]
        fn strangers_are_not_believed(sender in outside(), text in "[ -~]{0,40}") {
            let fields = map(&[("x-forwarded-for", &text), ("forwarded", &text), ("x-real-ip", &text)]);
            let found = trusted(ClientAddress::Forwarded).client(sender, &fields);
            prop_assert_eq!(found, Client::at(sender));
        }
    }
}
