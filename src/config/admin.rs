//! `[admin]`.

use std::collections::BTreeMap;

use super::listeners::{check_name, tls_limits};
use super::reader::Reader;
use super::*;

pub(super) fn admin(
    reader: &mut Reader<'_>,
    known: &BTreeMap<String, CertificateConfig>,
) -> AdminConfig {
    let certificates = reader.text("certificates");
    if let Some(name) = &certificates {
        check_name(reader, name, known);
        if matches!(
            known.get(name).map(|it| &it.source),
            Some(CertificateSource::VaultPki { .. })
        ) {
            let advice = "name a source that has its certificates from the start";
            reader.wrong(
                "certificates",
                "names certificates that are made on demand",
                advice,
            );
        }
    }
    AdminConfig {
        address: reader.socket("address"),
        certificates,
        strict_sni: reader.bool("strict_sni"),
        tls: tls_limits(reader),
        writable: reader.bool("writable"),
        hosts: hosts(reader),
        path: path(reader),
        home: match reader.text("home").as_deref() {
            Some("routes") => AdminHome::Routes,
            _ => AdminHome::Overview,
        },
        title: reader.text_or_empty("title"),
        color: reader.text("color"),
        links: SourceLinks {
            enabled: reader.bool("link_sources"),
            new_tab: reader.bool("link_new_tab"),
            scheme: reader.text_or_empty("link_scheme"),
            host: host(reader),
            port: reader.has("link_port").then(|| reader.count("link_port")),
        },
    }
}

/// What only the configuration as a whole can tell.
pub(super) fn check(reader: &mut Reader<'_>, config: &Config, warnings: &mut Vec<Mistake>) {
    let has_store = config
        .consul
        .as_ref()
        .is_some_and(|consul| consul.kv_path.is_some());
    if config.admin.writable && !has_store {
        let advice =
            "say where the KV store holds route commands, as in consul.kv_path = \"fabio/config\"";
        warnings.push(reader.about("writable", "has no effect without consul.kv_path", advice));
    }
}

/// What paths begin with. It stands in links and in `Location`, so nothing in it may need an
/// escape.
fn path(reader: &mut Reader<'_>) -> String {
    let path = reader.text_or_empty("path");
    let path = path.trim_end_matches('/');
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
    path.to_owned()
}

/// Whether it is a name or an address as in a URL, and nothing more.
#[must_use]
pub fn is_host(text: &str) -> bool {
    text.parse::<http::uri::Authority>()
        .is_ok_and(|authority| authority.host() == text)
}

/// Names, without scheme and port: what stands in Host before its colon.
fn hosts(reader: &mut Reader<'_>) -> Vec<String> {
    let hosts = reader.list("hosts");
    for host in &hosts {
        if !is_host(host) {
            let advice =
                format!("`{host}`: write names like \"lb.example.com\", without scheme and port");
            reader.wrong("hosts", "is not a list of hosts", &advice);
        }
    }
    hosts
}

fn host(reader: &mut Reader<'_>) -> Option<String> {
    let host = reader.text("link_host")?;
    if !is_host(&host) {
        reader.wrong(
            "link_host",
            "is not a host",
            "write a name or an address, without scheme and port",
        );
    }
    Some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(text: &str) -> Result<Loaded, Mistakes> {
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
            found("link_host = \"[::1]\"\nlink_port = 81").links.port,
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
