//! `[[listener]]`, and what it needs of `[certificates.NAME]`.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use super::keys::{TLS_CIPHERS, section};
use super::mistake::{Mistake, Place};
use super::raw::{Group, Settings};
use super::reader::{Reader, each};
use super::*;

/// Reads the listeners; there is always one.
pub(super) fn listeners(
    settings: &Settings,
    config: &Config,
    mistakes: &mut Vec<Mistake>,
    warnings: &mut Vec<Mistake>,
) -> Vec<ListenerConfig> {
    let certificates = &config.certificates;
    let mut seen = HashSet::new();
    let mut dynamic = Vec::new();
    let mut listeners = each(settings, "listener", mistakes, |reader| {
        if !reader.has("address") {
            reader.wrong(
                "address",
                "is missing",
                "say where to listen, as in address = \"0.0.0.0:9999\"",
            );
        }
        let listener = listener(reader);
        check_certificates(reader, &listener, certificates, warnings);
        check_dynamic(reader, &listener, &dynamic, warnings);
        check_timeouts(reader, &listener, warnings);
        if listener.protocol == ListenerProtocol::Prometheus && !config.metrics.fabio_names {
            let advice = "set metrics.fabio_names = true; lb's own names are on the admin listener";
            warnings.push(reader.about("protocol", "shows figures of the process alone", advice));
        }
        if listener.protocol == ListenerProtocol::TcpDynamic {
            dynamic.push(listener.clone());
        }
        if listener.address.port() != 0 {
            if listener.address == config.admin.address {
                reader.wrong(
                    "address",
                    "is the admin listener's too",
                    "change one of them (admin.address)",
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
        let section =
            section("listener").expect("names of sections in this crate are in the table");
        let absent = Group::new(Place::Absent);
        listeners.push(listener(&mut Reader::new(
            section,
            "listener.0".to_owned(),
            &absent,
            &mut Vec::new(),
        )));
        if listeners
            .iter()
            .any(|listener| listener.address == config.admin.address)
        {
            mistakes.push(Mistake {
                key: "admin.address".to_owned(),
                value: Some(config.admin.address.to_string()),
                place: settings
                    .once
                    .get("admin")
                    .map_or(Place::Absent, |group| group.place.clone()),
                problem: "is the default listener's too".to_owned(),
                advice: "change it, or add a [[listener]]".to_owned(),
            });
        }
    }
    let used = listeners
        .iter()
        .filter_map(|listener| listener.certificates.as_ref());
    let used: HashSet<&String> = used.chain(config.admin.certificates.as_ref()).collect();
    for (name, group) in settings
        .named
        .get("certificates")
        .into_iter()
        .flatten()
        .filter(|(name, _)| !used.contains(name))
    {
        warnings.push(Mistake {
            key: format!("certificates.{name}"),
            value: None,
            place: group.place.clone(),
            problem: "is used by no listener".to_owned(),
            advice: format!("add certificates = \"{name}\" to a [[listener]]"),
        });
    }
    listeners
}

fn listener(reader: &mut Reader<'_>) -> ListenerConfig {
    let protocol = match reader.text("protocol").as_deref() {
        Some("https") => ListenerProtocol::Https,
        Some("tcp") => ListenerProtocol::Tcp,
        Some("grpc") => ListenerProtocol::Grpc,
        Some("grpcs") => ListenerProtocol::Grpcs,
        Some("tcp+sni") => ListenerProtocol::TcpSni,
        Some("https+tcp+sni") => ListenerProtocol::HttpsTcpSni,
        Some("tcp-dynamic") => ListenerProtocol::TcpDynamic,
        Some("prometheus") => ListenerProtocol::Prometheus,
        // The kind of the key lets nothing else through.
        _ => ListenerProtocol::Http,
    };
    ListenerConfig {
        address: reader.socket("address"),
        protocol,
        certificates: reader.text("certificates"),
        proxy_protocol: reader.bool("proxy_protocol"),
        proxy_protocol_timeout: reader.time("proxy_protocol_timeout"),
        strict_sni: reader.bool("strict_sni"),
        tls: tls_limits(reader),
        header_timeout: reader.time_if_set("header_timeout"),
        idle_timeout: reader.time_if_set("idle_timeout"),
        body_timeout: reader.time_if_set("body_timeout"),
        request_timeout: reader.time_if_set("request_timeout"),
        ports: reader.ports("ports"),
        refresh: reader.time("refresh"),
    }
}

pub(super) fn tls_limits(reader: &mut Reader<'_>) -> TlsLimits {
    let mut version = |name: &str| match reader.text(name).as_deref() {
        Some("1.2") => TlsVersion::V1_2,
        _ => TlsVersion::V1_3,
    };
    let (min, max) = (version("tls_min"), version("tls_max"));
    if max < min {
        reader.wrong("tls_max", "is below tls_min", "raise it, or lower tls_min");
    }
    let mut ciphers = Vec::new();
    for name in reader.list("tls_ciphers") {
        match TLS_CIPHERS.iter().find(|(known, _)| *known == name) {
            Some((_, number)) => ciphers.push(*number),
            None => {
                let advice = format!(
                    "choose among {}",
                    TLS_CIPHERS.map(|(known, _)| known).join(", ")
                );
                reader.wrong(
                    "tls_ciphers",
                    &format!("names {name:?}, which is not served"),
                    &advice,
                );
            }
        }
    }
    // A suite belongs to one version: those of 1.3 begin with the byte 0x13.
    let serves = |version| {
        ciphers
            .iter()
            .any(|number: &u16| (number >> 8 == 0x13) == (version == TlsVersion::V1_3))
    };
    for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
        if !ciphers.is_empty() && (min..=max).contains(&version) && !serves(version) {
            let problem = format!("holds no suite for TLS {}", version.as_str());
            reader.wrong(
                "tls_ciphers",
                &problem,
                "add one, or leave that version out (tls_min, tls_max)",
            );
        }
    }
    TlsLimits {
        min,
        max,
        ciphers: ciphers.into(),
    }
}

impl TlsVersion {
    /// Its name in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        }
    }
}

/// What only `tcp-dynamic` has, and what it must not have. `others`: those read before.
fn check_dynamic(
    reader: &mut Reader<'_>,
    listener: &ListenerConfig,
    others: &[ListenerConfig],
    warnings: &mut Vec<Mistake>,
) {
    if listener.protocol != ListenerProtocol::TcpDynamic {
        for name in ["ports", "refresh"] {
            if reader.has(name) {
                warnings.push(reader.about(
                    name,
                    "has no effect here",
                    "it is for protocol = \"tcp-dynamic\" alone",
                ));
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

fn check_timeouts(reader: &mut Reader<'_>, listener: &ListenerConfig, warnings: &mut Vec<Mistake>) {
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
            warnings.push(reader.about(
                name,
                "has no effect on TCP",
                "idle_timeout is the limit there",
            ));
        }
    }
}

/// Whether there are such certificates.
pub(super) fn check_name(
    reader: &mut Reader<'_>,
    name: &str,
    known: &BTreeMap<String, CertificateConfig>,
) {
    if !known.contains_key(name) {
        let advice = match mistake::nearest(name, known.keys().map(String::as_str)) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("add [certificates.{name}]"),
        };
        reader.wrong(
            "certificates",
            "names certificates that are not configured",
            &advice,
        );
    }
}

fn check_certificates(
    reader: &mut Reader<'_>,
    listener: &ListenerConfig,
    known: &BTreeMap<String, CertificateConfig>,
    warnings: &mut Vec<Mistake>,
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
            warnings.push(reader.about(
                "certificates",
                "has no effect on a plain listener",
                advice,
            ));
        }
        Some(_) if protocol == ListenerProtocol::TcpSni => {
            let advice = "TLS is not ended here; set protocol = \"https+tcp+sni\" to end that of other names";
            warnings.push(reader.about("certificates", "has no effect on tcp+sni", advice));
        }
        _ => {}
    }
}
