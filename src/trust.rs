//! What servers are trusted by: files and folders of CAs ([`bundle`], [`files_below`]); and trust
//! without proof where that is configured (`tlsskipverify=true` of a route, `skip_verify` towards
//! Consul).

pub mod bundle;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};

/// Takes any certificate. The handshake's signature is still checked: the peer holds the key of
/// whatever certificate it shows.
#[derive(Debug)]
pub struct AcceptAny(Arc<CryptoProvider>);

impl AcceptAny {
    /// With the signature algorithms of `provider`.
    #[must_use]
    pub fn new(provider: Arc<CryptoProvider>) -> Self {
        Self(provider)
    }
}

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// How deep, and how many files, a folder of CAs may hold.
const DEPTH_MAX: usize = 8;
const FILES_MAX: usize = 20_000;

/// Every file of a folder of CAs and of the folders below it, in the order of their names, whatever
/// they are called: that is what the tools of Consul and Vault read (`LoadCAPath` of HashiCorp's
/// go-rootcerts), and how OpenSSL keeps CAs (`1a2b3c4d.0`). A link to a file counts as that file;
/// links to folders are not followed, as there. The path of a file stands for that file.
///
/// # Errors
/// A folder that cannot be read, or too many files.
pub fn files_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if std::fs::metadata(path)?.is_dir() {
        walk(path, 0, &mut files)?;
    } else {
        files.push(path.to_owned());
    }
    Ok(files)
}

fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let in_folder =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(in_folder)? {
        paths.push(entry.map_err(in_folder)?.path());
    }
    paths.sort();
    for path in paths {
        let is_folder = std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
        if is_folder && depth < DEPTH_MAX {
            walk(&path, depth + 1, files)?;
        } else if std::fs::metadata(&path).is_ok_and(|meta| meta.is_file()) {
            files.push(path);
        }
        if files.len() > FILES_MAX {
            return Err(io::Error::other(format!(
                "more than {FILES_MAX} files: is it a folder of CA certificates?"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_file_below_is_found_whatever_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("b/c")).unwrap();
        for name in [
            "a.pem",
            "1a2b3c4d.0",
            "plain",
            ".hidden",
            "b/x.crt",
            "b/c/y",
        ] {
            fs::write(at(name), "").unwrap();
        }
        symlink(at("a.pem"), at("5e6f7a8b.0")).unwrap();
        symlink(at("nowhere"), at("broken")).unwrap();
        // As in a mounted secret of Kubernetes; and a circle.
        symlink(at("b"), at("..data")).unwrap();
        symlink(folder.path(), at("b/circle")).unwrap();
        let found: Vec<_> = files_below(folder.path()).unwrap();
        let names: Vec<_> = found
            .iter()
            .map(|path| path.strip_prefix(folder.path()).unwrap().to_str().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                ".hidden",
                "1a2b3c4d.0",
                "5e6f7a8b.0",
                "a.pem",
                "b/c/y",
                "b/x.crt",
                "plain"
            ]
        );
        assert_eq!(files_below(&at("a.pem")).unwrap(), [at("a.pem")]);
        assert_eq!(
            files_below(&at("..data")).unwrap().len(),
            2,
            "the folder that is named may be a link"
        );
        assert!(files_below(&at("nowhere")).is_err());
    }
}
