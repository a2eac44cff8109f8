//! `[certificates.NAME]`: where pairs of certificates and keys come from.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::acme::{AcmeChallenge, AcmeConfig, AcmeStoreKind};
use super::declare::{Checked, Declared, section};
use super::key::{DAY, MINUTE};
use super::mask::{MASK, without_secrets_if_set};
use super::raw::Placed;
use super::reader::Reader;
use super::secret::Secret;
use super::url::{check_web_url, parse_url};
use super::value::Headers;
use super::words::words;

section! {
    /// Certificates for TLS listeners, under a name of your choice. Files are watched: a new pair
    /// is used for new connections, a bad one is reported and ignored; so are pairs that come from
    /// elsewhere. Until the first ones are there, handshakes are refused. Short form:
    /// --certificates 'main;cert_file=site.pem;key_file=site-key.pem'.
    pub struct CertificateConfig is Named "certificates" {
        /// file: one pair. path: a folder of pairs. http: files beside a list of their names.
        /// consul: keys of the KV store. vault: entries of a KV engine. vault-pki: issued for each
        /// server name when a client first sends it. acme: ordered from an ACME server, like Let's
        /// Encrypt, for hosts of routes.
        kind as "source": CertificateKind = "file";

        /// The chain, leaf first (PEM), for source = "file".
        cert_file: Option<PathBuf> = unset "site.pem";

        /// Its private key. Without it: in cert_file too.
        key_file: Option<PathBuf> = unset "site-key.pem";

        /// Folder with X-cert.pem and X-key.pem, or X.pem with both, for source = "path". The first
        /// by name is the default. The names are the same in all other sources but vault.
        path: Option<PathBuf> = unset "certs.d";

        /// For http: the URL of a list of file names, one a line, which lie beside it. For consul:
        /// keys in the KV store of another Consul than [consul], as in
        /// http://HOST:8500/v1/kv/lb/certs?token=T.
        url: Option<Secret> = unset "https://certs.example.com/lb/list" => without_secrets_if_set;

        /// For http: sent with each request to the URL's host.
        headers: Option<Headers> = unset "Authorization: Bearer 1234";

        /// For consul: the keys below it, read from [consul] and watched. For vault: the entries
        /// below it, with the fields cert and key, in a KV engine of version 1 or 2
        /// (secret/lb/certs, without /data/). For acme with store = "consul": where certificates are
        /// kept; unset: lb/acme.
        kv_path: Option<String> = unset "lb/certs";

        /// For vault-pki: where certificates are issued.
        issue_path: Option<String> = unset "pki/issue/lb";

        /// For vault-pki: server names for which certificates are issued; `*` stands for any
        /// characters. Unset: all of them. For acme: which hosts of routes get one; `*` stands for
        /// one whole label, and there is no default.
        names: Option<Vec<String>> = unset "*.example.com";

        /// How often http and vault are read again. 0s: never, once they have responded. Consul
        /// reports changes itself, and files are watched.
        refresh: Option<Duration> = "30s" in (0, DAY);

        /// For vault-pki and acme: a certificate is issued anew this long before its end, or after
        /// two thirds of its life if that is later. Unset for acme: 720h.
        renew_before: Option<Duration> = "1h" in (MINUTE, 365 * DAY);

        /// For acme: the directory of the server, or `staging` for that of Let's Encrypt on which
        /// certificates are tried out. To configure a server is to agree to its terms.
        directory: String = "https://acme-v02.api.letsencrypt.org/directory";

        /// For acme: where the server writes to when something is wrong with certificates.
        email: Option<String> = unset "ops@example.com";

        /// For acme: how it is proven that a host is ours. http-01: by a request on port 80.
        /// tls-alpn-01: by a handshake on port 443. dns-01: by a TXT record, for wildcards too.
        challenge: AcmeChallenge = "tls-alpn-01";

        /// For acme with challenge = "dns-01": a program that is run with the arguments `present` or
        /// `cleanup`, the name of the record, and its value.
        dns: Option<Placed> = unset "{ exec = \"/etc/lb/dns-hook\" }";

        /// For acme: where certificates are kept. consul: in the KV store of [consul], for any number
        /// of lb. folder: in a folder of this machine.
        store: AcmeStoreKind = "consul";

        /// For acme with store = "folder".
        folder: Option<PathBuf> = unset "/var/lib/lb/acme";

        /// For acme: a file with the passphrase that encrypts private keys in the store; required
        /// with store = "consul".
        key_passphrase_file: Option<PathBuf> = unset "passphrase";

        /// For acme: CAs of the server. Unset: the system's.
        ca_file: Option<PathBuf> = unset "acme-ca.pem";

        /// For acme, where the server wants an account of its own kind (external account binding):
        /// the key identifier.
        eab_kid: Option<String> = unset "kid-1";

        /// The file with its HMAC key, base64url as the server's operator hands it out.
        eab_hmac_file: Option<PathBuf> = unset "eab-hmac";

        /// For consul and vault: in place of the token of [consul] or [vault].
        token: Option<Secret> = unset "hvs.…";

        /// A file that holds it, read again when it changes.
        token_file: Option<PathBuf> = unset "token";

        /// The environment variable that holds it.
        token_env: Option<String> = unset "MY_TOKEN";

        /// CAs of client certificates, or a folder of them (*.pem): a certificate is requested of
        /// clients.
        client_ca_file: Option<PathBuf> = unset "clients.pem";

        /// The same for http and consul: as url.
        client_ca_url: Option<Secret> = unset "https://certs.example.com/cas/list" => without_secrets_if_set;

        /// The same for consul, vault and vault-pki: as kv_path.
        client_ca_kv_path: Option<String> = unset "lb/cas";

        /// A certificate among them whose issuer has this common name counts as a CA, though it
        /// does not say that it is one: those of Amazon's API Gateway do not.
        client_ca_upgrade_cn: Option<String> = unset "ApiGateway";

        /// Whether a client without a certificate is refused, where one is requested.
        client_auth: ClientAuth = "required";
    } and {
        /// Where the pairs come from.
        source: CertificateSource;
    }
}

words! {
    /// What kind of source it is.
    pub enum CertificateKind {
        /// One pair.
        File = "file",
        /// A folder of pairs.
        Path = "path",
        /// Files beside a list of their names.
        Http = "http",
        /// Keys of Consul's KV store.
        Consul = "consul",
        /// Entries of a KV engine of Vault.
        Vault = "vault",
        /// Issued by Vault.
        VaultPki = "vault-pki",
        /// Ordered from an ACME server.
        Acme = "acme",
    }
}

words! {
    /// Whether clients need a certificate where one is requested.
    pub enum ClientAuth {
        /// One without is refused.
        Required = "required",
        /// One is wished for.
        Optional = "optional",
    }
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
        headers: Headers,
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
        /// Path at which certificates are issued (`issue_path`).
        issue_path: String,
        /// Which names; empty: any (`names`).
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
    /// Ordered from an ACME server for hosts of routes.
    Acme(Box<AcmeConfig>),
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

impl CertificateSource {
    /// Its word in the configuration.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        let kind = match self {
            Self::File { .. } => CertificateKind::File,
            Self::Path { .. } => CertificateKind::Path,
            Self::Http { .. } => CertificateKind::Http,
            Self::Consul { .. } => CertificateKind::Consul,
            Self::Vault { .. } => CertificateKind::Vault,
            Self::VaultPki { .. } => CertificateKind::VaultPki,
            Self::Acme(_) => CertificateKind::Acme,
        };
        kind.as_str()
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
            Self::File { .. } | Self::Path { .. } | Self::Http { .. } | Self::Acme(_) => None,
            Self::Consul { token, .. }
            | Self::Vault { token, .. }
            | Self::VaultPki { token, .. } => Some(token),
        }
    }

    /// Whether client CAs come from there too.
    #[must_use]
    pub fn has_client_cas(&self) -> bool {
        match self {
            Self::File { .. } | Self::Path { .. } | Self::Acme(_) => false,
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

impl Default for CertificateSource {
    fn default() -> Self {
        Self::Path {
            path: PathBuf::new(),
        }
    }
}

/// A URL of a list, for advice.
const LIST_EXAMPLE: &str = "https://certs.example.com/lb/list";

/// Keys that only some sources have.
const OF_SOURCES: &[(&str, &[CertificateKind])] = &[
    ("cert_file", &[CertificateKind::File]),
    ("key_file", &[CertificateKind::File]),
    ("path", &[CertificateKind::Path]),
    ("url", &[CertificateKind::Http, CertificateKind::Consul]),
    ("headers", &[CertificateKind::Http]),
    (
        "kv_path",
        &[
            CertificateKind::Consul,
            CertificateKind::Vault,
            CertificateKind::Acme,
        ],
    ),
    ("issue_path", &[CertificateKind::VaultPki]),
    ("names", &[CertificateKind::VaultPki, CertificateKind::Acme]),
    (
        "refresh",
        &[
            CertificateKind::Http,
            CertificateKind::Vault,
            CertificateKind::VaultPki,
        ],
    ),
    (
        "renew_before",
        &[CertificateKind::VaultPki, CertificateKind::Acme],
    ),
    ("directory", &[CertificateKind::Acme]),
    ("email", &[CertificateKind::Acme]),
    ("challenge", &[CertificateKind::Acme]),
    ("dns", &[CertificateKind::Acme]),
    ("store", &[CertificateKind::Acme]),
    ("folder", &[CertificateKind::Acme]),
    ("key_passphrase_file", &[CertificateKind::Acme]),
    ("ca_file", &[CertificateKind::Acme]),
    ("eab_kid", &[CertificateKind::Acme]),
    ("eab_hmac_file", &[CertificateKind::Acme]),
    (
        "token",
        &[
            CertificateKind::Consul,
            CertificateKind::Vault,
            CertificateKind::VaultPki,
        ],
    ),
    (
        "token_file",
        &[
            CertificateKind::Consul,
            CertificateKind::Vault,
            CertificateKind::VaultPki,
        ],
    ),
    (
        "token_env",
        &[
            CertificateKind::Consul,
            CertificateKind::Vault,
            CertificateKind::VaultPki,
        ],
    ),
    (
        "client_ca_url",
        &[CertificateKind::Http, CertificateKind::Consul],
    ),
    (
        "client_ca_kv_path",
        &[
            CertificateKind::Consul,
            CertificateKind::Vault,
            CertificateKind::VaultPki,
        ],
    ),
];

impl Checked for CertificateConfig {
    fn prepare(reader: &mut Reader<'_>) {
        let kind: CertificateKind = reader.peek("source");
        for (key, kinds) in OF_SOURCES
            .iter()
            .filter(|(_, kinds)| !kinds.contains(&kind))
        {
            if reader.has(key) {
                let problem = format!("has no effect with source = \"{}\"", kind.as_str());
                let kinds: Vec<_> = kinds.iter().map(|kind| kind.as_str()).collect();
                reader.warn(key, &problem, &format!("it is for {}", kinds.join(", ")));
            }
            reader.leave_out(key);
        }
    }

    fn check(&mut self, reader: &mut Reader<'_>) {
        self.source = self.source(reader);
        if self.client_ca_file.is_some() && self.source.has_client_cas() {
            reader.wrong(
                "client_ca_file",
                "stands beside client CAs from elsewhere",
                "remove one of them",
            );
        }
        let requests_certificates = self.client_ca_file.is_some() || self.source.has_client_cas();
        for key in ["client_auth", "client_ca_upgrade_cn"] {
            if reader.has(key) && !requests_certificates {
                let advice = "set client_ca_file to request client certificates";
                reader.warn(key, "has no effect without client CAs", advice);
            }
        }
    }
}

impl CertificateConfig {
    /// A certificate is requested of clients, and they may have none.
    #[must_use]
    pub fn is_client_auth_optional(&self) -> bool {
        self.client_auth == ClientAuth::Optional
    }

    /// As [`Declared::show`], with tokens in URLs of Consul's KV store masked by themselves.
    pub(super) fn shown(&self) -> Map<String, Value> {
        let mut shown = self.show();
        if let CertificateSource::Consul {
            keys, client_ca, ..
        } = &self.source
        {
            for (keys, url, path) in [
                (Some(keys), "url", "kv_path"),
                (client_ca.as_ref(), "client_ca_url", "client_ca_kv_path"),
            ] {
                let (at, own) = keys.map_or((Value::Null, Value::Null), ConsulKeys::shown);
                shown.insert(url.to_owned(), at);
                shown.insert(path.to_owned(), own);
            }
        }
        shown
    }

    /// The source that the keys say, which are settled on the way.
    fn source(&mut self, reader: &mut Reader<'_>) -> CertificateSource {
        match self.kind {
            CertificateKind::File => {
                if self.cert_file.is_none() {
                    let advice = "name the PEM file of the chain, or set source = \"path\"";
                    reader.wrong("cert_file", "is missing", advice);
                }
                let cert_file = self.cert_file.get_or_insert_default().clone();
                let key_file = self.key_file.get_or_insert_with(|| cert_file.clone());
                CertificateSource::File {
                    key_file: key_file.clone(),
                    cert_file,
                }
            }
            CertificateKind::Path => {
                if self.path.is_none() {
                    reader.wrong("path", "is missing", "name the folder that holds the pairs");
                }
                CertificateSource::Path {
                    path: self.path.get_or_insert_default().clone(),
                }
            }
            CertificateKind::Http => {
                let mut url = |key, url: &Option<Secret>| {
                    check_web_url(reader, key, url.clone()?, LIST_EXAMPLE)
                };
                let (list, client_ca_url) = (
                    url("url", &self.url),
                    url("client_ca_url", &self.client_ca_url),
                );
                if list.is_none() && !reader.has("url") {
                    reader.wrong("url", "is missing", "write the URL of a list of file names");
                }
                CertificateSource::Http {
                    url: list.unwrap_or_default(),
                    client_ca_url,
                    headers: self.headers.get_or_insert_default().clone(),
                    refresh: self.refresh.unwrap_or_default(),
                }
            }
            CertificateKind::Consul => {
                let keys = consul_keys(reader, ("url", &self.url), ("kv_path", &self.kv_path));
                if keys.is_none() && !reader.has("url") && !reader.has("kv_path") {
                    reader.wrong(
                        "kv_path",
                        "is missing",
                        "write where the keys are, like \"lb/certs\"",
                    );
                }
                CertificateSource::Consul {
                    keys: keys.unwrap_or_else(|| ConsulKeys::Own(String::new())),
                    client_ca: consul_keys(
                        reader,
                        ("client_ca_url", &self.client_ca_url),
                        ("client_ca_kv_path", &self.client_ca_kv_path),
                    ),
                    token: self.token(reader),
                }
            }
            CertificateKind::Vault => {
                let advice = "write where the entries are, like \"secret/lb/certs\"";
                vault_path(reader, "kv_path", &mut self.kv_path, advice);
                self.check_client_ca(reader);
                CertificateSource::Vault {
                    kv_path: self.kv_path.clone().unwrap_or_default(),
                    client_ca_kv_path: self.client_ca_kv_path.clone(),
                    refresh: self.refresh.unwrap_or_default(),
                    token: self.token(reader),
                }
            }
            CertificateKind::VaultPki => {
                let advice = "write where certificates are issued, like \"pki/issue/lb\"";
                vault_path(reader, "issue_path", &mut self.issue_path, advice);
                check_names(reader, self.names.get_or_insert_default());
                self.check_client_ca(reader);
                CertificateSource::VaultPki {
                    issue_path: self.issue_path.clone().unwrap_or_default(),
                    names: self.names.clone().unwrap_or_default(),
                    renew_before: self.renew_before.unwrap_or_default(),
                    client_ca_kv_path: self.client_ca_kv_path.clone(),
                    refresh: self.refresh.unwrap_or_default(),
                    token: self.token(reader),
                }
            }
            CertificateKind::Acme => CertificateSource::Acme(Box::new(self.read_acme(reader))),
        }
    }

    fn check_client_ca(&mut self, reader: &mut Reader<'_>) {
        let key = "client_ca_kv_path";
        if reader.has(key) {
            vault_path(reader, key, &mut self.client_ca_kv_path, "");
        }
    }

    /// The source's own token.
    fn token(&self, reader: &mut Reader<'_>) -> TokenPlace {
        let keys = ["token", "token_file", "token_env"];
        let given: Vec<&str> = keys.into_iter().filter(|key| reader.has(key)).collect();
        if let [first, second, ..] = given[..] {
            reader.wrong(
                second,
                &format!("stands beside {first}"),
                "remove one of them",
            );
        }
        match (&self.token, &self.token_file, &self.token_env) {
            (Some(text), _, _) => TokenPlace::Text(text.clone()),
            (None, Some(path), _) => TokenPlace::File(path.clone()),
            (None, None, Some(name)) => TokenPlace::Env(name.clone()),
            (None, None, None) => TokenPlace::Nowhere,
        }
    }
}

impl ConsulKeys {
    /// As URL, or as path in the Consul of `[consul]`.
    fn shown(&self) -> (Value, Value) {
        match self {
            Self::Own(path) => (Value::Null, json!(path)),
            Self::At {
                address,
                path,
                token,
            } => {
                let token = token
                    .as_ref()
                    .map_or(String::new(), |_| format!("?token={MASK}"));
                (json!(format!("{address}/v1/kv/{path}{token}")), Value::Null)
            }
        }
    }
}

fn consul_keys(
    reader: &mut Reader<'_>,
    (url, written): (&str, &Option<Secret>),
    (path, own): (&str, &Option<String>),
) -> Option<ConsulKeys> {
    if reader.has(url) && reader.has(path) {
        reader.wrong(path, &format!("stands beside {url}"), "remove one of them");
    }
    if let Some(text) = written {
        let keys = keys_at(text.reveal());
        if keys.is_none() {
            reader.wrong(
                url,
                "is not a place in a KV store",
                "write it like http://HOST:8500/v1/kv/lb/certs?token=T",
            );
        }
        return keys;
    }
    let trimmed = own.as_deref()?.trim_matches('/');
    if trimmed.is_empty() {
        reader.wrong(path, "names no key", "write it like \"lb/certs\"");
    }
    if !reader.context.has_consul {
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

/// Settles a path in Vault; what is none becomes nothing.
fn vault_path(reader: &mut Reader<'_>, key: &str, path: &mut Option<String>, advice: &str) {
    let Some(text) = path.take() else {
        return reader.wrong(key, "is missing", advice);
    };
    let trimmed = text.trim_matches('/').trim_start_matches("v1/");
    let odd = |segment: &str| matches!(segment, "" | "." | "..");
    if trimmed.split('/').any(odd)
        || trimmed.contains(['?', '#', '%'])
        || trimmed.chars().any(|c| c.is_control() || c == ' ')
    {
        reader.wrong(
            key,
            "is not a path in Vault",
            "write it without the address, like \"secret/lb/certs\"",
        );
        return;
    }
    *path = Some(trimmed.to_owned());
}

fn check_names(reader: &mut Reader<'_>, names: &mut [String]) {
    for name in names.iter_mut() {
        *name = name.trim().to_ascii_lowercase();
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '*' | '.' | '-' | '_');
    if names
        .iter()
        .any(|name| name.is_empty() || !name.chars().all(fits))
    {
        reader.wrong(
            "names",
            "holds something that is not a server name",
            "write them like \"*.example.com\"",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ConfigError, Inputs, load};
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
        let unused = |warning: &&ConfigError| warning.problem != "is used by no listener";
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
    fn what_does_not_fit_is_reported_without_its_secrets() {
        let cases = [
            ("source = \"http\"", "url is missing"),
            ("source = \"http\"\nurl = \"h/hush\"", "is not a URL"),
            (
                "source = \"http\"\nurl = \"http://h/\"\nheaders = [\"hush\"]",
                "holds something that is not a header",
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
                "is not a server name",
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
            let report = read(text).unwrap_err();
            assert!(report.contains(wanted), "{text}: {report}");
            assert!(!report.contains("hush"), "{text}: {report}");
        }
    }
}
