//! `[nomad]`: Nomad's own service discovery as a source.

use std::path::{Path, PathBuf};

use http::Uri;
use rustls::pki_types::ServerName;

use super::declare::{Checked, section};
use super::error::Location;
use super::reader::Reader;
use super::secret::Secret;
use super::url::parse_url;

section! {
    /// Nomad's own service discovery (services with provider = "nomad"), as a source beside Consul
    /// or in its place. The section may be empty: it turns the source on, and so does a flag or a
    /// variable LB_NOMAD_*. NOMAD_* variables alone do not, since every task of Nomad has some; once
    /// the source is on they fill what is not set otherwise. docs/nomad.md begins from nothing.
    pub struct NomadConfig is Once "nomad" {
        /// An agent: http://HOST:PORT, https://HOST:PORT, or unix:///path/to/socket for the task
        /// API (secrets/api.sock of a task). Without a scheme, https is used when ca_file or
        /// cert_file is set, else http. Also NOMAD_ADDR and NOMAD_UNIX_ADDR.
        address: String = "127.0.0.1:4646" [restart];

        /// PEM file of the CAs that sign the agent's certificate. Read again when it changes. Also
        /// NOMAD_CACERT. Without it: the system's.
        ca_file: Option<PathBuf> = unset "nomad-ca.pem";

        /// Client certificate for agents that verify it (verify_https_client). Read again when it
        /// changes. Also NOMAD_CLIENT_CERT.
        cert_file: Option<PathBuf> = unset "nomad-client.pem";

        /// Its private key. Also NOMAD_CLIENT_KEY.
        key_file: Option<PathBuf> = unset "nomad-client-key.pem";

        /// Name to verify in the agent's certificate instead of the address. Also
        /// NOMAD_TLS_SERVER_NAME.
        server_name: Option<String> = unset "server.global.nomad";

        /// ACL token. It needs the capability read-job in each namespace, and nothing else. Better
        /// in a file. Also NOMAD_TOKEN.
        token: Option<Secret> = unset "TOKEN";

        /// File that holds the ACL token; read again when it changes, as that of a workload identity
        /// does.
        token_file: Option<PathBuf> = unset "secrets/nomad_token";

        /// Region to read. Also NOMAD_REGION. Without it: the agent's own.
        region: Option<String> = unset "global" [restart];

        /// Namespaces to read. Services of the first have their plain names in logs, metrics and
        /// route commands, those of the others end in `@NAMESPACE`. Also NOMAD_NAMESPACE.
        namespaces: Vec<String> = "default" [restart];

        /// What routing tags of this source start with. Without it: routing.tag_prefix.
        tag_prefix: Option<String> = unset "urlprefix-";
    }
}

/// How the agent is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NomadAddress<'a> {
    /// Over TCP, by a URL without path.
    Url(&'a str),
    /// Over a socket in the file system.
    Socket(&'a Path),
}

impl NomadConfig {
    /// How the agent is reached.
    #[must_use]
    pub fn place(&self) -> NomadAddress<'_> {
        match self.address.strip_prefix("unix://") {
            Some(path) => NomadAddress::Socket(Path::new(path)),
            None => NomadAddress::Url(&self.address),
        }
    }
}

impl Checked for NomadConfig {
    fn check(&mut self, reader: &mut Reader<'_>) {
        self.check_address(reader);
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => reader.wrong(
                "cert_file",
                "has no key beside it",
                "set nomad.key_file too",
            ),
            (None, Some(_)) => reader.wrong(
                "key_file",
                "has no certificate beside it",
                "set nomad.cert_file too",
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
                "write it like server.global.nomad",
            );
        }
        self.check_namespaces(reader);
        if self.region.as_deref().is_some_and(|name| !is_name(name)) {
            reader.wrong("region", "cannot be a region", "use letters, digits and -");
        }
        if self.token.is_some() && self.token_file.is_some() {
            reader.warn(
                "token",
                "is not used, because a token file is set too",
                "remove one of them",
            );
            self.token = None;
        }
    }
}

impl NomadConfig {
    fn check_address(&mut self, reader: &mut Reader<'_>) {
        let advice = "write http://HOST:PORT, https://HOST:PORT or unix:///path/to/socket";
        let written = self.address.trim();
        let tls = self.ca_file.is_some() || self.cert_file.is_some();
        let address = match written.split_once("://") {
            Some(_) => written.to_owned(),
            None if tls => format!("https://{written}"),
            None => format!("http://{written}"),
        };
        if address.contains('@') {
            let advice = "Nomad takes a token: set nomad.token_file";
            reader.wrong_secret("address", "holds credentials", advice);
            return;
        }
        if let Some(path) = address.strip_prefix("unix://") {
            if !path.starts_with('/') {
                reader.wrong(
                    "address",
                    "does not name a socket by its whole path",
                    advice,
                );
            }
            for (key, given) in [
                ("ca_file", self.ca_file.is_some()),
                ("cert_file", self.cert_file.is_some()),
            ] {
                // What the environment of a task says is about other addresses.
                if given && !matches!(reader.place(key), Some(Location::Env(_))) {
                    reader.warn(key, "is not used, because the address is a socket", "");
                }
            }
            self.address = address;
            return;
        }
        let address = address.trim_end_matches('/').to_owned();
        let plain = |uri: &Uri| uri.query().is_none() && matches!(uri.path(), "" | "/");
        match parse_url(&address).filter(plain) {
            None => reader.wrong("address", "is not a URL of a Nomad agent", advice),
            Some(_) if address.starts_with("http://") && self.cert_file.is_some() => reader.warn(
                "address",
                "is plain HTTP, so the client certificate is not used",
                "write https:// if the agent speaks TLS",
            ),
            Some(_) => {}
        }
        self.address = address;
    }

    fn check_namespaces(&mut self, reader: &mut Reader<'_>) {
        if self.namespaces.is_empty() {
            reader.wrong(
                "namespaces",
                "is empty",
                "name at least one, as in [\"default\"]",
            );
        }
        let mut seen = Vec::new();
        for name in &self.namespaces {
            if name == "*" {
                reader.wrong(
                    "namespaces",
                    "stands for every namespace, of which a token shows a part without saying so",
                    "name the namespaces one by one",
                );
            } else if !is_name(name) {
                reader.wrong(
                    "namespaces",
                    &format!("holds {name:?}, which cannot be a namespace"),
                    "use letters, digits and -",
                );
            }
            if seen.contains(&name) {
                let problem = format!("names {name:?} twice");
                reader.wrong("namespaces", &problem, "name each once");
            }
            seen.push(name);
        }
    }
}

/// What Nomad takes for the name of a namespace.
fn is_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (1..=128).contains(&name.len()) && name.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Inputs, load};
    use super::*;

    fn read(text: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, String> {
        let own = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter();
            pairs
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
                .collect()
        };
        load(&Inputs {
            file: Some(("lb.toml".into(), text.to_owned())),
            env: own(env),
            flags: own(flags),
            terminal: false,
        })
        .map(|loaded| loaded.config)
        .map_err(|mistakes| mistakes.to_string())
    }

    fn nomad(text: &str, env: &[(&str, &str)]) -> NomadConfig {
        read(text, env, &[]).unwrap().nomad.unwrap()
    }

    #[test]
    fn variables_of_nomad_alone_turn_nothing_on_and_fill_what_is_not_set() {
        let env = [
            ("NOMAD_ADDR", "https://n:1"),
            ("NOMAD_NAMESPACE", "apps"),
            ("NOMAD_TOKEN", "secret"),
            ("NOMAD_REGION", "eu"),
            ("NOMAD_CACERT", "ca"),
        ];
        let without = read("", &env, &[]).unwrap();
        assert_eq!((without.nomad, without.consul.is_some()), (None, true));

        let filled = nomad("[nomad]\n", &env);
        assert_eq!(filled.address, "https://n:1");
        assert_eq!(filled.namespaces, ["apps"]);
        assert_eq!(filled.region.as_deref(), Some("eu"));
        assert_eq!(filled.token.as_ref().map(Secret::reveal), Some("secret"));
        assert_eq!(filled.ca_file.as_deref(), Some(Path::new("ca")));

        let written = nomad(
            "[nomad]\nnamespaces = [\"a\", \"b\"]\ntoken_file = \"t\"\naddress = \"m:2\"\n",
            &env,
        );
        assert_eq!(written.namespaces, ["a", "b"], "the file goes first");
        assert_eq!(written.token, None);
        assert_eq!(written.address, "https://m:2", "a CA means https");
    }

    #[test]
    fn a_section_a_flag_or_a_variable_of_ours_turns_it_on_and_consul_off() {
        let by_flag = read("", &[], &[("nomad.address", "n:1")]).unwrap();
        let by_variable = read("", &[("LB_NOMAD_ADDRESS", "n:1")], &[]).unwrap();
        for config in [by_flag, by_variable] {
            assert_eq!(config.nomad.unwrap().address, "http://n:1");
            assert!(config.consul.is_none());
        }
        let both = read("[nomad]\n[consul]\n", &[], &[]).unwrap();
        assert!(both.nomad.is_some() && both.consul.is_some());
        let socket = [("NOMAD_UNIX_ADDR", "unix:///secrets/api.sock")];
        let place = nomad("[nomad]\n", &socket);
        assert_eq!(
            place.place(),
            NomadAddress::Socket(Path::new("/secrets/api.sock"))
        );
        assert_eq!(nomad("[nomad]\n", &[]).address, "http://127.0.0.1:4646");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, problem) in [
            ("address = \"ftp://h\"", "is not a URL of a Nomad agent"),
            (
                "address = \"http://h:1/x\"",
                "is not a URL of a Nomad agent",
            ),
            ("address = \"http://u:p@h:1\"", "holds credentials"),
            ("address = \"unix://x\"", "whole path"),
            ("cert_file = \"c\"", "nomad.key_file"),
            ("key_file = \"c\"", "nomad.cert_file"),
            ("namespaces = []", "namespaces"),
            ("namespaces = [\"*\"]", "one by one"),
            ("namespaces = [\"a/b\"]", "cannot be a namespace"),
            ("namespaces = [\"a\", \"a\"]", "twice"),
            ("server_name = \"1.2.3.4\"", "server_name"),
            ("region = \"a b\"", "region"),
            ("health = \"probe\"", "is not a known key"),
        ] {
            let read = read(&format!("[nomad]\n{text}\n"), &[], &[]);
            let mistakes = read.err().unwrap_or_else(|| panic!("{text} is accepted"));
            assert!(mistakes.contains(problem), "{text}: {mistakes}");
            assert!(!mistakes.contains("u:p"), "{mistakes}");
        }
    }
}
