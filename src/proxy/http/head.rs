//! A request's head, whichever reader it comes from: all that decides about a request looks at
//! this.
//!
//! HTTP/1 leaves the fields where they were read and points at them; HTTP/2 brings a map of them.
//! Rules that need a map get one from either ([`Fields::map`]); a usual request never needs it.

use std::cell::OnceCell;
use std::net::IpAddr;

use http::header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};

use super::auth_scheme::is_of_connection;
use super::client_address::{Client, TrustedProxies};
use super::forwarded::forwarding_names;
use super::h1::request_head::RequestHead;
use super::h1::scan::{Field, Kind};
use super::headers::{self, Upgrade};
use super::singletons;
use crate::catalog::matchers::RequestParts;
use crate::proxy::error::ProxyError;

/// The head.
#[derive(Debug)]
pub struct Head<'a> {
    /// Its method.
    pub method: &'a Method,
    /// The version that the client speaks.
    pub version: Version,
    /// Path and query, or `*`.
    pub target: &'a str,
    /// How many bytes of it are the path.
    path: usize,
    /// The host it is for.
    pub host: Option<&'a [u8]>,
    /// It names more than one, or something that is not a host (in HTTP/1 the parser has refused
    /// that).
    pub unclear_host: bool,
    /// Its fields.
    pub fields: Fields<'a>,
    /// The upgrade it wants.
    pub upgrade: Option<Upgrade>,
    /// Its credentials belong to the connection (NTLM, Negotiate).
    pub authenticates_connection: bool,
    /// It is a call of gRPC.
    pub grpc: bool,
    /// More than one Content-Type, one of which says gRPC.
    pub unclear_type: bool,
    /// Its fields cannot be passed as they came: some of them decide about others.
    pub mapped: bool,
    /// What comes behind it.
    pub content: Content<'a>,
    /// What its fields say of the client, once that was needed.
    client: OnceCell<Client>,
}

impl RequestParts for Head<'_> {
    fn method(&self) -> &Method {
        self.method
    }

    fn any_field(&self, name: &HeaderName, test: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        if *name == HOST {
            return self.host.is_some_and(test);
        }
        self.fields.all(name).any(test)
    }

    fn query(&self) -> Option<&str> {
        Head::query(self)
    }
}

/// What comes behind a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// All of it, maybe nothing.
    Whole(&'a [u8]),
    /// A body that is still coming; its length, if that is known.
    Streamed(Option<u64>),
}

impl<'a> Head<'a> {
    /// A head of HTTP/1 in `bytes`, which begin with it.
    #[must_use]
    pub fn of_lines(
        bytes: &'a [u8],
        head: &'a RequestHead,
        fields: &'a [Field],
        content: Content<'a>,
    ) -> Self {
        let fields = Fields::Lines {
            bytes,
            fields,
            map: OnceCell::new(),
        };
        let upgrade = if head.upgrade {
            headers::upgrade_of(fields.map())
        } else {
            None
        };
        Self {
            method: &head.method,
            version: head.version,
            target: head.target(bytes),
            path: head.path_length(),
            host: head.host.map(|host| host.of(bytes)),
            unclear_host: false,
            fields,
            upgrade,
            authenticates_connection: head.authenticates_connection,
            grpc: head.grpc,
            unclear_type: head.unclear_type,
            mapped: head.mapped,
            content,
            client: OnceCell::new(),
        }
    }

    /// A head with a map of fields. `host`: none if it is not clear, some none if there is none.
    #[must_use]
    pub fn of_map(
        method: &'a Method,
        version: Version,
        target: &'a str,
        host: Option<&'a Option<HeaderValue>>,
        fields: &'a HeaderMap,
        content: Content<'a>,
    ) -> Self {
        let upgrade = if version == Version::HTTP_11 {
            headers::upgrade_of(fields)
        } else {
            None
        };
        // The first says what it is; where another one says otherwise, it means two things.
        let says_grpc = |value: &HeaderValue| singletons::is_grpc(value.as_bytes());
        let grpc = fields.get(CONTENT_TYPE).is_some_and(says_grpc);
        let types = fields.get_all(CONTENT_TYPE);
        Self {
            method,
            version,
            target,
            path: memchr::memchr(b'?', target.as_bytes()).unwrap_or(target.len()),
            host: host.and_then(Option::as_ref).map(HeaderValue::as_bytes),
            unclear_host: host.is_none(),
            fields: Fields::Map(fields),
            upgrade,
            authenticates_connection: fields
                .get_all(AUTHORIZATION)
                .iter()
                .any(|value| is_of_connection(value.as_bytes())),
            grpc,
            unclear_type: types.iter().nth(1).is_some() && types.iter().any(says_grpc),
            mapped: !headers::pass_as_they_came(fields),
            content,
            client: OnceCell::new(),
        }
    }

    /// The client of the request, which `sender` sent.
    #[must_use]
    pub fn client(&self, sender: IpAddr, trusted: &TrustedProxies) -> Client {
        if !self.has_forwarding_fields() {
            return Client::at(sender);
        }
        *self
            .client
            .get_or_init(|| trusted.client(sender, self.fields.map()))
    }

    /// Whether some of its fields tell where it came from.
    #[must_use]
    pub fn has_forwarding_fields(&self) -> bool {
        self.mapped
            && match &self.fields {
                Fields::Lines { fields, .. } => {
                    fields.iter().any(|field| field.kind == Kind::Forwarding)
                }
                Fields::Map(map) => forwarding_names(map).next().is_some(),
            }
    }

    /// The path alone.
    #[must_use]
    pub fn path(&self) -> &'a str {
        &self.target[..self.path]
    }

    /// The query, without `?`.
    #[must_use]
    pub fn query(&self) -> Option<&'a str> {
        self.target.get(self.path + 1..)
    }

    /// The host as text; empty if there is none.
    #[must_use]
    pub fn host_text(&self) -> &'a str {
        self.host
            .and_then(|host| std::str::from_utf8(host).ok())
            .unwrap_or("")
    }

    /// The host as the value of a field.
    #[must_use]
    pub fn host_value(&self) -> Option<HeaderValue> {
        self.host
            .and_then(|host| HeaderValue::from_bytes(host).ok())
    }

    /// Whether it may be sent to two instances at the same time. Other safe methods are too rare to
    /// take part.
    #[must_use]
    pub fn may_be_doubled(&self) -> bool {
        self.is_bodiless()
            && self.upgrade.is_none()
            && matches!(*self.method, Method::GET | Method::HEAD)
    }

    /// Whether sending it twice does no harm (RFC 9110 section 9.2.2), and it has no body.
    #[must_use]
    pub fn is_repeatable(&self) -> bool {
        self.is_bodiless() && is_idempotent(self.method)
    }

    /// Whether the request can still be sent to an instance of a newer table, which may have other
    /// ones, after this. `kept`: what was taken of a body that is still coming can be sent again.
    #[must_use]
    pub fn may_go_elsewhere(&self, error: &ProxyError, kept: bool) -> bool {
        let at_hand = kept || matches!(self.content, Content::Whole(_));
        match error {
            ProxyError::NoInstance | ProxyError::Connect(_) | ProxyError::ConnectTimeout => at_hand,
            ProxyError::Upstream(_) => at_hand && self.is_repeatable(),
            _ => false,
        }
    }

    /// Whether there is nothing behind it.
    #[must_use]
    pub fn is_bodiless(&self) -> bool {
        self.content == Content::Whole(b"")
    }
}

/// The fields of a head.
#[derive(Debug)]
pub enum Fields<'a> {
    /// As they were read.
    Lines {
        /// The bytes they lie in.
        bytes: &'a [u8],
        /// Where.
        fields: &'a [Field],
        /// The same as a map, once that was needed.
        map: OnceCell<Box<HeaderMap>>,
    },
    /// A map.
    Map(&'a HeaderMap),
}

impl Fields<'_> {
    /// Whether a value begins or ends with a blank, which HTTP/2 forbids (RFC 9113 section 8.2.1)
    /// and HTTP/1 takes away: others would read it as what we took it not to be.
    #[must_use]
    pub fn have_blanks_around(&self) -> bool {
        let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
        match self {
            Self::Lines { .. } => false,
            Self::Map(map) => map
                .values()
                .any(|value| blank(value.as_bytes().first()) || blank(value.as_bytes().last())),
        }
    }

    /// All of them, as a map that is made at the first call.
    #[must_use]
    pub fn map(&self) -> &HeaderMap {
        match self {
            Self::Lines { bytes, fields, map } => {
                map.get_or_init(|| Box::new(map_of(bytes, fields)))
            }
            Self::Map(map) => map,
        }
    }

    /// Values of the fields of this name, in order.
    pub fn all<'f>(&'f self, name: &'f HeaderName) -> impl Iterator<Item = &'f [u8]> {
        let (lines, map) = match self {
            Self::Lines { bytes, fields, .. } => (Some((*bytes, *fields)), None),
            Self::Map(map) => (None, Some(map)),
        };
        let lines = lines.into_iter().flat_map(move |(bytes, fields)| {
            let named = move |field: &&Field| {
                field
                    .name
                    .of(bytes)
                    .eq_ignore_ascii_case(name.as_str().as_bytes())
            };
            fields
                .iter()
                .filter(named)
                .map(move |field| field.value.of(bytes))
        });
        lines.chain(
            map.into_iter()
                .flat_map(move |map| map.get_all(name))
                .map(HeaderValue::as_bytes),
        )
    }

    /// The value of the first field of this name.
    #[must_use]
    pub fn get<'f>(&'f self, name: &'f HeaderName) -> Option<&'f [u8]> {
        self.all(name).next()
    }

    /// Whether there is more than one.
    #[must_use]
    pub fn is_repeated(&self, name: &HeaderName) -> bool {
        self.all(name).nth(1).is_some()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Lines { fields, .. } => fields.len(),
            Self::Map(map) => map.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there are, where several fields that are one count once (cookies: RFC 9113 section
    /// 8.2.3).
    #[must_use]
    pub fn count_joined(&self) -> usize {
        let cookies = self.all(&COOKIE).count();
        self.len() - cookies.saturating_sub(1)
    }
}

/// RFC 9110 section 9.2.2.
#[must_use]
pub fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// The fields that pass, as a map.
#[must_use]
pub fn map_of(bytes: &[u8], fields: &[Field]) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(fields.len() + 8);
    for field in fields.iter().filter(|field| field.kind != Kind::Dropped) {
        // Both were looked at when the head was: names are tokens, values hold no control bytes.
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(field.name.of(bytes)),
            HeaderValue::from_bytes(field.value.of(bytes)),
        ) {
            map.append(name, value);
        }
    }
    map
}
