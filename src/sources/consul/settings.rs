//! `[consul]` made ready for dialling: agents parsed, certificates and token read.
//!
//! Made anew at every reload. Files are read here and nowhere else, so a reload that fails leaves
//! the old settings whole.

use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderValue;
use http::uri::PathAndQuery;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::ClientConfig;

use super::error::ConsulError;
use super::expiry::Expiry;
use super::key_file::read;
use super::tls;
use crate::config::{ConsulConfig, Secret};

/// Everything that a request to Consul needs, but the connection.
#[derive(Debug)]
pub(super) struct Settings {
    /// Agents, in the order of preference.
    pub(super) agents: Vec<Agent>,
    /// TLS; absent when no agent needs it.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// When the certificates behind it end.
    pub(super) certificates: Vec<Expiry>,
    /// Name to verify instead of the agent's host.
    pub(super) server_name: Option<String>,
    /// `Authorization: Basic`, for something in front of Consul, marked sensitive likewise.
    pub(super) auth: Option<HeaderValue>,
    /// `X-Consul-Token`, marked sensitive: its debug form hides the value.
    pub(super) token: Option<HeaderValue>,
    /// `&ns=…&partition=…&dc=…`, ready to be appended.
    pub(super) scope: String,
    /// Certificates that were left out, or are used outside their validity period, in words.
    pub(super) problems: Vec<String>,
    /// Why no agent may be dialled with these settings.
    pub(super) broken: Option<ConsulError>,
}

/// One address of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Agent {
    /// As configured, for messages.
    pub(super) name: String,
    /// How to get there.
    pub(super) transport: Transport,
    /// What stands before the paths of the API, for an agent behind a proxy that takes it away
    /// again; empty, or `/…`.
    pub(super) prefix: String,
}

/// How an agent is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    /// TCP, with or without TLS.
    Tcp {
        /// Name or IP address, without brackets.
        host: String,
        port: u16,
        /// `https`.
        tls: bool,
    },
    /// A unix socket, plain HTTP.
    Unix(PathBuf),
}

impl Settings {
    /// Reads what the configuration names.
    ///
    /// # Errors
    /// [`ConsulError::Value`] for an address, [`ConsulError::File`] for a file that cannot be read
    /// or understood.
    pub(super) fn load(config: &ConsulConfig) -> Result<Self, ConsulError> {
        let agents = config
            .addresses
            .iter()
            .map(|address| Agent::parse(address))
            .collect::<Result<Vec<_>, _>>()?;
        if agents.is_empty() {
            let reason = "no agent given: write for example https://127.0.0.1:8501".to_owned();
            return Err(ConsulError::Value {
                key: "address",
                value: String::new(),
                reason,
            });
        }
        let needs_tls = agents.iter().any(Agent::is_tls);
        let mut problems = Vec::new();
        let (tls, certificates) = match needs_tls
            .then(|| tls::client_config(config, &mut problems))
            .transpose()?
        {
            Some((tls, certificates)) => (Some(Arc::new(tls)), certificates),
            None => (None, Vec::new()),
        };
        Ok(Self {
            agents,
            tls,
            certificates,
            server_name: config.server_name.clone(),
            auth: config
                .http_auth
                .as_ref()
                .map(Secret::reveal)
                .filter(|auth| !auth.is_empty())
                .map(basic),
            token: token(config)?,
            scope: scope(config),
            problems,
            broken: None,
        })
    }

    /// As [`Settings::load`]; where a file cannot be used, settings with which no agent is dialled:
    /// nothing may be sent to one that is not verified, or without the token. They are replaced
    /// when the file changes.
    ///
    /// # Errors
    /// [`ConsulError::Value`], which no file can mend.
    pub(super) fn load_or_wait(config: &ConsulConfig) -> Result<Self, ConsulError> {
        match Self::load(config) {
            Err(error @ ConsulError::File { .. }) => Ok(Self {
                agents: config
                    .addresses
                    .iter()
                    .map(|address| Agent::parse(address))
                    .collect::<Result<_, _>>()?,
                tls: None,
                certificates: Vec::new(),
                server_name: None,
                auth: None,
                token: None,
                scope: scope(config),
                problems: vec![error.to_string()],
                broken: Some(error),
            }),
            loaded => loaded,
        }
    }
}

/// Credentials and agents of a read: what was seen of the catalog holds as long as this stays the
/// same. Its debug form hides the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reader {
    auth: Option<HeaderValue>,
    token: Option<HeaderValue>,
    scope: String,
    agents: Vec<Agent>,
}

impl Settings {
    /// The reader with these settings.
    pub(super) fn reader(&self) -> Reader {
        Reader {
            auth: self.auth.clone(),
            token: self.token.clone(),
            scope: self.scope.clone(),
            agents: self.agents.clone(),
        }
    }
}

impl Agent {
    /// Parses `http://`, `https://` and `unix://`; a bare `host:port` means `http://`, as Consul's
    /// own tools read it. So does a path behind the port.
    pub(super) fn parse(address: &str) -> Result<Self, ConsulError> {
        // Credentials in it must not get into a log.
        let shown = if address.contains('@') {
            "(hidden)"
        } else {
            address
        };
        let bad = |reason: &str| ConsulError::Value {
            key: "address",
            value: shown.to_owned(),
            reason: reason.to_owned(),
        };
        let (scheme, rest) = address
            .trim()
            .split_once("://")
            .unwrap_or(("http", address.trim()));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let mut prefix = path.trim_end_matches('/').to_owned();
        let transport = match scheme.to_ascii_lowercase().as_str() {
            "unix" if rest.is_empty() => return Err(bad("no path after unix://")),
            "unix" => {
                prefix.clear();
                Transport::Unix(rest.into())
            }
            "http" => tcp(authority, false).ok_or_else(|| bad("expected http://HOST:PORT"))?,
            "https" => tcp(authority, true).ok_or_else(|| bad("expected https://HOST:PORT"))?,
            _ => return Err(bad("unknown scheme: http, https or unix")),
        };
        let is_path = |text: &str| {
            text.parse()
                .is_ok_and(|path: PathAndQuery| path.query().is_none())
        };
        if !prefix.is_empty() && !is_path(&prefix) {
            return Err(bad("the path behind the port is not one of a URL"));
        }
        Ok(Self {
            name: address.trim().to_owned(),
            transport,
            prefix,
        })
    }

    /// Whether TLS is spoken.
    pub(super) fn is_tls(&self) -> bool {
        matches!(self.transport, Transport::Tcp { tls: true, .. })
    }

    /// Scheme and authority for request targets.
    pub(super) fn authority(&self) -> (&'static str, String) {
        match &self.transport {
            Transport::Tcp { host, port, tls } => {
                let scheme = if *tls { "https" } else { "http" };
                let host = if host.contains(':') {
                    format!("[{host}]")
                } else {
                    host.clone()
                };
                (scheme, format!("{host}:{port}"))
            }
            Transport::Unix(_) => ("http", "localhost".to_owned()),
        }
    }
}

fn tcp(rest: &str, tls: bool) -> Option<Transport> {
    let authority: http::uri::Authority = rest.parse().ok()?;
    // Credentials before an `@` would end up in logs: they make the prefix differ, and are refused.
    let after_host = rest.strip_prefix(authority.host())?;
    let port = match after_host.strip_prefix(':') {
        Some(port) => port.parse().ok().filter(|&port| port != 0)?,
        None if after_host.is_empty() => {
            if tls {
                8501
            } else {
                8500
            }
        }
        None => return None,
    };
    let host = authority.host();
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    if host.is_empty() {
        None
    } else {
        Some(Transport::Tcp {
            host: host.to_owned(),
            port,
            tls,
        })
    }
}

/// `USER:PASSWORD` as HTTP sends it (RFC 7617); without a colon, all of it is the user's name.
fn basic(auth: &str) -> HeaderValue {
    let text = if auth.contains(':') {
        auth.to_owned()
    } else {
        format!("{auth}:")
    };
    // Base64 has no character that a header may not have.
    let mut value = HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(text)))
        .unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

fn token(config: &ConsulConfig) -> Result<Option<HeaderValue>, ConsulError> {
    let text = match (&config.token_file, &config.token) {
        (Some(path), _) => {
            read("token_file", path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())?
        }
        (None, Some(token)) => token.reveal().to_owned(),
        (None, None) => return Ok(None),
    };
    let text = text.trim();
    if text.is_empty() {
        return match &config.token_file {
            // Being rewritten, most likely. Going on with the rights of the anonymous token would
            // be a guess.
            Some(path) => {
                let reason = "is empty: write the token into it, or leave the key out".to_owned();
                Err(ConsulError::File {
                    key: "token_file",
                    path: path.clone(),
                    reason,
                })
            }
            None => Ok(None),
        };
    }
    let mut value = HeaderValue::from_str(text).map_err(|_| ConsulError::Value {
        key: if config.token_file.is_some() {
            "token_file"
        } else {
            "token"
        },
        value: "(hidden)".to_owned(),
        reason: "holds characters that cannot stand in a header; a token is a UUID on one line"
            .to_owned(),
    })?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn scope(config: &ConsulConfig) -> String {
    let mut scope = String::new();
    for (key, value) in [
        ("ns", &config.namespace),
        ("partition", &config.partition),
        ("dc", &config.datacenter),
    ] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            scope.push_str(&format!(
                "&{key}={}",
                utf8_percent_encode(value, NON_ALPHANUMERIC)
            ));
        }
    }
    scope
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tcp(host: &str, port: u16, tls: bool) -> Option<Transport> {
        Some(Transport::Tcp {
            host: host.to_owned(),
            port,
            tls,
        })
    }

    #[test]
    fn addresses() {
        let cases = [
            ("https://127.0.0.1:8501", tcp("127.0.0.1", 8501, true)),
            (
                "HTTP://consul.example:80/",
                tcp("consul.example", 80, false),
            ),
            ("https://[::1]:8501", tcp("::1", 8501, true)),
            ("10.0.0.1:8500", tcp("10.0.0.1", 8500, false)),
            ("https://consul", tcp("consul", 8501, true)),
            ("consul", tcp("consul", 8500, false)),
            (
                "unix:///run/consul.sock",
                Some(Transport::Unix("/run/consul.sock".into())),
            ),
            ("unix://", None),
            ("ftp://x", None),
            ("http://", None),
            ("http://:8500", None),
            ("http://a:0", None),
            ("http://a:70000", None),
            ("http://a:", None),
            ("http://a b", None),
            ("http://user:secret@host:80", None),
            ("http://a:1/x?y", None),
            ("http://a:1/x y", None),
        ];
        for (address, expected) in cases {
            assert_eq!(
                Agent::parse(address).ok().map(|agent| agent.transport),
                expected,
                "{address}"
            );
        }
        let error = Agent::parse("http://user:secret@host:80")
            .unwrap_err()
            .to_string();
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn a_path_behind_the_port_stands_before_those_of_the_api() {
        for (address, prefix) in [
            ("http://a:1", ""),
            ("http://a:1/", ""),
            ("http://a:1/consul", "/consul"),
            ("https://a/x/y/", "/x/y"),
            ("a:1/consul", "/consul"),
            ("unix:///run/consul.sock", ""),
        ] {
            assert_eq!(Agent::parse(address).unwrap().prefix, prefix, "{address}");
        }
    }

    #[test]
    fn credentials_are_sent_as_http_does_and_never_shown() {
        for (auth, expected) in [
            ("user:pass", "Basic dXNlcjpwYXNz"),
            ("user", "Basic dXNlcjo="),
            ("user:a:b", "Basic dXNlcjphOmI="),
            (":p", "Basic OnA="),
        ] {
            let config = ConsulConfig {
                http_auth: Some(auth.into()),
                ..ConsulConfig::default()
            };
            let config = ConsulConfig {
                addresses: vec!["http://a:1".into()].into(),
                ..config
            };
            let settings = Settings::load(&config).unwrap();
            assert_eq!(settings.auth.as_ref().unwrap(), expected, "{auth}");
            assert!(!format!("{settings:?}").contains("Basic"), "{settings:?}");
        }
    }

    #[test]
    fn an_empty_token_file_is_an_error_and_not_the_anonymous_token() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let config = ConsulConfig {
            token_file: Some(path.clone()),
            ..ConsulConfig::default()
        };
        for empty in ["", "\n", " \t\r\n"] {
            fs::write(&path, empty).unwrap();
            let error = token(&config).unwrap_err();
            assert!(
                matches!(
                    error,
                    ConsulError::File {
                        key: "token_file",
                        ..
                    }
                ),
                "{empty:?}: {error}"
            );
        }
        fs::write(&path, " abc\n").unwrap();
        assert_eq!(token(&config).unwrap().unwrap(), "abc");
        assert_eq!(
            token(&ConsulConfig {
                token: Some(String::new().into()),
                ..ConsulConfig::default()
            })
            .unwrap(),
            None
        );
    }

    #[test]
    fn only_what_can_change_the_sight_of_the_catalog_makes_another_reader() {
        let load = |change: fn(&mut ConsulConfig)| {
            let mut config = ConsulConfig {
                addresses: vec!["http://a:1".into()].into(),
                ..ConsulConfig::default()
            };
            config.token = Some("one".into());
            change(&mut config);
            Settings::load(&config).unwrap().reader()
        };
        let before = load(|_| ());
        assert_eq!(before, load(|config| config.max_connections += 1));
        assert_ne!(before, load(|config| config.token = Some("two".into())));
        assert_ne!(before, load(|config| config.token = None));
        assert_ne!(
            before,
            load(|config| config.namespace = Some("team".into()))
        );
        assert_ne!(
            before,
            load(|config| config.addresses = vec!["http://b:1".into()].into())
        );
    }

    #[test]
    fn ipv6_keeps_its_brackets_in_the_authority() {
        assert_eq!(
            Agent::parse("https://[::1]:8501").unwrap().authority(),
            ("https", "[::1]:8501".to_owned())
        );
    }
}
