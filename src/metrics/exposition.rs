//! Prometheus text exposition format 0.0.4.

use prometheus::{Registry, TextEncoder};

/// What `Content-Type` the text is to be served with.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything that the registry's collectors have at this moment: families by name, samples by the
/// values of their labels. A family without samples is left out, header included.
///
/// # Errors
/// A family that cannot be written, because it has no name.
pub(crate) fn encode(registry: &Registry) -> prometheus::Result<String> {
    TextEncoder::new().encode_to_string(&registry.gather())
}

#[cfg(test)]
pub(crate) mod tests;
