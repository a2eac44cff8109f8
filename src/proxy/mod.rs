//! The data path: listeners, worker threads, and what happens to a request or a connection on them.
//!
//! A worker is one thread with one `current_thread` runtime, its own `SO_REUSEPORT` sockets and its
//! own upstream connections. Workers share the table pointer, the settings pointer and atomics; no
//! lock is taken on the way of a request. This module has never heard of Consul.

pub mod accept;
pub mod auth;
pub mod budget;
pub mod challenges;
pub mod connect;
pub mod copies;
pub mod drain;
pub mod error;
pub mod error_page_files;
pub mod http;
pub mod limit_share;
pub mod listener;
pub mod moving_deadline;
pub mod no_route_page;
pub mod passage;
pub mod poll_when_woken;
pub mod pool;
pub mod proxy_protocol;
pub mod session;
pub mod settings;
pub mod sharing;
pub mod sni;
pub mod splice;
pub mod tcp;
pub mod thread;
pub mod tls;
pub mod tunnels;
pub mod worker;
