//! The CA in the state folder, the two intermediates below it, and their change for others.
//!
//! ```text
//!               ca.pem      PRODUCT-ca.pem   PRODUCT-ca-key  next-PRODUCT-ca-key  signs
//!   ordinarily  old         old              old             -                    old
//!   BothTrusted old + new   old + new        old             new                  old
//!   NewLeaves   old + new   old + new        old             new                  new
//!   OldDropped  new         new              new             -                    new
//! ```
//!
//! Agents trust the intermediate of their program alone. A state that was made before there were
//! intermediates has no `PRODUCT-ca.pem`: there `ca.pem` is trusted by all, and its key signs, until
//! a change of the CA brings intermediates.
//!
//! Between two rows some files are of the one and some of the other, so each step is written such
//! that it can be done again: keys before the certificates that speak of them, and the note of the
//! step last.

use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};

use super::records::unix;
use super::{CA, CA_KEY, NEXT_CA_KEY, ROTATION, Rotation, RotationKind, RotationStep, State, key};
use crate::bootstrap::security::pki::{self, Authority};
use crate::bootstrap::security::secrets::Secret;
use crate::bootstrap::topology::{CaFiles, PerProduct, Product};

/// Certificates of the intermediates that agents of a program trust.
fn intermediates(product: Product) -> &'static str {
    match product {
        Product::Consul => "consul-ca.pem",
        Product::Nomad => "nomad-ca.pem",
    }
}

fn intermediate_key(product: Product) -> &'static str {
    match product {
        Product::Consul => "consul-ca-key.pem",
        Product::Nomad => "nomad-ca-key.pem",
    }
}

fn next_intermediate_key(product: Product) -> &'static str {
    match product {
        Product::Consul => "next-consul-ca-key.pem",
        Product::Nomad => "next-nomad-ca-key.pem",
    }
}

/// The names of keys, of those that sign and of those that are to follow.
fn key_names() -> impl Iterator<Item = (&'static str, &'static str)> {
    let below =
        Product::ALL.map(|product| (intermediate_key(product), next_intermediate_key(product)));
    std::iter::once((CA_KEY, NEXT_CA_KEY)).chain(below)
}

/// A CA that was made just now, or brought along, and the intermediates below it.
struct NewAuthorities {
    root: String,
    /// Of a CA that was made here. The key of one that was brought along stays where it is.
    root_key: Option<Secret>,
    below: PerProduct<Authority>,
}

impl NewAuthorities {
    fn create(brought: Option<&Authority>, now: SystemTime) -> Result<Self> {
        let made = match brought {
            Some(_) => None,
            None => Some(Authority::create(now)?),
        };
        let root = brought
            .or(made.as_ref())
            .context("there is no CA to make the intermediates with")?;
        Ok(Self {
            root: root.cert_pem().to_owned(),
            root_key: made.as_ref().map(Authority::key_pem),
            below: PerProduct::try_new(|product| root.intermediate(product, now))?,
        })
    }
}

/// Takes up a CA that was brought along. Its key may be encrypted.
///
/// # Errors
/// When a file cannot be read, the passphrase is missing or wrong, or the two do not fit together.
pub fn brought_authority(files: &CaFiles, passphrase: Option<&Secret>) -> Result<Authority> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let cert = brought_certificate(files)?;
    let key = Secret::new(read(&files.key)?);
    let place = files.key.display().to_string();
    let plain = key::decrypt(&key, passphrase, &place)?;
    Authority::load(&cert, plain.reveal()).with_context(|| files.cert.display().to_string())
}

/// The certificate of a CA that was brought along.
///
/// # Errors
/// When the file cannot be read, or holds none.
pub fn brought_certificate(files: &CaFiles) -> Result<String> {
    let path = files.cert.display();
    let text =
        std::fs::read_to_string(&files.cert).with_context(|| format!("cannot read {path}"))?;
    let first = pki::split(&text).into_iter().next();
    first.with_context(|| format!("{path} holds no certificate (BEGIN CERTIFICATE)"))
}

impl State {
    /// The certificate of the CA, PEM; two while it changes.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn ca_bundle(&self) -> Result<Option<String>> {
        self.text(CA)
    }

    /// Whether one CA signs for both programs, as in a state of before there were intermediates.
    ///
    /// # Errors
    /// When a file is lost or cannot be read.
    pub fn is_one_ca(&self) -> Result<bool> {
        let both = PerProduct::try_new(|product| self.trust_file(product))?;
        Ok(both.consul == CA && both.nomad == CA && self.ca_bundle()?.is_some())
    }

    /// Name of the file with what agents of a program trust.
    ///
    /// # Errors
    /// When it is lost, or a file cannot be read.
    pub(super) fn trust_file(&self, product: Product) -> Result<&'static str> {
        let own = intermediates(product);
        if self.text(own)?.is_some() {
            return Ok(own);
        }
        // Falling back to the CA above would have both programs trust each other's certificates.
        if self.ca_bundle()?.is_some() && self.secret(intermediate_key(product))?.is_some() {
            bail!(
                "a CA of a live cluster is lost: {} is missing, but {} beside it is not. Restore the file from a \
                 backup, or copy ca.pem from the configuration folder of {product} on any node",
                self.path(own).display(),
                intermediate_key(product)
            );
        }
        Ok(CA)
    }

    /// The CA certificates that agents of a program trust, PEM.
    ///
    /// # Errors
    /// When the file is lost or cannot be read.
    pub fn trusted(&self, product: Product) -> Result<Option<String>> {
        self.text(self.trust_file(product)?)
    }

    /// The certificate of the CA that signs now for a program.
    ///
    /// # Errors
    /// When a file is lost or cannot be read.
    pub fn signing_cert(&self, product: Product) -> Result<Option<String>> {
        let mut bundle = pki::split(&self.trusted(product)?.unwrap_or_default());
        // The new CA is the last, the old one the first.
        Ok(if self.next_signs()? {
            bundle.pop()
        } else {
            bundle.into_iter().next()
        })
    }

    /// Whether keys of CAs are encrypted, so that a passphrase is needed to sign. None: there is no
    /// key.
    ///
    /// # Errors
    /// When a file is lost or cannot be read.
    pub fn is_key_encrypted(&self) -> Result<Option<bool>> {
        let mut found = None;
        for product in Product::ALL {
            if let Some(pem) = self.secret(self.signing_key(product)?)? {
                found = Some(found == Some(true) || key::is_encrypted(pem.reveal()));
            }
        }
        Ok(found)
    }

    /// [`State::ensure_authorities_below`] a CA of our own.
    ///
    /// # Errors
    /// As there.
    pub fn ensure_authorities(
        &mut self,
        passphrase: Option<&Secret>,
        now: SystemTime,
    ) -> Result<PerProduct<Authority>> {
        self.ensure_authorities_below(None, passphrase, now)
    }

    /// The CAs that sign now for each program; made below the CA that was brought along, or one of
    /// our own, when there are none and there is no cluster yet. Plain keys become encrypted ones
    /// when a passphrase is given.
    ///
    /// # Errors
    /// When the passphrase is missing or wrong, the files do not belong together, or a key of a
    /// cluster that exists is lost.
    pub fn ensure_authorities_below(
        &mut self,
        brought: Option<&Authority>,
        passphrase: Option<&Secret>,
        now: SystemTime,
    ) -> Result<PerProduct<Authority>> {
        // Keys without a CA are what a run leaves that was killed between the two: they have signed
        // nothing.
        if self.ca_bundle()?.is_none() {
            self.check_not_lost()?;
            let new = NewAuthorities::create(brought, now)?;
            if let Some(key) = &new.root_key {
                self.save_key(CA_KEY, key, passphrase)?;
            }
            for product in Product::ALL {
                let below = new.below.of(product);
                self.save_key(intermediate_key(product), &below.key_pem(), passphrase)?;
                self.folder
                    .write(intermediates(product), below.cert_pem().as_bytes())?;
            }
            self.folder.write(CA, new.root.as_bytes())?;
        }
        let authorities = PerProduct::try_new(|product| self.load_authority(product, passphrase))?;
        if let Some(passphrase) = passphrase {
            for (name, next) in key_names() {
                self.encrypt_key(name, passphrase)?;
                self.encrypt_key(next, passphrase)?;
            }
        }
        Ok(authorities)
    }

    fn load_authority(&self, product: Product, passphrase: Option<&Secret>) -> Result<Authority> {
        let file = self.folder.place(self.trust_file(product)?);
        let cert = self
            .signing_cert(product)?
            .with_context(|| format!("{file} holds no certificate"))?;
        let name = self.signing_key(product)?;
        let Some(key) = self.secret(name)? else {
            bail!(self.key_lost(product)?)
        };
        let plain = key::decrypt(&key, passphrase, &self.folder.place(name))?;
        Authority::load(&cert, plain.reveal()).with_context(|| file)
    }

    /// Whether the CAs that sign have their keys here, encrypted or not.
    ///
    /// # Errors
    /// When one is not there, or a file cannot be read.
    pub fn check_can_sign(&self) -> Result<()> {
        for product in Product::ALL {
            if self.signing_cert(product)?.is_some()
                && self.secret(self.signing_key(product)?)?.is_none()
            {
                bail!(self.key_lost(product)?);
            }
        }
        Ok(())
    }

    fn key_lost(&self, product: Product) -> Result<String> {
        Ok(format!(
            "the CA key of a live cluster is lost: {} is missing, but {} beside it is not. A new CA would be \
             trusted by no node. Restore the key from a backup. Until then everything that signs no certificate \
             still works (status, env). Without a backup the cluster has to be given a new CA by hand: put a \
             bundle of the old and a new CA on every node, reload them, then give out new certificates",
            self.path(self.signing_key(product)?).display(),
            self.trust_file(product)?
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

    /// Begins the change of the CA: a new one, or the one that was brought along, gets intermediates
    /// of its own, which are trusted beside what was trusted so far. Goes on with a change that is
    /// under way.
    ///
    /// # Errors
    /// When leaves are being rotated, there is no CA yet, the passphrase is missing or wrong, or a
    /// file cannot be written.
    pub fn begin_authority_rotation(
        &mut self,
        brought: Option<&Authority>,
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
        let missing = "there is no CA to be changed: run `lb bootstrap up` first";
        let old = PerProduct::try_new(|product| self.signing_cert(product)?.context(missing))?;
        let old_root = pki::split(&self.ca_bundle()?.unwrap_or_default());
        let old_root = old_root.first().context(missing)?;
        if self.is_key_encrypted()? == Some(true) {
            // Otherwise the new keys would lie open where the old ones did not, or be under another
            // passphrase.
            self.ensure_authorities(passphrase, now)?;
        }
        let new = NewAuthorities::create(brought, now)?;
        match &new.root_key {
            Some(key) => self.save_key(NEXT_CA_KEY, key, passphrase)?,
            None => self.folder.remove(NEXT_CA_KEY)?,
        }
        let mut expired = false;
        for product in Product::ALL {
            let (old, new) = (old.of(product), new.below.of(product));
            self.save_key(next_intermediate_key(product), &new.key_pem(), passphrase)?;
            let both = format!("{old}{}", new.cert_pem());
            self.folder.write(intermediates(product), both.as_bytes())?;
            // One that has expired signs nothing any more, and nothing is let in by it: there is
            // nothing to wait for.
            expired |= pki::describe(old)?.not_after <= unix(now);
        }
        self.folder
            .write(CA, format!("{old_root}{}", new.root).as_bytes())?;
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
                let missing = "the new CA is missing from the state folder";
                let new =
                    PerProduct::try_new(|product| self.signing_cert(product)?.context(missing))?;
                let root = pki::split(&self.ca_bundle()?.unwrap_or_default()).pop();
                for (name, next) in key_names() {
                    if self.secret(next)?.is_some() {
                        self.folder.rename(next, name)?;
                    }
                }
                for product in Product::ALL {
                    let name = intermediates(product);
                    if self.text(name)?.is_some() {
                        self.folder.write(name, new.of(product).as_bytes())?;
                    }
                }
                self.folder.write(CA, root.context(missing)?.as_bytes())?;
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

    fn signing_key(&self, product: Product) -> Result<&'static str> {
        let roots = pki::split(&self.ca_bundle()?.unwrap_or_default());
        let next = next_intermediate_key(product);
        Ok(match self.signing_cert(product)? {
            // A change of the one CA that was begun before there were intermediates ends as it began.
            Some(cert) if roots.contains(&cert) => match self.next_signs()? {
                true if self.secret(NEXT_CA_KEY)?.is_some() => NEXT_CA_KEY,
                _ => CA_KEY,
            },
            // It may have its final name already: see `advance_rotation`.
            _ if self.next_signs()? && self.secret(next)?.is_some() => next,
            _ => intermediate_key(product),
        })
    }

    fn save_key(&mut self, name: &str, plain: &Secret, passphrase: Option<&Secret>) -> Result<()> {
        let text = passphrase.map_or(Ok(plain.clone()), |passphrase| {
            key::encrypt(plain, passphrase)
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
