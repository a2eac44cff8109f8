//! Where a registration says that its instance listens. Pure.

use std::net::{IpAddr, SocketAddr};

use crate::catalog::Endpoint;

/// Longest DNS name (RFC 1035 section 2.3.4).
const NAME_MAX: usize = 253;

/// The port, if one can be dialled.
pub(super) fn port(registered: i64) -> Result<u16, String> {
    match u16::try_from(registered) {
        Ok(0) => Err("port 0: registered without a port".to_owned()),
        Ok(port) => Ok(port),
        Err(_) => Err(format!("port {registered}: outside 1 to 65535")),
    }
}

/// The place, if it can be dialled.
pub(super) fn of(host: &str, port: u16) -> Result<Endpoint, String> {
    if host.is_empty() {
        return Err("no address, and its node has none either".to_owned());
    }
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => Err(format!(
            "address {ip}: means every address, none can be dialled"
        )),
        Ok(ip) => Ok(Endpoint::Addr(SocketAddr::new(ip, port))),
        Err(_) if is_dns_name(host) => Ok(Endpoint::Name {
            host: host.to_ascii_lowercase().into(),
            port,
        }),
        Err(_) => Err(format!(
            "address `{}`: neither an IP address nor a DNS name",
            host.escape_debug()
        )),
    }
}

/// Loose on purpose (underscores are common in service names); strict enough to keep text out of
/// resolver and log.
pub(super) fn is_dns_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.len() <= NAME_MAX
        // All digits and dots is a mistyped IPv4 address.
        && host.bytes().any(|byte| !byte.is_ascii_digit() && byte != b'.')
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        })
}
