//! The state folder: what a cluster cannot be run without once it exists. CA, certificates, gossip
//! keys, tokens, and notes of what was applied and of rotations that are under way.
//!
//! ```text
//!   ca.pem              the CA; two while it changes, the new one last
//!   {consul,nomad}-ca.pem       its intermediates, which agents trust; two while the CA changes
//!   {,consul-,nomad-}ca-key.pem PKCS #8; encrypted when there is a passphrase
//!   next-*ca-key.pem    of the new CA, while the CA changes
//!   certs/NODE/{consul,nomad,nomad-consul}{,-key}.pem   certs/{operator,operator-nomad,lb}{,-key}.pem
//!   gossip.json  tokens.json  cluster.json  rotation.json  operations.json  acl.json  restoring.json
//!   env  client.pfx  client.pfx.password  lb.toml        (made by `access`)
//!   lock                held by the one command that may write
//! ```
//!
//! The folder is 0700 and its files are 0600. Every file is written whole or not at all, and each
//! secret is here before it is used anywhere, so a run may be killed at any instant and be taken up
//! again. What is *done* with all this is decided elsewhere.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::bootstrap::security::secrets::{Secret, Shared};
use crate::bootstrap::topology::{PerProduct, Product};
use folder::Folder;

mod authority;
mod copy;
mod folder;
mod foreground;
mod key;
mod operations;
mod pairs;
pub(super) mod passphrase;
mod records;

pub use authority::{brought_authority, brought_certificate};
pub use copy::tokens_of;
pub use foreground::Foreground;
pub use pairs::{Issued, Made};
pub use records::{
    AclChange, AclStep, Applied, AppliedNode, AppliedRole, Gossip, GossipKeys, GossipStep, NextKey,
    Operation, OperationKind, Operations, Program, Restoring, Retired, Rotation, RotationKind,
    RotationStep, Token, Tokens,
};

const CA: &str = "ca.pem";
const CA_KEY: &str = "ca-key.pem";
const NEXT_CA_KEY: &str = "next-ca-key.pem";
const GOSSIP: &str = "gossip.json";
const TOKENS: &str = "tokens.json";
const CLUSTER: &str = "cluster.json";
const ROTATION: &str = "rotation.json";
const OPERATIONS: &str = "operations.json";
const ACL_CHANGE: &str = "acl.json";
const RESTORING: &str = "restoring.json";

/// An open state folder.
#[derive(Debug)]
pub struct State {
    folder: Folder,
}

impl State {
    /// Opens it for writing, if it is there. No other command can until this is dropped.
    ///
    /// # Errors
    /// When another command is at work on it (the message names its process), or it cannot be read.
    pub fn open(dir: &Path) -> Result<Option<Self>> {
        Ok(Folder::open(dir, true)?.map(|folder| Self { folder }))
    }

    /// Opens it for reading, if it is there: `status`, `env`, `plan`. Does not wait for a writer,
    /// and need not: every file is whole at any time.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open_read_only(dir: &Path) -> Result<Option<Self>> {
        Ok(Folder::open(dir, false)?.map(|folder| Self { folder }))
    }

    /// What was applied, at a glance: nothing is locked, and what cannot be read counts as absent.
    #[must_use]
    pub fn glance(dir: &Path) -> Option<Applied> {
        records::parse(&std::fs::read_to_string(dir.join(CLUSTER)).ok()?).ok()
    }

    /// Opens it for writing, and makes it if it is not there.
    ///
    /// # Errors
    /// As [`State::open`], and when the folder cannot be made, or something else is in its place.
    pub fn create(dir: &Path) -> Result<Self> {
        Ok(Self {
            folder: Folder::create(dir)?,
        })
    }

    /// Stands for a folder that is not there: reads as empty, cannot be written.
    #[must_use]
    pub fn absent(dir: &Path) -> Self {
        Self {
            folder: Folder::absent(dir),
        }
    }

    /// Lets other commands write; this one only reads from now on.
    pub fn release(&mut self) {
        self.folder.release();
    }

    /// Removes the folder and all that is in it.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove(self) -> Result<()> {
        self.folder
            .remove_all()
            .with_context(|| format!("cannot remove {}", self.dir().display()))
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// Path of one of its files.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What was found amiss at opening and put right, for the operator: files that others could
    /// read.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        self.folder.notes()
    }

    /// What was applied, if a cluster was ever begun with this state.
    ///
    /// # Errors
    /// When the file cannot be read, or a newer `lb` wrote it.
    pub fn cluster(&self) -> Result<Option<Applied>> {
        self.record(CLUSTER)
    }

    /// Notes what is applied. Save it before the first node is touched: from then on nothing that
    /// the cluster shares is made a second time.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_cluster(&mut self, applied: &Applied) -> Result<()> {
        self.save(CLUSTER, applied)
    }

    /// The tokens made so far.
    ///
    /// # Errors
    /// When the file cannot be read, or a newer `lb` wrote it.
    pub fn tokens(&self) -> Result<Tokens> {
        Ok(self.record(TOKENS)?.unwrap_or_default())
    }

    /// Saves the tokens; to be done before one of them is used.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn save_tokens(&mut self, tokens: &Tokens) -> Result<()> {
        self.save(TOKENS, tokens)
    }

    /// The gossip keys, if they were made.
    ///
    /// # Errors
    /// When the file cannot be read, or a newer `lb` wrote it.
    pub fn gossip(&self) -> Result<Option<Gossip>> {
        let found: Option<Gossip> = self.record(GOSSIP)?;
        if let Some(gossip) = &found {
            gossip.check().with_context(|| self.folder.place(GOSSIP))?;
        }
        Ok(found)
    }

    /// Saves the gossip keys; a new key is to be saved before it is sent to a node.
    ///
    /// # Errors
    /// When they cannot be written, or a key is not of a length that both products take.
    pub fn save_gossip(&mut self, gossip: &Gossip) -> Result<()> {
        gossip.check()?;
        self.save(GOSSIP, gossip)
    }

    /// The gossip keys; made when there are none and there is no cluster yet.
    ///
    /// # Errors
    /// When a cluster exists and its keys are lost: others would lock every node out that is
    /// restarted.
    pub fn ensure_gossip(&mut self) -> Result<Gossip> {
        if let Some(found) = self.gossip()? {
            return Ok(found);
        }
        self.check_not_lost()?;
        let gossip = Gossip::create()?;
        self.save_gossip(&gossip)?;
        Ok(gossip)
    }

    /// Whether what cannot be made a second time is there, if there is a cluster.
    ///
    /// # Errors
    /// What of a living cluster is lost, and what can be done.
    pub fn check_not_lost(&self) -> Result<()> {
        if self.cluster()?.is_none() {
            return Ok(());
        }
        if self.ca_bundle()?.is_none() {
            bail!(
                "the CA of a live cluster is lost: {} is missing, but cluster.json says that the cluster exists. A \
                 new CA would be trusted by no node. Restore the file from a backup, or {}",
                self.path(CA).display(),
                match self.trust_file(Product::Consul)? {
                    CA => "copy ca.pem from Consul's configuration folder on any node",
                    _ => "take it out of client.pfx, which holds it as well",
                }
            );
        }
        for product in Product::ALL {
            self.trust_file(product)?;
        }
        if self.gossip()?.is_none() {
            bail!(
                "the gossip keys of a live cluster are lost: {} is missing, but cluster.json says that the cluster \
                 exists. New ones would shut out every node that takes them. Restore the file from a backup; or read \
                 the keys from a server of each (`encrypt` in encrypt.hcl of Consul's and of Nomad's configuration \
                 folder) and write {{\"version\":1,\"consul\":{{\"current\":\"KEY\"}},\"nomad\":{{\"current\":\"KEY\"}}}} \
                 into it",
                self.path(GOSSIP).display()
            );
        }
        Ok(())
    }

    /// The rotation of certificates that is under way, if one is.
    ///
    /// # Errors
    /// When the file cannot be read, or a newer `lb` wrote it.
    pub fn rotation(&self) -> Result<Option<Rotation>> {
        self.record(ROTATION)
    }

    /// The switching on of ACLs that is under way, if one is.
    ///
    /// # Errors
    /// When the file cannot be read, or a newer `lb` wrote it.
    pub fn acl_change(&self) -> Result<Option<AclChange>> {
        self.record(ACL_CHANGE)
    }

    /// Notes how far the switching on of ACLs is; None: it is over.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_acl_change(&mut self, change: Option<AclChange>) -> Result<()> {
        match change {
            Some(change) => self.save(ACL_CHANGE, &change),
            None => self.folder.remove(ACL_CHANGE),
        }
    }

    /// What all nodes share, put together from what is there: CA bundle, gossip keys, lb's pair and
    /// tokens.
    ///
    /// # Errors
    /// When something of it is missing or cannot be read.
    pub fn shared(&self) -> Result<Shared> {
        let missing = |what: &str| {
            format!(
                "{} has no {what} yet: run `lb bootstrap up`",
                self.dir().display()
            )
        };
        let gossip = self.gossip()?.with_context(|| missing("gossip keys"))?;
        let tokens = self.tokens()?;
        Ok(Shared {
            trusted: PerProduct::try_new(|product| {
                self.trusted(product)?.with_context(|| missing("CA"))
            })?,
            consul_gossip: gossip.consul.current,
            nomad_gossip: gossip.nomad.current,
            lb: self
                .pair("certs/lb")?
                .with_context(|| missing("certificate for lb"))?,
            acl_open: self
                .acl_change()?
                .is_some_and(|change| change.step == AclStep::Open),
            nomad_consul_token: tokens.nomad_consul.map(|token| token.secret),
            lb_consul_token: tokens.lb.map(|token| token.secret),
        })
    }

    /// The text of a file here, if it exists.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn text(&self, name: &str) -> Result<Option<String>> {
        self.folder.read(name)
    }

    /// Writes a file of the operator's own needs (`env`, `lb.toml`), 0600; untouched when it is the
    /// same already. Says whether it was written.
    ///
    /// # Errors
    /// When it cannot be written, or the state is open for reading only.
    pub fn put(&mut self, name: &str, content: &[u8]) -> Result<bool> {
        if self.folder.read_bytes(name)?.as_deref() == Some(content) {
            return Ok(false);
        }
        self.folder.write(name, content)?;
        Ok(true)
    }

    fn record<T: records::Record>(&self, name: &str) -> Result<Option<T>> {
        let Some(text) = self.folder.read(name)? else {
            return Ok(None);
        };
        records::parse(&text)
            .map(Some)
            .with_context(|| self.folder.place(name))
    }

    fn save<T: records::Record>(&mut self, name: &str, record: &T) -> Result<()> {
        self.put(name, records::text(record)?.as_bytes()).map(drop)
    }

    fn secret(&self, name: &str) -> Result<Option<Secret>> {
        Ok(self.folder.read(name)?.map(Secret::new))
    }
}

#[cfg(test)]
pub(super) mod tests;
