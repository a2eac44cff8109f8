//! Reads the options of a route tag or route command (`strip=/x proto=https …`), and writes them as
//! Fabio shows them.
//!
//! One bad option never takes anything else with it than the tag or line that holds it. Three
//! degrees: an error (the target would do something else than the tag says: a weight that is not a
//! number, a broken redirect), a warning (the option is left out, or an access rule that cannot be
//! read refuses every client), and an unknown option (kept in `raw`, without effect).

use std::sync::Arc;

use super::access::access;
use super::matchers::{MatcherError, MatchersReader};
use super::options::{Access, HostRewrite, Proto, ProxyHeader, Redirect, RouteOptions};
use super::other_services::{Mirror, service_name};
use super::policies::{PoliciesReader, PolicyError, UNTIL_MENDED};
use super::sticky::StickyCookie;

/// Every option with a meaning.
pub(super) const KNOWN: [&str; 35] = [
    "allow",
    "auth",
    "burst",
    "by",
    "cert",
    "delhdr",
    "delresphdr",
    "deny",
    "fallback",
    "grpcservername",
    "header",
    "host",
    "inflight",
    "maxbody",
    "method",
    "mirror",
    "path",
    "policy",
    "prepend",
    "priority",
    "proto",
    "pxyproto",
    "query",
    "rate",
    "redirect",
    "register",
    "retries",
    "sethdr",
    "setresphdr",
    "sticky",
    "strategy",
    "strip",
    "timeout",
    "tlsskipverify",
    "weight",
];

/// Options that may be given more than once.
const REPEATABLE: [&str; 6] = [
    "delhdr",
    "delresphdr",
    "header",
    "query",
    "sethdr",
    "setresphdr",
];

/// How alike an unknown word must be to a known one to be suggested (Jaro-Winkler, 0 to 1).
const ALIKE_MIN: f64 = 0.75;

/// Options, and what is to be said about them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParsedOptions {
    /// The options that were understood.
    pub options: RouteOptions,
    /// Unknown ones, in words, with the nearest known option.
    pub unknown: Vec<String>,
    /// Values without effect, and access rules that refuse every client because they cannot be
    /// read.
    pub warnings: Vec<String>,
}

/// An option that makes its tag or command unusable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Not a finite number.
    #[error("weight `{0}` is not a number: write weight=0.25 for a quarter of the traffic")]
    Weight(String),
    /// Not `CODE,URL`.
    #[error("redirect `{value}`: {reason}; write redirect=301,https://example.com$path")]
    Redirect {
        /// What was written.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Text that would break a request head.
    #[error(
        "{key} `{value}`: only visible ASCII characters may be sent to an upstream; percent-encode the others"
    )]
    Invisible {
        /// Name of the option.
        key: &'static str,
        /// What was written.
        value: String,
    },
    /// `host=` that is not a host.
    #[error(
        "host `{0}` is not a host name: write host=dst, host=example.com or host=example.com:8080"
    )]
    Host(String),
    /// A cookie or a service that cannot be one.
    #[error("{key} `{value}`: {fault}")]
    Value {
        /// Name of the option.
        key: &'static str,
        /// What was written.
        value: String,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// A matcher that cannot be read: without it the route would take requests that it must not.
    #[error(transparent)]
    Matcher(#[from] MatcherError),
    /// A policy that does not protect and cannot be read.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Matchers on a route that does not take requests.
    #[error(
        "`{0}` looks at requests of HTTP, and a TCP route has none: leave it out, or route by host and path"
    )]
    MatcherOfTcp(String),
    /// A protection that a route of TCP cannot carry out.
    #[error(
        "{0}, and a TCP route cannot be protected in that way: allow, deny and inflight hold there"
    )]
    PolicyOfTcp(String),
}

/// Where the options stand, as far as it changes their meaning.
#[derive(Clone, Copy, Debug)]
pub enum Context<'a> {
    /// In a tag: `redirect=CODE,URL`.
    Tag,
    /// In a route command with this destination: `redirect=CODE` sends there.
    Command {
        /// The destination.
        url: &'a str,
    },
}

/// Parses blank-separated `key=value` words; a word without `=` has an empty value. When a key is
/// repeated, its last value counts, except for access rules, where a repetition refuses every
/// client.
///
/// # Errors
/// The first option that makes the whole unusable.
pub fn parse_options(text: &str, context: Context<'_>) -> Result<ParsedOptions, OptionError> {
    let mut parsed = ParsedOptions::default();
    parsed.options.shown_whole = matches!(context, Context::Command { .. });
    let (mut allow, mut deny) = (Vec::new(), Vec::new());
    let (mut matchers, mut policies) = (MatchersReader::default(), PoliciesReader::default());
    for word in text.split_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        if key.is_empty() {
            parsed.warnings.push(format!(
                "`{word}` has no effect: the name of the option is missing before `=`"
            ));
            continue;
        }
        if !REPEATABLE.contains(&key) && parsed.options.raw.iter().any(|(seen, _)| &**seen == key) {
            parsed
                .warnings
                .push(format!("option `{key}` is given more than once"));
        }
        parsed.options.raw.push((key.into(), value.into()));
        match key {
            "allow" => allow.push(value),
            "deny" => deny.push(value),
            _ if matchers.take(key, value)? || policies.take(key, value)? => {}
            _ => apply(&mut parsed, key, value, context)?,
        }
    }
    parsed.options.matchers = matchers.finish();
    let (policies, warning) = policies.finish();
    parsed.options.policies = policies;
    parsed.warnings.extend(warning);
    parsed.options.access = access(&allow, &deny).unwrap_or_else(|why| {
        parsed
            .warnings
            .push(format!("{why}: the route refuses everybody {UNTIL_MENDED}"));
        Access::Closed
    });
    Ok(parsed)
}

fn apply(
    parsed: &mut ParsedOptions,
    key: &str,
    value: &str,
    context: Context<'_>,
) -> Result<(), OptionError> {
    let ParsedOptions {
        options,
        unknown,
        warnings,
    } = parsed;
    match key {
        "proto" => match proto(value) {
            Some(proto) => options.proto = proto,
            None => {
                options.proto = Proto::Http;
                warnings.push(format!(
                    "unknown proto `{value}`, taken as http: {PROTOS} are known"
                ));
            }
        },
        "weight" => options.weight = weight(value)?,
        "strip" => {
            options.strip = named("strip", value)?;
            if !value.is_empty() && !value.starts_with('/') {
                warnings.push(format!(
                    "`strip={value}` cuts nothing: every path begins with a slash, write strip=/{value}"
                ));
            }
        }
        "prepend" => options.prepend = slashed("prepend", value)?,
        "host" => options.host = host_rewrite(value)?,
        "tlsskipverify" => options.tls_skip_verify = is_true(key, value, warnings),
        "pxyproto" => options.proxy_protocol = proxy_header(value, warnings),
        "redirect" => options.redirect = Some(redirect(value, context)?),
        "auth" => options.auth = named("auth", value)?,
        // The empty name is one that nothing has: the route is closed.
        "policy" => {
            options.policy = Some(named("policy", value)?.unwrap_or_default());
        }
        "sticky" => options.sticky = read("sticky", value, StickyCookie::read)?,
        "fallback" => options.fallback = Some(read("fallback", value, service_name)?),
        "mirror" => options.mirror = Some(read("mirror", value, Mirror::read)?),
        // As with a policy, the empty name is one that nothing has.
        "cert" => {
            options.client_certificate = Some(named("cert", value)?.unwrap_or_default());
        }
        "register" => options.register = named("register", value)?,
        "grpcservername" => options.grpc_server_name = named("grpcservername", value)?,
        "strategy" => match value.parse() {
            Ok(strategy) => options.strategy = Some(strategy),
            Err(error) => {
                options.strategy = None;
                warnings.push(error.to_string());
            }
        },
        _ => unknown.push(unknown_text(key)),
    }
    Ok(())
}

/// The words of [`proto`], for messages.
const PROTOS: &str = "http, https, h2, h2c, grpc, grpcs and tcp";

/// Protocol by its name in options, which is also its URL scheme.
#[must_use]
pub fn proto(word: &str) -> Option<Proto> {
    [
        Proto::Http,
        Proto::Https,
        Proto::H2c,
        Proto::H2,
        Proto::Grpc,
        Proto::Grpcs,
        Proto::Tcp,
    ]
    .into_iter()
    .find(|proto| proto.scheme() == word)
}

/// A fixed weight; 0 and below mean none.
///
/// # Errors
/// When the text is not a finite number.
pub fn weight(value: &str) -> Result<Option<f64>, OptionError> {
    match value.parse::<f64>() {
        Ok(weight) if weight.is_finite() => Ok((weight > 0.0).then_some(weight)),
        _ => Err(OptionError::Weight(value.to_owned())),
    }
}

fn is_true(key: &str, value: &str, warnings: &mut Vec<String>) -> bool {
    if !matches!(value, "true" | "false") {
        warnings.push(format!(
            "`{key}={value}` has no effect: only `{key}=true` switches it on"
        ));
    }
    value == "true"
}

fn proxy_header(value: &str, warnings: &mut Vec<String>) -> Option<ProxyHeader> {
    match value {
        "true" | "v1" => Some(ProxyHeader::V1),
        "v2" => Some(ProxyHeader::V2),
        "false" => None,
        _ => {
            warnings.push(format!(
                "`pxyproto={value}` has no effect: true and v1 mean version 1, v2 version 2"
            ));
            None
        }
    }
}

fn named(key: &'static str, value: &str) -> Result<Option<Arc<str>>, OptionError> {
    if !value.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(OptionError::Invisible {
            key,
            value: value.to_owned(),
        });
    }
    Ok((!value.is_empty()).then(|| value.into()))
}

fn read<T>(
    key: &'static str,
    value: &str,
    reader: impl FnOnce(&str) -> Result<T, &'static str>,
) -> Result<T, OptionError> {
    reader(value).map_err(|fault| OptionError::Value {
        key,
        value: value.to_owned(),
        fault,
    })
}

fn slashed(key: &'static str, value: &str) -> Result<Option<Arc<str>>, OptionError> {
    let value = named(key, value)?;
    Ok(value.map(|value| {
        if value.starts_with('/') {
            value
        } else {
            format!("/{value}").into()
        }
    }))
}

fn host_rewrite(value: &str) -> Result<HostRewrite, OptionError> {
    match value {
        "" => Ok(HostRewrite::Keep),
        "dst" => Ok(HostRewrite::Target),
        _ if value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b)) =>
        {
            Ok(HostRewrite::Name(value.into()))
        }
        _ => Err(OptionError::Host(value.to_owned())),
    }
}

fn redirect(value: &str, context: Context<'_>) -> Result<Redirect, OptionError> {
    let fail = |reason| OptionError::Redirect {
        value: value.to_owned(),
        reason,
    };
    let (code, url) = match (value.split_once(','), context) {
        (Some((_, url)), _) if url.contains(',') => return Err(fail("more than one comma")),
        (Some(parts), _) => parts,
        (None, Context::Command { url }) => (value, url),
        (None, Context::Tag) => return Err(fail("no comma between code and URL")),
    };
    let code = code
        .parse()
        .ok()
        .filter(|code| (300..400).contains(code))
        .ok_or(fail("code is not 300 to 399"))?;
    if !["http://", "https://", "/"]
        .iter()
        .any(|start| url.starts_with(start))
    {
        return Err(fail("URL begins with neither http://, https:// nor /"));
    }
    if !url.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(fail("URL holds a character that is not visible ASCII"));
    }
    Ok(Redirect {
        code,
        url: url.into(),
    })
}

/// Options that protect, here or in other balancers, and parts of their names.
const PROTECTIONS: [&str; 12] = [
    "allow", "deny", "auth", "rate", "burst", "limit", "inflight", "maxbody", "maxconn", "policy",
    "access", "quota",
];
const PROTECTING_PARTS: [&str; 27] = [
    "allow",
    "deny",
    "auth",
    "limit",
    "inflight",
    "maxbody",
    "bodysize",
    "maxconn",
    "policy",
    "quota",
    "throttle",
    "whitelist",
    "blacklist",
    "sourcerange",
    "acl",
    "firewall",
    "waf",
    "jwt",
    "oidc",
    "forbid",
    "permit",
    "restrict",
    "protect",
    "reject",
    "passw",
    "clientcert",
    "trusted",
];
/// What is said of an unknown option that looks like one of them.
const LOOKS_PROTECTING: &str = "looks like a protection, and protects nothing";

/// Whether a remark or reason is about an unknown option that looks like a protection, or about one
/// that cannot be read, so that the route is closed.
#[must_use]
pub fn tells_of_protection(remark: &str) -> bool {
    remark.contains(LOOKS_PROTECTING) || remark.contains(UNTIL_MENDED)
}

/// Whether an unknown option is hardly meant as anything but a protection: one of another balancer,
/// or misspelt.
fn looks_protecting(key: &str) -> bool {
    let plain: String = key
        .to_ascii_lowercase()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    let is_near = |known: &&str| {
        // A short word has too many neighbours that mean something else.
        let far = if known.len() <= 4 {
            !plain.starts_with(&known[..1]) || plain.len() < 3
        } else {
            plain.len() < 4
        };
        !far && strsim::osa_distance(&plain, known) <= 1
    };
    PROTECTING_PARTS.iter().any(|part| plain.contains(part))
        || plain.starts_with("rate")
        || PROTECTIONS.iter().any(is_near)
}

fn unknown_text(key: &str) -> String {
    let text = nearest_text(key);
    if looks_protecting(key) {
        format!("{text}: it {LOOKS_PROTECTING}")
    } else {
        text
    }
}

fn nearest_text(key: &str) -> String {
    match nearest(key) {
        Some(known) => format!("unknown option `{key}`, nearest is `{known}`"),
        None => format!("unknown option `{key}`"),
    }
}

/// The option of this name.
pub(super) fn known(name: &str) -> Option<&'static str> {
    KNOWN.into_iter().find(|known| *known == name)
}

/// The option that this word is most likely meant for.
pub(super) fn nearest(word: &str) -> Option<&'static str> {
    let word = word.to_ascii_lowercase();
    let alike = KNOWN.map(|known| (strsim::jaro_winkler(&word, known), known));
    let near = alike.into_iter().filter(|(alike, _)| *alike >= ALIKE_MIN);
    near.max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known)
}

impl RouteOptions {
    /// The options as Fabio's `opts` shows them: sorted by key, the last of a repeated one (all
    /// of those that may be repeated), `key=`
    /// where there is no value, and of a redirect the code only (its URL is the destination). Those
    /// of a tag are without `weight` and without a `proto` that makes the scheme of the
    /// destination; `proto=http` and unknown ones make none.
    #[must_use]
    pub fn fabio_opts(&self) -> String {
        let mut shown: Vec<(&str, &str)> = Vec::new();
        for (key, value) in &self.raw {
            let value = match &**key {
                "weight" if !self.shown_whole => continue,
                "proto"
                    if !self.shown_whole
                        && proto(value).is_some_and(|proto| proto != Proto::Http) =>
                {
                    continue;
                }
                "redirect" => value.split_once(',').map_or(&**value, |(code, _)| code),
                _ => value,
            };
            if !REPEATABLE.contains(&&**key) {
                shown.retain(|(seen, _)| *seen != &**key);
            }
            shown.push((key, value));
        }
        shown.sort_by_key(|(key, _)| *key);
        let words: Vec<String> = shown
            .into_iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        words.join(" ")
    }
}

/// `key=value`, or the bare key.
pub(super) fn word(key: &str, value: &str) -> String {
    if value.is_empty() {
        key.to_owned()
    } else {
        format!("{key}={value}")
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::catalog::options::{HashKey, Strategy};

    fn parse(text: &str) -> ParsedOptions {
        parse_options(text, Context::Tag).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn clean(text: &str) -> RouteOptions {
        let parsed = parse(text);
        assert!(
            parsed.unknown.is_empty() && parsed.warnings.is_empty(),
            "{text}: {parsed:?}"
        );
        parsed.options
    }

    #[test]
    fn an_option_without_a_name_is_told_and_left_out() {
        for (text, kept) in [
            ("=", ""),
            ("\t=", ""),
            ("= strip=/a =b", "strip=/a"),
            ("==", ""),
            ("a= =", "a="),
        ] {
            let parsed = parse(text);
            assert_eq!(parsed.options.fabio_opts(), kept, "{text:?}");
            assert!(
                parsed
                    .warnings
                    .iter()
                    .any(|warning| warning.contains("name of the option is missing")),
                "{text:?}"
            );
        }
    }

    #[test]
    fn every_option_has_its_effect() {
        assert_eq!(clean("  "), RouteOptions::default());
        for (word, expected) in [
            ("http", Proto::Http),
            ("https", Proto::Https),
            ("h2c", Proto::H2c),
            ("h2", Proto::H2),
            ("grpc", Proto::Grpc),
            ("grpcs", Proto::Grpcs),
            ("tcp", Proto::Tcp),
        ] {
            assert_eq!(clean(&format!("proto={word}")).proto, expected);
        }
        assert_eq!(clean("weight=0.25").weight, Some(0.25));
        assert_eq!(clean("weight=0").weight, None);
        assert_eq!(clean("weight=-1").weight, None);
        assert_eq!(clean("strip=/p").strip.as_deref(), Some("/p"));
        let without_slash = parse("strip=p");
        assert_eq!(
            (
                without_slash.options.strip.as_deref(),
                without_slash.warnings.len()
            ),
            (Some("p"), 1)
        );
        assert_eq!(clean("prepend=p/q").prepend.as_deref(), Some("/p/q"));
        assert_eq!(clean("host=dst").host, HostRewrite::Target);
        assert_eq!(
            clean("host=a.example:81").host,
            HostRewrite::Name("a.example:81".into())
        );
        assert!(clean("tlsskipverify=true").tls_skip_verify);
        for (word, header) in [
            ("true", Some(ProxyHeader::V1)),
            ("v1", Some(ProxyHeader::V1)),
            ("v2", Some(ProxyHeader::V2)),
        ] {
            assert_eq!(clean(&format!("pxyproto={word}")).proxy_protocol, header);
        }
        assert_eq!(clean("pxyproto=false").proxy_protocol, None);
        assert_eq!(clean("auth=a").auth.as_deref(), Some("a"));
        assert_eq!(clean("register=r").register.as_deref(), Some("r"));
        assert_eq!(
            clean("grpcservername=g").grpc_server_name.as_deref(),
            Some("g")
        );
        assert_eq!(clean("strategy=rr").strategy, Some(Strategy::RoundRobin));
        assert_eq!(
            clean("strategy=hash:ip").strategy,
            Some(Strategy::Hash(HashKey::Ip))
        );
        assert_eq!(clean("sticky=true").sticky, Some(StickyCookie::OfRoute));
        assert_eq!(clean("sticky=false").sticky, None);
        assert_eq!(clean("fallback=maint").fallback.as_deref(), Some("maint"));
        let mirror = clean("mirror=shadow:0.1").mirror;
        assert_eq!(mirror.map(|mirror| mirror.parts), Some(100_000));
        let redirect = Redirect {
            code: 302,
            url: "https://$host$path?a=b".into(),
        };
        assert_eq!(
            clean("redirect=302,https://$host$path?a=b").redirect,
            Some(redirect)
        );
    }

    #[test]
    fn unusable_options_are_errors_that_show_the_value() {
        for (text, shown) in [
            ("weight=x", "`x`"),
            ("weight=NaN", "`NaN`"),
            ("weight=inf", "`inf`"),
            ("weight", "``"),
            ("redirect=301", "comma"),
            ("redirect=301,a,b", "comma"),
            ("redirect=299,http://x/", "300 to 399"),
            ("redirect=400,http://x/", "300 to 399"),
            ("redirect=x,http://x/", "300 to 399"),
            ("redirect=301,ftp://x/", "http://"),
            ("redirect=301,http://x/\u{e4}", "ASCII"),
            ("prepend=/\u{e4}", "`/\u{e4}`"),
            ("strip=/a\u{1}", "percent-encode"),
            ("host=a/b", "`a/b`"),
            ("host=a@b", "`a@b`"),
            ("sticky", "sticky=true"),
            ("sticky=a;b", "`a;b`"),
            ("fallback", "name of a service"),
            ("mirror=a:2", "`a:2`"),
        ] {
            let error = parse_options(text, Context::Tag)
                .expect_err(text)
                .to_string();
            assert!(error.contains(shown), "{text}: {error}");
        }
    }

    #[test]
    fn access_rules_are_read() {
        let local: IpAddr = "127.0.0.1".parse().expect("an address");
        let other: IpAddr = "10.1.2.3".parse().expect("an address");
        let six: IpAddr = "2001:db8::1".parse().expect("an address");
        let allow = clean("allow=ip:127.0.0.1,ip:2001:db8::/32").access;
        assert!(allow.permits(local) && allow.permits(six) && !allow.permits(other));
        let deny = clean("deny=ip:10.0.0.0/8").access;
        assert!(deny.permits(local) && !deny.permits(other));
        let mapped = clean("allow=ip:::ffff:10.0.0.0/104").access;
        assert!(mapped.permits(other) && !mapped.permits(local));
    }

    #[test]
    fn access_rules_fail_closed() {
        for text in [
            "allow=ip:127.0.0.1 deny=ip:10.0.0.1",
            "allow=127.0.0.1",
            "allow=ip:127.0.0.1,ip:nonsense",
            "allow=ip:127.0.0.1,",
            "deny=ip:10.0.0.0/33",
            "allow=",
            "deny",
            "deny=ip:10.0.0.1 deny=ip:10.0.0.2",
        ] {
            let parsed = parse(text);
            assert_eq!(parsed.options.access, Access::Closed, "{text}");
            assert!(
                parsed
                    .warnings
                    .iter()
                    .any(|warning| warning.contains("refuses everybody")),
                "{text}"
            );
        }
    }

    #[test]
    fn what_has_no_effect_is_told() {
        assert_eq!(
            parse("stirp=/x").unknown,
            ["unknown option `stirp`, nearest is `strip`"]
        );
        assert_eq!(parse("zz").unknown, ["unknown option `zz`"]);
        for text in [
            "proto=ftp",
            "tlsskipverify=yes",
            "pxyproto",
            "pxyproto=v3",
            "strategy=best",
            "strip=/a strip=/b",
        ] {
            let parsed = parse(text);
            assert_eq!(parsed.warnings.len(), 1, "{text}: {:?}", parsed.warnings);
        }
        assert_eq!(
            parse("strip=/a strip=/b").options.strip.as_deref(),
            Some("/b")
        );
        assert_eq!(parse("proto=https proto=ftp").options.proto, Proto::Http);
    }

    #[test]
    fn unknown_options_that_look_like_protections_are_told_from_others() {
        let protecting = [
            "ratelimit=5",
            "rate_limit=5/s",
            "limit=3",
            "limit_req=zone",
            "ipallow=10.0.0.0/8",
            "ip_deny=x",
            "deny_ip=10.0.0.1",
            "alow=ip:10.0.0.1",
            "allw=x",
            "Allow=ip:10.0.0.1",
            "DENY=x",
            "dney=ip:1.2.3.4",
            "deni=x",
            "atuh=main",
            "auht=main",
            "auth_basic=main",
            "basicauth=x",
            "basic-auth=x",
            "auth_request=/x",
            "whitelist=x",
            "ipWhiteList=x",
            "sourcerange=x",
            "in_flight=5",
            "client_max_body_size=1m",
            "maxconn=3",
            "max-conn=3",
            "polcy=strict",
            "acl=x",
            "jwt=main",
            "throttle=1",
            "acess=x",
            "deny-all",
        ];
        for text in protecting {
            let unknown = parse(text).unknown;
            assert!(
                unknown.len() == 1 && tells_of_protection(&unknown[0]),
                "{text}: {unknown:?}"
            );
        }
        for text in [
            "q=1",
            "stirp=/x",
            "colour=red",
            "date=x",
            "gate=1",
            "name=a",
            "team=payments",
            "flag",
            "hots=dst",
            "a=1",
        ] {
            let unknown = parse(text).unknown;
            assert!(
                unknown.len() == 1 && !tells_of_protection(&unknown[0]),
                "{text}: {unknown:?}"
            );
        }
    }

    #[test]
    fn every_option_stands_in_the_document() {
        let document = include_str!("../../docs/tags.md");
        for key in KNOWN {
            let rows = document
                .lines()
                .filter(|line| line.starts_with(&format!("| `{key}=")));
            assert_eq!(rows.count(), 1, "rows of `{key}` in docs/tags.md");
        }
    }

    #[test]
    fn matchers_make_a_tag_or_break_it() {
        let options = clean("header=X-Canary:1 method=GET strip=/a header=B");
        assert_eq!(
            options
                .matchers
                .as_ref()
                .map(ToString::to_string)
                .as_deref(),
            Some("header=b header=x-canary:1 method=GET")
        );
        assert_eq!(
            options.fabio_opts(),
            "header=X-Canary:1 header=B method=GET strip=/a"
        );
        assert_eq!(clean("strip=/a").matchers, None);
        let error = parse_options("method=G@T", Context::Tag).expect_err("a bad one");
        assert!(error.to_string().contains("`G@T`"), "{error}");
    }

    #[test]
    fn fabio_sees_what_it_would_have_written() {
        let options =
            parse("strip=/x proto=https flag weight=0.5 redirect=301,http://a/ auth=b auth=c")
                .options;
        assert_eq!(options.fabio_opts(), "auth=c flag= redirect=301 strip=/x");
    }

    #[test]
    fn a_command_gives_the_redirect_its_url() {
        let parsed = parse_options(
            "redirect=308",
            Context::Command {
                url: "https://a$path",
            },
        )
        .expect("valid");
        assert_eq!(
            parsed.options.redirect,
            Some(Redirect {
                code: 308,
                url: "https://a$path".into()
            })
        );
    }
}
