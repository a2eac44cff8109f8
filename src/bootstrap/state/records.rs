//! The JSON files: their forms, each with a version so that an older `lb` refuses what it would
//! misread.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bootstrap::security::pki;
use crate::bootstrap::security::secrets::Secret;
use crate::bootstrap::topology::{BinarySource, Cluster, Node, Product, Role, Scope};

/// Version of all forms here. From 2 on there may be intermediates, which an older `lb` would not
/// sign with.
const VERSION: u32 = 2;

/// A form of one of the files.
pub(super) trait Record: Serialize + DeserializeOwned {}

impl Record for Applied {}
impl Record for Tokens {}
impl Record for Gossip {}
impl Record for Rotation {}
impl Record for Operations {}
impl Record for AclChange {}
impl Record for Restoring {}

/// As in the file, with the version in front.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    record: T,
}

/// Reads one.
pub(super) fn parse<T: Record>(text: &str) -> Result<T> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    // serde's own words may quote a value, which may be a secret: line and column say enough.
    let place =
        |error: &serde_json::Error| format!("line {}, column {}", error.line(), error.column());
    let found: Version = serde_json::from_str(text).map_err(|error| {
        anyhow::anyhow!("not a state file of lb, or damaged ({})", place(&error))
    })?;
    if found.version > VERSION {
        bail!(
            "has format {}, this lb knows up to {VERSION}: a newer lb wrote it; use that one",
            found.version
        );
    }
    let record: Versioned<T> = serde_json::from_str(text)
        .map_err(|error| anyhow::anyhow!("damaged ({})", place(&error)))?;
    Ok(record.record)
}

/// Writes one.
pub(super) fn text<T: Record>(record: &T) -> Result<String> {
    let mut text = serde_json::to_string_pretty(&Versioned {
        version: VERSION,
        record,
    })?;
    text.push('\n');
    Ok(text)
}

/// A node's role, as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AppliedRole {
    /// Consul server.
    ConsulServer,
    /// Nomad server.
    NomadServer,
    /// Nomad client.
    NomadClient,
}

impl From<Role> for AppliedRole {
    fn from(role: Role) -> Self {
        match role {
            Role::ConsulServer => Self::ConsulServer,
            Role::NomadServer => Self::NomadServer,
            Role::NomadClient => Self::NomadClient,
        }
    }
}

impl From<AppliedRole> for Role {
    fn from(role: AppliedRole) -> Self {
        match role {
            AppliedRole::ConsulServer => Self::ConsulServer,
            AppliedRole::NomadServer => Self::NomadServer,
            AppliedRole::NomadClient => Self::NomadClient,
        }
    }
}

/// A node that was applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedNode {
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: AppliedRole,
    /// Its address.
    pub address: IpAddr,
    /// Where `ssh` was to go, if not to the address: a node that is no longer described has to be
    /// reached for its removal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<String>,
    /// Ports that Nomad gives to tasks there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dynamic_ports: Option<(u16, u16)>,
}

impl From<&Node> for AppliedNode {
    fn from(node: &Node) -> Self {
        Self {
            name: node.name.clone(),
            role: node.role.into(),
            address: node.address,
            ssh: node.ssh.clone(),
            dynamic_ports: node.dynamic_ports,
        }
    }
}

impl From<&AppliedNode> for Node {
    fn from(node: &AppliedNode) -> Self {
        Self {
            name: node.name.clone(),
            role: node.role.into(),
            address: node.address,
            ssh: node.ssh.clone(),
            dynamic_ports: node.dynamic_ports,
        }
    }
}

/// `cluster.json`: what was applied last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Made once, at the very first run.
    pub id: String,
    /// Name of the cluster.
    pub name: String,
    /// Consul's datacenter.
    pub datacenter: String,
    /// Nomad's region.
    pub region: String,
    /// Consul's DNS domain.
    pub domain: String,
    /// Whether ACLs are on.
    pub acl: bool,
    /// The nodes.
    pub nodes: Vec<AppliedNode>,
    /// Versions of the programs by name, as far as they are known.
    #[serde(default)]
    pub versions: BTreeMap<String, String>,
    /// When the cluster was begun, Unix seconds.
    pub created_at: i64,
    /// Whether only Consul was brought up.
    #[serde(default)]
    pub consul_only: bool,
    /// Whether it stays up in the background (local target).
    #[serde(default)]
    pub detached: bool,
    /// Where the programs came from, by name.
    #[serde(default)]
    pub sources: BTreeMap<String, Source>,
    /// Programs that nodes installed from releases: node, then program.
    #[serde(default)]
    pub programs: BTreeMap<String, BTreeMap<String, Program>>,
}

/// Where a program came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A file of the operator's machine.
    File(PathBuf),
    /// The release of this version.
    Release(String),
}

impl From<BinarySource> for Source {
    fn from(source: BinarySource) -> Self {
        match source {
            BinarySource::File(path) => Self::File(path),
            BinarySource::Release(version) => Self::Release(version),
        }
    }
}

impl From<Source> for BinarySource {
    fn from(source: Source) -> Self {
        match source {
            Source::File(path) => Self::File(path),
            Source::Release(version) => Self::Release(version),
        }
    }
}

/// A program that a node installed from a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its version.
    pub version: String,
    /// SHA-256 of the program, as it was when the archive had been checked.
    pub sha256: String,
}

impl Applied {
    /// The note for this description; identity and birthday are those of `before`, if there was
    /// one.
    #[must_use]
    pub fn of(cluster: &Cluster, scope: Scope, before: Option<&Self>, now: SystemTime) -> Self {
        let nodes = cluster.nodes.iter().map(AppliedNode::from);
        Self {
            id: before.map_or_else(
                || uuid::Uuid::new_v4().to_string(),
                |before| before.id.clone(),
            ),
            name: cluster.name.clone(),
            datacenter: cluster.datacenter.clone(),
            region: cluster.region.clone(),
            domain: cluster.domain.clone(),
            acl: cluster.acl,
            nodes: nodes.collect(),
            versions: before
                .map(|before| before.versions.clone())
                .unwrap_or_default(),
            created_at: before.map_or_else(|| unix(now), |before| before.created_at),
            // A run about Consul alone takes nothing away from a cluster that has Nomad.
            consul_only: scope == Scope::ConsulOnly
                && before.is_none_or(|before| before.consul_only),
            detached: before.is_some_and(|before| before.detached),
            sources: before
                .map(|before| before.sources.clone())
                .unwrap_or_default(),
            programs: before
                .map(|before| before.programs.clone())
                .unwrap_or_default(),
        }
    }

    /// Digest of a program that the node installed from this version's release.
    #[must_use]
    pub fn program(&self, node: &str, name: &str, version: &str) -> Option<String> {
        let program = self.programs.get(node)?.get(name)?;
        (program.version == version).then(|| program.sha256.clone())
    }
}

/// How far the switching on of ACLs is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AclStep {
    /// Agents take tokens, all get theirs, and what shows none is let through.
    Open,
    /// What shows none is refused, agent after agent.
    Close,
}

/// `acl.json`: ACLs are being switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclChange {
    /// How far it is.
    pub step: AclStep,
}

/// A token of Consul or Nomad.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its public name.
    pub accessor: String,
    /// What is shown at the door.
    #[serde(with = "hidden")]
    pub secret: Secret,
}

/// `tokens.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tokens {
    /// Consul's first token, which may do everything.
    pub consul_management: Option<Token>,
    /// Nomad's first token, which may do everything.
    pub nomad_management: Option<Token>,
    /// Of the Consul agents, by node.
    pub agents: BTreeMap<String, Token>,
    /// The Consul token of Nomad's agents.
    pub nomad_consul: Option<Token>,
    /// The operator's Consul token.
    pub operator: Option<Token>,
    /// The operator's Nomad token.
    pub nomad_operator: Option<Token>,
    /// lb's Consul token: it may read services, nodes and `lb/` keys.
    pub lb: Option<Token>,
    /// Prometheus's Consul token: it may read what agents tell of themselves.
    pub scrape: Option<Token>,
    /// What is to follow Consul's management token: kept before it is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_consul_management: Option<Token>,
    /// Tokens that were replaced. Those with an accessor are still to be taken back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub retired: Vec<Retired>,
}

/// A token that was replaced by another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// Which one, by its key in the file.
    pub name: String,
    /// Whose.
    pub product: Product,
    /// The token. Its accessor is empty once it has been taken back.
    pub token: Token,
}

impl Tokens {
    /// The first token of a product, once the product is known to have taken it. A run that was
    /// killed between saving and using it leaves one without an accessor, with which every request
    /// would be refused.
    #[must_use]
    pub fn management(&self, product: Product) -> Option<Secret> {
        let token = match product {
            Product::Consul => self.consul_management.as_ref(),
            Product::Nomad => self.nomad_management.as_ref(),
        };
        token
            .filter(|token| !token.accessor.is_empty())
            .map(|token| token.secret.clone())
    }

    /// Whether a rotation of tokens is under way.
    #[must_use]
    pub fn is_rotating(&self) -> bool {
        !self.retired.is_empty() || self.next_consul_management.is_some()
    }

    /// Whether a token was replaced in the rotation that is under way.
    #[must_use]
    pub fn is_replaced(&self, name: &str) -> bool {
        self.retired.iter().any(|retired| retired.name == name)
    }

    /// Notes that a token is replaced; what there was of it is to be taken back.
    pub fn retire(&mut self, name: &str, product: Product, token: Option<Token>) {
        self.retired.extend(token.map(|token| Retired {
            name: name.to_owned(),
            product,
            token,
        }));
    }

    /// Replaces those of Consul's tokens whose secret is ours to choose, each once in a rotation.
    /// They have to be made then.
    pub fn replace_chosen(&mut self, mut secret: impl FnMut() -> Secret) {
        let mut replaced = Vec::new();
        let slots = [
            ("operator", &mut self.operator),
            ("nomad_consul", &mut self.nomad_consul),
            ("lb", &mut self.lb),
            ("scrape", &mut self.scrape),
        ];
        let slots = slots
            .into_iter()
            .filter_map(|(name, slot)| Some((name.to_owned(), slot.as_mut()?)));
        let agents = self
            .agents
            .iter_mut()
            .map(|(node, token)| (format!("agents/{node}"), token));
        for (name, token) in slots.chain(agents) {
            if !self.retired.iter().any(|retired| retired.name == name) {
                let new = Token {
                    accessor: String::new(),
                    secret: secret(),
                };
                replaced.push((name, std::mem::replace(token, new)));
            }
        }
        for (name, token) in replaced {
            self.retire(&name, Product::Consul, Some(token));
        }
    }

    /// Takes over what others hold of a product; agents that they do not know keep theirs.
    pub(super) fn take_over(&mut self, product: Product, from: Self) {
        match product {
            Product::Consul => {
                self.consul_management = from.consul_management;
                self.agents.extend(from.agents);
                self.nomad_consul = from.nomad_consul;
                self.operator = from.operator;
                self.lb = from.lb;
                self.scrape = from.scrape;
            }
            Product::Nomad => {
                self.nomad_management = from.nomad_management;
                self.nomad_operator = from.nomad_operator;
            }
        }
    }

    /// What the operator uses with a product: the own token, else the management token.
    #[must_use]
    pub fn operator_of(&self, product: Product) -> Option<&Token> {
        match product {
            Product::Consul => self.operator.as_ref().or(self.consul_management.as_ref()),
            Product::Nomad => self
                .nomad_operator
                .as_ref()
                .or(self.nomad_management.as_ref()),
        }
    }
}

/// How far the change of a gossip key is. Each step is repeated when it is not known to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GossipStep {
    /// The new key is being handed to all members.
    Install,
    /// All have it; they are being told to encrypt with it.
    Use,
    /// All encrypt with it; the old one is being taken away.
    Remove,
}

/// The key that is to follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextKey {
    /// Base64 of 32 bytes.
    #[serde(with = "hidden")]
    pub key: Secret,
    /// How far the change is.
    pub step: GossipStep,
}

/// The keys of one product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GossipKeys {
    /// The key that configuration files carry, base64.
    #[serde(with = "hidden")]
    pub current: Secret,
    /// The key that is to follow, while it changes.
    #[serde(default)]
    pub next: Option<NextKey>,
    /// Nodes that were away when the key changed: their agents keep the old one with their data.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub missed: BTreeSet<String>,
}

impl GossipKeys {
    fn create() -> Result<Self> {
        Ok(Self {
            current: Self::key()?,
            next: None,
            missed: BTreeSet::new(),
        })
    }

    /// A new random key: base64 of 32 bytes.
    ///
    /// # Errors
    /// When the operating system gives no random bytes.
    pub fn key() -> Result<Secret> {
        let mut bytes = [0; 32];
        pki::random(&mut bytes)?;
        Ok(Secret::new(STANDARD.encode(bytes)))
    }
}

/// `gossip.json`: the keys of both products.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gossip {
    /// Consul's.
    pub consul: GossipKeys,
    /// Nomad's.
    pub nomad: GossipKeys,
}

impl Gossip {
    pub(super) fn create() -> Result<Self> {
        Ok(Self {
            consul: GossipKeys::create()?,
            nomad: GossipKeys::create()?,
        })
    }

    /// The keys of a product.
    #[must_use]
    pub fn of(&self, product: Product) -> &GossipKeys {
        match product {
            Product::Consul => &self.consul,
            Product::Nomad => &self.nomad,
        }
    }

    /// The keys of a product, to be changed.
    pub fn of_mut(&mut self, product: Product) -> &mut GossipKeys {
        match product {
            Product::Consul => &mut self.consul,
            Product::Nomad => &mut self.nomad,
        }
    }

    /// Agents stop at once at a key of another length.
    pub(super) fn check(&self) -> Result<()> {
        for (product, keys) in [
            (Product::Consul, &self.consul),
            (Product::Nomad, &self.nomad),
        ] {
            for key in [
                Some(&keys.current),
                keys.next.as_ref().map(|next| &next.key),
            ]
            .into_iter()
            .flatten()
            {
                let length = STANDARD
                    .decode(key.reveal())
                    .ok()
                    .context("a gossip key is not base64")?
                    .len();
                if !matches!(length, 16 | 24 | 32) {
                    bail!("a gossip key of {product} has {length} bytes: 16, 24 or 32 are needed");
                }
            }
        }
        Ok(())
    }
}

/// What is being made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RotationKind {
    /// All leaf certificates.
    Leaves,
    /// The CA, and all leaf certificates with it.
    Authority,
}

/// How far the rotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RotationStep {
    /// The bundle with both CAs goes to all nodes; the old CA still signs. Only of
    /// [`RotationKind::Authority`].
    BothTrusted,
    /// New leaves are made and go to all nodes.
    NewLeaves,
    /// All nodes have their new leaves; the bundle without the old CA goes to all of them.
    OldDropped,
}

/// `rotation.json`: a rotation of certificates that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// What is made anew.
    pub kind: RotationKind,
    /// How far it is.
    pub step: RotationStep,
    /// When it was begun, Unix seconds: leaves made before that are the old ones.
    pub started_at: i64,
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationKind {
    /// New certificates, under the same CA or a new one.
    RotateCerts,
    /// New gossip keys.
    RotateGossip,
    /// An empty machine in the place of a node.
    ReplaceNode,
    /// A node leaves for good.
    RemoveNode,
    /// Machines are started anew, one after the other.
    Reboot,
    /// ACLs are switched on.
    AclEnable,
    /// New tokens.
    RotateTokens,
    /// The cluster of a backup comes back.
    Restore,
}

impl OperationKind {
    /// All of them.
    #[cfg(test)]
    pub const ALL: [Self; 8] = [
        Self::RotateCerts,
        Self::RotateGossip,
        Self::ReplaceNode,
        Self::RemoveNode,
        Self::Reboot,
        Self::AclEnable,
        Self::RotateTokens,
        Self::Restore,
    ];
}

/// Something that takes several steps, of which an interruption may leave some undone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// What it does.
    pub kind: OperationKind,
    /// The command as typed, without `lb bootstrap` and the flags that name the cluster. The same
    /// command goes on with it.
    pub command: String,
    /// Nodes that it is about; none: all of them.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// Nodes that are done.
    #[serde(default)]
    pub done: Vec<String>,
    /// A Nomad client that it drained, and that takes allocations again once it is back.
    #[serde(default)]
    pub drained: Option<String>,
    /// When it was begun, Unix seconds.
    pub started_at: i64,
}

impl Operation {
    /// What `status` and `plan` say of it.
    #[must_use]
    pub fn told(&self) -> String {
        format!(
            "`{}` is not over: run it again, it goes on from where it was interrupted",
            self.command
        )
    }

    /// What a command says that has to wait for its end.
    #[must_use]
    pub fn told_first(&self) -> String {
        format!(
            "`{}` is not over: run it again first, it goes on from where it was interrupted",
            self.command
        )
    }
}

/// `operations.json`: what is under way and has no file of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operations {
    /// In the order in which they were begun.
    #[serde(default)]
    pub operations: Vec<Operation>,
}

/// `restoring.json`: a restore that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restoring {
    /// Id of the backup.
    pub backup: String,
    /// The folder that was named.
    pub folder: PathBuf,
    /// When it was begun, Unix seconds.
    pub started_at: i64,
    /// Products, by name, whose snapshots are in the cluster.
    pub done: Vec<String>,
    /// Nomad's clients, by id, that had no data when it was begun.
    #[serde(default)]
    pub empty_clients: Vec<String>,
}

impl Restoring {
    /// One that begins.
    #[must_use]
    pub fn new(backup: String, folder: PathBuf, now: SystemTime) -> Self {
        Self {
            backup,
            folder,
            started_at: unix(now),
            done: Vec::new(),
            empty_clients: Vec::new(),
        }
    }

    /// Whether the product's snapshot is in the cluster.
    #[must_use]
    pub fn is_done(&self, product: Product) -> bool {
        self.done.iter().any(|done| done == product.name())
    }
}

pub(super) fn unix(now: SystemTime) -> i64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |passed| {
        i64::try_from(passed.as_secs()).unwrap_or(i64::MAX)
    })
}

/// Secrets as plain text, here and nowhere else.
mod hidden {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use crate::bootstrap::security::secrets::Secret;

    pub(super) fn serialize<S: Serializer>(
        secret: &Secret,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(secret.reveal())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(Secret::new)
    }
}
