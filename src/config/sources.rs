//! `[certificates.NAME]`: where pairs come from, and `[vault]`, which some of them need.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri};

use super::keys::section;
use super::mistake::Mistake;
use super::raw::Settings;
use super::reader::Reader;
use super::secret::Secret;

/// One `[certificates.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct CertificateConfig {
    /// Where the pairs come from.
    pub source: CertificateSource,
    /// CAs of client certificates, a file or a folder; asking for one is switched on by it
    /// (`client_ca_file`).
    pub client_ca_file: Option<PathBuf>,
    /// Common name of issuers whose certificates count as CAs (`client_ca_upgrade_cn`).
    pub client_ca_upgrade_cn: Option<String>,
    /// Client certificates are wished for but not demanded (`client_auth = "optional"`).
    pub client_auth_optional: bool,
}

/// Where certificates come from.
#[derive(Clone, Debug, PartialEq)]
pub enum CertificateSource {
    /// One pair.
    File {
        /// Chain, PEM.
        cert_file: PathBuf,
        /// Key, PEM.
        key_file: PathBuf,
    },
    /// A directory of pairs: `X-cert.pem` with `X-key.pem`, or `X.pem` with both.
    Path {
        /// The directory.
        path: PathBuf,
    },
    /// Files beside a list of their names.
    Http {
        /// The list (`url`).
        url: Secret,
        /// The list of files with client CAs (`client_ca_url`).
        client_ca_url: Option<Secret>,
        /// Sent along (`headers`).
        headers: Vec<(HeaderName, HeaderValue)>,
        /// Time from one reading to the next; zero: one is enough (`refresh`).
        refresh: Duration,
    },
    /// Keys of Consul's KV store.
    Consul {
        /// The pairs (`url` or `kv_path`).
        keys: ConsulKeys,
        /// Client CAs (`client_ca_url` or `client_ca_kv_path`).
        client_ca: Option<ConsulKeys>,
        /// In place of `[consul]`'s token, or of the one in the URL.
        token: TokenPlace,
    },
    /// Entries of a KV engine of Vault, with the fields `cert` and `key`.
    Vault {
        /// Path of the entries (`kv_path`).
        kv_path: String,
        /// Path of entries with client CAs in the field `cert` (`client_ca_kv_path`).
        client_ca_kv_path: Option<String>,
        /// Time from one reading to the next; zero: one is enough (`refresh`).
        refresh: Duration,
        /// In place of `[vault]`'s token.
        token: TokenPlace,
    },
    /// Issued by Vault for each server name.
    VaultPki {
        /// Where to ask (`issue_path`).
        issue_path: String,
        /// Which names to ask for; empty: any (`names`).
        names: Vec<String>,
        /// How long before its end a certificate is issued anew (`renew_before`).
        renew_before: Duration,
        /// Path of entries with client CAs in the field `cert` (`client_ca_kv_path`).
        client_ca_kv_path: Option<String>,
        /// Time from one reading of client CAs to the next; zero: one is enough (`refresh`).
        refresh: Duration,
        /// In place of `[vault]`'s token.
        token: TokenPlace,
    },
}

/// Keys of Consul's KV store.
#[derive(Clone, Debug, PartialEq)]
pub enum ConsulKeys {
    /// In the Consul of `[consul]`: the path.
    Own(String),
    /// In another one.
    At {
        /// Its URL, `http://HOST:PORT`.
        address: String,
        /// The path.
        path: String,
        /// The token in the URL.
        token: Option<Secret>,
    },
}

/// Where a source's own token is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TokenPlace {
    /// There is none: the one of the connection is used.
    #[default]
    Nowhere,
    /// In the configuration (`token`).
    Text(Secret),
    /// In a file (`token_file`).
    File(PathBuf),
    /// In the environment (`token_env`).
    Env(String),
}

/// How to reach Vault.
#[derive(Clone, Debug, PartialEq)]
pub struct VaultConfig {
    /// `http://` or `https://` URL (`address`).
    pub address: String,
    /// PEM bundle of CAs (`ca_file`).
    pub ca_file: Option<PathBuf>,
    /// Directory of PEM bundles (`ca_path`).
    pub ca_path: Option<PathBuf>,
    /// PEM text of CAs (`ca_pem`).
    pub ca_pem: Option<String>,
    /// Client certificate (`cert_file`).
    pub cert_file: Option<PathBuf>,
    /// Its key (`key_file`).
    pub key_file: Option<PathBuf>,
    /// Name to verify instead of the address's host (`server_name`).
    pub server_name: Option<String>,
    /// Accept any server certificate (`skip_verify`).
    pub skip_verify: bool,
    /// Namespace (`namespace`).
    pub namespace: Option<String>,
    /// Token; at most one of text and file (`token`, `token_file`).
    pub token: TokenPlace,
    /// Limit for one request (`timeout`).
    pub timeout: Duration,
}

impl CertificateSource {
    /// Its name in the configuration.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Path { .. } => "path",
            Self::Http { .. } => "http",
            Self::Consul { .. } => "consul",
            Self::Vault { .. } => "vault",
            Self::VaultPki { .. } => "vault-pki",
        }
    }

    /// Whether pairs come from elsewhere than files, and so only some time after the start.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        !matches!(self, Self::File { .. } | Self::Path { .. })
    }

    /// Whether it is Vault that has them.
    #[must_use]
    pub fn uses_vault(&self) -> bool {
        matches!(self, Self::Vault { .. } | Self::VaultPki { .. })
    }

    /// Where its own token is.
    #[must_use]
    pub fn token(&self) -> Option<&TokenPlace> {
        match self {
            Self::File { .. } | Self::Path { .. } | Self::Http { .. } => None,
            Self::Consul { token, .. }
            | Self::Vault { token, .. }
            | Self::VaultPki { token, .. } => Some(token),
        }
    }

    /// Whether client CAs come from there too.
    #[must_use]
    pub fn has_client_cas(&self) -> bool {
        match self {
            Self::File { .. } | Self::Path { .. } => false,
            Self::Http { client_ca_url, .. } => client_ca_url.is_some(),
            Self::Consul { client_ca, .. } => client_ca.is_some(),
            Self::Vault {
                client_ca_kv_path, ..
            }
            | Self::VaultPki {
                client_ca_kv_path, ..
            } => client_ca_kv_path.is_some(),
        }
    }
}

/// A URL of a list, for advice.
const LIST_EXAMPLE: &str = "https://certs.example.com/lb/list";

/// Keys that only some sources have.
const OF_SOURCES: &[(&str, &[&str])] = &[
    ("cert_file", &["file"]),
    ("key_file", &["file"]),
    ("path", &["path"]),
    ("url", &["http", "consul"]),
    ("headers", &["http"]),
    ("kv_path", &["consul", "vault"]),
    ("issue_path", &["vault-pki"]),
    ("names", &["vault-pki"]),
    ("refresh", &["http", "vault", "vault-pki"]),
    ("renew_before", &["vault-pki"]),
    ("token", &["consul", "vault", "vault-pki"]),
    ("token_file", &["consul", "vault", "vault-pki"]),
    ("token_env", &["consul", "vault", "vault-pki"]),
    ("client_ca_url", &["http", "consul"]),
    ("client_ca_kv_path", &["consul", "vault", "vault-pki"]),
];

/// Reads the certificates. `consul`: there is a `[consul]`.
pub(super) fn certificates(
    settings: &Settings,
    consul: bool,
    mistakes: &mut Vec<Mistake>,
    warnings: &mut Vec<Mistake>,
) -> BTreeMap<String, CertificateConfig> {
    let mut found = BTreeMap::new();
    let section =
        section("certificates").expect("names of sections in this crate are in the table");
    for (name, group) in settings.named.get("certificates").into_iter().flatten() {
        let mut reader = Reader::new(section, format!("certificates.{name}"), group, mistakes);
        let source = source(&mut reader, consul);
        for (key, kinds) in OF_SOURCES {
            if reader.has(key) && !kinds.contains(&source.as_str()) {
                let problem = format!("has no effect with source = \"{}\"", source.as_str());
                warnings.push(reader.about(
                    key,
                    &problem,
                    &format!("it is for {}", kinds.join(", ")),
                ));
            }
        }
        let client_ca_file = reader.path("client_ca_file");
        if client_ca_file.is_some() && source.has_client_cas() {
            reader.wrong(
                "client_ca_file",
                "stands beside client CAs from elsewhere",
                "remove one of them",
            );
        }
        let asks = client_ca_file.is_some() || source.has_client_cas();
        for key in ["client_auth", "client_ca_upgrade_cn"] {
            if reader.has(key) && !asks {
                let advice = "set client_ca_file to ask for client certificates";
                warnings.push(reader.about(key, "has no effect without client CAs", advice));
            }
        }
        let client_auth_optional = reader.text("client_auth").as_deref() == Some("optional");
        let client_ca_upgrade_cn = reader.text("client_ca_upgrade_cn");
        found.insert(
            name.clone(),
            CertificateConfig {
                source,
                client_ca_file,
                client_ca_upgrade_cn,
                client_auth_optional,
            },
        );
    }
    found
}

fn source(reader: &mut Reader<'_>, consul: bool) -> CertificateSource {
    match reader.text("source").as_deref() {
        Some("path") => {
            let path = reader.path("path");
            if path.is_none() {
                reader.wrong("path", "is missing", "name the folder that holds the pairs");
            }
            CertificateSource::Path {
                path: path.unwrap_or_default(),
            }
        }
        Some("http") => CertificateSource::Http {
            url: web_url(reader, "url", LIST_EXAMPLE).unwrap_or_else(|| {
                if !reader.has("url") {
                    reader.wrong("url", "is missing", "write the URL of a list of file names");
                }
                Secret::new("")
            }),
            client_ca_url: web_url(reader, "client_ca_url", LIST_EXAMPLE),
            headers: reader.headers("headers"),
            refresh: reader.time("refresh"),
        },
        Some("consul") => CertificateSource::Consul {
            keys: consul_keys(reader, "url", "kv_path", consul).unwrap_or_else(|| {
                if !reader.has("url") && !reader.has("kv_path") {
                    reader.wrong(
                        "kv_path",
                        "is missing",
                        "write where the keys are, like \"lb/certs\"",
                    );
                }
                ConsulKeys::Own(String::new())
            }),
            client_ca: consul_keys(reader, "client_ca_url", "client_ca_kv_path", consul),
            token: token(reader),
        },
        Some("vault") => CertificateSource::Vault {
            kv_path: vault_path(
                reader,
                "kv_path",
                "write where the entries are, like \"secret/lb/certs\"",
            )
            .unwrap_or_default(),
            client_ca_kv_path: vault_client_ca(reader),
            refresh: reader.time("refresh"),
            token: token(reader),
        },
        Some("vault-pki") => CertificateSource::VaultPki {
            issue_path: vault_path(
                reader,
                "issue_path",
                "write where certificates are issued, like \"pki/issue/lb\"",
            )
            .unwrap_or_default(),
            names: names(reader),
            renew_before: reader.time("renew_before"),
            client_ca_kv_path: vault_client_ca(reader),
            refresh: reader.time("refresh"),
            token: token(reader),
        },
        // The kind of the key lets nothing else through.
        _ => {
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
    }
}

/// An `http(s)://` URL with a host.
pub(super) fn web_url(reader: &mut Reader<'_>, key: &str, example: &str) -> Option<Secret> {
    let text = reader.text(key)?;
    if parse_url(&text).is_none() {
        reader.wrong(key, "is not a URL", &format!("write it like {example}"));
        return None;
    }
    Some(Secret::new(text))
}

fn parse_url(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    (known && uri.host().is_some_and(|host| !host.is_empty())).then_some(uri)
}

fn consul_keys(reader: &mut Reader<'_>, url: &str, path: &str, consul: bool) -> Option<ConsulKeys> {
    if reader.has(url) && reader.has(path) {
        reader.wrong(path, &format!("stands beside {url}"), "remove one of them");
    }
    if let Some(text) = reader.text(url) {
        let keys = keys_at(&text);
        if keys.is_none() {
            reader.wrong(
                url,
                "is not a place in a KV store",
                "write it like http://HOST:8500/v1/kv/lb/certs?token=T",
            );
        }
        return keys;
    }
    let text = reader.text(path)?;
    let trimmed = text.trim_matches('/');
    if trimmed.is_empty() {
        reader.wrong(path, "names no key", "write it like \"lb/certs\"");
    }
    if !consul {
        reader.wrong(
            path,
            "needs [consul], which is left out",
            "add [consul], or write a URL in place of the path",
        );
    }
    Some(ConsulKeys::Own(trimmed.to_owned()))
}

/// `http(s)://HOST/v1/kv/PATH?token=T`.
fn keys_at(text: &str) -> Option<ConsulKeys> {
    let uri = parse_url(text)?;
    let authority = uri.authority()?.as_str();
    // Consul has no passwords; what looks like one would end up in messages.
    if authority.contains('@') {
        return None;
    }
    let path = uri.path().strip_prefix("/v1/kv/")?.trim_matches('/');
    let decode = |text: &str| {
        percent_encoding::percent_decode_str(text)
            .decode_utf8()
            .ok()
            .map(|it| it.into_owned())
    };
    let path = decode(path).filter(|path| !path.is_empty())?;
    let query = uri.query().unwrap_or_default();
    let token = query
        .split('&')
        .find_map(|part| part.strip_prefix("token="))
        .filter(|token| !token.is_empty());
    let token = match token {
        Some(token) => Some(Secret::new(decode(token)?)),
        None => None,
    };
    Some(ConsulKeys::At {
        address: format!("{}://{authority}", uri.scheme_str()?),
        path,
        token,
    })
}

fn vault_client_ca(reader: &mut Reader<'_>) -> Option<String> {
    let key = "client_ca_kv_path";
    reader
        .has(key)
        .then(|| vault_path(reader, key, ""))
        .flatten()
}

fn vault_path(reader: &mut Reader<'_>, key: &str, advice: &str) -> Option<String> {
    let Some(text) = reader.text(key) else {
        reader.wrong(key, "is missing", advice);
        return None;
    };
    let path = text.trim_matches('/').trim_start_matches("v1/");
    let odd = |segment: &str| matches!(segment, "" | "." | "..");
    if path.split('/').any(odd)
        || path.contains(['?', '#', '%'])
        || path.chars().any(|c| c.is_control() || c == ' ')
    {
        reader.wrong(
            key,
            "is not a path in Vault",
            "write it without the address, like \"secret/lb/certs\"",
        );
        return None;
    }
    Some(path.to_owned())
}

fn names(reader: &mut Reader<'_>) -> Vec<String> {
    let names: Vec<String> = reader
        .list("names")
        .iter()
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '*' | '.' | '-' | '_');
    if names
        .iter()
        .any(|name| name.is_empty() || !name.chars().all(fits))
    {
        reader.wrong(
            "names",
            "holds something that is no server name",
            "write them like \"*.example.com\"",
        );
    }
    names
}

/// The source's own token.
fn token(reader: &mut Reader<'_>) -> TokenPlace {
    let keys = ["token", "token_file", "token_env"];
    let given: Vec<&str> = keys.into_iter().filter(|key| reader.has(key)).collect();
    if let [first, second, ..] = given[..] {
        reader.wrong(
            second,
            &format!("stands beside {first}"),
            "remove one of them",
        );
    }
    if let Some(text) = reader.text("token") {
        TokenPlace::Text(Secret::new(text))
    } else if let Some(path) = reader.path("token_file") {
        TokenPlace::File(path)
    } else {
        reader
            .text("token_env")
            .map_or(TokenPlace::Nowhere, TokenPlace::Env)
    }
}

/// `[vault]`.
pub(super) fn vault(reader: &mut Reader<'_>) -> VaultConfig {
    let token = match (reader.text("token"), reader.path("token_file")) {
        (_, Some(path)) => TokenPlace::File(path),
        (Some(text), None) => TokenPlace::Text(Secret::new(text)),
        (None, None) => TokenPlace::Nowhere,
    };
    let config = VaultConfig {
        address: reader
            .text_or_empty("address")
            .trim_end_matches('/')
            .to_owned(),
        ca_file: reader.path("ca_file"),
        ca_path: reader.path("ca_path"),
        ca_pem: reader.text("ca_pem"),
        cert_file: reader.path("cert_file"),
        key_file: reader.path("key_file"),
        server_name: reader.text("server_name"),
        skip_verify: reader.bool("skip_verify"),
        namespace: reader
            .text("namespace")
            .map(|name| name.trim_matches('/').to_owned()),
        token,
        timeout: reader.time("timeout"),
    };
    let plain = |uri: Uri| {
        uri.query().is_none() && !uri.authority().is_some_and(|it| it.as_str().contains('@'))
    };
    if !parse_url(&config.address).is_some_and(plain) {
        reader.wrong(
            "address",
            "is not a URL of Vault",
            "write http://HOST:PORT or https://HOST:PORT",
        );
    }
    match (&config.cert_file, &config.key_file) {
        (Some(_), None) => reader.wrong(
            "cert_file",
            "has no key beside it",
            "set vault.key_file too",
        ),
        (None, Some(_)) => reader.wrong(
            "key_file",
            "has no certificate beside it",
            "set vault.cert_file too",
        ),
        _ => {}
    }
    if config
        .server_name
        .as_deref()
        .is_some_and(|name| rustls::pki_types::ServerName::try_from(name).is_err())
    {
        reader.wrong(
            "server_name",
            "is not a name a certificate can carry",
            "write it like vault.example.com",
        );
    }
    if config
        .namespace
        .as_deref()
        .is_some_and(|name| HeaderValue::from_str(name).is_err())
    {
        reader.wrong(
            "namespace",
            "cannot be such a name",
            "use letters, digits, -, _ and /",
        );
    }
    config
}

#[cfg(test)]
mod tests {
    use super::super::{Inputs, load};
    use super::*;

    fn read(text: &str) -> Result<CertificateConfig, String> {
        let file = Some((
            "lb.toml".into(),
            format!("[consul]\n[certificates.a]\n{text}\n"),
        ));
        let loaded = load(&Inputs {
            file,
            ..Inputs::default()
        })
        .map_err(|mistakes| mistakes.to_string())?;
        let unused = |warning: &&Mistake| warning.problem != "is used by no listener";
        match loaded.warnings.iter().find(unused) {
            Some(warning) => Err(format!("warning: {warning}")),
            None => Ok(loaded.config.certificates["a"].clone()),
        }
    }

    #[test]
    fn consul_urls_are_taken_apart() {
        let cases = [
            (
                "http://h:1/v1/kv/a/b?token=x%2Fy&dc=1",
                Some(("http://h:1", "a/b", Some("x/y"))),
            ),
            ("https://h/v1/kv/a/", Some(("https://h", "a", None))),
            ("http://h/v1/kv/a%20b", Some(("http://h", "a b", None))),
            ("http://h/v1/kv/", None),
            ("http://h/a", None),
            ("http://u:p@h/v1/kv/a", None),
            ("ftp://h/v1/kv/a", None),
        ];
        for (text, wanted) in cases {
            let wanted =
                wanted.map(
                    |(address, path, token): (&str, &str, Option<&str>)| ConsulKeys::At {
                        address: address.to_owned(),
                        path: path.to_owned(),
                        token: token.map(Secret::new),
                    },
                );
            assert_eq!(keys_at(text), wanted, "{text}");
        }
    }

    #[test]
    fn each_source_has_its_keys() {
        let http = "source = \"http\"\nurl = \"https://u:p@h/list?k=v\"\nheaders = [\"Authorization: Bearer x\"]\n";
        let found = read(&format!(
            "{http}client_ca_url = \"http://h/cas\"\nrefresh = \"0s\""
        ))
        .unwrap();
        assert!(found.source.has_client_cas() && found.source.is_remote());
        let CertificateSource::Http {
            headers, refresh, ..
        } = &found.source
        else {
            panic!("{found:?}")
        };
        assert_eq!(
            (headers[0].1.to_str().unwrap(), *refresh),
            ("Bearer x", Duration::ZERO)
        );
        assert!(
            !format!("{found:?}").contains("Bearer") && !format!("{found:?}").contains("u:p"),
            "{found:?}"
        );

        let found = read("source = \"consul\"\nkv_path = \"/lb/certs/\"\ntoken_file = \"t\"")
            .unwrap()
            .source;
        let keys = ConsulKeys::Own("lb/certs".to_owned());
        assert_eq!(
            found,
            CertificateSource::Consul {
                keys,
                client_ca: None,
                token: TokenPlace::File("t".into())
            }
        );

        let found = read("source = \"vault\"\nkv_path = \"/v1/secret/lb/\"\ntoken_env = \"T\"")
            .unwrap()
            .source;
        assert!(
            matches!(&found, CertificateSource::Vault { kv_path, token: TokenPlace::Env(name), .. }
            if kv_path == "secret/lb" && name == "T")
        );

        let found =
            read("source = \"vault-pki\"\nissue_path = \"pki/issue/lb\"\nnames = [\"*.X.test\"]")
                .unwrap();
        assert!(
            matches!(&found.source, CertificateSource::VaultPki { names, .. } if names == &["*.x.test"])
        );
    }

    #[test]
    fn what_does_not_fit_is_told_without_its_secrets() {
        let cases = [
            ("source = \"http\"", "url is missing"),
            ("source = \"http\"\nurl = \"h/hush\"", "is not a URL"),
            (
                "source = \"http\"\nurl = \"http://h/\"\nheaders = [\"hush\"]",
                "holds something that is no header",
            ),
            ("source = \"consul\"", "kv_path is missing"),
            (
                "source = \"consul\"\nurl = \"http://h/v1/hush\"",
                "is not a place in a KV store",
            ),
            (
                "source = \"consul\"\nkv_path = \"a\"\nurl = \"http://h/v1/kv/a\"",
                "stands beside url",
            ),
            ("source = \"vault\"", "kv_path is missing"),
            (
                "source = \"vault\"\nkv_path = \"a/../b\"",
                "is not a path in Vault",
            ),
            (
                "source = \"vault\"\nkv_path = \"a\"\ntoken = \"hush\"\ntoken_env = \"E\"",
                "stands beside token",
            ),
            (
                "source = \"vault-pki\"\nissue_path = \"p\"\nnames = [\"a b\"]",
                "is no server name",
            ),
            (
                "cert_file = \"a\"\nurl = \"http://h/hush\"",
                "has no effect with source = \"file\"; it is for http, consul",
            ),
            (
                "cert_file = \"a\"\nclient_ca_upgrade_cn = \"x\"",
                "has no effect without client CAs",
            ),
            (
                "source = \"vault\"\nkv_path = \"a\"\nclient_ca_kv_path = \"b\"\nclient_ca_file = \"c\"",
                "stands beside client CAs from elsewhere",
            ),
        ];
        for (text, wanted) in cases {
            let told = read(text).unwrap_err();
            assert!(told.contains(wanted), "{text}: {told}");
            assert!(!told.contains("hush"), "{text}: {told}");
        }
    }

    #[test]
    fn vault_is_reached_as_its_own_tools_would() {
        let load_with = |file: &str, env: &[(&str, &str)]| {
            let env = env
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            let file = Some(("lb.toml".into(), file.to_owned()));
            load(&Inputs {
                file,
                env,
                ..Inputs::default()
            })
            .map(|loaded| loaded.config.vault)
        };
        let config = load_with("", &[]).unwrap();
        assert_eq!(
            (&*config.address, config.timeout),
            ("https://127.0.0.1:8200", Duration::from_secs(60))
        );
        let env = [
            ("VAULT_ADDR", "http://a:1/"),
            ("VAULT_TOKEN", "secret"),
            ("VAULT_CACERT", "ca.pem"),
            ("VAULT_SKIP_VERIFY", "1"),
            ("VAULT_NAMESPACE", "team/"),
            ("VAULT_CLIENT_TIMEOUT", "7"),
        ];
        let config = load_with(
            "[vault]\ntoken_file = \"t\"\naddress = \"http://file\"",
            &env,
        )
        .unwrap();
        assert_eq!(
            (&*config.address, config.timeout),
            ("http://a:1", Duration::from_secs(7))
        );
        assert_eq!(
            config.token,
            TokenPlace::Text(Secret::new("secret")),
            "the environment goes before the file"
        );
        assert_eq!(
            (config.ca_file, config.skip_verify),
            (Some("ca.pem".into()), true)
        );
        assert_eq!(config.namespace.as_deref(), Some("team"));
        let agent = load_with(
            "",
            &[
                ("VAULT_ADDR", "http://a:1"),
                ("VAULT_AGENT_ADDR", "http://b:1"),
            ],
        )
        .unwrap();
        assert_eq!(agent.address, "http://b:1");
        assert!(load_with("[vault]\naddress = \"http://u:p@h\"", &[]).is_err());
    }
}
