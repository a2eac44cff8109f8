//! `[admin]`: the admin listener.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::certificates::CertificateConfig;
use super::declare::{Checked, section};
use super::reader::Reader;
use super::tls::{TlsLimits, TlsVersion, check_shown, check_tls, limits};
use super::words::words;
section! {
    /// The admin listener: web pages, health, metrics, API. It changes nothing, unless writable is
    /// true.
    pub struct AdminConfig is Once "admin" {
        /// Where it listens. Every client that can reach it can read the routing table.
        address: SocketAddr = "127.0.0.1:9998" [restart];

        /// Which [certificates.NAME] it shows, and whether it requests client certificates. Unset:
        /// plain HTTP.
        certificates: Option<String> = unset "main";

        /// Refuse the handshake for a name without certificate.
        strict_sni: bool = "false";

        /// Lowest TLS version taken.
        tls_min: TlsVersion = "1.2";

        /// Highest TLS version taken.
        tls_max: TlsVersion = "1.3";

        /// Cipher suites taken, as those of a listener.
        tls_ciphers: Vec<String> = unset "TLS_AES_256_GCM_SHA384";

        /// Whether /api/manual and the page /manual show and change the route commands of
        /// consul.kv_path. Every client that reaches the listener may then send all traffic
        /// elsewhere. The token needs key_prefix write.
        writable: bool = "false";

        /// Names under which it may be reached (Host), beside IP addresses, localhost and the
        /// machine's name: other names get 421, because a page of a stranger's site could let its
        /// name point here. /health, /ready and /metrics have no such check.
        hosts: Vec<String> = unset "lb.example.com";

        /// What its paths begin with. /health, /ready and /metrics stay at the root as well.
        path: String = unset "/lb";

        /// The page at its root. With routes, every unknown path leads there.
        home: AdminHome = "overview";

        /// Shown on its pages, to tell one lb from another.
        title: String = unset "east";

        /// Colour at the top of its pages, for the same purpose.
        color: Option<String> = unset "light-green" among ADMIN_COLORS;

        /// Whether places of routes are links on the page /routes.
        link_sources: bool = "false";

        /// Whether these open a new tab.
        link_new_tab: bool = "true";

        /// Their scheme.
        link_scheme: String = "http" among LINK_SCHEMES;

        /// Host of those of routes that have none. Unset: the one in the request for the page.
        link_host: Option<String> = unset "www.example.com";

        /// Port of those. Unset: the scheme's.
        link_port: Option<u16> = unset "8080" in (1, 65535);
    }
}

words! {
    /// A page of the admin listener.
    pub enum AdminHome {
        /// Services, their instances, and routes.
        Overview = "overview",
        /// The routing table, as Fabio shows it.
        Routes = "routes",
    }
}

const LINK_SCHEMES: &[&str] = &["http", "https"];

/// Colours of the admin pages: those of Material Design, whose names Fabio takes.
pub const ADMIN_COLORS: &[&str] = &[
    "red",
    "pink",
    "purple",
    "deep-purple",
    "indigo",
    "blue",
    "light-blue",
    "cyan",
    "teal",
    "green",
    "light-green",
    "lime",
    "yellow",
    "amber",
    "orange",
    "deep-orange",
    "brown",
    "grey",
    "blue-grey",
    "black",
    "white",
];

/// How the places of routes become links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLinks {
    /// Whether they do (`link_sources`).
    pub enabled: bool,
    /// They open a new tab (`link_new_tab`).
    pub new_tab: bool,
    /// `http` or `https` (`link_scheme`).
    pub scheme: String,
    /// Host for routes that have none; else the one of the request for the page (`link_host`).
    pub host: Option<String>,
    /// Port for those (`link_port`).
    pub port: Option<u16>,
}

impl AdminConfig {
    /// How the places of routes become links.
    #[must_use]
    pub fn links(&self) -> SourceLinks {
        SourceLinks {
            enabled: self.link_sources,
            new_tab: self.link_new_tab,
            scheme: self.link_scheme.clone(),
            host: self.link_host.clone(),
            port: self.link_port,
        }
    }

    /// What handshakes may choose.
    #[must_use]
    pub fn tls(&self) -> TlsLimits {
        limits(self.tls_min, self.tls_max, &self.tls_ciphers)
    }
}

impl Checked for AdminConfig {
    fn check(&mut self, reader: &mut Reader<'_>) {
        check_tls(reader, self.tls_min, self.tls_max, &self.tls_ciphers);
        check_hosts(reader, &self.hosts);
        check_path(reader, &mut self.path);
        if self.link_host.as_deref().is_some_and(|host| !is_host(host)) {
            reader.wrong(
                "link_host",
                "is not a host",
                "write a name or an address, without scheme and port",
            );
        }
    }
}

/// What only the configuration as a whole can tell.
pub(super) fn check(
    reader: &mut Reader<'_>,
    admin: &AdminConfig,
    known: &BTreeMap<String, CertificateConfig>,
    has_store: bool,
) {
    check_shown(reader, admin.certificates.as_ref(), known);
    if admin.writable && !has_store {
        let advice =
            "say where the KV store holds route commands, as in consul.kv_path = \"fabio/config\"";
        reader.warn("writable", "has no effect without consul.kv_path", advice);
    }
}

/// What paths begin with. It stands in links and in `Location`, so nothing in it may need an
/// escape.
fn check_path(reader: &mut Reader<'_>, path: &mut String) {
    path.truncate(path.trim_end_matches('/').len());
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-._~".contains(c);
    let advice = "write it as in \"/lb\": letters, digits, and the signs - . _ ~ between slashes";
    if !(path.is_empty() || path.starts_with('/') && path.chars().all(plain)) {
        reader.wrong("path", "is not the begin of a path", advice);
    } else if path
        .split('/')
        .skip(1)
        .any(|segment| matches!(segment, "" | "." | ".."))
    {
        reader.wrong("path", "has a segment that browsers take out", advice);
    }
}

/// Whether it is a name or an address as in a URL, and nothing more.
#[must_use]
pub fn is_host(text: &str) -> bool {
    text.parse::<http::uri::Authority>()
        .is_ok_and(|authority| authority.host() == text)
}

/// Names, without scheme and port: what stands in Host before its colon.
fn check_hosts(reader: &mut Reader<'_>, hosts: &[String]) {
    for host in hosts.iter().filter(|host| !is_host(host)) {
        let advice =
            format!("`{host}`: write names like \"lb.example.com\", without scheme and port");
        reader.wrong("hosts", "is not a list of hosts", &advice);
    }
}

#[cfg(test)]
mod tests {
    use super::super::*;

    fn loaded(text: &str) -> Result<Loaded, ConfigErrors> {
        let file = Some(("lb.toml".into(), format!("[admin]\n{text}")));
        load(&Inputs {
            file,
            ..Inputs::default()
        })
    }

    fn mistakes(text: &str) -> String {
        loaded(text).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn paths_and_hosts() {
        let found = |text: &str| loaded(text).unwrap().config.admin;
        assert_eq!(found("path = \"/a/b-c/\"").path, "/a/b-c");
        assert_eq!(found("path = \"/\"").path, "");
        assert_eq!(
            found("link_host = \"[::1]\"\nlink_port = 81").link_port,
            Some(81)
        );
        for wrong in [
            "path = \"lb\"",
            "path = \"/a b\"",
            "path = \"/a//b\"",
            "path = \"/a/..\"",
            "path = \"/\\\"\"",
        ] {
            assert!(mistakes(wrong).contains("admin.path"), "{wrong}");
        }
        assert_eq!(
            found("hosts = [\"lb.example.com\", \"lb.service.consul\"]").hosts,
            ["lb.example.com", "lb.service.consul"]
        );
        for wrong in ["http://x", "x:80", "a b", "x/y", "u@x"] {
            assert!(
                mistakes(&format!("hosts = [\"good\", \"{wrong}\"]")).contains("admin.hosts"),
                "{wrong}"
            );
            assert!(
                mistakes(&format!("link_host = \"{wrong}\"")).contains("admin.link_host"),
                "{wrong}"
            );
        }
    }
}
