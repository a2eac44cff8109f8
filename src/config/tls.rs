//! Versions and cipher suites of TLS, and names of certificates: keys that listeners and the admin
//! listener share.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::certificates::{CertificateConfig, CertificateSource};
use super::error::nearest;
use super::reader::Reader;
use super::words::words;

words! {
    /// A version of TLS.
    #[derive(PartialOrd, Ord)]
    pub enum TlsVersion {
        /// 1.2
        V1_2 = "1.2",
        /// 1.3
        V1_3 = "1.3",
    }
}

/// Cipher suites served, under their registered names (IANA), with their numbers; the best first.
pub const TLS_CIPHERS: [(&str, u16); 9] = [
    ("TLS_AES_256_GCM_SHA384", 0x1302),
    ("TLS_AES_128_GCM_SHA256", 0x1301),
    ("TLS_CHACHA20_POLY1305_SHA256", 0x1303),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", 0xc02c),
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", 0xc02b),
    ("TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", 0xcca9),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", 0xc030),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", 0xc02f),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", 0xcca8),
];
/// What handshakes of a listener may choose. One cipher suite at least fits one of the versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsLimits {
    /// Lowest version.
    pub min: TlsVersion,
    /// Highest version.
    pub max: TlsVersion,
    /// Numbers of the cipher suites (IANA), in order; empty: all.
    pub ciphers: Arc<[u16]>,
}

impl Default for TlsLimits {
    fn default() -> Self {
        Self {
            min: TlsVersion::V1_2,
            max: TlsVersion::V1_3,
            ciphers: Arc::default(),
        }
    }
}

fn cipher(name: &str) -> Option<u16> {
    let known = TLS_CIPHERS.iter().find(|(known, _)| *known == name);
    known.map(|(_, number)| *number)
}

/// What handshakes may choose by three keys that have been checked.
pub(super) fn limits(min: TlsVersion, max: TlsVersion, ciphers: &[String]) -> TlsLimits {
    TlsLimits {
        min,
        max,
        ciphers: ciphers.iter().filter_map(|name| cipher(name)).collect(),
    }
}

/// Checks the keys `tls_min`, `tls_max` and `tls_ciphers`.
pub(super) fn check_tls(
    reader: &mut Reader<'_>,
    min: TlsVersion,
    max: TlsVersion,
    names: &[String],
) {
    if max < min {
        reader.wrong("tls_max", "is below tls_min", "raise it, or lower tls_min");
    }
    for name in names.iter().filter(|name| cipher(name).is_none()) {
        let known = TLS_CIPHERS.map(|(known, _)| known).join(", ");
        reader.wrong(
            "tls_ciphers",
            &format!("names {name:?}, which is not served"),
            &format!("choose among {known}"),
        );
    }
    let ciphers = limits(min, max, names).ciphers;
    // A suite belongs to one version: those of 1.3 begin with the byte 0x13.
    let serves = |version| {
        ciphers
            .iter()
            .any(|number| (number >> 8 == 0x13) == (version == TlsVersion::V1_3))
    };
    for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
        if !ciphers.is_empty() && (min..=max).contains(&version) && !serves(version) {
            let problem = format!("holds no suite for TLS {}", version.as_str());
            reader.wrong(
                "tls_ciphers",
                &problem,
                "add one, or leave that version out (tls_min, tls_max)",
            );
        }
    }
}

/// Whether a listener of the control thread may show these: they exist, and are there before a
/// client names a host.
pub(super) fn check_shown(
    reader: &mut Reader<'_>,
    name: Option<&String>,
    known: &BTreeMap<String, CertificateConfig>,
) {
    let Some(name) = name else {
        return;
    };
    check_name(reader, name, known);
    if matches!(
        known.get(name).map(|it| &it.source),
        Some(CertificateSource::VaultPki { .. })
    ) {
        reader.wrong(
            "certificates",
            "names certificates that are made on demand",
            "name a source that has its certificates from the start",
        );
    }
}

/// Whether there are such certificates.
pub(super) fn check_name(
    reader: &mut Reader<'_>,
    name: &str,
    known: &BTreeMap<String, CertificateConfig>,
) {
    if !known.contains_key(name) {
        let advice = match nearest(name, known.keys().map(String::as_str)) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("add [certificates.{name}]"),
        };
        reader.wrong(
            "certificates",
            "names certificates that are not configured",
            &advice,
        );
    }
}
