//! HTTP between client and instance.

pub mod headers;
pub mod path;
pub mod redirect;

pub mod guarded_io;
pub mod strict;
