//! `[proxy.compression]`: which answers are compressed on their way to the client.

use std::fmt;

use regex::{Regex, RegexBuilder};

use super::reader::Reader;

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
    /// What is no regular expression, or an excessive one.
    pub fn new(pattern: &str) -> Result<Self, regex::Error> {
        RegexBuilder::new(pattern)
            .size_limit(PATTERN_BYTES_MAX)
            .build()
            .map(Self)
    }

    /// Whether answers of this type are meant.
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

/// A content coding (RFC 9110 section 8.4.1, RFC 7932, RFC 8878).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// `gzip`
    Gzip,
    /// `br`
    Brotli,
    /// `zstd`
    Zstd,
}

impl Coding {
    /// Its registered name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }
}

/// Which answers are compressed, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct CompressionConfig {
    /// Those of these types; none: nothing is compressed (`content_types`).
    pub content_types: Option<ContentTypes>,
    /// What may be chosen, the best first (`algorithms`).
    pub algorithms: Vec<Coding>,
    /// Answers of a known length below this pass as they are, in bytes (`min_bytes`).
    pub min_bytes: u64,
    /// About how much a worker may take for it, in MiB (`max_memory_mib`).
    pub max_memory_mib: usize,
}

/// Reads the section.
pub(super) fn compression(reader: &mut Reader<'_>) -> CompressionConfig {
    let pattern = reader.text("content_types");
    let content_types = match pattern.as_deref().map(ContentTypes::new) {
        None => None,
        Some(Ok(content_types)) => Some(content_types),
        Some(Err(error)) => {
            let text = error.to_string();
            // The library draws a picture in several lines; its last one says what is wrong.
            let reason = text
                .lines()
                .next_back()
                .unwrap_or_default()
                .trim_start_matches("error: ");
            let problem = format!("is no regular expression ({reason})");
            reader.wrong(
                "content_types",
                &problem,
                "write it like \"^(text/|application/json)\"",
            );
            None
        }
    };
    let words = reader.list("algorithms");
    let algorithms = words.iter().map(|word| match word.as_str() {
        "br" => Coding::Brotli,
        "zstd" => Coding::Zstd,
        // The kind of the key lets nothing else through.
        _ => Coding::Gzip,
    });
    CompressionConfig {
        content_types,
        algorithms: algorithms.collect(),
        min_bytes: reader.count("min_bytes"),
        max_memory_mib: reader.count("max_memory_mib"),
    }
}
