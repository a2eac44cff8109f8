//! Throw-away certificates for the demo's Consul: one CA, one pair for the agent, one for the
//! clients.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};

/// A folder that no other user may read, removed when dropped.
#[derive(Debug)]
pub(super) struct PrivateFolder(PathBuf);

impl PrivateFolder {
    /// A fresh one below the system's temporary folder.
    pub(super) fn create() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("lb-demo-{}", uuid::Uuid::new_v4()));
        // Fails if it exists, so that no other user can have prepared it.
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file in it and returns its path.
    pub(super) fn write(&self, name: &str, content: &str) -> anyhow::Result<PathBuf> {
        let path = self.0.join(name);
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        file.write_all(content.as_bytes())?;
        Ok(path)
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A certificate and its key, as files and as text.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    /// The certificate, PEM.
    pub cert_file: PathBuf,
    /// The key, PEM.
    pub key_file: PathBuf,
}

/// The CA and what it signed.
#[derive(Clone, Debug)]
pub(super) struct Certificates {
    /// The CA's certificate, PEM.
    pub ca_file: PathBuf,
    /// For the agent: server and client at once, as Consul's agents are.
    pub agent: Pair,
    /// For the router and for the demo itself.
    pub client: Pair,
}

/// Makes them in `folder`. The CA's key is forgotten at once.
pub(super) fn make(folder: &PrivateFolder) -> anyhow::Result<Certificates> {
    let mut params = CertificateParams::new(Vec::new())?;
    params
        .distinguished_name
        .push(DnType::CommonName, "lb demo CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let ca_file = folder.write("ca.pem", &ca.pem())?;
    let agent = pair(
        folder,
        &ca,
        "agent",
        &["server.dc1.consul", "localhost", "127.0.0.1"],
    )?;
    let client = pair(folder, &ca, "client", &["client.dc1.consul"])?;
    Ok(Certificates {
        ca_file,
        agent,
        client,
    })
}

fn pair(
    folder: &PrivateFolder,
    ca: &CertifiedIssuer<'_, KeyPair>,
    name: &str,
    names: &[&str],
) -> anyhow::Result<Pair> {
    let mut params = CertificateParams::new(
        names
            .iter()
            .map(|&name| name.to_owned())
            .collect::<Vec<_>>(),
    )?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, ca)?;
    Ok(Pair {
        cert_file: folder.write(&format!("{name}.pem"), &cert.pem())?,
        key_file: folder.write(&format!("{name}-key.pem"), &key.serialize_pem())?,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_are_private_and_go_with_the_folder() {
        let folder = PrivateFolder::create().unwrap();
        let certificates = make(&folder).unwrap();
        for file in [&certificates.agent.key_file, &certificates.client.key_file] {
            assert_eq!(
                fs::metadata(file).unwrap().permissions().mode() & 0o777,
                0o600
            );
            assert!(fs::read_to_string(file).unwrap().contains("PRIVATE KEY"));
        }
        let path = folder.path().to_owned();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        drop(folder);
        assert!(!path.exists());
    }
}
