//! HTTP between client and instance.

pub mod headers;
pub mod path;
pub mod redirect;
pub mod strict;
