//! TLS on both sides: certificates for clients ([`store`]), trust in upstreams ([`upstream`]).
//!
//! rustls with aws-lc-rs, TLS 1.2 and 1.3. Handshakes and their deadlines are the listener's and
//! `connect`'s.

mod accept;
mod authorities;
mod choice;
mod client_cas;
mod client_certificates;
mod clients;
mod cryptography;
mod error;
pub mod pairs;
pub mod store;
pub mod upstream;

use crate::proxy::http::headers::TlsDetails;

pub use accept::accept;
pub use client_certificates::ClientCertificates;
pub use clients::Clients;
pub use error::{Problems, TlsError};
pub use pairs::{Pair, Pems};
pub use store::{CertStore, Demand, Material, ServerUse};
pub use upstream::UpstreamTls;

/// What the header rules tell of a finished handshake.
#[must_use]
pub fn details(connection: &rustls::ServerConnection) -> TlsDetails {
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "tls12",
        _ => "tls13",
    };
    let cipher = connection
        .negotiated_cipher_suite()
        .map_or(0, |suite| u16::from(suite.suite()));
    TlsDetails { version, cipher }
}
