//! Certificates and their authority, and values that must not be shown.

pub mod pki;
pub mod secrets;
