//! HTTP on a worker: from a client's connection to an instance and back.

pub mod ask;
pub mod body;
pub mod client_io;
pub mod compression;
pub mod connection;
pub mod direct;
pub mod ends_by;
pub mod exchange;
pub mod explain;
pub mod forward;
pub mod guarded_io;
pub mod h2;
pub mod headers;
pub mod interim;
pub mod observed;
pub mod path;
pub mod record;
pub mod redirect;
pub mod scrape;
pub mod source;
pub mod strict;
pub mod told;
pub mod upgrade;
