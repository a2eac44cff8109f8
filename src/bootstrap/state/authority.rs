//! The CA in the state folder, and its change for another.
//!
//! ```text
//!               ca.pem      ca-key  next-ca-key   signs
//!   ordinarily  old         old     -             old
//!   BothTrusted old + new   old     new           old
//!   NewLeaves   old + new   old     new           new
//!   OldDropped  new         new     -             new
//! ```
//!
//! Between two rows some files are of the one and some of the other, so each step is written such
//! that it can be done again: keys before the certificates that speak of them, and the note of the
//! step last.

use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};

use super::records::unix;
use super::{CA, CA_KEY, NEXT_CA_KEY, ROTATION, Rotation, RotationKind, RotationStep, State, key};
use crate::bootstrap::security::pki::{self, Authority};
use crate::bootstrap::security::secrets::Secret;

impl State {
    /// The CA certificates that are trusted, PEM.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn ca_bundle(&self) -> Result<Option<String>> {
        self.text(CA)
    }

    /// The certificate of the CA that signs now.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn signing_cert(&self) -> Result<Option<String>> {
        let mut bundle = pki::split(&self.ca_bundle()?.unwrap_or_default());
        // The new CA is the last, the old one the first.
        Ok(if self.next_signs()? {
            bundle.pop()
        } else {
            bundle.into_iter().next()
        })
    }

    /// Whether the CA's key is encrypted, so that a passphrase is needed to sign. None: there is no
    /// key.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn is_key_encrypted(&self) -> Result<Option<bool>> {
        Ok(self
            .secret(CA_KEY)?
            .map(|pem| key::is_encrypted(pem.reveal())))
    }

    /// The CA that signs now; made when there is none and there is no cluster yet. A plain key
    /// becomes an encrypted one when a passphrase is given.
    ///
    /// # Errors
    /// When the passphrase is missing or wrong, the files do not belong together, or the key of a
    /// cluster that exists is lost.
    pub fn ensure_authority(
        &mut self,
        passphrase: Option<&Secret>,
        now: SystemTime,
    ) -> Result<Authority> {
        let (cert, key) = (self.signing_cert()?, self.secret(self.signing_key()?)?);
        match (cert, key) {
            (Some(cert), Some(key)) => {
                let name = self.signing_key()?;
                let plain = key::decrypt(&key, passphrase, &self.folder.place(name))?;
                let authority = Authority::load(&cert, plain.reveal())
                    .with_context(|| self.folder.place(CA))?;
                if let Some(passphrase) = passphrase {
                    for name in [CA_KEY, NEXT_CA_KEY] {
                        self.encrypt_key(name, passphrase)?;
                    }
                }
                Ok(authority)
            }
            (Some(_), None) => bail!(self.key_lost()?),
            // A key without a certificate is what a run leaves that was killed between the two: it
            // has signed nothing.
            (None, _) => {
                self.check_not_lost()?;
                let authority = Authority::create(now)?;
                self.save_key(CA_KEY, &authority, passphrase)?;
                self.folder.write(CA, authority.cert_pem().as_bytes())?;
                Ok(authority)
            }
        }
    }

    /// Whether the CA that signs has its key here, encrypted or not.
    ///
    /// # Errors
    /// When it is not there, or a file cannot be read.
    pub fn check_can_sign(&self) -> Result<()> {
        if self.signing_cert()?.is_some() && self.secret(self.signing_key()?)?.is_none() {
            bail!(self.key_lost()?);
        }
        Ok(())
    }

    fn key_lost(&self) -> Result<String> {
        Ok(format!(
            "the CA key of a live cluster is lost: {} is missing, but {CA} beside it is not. A new CA would be \
             trusted by no node. Restore the key from a backup. Until then everything that signs no certificate \
             still works (status, env). Without a backup the cluster has to be given a new CA by hand: put a \
             bundle of the old and a new CA on every node, reload them, then give out new certificates",
            self.path(self.signing_key()?).display()
        ))
    }

    /// Begins to make all leaf certificates anew, under the same CA. Goes on with one that is under
    /// way.
    ///
    /// # Errors
    /// When the CA is being changed, or a file cannot be written.
    pub fn begin_leaf_rotation(&mut self, now: SystemTime) -> Result<Rotation> {
        match self.rotation()? {
            Some(rotation) if rotation.kind == RotationKind::Leaves => Ok(rotation),
            Some(_) => bail!(
                "the CA is being changed: finish that first (`lb bootstrap rotate-certs --ca`)"
            ),
            None => self.note(RotationKind::Leaves, RotationStep::NewLeaves, unix(now)),
        }
    }

    /// Begins the change of the CA: the new one is made and trusted beside the old one. Goes on
    /// with one that is under way.
    ///
    /// # Errors
    /// When leaves are being rotated, there is no CA yet, the passphrase is missing or wrong, or a
    /// file cannot be written.
    pub fn begin_authority_rotation(
        &mut self,
        passphrase: Option<&Secret>,
        now: SystemTime,
    ) -> Result<Rotation> {
        match self.rotation()? {
            Some(rotation) if rotation.kind == RotationKind::Authority => return Ok(rotation),
            Some(_) => bail!(
                "leaf certificates are being rotated: finish that first (`lb bootstrap rotate-certs`)"
            ),
            None => {}
        }
        let old = self
            .signing_cert()?
            .context("there is no CA to be changed: run `lb bootstrap up` first")?;
        if self.is_key_encrypted()? == Some(true) {
            // Otherwise the new key would lie open where the old one did not, or be under another
            // passphrase.
            self.ensure_authority(passphrase, now)?;
        }
        let new = Authority::create(now)?;
        self.save_key(NEXT_CA_KEY, &new, passphrase)?;
        self.folder
            .write(CA, format!("{old}{}", new.cert_pem()).as_bytes())?;
        // One that has expired signs nothing any more, and nobody is let in by it: there is nothing
        // to wait for.
        let expired = pki::describe(&old)?.not_after <= unix(now);
        let step = if expired {
            RotationStep::NewLeaves
        } else {
            RotationStep::BothTrusted
        };
        self.note(RotationKind::Authority, step, unix(now))
    }

    /// Goes to the next step, once all nodes have what the present one hands out. None: the
    /// rotation is over.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn advance_rotation(&mut self) -> Result<Option<Rotation>> {
        let Some(rotation) = self.rotation()? else {
            return Ok(None);
        };
        match (rotation.kind, rotation.step) {
            (RotationKind::Authority, RotationStep::BothTrusted) => self
                .note(rotation.kind, RotationStep::NewLeaves, rotation.started_at)
                .map(Some),
            (RotationKind::Authority, RotationStep::NewLeaves) => {
                let new = self
                    .signing_cert()?
                    .context("the new CA is missing from ca.pem")?;
                if self.secret(NEXT_CA_KEY)?.is_some() {
                    self.folder.rename(NEXT_CA_KEY, CA_KEY)?;
                }
                self.folder.write(CA, new.as_bytes())?;
                self.note(rotation.kind, RotationStep::OldDropped, rotation.started_at)
                    .map(Some)
            }
            (RotationKind::Leaves, _) | (RotationKind::Authority, RotationStep::OldDropped) => {
                self.folder.remove(ROTATION)?;
                Ok(None)
            }
        }
    }

    fn note(
        &mut self,
        kind: RotationKind,
        step: RotationStep,
        started_at: i64,
    ) -> Result<Rotation> {
        let rotation = Rotation {
            kind,
            step,
            started_at,
        };
        self.save(ROTATION, &rotation)?;
        Ok(rotation)
    }

    fn next_signs(&self) -> Result<bool> {
        Ok(self.rotation()?.is_some_and(|rotation| {
            rotation.kind == RotationKind::Authority && rotation.step >= RotationStep::NewLeaves
        }))
    }

    fn signing_key(&self) -> Result<&'static str> {
        // The key may have its final name already: see `advance_rotation`.
        Ok(
            if self.next_signs()? && self.secret(NEXT_CA_KEY)?.is_some() {
                NEXT_CA_KEY
            } else {
                CA_KEY
            },
        )
    }

    fn save_key(
        &mut self,
        name: &str,
        authority: &Authority,
        passphrase: Option<&Secret>,
    ) -> Result<()> {
        let plain = authority.key_pem();
        let text = passphrase.map_or(Ok(plain.clone()), |passphrase| {
            key::encrypt(&plain, passphrase)
        })?;
        self.folder.write(name, text.reveal().as_bytes())
    }

    /// Encrypts a key that is there and plain.
    fn encrypt_key(&mut self, name: &str, passphrase: &Secret) -> Result<()> {
        match self.secret(name)? {
            Some(plain) if !key::is_encrypted(plain.reveal()) => {
                let encrypted = key::encrypt(&plain, passphrase)?;
                self.folder.write(name, encrypted.reveal().as_bytes())
            }
            _ => Ok(()),
        }
    }
}
