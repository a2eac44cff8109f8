//! `[auth.NAME]`: the schemes that routes name with `auth=`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;

use super::keys::section;
use super::mistake::Mistake;
use super::raw::Settings;
use super::reader::Reader;
use super::secret::Secret;

/// A file that is looked at is looked at no oftener than this.
const REFRESH_MIN: Duration = Duration::from_secs(1);

/// One `[auth.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthConfig {
    /// How it decides (`type`).
    pub kind: AuthKind,
}

/// How a scheme decides.
#[derive(Clone, Debug, PartialEq)]
pub enum AuthKind {
    /// By name and password (RFC 7617).
    Basic {
        /// In the format of htpasswd.
        file: PathBuf,
        /// What clients are told; text that may stand in a quoted string of a header.
        realm: String,
        /// How often the file's time stamp is looked at; zero: never.
        refresh: Duration,
    },
    /// By a service that is asked about each request.
    External(ExternalAuth),
}

/// A service that decides.
#[derive(Clone, Debug, PartialEq)]
pub struct ExternalAuth {
    /// What is asked: an `http` or `https` URL, which may hold a password.
    pub endpoint: Secret,
    /// Fields of its answer that replace those of the request.
    pub set_headers: Vec<HeaderName>,
    /// Fields of its answer that are added to those of the request.
    pub append_headers: Vec<HeaderName>,
    /// Limit for its answer.
    pub timeout: Duration,
}

/// Fields that frame a message, or belong to a connection: nobody else's to set.
const FRAMING: [&str; 8] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "te",
    "trailer",
    "keep-alive",
];

/// Reads the schemes.
pub(super) fn schemes(
    settings: &Settings,
    mistakes: &mut Vec<Mistake>,
) -> BTreeMap<String, AuthConfig> {
    let section = section("auth").expect("names of sections in this crate are in the table");
    let groups = settings.named.get("auth").into_iter().flatten();
    groups
        .map(|(name, group)| {
            let mut reader = Reader::new(section, format!("auth.{name}"), group, mistakes);
            let kind = match reader.text("type").as_deref() {
                Some("external") => AuthKind::External(external(&mut reader)),
                _ => basic(&mut reader, name),
            };
            (name.clone(), AuthConfig { kind })
        })
        .collect()
}

fn basic(reader: &mut Reader<'_>, name: &str) -> AuthKind {
    let file = reader.path("file");
    if file.is_none() {
        reader.wrong(
            "file",
            "is missing",
            "name the file with names and passwords, as htpasswd writes it",
        );
    }
    let realm = reader.text("realm").unwrap_or_else(|| name.to_owned());
    if realm
        .chars()
        .any(|c| c.is_control() || !c.is_ascii() || c == '"' || c == '\\')
    {
        reader.wrong(
            "realm",
            "cannot stand in a header",
            "use printable ASCII characters without \" and \\",
        );
    }
    let refresh = match reader.time("refresh") {
        Duration::ZERO => Duration::ZERO,
        time => time.max(REFRESH_MIN),
    };
    AuthKind::Basic {
        file: file.unwrap_or_default(),
        realm,
        refresh,
    }
}

fn external(reader: &mut Reader<'_>) -> ExternalAuth {
    let endpoint = reader.text_or_empty("endpoint");
    let url = endpoint.parse::<http::Uri>().ok();
    let fits = url.is_some_and(|url| {
        matches!(url.scheme_str(), Some("http" | "https"))
            && url.host().is_some_and(|host| !host.is_empty())
    });
    if endpoint.is_empty() {
        reader.wrong(
            "endpoint",
            "is missing",
            "write the URL that is asked, as in \"http://127.0.0.1:4180/oauth2/auth\"",
        );
    } else if !fits {
        reader.wrong(
            "endpoint",
            "is no http:// or https:// URL",
            "write it like \"http://127.0.0.1:4180/oauth2/auth\"",
        );
    }
    ExternalAuth {
        endpoint: Secret::new(endpoint),
        set_headers: names(reader, "set_headers"),
        append_headers: names(reader, "append_headers"),
        timeout: reader.time("timeout"),
    }
}

fn names(reader: &mut Reader<'_>, key: &str) -> Vec<HeaderName> {
    let mut names = Vec::new();
    for text in reader.list(key) {
        match text.parse::<HeaderName>() {
            Ok(name) if FRAMING.contains(&name.as_str()) => {
                let problem = format!("holds {text:?}, which belongs to the connection");
                reader.wrong(key, &problem, "take it out");
            }
            Ok(name) => names.push(name),
            Err(_) => {
                let problem = format!("holds {text:?}, which is not the name of a header");
                reader.wrong(key, &problem, "write names like \"X-Auth-User\"");
            }
        }
    }
    names
}
