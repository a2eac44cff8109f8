//! A route command in the spelling of the configuration.

/// One `[[static.route]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticRoute {
    /// Service name for metrics and logs.
    pub service: String,
    /// Place: `host/path`, `/path` or `:PORT`.
    pub source: String,
    /// Target URLs.
    pub targets: Vec<String>,
    /// Options as in a tag: `strip=/x proto=https`.
    pub options: String,
}
