//! A dynamic load balancer fed by the Consul catalog: HTTP, gRPC and TCP, without reloads.
//!
//! The map. Requests go through on the left, changes of the cluster come in on the right; they meet
//! in the routing table, which is replaced as a whole.
//!
//! ```text
//!  clients ──▶ proxy ──▶ instances           Consul, files, HTTP ──▶ sources ──▶ control
//!                │ looks up                                                        │ builds
//!                └───────────────────────▶ table ◀─────────────────────────────────┘
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`proxy`] | the data path: listeners, TLS, HTTP/1, HTTP/2, TCP, retries, pools |
//! | [`table`] | routes, their look-up, balancing, passive health |
//! | [`sources`] | Consul, files, an HTTP endpoint; lb's own registration |
//! | [`catalog`] | what a source tells: services, instances, checks, tags, route commands |
//! | [`control`] | from what sources tell to tables: which instances may serve |
//! | [`config`] | every key: its type, bounds, default and text; files, flags, environment |
//! | `certificates` | certificates that do not come from files: HTTP, Consul, Vault |
//! | [`metrics`], [`journal`], [`log`] | what can be seen: counters, events, log lines |
//! | [`admin`] | the admin listener: API, pages, metrics |
//! | `accept_encoding` | which content codings a client takes |
//! | [`jwt`] | tokens, the keys that sign them, and rules for their claims |
//! | `http_client`, [`trust`] | requests to other servers, and which certificates are trusted |
//! | [`serve`] | `lb run`: puts all of it together, starts and stops it |
//! | [`cli`], [`check`], [`manual`] | the command line, `lb check`, man pages |
//! | [`fabio`] | `lb fabio`: Fabio's flags and properties, translated |
//! | [`bootstrap`] | `lb bootstrap`: clusters of Consul and Nomad |
//! | [`demo`], [`sample`] | `lb demo`, and a small HTTP service |
//! | [`system`] | signals, shortages and failures of the process |
//!
//! docs/architecture.md has the pictures, docs/lexicon.md the words, docs/decisions/ the reasons.

mod accept_encoding;
pub mod admin;
pub mod bootstrap;
pub mod catalog;
mod certificates;
pub mod check;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod fabio;
mod http_client;
pub mod journal;
pub mod jwt;
pub mod log;
pub mod manual;
pub mod metrics;
pub mod proxy;
pub mod sample;
pub mod serve;
pub mod sources;
pub mod system;
pub mod table;
pub mod trust;
