//! Tokens: their names, where they are kept, and whether one is known.

use std::time::Duration;

use uuid::Uuid;

use crate::bootstrap::cluster::api::{Api, ApiError, LIMIT};
use crate::bootstrap::security::secrets::Secret;
use crate::bootstrap::topology::Node;

/// Name of Consul's bootstrap token in the [`TokenStore`].
pub const CONSUL_MANAGEMENT: &str = "consul-management";

/// Name of the operator's Consul token: everything but ACLs.
pub const CONSUL_OPERATOR: &str = "consul-operator";

/// Name of the Consul token of Nomad's agents.
pub const CONSUL_NOMAD: &str = "consul-nomad";

/// Name of the Consul token of lb.
pub const CONSUL_LB: &str = "consul-lb";

/// Name of the Consul token of Prometheus.
pub const CONSUL_SCRAPE: &str = "consul-scrape";

/// Name of Nomad's bootstrap token.
pub const NOMAD_MANAGEMENT: &str = "nomad-management";

/// Name of the operator's Nomad token: everything but ACLs.
pub const NOMAD_OPERATOR: &str = "nomad-operator";

/// What the name of the Consul token of a node's agent begins with; the node's name follows.
pub const CONSUL_AGENT: &str = "consul-agent-";

/// Pause between two tries.
pub(super) const STEP: Duration = Duration::from_millis(100);

/// Name of the Consul token of a node's agent.
#[must_use]
pub fn consul_agent(node: &Node) -> String {
    format!("{CONSUL_AGENT}{}", node.name)
}

/// Keeps tokens for good.
pub trait TokenStore: Send {
    /// The secret of this name.
    fn get(&self, name: &str) -> Option<Secret>;
    /// Keeps it; on the disk when this returns. `accessor` may be empty when it is not known yet.
    ///
    /// # Errors
    /// When it cannot be kept; nothing is then done with the token.
    fn put(&mut self, name: &str, accessor: &str, secret: &Secret) -> anyhow::Result<()>;
    /// The accessor of this name; empty: saved before it was made, and not known to exist.
    fn accessor(&self, name: &str) -> Option<String>;
    /// Forgets the token of this name.
    ///
    /// # Errors
    /// When that cannot be kept.
    fn remove(&mut self, name: &str) -> anyhow::Result<()>;
    /// Accessors of tokens that were replaced and may still be there.
    fn retired(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A token as both products give it.
#[derive(serde::Deserialize)]
pub(super) struct TokenMade {
    #[serde(rename = "AccessorID")]
    pub(super) accessor_id: String,
    #[serde(rename = "SecretID")]
    pub(super) secret_id: String,
}

/// Whether the product knows the token that the API uses: its accessor, or None.
pub(in crate::bootstrap::cluster) async fn is_valid(api: &Api) -> Result<Option<String>, ApiError> {
    let reply = api.get("/v1/acl/token/self", LIMIT).await?;
    if matches!(reply.status.as_u16(), 401 | 403 | 404) {
        return Ok(None);
    }
    Ok(Some(reply.json::<TokenMade>()?.accessor_id))
}

/// A secret such as both products choose.
#[must_use]
pub fn new_secret() -> Secret {
    Secret::new(Uuid::new_v4().to_string())
}
