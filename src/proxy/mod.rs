//! The data path: what happens between a client and an instance.

pub mod budget;
pub mod clock;
pub mod http;
pub mod proxy_protocol;
pub mod tcp;
pub mod tls;
