//! The leaf certificates in the state folder: which are there, which are due, and making those.

use std::collections::BTreeMap;
use std::time::SystemTime;

use anyhow::Result;

use super::State;
use crate::bootstrap::security::pki::{self, Authority, BACKDATE, CertificateInfo, Subject};
use crate::bootstrap::security::secrets::{NodePairs, Pair, Secret};
use crate::bootstrap::topology::{Cluster, Node, PerProduct, Product};

/// A certificate that was made, or is due to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Whose: `consul-0/consul`, `operator`, `lb`.
    pub what: String,
    /// Why: `missing`, `expired`, `signed by another CA`, …
    pub reason: String,
}

/// All pairs of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Of the nodes, by name.
    pub nodes: BTreeMap<String, NodePairs>,
    /// The operator's, towards each program.
    pub operator: PerProduct<Pair>,
    /// lb's.
    pub lb: Pair,
    /// Which of them were made just now.
    pub made: Vec<Made>,
}

/// One pair that the cluster needs.
struct Wanted {
    what: String,
    subject: Subject,
    /// Whose CA signs it.
    signer: Product,
}

impl State {
    /// Certificates that are missing or have to be made anew. Needs no key, so that a run in which
    /// none is due needs no passphrase.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn due_pairs(&self, cluster: &Cluster, now: SystemTime) -> Result<Vec<Made>> {
        let signers = PerProduct::try_new(|product| {
            anyhow::Ok(self.signing_cert(product)?.unwrap_or_default())
        })?;
        let mut due = Vec::new();
        for wanted in wanted(cluster, self.is_one_ca()?) {
            if let Some(reason) = self.reason(&wanted, signers.of(wanted.signer), now)? {
                due.push(Made {
                    what: wanted.what,
                    reason,
                });
            }
        }
        Ok(due)
    }

    /// All pairs as they are on the disk, due or not. None when one is missing.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn pairs(&self, cluster: &Cluster) -> Result<Option<Issued>> {
        self.collect(cluster, Vec::new())
    }

    /// All pairs, with those made that are missing or due.
    ///
    /// # Errors
    /// When a file cannot be read or written, or a certificate cannot be made.
    pub fn ensure_pairs(
        &mut self,
        cluster: &Cluster,
        authorities: &PerProduct<Authority>,
        now: SystemTime,
    ) -> Result<Issued> {
        let mut made = Vec::new();
        for wanted in wanted(cluster, self.is_one_ca()?) {
            let authority = authorities.of(wanted.signer);
            if let Some(reason) = self.reason(&wanted, authority.cert_pem(), now)? {
                let pair = authority.issue(&wanted.subject, cluster.certificate_days, now)?;
                self.save_pair(&place(&wanted.what), &pair)?;
                made.push(Made {
                    what: wanted.what,
                    reason,
                });
            }
        }
        // All are there by now; were one not, its absence would be an error of the disk.
        self.collect(cluster, made)?.ok_or_else(|| {
            anyhow::anyhow!(
                "a certificate that was just written is missing in {}: run the command again",
                self.dir().display()
            )
        })
    }

    /// Forgets a node's pairs, so that the next run makes new ones: for a node that is replaced.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn forget_node(&mut self, name: &str) -> Result<()> {
        self.folder.remove(&format!("certs/{name}"))
    }

    /// What the certificates here say, by whose they are; those that are missing are left out.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn certificates(&self, cluster: &Cluster) -> Result<Vec<(String, CertificateInfo)>> {
        let mut found = Vec::new();
        for Wanted { what, .. } in wanted(cluster, self.is_one_ca()?) {
            if let Some(pem) = self.text(&format!("{}.pem", place(&what)))? {
                found.push((what, pki::describe(&pem)?));
            }
        }
        Ok(found)
    }

    /// The pair below a name, if both files are there.
    pub(super) fn pair(&self, place: &str) -> Result<Option<Pair>> {
        let cert = self.text(&format!("{place}.pem"))?;
        let key = self.secret(&format!("{place}-key.pem"))?;
        Ok(cert.zip(key).map(|(cert, key)| Pair { cert, key }))
    }

    fn save_pair(&mut self, place: &str, pair: &Pair) -> Result<()> {
        // A run killed between the two leaves a certificate that does not fit its key, which
        // `reason` notices.
        let Pair { cert, key } = pair;
        self.folder
            .write(&format!("{place}-key.pem"), Secret::reveal(key).as_bytes())?;
        self.folder.write(&format!("{place}.pem"), cert.as_bytes())
    }

    fn reason(&self, wanted: &Wanted, signer: &str, now: SystemTime) -> Result<Option<String>> {
        let Some(pair) = self.pair(&place(&wanted.what))? else {
            return Ok(Some("missing".to_owned()));
        };
        if let Some(reason) = pki::needs_renewal(&pair.cert, signer, &wanted.subject, now) {
            return Ok(Some(reason));
        }
        if !pki::belongs(&pair) {
            return Ok(Some("the key is another's".to_owned()));
        }
        let Some(rotation) = self.rotation()? else {
            return Ok(None);
        };
        // During a change of the CA the signer tells old from new.
        let made_at = pki::describe(&pair.cert)?.not_before + BACKDATE.whole_seconds();
        let old = rotation.kind == super::RotationKind::Leaves && made_at < rotation.started_at;
        Ok(old.then(|| "rotation".to_owned()))
    }

    fn collect(&self, cluster: &Cluster, made: Vec<Made>) -> Result<Option<Issued>> {
        // While a cluster with one CA is given two intermediates, some pairs may still be missing.
        let shared = self.is_one_ca()? || self.rotation()?.is_some();
        let mut nodes = BTreeMap::new();
        for node in &cluster.nodes {
            let Some(consul) = self.pair(&place(&of(node, Product::Consul)))? else {
                return Ok(None);
            };
            let mut pairs = NodePairs {
                consul,
                nomad: None,
                nomad_at_consul: None,
            };
            if node.products().contains(&Product::Nomad) {
                pairs.nomad = self.pair(&place(&of(node, Product::Nomad)))?;
                pairs.nomad_at_consul = self.pair(&place(&nomad_at_consul(node)))?;
                if pairs.nomad.is_none() || (pairs.nomad_at_consul.is_none() && !shared) {
                    return Ok(None);
                }
            }
            nodes.insert(node.name.clone(), pairs);
        }
        let consul = self.pair(&place(operator(Product::Consul)))?;
        let nomad = match self.pair(&place(operator(Product::Nomad)))? {
            None if shared => consul.clone(),
            found => found,
        };
        let operator = consul.zip(nomad);
        Ok(operator
            .zip(self.pair("certs/lb")?)
            .map(|((consul, nomad), lb)| Issued {
                nodes,
                operator: PerProduct { consul, nomad },
                lb,
                made,
            }))
    }

    /// Files in the state folder that the operator's requests to a program need: CA, certificate,
    /// key.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn operator_files(&self, product: Product) -> Result<[String; 3]> {
        let own = operator(match self.is_one_ca()? {
            true => Product::Consul,
            false => product,
        });
        let place = place(own);
        Ok([
            self.trust_file(product)?.to_owned(),
            format!("{place}.pem"),
            format!("{place}-key.pem"),
        ])
    }
}

/// All that a cluster needs. With one CA for both programs, a pair serves towards both.
fn wanted(cluster: &Cluster, one_ca: bool) -> Vec<Wanted> {
    let mut list = Vec::new();
    let mut want = |what: String, subject: Subject, signer: Product| {
        list.push(Wanted {
            what,
            subject,
            signer,
        });
    };
    for node in &cluster.nodes {
        for &product in node.products() {
            let subject = match product {
                Product::Consul => Subject::consul(cluster, node),
                Product::Nomad => Subject::nomad(cluster, node),
            };
            want(of(node, product), subject, product);
            if product == Product::Nomad && !one_ca {
                let subject = Subject::nomad_at_consul(node);
                want(nomad_at_consul(node), subject, Product::Consul);
            }
        }
    }
    for product in Product::ALL {
        if product == Product::Consul || !one_ca {
            want(operator(product).to_owned(), Subject::operator(), product);
        }
    }
    want("lb".to_owned(), Subject::lb(), Product::Consul);
    list
}

fn of(node: &Node, product: Product) -> String {
    format!("{}/{product}", node.name)
}

fn nomad_at_consul(node: &Node) -> String {
    format!("{}/nomad-consul", node.name)
}

fn operator(product: Product) -> &'static str {
    match product {
        Product::Consul => "operator",
        Product::Nomad => "operator-nomad",
    }
}

/// A node may be called `lb` or `operator`: its pairs lie one folder deeper.
fn place(what: &str) -> String {
    format!("certs/{what}")
}
