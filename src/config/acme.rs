//! What ordering certificates from an ACME server needs to know: `[certificates.NAME]` with
//! `source = "acme"`.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::words::words;

words! {
    /// How control over a host is proven.
    pub enum AcmeChallenge {
        /// By a request.
        Http01 = "http-01",
        /// By a handshake.
        TlsAlpn01 = "tls-alpn-01",
        /// By a TXT record.
        Dns01 = "dns-01",
    }
}

words! {
    /// Where certificates are kept.
    pub enum AcmeStoreKind {
        /// In the KV store of Consul.
        Consul = "consul",
        /// In a folder of this machine.
        Folder = "folder",
    }
}

/// Where certificates, keys, the account and pending orders are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcmeStore {
    /// Below this path of the KV store of `[consul]`.
    Consul(String),
    /// In this folder.
    Folder(PathBuf),
}

/// Everything that ordering certificates needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcmeConfig {
    /// URL of the server's directory.
    pub directory: String,
    /// Contact of the account.
    pub email: Option<String>,
    /// Which hosts get a certificate, in lower case; `*` is one label.
    pub names: Vec<String>,
    /// How control over a host is proven.
    pub challenge: AcmeChallenge,
    /// The program that sets TXT records, for dns-01.
    pub dns_hook: Option<PathBuf>,
    /// Where it all is kept.
    pub store: AcmeStore,
    /// What encrypts private keys there.
    pub passphrase_file: Option<PathBuf>,
    /// CAs of the server; none: the system's.
    pub ca_file: Option<PathBuf>,
    /// How long before its end a certificate is issued anew.
    pub renew_before: Duration,
    /// Identifier and key file of an external account.
    pub external_account: Option<(String, PathBuf)>,
}

/// The HMAC key of an external account, as its operator hands it out: base64url, padded or not.
#[must_use]
pub fn hmac_key(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let text = text.trim().trim_end_matches('=');
    let key = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    (!key.is_empty()).then_some(key)
}
