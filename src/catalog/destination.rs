//! The destination of a route command: a URL reduced to protocol, endpoint and query.
//!
//! Written out rather than taken from a URL library, because a destination is less than a URL (its
//! path is never used) and more (`srv+` in front of the scheme, `$host` in a redirect).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::Endpoint;
use super::option_text::proto;
use super::options::Proto;

/// Longest DNS name in text form (RFC 1035, 2.3.4).
const NAME_BYTES_MAX: usize = 253;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Destination {
    /// As written, the scheme in lower case.
    pub(super) text: Arc<str>,
    /// Protocol named by the scheme.
    pub(super) proto: Proto,
    /// `srv+` stood in front of the scheme.
    pub(super) srv: bool,
    /// Query without its `?`.
    pub(super) query: Option<Arc<str>>,
    host: Host,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq)]
enum Host {
    /// A redirect: there is nothing to connect to.
    None,
    Ip(IpAddr),
    Name(Arc<str>),
}

impl Destination {
    /// Parses `[srv+]SCHEME://HOST[:PORT][/ignored][?QUERY]`; the error is a reason in words.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let fail = |why: &str| format!("destination `{text}`: {why}");
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| fail("no scheme: write http://HOST:PORT/"))?;
        let scheme = scheme.to_ascii_lowercase();
        let (srv, word) = scheme
            .strip_prefix("srv+")
            .map_or((false, &*scheme), |word| (true, word));
        let proto = proto(word).ok_or_else(|| {
            fail("unknown scheme: http, https, h2, h2c, grpc, grpcs, tcp, or srv+ before one of them")
        })?;
        if !rest.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(fail("holds a character that is not visible ASCII"));
        }
        let (rest, _fragment) = rest.split_once('#').unwrap_or((rest, ""));
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, _path) = place.split_once('/').unwrap_or((place, ""));
        if authority.contains('@') {
            return Err(fail(
                "user names and passwords are not sent; leave out what is before @",
            ));
        }
        let (host, port) = split_port(authority).map_err(|why| fail(&why))?;
        let host = parse_host(host).map_err(|why| fail(&why))?;
        if srv && (port.is_some() || !matches!(host, Host::Name(_))) {
            return Err(fail(
                "an SRV destination is a DNS name without port: its records hold the ports",
            ));
        }
        Ok(Self {
            text: format!("{scheme}://{}", &text[scheme.len() + 3..]).into(),
            proto,
            srv,
            query: (!query.is_empty()).then(|| query.into()),
            host,
            port,
        })
    }

    /// The destination of a redirect: a template for a response, and nothing to connect to.
    pub(super) fn redirect(url: &str) -> Self {
        Self {
            text: url.into(),
            proto: Proto::Http,
            srv: false,
            query: None,
            host: Host::None,
            port: None,
        }
    }

    /// Where to connect when `proto` is spoken: it decides the port where none is written.
    pub(super) fn endpoint(&self, proto: Proto) -> Result<Endpoint, String> {
        let port = match (self.port, proto) {
            _ if self.srv => 0,
            (Some(port), _) => port,
            (None, Proto::Tcp) if self.host != Host::None => {
                return Err(format!(
                    "destination `{}`: tcp needs a port: write tcp://HOST:PORT",
                    self.text
                ));
            }
            (None, proto) if proto.is_tls() => 443,
            (None, _) => 80,
        };
        Ok(match &self.host {
            Host::None => Endpoint::Addr(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
            Host::Ip(ip) => Endpoint::Addr(SocketAddr::new(*ip, port)),
            Host::Name(host) => Endpoint::Name {
                host: Arc::clone(host),
                port,
            },
        })
    }
}

/// `HOST`, `HOST:PORT`, `[IPv6]` or `[IPv6]:PORT`; the brackets are left on.
fn split_port(authority: &str) -> Result<(&str, Option<u16>), String> {
    let colon = authority
        .rfind(':')
        .filter(|&colon| !authority[colon..].contains(']'));
    let Some(colon) = colon else {
        return Ok((authority, None));
    };
    let (host, port) = (&authority[..colon], &authority[colon + 1..]);
    if port.is_empty() {
        return Ok((host, None));
    }
    match port.parse::<u16>() {
        Ok(number) if number > 0 && !port.starts_with('+') => Ok((host, Some(number))),
        _ => Err(format!("`{port}` is not a port from 1 to 65535")),
    }
}

fn parse_host(text: &str) -> Result<Host, String> {
    if let Some(inner) = text.strip_prefix('[') {
        let address = inner
            .strip_suffix(']')
            .and_then(|inner| inner.parse().ok())
            .map(|v6| Host::Ip(IpAddr::V6(v6)));
        return address.ok_or_else(|| format!("`{text}` is not an IPv6 address in brackets"));
    }
    if let Ok(ip) = text.parse::<Ipv4Addr>() {
        return Ok(Host::Ip(IpAddr::V4(ip)));
    }
    // Underscores are not allowed in host names, but SRV names and many internal names have them.
    let valid = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && !text.is_empty()
        && text.len() <= NAME_BYTES_MAX
        && text
            .strip_suffix('.')
            .unwrap_or(text)
            .split('.')
            .all(|label| (1..=63).contains(&label.len()));
    if !valid {
        return Err(format!("`{text}` is neither an IP address nor a DNS name"));
    }
    Ok(Host::Name(text.to_ascii_lowercase().into()))
}
