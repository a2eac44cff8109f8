//! Sources of routing data. Each runs as a task on the control thread and sends [`Update`]s; none
//! knows the table.
//!
//! ```text
//!                 is_on?           start(config, context)
//! list ─▶ Source ─────────▶ Config ──────────────────────▶ RunningSource ──Update──▶ resolve ──▶ control
//!            │                                                   │
//!            └─ files, looks, restart_keys, probe                └─ prepare(new Config) ─▶ Reload
//! ```
//! [`list()`] says which sources there are, `source` what a source is. To add one: a folder here
//! with an `impl Source`, a section in the configuration, and a row in [`list()`].

pub(crate) mod backoff;
pub(crate) mod blocking;
pub mod consul;
pub(crate) mod context;
pub mod dns;
mod endpoint;
pub mod healthy_count;
mod initial_sync;
pub(crate) mod key_store;
pub mod list;
pub(crate) mod look;
mod loss_guard;
pub mod nomad;
mod outage;
pub(crate) mod probe_step;
pub mod registration;
pub(crate) mod resolve;
pub(crate) mod routes_file;
pub(crate) mod routes_http;
pub(crate) mod source;
pub(crate) mod static_routes;
pub(crate) mod task;
pub(crate) mod update;

pub use context::{Context, Page};
pub use list::list;
pub use look::{Look, Pem};
pub use probe_step::ProbeStep;
pub use source::{Reload, RunningSource, Source, SourceError};
pub use update::Update;
