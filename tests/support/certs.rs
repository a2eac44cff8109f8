//! Throw-away certificates: a CA, and pairs signed by it, for listeners, upstreams and clients.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

/// A certificate authority of one test.
pub struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Its certificate, PEM.
    pub pem: String,
}

/// A certificate and its key.
pub struct Pair {
    /// The certificate, PEM.
    pub cert_pem: String,
    /// The key, PEM (PKCS#8).
    pub key_pem: String,
}

/// Files of a pair.
pub struct PairFiles {
    /// The certificate.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Ca {
    /// A fresh one.
    pub fn new(name: &str) -> Self {
        Self::valid(name, None)
    }

    /// The same, valid from the first to the second year.
    pub fn valid(name: &str, years: Option<(i32, i32)>) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        if let Some((from, until)) = years {
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
        }
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let pem = issuer.pem();
        Self { issuer, pem }
    }

    /// Signs a pair for these names (DNS names or addresses), good for servers and clients.
    pub fn pair(&self, names: &[&str]) -> Pair {
        self.pair_with(names, None, &KeyPair::generate().unwrap())
    }

    /// The same, valid from the first to the second year.
    pub fn pair_valid(&self, names: &[&str], years: (i32, i32)) -> Pair {
        self.pair_with(names, Some(years), &KeyPair::generate().unwrap())
    }

    /// The same with an RSA key.
    pub fn pair_rsa(&self, names: &[&str]) -> Pair {
        self.pair_with(
            names,
            None,
            &KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap(),
        )
    }

    fn pair_with(&self, names: &[&str], years: Option<(i32, i32)>, key: &KeyPair) -> Pair {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params.distinguished_name.push(
            DnType::CommonName,
            names.first().map_or("test", String::as_str),
        );
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        if let Some((from, until)) = years {
            params.not_before = rcgen::date_time_ymd(from, 1, 1);
            params.not_after = rcgen::date_time_ymd(until, 1, 1);
        }
        let cert = params.signed_by(key, &self.issuer).unwrap();
        Pair {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    /// Writes the CA's certificate as `NAME.pem`.
    pub fn write(&self, folder: &Path, name: &str) -> PathBuf {
        let path = folder.join(format!("{name}.pem"));
        fs::write(&path, &self.pem).unwrap();
        path
    }
}

impl Pair {
    /// Writes `NAME.pem` and `NAME-key.pem`.
    pub fn write(&self, folder: &Path, name: &str) -> PairFiles {
        let files = PairFiles {
            cert: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}-key.pem")),
        };
        fs::write(&files.cert, &self.cert_pem).unwrap();
        fs::write(&files.key, &self.key_pem).unwrap();
        files
    }
}
