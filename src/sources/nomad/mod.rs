//! The Nomad source: services that jobs register with `provider = "nomad"`.
//!
//! ```text
//! namespace ── /v1/services ───────── blocking: which services are there?        truth
//!   │   └───── /v1/service/NAME ───── where are their instances?                 truth
//!   │            read ── /v1/allocation/ID, /v1/client/allocation/ID/checks ── for those in doubt
//!   │                       └─▶ admission: may it get requests yet?  ─▶ snapshot
//!   └── stream ── /v1/event/stream ── what changed just now?                     hint
//! ```
//! Nomad registers an instance as soon as its allocation starts, and its servers know nothing of
//! checks. So an instance gets requests once its allocation is known to be up (`admission`); what
//! fails later is ejected by the traffic that it fails.
//!
//! An error is never an empty response: every service keeps its last good instances for as long as
//! Nomad cannot be read, and one namespace's failure touches no other. `wire`, `admission`,
//! `snapshot` and `events` are pure.

mod admission;
mod api;
mod error;
mod events;
mod namespace;
mod probe;
mod read;
mod shared;
mod snapshot;
mod source;
mod stream;
mod watched;
mod wire;

pub use source::NomadServices;
