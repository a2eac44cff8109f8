//! Which clients may use a route (`allow=`, `deny=`), and how such rules are read.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// Which clients may use the route (`allow=` and `deny=`). Fails closed: what cannot be understood
/// refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Access {
    /// Every client.
    #[default]
    Open,
    /// Only these networks.
    Allow(Vec<IpNet>),
    /// All but these networks.
    Deny(Vec<IpNet>),
    /// No client: the rule in the tag could not be read; the reason is reported with the tag.
    Closed,
}

impl Access {
    /// Whether a connection from `peer` may pass.
    #[must_use]
    pub fn permits(&self, peer: IpAddr) -> bool {
        // An IPv4 client on a dual-stack socket arrives as ::ffff:a.b.c.d and must meet the IPv4
        // rules.
        let peer = peer.to_canonical();
        match self {
            Self::Open => true,
            Self::Allow(nets) => nets.iter().any(|net| net.contains(&peer)),
            Self::Deny(nets) => !nets.iter().any(|net| net.contains(&peer)),
            Self::Closed => false,
        }
    }
}

/// Both kinds of rule, a repeated one, an empty one or one bad element: refused, with the reason.
/// Guessing what was meant could open what was meant to be shut.
pub(super) fn access(allow: &[&str], deny: &[&str]) -> Result<Access, String> {
    match (allow, deny) {
        ([], []) => Ok(Access::Open),
        ([rule], []) => networks("allow", rule).map(Access::Allow),
        ([], [rule]) => networks("deny", rule).map(Access::Deny),
        ([], _) | (_, []) => Err("access rule given more than once".to_owned()),
        _ => Err("both allow and deny are given, only one may be".to_owned()),
    }
}

/// Networks of a configuration, with or without `ip:` before each.
pub(super) fn plain_networks(texts: &[String]) -> Result<Vec<IpNet>, String> {
    texts
        .iter()
        .map(|text| {
            let net = network(text.strip_prefix("ip:").unwrap_or(text));
            net.ok_or_else(|| format!("`{text}` is not an address or a network"))
        })
        .collect()
}

fn networks(key: &str, rule: &str) -> Result<Vec<IpNet>, String> {
    rule.split(',')
        .map(|element| {
            let net = element.trim().strip_prefix("ip:").and_then(network);
            net.ok_or_else(|| format!("{key}: `{element}` is not ip:ADDRESS or ip:ADDRESS/BITS"))
        })
        .collect()
}

/// An address or a network. IPv4 written as IPv6 (`::ffff:10.0.0.0/104`) becomes IPv4, because
/// clients are compared in that form.
#[must_use]
pub fn network(text: &str) -> Option<IpNet> {
    let net = match text.parse::<IpAddr>() {
        Ok(addr) => IpNet::from(addr),
        Err(_) => text.parse::<IpNet>().ok()?,
    };
    if let (IpAddr::V4(addr), IpNet::V6(v6)) = (net.addr().to_canonical(), net)
        && let Some(bits) = v6.prefix_len().checked_sub(96)
    {
        return Ipv4Net::new(addr, bits).ok().map(IpNet::V4);
    }
    Some(net)
}
