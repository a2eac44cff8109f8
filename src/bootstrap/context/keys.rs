//! The keys and certificates of the context: made where they are missing or due, read, and seen to
//! be served.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::Context;
use crate::bootstrap::cluster::api;
use crate::bootstrap::security::pki::{self, Authority};
use crate::bootstrap::state::passphrase::Passphrase;
use crate::bootstrap::state::{self, Made};
use crate::bootstrap::topology::{Cluster, Product};

/// Pause between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(100);

impl Context {
    /// Makes the CA, certificates and gossip keys that are missing or due, and says which.
    ///
    /// # Errors
    /// When something of a living cluster is lost, or the passphrase is wrong.
    pub(in crate::bootstrap) fn make_keys(&mut self, passphrase: &Passphrase) -> Result<()> {
        let now = SystemTime::now();
        let due = self.state.due_pairs(&self.cluster, now)?;
        let encrypted = self.state.is_key_encrypted()?;
        // A passphrase that is given means that the key shall be encrypted, whether it is needed
        // now or not.
        let encrypts = encrypted == Some(false) && passphrase.for_key(encrypted)?.is_some();
        if !due.is_empty() || encrypts || self.state.ca_bundle()?.is_none() {
            let given = passphrase.for_key(encrypted)?;
            let brought = match self.state.ca_bundle()? {
                None => self.brought_ca(passphrase)?,
                Some(_) => None,
            };
            let authorities =
                self.state
                    .ensure_authorities_below(brought.as_ref(), given.as_ref(), now)?;
            let issued = self.state.ensure_pairs(&self.cluster, &authorities, now)?;
            if !issued.made.is_empty() {
                let bar = self.progress.phase("Certificates", issued.made.len());
                bar.done(&made(&issued.made));
            }
        }
        self.state.ensure_gossip()?;
        self.read_keys()
    }

    /// The CA that the description brings along, ready to sign.
    ///
    /// # Errors
    /// When it cannot be taken up.
    pub(in crate::bootstrap) fn brought_ca(
        &self,
        passphrase: &Passphrase,
    ) -> Result<Option<Authority>> {
        let Some(files) = &self.cluster.ca else {
            return Ok(None);
        };
        let given = passphrase.for_key(None)?;
        state::brought_authority(files, given.as_ref()).map(Some)
    }

    /// Tells when both programs trust one CA, or the CA that the description brings along is not the
    /// one in use.
    ///
    /// # Errors
    /// When a certificate cannot be read.
    pub(in crate::bootstrap) fn tell_about_ca(&self) -> Result<()> {
        if self.state.is_one_ca()? && self.state.rotation()?.is_none() {
            self.progress.note(
                "Consul and Nomad trust the same CA, so that a certificate for one opens the other: \
                 `lb bootstrap rotate-certs --ca` gives each its own",
            );
        }
        if let (Some(files), Some(used)) = (&self.cluster.ca, self.state.ca_bundle()?)
            && !pki::split(&used).contains(&state::brought_certificate(files)?)
        {
            self.progress.note(&format!(
                "{} is not the CA in use: `lb bootstrap rotate-certs --ca` moves the cluster to it",
                files.cert.display()
            ));
        }
        Ok(())
    }

    /// Reads certificates and keys that were made before.
    ///
    /// # Errors
    /// When some are missing.
    pub(in crate::bootstrap) fn read_keys(&mut self) -> Result<()> {
        let missing = || {
            format!(
                "{} has no certificates yet: run `lb bootstrap up`",
                self.state.dir().display()
            )
        };
        let issued = self.state.pairs(&self.cluster)?.with_context(missing)?;
        self.pairs = issued.nodes;
        self.operator = Some(issued.operator);
        self.read_shared()
    }

    /// Reads what there is of them.
    ///
    /// # Errors
    /// When something cannot be read.
    pub(in crate::bootstrap) fn read_some_keys(&mut self) -> Result<()> {
        for node in &self.cluster.nodes {
            let alone = Cluster {
                nodes: vec![node.clone()],
                ..self.cluster.clone()
            };
            if let Some(found) = self.state.pairs(&alone)? {
                self.pairs.extend(found.nodes);
            }
        }
        self.shared = self.state.shared().ok();
        Ok(())
    }

    /// Reads again what nodes share, after it changed.
    ///
    /// # Errors
    /// When something of it is missing.
    pub(in crate::bootstrap) fn read_shared(&mut self) -> Result<()> {
        self.shared = Some(self.state.shared()?);
        Ok(())
    }

    /// Waits until every daemon serves the certificate that it was given.
    ///
    /// # Errors
    /// Those that do not in time.
    pub(in crate::bootstrap) async fn wait_served(&self) -> Result<()> {
        let cluster_client = self.cluster_client()?;
        let deadline = Instant::now() + self.limit;
        for phase in self.phases() {
            for node in self.of_phase(phase) {
                let pairs = &self.pairs[&node.name];
                let pair = match phase.product() {
                    Product::Consul => Some(&pairs.consul),
                    Product::Nomad => pairs.nomad.as_ref(),
                };
                let Some(pair) = pair else { continue };
                let wanted = CertificateDer::from_pem_slice(pair.cert.as_bytes())?;
                let api = cluster_client.api(&node, phase.product());
                while api.served_certificate(api::LIMIT).await.ok().as_ref() != Some(&wanted) {
                    if Instant::now() > deadline {
                        bail!(
                            "{}: {} does not serve its new certificate",
                            node.name,
                            phase.product()
                        );
                    }
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
        Ok(())
    }
}

/// Which certificates were made, in a few words.
fn made(made: &[Made]) -> String {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for one in made {
        *reasons.entry(&one.reason).or_default() += 1;
    }
    let reasons: Vec<String> = reasons
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    format!("{} made ({})", made.len(), reasons.join(", "))
}
