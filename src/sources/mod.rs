//! Sources of routing data. Each runs as a task on the control thread and sends [`Update`]s; none
//! knows the table.
//!
//! ```text
//!                 is_on?           start(config, context)
//! list ─▶ Source ─────────▶ Config ──────────────────────▶ RunningSource ──Update──▶ resolve ──▶ control
//!            │                                                   │
//!            └─ files, looks, restart_keys, probe                └─ prepare(new Config) ─▶ Reload
//! ```
//! [`list`](mod@list) says which sources there are, [`source`] what a source is. To add one: a folder here
//! with an `impl Source`, a section in the configuration, and a row in [`list`](mod@list).

pub mod backoff;
pub mod consul;
pub mod context;
pub mod dns;
pub mod key_store;
pub mod list;
pub mod look;
pub mod probe_step;
pub mod registration;
pub mod resolve;
pub mod routes_file;
pub mod routes_http;
pub mod source;
pub mod static_routes;
pub mod task;
pub mod update;

pub use context::{Context, Page};
pub use list::list;
pub use look::{Look, Pem};
pub use probe_step::ProbeStep;
pub use source::{Reload, RunningSource, Source, SourceError};
pub use update::Update;
