//! Whether a request was meant for this listener: the names by which it may be reached.
//!
//! A page of a stranger's site can let its name point to this machine (DNS rebinding), and then a
//! browser takes what stands here for that site's own. What such a browser cannot do is to send
//! another Host than that name. So a Host has to be an address, `localhost`, the machine's name, or
//! a name that is configured (`admin.hosts`); over TLS also the name that the handshake was made
//! for, because there the browser has checked the certificate.
//!
//! `/health` and `/ready` reveal nothing, and `/metrics` little, so health checkers and scrapers
//! may use any name; but not what says of itself that it is a page of another site.

use std::net::{IpAddr, Ipv6Addr};

use http::header::{HOST, ORIGIN};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, StatusCode, Version};

use super::route_path::AdminPath;

/// Names of this machine, and those that are configured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a> {
    /// `admin.hosts`.
    pub(super) configured: &'a [String],
    /// What the machine is called.
    pub(super) machine: &'a str,
    /// The name that the TLS handshake was made for.
    pub(super) handshake: Option<&'a str>,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) why: String,
}

/// Which requests a place accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Openness {
    /// All, whatever their Host.
    Any,
    /// Whatever their Host, except from a page of another site.
    AnyButPages,
    /// Those whose Host is a known name.
    Named,
}

fn openness(place: AdminPath<'_>, is_metrics: bool) -> Openness {
    match place {
        AdminPath::Health | AdminPath::Ready => Openness::Any,
        AdminPath::Metrics => Openness::AnyButPages,
        _ if is_metrics => Openness::AnyButPages,
        _ => Openness::Named,
    }
}

/// Whether the request may be served. `is_metrics`: metrics stand there under another path than
/// usual.
pub(super) fn check(
    head: &Parts,
    place: AdminPath<'_>,
    is_metrics: bool,
    names: Names<'_>,
) -> Result<(), Refusal> {
    match openness(place, is_metrics) {
        Openness::Any => return Ok(()),
        Openness::AnyButPages if !is_of_page(&head.headers) => return Ok(()),
        Openness::AnyButPages | Openness::Named => {}
    }
    let hosts = hosts(head)?;
    match hosts.iter().find(|host| !is_known(host, names)) {
        None => Ok(()),
        Some(host) => Err(Refusal {
            status: StatusCode::MISDIRECTED_REQUEST,
            why: format!(
                "host `{}` is not one of this listener: ask by IP address, localhost, or the machine's name ({}), or \
                 add the name to admin.hosts",
                crate::journal::bounded(host, 100),
                if names.machine.is_empty() {
                    "unknown"
                } else {
                    names.machine
                }
            ),
        }),
    }
}

/// Whether a browser sends this for a page. Programs send none of these fields.
fn is_of_page(headers: &HeaderMap) -> bool {
    headers.contains_key(ORIGIN)
        || headers
            .get("sec-fetch-site")
            .is_some_and(|site| site.as_bytes() != b"none")
}

/// Every host that the request names: in its target, and in Host. Programs of old name none.
fn hosts(head: &Parts) -> Result<Vec<String>, Refusal> {
    let refused = |why: &str| Refusal {
        status: StatusCode::BAD_REQUEST,
        why: why.to_owned(),
    };
    let mut fields = head.headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(refused("the request has more than one Host field"));
    }
    if field.is_none() && head.version >= Version::HTTP_11 {
        return Err(refused("the request has no Host field"));
    }
    let text = |field: &http::HeaderValue| {
        field
            .to_str()
            .map(str::to_owned)
            .map_err(|_| refused("the Host field is not text"))
    };
    let mut authorities: Vec<String> = head
        .uri
        .authority()
        .map(Authority::to_string)
        .into_iter()
        .collect();
    authorities.extend(field.map(text).transpose()?);
    authorities
        .iter()
        .map(|authority| {
            host_of(authority)
                .ok_or_else(|| refused("the Host field does not hold a host name or address"))
        })
        .collect()
}

/// The host of `HOST[:PORT]`, without its brackets, in lower case; none for what is neither.
fn host_of(authority: &str) -> Option<String> {
    // An address of version 6 as it should not be written, and is.
    if authority.parse::<Ipv6Addr>().is_ok() {
        return Some(authority.to_owned());
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            // The zone (RFC 6874) names the interface, and says nothing about the server.
            let host = host.split('%').next().unwrap_or(host);
            host.parse::<Ipv6Addr>().ok()?;
            (host, port.strip_prefix(':').unwrap_or(port))
        }
        None => authority.split_once(':').unwrap_or((authority, "")),
    };
    let good =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) || !byte.is_ascii();
    let sound = !host.is_empty()
        && host.bytes().all(good)
        && port.bytes().all(|byte| byte.is_ascii_digit());
    sound.then(|| host.to_ascii_lowercase())
}

fn is_known(host: &str, names: Names<'_>) -> bool {
    let bare = |name: &str| name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let host = bare(host);
    if host.parse::<IpAddr>().is_ok() || host == "localhost" {
        return true;
    }
    let machine = bare(names.machine);
    // Its own name, long and short.
    let of_machine =
        !machine.is_empty() && (host == machine || Some(&*host) == machine.split('.').next());
    let of_handshake = names.handshake.is_some_and(|name| bare(name) == host);
    of_machine || of_handshake || names.configured.iter().any(|name| bare(name) == host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(version: Version, uri: &str, fields: &[(&str, &str)], place: AdminPath<'_>) -> u16 {
        let mut request = http::Request::builder().version(version).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let configured = ["lb.example".to_owned(), "LB.Service.Consul.".to_owned()];
        let names = Names {
            configured: &configured,
            machine: "node-7.dc1.example",
            handshake: Some("admin.example"),
        };
        check(&head, place, false, names).map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
    }

    fn host(host: &str) -> u16 {
        checked(
            Version::HTTP_11,
            "/api/routes",
            &[("host", host)],
            AdminPath::RouteList,
        )
    }

    #[test]
    fn addresses_and_known_names_are_hosts() {
        for good in [
            "127.0.0.1",
            "127.0.0.1:9998",
            "10.0.0.7:80",
            "[::1]",
            "[::1]:9998",
            "[fe80::1%25eth0]:9998",
            "::1",
            "localhost",
            "LocalHost:9998",
            "localhost.",
            "localhost.:9998",
            "node-7.dc1.example",
            "NODE-7.dc1.example:1",
            "node-7",
            "node-7.",
            "lb.example",
            "lb.example.:9998",
            "lb.service.consul:9998",
            "admin.example",
        ] {
            assert_eq!(host(good), 200, "{good}");
        }
        for bad in [
            "evil.example",
            "evil.example:9998",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "node-7.evil.example",
            "xlb.example",
            "evil.localhost",
            "0x7f000001",
            "2130706433",
            "node-8.dc1.example",
            "127.0.0.1..",
        ] {
            assert_eq!(host(bad), 421, "{bad}");
        }
        for malformed in [
            "",
            ":9998",
            "127.0.0.1:x",
            "a@127.0.0.1",
            "127.0.0.1/evil",
            "[::1",
            "[evil]",
            "a b",
            "[::1]x",
        ] {
            assert_eq!(host(malformed), 400, "{malformed}");
        }
    }

    #[test]
    fn every_host_that_is_named_counts() {
        let absolute = |uri: &str, host: &str| {
            checked(Version::HTTP_11, uri, &[("host", host)], AdminPath::Config)
        };
        assert_eq!(
            absolute("http://127.0.0.1:9998/api/config", "localhost"),
            200
        );
        assert_eq!(
            absolute("http://evil.example:9998/api/config", "localhost"),
            421
        );
        assert_eq!(
            absolute("http://127.0.0.1:9998/api/config", "evil.example"),
            421
        );
        let two = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(
            checked(Version::HTTP_11, "/", &two, AdminPath::Overview),
            400
        );
        assert_eq!(
            checked(Version::HTTP_11, "/", &[], AdminPath::Overview),
            400
        );
        assert_eq!(
            checked(Version::HTTP_10, "/", &[], AdminPath::Overview),
            200
        );
        assert_eq!(
            checked(
                Version::HTTP_10,
                "/",
                &[("host", "evil.example")],
                AdminPath::Overview
            ),
            421
        );
    }

    #[test]
    fn health_checkers_and_scrapers_may_use_any_name() {
        let asked = |place, fields: &[(&str, &str)]| checked(Version::HTTP_11, "/x", fields, place);
        let name = ("host", "lb.elsewhere.example:9998");
        for place in [AdminPath::Health, AdminPath::Ready, AdminPath::Metrics] {
            assert_eq!(asked(place, &[name]), 200, "{place:?}");
        }
        for of_page in [
            ("origin", "http://lb.elsewhere.example:9998"),
            ("sec-fetch-site", "cross-site"),
        ] {
            assert_eq!(
                asked(AdminPath::Metrics, &[name, of_page]),
                421,
                "{of_page:?}"
            );
            assert_eq!(
                asked(AdminPath::Metrics, &[("host", "127.0.0.1"), of_page]),
                200,
                "{of_page:?}"
            );
            assert_eq!(
                asked(AdminPath::Health, &[name, of_page]),
                200,
                "{of_page:?}"
            );
        }
        assert_eq!(
            asked(AdminPath::Metrics, &[name, ("sec-fetch-site", "none")]),
            200
        );
        for place in [
            AdminPath::Overview,
            AdminPath::Routes,
            AdminPath::RouteList,
            AdminPath::ServiceList,
            AdminPath::Config,
            AdminPath::Version,
            AdminPath::Explain,
            AdminPath::Events,
            AdminPath::SourceList,
            AdminPath::Override(""),
            AdminPath::Overrides(""),
            AdminPath::OverridePaths,
            AdminPath::Moved("/routes"),
            AdminPath::Nothing,
        ] {
            assert_eq!(asked(place, &[name]), 421, "{place:?}");
        }
    }
}
