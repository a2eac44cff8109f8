//! The Consul sources.
//!
//! ```text
//! list ── /v1/catalog/services ── starts and ends ──▶ watch (one per routed service) ── /v1/health/service/NAME
//!   └──────────── poll: pacing, position, retries ─────────────┘        may it be believed? loss_guard, visibility
//!       │         client ─ pool ─ dial ─ settings, tls                  catalog: wire → snapshot
//!       │                  room, grant: how many fit?
//!       ├─ feed ── tells watches which services changed, where there is no room for a blocking query each
//!   overrides ── /v1/kv/PATH?recurse ── route commands, a source of its own
//!   page ─────── /v1/kv/PATH?recurse ── the page for requests without a route
//! ```
//! `source` is the face of both sources, `connection` what they share: where it begins, and how it
//! takes a new configuration.
//! `register` writes what the others read: the registration of `lb` itself.
//!
//! An error is never an empty response: every service keeps its last good instances for as long as
//! Consul cannot be read, and one service's failure touches no other. `visibility`, `wire`, `catalog`
//! and `keys` are pure, and so are the rules that are not of Consul alone: `blocking`, `loss_guard`,
//! `initial_sync` and `outage` beside this folder.

pub mod catalog;
pub(crate) mod client;
mod connection;
mod dial;
pub(crate) mod error;
mod expiry;
mod feed;
mod grant;
mod healthy_count;
mod hint;
mod key_file;
pub(crate) mod keys;
mod kv_editor;
mod list;
mod mesh;
mod notices;
mod overrides;
mod pace;
mod page;
mod poll;
mod pool;
pub mod probe;
pub(crate) mod register;
mod rights;
mod room;
mod settings;
mod shared;
mod source;
mod tls;
mod visibility;
mod watch;
pub mod wire;

pub use connection::Connection;
pub use error::ConsulError;
pub use mesh::is_of_mesh;
pub use probe::probe;
pub use source::{ConsulCatalog, ConsulCommands};
