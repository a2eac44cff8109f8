//! The keys of a `[certificates.NAME]` with `source = "acme"`, and what they have to do with each
//! other.

use std::path::PathBuf;
use std::time::Duration;

use super::acme::{AcmeChallenge, AcmeConfig, AcmeStore, AcmeStoreKind};
use super::certificates::CertificateConfig;
use super::error::Location;
use super::raw::RawValue;
use super::reader::Reader;
use super::url::parse_url;

/// Let's Encrypt, for tries.
const STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";
/// `kv_path` where it is not set.
const KV_PATH: &str = "lb/acme";
/// `renew_before` where it is not set: 30 days, a third of the life of a certificate of 90 days.
const RENEW_BEFORE: Duration = Duration::from_secs(720 * 3600);
/// Longest DNS name.
const NAME_MAX: usize = 253;

impl CertificateConfig {
    /// The source that the keys say, which are settled on the way.
    pub(super) fn read_acme(&mut self, reader: &mut Reader<'_>) -> AcmeConfig {
        read(self, reader)
    }
}

fn read(config: &mut CertificateConfig, reader: &mut Reader<'_>) -> AcmeConfig {
    if config.directory == "staging" {
        STAGING.clone_into(&mut config.directory);
    }
    if parse_url(&config.directory).is_none() {
        let advice = "write it like https://acme.example.com/directory, or write staging";
        reader.wrong("directory", "is not a URL", advice);
    }
    if config.email.as_deref().is_some_and(|it| !is_email(it)) {
        let advice = "write one address, like ops@example.com";
        reader.wrong("email", "is not an address of electronic mail", advice);
    }
    if !reader.has("renew_before") {
        config.renew_before = Some(RENEW_BEFORE);
    }
    AcmeConfig {
        directory: config.directory.clone(),
        email: config.email.clone(),
        names: names(config, reader),
        challenge: config.challenge,
        dns_hook: dns_hook(config, reader),
        store: store(config, reader),
        passphrase_file: config.key_passphrase_file.clone(),
        ca_file: config.ca_file.clone(),
        renew_before: config.renew_before.unwrap_or(RENEW_BEFORE),
        external_account: external_account(config, reader),
    }
}

fn names(config: &mut CertificateConfig, reader: &mut Reader<'_>) -> Vec<String> {
    let names = config.names.get_or_insert_default();
    if names.is_empty() {
        let advice = "write which hosts of routes get a certificate, like [\"*.example.com\"]";
        let problem = if reader.has("names") {
            "is empty"
        } else {
            "is missing"
        };
        reader.wrong("names", problem, advice);
    }
    for name in names.iter_mut() {
        *name = name.trim().trim_end_matches('.').to_ascii_lowercase();
    }
    if let Some(wrong) = names.iter().find(|name| !is_pattern(name)) {
        let problem = format!("holds `{wrong}`, which is not the name of a host");
        let advice = "write names like shop.example.com; `*` stands for one whole label";
        reader.wrong("names", &problem, advice);
    }
    names.clone()
}

/// Labels of letters, digits, `-` and `_`, or `*` alone.
fn is_pattern(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let is_label =
        |label: &str| label == "*" || (1..=63).contains(&label.len()) && label.chars().all(fits);
    name.len() <= NAME_MAX && name.split('.').all(is_label)
}

/// It becomes part of a `mailto:` URL.
fn is_email(text: &str) -> bool {
    let odd = |c: char| c.is_control() || c.is_whitespace() || matches!(c, ',' | '?' | '&' | ':');
    text.split_once('@')
        .is_some_and(|(user, host)| !user.is_empty() && !host.is_empty() && !host.contains('@'))
        && !text.contains(odd)
}

fn dns_hook(config: &mut CertificateConfig, reader: &mut Reader<'_>) -> Option<PathBuf> {
    const ADVICE: &str = "write dns = { exec = \"/etc/lb/dns-hook\" }";
    let written = config.dns.as_mut();
    let Some(written) = written.filter(|_| reader.has("dns")) else {
        if config.challenge == AcmeChallenge::Dns01 {
            reader.wrong("dns", "is missing", ADVICE);
        }
        return None;
    };
    let place = std::mem::replace(&mut written.place, Location::Absent);
    let RawValue::Table(keys) = &written.value else {
        reader.wrong("dns", "is not a table", ADVICE);
        return None;
    };
    if let Some(other) = keys.keys().find(|key| *key != "exec") {
        let problem = match other.as_str() {
            "rfc2136" | "key_file" => format!("holds {other}: this lb does not send DNS updates"),
            _ => format!("holds {other}, which is not a key of it"),
        };
        reader.wrong("dns", &problem, ADVICE);
        return None;
    }
    let Some(RawValue::Text(exec)) = keys.get("exec").map(|placed| &placed.value) else {
        reader.wrong("dns", "lacks exec", ADVICE);
        return None;
    };
    if config.challenge != AcmeChallenge::Dns01 {
        let advice = "set challenge = \"dns-01\", or remove it";
        reader.warn("dns", "has no effect with another challenge", advice);
    }
    // A path like that of other keys: relative to the file's folder.
    let folder = match &place {
        Location::File(file, _) => file.parent().map(PathBuf::from).unwrap_or_default(),
        _ => PathBuf::new(),
    };
    Some(folder.join(exec))
}

fn store(config: &mut CertificateConfig, reader: &mut Reader<'_>) -> AcmeStore {
    let unused = |reader: &mut Reader<'_>, key: &str, store: &str| {
        if reader.has(key) {
            let problem = format!("has no effect with store = \"{store}\"");
            reader.warn(key, &problem, "remove it");
        }
    };
    match config.store {
        AcmeStoreKind::Folder => {
            unused(reader, "kv_path", "folder");
            if config.folder.is_none() {
                let advice = "name a folder that lb may write to, like /var/lib/lb/acme";
                reader.wrong("folder", "is missing", advice);
            }
            config.kv_path = None;
            AcmeStore::Folder(config.folder.clone().unwrap_or_default())
        }
        AcmeStoreKind::Consul => {
            unused(reader, "folder", "consul");
            let path = config.kv_path.get_or_insert_with(|| KV_PATH.to_owned());
            *path = path.trim_matches('/').to_owned();
            if path.is_empty() {
                reader.wrong("kv_path", "names no key", "write it like \"lb/acme\"");
            }
            if !reader.context.has_consul {
                let advice = "add [consul], or set store = \"folder\"";
                reader.wrong("store", "needs [consul], which is left out", advice);
            }
            if config.key_passphrase_file.is_none() {
                let advice = "name a file with a passphrase: private keys are never kept in \
                              Consul without";
                reader.wrong("key_passphrase_file", "is missing", advice);
            }
            AcmeStore::Consul(path.clone())
        }
    }
}

fn external_account(
    config: &CertificateConfig,
    reader: &mut Reader<'_>,
) -> Option<(String, PathBuf)> {
    match (&config.eab_kid, &config.eab_hmac_file) {
        (Some(kid), Some(file)) => Some((kid.clone(), file.clone())),
        (Some(_), None) => {
            let advice = "set eab_hmac_file too";
            reader.wrong("eab_kid", "has no key beside it", advice);
            None
        }
        (None, Some(_)) => {
            let advice = "set eab_kid too";
            reader.wrong("eab_hmac_file", "has no identifier beside it", advice);
            None
        }
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CertificateSource, ConfigError, Inputs, load};
    use super::*;

    fn read(consul: &str, text: &str) -> Result<AcmeConfig, String> {
        let text = format!("{consul}\n[certificates.a]\nsource = \"acme\"\n{text}\n");
        let loaded = load(&Inputs {
            file: Some(("/etc/lb.toml".into(), text)),
            ..Inputs::default()
        })
        .map_err(|mistakes| mistakes.to_string())?;
        let unused = |warning: &&ConfigError| warning.problem != "is used by no listener";
        if let Some(warning) = loaded.warnings.iter().find(unused) {
            return Err(format!("warning: {warning}"));
        }
        match &loaded.config.certificates["a"].source {
            CertificateSource::Acme(config) => Ok((**config).clone()),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn three_lines_are_enough() {
        let names = "names = [\"*.Example.com.\", \"shop.test\"]\n";
        let config = read("[consul]", &format!("{names}key_passphrase_file = \"p\"")).unwrap();
        assert_eq!(config.names, ["*.example.com", "shop.test"]);
        assert_eq!(config.store, AcmeStore::Consul("lb/acme".to_owned()));
        assert_eq!(config.passphrase_file, Some("/etc/p".into()));
        assert_eq!(config.renew_before, Duration::from_secs(30 * 86_400));
        assert!(config.directory.starts_with("https://acme-v02."));
        let config = read(
            "",
            &format!("{names}directory = \"staging\"\nstore = \"folder\"\nfolder = \"certs\""),
        );
        let config = config.unwrap();
        assert_eq!(config.directory, STAGING);
        assert_eq!(config.store, AcmeStore::Folder("/etc/certs".into()));
        let dns =
            "challenge = \"dns-01\"\ndns = { exec = \"hook\" }\nstore = \"folder\"\nfolder = \"f\"";
        let config = read("", &format!("{names}{dns}")).unwrap();
        assert_eq!(config.dns_hook, Some("/etc/hook".into()));
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let good = "names = [\"a.test\"]\nstore = \"folder\"\nfolder = \"f\"\n";
        let cases = [
            (
                "[consul]",
                "key_passphrase_file = \"p\"",
                "names is missing",
            ),
            (
                "[consul]",
                "names = [\"a b\"]\nkey_passphrase_file = \"p\"",
                "holds `a b`",
            ),
            (
                "[consul]",
                "names = [\"a*.test\"]\nkey_passphrase_file = \"p\"",
                "one whole label",
            ),
            (
                "[consul]",
                "names = [\"a.test\"]",
                "key_passphrase_file is missing",
            ),
            (
                "routes_file = \"routes\"",
                "names = [\"a.test\"]\nkey_passphrase_file = \"p\"",
                "needs [consul]",
            ),
            (
                "",
                "names = [\"a.test\"]\nstore = \"folder\"",
                "folder is missing",
            ),
            ("", &format!("{good}directory = \"here\""), "is not a URL"),
            ("", &format!("{good}email = \"x\""), "is not an address"),
            (
                "",
                &format!("{good}challenge = \"dns-01\""),
                "dns is missing",
            ),
            (
                "",
                &format!("{good}challenge = \"dns-01\"\ndns = \"x\""),
                "is not a table",
            ),
            (
                "",
                &format!("{good}challenge = \"dns-01\"\ndns = {{ rfc2136 = \"h:53\" }}"),
                "does not send DNS updates",
            ),
            (
                "",
                &format!("{good}dns = {{ exec = \"x\" }}"),
                "has no effect with another challenge",
            ),
            (
                "",
                &format!("{good}eab_kid = \"x\""),
                "has no key beside it",
            ),
            (
                "",
                &format!("{good}kv_path = \"x\""),
                "has no effect with store",
            ),
            (
                "",
                &format!("{good}url = \"http://h/\""),
                "has no effect with source = \"acme\"",
            ),
        ];
        for (consul, text, wanted) in cases {
            let report = read(consul, text).unwrap_err();
            assert!(report.contains(wanted), "{text}: {report}");
        }
    }
}
