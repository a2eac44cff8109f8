//! `[proxy.compression]`: which responses are compressed on their way to the client.

use std::fmt;

use regex::{Regex, RegexBuilder};
use serde_json::{Value, json};

use super::declare::{Checked, section};
use super::key::Kind;
use super::typed::Typed;
use super::value::{Problem, SettingValue};
use super::words::words;

section! {
    /// Compression of responses, where the client takes it (Accept-Encoding) and the instance has
    /// not done it. Off while there is no pattern.
    pub struct CompressionConfig is Once "proxy.compression" {
        /// Which responses are compressed: a regular expression over their Content-Type. Not those
        /// to requests for a range, those that forbid it (Cache-Control: no-transform), those of
        /// gRPC, and those to clients that accept text/event-stream.
        content_types: Option<ContentTypes> = unset "^(text/|application/(json|javascript|xml)|image/svg)";

        /// What may be used, the best first: counts where a client likes several equally.
        algorithms: Vec<Coding> = "zstd,br,gzip";

        /// Responses known to be shorter than this pass as they are.
        min_bytes: u64 = "1024" in (0, 1 << 30);

        /// About how much memory (MiB) each worker may take for it. What comes when it is used up
        /// passes as it is.
        max_memory_mib: usize = "128" in (1, 65_536);
    }
}

impl Checked for CompressionConfig {}

words! {
    /// A content coding (RFC 9110 section 8.4.1, RFC 7932, RFC 8878), under its registered name.
    pub enum Coding {
        /// `zstd`
        Zstd = "zstd",
        /// `br`
        Brotli = "br",
        /// `gzip`
        Gzip = "gzip",
    }
}

/// Most memory (bytes) that a compiled pattern may take: far above need, and a bound on what a text
/// can cost.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// A regular expression over a `Content-Type`; it matches anywhere in it unless it says `^` and
/// `$`.
#[derive(Clone)]
pub struct ContentTypes(Regex);

impl ContentTypes {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// What is not a regular expression, or an excessive one.
    pub fn new(pattern: &str) -> Result<Self, regex::Error> {
        RegexBuilder::new(pattern)
            .size_limit(PATTERN_BYTES_MAX)
            .build()
            .map(Self)
    }

    /// Whether responses of this type are meant.
    #[must_use]
    pub fn hold(&self, content_type: &str) -> bool {
        self.0.is_match(content_type)
    }

    /// The pattern.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Debug for ContentTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0.as_str())
    }
}

impl PartialEq for ContentTypes {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl SettingValue for Option<ContentTypes> {
    const KIND: Kind = Kind::Text;

    fn from_typed(value: Typed) -> Result<Self, Problem> {
        let Typed::Text(pattern) = value else {
            return Ok(None);
        };
        ContentTypes::new(&pattern).map(Some).map_err(|error| {
            let text = error.to_string();
            // The library draws a picture in several lines; its last one says what is wrong.
            let reason = text
                .lines()
                .next_back()
                .unwrap_or_default()
                .trim_start_matches("error: ");
            Problem {
                problem: format!("is not a regular expression ({reason})"),
                advice: "write it like \"^(text/|application/json)\"".to_owned(),
            }
        })
    }

    fn unset() -> Self {
        None
    }

    fn show(&self) -> Value {
        json!(self.as_ref().map(ContentTypes::as_str))
    }
}
