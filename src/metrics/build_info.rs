//! Which program this is.

/// Version of the program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Source revision, where the build has one (`LB_REVISION`).
pub const REVISION: &str = match option_env!("LB_REVISION") {
    Some(revision) if !revision.is_empty() => revision,
    _ => "unknown",
};
