//! `[[listener]]`, and what it needs of `[certificates.NAME]`.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::admin::AdminConfig;
use super::certificates::CertificateConfig;
use super::declare::{Checked, section};
use super::error::{ConfigError, Location};
use super::key::{DAY, HOUR, MINUTE};
use super::metrics::MetricsConfig;
use super::networks::Networks;
use super::ports::Ports;
use super::reader::Reader;
use super::sections::Sections;
use super::tls::{TlsLimits, TlsVersion, check_name, check_tls, limits};
use super::words::words;

section! {
    /// Where clients connect; as many as needed. Without any: one for HTTP on 0.0.0.0:9999. Short
    /// form for a flag (repeat it) or the environment (separate by commas): --listener
    /// '0.0.0.0:9443;protocol=https;certificates=main'. It replaces the file's list.
    pub struct ListenerConfig is List "listener" {
        /// Where to listen. Port 0: any free one. Required in a [[listener]].
        address: SocketAddr = "0.0.0.0:9999";

        /// http, https, grpc or grpcs (http and grpc also take HTTP/2 with prior knowledge); tcp:
        /// by port; tcp+sni: TLS passed on by its server name, not ended here; https+tcp+sni: the
        /// same for names whose routes are tcp, https for all others; tcp-dynamic: a TCP listener
        /// for each :PORT route of the catalog; prometheus: nothing but metrics.path.
        protocol: ListenerProtocol = "http";

        /// Which [certificates.NAME]: required for https, grpcs and https+tcp+sni; on tcp and
        /// tcp-dynamic, TLS is ended here with them.
        certificates: Option<String> = unset "main";

        /// Accept the PROXY protocol (v1 and v2) in front of a connection.
        proxy_protocol: bool = "false";

        /// What may send such a header: networks and addresses. It turns proxy_protocol on; a
        /// connection from elsewhere that begins with a header is closed, one without is served.
        /// Unset, with proxy_protocol: every sender may.
        proxy_protocol_from: Option<Networks> = unset "10.0.0.0/8";

        /// How long to wait for its header.
        proxy_protocol_timeout: Duration = "250ms" in (1, MINUTE);

        /// Refuse the handshake for a name without certificate, instead of showing the first one.
        strict_sni: bool = "false";

        /// Lowest TLS version taken where TLS is ended.
        tls_min: TlsVersion = "1.2";

        /// Highest TLS version taken.
        tls_max: TlsVersion = "1.3";

        /// Cipher suites taken, by their registered names. Unset: all that are served; none of them
        /// is weak.
        tls_ciphers: Vec<String> = unset "TLS_AES_256_GCM_SHA384,TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384";

        /// As proxy.header_timeout, for this listener: the limit for a request head, a ClientHello,
        /// a TLS handshake.
        header_timeout: Option<Duration> = unset "10s" in (100, HOUR);

        /// As proxy.idle_timeout for this listener, or as proxy.tcp_idle_timeout where it is one of
        /// tcp (0s: never).
        idle_timeout: Option<Duration> = unset "60s" in (0, 365 * DAY);

        /// As proxy.body_timeout, for this listener.
        body_timeout: Option<Duration> = unset "60s" in (100, DAY);

        /// As proxy.request_timeout, for this listener.
        request_timeout: Option<Duration> = unset "5m" in (0, DAY);

        /// Ports that tcp-dynamic may open, at the IP of its address (whose own port is 0).
        /// Required there: a program that may register a service opens ports with it. Ports of
        /// other listeners are never taken.
        ports: Ports = unset "10000-10999";

        /// How often tcp-dynamic looks for routes that came or went.
        refresh: Duration = "1s" in (50, HOUR);
    }
}

words! {
    /// What a listener speaks.
    pub enum ListenerProtocol {
        /// HTTP/1.1, and HTTP/2 with prior knowledge.
        Http = "http",
        /// The same over TLS, HTTP/2 by ALPN.
        Https = "https",
        /// Bytes; route by port. TLS is ended here when the listener names certificates.
        Tcp = "tcp",
        /// gRPC in clear: as `http`.
        Grpc = "grpc",
        /// gRPC over TLS: as `https`.
        Grpcs = "grpcs",
        /// TLS, passed on by its server name as it came.
        TcpSni = "tcp+sni",
        /// The same for names whose routes are TCP; all others are served as `https`.
        HttpsTcpSni = "https+tcp+sni",
        /// `tcp` on each port that a route of the catalog names.
        TcpDynamic = "tcp-dynamic",
        /// Metrics, and nothing else.
        Prometheus = "prometheus",
    }
}

impl ListenerProtocol {
    /// Whether it carries bytes and never looks for requests in them.
    #[must_use]
    pub fn is_tcp(self) -> bool {
        matches!(self, Self::Tcp | Self::TcpSni | Self::TcpDynamic)
    }

    /// Whether its clients are those of gRPC.
    #[must_use]
    pub fn is_grpc(self) -> bool {
        matches!(self, Self::Grpc | Self::Grpcs)
    }
}

impl ListenerConfig {
    /// Whether connections may begin with a PROXY header.
    #[must_use]
    pub fn takes_proxy_header(&self) -> bool {
        self.proxy_protocol || self.proxy_protocol_from.is_some()
    }

    /// What handshakes may choose.
    #[must_use]
    pub fn tls(&self) -> TlsLimits {
        limits(self.tls_min, self.tls_max, &self.tls_ciphers)
    }
}

impl Checked for ListenerConfig {
    fn check(&mut self, reader: &mut Reader<'_>) {
        check_tls(reader, self.tls_min, self.tls_max, &self.tls_ciphers);
    }
}

/// Reads the listeners; there is always one.
pub(super) fn listeners(
    sections: &mut Sections<'_>,
    certificates: &BTreeMap<String, CertificateConfig>,
    admin: &AdminConfig,
    metrics: &MetricsConfig,
) -> Vec<ListenerConfig> {
    let mut seen = HashSet::new();
    let mut dynamic = Vec::new();
    let mut listeners = sections.each(|listener: ListenerConfig, reader| {
        if !reader.has("address") {
            reader.wrong(
                "address",
                "is missing",
                "say where to listen, as in address = \"0.0.0.0:9999\"",
            );
        }
        check_certificates(reader, &listener, certificates);
        check_dynamic(reader, &listener, &dynamic);
        check_timeouts(reader, &listener);
        if listener.protocol == ListenerProtocol::Prometheus && !metrics.fabio_names {
            let advice = "set metrics.fabio_names = true; lb's own names are on the admin listener";
            reader.warn("protocol", "shows figures of the process alone", advice);
        }
        if listener.protocol == ListenerProtocol::TcpDynamic {
            dynamic.push(listener.clone());
        }
        if listener.address.port() != 0 {
            if listener.address == admin.address {
                reader.wrong(
                    "address",
                    "is the admin listener's too",
                    "change one of them (admin.address)",
                );
            }
            if Some(listener.address) == metrics.address {
                reader.wrong(
                    "address",
                    "is the metrics listener's too",
                    "change one of them (metrics.address)",
                );
            }
            if !seen.insert(listener.address) {
                reader.wrong(
                    "address",
                    "is another listener's too",
                    "remove one of them or change its port",
                );
            }
        }
        Some(listener)
    });
    if listeners.is_empty() {
        let listener = ListenerConfig::default();
        if listener.address == admin.address {
            let written = sections.settings.once.get("admin");
            sections.findings.mistakes.push(ConfigError {
                key: "admin.address".to_owned(),
                value: Some(admin.address.to_string()),
                place: written.map_or(Location::Absent, |group| group.place.clone()),
                problem: "is the default listener's too".to_owned(),
                advice: "change it, or add a [[listener]]".to_owned(),
            });
        }
        listeners.push(listener);
    }
    let used = listeners
        .iter()
        .filter_map(|listener| listener.certificates.as_ref());
    let used: HashSet<&String> = used
        .chain(&admin.certificates)
        .chain(&metrics.certificates)
        .collect();
    for (name, group) in sections
        .settings
        .named
        .get("certificates")
        .into_iter()
        .flatten()
        .filter(|(name, _)| !used.contains(name))
    {
        sections.findings.warnings.push(ConfigError {
            key: format!("certificates.{name}"),
            value: None,
            place: group.place.clone(),
            problem: "is used by no listener".to_owned(),
            advice: format!("add certificates = \"{name}\" to a [[listener]]"),
        });
    }
    listeners
}

/// What only `tcp-dynamic` has, and what it must not have. `others`: those read before.
fn check_dynamic(reader: &mut Reader<'_>, listener: &ListenerConfig, others: &[ListenerConfig]) {
    if listener.protocol != ListenerProtocol::TcpDynamic {
        for name in ["ports", "refresh"] {
            if reader.has(name) {
                reader.warn(
                    name,
                    "has no effect here",
                    "it is for protocol = \"tcp-dynamic\" alone",
                );
            }
        }
        return;
    }
    if listener.address.port() != 0 {
        let advice = format!(
            "write \"{}\": the ports are those of the routes",
            SocketAddr::new(listener.address.ip(), 0)
        );
        reader.wrong(
            "address",
            "has a port, which tcp-dynamic does not use",
            &advice,
        );
    }
    if listener.ports.is_empty() && !reader.has("ports") {
        let advice = "say which ports the catalog may open, as in ports = \"10000-10999\"";
        reader.wrong("ports", "is missing, and the protocol needs it", advice);
    }
    let shared = others
        .iter()
        .filter(|other| overlap(listener.address.ip(), other.address.ip()));
    if let Some(port) = shared
        .filter_map(|other| listener.ports.shared_with(&other.ports))
        .min()
    {
        let problem = format!("holds {port}, which another tcp-dynamic listener may open too");
        reader.wrong("ports", &problem, "give each port to one of them");
    }
}

/// Whether a port on one of the addresses is also one on the other.
#[must_use]
pub fn overlap(a: IpAddr, b: IpAddr) -> bool {
    a == b || a.is_unspecified() || b.is_unspecified()
}

fn check_timeouts(reader: &mut Reader<'_>, listener: &ListenerConfig) {
    let zero = listener.idle_timeout.is_some_and(|time| time.is_zero());
    if zero && !listener.protocol.is_tcp() {
        reader.wrong(
            "idle_timeout",
            "is zero, which only TCP listeners can have",
            "write at least \"100ms\"",
        );
    }
    for name in ["body_timeout", "request_timeout"] {
        if listener.protocol.is_tcp() && reader.has(name) {
            reader.warn(
                name,
                "has no effect on TCP",
                "idle_timeout is the limit there",
            );
        }
    }
}

fn check_certificates(
    reader: &mut Reader<'_>,
    listener: &ListenerConfig,
    known: &BTreeMap<String, CertificateConfig>,
) {
    let protocol = listener.protocol;
    let tls = matches!(
        protocol,
        ListenerProtocol::Https | ListenerProtocol::Grpcs | ListenerProtocol::HttpsTcpSni
    );
    match &listener.certificates {
        Some(name) if !known.contains_key(name) => check_name(reader, name, known),
        None if tls => {
            let advice = match known.keys().next() {
                Some(name) => format!("add certificates = {name:?} to this listener"),
                None => {
                    "add [certificates.main] with cert_file and key_file, and certificates = \"main\" here".to_owned()
                }
            };
            reader.wrong(
                "certificates",
                "is missing, and the protocol needs it",
                &advice,
            );
        }
        Some(_) if matches!(protocol, ListenerProtocol::Http | ListenerProtocol::Grpc) => {
            let advice = "set protocol = \"https\" or \"grpcs\" for TLS, or remove it";
            reader.warn("certificates", "has no effect on a plain listener", advice);
        }
        Some(_) if protocol == ListenerProtocol::TcpSni => {
            let advice = "TLS is not ended here; set protocol = \"https+tcp+sni\" to end that of other names";
            reader.warn("certificates", "has no effect on tcp+sni", advice);
        }
        _ => {}
    }
}
