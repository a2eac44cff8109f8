//! What only the operator and the nodes may know, as it is handed to `render`. Kept by `state`,
//! made by `pki`.
//!
//! `Debug` of these types shows no secret, so that a stray `{:?}` cannot put one into a log.

use crate::bootstrap::topology::PerProduct;
pub use crate::config::Secret;

/// A certificate and its key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The certificate; behind it that of the intermediate that signed it, if one did.
    pub cert: String,
    /// Its key (PKCS #8).
    pub key: Secret,
}

/// The pairs of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePairs {
    /// Of its Consul agent.
    pub consul: Pair,
    /// Of its Nomad agent, if it has one.
    pub nomad: Option<Pair>,
    /// What its Nomad agent shows to Consul. None where one CA signs for both programs: it shows
    /// the same as to other Nomad agents.
    pub nomad_at_consul: Option<Pair>,
}

/// What the whole cluster shares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// CA certificates that agents of each program trust, PEM; two of them while the CA changes.
    pub trusted: PerProduct<String>,
    /// Consul's gossip key, base64 of 32 bytes.
    pub consul_gossip: Secret,
    /// Nomad's gossip key, base64 of 32 bytes.
    pub nomad_gossip: Secret,
    /// lb's pair: client authentication only.
    pub lb: Pair,
    /// Whether Consul still lets through what shows no token: while ACLs are switched on.
    pub acl_open: bool,
    /// The Consul token of Nomad's agents, with ACLs and once it is made.
    pub nomad_consul_token: Option<Secret>,
    /// The Consul token of lb, with ACLs and once it is made.
    pub lb_consul_token: Option<Secret>,
}
