//! The data path: what happens between a client and an instance.

pub mod http;
