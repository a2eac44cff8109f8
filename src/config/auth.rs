//! `[auth.NAME]`: the schemes that routes name with `auth=`.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;

use super::declare::{Checked, section};
use super::key::{DAY, MINUTE};
use super::mask::without_secrets_if_set;
use super::reader::Reader;
use super::secret::Secret;
use super::url::parse_url;
use super::words::words;
use crate::catalog::field_edits::FRAMING;

/// A file that is looked at is looked at no oftener than this.
const REFRESH_MIN: Duration = Duration::from_secs(1);

section! {
    /// Users who may use routes with auth=NAME in their tag; a name that is not configured here
    /// refuses every request (503). Short form: --auth 'main;file=users.htpasswd'.
    pub struct AuthConfig is Named "auth" {
        /// basic: name and password (RFC 7617), looked up in a file. external: a service decides
        /// about each request.
        by as "type": AuthType = "basic";

        /// Names and passwords as htpasswd writes them: bcrypt, MD5, SHA, SSHA, SHA-crypt or plain.
        /// Without the file all requests are refused.
        file: Option<PathBuf> = unset "users.htpasswd";

        /// What browsers show when they want name and password. Without it: NAME.
        realm: Option<String> = unset "shop";

        /// How often its time stamp is looked at; below 1s counts as 1s. 0s: it is read at start
        /// and at a reload alone.
        refresh: Option<Duration> = "1s" in (0, DAY);

        /// For type = "external": the URL of the service. It gets a GET with the request's header,
        /// and without its body. X-Forwarded-Method, -Uri, -Host, -Proto, -Port, -Prefix, -For,
        /// X-Real-Ip and Forwarded are written here, whatever the client says. 2xx lets the request
        /// in; any other response, a redirect too, goes to the client; 502 when none comes.
        endpoint: Option<Secret> = unset "http://127.0.0.1:4180/oauth2/auth" => without_secrets_if_set;

        /// Header fields of its response that replace those of the request, and those that differ
        /// in `_`, `.` or case alone.
        set_headers: Option<Vec<String>> = "";

        /// Header fields of its response that are added to those of the request.
        append_headers: Option<Vec<String>> = "";

        /// Limit for its response.
        timeout: Option<Duration> = "5s" in (10, MINUTE);
    } and {
        /// How it decides.
        kind: AuthKind;
    }
}

words! {
    /// What kind of scheme it is.
    pub enum AuthType {
        /// Name and password.
        Basic = "basic",
        /// A service that decides.
        External = "external",
    }
}

/// How a scheme decides.
#[derive(Clone, Debug, PartialEq)]
pub enum AuthKind {
    /// By name and password (RFC 7617).
    Basic {
        /// In the format of htpasswd.
        file: PathBuf,
        /// What clients are shown; text that may stand in a quoted string of a header.
        realm: String,
        /// How often the file's time stamp is looked at; zero: never.
        refresh: Duration,
    },
    /// By a service that decides about each request.
    External(ExternalAuth),
}

/// A service that decides.
#[derive(Clone, Debug, PartialEq)]
pub struct ExternalAuth {
    /// An `http` or `https` URL, which may hold a password.
    pub endpoint: Secret,
    /// Fields of its response that replace those of the request.
    pub set_headers: Vec<HeaderName>,
    /// Fields of its response that are added to those of the request.
    pub append_headers: Vec<HeaderName>,
    /// Limit for its response.
    pub timeout: Duration,
}

impl Default for AuthKind {
    fn default() -> Self {
        Self::Basic {
            file: PathBuf::new(),
            realm: String::new(),
            refresh: Duration::ZERO,
        }
    }
}

impl Checked for AuthConfig {
    fn prepare(reader: &mut Reader<'_>) {
        let others: &[&str] = match reader.peek("type") {
            AuthType::Basic => &["endpoint", "set_headers", "append_headers", "timeout"],
            AuthType::External => &["file", "realm", "refresh"],
        };
        others.iter().for_each(|key| reader.leave_out(key));
    }

    fn check(&mut self, reader: &mut Reader<'_>) {
        self.kind = match self.by {
            AuthType::Basic => self.basic(reader),
            AuthType::External => AuthKind::External(self.external(reader)),
        };
    }
}

impl AuthConfig {
    fn basic(&mut self, reader: &mut Reader<'_>) -> AuthKind {
        if self.file.is_none() {
            reader.wrong(
                "file",
                "is missing",
                "name the file with names and passwords, as htpasswd writes it",
            );
        }
        let realm = self
            .realm
            .get_or_insert_with(|| reader.own_name().to_owned());
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
        let refresh = match self.refresh.unwrap_or_default() {
            Duration::ZERO => Duration::ZERO,
            time => time.max(REFRESH_MIN),
        };
        self.refresh = Some(refresh);
        AuthKind::Basic {
            file: self.file.get_or_insert_default().clone(),
            realm: realm.clone(),
            refresh,
        }
    }

    fn external(&mut self, reader: &mut Reader<'_>) -> ExternalAuth {
        let endpoint = self.endpoint.get_or_insert_default();
        if endpoint.reveal().is_empty() {
            reader.wrong(
                "endpoint",
                "is missing",
                "write the URL of the service, as in \"http://127.0.0.1:4180/oauth2/auth\"",
            );
        } else if parse_url(endpoint.reveal()).is_none() {
            reader.wrong(
                "endpoint",
                "is not an http:// or https:// URL",
                "write it like \"http://127.0.0.1:4180/oauth2/auth\"",
            );
        }
        ExternalAuth {
            endpoint: endpoint.clone(),
            set_headers: names(reader, "set_headers", &mut self.set_headers),
            append_headers: names(reader, "append_headers", &mut self.append_headers),
            timeout: self.timeout.unwrap_or_default(),
        }
    }
}

/// Names of header fields, which are settled on the way.
fn names(reader: &mut Reader<'_>, key: &str, texts: &mut Option<Vec<String>>) -> Vec<HeaderName> {
    let mut names = Vec::new();
    for text in texts.iter().flatten() {
        match text.parse::<HeaderName>() {
            Ok(name) if FRAMING.contains(&name) => {
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
    *texts = Some(names.iter().map(|name| name.as_str().to_owned()).collect());
    names
}
