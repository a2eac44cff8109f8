//! Which header fields change on their way through: forwarding fields in, hop-by-hop fields out.
//!
//! Pure: maps of fields in, maps of fields out. What a connection always says the same way (the
//! client's address, its `Forwarded` element) is formatted once, in [`ClientContext`]; a usual
//! request then costs a few reference counts. Bodies, framing and the request target are left to
//! others: `Transfer-Encoding` goes, because the HTTP library frames the body anew on the other
//! side.
//!
//! Where this departs from Fabio, on purpose:
//! - `X-Forwarded-Host` and `-Port` tell the host of the client's request, not the one `host=` put
//!   in its place (unless `proxy.forwarded_host` says otherwise, as for `lb fabio`);
//! - IPv6 addresses in `Forwarded` are bracketed and quoted, as RFC 7239 section 6 demands;
//! - `Trailer` passes, because trailers do, both ways;
//! - `Connection` cannot name `Host` or `Content-Length`, besides the forwarding fields Fabio
//!   protects;
//! - fields of a client whose names are only [`alike`] those that are written here are dropped.

mod decider;

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::header::{
    CONNECTION, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, STRICT_TRANSPORT_SECURITY, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::{Uri, Version};
use smallvec::SmallVec;

use crate::catalog::field_edits::FieldEdits;
use crate::catalog::options::HostRewrite;
use crate::config::{ForwardedHost, ProxyConfig};
use crate::proxy::http::alike::{alike, is_odd};
use crate::proxy::http::client_address::TrustedProxies;
use crate::proxy::http::forwarded::is_forwarding;
use crate::proxy::http::trailers::may_trail;

pub use decider::{Wanted, tell_decider};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
static X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
static FORWARDED: HeaderName = HeaderName::from_static("forwarded");
static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What `[proxy]` says about header fields, in the form they are sent. Made once per worker and
/// configuration.
#[derive(Clone, Debug)]
pub struct HeaderRules {
    /// The field that gets the client address, overwritten.
    pub client_ip_header: Option<HeaderName>,
    /// The field that gets a fresh id per request; written by the exchange, protected here.
    pub request_id_header: Option<HeaderName>,
    /// Senders whose forwarding fields are believed; those of others are replaced.
    pub trusted_proxies: TrustedProxies,
    tls_header: Option<(HeaderName, HeaderValue)>,
    strict_transport_security: Option<HeaderValue>,
    /// X-Forwarded-Host and -Port are those of the host that the upstream gets.
    forwarded_host_sent: bool,
    by: Option<String>,
    /// A configured name is one of ours, or of another configured field: which of them is sent is
    /// for the rules to say, one after another.
    collide: bool,
}

impl HeaderRules {
    /// The rules of a configuration. A header value that cannot be sent counts as empty.
    #[must_use]
    pub fn new(config: &ProxyConfig) -> Self {
        // Fabio ignores a client ip header that would overwrite the two it writes anyway.
        let client_ip_header = config
            .client_ip_header
            .clone()
            .filter(|name| *name != X_FORWARDED_FOR && *name != X_REAL_IP);
        let tls_header = config.tls_header.clone().map(|name| {
            (
                name,
                HeaderValue::from_str(&config.tls_header_value)
                    .unwrap_or(HeaderValue::from_static("")),
            )
        });
        let strict_transport_security = strict_transport_security(
            config.sts_max_age,
            config.sts_subdomains,
            config.sts_preload,
        );
        let by = config
            .local_ip
            .as_ref()
            .map(|text| match text.parse::<IpAddr>() {
                Ok(ip) => forwarded_node(ip),
                Err(_) => text.clone(),
            });
        let mut rules = Self {
            client_ip_header,
            request_id_header: config.request_id_header.clone(),
            trusted_proxies: TrustedProxies::new(config),
            tls_header,
            strict_transport_security,
            forwarded_host_sent: config.forwarded_host == ForwardedHost::Sent,
            by,
            collide: false,
        };
        let configured = rules.configured();
        let [first, second, third] = configured;
        let twice = [(first, second), (first, third), (second, third)]
            .iter()
            .any(|(a, b)| a.is_some() && a == b);
        let ours = configured
            .iter()
            .flatten()
            .any(|name| is_ours(name.as_str().as_bytes()));
        rules.collide = twice || ours;
        rules
    }

    /// Whether the forwarding fields depend on what `host=` makes of the host.
    #[must_use]
    pub fn follow_the_rewrite(&self, rewrite: &HostRewrite) -> bool {
        self.forwarded_host_sent && *rewrite != HostRewrite::Keep
    }

    /// Whether one of these fields of a client has a name that is written here (or is like one), or
    /// some that are have the same name. What resembles a name that is written whatever is
    /// configured is for [`resembles_ours`] to say.
    pub fn overwrite_any<'a>(&self, mut names: impl Iterator<Item = &'a [u8]>) -> bool {
        if self.collide {
            return true;
        }
        let configured = self.configured();
        if configured.iter().all(Option::is_none) {
            return false;
        }
        names.any(|name| {
            configured
                .iter()
                .flatten()
                .any(|configured| alike(name, configured.as_str().as_bytes()))
        })
    }

    /// Whether a program could take this field of a client for one that is written here, and it is
    /// not that one.
    fn is_lookalike(&self, name: &HeaderName) -> bool {
        let resembles = |configured: &&HeaderName| {
            *configured != name && alike(name.as_str().as_bytes(), configured.as_str().as_bytes())
        };
        resembles_ours(name.as_str().as_bytes())
            || self.configured().iter().flatten().any(resembles)
    }

    fn configured(&self) -> [Option<&HeaderName>; 3] {
        [
            self.client_ip_header.as_ref(),
            self.request_id_header.as_ref(),
            self.tls_header.as_ref().map(|(name, _)| name),
        ]
    }

    /// Whether a sender is believed when it tells where a request came from.
    #[must_use]
    pub fn believe(&self, client: &ClientContext) -> bool {
        self.trusted_proxies.contain(client.ip)
    }

    /// Whether a field may be made here, from what came in or anew. `X-Forwarded-For` is extended,
    /// which its reader knows.
    #[must_use]
    pub fn writes(&self, name: &HeaderName) -> bool {
        (is_forwarding(name.as_str().as_bytes()) && *name != X_FORWARDED_FOR)
            || self.configured().contains(&Some(name))
    }

    /// Fields that `Connection` of a client may not take away.
    fn protects(&self, token: &[u8]) -> bool {
        let configured = self.configured();
        // Nor those that frame the message, let it in or say what its content is: that would change
        // what it means.
        is_ours(token)
            || !may_trail(token)
            || configured
                .iter()
                .flatten()
                .any(|name| token.eq_ignore_ascii_case(name.as_str().as_bytes()))
    }
}

/// Fields that are written, or looked after, whatever is configured.
const FIXED: [&str; 9] = [
    "host",
    "content-length",
    "forwarded",
    "x-real-ip",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-prefix",
];

fn is_ours(name: &[u8]) -> bool {
    FIXED
        .iter()
        .any(|fixed| name.eq_ignore_ascii_case(fixed.as_bytes()))
}

/// Whether a name of a client's field is like one of those that are written whatever is configured,
/// or that frame a message, and is not that name itself.
#[must_use]
pub fn resembles_ours(name: &[u8]) -> bool {
    // Lengths first: most names have another one.
    matches!(name.len(), 4 | 9 | 14..=18)
        && is_odd(name)
        && FIXED
            .iter()
            .chain(&["transfer-encoding"])
            .any(|fixed| alike(name, fixed.as_bytes()))
}

/// Takes away the fields whose names are like `name` but not the same.
pub fn remove_lookalikes(headers: &mut HeaderMap, name: &HeaderName) {
    remove_where(headers, |present| {
        present != name && alike(present.as_str().as_bytes(), name.as_str().as_bytes())
    });
}

fn remove_where(headers: &mut HeaderMap, condemned: impl Fn(&HeaderName) -> bool) {
    let names: SmallVec<[HeaderName; 2]> = headers
        .keys()
        .filter(|name| condemned(name))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

/// Fabio's spelling; none for 0 seconds.
fn strict_transport_security(max_age: u64, subdomains: bool, preload: bool) -> Option<HeaderValue> {
    let mut text = format!("max-age={max_age}");
    if subdomains {
        text.push_str("; includeSubdomains");
    }
    if preload {
        text.push_str("; preload");
    }
    (max_age > 0).then(|| ascii_value(text))
}

/// How the client's TLS connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsDetails {
    /// `tls12` or `tls13`.
    pub version: &'static str,
    /// IANA number of the cipher suite.
    pub cipher: u16,
}

impl TlsDetails {
    /// The version as the access log writes it.
    #[must_use]
    pub fn version_name(self) -> &'static str {
        if self.version == "tls12" {
            "TLSv1.2"
        } else {
            "TLSv1.3"
        }
    }
}

/// What every request of one client connection has in common. Made once, at accept.
#[derive(Debug)]
pub struct ClientContext {
    ip: IpAddr,
    tls: Option<TlsDetails>,
    made: RefCell<Option<Box<Made>>>,
}

impl ClientContext {
    /// For a client at `peer` (as carried by the PROXY protocol, if it was) with or without TLS.
    #[must_use]
    pub fn new(peer: IpAddr, tls: Option<TlsDetails>) -> Self {
        // A dual-stack socket shows IPv4 clients as ::ffff:a.b.c.d, which no upstream expects.
        let ip = peer.to_canonical();
        Self {
            ip,
            tls,
            made: RefCell::new(None),
        }
    }

    /// The client's address.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Whether the client came over TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// How, if it did.
    #[must_use]
    pub fn tls(&self) -> Option<TlsDetails> {
        self.tls
    }

    /// Drops the cached header values.
    pub fn forget(&self) {
        self.made.take();
    }

    fn ip_value(&self) -> HeaderValue {
        let mut made = self.made.borrow_mut();
        made.get_or_insert_default()
            .ip
            .get_or_insert_with(|| ascii_value(self.ip.to_string()))
            .clone()
    }
}

/// Values that many requests of a client get. Boxed, and made for the first that needs them: most
/// connections are idle.
#[derive(Debug, Default)]
struct Made {
    ip: Option<HeaderValue>,
    /// The last `Forwarded`, with what it depends on.
    forwarded: Option<(&'static str, Version, HeaderValue)>,
}

/// What one request adds to that.
#[derive(Clone, Copy, Debug)]
pub struct RequestContext<'a> {
    /// Its connection.
    pub client: &'a ClientContext,
    /// Configured names and values.
    pub rules: &'a HeaderRules,
    /// The host as received (see [`received_host`]).
    pub host: Option<&'a HeaderValue>,
    /// Version the client spoke.
    pub version: Version,
    /// What [`upgrade_of`] found, when the upgrade is to be passed on.
    pub upgrade: Option<&'a Upgrade>,
    /// `strip=` of the target.
    pub strip: Option<&'a str>,
    /// `host=` of the target.
    pub rewrite: &'a HostRewrite,
    /// What the target's tag does to fields.
    pub edits: Option<&'a FieldEdits>,
    /// Address of the target.
    pub target: SocketAddr,
    /// The upstream speaks HTTP/2: the host travels as `:authority` (from [`upstream_host`]), not
    /// as a field.
    pub upstream_h2: bool,
}

/// The protocols a client wants to change to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// `Upgrade` as received.
    pub protocols: HeaderValue,
    /// It is a websocket.
    pub websocket: bool,
}

/// Why a request has no single host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// HTTP/2 with `:authority` and `Host` that differ (RFC 9113 section 8.3.1).
    #[error("`:authority` says {authority:?} but `Host` says {host:?}")]
    Differ {
        /// From the pseudo header.
        authority: String,
        /// From the field.
        host: String,
    },
    /// More than one `Host` field.
    #[error("more than one Host field")]
    Several,
    /// User information before the host, or bytes that no host has.
    #[error("{0:?} is not a host")]
    Malformed(String),
}

/// The host of a request: the authority of the target (`:authority` of HTTP/2, absolute form of
/// HTTP/1.1, RFC 9112 section 3.2.2) before the `Host` field. None: neither is there (HTTP/1.0).
///
/// # Errors
/// A request whose host is not clear; the response is 400.
pub fn received_host(
    uri: &Uri,
    headers: &HeaderMap,
    version: Version,
) -> Result<Option<HeaderValue>, HostError> {
    let mut fields = headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(HostError::Several);
    }
    let Some(authority) = uri.authority() else {
        return match field {
            Some(host) if !is_host(host.as_bytes()) => Err(HostError::Malformed(lossy(host))),
            host => Ok(host.cloned()),
        };
    };
    let text = authority.as_str();
    if !is_host(text.as_bytes()) {
        return Err(HostError::Malformed(text.to_owned()));
    }
    match field {
        Some(host) if host.as_bytes().eq_ignore_ascii_case(text.as_bytes()) => {
            Ok(Some(host.clone()))
        }
        Some(host) if version == Version::HTTP_2 => Err(HostError::Differ {
            authority: text.to_owned(),
            host: lossy(host),
        }),
        _ => HeaderValue::from_str(text)
            .map(Some)
            .map_err(|_| HostError::Malformed(text.to_owned())),
    }
}

/// Bytes of `uri-host [":" port]` (RFC 3986 section 3.2.2); an empty one is allowed (RFC 9112
/// section 3.2).
pub(crate) fn is_host(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| HOST_BYTE[usize::from(byte)])
}

/// Every byte of every host is looked up here.
static HOST_BYTE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'!' | b'$'..=b'.' | b':' | b';' | b'=' | b'[' | b']' | b'_' | b'~'
            );
        byte += 1;
    }
    table
};

/// The upgrade a request wants: `Upgrade` that `Connection` lists. `h2c` is never passed on:
/// upstream would then see requests that were not routed here.
#[must_use]
pub fn upgrade_of(headers: &HeaderMap) -> Option<Upgrade> {
    let protocols = headers.get(UPGRADE)?;
    let listed = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(tokens)
        .any(|token| token.eq_ignore_ascii_case(b"upgrade"));
    let several = headers.get_all(UPGRADE).iter().nth(1).is_some();
    let refused = tokens(protocols).any(|token| {
        let name = token.split(|&byte| byte == b'/').next().unwrap_or(token);
        name.is_empty() || name.eq_ignore_ascii_case(b"h2c") || name.eq_ignore_ascii_case(b"tls")
    });
    if !listed || several || refused {
        return None;
    }
    let websocket = protocols.as_bytes().eq_ignore_ascii_case(b"websocket");
    Some(Upgrade {
        protocols: protocols.clone(),
        websocket,
    })
}

/// Scheme of the request: told by `X-Forwarded-Proto` or `Forwarded` of a trusted sender, or by
/// both if they agree; else seen here.
#[must_use]
pub fn scheme<'h>(
    headers: &'h HeaderMap,
    client: &ClientContext,
    rules: &HeaderRules,
    websocket: bool,
) -> &'h str {
    let tls = client.is_tls();
    if !rules.believe(client) {
        return seen_scheme(tls, websocket);
    }
    let told = match (headers.get(&X_FORWARDED_PROTO), headers.get(&FORWARDED)) {
        (Some(value), None) => value.to_str().ok().map(str::trim),
        (None, Some(value)) => value.to_str().ok().and_then(forwarded_proto),
        // As a proxy like this one in front of us sends them; where they contradict each other
        // neither counts.
        (Some(value), Some(forwarded)) => value.to_str().ok().map(str::trim).filter(|word| {
            let other = forwarded.to_str().ok().and_then(forwarded_proto);
            other.is_some_and(|other| other.eq_ignore_ascii_case(word))
        }),
        (None, None) => None,
    };
    // The word is copied into other fields: anything but a plain word could forge their other
    // parts.
    match told
        .filter(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric()))
    {
        Some(word) => word,
        None => seen_scheme(tls, websocket),
    }
}

fn seen_scheme(tls: bool, websocket: bool) -> &'static str {
    match (tls, websocket) {
        (true, true) => "wss",
        (true, false) => "https",
        (false, true) => "ws",
        (false, false) => "http",
    }
}

fn forwarded_proto(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("proto=")?;
    rest.split([';', ','])
        .next()
        .map(|word| word.trim().trim_matches('"'))
}

/// The value of `Host`, or of `:authority`, that the upstream gets.
#[must_use]
pub fn upstream_host(ctx: &RequestContext<'_>) -> HeaderValue {
    match (ctx.rewrite, ctx.host) {
        (HostRewrite::Name(name), _) => match HeaderValue::from_str(name) {
            Ok(value) => value,
            Err(_) => ascii_value(ctx.target.to_string()),
        },
        (HostRewrite::Keep, Some(host)) => host.clone(),
        (HostRewrite::Keep, None) | (HostRewrite::Target, _) => ascii_value(ctx.target.to_string()),
    }
}

/// Makes the fields of a request those that the upstream gets.
pub fn prepare_request(headers: &mut HeaderMap, ctx: &RequestContext<'_>) {
    let mut seen = SeenFields::scan(headers);
    if seen.has(SeenFields::FORWARDING) && !ctx.rules.believe(ctx.client) {
        let configured = ctx.rules.configured();
        remove_where(headers, |name| {
            is_forwarding(name.as_str().as_bytes()) && !configured.contains(&Some(name))
        });
        seen = SeenFields::scan(headers);
    }
    if seen.has(SeenFields::LOOKALIKE) || ctx.rules.configured().iter().any(Option::is_some) {
        remove_where(headers, |name| ctx.rules.is_lookalike(name));
    }
    forward_scheme(headers, ctx, seen);
    drop_hop_by_hop(headers, ctx.rules, seen);
    keep_trailers(headers, ctx, seen);
    forward_client(headers, ctx, seen);
    forward_host(headers, ctx, seen);
    set_configured(headers, ctx);
    set_host(headers, ctx);
    if seen.has(SeenFields::COOKIES) && !ctx.upstream_h2 {
        join_cookies(headers);
    }
    if let Some(upgrade) = ctx.upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, upgrade.protocols.clone());
    }
}

/// Whether [`prepare_request`] would leave a request's fields as they are, but for Host, and put
/// ours beside them. Which fields the rules write is for [`HeaderRules::overwrite_any`] to say.
#[must_use]
pub fn pass_as_they_came(headers: &HeaderMap) -> bool {
    let SeenFields(seen) = SeenFields::scan(headers);
    seen & !SeenFields::COOKIE == 0
}

/// Makes the fields of a response those that the client gets. `switching`: it is a 101 whose tunnel
/// will be made.
pub fn prepare_response(
    headers: &mut HeaderMap,
    client: &ClientContext,
    rules: &HeaderRules,
    switching: bool,
) {
    let seen = SeenFields::scan(headers);
    let protocols = if switching {
        headers.get(UPGRADE).cloned()
    } else {
        None
    };
    drop_hop_by_hop(headers, rules, seen);
    if let Some(protocols) = protocols {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, protocols);
    }
    secure_transport(headers, client, rules);
}

/// Tells the client to use TLS from now on, if it did. Errors say so too, so that one does not end
/// it.
pub fn secure_transport(headers: &mut HeaderMap, client: &ClientContext, rules: &HeaderRules) {
    if let Some(value) = strict_transport_security_for(client, rules) {
        headers.insert(STRICT_TRANSPORT_SECURITY, value.clone());
    }
}

/// The `Strict-Transport-Security` that a client gets, whatever the upstream says; none where none
/// is set.
#[must_use]
pub fn strict_transport_security_for<'r>(
    client: &ClientContext,
    rules: &'r HeaderRules,
) -> Option<&'r HeaderValue> {
    rules
        .strict_transport_security
        .as_ref()
        .filter(|_| client.is_tls())
}

/// Which of the fields that matter here a map holds: one pass over the names is cheaper than a
/// look-up for each.
#[derive(Clone, Copy)]
struct SeenFields(u16);

impl SeenFields {
    const HOP: u16 = 1;
    const CONNECTION: u16 = 1 << 1;
    const TE: u16 = 1 << 2;
    const FOR: u16 = 1 << 3;
    const REAL_IP: u16 = 1 << 4;
    const PROTO: u16 = 1 << 5;
    const PORT: u16 = 1 << 6;
    const FORWARDED_HOST: u16 = 1 << 7;
    const COOKIE: u16 = 1 << 8;
    const COOKIES: u16 = 1 << 9;
    const FORWARDED: u16 = 1 << 10;
    const LOOKALIKE: u16 = 1 << 11;
    const OTHER_FORWARDING: u16 = 1 << 12;
    const FORWARDING: u16 = Self::FOR
        | Self::REAL_IP
        | Self::PROTO
        | Self::PORT
        | Self::FORWARDED_HOST
        | Self::FORWARDED
        | Self::OTHER_FORWARDING;

    fn scan(headers: &HeaderMap) -> Self {
        let mut seen = 0;
        // Values, not keys: several Cookie fields count several times.
        for (name, _) in headers {
            seen |= match name.as_str() {
                "connection" => Self::CONNECTION,
                "te" => Self::TE,
                "x-forwarded-for" => Self::FOR,
                "x-real-ip" => Self::REAL_IP,
                "x-forwarded-proto" => Self::PROTO,
                "x-forwarded-port" => Self::PORT,
                "x-forwarded-host" => Self::FORWARDED_HOST,
                "forwarded" => Self::FORWARDED,
                "cookie" if seen & Self::COOKIE != 0 => Self::COOKIES,
                "cookie" => Self::COOKIE,
                "keep-alive"
                | "proxy-connection"
                | "proxy-authenticate"
                | "proxy-authorization" => Self::HOP,
                "transfer-encoding" | "upgrade" => Self::HOP,
                other if resembles_ours(other.as_bytes()) => Self::LOOKALIKE,
                other if is_forwarding(other.as_bytes()) => Self::OTHER_FORWARDING,
                _ => 0,
            };
        }
        Self(seen)
    }

    fn has(self, bit: u16) -> bool {
        self.0 & bit != 0
    }
}

/// RFC 9110 section 7.6.1.
fn drop_hop_by_hop(headers: &mut HeaderMap, rules: &HeaderRules, seen: SeenFields) {
    if seen.has(SeenFields::CONNECTION) {
        // Most say keep-alive, close or upgrade and are gone after this; others name fields to take
        // along.
        let lists: SmallVec<[HeaderValue; 2]> =
            headers.get_all(CONNECTION).iter().cloned().collect();
        headers.remove(CONNECTION);
        for token in lists.iter().flat_map(tokens) {
            let usual = [&b"keep-alive"[..], b"close", b"upgrade", b"te"];
            if usual.iter().any(|word| token.eq_ignore_ascii_case(word)) || rules.protects(token) {
                continue;
            }
            if let Ok(name) = HeaderName::from_bytes(token) {
                headers.remove(name);
            }
        }
    }
    if seen.has(SeenFields::HOP) {
        for name in [&KEEP_ALIVE, &PROXY_CONNECTION] {
            headers.remove(name);
        }
        for name in [
            PROXY_AUTHENTICATE,
            PROXY_AUTHORIZATION,
            TRANSFER_ENCODING,
            UPGRADE,
        ] {
            headers.remove(name);
        }
    }
}

/// `TE` is for the next hop only; the one word that may travel is `trailers`, which gRPC needs.
fn keep_trailers(headers: &mut HeaderMap, ctx: &RequestContext<'_>, seen: SeenFields) {
    if !seen.has(SeenFields::TE) {
        return;
    }
    let wanted = headers
        .get_all(TE)
        .iter()
        .flat_map(tokens)
        .any(|token| token.eq_ignore_ascii_case(b"trailers"));
    if !wanted || ctx.upgrade.is_some() {
        headers.remove(TE);
        return;
    }
    headers.insert(TE, HeaderValue::from_static("trailers"));
    if !ctx.upstream_h2 {
        // RFC 9110 section 10.1.4: TE is listed in Connection, so that an old hop does not pass it
        // on unread.
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

fn forward_client(headers: &mut HeaderMap, ctx: &RequestContext<'_>, seen: SeenFields) {
    let ip = &ctx.client.ip_value();
    let chain = if seen.has(SeenFields::FOR) {
        appended(headers, ip)
    } else {
        ip.clone()
    };
    headers.insert(&X_FORWARDED_FOR, chain);
    if !seen.has(SeenFields::REAL_IP) {
        headers.insert(&X_REAL_IP, ip.clone());
    }
}

/// All received values and the client, in one field.
fn appended(headers: &HeaderMap, ip: &HeaderValue) -> HeaderValue {
    let mut chain = Vec::with_capacity(128);
    for value in headers.get_all(&X_FORWARDED_FOR) {
        if !value.is_empty() {
            chain.extend_from_slice(value.as_bytes());
            chain.extend_from_slice(b", ");
        }
    }
    chain.extend_from_slice(ip.as_bytes());
    HeaderValue::from_maybe_shared(Bytes::from(chain)).unwrap_or_else(|_| ip.clone())
}

/// `X-Forwarded-Proto` and `Forwarded`: both depend on what came in for the other, so they are made
/// together.
fn forward_scheme(headers: &mut HeaderMap, ctx: &RequestContext<'_>, seen: SeenFields) {
    let tls = ctx.client.is_tls();
    let websocket = ctx.upgrade.is_some_and(|upgrade| upgrade.websocket);
    if !seen.has(SeenFields::PROTO) && !seen.has(SeenFields::FORWARDED) {
        let here = seen_scheme(tls, websocket);
        headers.insert(
            &X_FORWARDED_PROTO,
            HeaderValue::from_static(plain_scheme(here)),
        );
        headers.insert(&FORWARDED, cached_forwarded(ctx, here));
        return;
    }
    let word = scheme(headers, ctx.client, ctx.rules, websocket);
    let proto = (!seen.has(SeenFields::PROTO)).then(|| match word {
        "http" | "ws" => HeaderValue::from_static("http"),
        "https" | "wss" => HeaderValue::from_static("https"),
        other => ascii_value(other.to_owned()),
    });
    let forwarded = extended_forwarded(headers, ctx, word);
    if let Some(proto) = proto {
        headers.insert(&X_FORWARDED_PROTO, proto);
    }
    headers.insert(&FORWARDED, forwarded);
}

fn plain_scheme(word: &'static str) -> &'static str {
    match word {
        "ws" => "http",
        "wss" => "https",
        other => other,
    }
}

fn cached_forwarded(ctx: &RequestContext<'_>, scheme: &'static str) -> HeaderValue {
    let mut made = ctx.client.made.borrow_mut();
    let cached = &mut made.get_or_insert_default().forwarded;
    if let Some((of_scheme, of_version, value)) = cached
        && *of_scheme == scheme
        && *of_version == ctx.version
    {
        return value.clone();
    }
    let mut text = format!("for={}; proto={scheme}", forwarded_node(ctx.client.ip));
    push_hop(&mut text, ctx);
    let value = ascii_value(text);
    *cached = Some((scheme, ctx.version, value.clone()));
    value
}

fn extended_forwarded(headers: &HeaderMap, ctx: &RequestContext<'_>, scheme: &str) -> HeaderValue {
    let mut text = String::with_capacity(160);
    for value in headers.get_all(&FORWARDED) {
        // Values that are not text could not be joined with ours without changing them; such a
        // field is not a valid `Forwarded` anyway.
        if let Ok(part) = value.to_str()
            && !part.is_empty()
        {
            let _ = write!(text, "{}{part}", if text.is_empty() { "" } else { ", " });
        }
    }
    if text.is_empty() {
        let _ = write!(
            text,
            "for={}; proto={scheme}",
            forwarded_node(ctx.client.ip)
        );
    }
    push_hop(&mut text, ctx);
    ascii_value(text)
}

/// What every `Forwarded` ends with.
fn push_hop(text: &mut String, ctx: &RequestContext<'_>) {
    if let Some(by) = &ctx.rules.by {
        let _ = write!(text, "; by={by}");
    }
    text.push_str(match ctx.version {
        Version::HTTP_10 => "; httpproto=http/1.0",
        Version::HTTP_2 => "; httpproto=http/2.0",
        _ => "; httpproto=http/1.1",
    });
    if let Some(tls) = &ctx.client.tls {
        let _ = write!(
            text,
            "; tlsver={}; tlscipher=0x{:04x}",
            tls.version, tls.cipher
        );
    }
}

/// RFC 7239 section 6: an IPv6 address stands in brackets, and so in quotes.
fn forwarded_node(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("\"[{ip}]\""),
    }
}

fn forward_host(headers: &mut HeaderMap, ctx: &RequestContext<'_>, seen: SeenFields) {
    let sent = (ctx.rules.forwarded_host_sent && *ctx.rewrite != HostRewrite::Keep)
        .then(|| upstream_host(ctx));
    let host = sent.as_ref().or(ctx.host);
    if !seen.has(SeenFields::PORT) {
        let text = host.and_then(|host| port_of(host.as_bytes()));
        let port = text.and_then(|port| HeaderValue::from_bytes(port).ok());
        let default = HeaderValue::from_static(if ctx.client.is_tls() { "443" } else { "80" });
        headers.insert(&X_FORWARDED_PORT, port.unwrap_or(default));
    }
    if let (false, Some(host)) = (seen.has(SeenFields::FORWARDED_HOST), host) {
        headers.insert(&X_FORWARDED_HOST, host.clone());
    }
    if let Some(strip) = ctx.strip
        && let Ok(prefix) = HeaderValue::from_str(strip)
    {
        headers.insert(&X_FORWARDED_PREFIX, prefix);
    }
}

/// Digits after the last colon; the colons of a bracketed IPv6 address are not it.
pub(crate) fn port_of(host: &[u8]) -> Option<&[u8]> {
    let colon = memchr::memrchr(b':', host)?;
    let port = &host[colon + 1..];
    (!port.is_empty() && port.iter().all(u8::is_ascii_digit)).then_some(port)
}

/// The host alone, without its port and without the dot of an absolute name.
#[must_use]
pub fn without_port(host: &[u8]) -> &[u8] {
    let name = match port_of(host) {
        Some(port) => &host[..host.len() - port.len() - 1],
        None => host,
    };
    name.strip_suffix(b".").unwrap_or(name)
}

fn set_configured(headers: &mut HeaderMap, ctx: &RequestContext<'_>) {
    if let Some(name) = &ctx.rules.client_ip_header {
        headers.insert(name, ctx.client.ip_value());
    }
    if let Some((name, value)) = &ctx.rules.tls_header {
        if ctx.client.is_tls() {
            headers.insert(name, value.clone());
        } else {
            headers.remove(name);
        }
    }
}

fn set_host(headers: &mut HeaderMap, ctx: &RequestContext<'_>) {
    if ctx.upstream_h2 {
        headers.remove(HOST);
        return;
    }
    let untouched =
        *ctx.rewrite == HostRewrite::Keep && ctx.host.is_some() && headers.get(HOST) == ctx.host;
    if !untouched {
        headers.insert(HOST, upstream_host(ctx));
    }
}

/// RFC 9113 section 8.2.3: HTTP/2 may split cookies into several fields, HTTP/1.1 may not.
fn join_cookies(headers: &mut HeaderMap) {
    let mut joined = Vec::with_capacity(256);
    for value in headers.get_all(COOKIE) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(value.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        headers.insert(COOKIE, value);
    }
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    tokens_of(value.as_bytes())
}

/// The elements of a list.
pub(crate) fn tokens_of(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

/// Values made here are printable ASCII.
fn ascii_value(text: String) -> HeaderValue {
    HeaderValue::from_maybe_shared(Bytes::from(text)).unwrap_or(HeaderValue::from_static(""))
}

fn lossy(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

#[cfg(test)]
mod tests;
