//! A form of the access log of one's own: text with fields, in the language of Fabio's
//! `log.access.format`.
//!
//! A field is `$` and letters, digits, `_` or `-`; `$header.NAME` is a header field of the request.
//! A `$` before anything else stands for itself, and takes the character after it along. Values are
//! written as they are, but for control characters, quotes and backslashes, which could forge
//! another line or field.

use http::HeaderName;

use super::error::nearest;

/// A parsed form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessFormat {
    text: String,
    items: Vec<AccessItem>,
    headers: Vec<HeaderName>,
}

/// A part of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessItem {
    /// Written as it is.
    Text(String),
    /// The value of a header field: which one of [`AccessFormat::headers`].
    Header(usize),
    /// Something known of the request.
    Field(AccessField),
}

/// Declares the fields with their names.
macro_rules! fields {
    ($($(#[$doc:meta])* $field:ident = $name:literal,)*) => {
        /// What a line can hold.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum AccessField { $($(#[$doc])* $field,)* }

        /// Names of all fields, without `$`.
        pub const ACCESS_FIELDS: &[(&str, AccessField)] = &[$(($name, AccessField::$field),)*];
    };
}

fields! {
    /// Address and port of the client.
    RemoteAddr = "remote_addr",
    /// Its address.
    RemoteHost = "remote_host",
    /// Its port.
    RemotePort = "remote_port",
    /// `METHOD URI PROTO`
    Request = "request",
    /// The query.
    RequestArgs = "request_args",
    /// The host that the instance got.
    RequestHost = "request_host",
    /// The method.
    RequestMethod = "request_method",
    /// `HTTP/1.1` and the like.
    RequestProto = "request_proto",
    /// `http`, `https`, `ws` or `wss`, or what a proxy in front says.
    RequestScheme = "request_scheme",
    /// Path and query.
    RequestUri = "request_uri",
    /// Scheme, host, path and query.
    RequestUrl = "request_url",
    /// Bytes of the response's body, as sent.
    ResponseBodySize = "response_body_size",
    /// The status.
    ResponseStatus = "response_status",
    /// Seconds with 3 decimals.
    ResponseTimeMs = "response_time_ms",
    /// Seconds with 6 decimals.
    ResponseTimeUs = "response_time_us",
    /// Seconds with 9 decimals.
    ResponseTimeNs = "response_time_ns",
    /// `22/Nov/2026:20:03:36 +0000`
    TimeCommon = "time_common",
    /// `2026-11-22T20:03:36Z`
    TimeRfc3339 = "time_rfc3339",
    /// The same with milliseconds.
    TimeRfc3339Ms = "time_rfc3339_ms",
    /// The same with microseconds.
    TimeRfc3339Us = "time_rfc3339_us",
    /// The same with nanoseconds.
    TimeRfc3339Ns = "time_rfc3339_ns",
    /// Milliseconds since 1970.
    TimeUnixMs = "time_unix_ms",
    /// Microseconds since 1970.
    TimeUnixUs = "time_unix_us",
    /// Nanoseconds since 1970.
    TimeUnixNs = "time_unix_ns",
    /// Address and port of the instance.
    UpstreamAddr = "upstream_addr",
    /// Its address.
    UpstreamHost = "upstream_host",
    /// Its port.
    UpstreamPort = "upstream_port",
    /// Scheme of the request to it.
    UpstreamRequestScheme = "upstream_request_scheme",
    /// Path and query of that.
    UpstreamRequestUri = "upstream_request_uri",
    /// URL of that.
    UpstreamRequestUrl = "upstream_request_url",
    /// Its service.
    UpstreamService = "upstream_service",
    /// The status of a call of gRPC.
    GrpcStatus = "grpc_status",
    /// Where a TCP connection was accepted.
    ListenerAddr = "listener_addr",
    /// Bytes that the instance got on a TCP connection.
    RequestBodySize = "request_body_size",
    /// How a TCP connection ended.
    ConnectionEnd = "connection_end",
}

/// Why a text is not a format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessFormatError {
    /// Nothing would be known of a request.
    #[error("holds no field")]
    NoField,
    /// A field that does not exist.
    #[error("holds ${0}, which is not a field")]
    Unknown(String),
}

impl AccessFormatError {
    /// What to write instead.
    #[must_use]
    pub fn advice(&self) -> String {
        let near = match self {
            Self::Unknown(name) => nearest(name, ACCESS_FIELDS.iter().map(|(name, _)| *name)),
            Self::NoField => None,
        };
        match near {
            Some(near) => format!("did you mean ${near}?"),
            None => {
                "write off, common, combined, json, or a text with fields like $request (config/lb.toml lists them)"
                    .to_owned()
            }
        }
    }
}

impl AccessFormat {
    /// Parses a text.
    ///
    /// # Errors
    /// A text without a field, or with an unknown one.
    pub fn parse(text: &str) -> Result<Self, AccessFormatError> {
        let mut format = Self {
            text: text.to_owned(),
            items: Vec::new(),
            headers: Vec::new(),
        };
        let mut rest = text;
        while !rest.is_empty() {
            let name = rest.strip_prefix('$').map(word).unwrap_or_default();
            let taken = if name.is_empty() {
                format.plain(rest)
            } else {
                format.field(name, &rest[1 + name.len()..])?
            };
            rest = &rest[taken..];
        }
        let known = format
            .items
            .iter()
            .any(|item| !matches!(item, AccessItem::Text(_)));
        if known {
            Ok(format)
        } else {
            Err(AccessFormatError::NoField)
        }
    }

    /// Takes text up to the next field; how many bytes that was.
    fn plain(&mut self, rest: &str) -> usize {
        // A `$` that begins no field takes the next character along, even another `$`.
        let skipped: usize = match rest.strip_prefix('$') {
            Some(after) => 1 + after.chars().next().map_or(0, char::len_utf8),
            None => 0,
        };
        let taken = rest[skipped..]
            .find('$')
            .map_or(rest.len(), |at| skipped + at);
        self.items.push(AccessItem::Text(rest[..taken].to_owned()));
        taken
    }

    /// Takes the field `$name` that `after` follows; how many bytes that was.
    fn field(&mut self, name: &str, after: &str) -> Result<usize, AccessFormatError> {
        let header = if name == "header" {
            after.strip_prefix('.').map(word).unwrap_or_default()
        } else {
            ""
        };
        if let Ok(header_name) = header.parse::<HeaderName>() {
            let at = self
                .headers
                .iter()
                .position(|known| *known == header_name)
                .unwrap_or_else(|| {
                    self.headers.push(header_name);
                    self.headers.len() - 1
                });
            self.items.push(AccessItem::Header(at));
            return Ok("$header.".len() + header.len());
        }
        match ACCESS_FIELDS.iter().find(|(known, _)| *known == name) {
            Some((_, field)) => self.items.push(AccessItem::Field(*field)),
            None => return Err(AccessFormatError::Unknown(name.to_owned())),
        }
        Ok(1 + name.len())
    }

    /// As written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its parts.
    #[must_use]
    pub fn items(&self) -> &[AccessItem] {
        &self.items
    }

    /// The header fields it holds, each once.
    #[must_use]
    pub fn headers(&self) -> &[HeaderName] {
        &self.headers
    }

    /// Whether it holds one of these.
    #[must_use]
    pub fn tells(&self, fields: &[AccessField]) -> bool {
        self.items
            .iter()
            .any(|item| matches!(item, AccessItem::Field(field) if fields.contains(field)))
    }
}

/// The letters, digits, `_` and `-` that a text begins with.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'));
    &text[..end.unwrap_or(text.len())]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Result<Vec<String>, String> {
        let format = AccessFormat::parse(text).map_err(|error| error.to_string())?;
        let item = |item: &AccessItem| match item {
            AccessItem::Text(text) => format!("{text:?}"),
            AccessItem::Header(at) => format!("header {}", format.headers()[*at]),
            AccessItem::Field(field) => format!("{field:?}"),
        };
        Ok(format.items().iter().map(item).collect())
    }

    #[test]
    fn text_fields_and_headers() {
        let cases: &[(&str, &[&str])] = &[
            ("$remote_addr", &["RemoteAddr"]),
            ("a $request b", &["\"a \"", "Request", "\" b\""]),
            ("$request$request_uri", &["Request", "RequestUri"]),
            ("$remote_host.x", &["RemoteHost", "\".x\""]),
            (
                "\"$header.User-Agent\"",
                &["\"\\\"\"", "header user-agent", "\"\\\"\""],
            ),
            (
                "$header.a$header.B.$header.A",
                &["header a", "header b", "\".\"", "header a"],
            ),
            ("$$request $request", &["\"$$request \"", "Request"]),
            ("100$ $request$", &["\"100\"", "\"$ \"", "Request", "\"$\""]),
            ("$ü$request", &["\"$ü\"", "Request"]),
        ];
        for (text, items) in cases {
            assert_eq!(
                shown(text).as_deref(),
                Ok(owned(items).as_slice()),
                "{text}"
            );
        }
        assert_eq!(
            AccessFormat::parse("$header.a$header.A$header.b")
                .unwrap()
                .headers(),
            ["a", "b"]
        );
    }

    fn owned(items: &[&str]) -> Vec<String> {
        items.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn what_is_no_form_is_named_with_what_was_meant() {
        for (text, problem, advice) in [
            (
                "plain",
                "holds no field",
                "write off, common, combined, json, or a text with fields",
            ),
            ("", "holds no field", "write off"),
            (
                "$upstream_adr",
                "holds $upstream_adr, which is not a field",
                "did you mean $upstream_addr?",
            ),
            ("$header", "holds $header, which is not a field", ""),
            ("$header.", "holds $header, which is not a field", ""),
            (
                "$Request",
                "holds $Request, which is not a field",
                "did you mean $request?",
            ),
        ] {
            let error = AccessFormat::parse(text).unwrap_err();
            assert_eq!(error.to_string(), problem, "{text}");
            assert!(
                error.advice().starts_with(advice),
                "{text}: {}",
                error.advice()
            );
        }
    }

    proptest! {
        #[test]
        fn nothing_of_a_text_is_lost(text in "([a$.]|\\$request|\\$header\\.x|ü){0,12}") {
            if let Ok(format) = AccessFormat::parse(&text) {
                let item = |item: &AccessItem| match item {
                    AccessItem::Text(text) => text.clone(),
                    AccessItem::Header(at) => format!("$header.{}", format.headers()[*at]),
                    AccessItem::Field(_) => "$request".to_owned(),
                };
                prop_assert_eq!(format.items().iter().map(item).collect::<String>(), text);
            }
        }
    }
}
