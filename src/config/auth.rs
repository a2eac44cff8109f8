//! `[auth.NAME]`: the schemes that routes name with `auth=`.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;

use super::auth_jwt::{JwtAuth, JwtSettings, SigningAlgorithm};
use super::declare::{Checked, section};
use super::key::{DAY, MINUTE};
use super::mask::without_secrets_if_set;
use super::raw::Placed;
use super::reader::Reader;
use super::secret::Secret;
use super::url::parse_url;
use super::words::words;
use crate::catalog::field_edits::FRAMING;

/// A file that is looked at is looked at no oftener than this.
const REFRESH_MIN: Duration = Duration::from_secs(1);

/// The keys that mean something for a type.
const KEYS: [(AuthType, &[&str]); 3] = [
    (AuthType::Basic, &["file", "realm", "refresh"]),
    (
        AuthType::External,
        &["endpoint", "set_headers", "append_headers", "timeout"],
    ),
    (
        AuthType::Jwt,
        &[
            "issuer",
            "audiences",
            "jwks_url",
            "ca_file",
            "keys_file",
            "algorithms",
            "claims_to_headers",
            "require",
            "exp_required",
            "forward_token",
            "timeout",
        ],
    ),
];

section! {
    /// Which requests may use routes with auth=NAME in their tag; a name that is not configured here
    /// refuses every one (503). Short form: --auth 'main;file=users.htpasswd'.
    pub struct AuthConfig is Named "auth" {
        /// basic: name and password (RFC 7617), looked up in a file. external: a service decides
        /// about each request. jwt: a token in Authorization: Bearer, signed by a known key.
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

        /// Limit for its response, or, for type = "jwt", for the keys.
        timeout: Option<Duration> = "5s" in (10, MINUTE);

        /// For type = "jwt": the iss that a token must have. Without it: any.
        issuer: Option<String> = unset "https://id.example.com/realms/shop";

        /// The aud of a token must be, or hold, one of these. Without it: any.
        audiences: Option<Vec<String>> = unset "shop-api";

        /// Where the keys are that sign tokens, as a JWKS. Fetched again when Cache-Control of the
        /// response says, else every 5m, and when a token names an unknown key, at most every 10s.
        /// While there are no keys the routes respond 503; while the URL is away the known ones
        /// are used.
        jwks_url: Option<Secret> = unset "https://id.example.com/realms/shop/protocol/openid-connect/certs" => without_secrets_if_set;

        /// CAs that the certificate of jwks_url must come from. Without it: proxy.upstream_ca_file,
        /// or those of the system.
        ca_file: Option<PathBuf> = unset "id-ca.pem";

        /// A file with the keys instead: a JWKS, or public keys and certificates in PEM. Read again
        /// when it changes.
        keys_file: Option<PathBuf> = unset "keys.json";

        /// How tokens may be signed: all with public keys, unless some are named. HS256, HS384 and
        /// HS512 only where they are named, and with a keys_file alone.
        algorithms: Option<Vec<SigningAlgorithm>> =
            "ES256,ES384,EdDSA,RS256,RS384,RS512,PS256,PS384,PS512";

        /// Claims that instances are told, each in a field. What the client sent under these names,
        /// or names that could be taken for them, goes. Dots lead into objects.
        claims_to_headers: Option<Placed> = unset "{ sub = \"X-User\", \"realm_access.roles\" = \"X-Roles\" }";

        /// Claims that a token must have, with this text or in a list that holds it; others get
        /// 403.
        require: Option<Placed> = unset "{ role = \"admin\" }";

        /// Whether a token without exp is refused.
        exp_required: Option<bool> = "true";

        /// Whether instances get the token itself (Authorization).
        forward_token: Option<bool> = "true";
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
        /// A signed token.
        Jwt = "jwt",
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
    /// By a signed token.
    Jwt(Box<JwtAuth>),
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
        let kind: AuthType = reader.peek("type");
        let keys_of = |of: AuthType| KEYS.iter().filter(move |(kind, _)| *kind == of);
        let mine: Vec<&str> = keys_of(kind).flat_map(|(_, keys)| *keys).copied().collect();
        let all = KEYS.iter().flat_map(|(_, keys)| *keys);
        all.filter(|key| !mine.contains(key))
            .for_each(|key| reader.leave_out(key));
    }

    fn check(&mut self, reader: &mut Reader<'_>) {
        self.kind = match self.by {
            AuthType::Basic => self.basic(reader),
            AuthType::External => AuthKind::External(self.external(reader)),
            AuthType::Jwt => AuthKind::Jwt(Box::new(self.jwt().read(reader))),
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

    fn jwt(&self) -> JwtSettings<'_> {
        JwtSettings {
            issuer: self.issuer.as_deref(),
            audiences: self.audiences.as_deref().unwrap_or_default(),
            jwks_url: self.jwks_url.as_ref(),
            ca_file: self.ca_file.as_deref(),
            keys_file: self.keys_file.as_deref(),
            algorithms: self.algorithms.as_deref().unwrap_or_default(),
            claims_to_headers: self.claims_to_headers.as_ref(),
            require: self.require.as_ref(),
            exp_required: self.exp_required.unwrap_or(true),
            forward_token: self.forward_token.unwrap_or(true),
            timeout: self.timeout.unwrap_or_default(),
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
