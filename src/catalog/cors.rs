//! Cross-origin requests (`cors` of `[policy.NAME]`; <https://fetch.spec.whatwg.org/#http-cors-protocol>):
//! which origins may read responses, and what is told to their browsers.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// Fields of a response that only the policy writes, whatever the instance says.
const OWN: [HeaderName; 7] = [
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
    HeaderName::from_static("access-control-allow-private-network"),
];
/// Stands for every origin, method or field.
const ANY: &str = "*";

/// What the configuration says.
#[derive(Clone, Debug, Default)]
pub struct CorsRules {
    /// Origins that may read responses.
    pub origins: Vec<String>,
    /// Methods that they may use, beside those of plain forms.
    pub methods: Vec<String>,
    /// Fields that they may send, beside those of plain forms.
    pub headers: Vec<String>,
    /// Fields of responses that their scripts may see.
    pub expose: Vec<String>,
    /// Whether cookies and credentials go along.
    pub credentials: bool,
    /// How long a browser may remember the response to a preflight, in seconds.
    pub max_age_s: Option<u64>,
}

/// The same, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    origins: Origins,
    methods: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    credentials: bool,
    max_age: Option<HeaderValue>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Origins {
    Any,
    Listed(Vec<Origin>),
}

/// Scheme, host and port (RFC 6454 section 4), in lower case. A label of a host that is to be
/// compared with may be `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: Option<u16>,
}

/// A part of the rules that cannot be carried out, and why.
pub type CorsMistake = (&'static str, String);

impl Cors {
    /// Reads the rules.
    ///
    /// # Errors
    /// The first part that cannot be carried out.
    pub fn new(rules: &CorsRules) -> Result<Self, CorsMistake> {
        let origins = origins(rules)?;
        let known = [
            "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT",
        ];
        let method = |text: &str| {
            let upper = text.to_ascii_uppercase();
            let is_misspelt = text != upper && known.contains(&&*upper);
            match Method::from_bytes(text.as_bytes()) {
                _ if is_misspelt => Err(format!("methods mind case: write {upper:?}")),
                Ok(_) => Ok(()),
                Err(_) => Err(format!("{text:?} is not a method")),
            }
        };
        let field = |text: &str| {
            let name = HeaderName::from_bytes(text.as_bytes());
            name.map(drop)
                .map_err(|_| format!("{text:?} is not the name of a field"))
        };
        Ok(Self {
            origins,
            methods: listed(rules, "methods", &rules.methods, method)?,
            headers: listed(rules, "headers", &rules.headers, field)?,
            expose: listed(rules, "expose", &rules.expose, field)?,
            credentials: rules.credentials,
            max_age: rules.max_age_s.map(HeaderValue::from),
        })
    }

    /// The fields of the response to a preflight from `origin`, beside those of every response.
    pub fn put_preflight(&self, origin: Option<&[u8]>, fields: &mut HeaderMap) {
        if !self.allows(origin) {
            return;
        }
        for (name, value) in [
            (ACCESS_CONTROL_ALLOW_METHODS, &self.methods),
            (ACCESS_CONTROL_ALLOW_HEADERS, &self.headers),
            (ACCESS_CONTROL_MAX_AGE, &self.max_age),
        ] {
            fields.extend(value.iter().map(|value| (name.clone(), value.clone())));
        }
    }

    /// Writes the fields of every response to a request from `origin` in the place of those that
    /// the instance wrote. `preflight`: those that only the response to one has are there already,
    /// and stay.
    pub fn put(&self, origin: Option<&[u8]>, preflight: bool, fields: &mut HeaderMap) {
        if !preflight {
            for name in &OWN {
                fields.remove(name);
            }
        }
        if self.is_the_same_for_all() {
            fields.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static(ANY));
        } else {
            vary_by_origin(fields);
            let allowed = origin.filter(|_| self.allows(origin));
            let Some(value) = allowed.and_then(|origin| HeaderValue::from_bytes(origin).ok())
            else {
                return;
            };
            fields.insert(ACCESS_CONTROL_ALLOW_ORIGIN, value);
        }
        if self.credentials {
            let value = HeaderValue::from_static("true");
            fields.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, value);
        }
        if let (Some(expose), false) = (&self.expose, preflight) {
            fields.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }

    /// Whether responses say the same whatever the origin.
    fn is_the_same_for_all(&self) -> bool {
        self.origins == Origins::Any && !self.credentials
    }

    fn allows(&self, origin: Option<&[u8]>) -> bool {
        match &self.origins {
            Origins::Any => true,
            Origins::Listed(list) => origin
                .and_then(|origin| std::str::from_utf8(origin).ok())
                .and_then(Origin::parse)
                .is_some_and(|origin| list.iter().any(|listed| listed.matches(&origin))),
        }
    }
}

fn origins(rules: &CorsRules) -> Result<Origins, CorsMistake> {
    let wrong = |why: String| Err(("origins", why));
    if rules.origins.is_empty() {
        return wrong("name the origins, like [\"https://shop.example.com\"]".to_owned());
    }
    if rules.origins.iter().any(|text| text == ANY) {
        if rules.credentials {
            return Err((
                "credentials",
                "\"*\" with credentials would let every site act for its visitors: list the origins"
                    .to_owned(),
            ));
        }
        return Ok(Origins::Any);
    }
    let mut list = Vec::new();
    for text in &rules.origins {
        if text.eq_ignore_ascii_case("null") {
            return wrong("\"null\" is what every sandboxed page is: list real origins".to_owned());
        }
        match Origin::parse(text).filter(Origin::has_whole_globs) {
            Some(origin) => list.push(origin),
            None => {
                return wrong(format!(
                    "{text:?} is not an origin: write it like https://shop.example.com, \
                     https://*.example.com or http://localhost:3000"
                ));
            }
        }
    }
    Ok(Origins::Listed(list))
}

/// A list as the value of a field; none for an empty one.
fn listed(
    rules: &CorsRules,
    part: &'static str,
    list: &[String],
    check: impl Fn(&str) -> Result<(), String>,
) -> Result<Option<HeaderValue>, CorsMistake> {
    for text in list {
        if text == ANY && rules.credentials {
            return Err((
                part,
                "with credentials, \"*\" means the name `*` to browsers: list the names".to_owned(),
            ));
        }
        if text != ANY {
            check(text).map_err(|why| (part, why))?;
        }
    }
    let joined = HeaderValue::try_from(list.join(", "));
    let joined = joined.map_err(|_| (part, "it cannot be sent".to_owned()))?;
    Ok((!list.is_empty()).then_some(joined))
}

/// Adds `Origin` to what the response depends on.
fn vary_by_origin(fields: &mut HeaderMap) {
    let names_it = |value: &HeaderValue| {
        value.as_bytes().split(|byte| *byte == b',').any(|name| {
            let name = name.trim_ascii();
            name == b"*" || name.eq_ignore_ascii_case(b"origin")
        })
    };
    if !fields.get_all(VARY).iter().any(names_it) {
        fields.append(VARY, HeaderValue::from_static("Origin"));
    }
}

impl Origin {
    /// `SCHEME://HOST`, with `:PORT` or without.
    fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let (scheme, rest) = text.split_once("://")?;
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let (host, port) = match rest.rsplit_once(':') {
            // A colon inside an address of IPv6.
            Some((_, after)) if after.ends_with(']') => (rest, None),
            Some((host, port)) => {
                let digits = port.bytes().all(|byte| byte.is_ascii_digit());
                (host, Some(port.parse().ok().filter(|_| digits)?))
            }
            None => (rest, None),
        };
        let is_host = match host.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => host.split('.').all(|label| {
                let stays = |byte: u8| byte.is_ascii_alphanumeric() || b"-_*".contains(&byte);
                !label.is_empty() && label.bytes().all(stays)
            }),
        };
        let usual = match scheme {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        (is_scheme && is_host).then(|| Self {
            scheme: scheme.to_owned(),
            host: host.to_owned(),
            port: port.filter(|port| Some(*port) != usual),
        })
    }

    /// Whether `*` stands for whole labels alone, and not for all of them.
    fn has_whole_globs(&self) -> bool {
        let mut labels = self.host.split('.');
        let whole = labels.all(|label| label == ANY || !label.contains('*'));
        whole && self.host.split('.').any(|label| label != ANY)
    }

    /// Whether this one, which may hold `*`, stands for `origin`.
    fn matches(&self, origin: &Self) -> bool {
        let (mut own, mut its) = (self.host.split('.'), origin.host.split('.'));
        (&self.scheme, self.port) == (&origin.scheme, origin.port)
            && loop {
                match (own.next(), its.next()) {
                    (None, None) => break true,
                    (Some(own), Some(its)) if its != ANY && (own == its || own == ANY) => {}
                    _ => break false,
                }
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    fn cors(origins: &[&str], credentials: bool) -> Cors {
        let rules = CorsRules {
            origins: texts(origins),
            methods: texts(&["GET", "PUT"]),
            headers: texts(&["Content-Type", "X-Token"]),
            expose: texts(&["X-Total"]),
            credentials,
            max_age_s: Some(600),
        };
        Cors::new(&rules).unwrap()
    }

    #[test]
    fn origins_are_compared_as_rfc_6454_says() {
        let listed = [
            "https://shop.example.com",
            "https://*.apps.test",
            "http://localhost:3000",
        ];
        let cors = cors(&listed, true);
        for (origin, allowed) in [
            ("https://shop.example.com", true),
            ("HTTPS://Shop.Example.COM", true),
            ("https://shop.example.com:443", true),
            ("https://shop.example.com:444", false),
            ("http://shop.example.com", false),
            ("https://shop.example.com.", false),
            ("https://xshop.example.com", false),
            ("https://shop.example.com.evil.test", false),
            ("https://a.apps.test", true),
            ("https://A.Apps.test", true),
            ("https://apps.test", false),
            ("https://a.b.apps.test", false),
            ("https://.apps.test", false),
            ("https://*.apps.test", false),
            ("https://evil.test/.apps.test", false),
            ("https://evil.test#a.apps.test", false),
            ("https://user@a.apps.test", false),
            ("http://localhost:3000", true),
            ("http://localhost", false),
            ("http://localhost:+3000", false),
            ("null", false),
            ("", false),
            ("https://", false),
        ] {
            let mut fields = HeaderMap::new();
            cors.put(Some(origin.as_bytes()), false, &mut fields);
            let told = fields.get(ACCESS_CONTROL_ALLOW_ORIGIN);
            let told = told.map(|value| value.to_str().unwrap());
            // As the browser wrote it: that is what it compares with.
            assert_eq!(told, allowed.then_some(origin), "{origin}");
            assert_eq!(fields[VARY], "Origin", "{origin}");
            assert_eq!(
                fields.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS),
                allowed,
                "{origin}"
            );
        }
        for (listed, origin) in [
            ("http://[::1]:80", "http://[::1]"),
            ("capacitor://localhost", "capacitor://localhost"),
        ] {
            assert!(
                self::cors(&[listed], false).allows(Some(origin.as_bytes())),
                "{listed}"
            );
        }
        assert!(!cors.allows(None));
    }

    #[test]
    fn what_the_instance_says_is_replaced() {
        let came = |vary: Option<&'static str>| {
            let mut fields = HeaderMap::new();
            for name in &OWN {
                fields.append(name, HeaderValue::from_static("instance"));
                fields.append(name, HeaderValue::from_static("twice"));
            }
            fields.extend(vary.map(|vary| (VARY, HeaderValue::from_static(vary))));
            fields
        };
        for (cors, origin, vary, expected) in [
            (
                cors(&["*"], false),
                None,
                None,
                "access-control-allow-origin: * access-control-expose-headers: X-Total",
            ),
            (
                cors(&["https://a.test"], true),
                Some("https://a.test"),
                Some("accept, ORIGIN"),
                "access-control-allow-credentials: true access-control-allow-origin: https://a.test \
                 access-control-expose-headers: X-Total vary: accept, ORIGIN",
            ),
            (
                cors(&["https://a.test"], true),
                Some("https://b.test"),
                Some("accept"),
                "vary: Origin vary: accept",
            ),
            (cors(&["https://a.test"], false), None, None, "vary: Origin"),
        ] {
            let mut fields = came(vary);
            cors.put(origin.map(str::as_bytes), false, &mut fields);
            let mut shown: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
                .collect();
            shown.sort();
            assert_eq!(shown.join(" "), expected);
        }
    }

    #[test]
    fn rules_that_cannot_be_carried_out() {
        type Change = fn(&mut CorsRules);
        let cases: [(&str, Change); 15] = [
            ("origins", |it| it.origins.clear()),
            ("origins", |it| it.origins = texts(&["example.com"])),
            ("origins", |it| it.origins = texts(&["https://a.test/"])),
            ("origins", |it| it.origins = texts(&["https://a.test/x"])),
            ("origins", |it| it.origins = texts(&["https://a*.test"])),
            ("origins", |it| it.origins = texts(&["https://*"])),
            ("origins", |it| it.origins = texts(&["*://a.test"])),
            ("origins", |it| {
                it.origins = texts(&["https://a.test:99999"])
            }),
            ("origins", |it| it.origins = texts(&["null"])),
            ("credentials", |it| {
                it.origins = texts(&["https://a.test", "*"]);
                it.credentials = true;
            }),
            ("methods", |it| {
                it.methods = texts(&["*"]);
                it.credentials = true;
            }),
            ("methods", |it| it.methods = texts(&["put"])),
            ("methods", |it| it.methods = texts(&["GET POST"])),
            ("headers", |it| it.headers = texts(&["X Y"])),
            ("expose", |it| it.expose = texts(&["X:Y"])),
        ];
        for (part, change) in cases {
            let mut rules = CorsRules {
                origins: texts(&["https://a.test"]),
                ..CorsRules::default()
            };
            assert!(Cors::new(&rules).is_ok());
            change(&mut rules);
            let (told, why) = Cors::new(&rules).expect_err(part);
            assert_eq!(told, part, "{why}");
        }
    }
}
