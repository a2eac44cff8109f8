//! `[certificates.NAME]` and `[[listener]]`, and what one needs of the other.

use std::collections::{BTreeMap, HashSet};

use super::build::each;
use super::keys::section;
use super::mistake::{Mistake, Place};
use super::raw::{Group, Settings};
use super::reader::Reader;
use super::*;

/// Reads the certificates.
pub(super) fn certificates(
    settings: &Settings,
    mistakes: &mut Vec<Mistake>,
    warnings: &mut Vec<Mistake>,
) -> BTreeMap<String, CertificateConfig> {
    let mut found = BTreeMap::new();
    let section = section("certificates").expect("names of sections in this crate are in the table");
    for (name, group) in settings.named.get("certificates").into_iter().flatten() {
        let mut reader = Reader::new(section, format!("certificates.{name}"), group, mistakes);
        let source = match reader.text("source").as_deref() {
            Some("path") => {
                let path = reader.path("path");
                if path.is_none() {
                    reader.wrong("path", "is missing", "name the folder that holds the pairs");
                }
                CertificateSource::Path { path: path.unwrap_or_default() }
            }
            Some("file") | None => {
                let cert_file = reader.path("cert_file");
                if cert_file.is_none() {
                    let advice = "name the PEM file of the chain, or set source = \"path\"";
                    reader.wrong("cert_file", "is missing", advice);
                }
                let cert_file = cert_file.unwrap_or_default();
                CertificateSource::File {
                    key_file: reader.path("key_file").unwrap_or_else(|| cert_file.clone()),
                    cert_file,
                }
            }
            Some(_) => {
                reader.wrong("source", "is not supported yet", "use file or path");
                CertificateSource::Path { path: PathBuf::new() }
            }
        };
        let client_ca_file = reader.path("client_ca_file");
        if reader.has("client_auth") && client_ca_file.is_none() {
            let advice = "set client_ca_file to ask for client certificates";
            warnings.push(reader.about("client_auth", "has no effect without client_ca_file", advice));
        }
        let client_auth_optional = reader.text("client_auth").as_deref() == Some("optional");
        found.insert(name.clone(), CertificateConfig { source, client_ca_file, client_auth_optional });
    }
    found
}

/// Reads the listeners; there is always one.
pub(super) fn listeners(
    settings: &Settings,
    config: &Config,
    mistakes: &mut Vec<Mistake>,
    warnings: &mut Vec<Mistake>,
) -> Vec<ListenerConfig> {
    let certificates = &config.certificates;
    let mut seen = HashSet::new();
    let mut listeners = each(settings, "listener", mistakes, |reader| {
        if !reader.has("address") {
            reader.wrong("address", "is missing", "say where to listen, as in address = \"0.0.0.0:9999\"");
        }
        let listener = listener(reader);
        check_certificates(reader, &listener, certificates, warnings);
        if listener.address.port() != 0 {
            if listener.address == config.admin.address {
                reader.wrong("address", "is the admin listener's too", "change one of them (admin.address)");
            }
            if !seen.insert(listener.address) {
                reader.wrong("address", "is another listener's too", "remove one of them or change its port");
            }
        }
        Some(listener)
    });
    if listeners.is_empty() {
        let section = section("listener").expect("names of sections in this crate are in the table");
        let absent = Group::new(Place::Absent);
        listeners.push(listener(&mut Reader::new(section, "listener.0".to_owned(), &absent, &mut Vec::new())));
        if listeners.iter().any(|listener| listener.address == config.admin.address) {
            mistakes.push(Mistake {
                key: "admin.address".to_owned(),
                value: Some(config.admin.address.to_string()),
                place: settings.once.get("admin").map_or(Place::Absent, |group| group.place.clone()),
                problem: "is the default listener's too".to_owned(),
                advice: "change it, or add a [[listener]]".to_owned(),
            });
        }
    }
    let used: HashSet<&String> = listeners.iter().filter_map(|listener| listener.certificates.as_ref()).collect();
    for (name, group) in
        settings.named.get("certificates").into_iter().flatten().filter(|(name, _)| !used.contains(name))
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
        Some("http") | None => ListenerProtocol::Http,
        Some(_) => {
            reader.wrong("protocol", "is not supported yet", "use http, https, tcp, grpc or grpcs");
            ListenerProtocol::Tcp
        }
    };
    ListenerConfig {
        address: reader.socket("address"),
        protocol,
        certificates: reader.text("certificates"),
        proxy_protocol: reader.bool("proxy_protocol"),
        proxy_protocol_timeout: reader.time("proxy_protocol_timeout"),
        strict_sni: reader.bool("strict_sni"),
    }
}

fn check_certificates(
    reader: &mut Reader<'_>,
    listener: &ListenerConfig,
    known: &BTreeMap<String, CertificateConfig>,
    warnings: &mut Vec<Mistake>,
) {
    let tls = matches!(listener.protocol, ListenerProtocol::Https | ListenerProtocol::Grpcs);
    match &listener.certificates {
        Some(name) if !known.contains_key(name) => {
            let advice = match mistake::nearest(name, known.keys().map(String::as_str)) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("add [certificates.{name}]"),
            };
            reader.wrong("certificates", "names certificates that are not configured", &advice);
        }
        None if tls => {
            let advice = match known.keys().next() {
                Some(name) => format!("add certificates = {name:?} to this listener"),
                None => {
                    "add [certificates.main] with cert_file and key_file, and certificates = \"main\" here".to_owned()
                }
            };
            reader.wrong("certificates", "is missing, and the protocol needs it", &advice);
        }
        Some(_) if matches!(listener.protocol, ListenerProtocol::Http | ListenerProtocol::Grpc) => {
            let advice = "set protocol = \"https\" or \"grpcs\" for TLS, or remove it";
            warnings.push(reader.about("certificates", "has no effect on a plain listener", advice));
        }
        _ => {}
    }
}
