//! The names of sources, and the order in which their commands act.

/// Names a source in updates, logs and the API: `consul`, `consul_kv`, `nomad`, `static`,
/// `routes_file`, `routes_http`.
pub type SourceName = &'static str;

/// Name of the source that Consul's catalog is.
pub const CONSUL: SourceName = "consul";

/// Name of the source that Nomad's own service discovery is.
pub const NOMAD: SourceName = "nomad";

/// Name of the source of route commands that the KV store is: runs along with the catalog's when
/// `consul.kv_path` is set.
pub const OVERRIDES: SourceName = "consul_kv";

/// Where the commands of a source stand among those of all sources: by name, but those of the KV
/// store come last, because they are what an operator changes in a hurry, and have to act on
/// everything else.
#[must_use]
pub fn order(source: SourceName) -> (bool, SourceName) {
    (source == OVERRIDES, source)
}
