//! `[vault]`: how to reach Vault, which some sources of certificates need.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderValue, Uri};
use rustls::pki_types::ServerName;

use super::certificates::TokenPlace;
use super::declare::{Checked, section};
use super::key::HOUR;
use super::reader::Reader;
use super::secret::Secret;
use super::url::parse_url;

section! {
    /// How to reach Vault, or OpenBao, for certificates with source = "vault" or "vault-pki". The
    /// environment is that of Vault's own tools.
    pub struct VaultConfig is Once "vault" {
        /// Its URL. Also VAULT_AGENT_ADDR and VAULT_ADDR.
        address: String = "https://127.0.0.1:8200";

        /// CAs of its certificate. Also VAULT_CACERT. Without it: the system's.
        ca_file: Option<PathBuf> = unset "vault-ca.pem";

        /// Folder of CA files, whatever their names, and of folders of them. Also VAULT_CAPATH.
        ca_path: Option<PathBuf> = unset "vault-cas";

        /// The CAs as text. Also VAULT_CACERT_BYTES.
        ca_pem: Option<String> = unset "-----BEGIN CERTIFICATE-----";

        /// Client certificate. Also VAULT_CLIENT_CERT.
        cert_file: Option<PathBuf> = unset "vault-client.pem";

        /// Its key. Also VAULT_CLIENT_KEY.
        key_file: Option<PathBuf> = unset "vault-client-key.pem";

        /// Name to verify. Also VAULT_TLS_SERVER_NAME.
        server_name: Option<String> = unset "vault.example.com";

        /// Takes any certificate. Also VAULT_SKIP_VERIFY.
        skip_verify: bool = "false";

        /// Namespace. Also VAULT_NAMESPACE.
        namespace: Option<String> = unset "team";

        /// Token, also a wrapped one, which is unwrapped once. It is renewed while it can be. Also
        /// VAULT_TOKEN.
        token_text as "token": Option<Secret> = unset "hvs.…";

        /// A file that holds it, read again when it changes.
        token_file: Option<PathBuf> = unset "vault-token";

        /// Limit for one request. Also VAULT_CLIENT_TIMEOUT.
        timeout: Duration = "60s" in (100, HOUR);
    } and {
        /// The token; at most one of text and file.
        token: TokenPlace;
    }
}

impl Checked for VaultConfig {
    fn check(&mut self, reader: &mut Reader<'_>) {
        self.token = match (self.token_text.take(), &self.token_file) {
            (_, Some(path)) => TokenPlace::File(path.clone()),
            (Some(text), None) => {
                self.token_text = Some(text.clone());
                TokenPlace::Text(text)
            }
            (None, None) => TokenPlace::Nowhere,
        };
        self.address
            .truncate(self.address.trim_end_matches('/').len());
        if let Some(name) = &mut self.namespace {
            *name = name.trim_matches('/').to_owned();
        }
        let plain = |uri: Uri| {
            uri.query().is_none() && !uri.authority().is_some_and(|it| it.as_str().contains('@'))
        };
        if !parse_url(&self.address).is_some_and(plain) {
            reader.wrong(
                "address",
                "is not a URL of Vault",
                "write http://HOST:PORT or https://HOST:PORT",
            );
        }
        match (&self.cert_file, &self.key_file) {
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
        if self
            .server_name
            .as_deref()
            .is_some_and(|name| !matches!(ServerName::try_from(name), Ok(ServerName::DnsName(_))))
        {
            reader.wrong(
                "server_name",
                "is not a name a certificate can carry",
                "write it like vault.example.com",
            );
        }
        if self
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
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Inputs, load};
    use super::*;

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
        assert!(load_with("[vault]\nserver_name = \"v.test\"", &[]).is_ok());
        assert!(load_with("[vault]\nserver_name = \"10.0.0.1\"", &[]).is_err());
    }
}
