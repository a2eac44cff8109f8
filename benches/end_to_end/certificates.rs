//! The certificates that all proxies show: one with a P-256 key, one with an RSA key, from one
//! throw-away CA.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_RSA_SHA256,
    RsaKeySize,
};

/// Files of one pair.
pub(crate) struct Pair {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
    /// Both in one file, as HAProxy wants it.
    pub(crate) both: PathBuf,
}

/// Both pairs.
pub(crate) struct Certificates {
    pub(crate) ecdsa: Pair,
    pub(crate) rsa: Pair,
    /// The CA, DER.
    pub(crate) ca: Vec<u8>,
}

impl Certificates {
    pub(crate) fn write(folder: &Path, rsa: RsaKeySize) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let pair = |name: &str, key: KeyPair| {
            let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            let cert = params.signed_by(&key, &ca).unwrap().pem();
            let file = |suffix: &str, text: &str| {
                let path = folder.join(format!("{name}{suffix}.pem"));
                fs::write(&path, text).unwrap();
                path
            };
            let key = key.serialize_pem();
            Pair {
                cert: file("", &cert),
                key: file("-key", &key),
                both: file("-both", &format!("{cert}{key}")),
            }
        };
        let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, rsa).unwrap();
        Self {
            ecdsa: pair("ecdsa", KeyPair::generate().unwrap()),
            rsa: pair("rsa", rsa),
            ca: ca.der().to_vec(),
        }
    }
}
