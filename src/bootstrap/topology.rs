//! The cluster as described: its nodes, their roles and addresses, and where things live on them.
//!
//! Valid by construction: `description` makes these values and reports every mistake. Pure.

mod extra;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use extra::{ExtraTable, Extras, NodeExtra};

/// Port of Consul's HTTPS API.
pub const CONSUL_HTTPS_PORT: u16 = 8501;
/// Port of Consul's server RPC.
pub const CONSUL_RPC_PORT: u16 = 8300;
/// Port of Nomad's HTTPS API.
pub const NOMAD_HTTPS_PORT: u16 = 4646;
/// Port of Nomad's RPC.
pub const NOMAD_RPC_PORT: u16 = 4647;

/// What a node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Runs a Consul server.
    ConsulServer,
    /// Runs a Nomad server beside a Consul client agent.
    NomadServer,
    /// Runs the jobs: a Nomad client beside a Consul client agent.
    NomadClient,
}

/// One of the two programs that make the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Product {
    /// HashiCorp Consul.
    Consul,
    /// HashiCorp Nomad.
    Nomad,
}

impl Product {
    /// Both, in the order of their start.
    pub const ALL: [Self; 2] = [Self::Consul, Self::Nomad];

    /// Name of the program, its unit and its folder.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Consul => "consul",
            Self::Nomad => "nomad",
        }
    }

    /// Port of its HTTPS API.
    #[must_use]
    pub fn https_port(self) -> u16 {
        match self {
            Self::Consul => CONSUL_HTTPS_PORT,
            Self::Nomad => NOMAD_HTTPS_PORT,
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One of something for each of the two programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PerProduct<T> {
    /// Consul's.
    pub consul: T,
    /// Nomad's.
    pub nomad: T,
}

impl<T> PerProduct<T> {
    /// That of one program.
    #[must_use]
    pub fn of(&self, product: Product) -> &T {
        match product {
            Product::Consul => &self.consul,
            Product::Nomad => &self.nomad,
        }
    }

    /// Makes both.
    ///
    /// # Errors
    /// The first error of `make`.
    pub fn try_new<E>(mut make: impl FnMut(Product) -> Result<T, E>) -> Result<Self, E> {
        Ok(Self {
            consul: make(Product::Consul)?,
            nomad: make(Product::Nomad)?,
        })
    }
}

/// One machine, or its stand-in on this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name, unique in the cluster: `consul-0`, `nomad-client-2`, or the user's own. Lower-case DNS
    /// label.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Address on which the nodes reach each other.
    pub address: IpAddr,
    /// Where `ssh` is to go: a host, or an alias of the user's configuration. The address, when
    /// absent.
    pub ssh: Option<String>,
    /// Ports that Nomad gives to tasks here, first and last; only of Nomad clients.
    pub dynamic_ports: Option<(u16, u16)>,
}

impl Node {
    /// Programs that run here, in the order of their start.
    #[must_use]
    pub fn products(&self) -> &'static [Product] {
        match self.role {
            Role::ConsulServer => &[Product::Consul],
            Role::NomadServer | Role::NomadClient => &[Product::Consul, Product::Nomad],
        }
    }

    /// Whether the program is a server (a voter) here.
    #[must_use]
    pub fn is_server(&self, product: Product) -> bool {
        matches!(
            (self.role, product),
            (Role::ConsulServer, Product::Consul) | (Role::NomadServer, Product::Nomad)
        )
    }

    /// TCP ports that the program listens on here.
    #[must_use]
    pub fn ports(&self, product: Product) -> &'static [u16] {
        match (product, self.is_server(product)) {
            (Product::Consul, true) => &[8300, 8301, 8302, CONSUL_HTTPS_PORT, 8600],
            (Product::Consul, false) => &[8301, CONSUL_HTTPS_PORT, 8600],
            (Product::Nomad, true) => &[NOMAD_HTTPS_PORT, NOMAD_RPC_PORT, 4648],
            (Product::Nomad, false) => &[NOMAD_HTTPS_PORT, NOMAD_RPC_PORT],
        }
    }

    /// Where servers of the program talk to each other, and agents to servers.
    #[must_use]
    pub fn rpc(&self, product: Product) -> SocketAddr {
        let port = match product {
            Product::Consul => CONSUL_RPC_PORT,
            Product::Nomad => NOMAD_RPC_PORT,
        };
        SocketAddr::new(self.address, port)
    }

    /// Whether a text such as `10.0.0.11:8300` is that address.
    #[must_use]
    pub fn is_rpc(&self, product: Product, text: &str) -> bool {
        text.parse() == Ok(self.rpc(product))
    }

    /// Where the program's HTTPS API listens for other nodes.
    #[must_use]
    pub fn https(&self, product: Product) -> SocketAddr {
        SocketAddr::new(self.address, product.https_port())
    }
}

/// The stages of a start, in their order. Each ends in a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Consul's servers elect a leader.
    ConsulServers,
    /// The Consul agents of all other nodes join.
    ConsulClients,
    /// Nomad's servers elect a leader and make their keyring.
    NomadServers,
    /// Nomad's clients become ready.
    NomadClients,
}

impl Phase {
    /// All, in order.
    pub const ALL: [Self; 4] = [
        Self::ConsulServers,
        Self::ConsulClients,
        Self::NomadServers,
        Self::NomadClients,
    ];

    /// The program that it starts.
    #[must_use]
    pub fn product(self) -> Product {
        match self {
            Self::ConsulServers | Self::ConsulClients => Product::Consul,
            Self::NomadServers | Self::NomadClients => Product::Nomad,
        }
    }

    /// Whether the node takes part in it.
    #[must_use]
    pub fn includes(self, node: &Node) -> bool {
        match self {
            Self::ConsulServers => node.role == Role::ConsulServer,
            Self::ConsulClients => node.role != Role::ConsulServer,
            Self::NomadServers => node.role == Role::NomadServer,
            Self::NomadClients => node.role == Role::NomadClient,
        }
    }
}

/// Which part of the cluster a command is about (`--only`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// Consul and Nomad.
    #[default]
    All,
    /// Consul alone, on all nodes.
    ConsulOnly,
}

impl Scope {
    /// Whether the product belongs to it.
    #[must_use]
    pub fn includes(self, product: Product) -> bool {
        self == Self::All || product == Product::Consul
    }
}

/// Where a program comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BinarySource {
    /// A file of this machine: run in place (local target) or copied to the nodes (ssh target).
    File(PathBuf),
    /// The official release archive of this version, fetched by the nodes; checksum and signature
    /// are checked.
    Release(String),
}

/// How the machines are reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All nodes are processes of this machine, on loopback addresses, with their files in the
    /// state folder.
    Local,
    /// Each node is a machine behind the user's own `ssh`.
    Ssh(Ssh),
}

/// What keeps the programs running on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runner {
    /// systemd units.
    #[default]
    Systemd,
    /// Plain processes in the background, for hosts without systemd. Nothing restarts them but
    /// `up`.
    Process,
}

/// How `ssh` is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ssh {
    /// Options before the host, as on the command line: `-l`, `root`, `-J`, `bastion`, `-F`,
    /// `file`.
    pub options: Vec<String>,
    /// Whether commands go through `sudo -n`.
    pub sudo: bool,
    /// How many nodes are worked on at once.
    pub parallel: usize,
    /// What keeps the programs running.
    pub runner: Runner,
}

/// The whole description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Name of the cluster, for people.
    pub name: String,
    /// Consul's datacenter, and Nomad's.
    pub datacenter: String,
    /// Nomad's region.
    pub region: String,
    /// Consul's DNS domain.
    pub domain: String,
    /// How nodes are reached.
    pub target: Target,
    /// All nodes: Consul servers, Nomad servers, Nomad clients.
    pub nodes: Vec<Node>,
    /// Whether ACLs are on, default deny.
    pub acl: bool,
    /// Whether Nomad clients run programs as they are (driver `raw_exec`).
    pub raw_exec: bool,
    /// What machines have beside the cluster's own programs.
    pub features: Features,
    /// The CA that was brought along. None: one is made.
    pub ca: Option<CaFiles>,
    /// Where Consul comes from.
    pub consul: BinarySource,
    /// Where Nomad comes from. None: none was found on this machine and none was named.
    pub nomad: Option<BinarySource>,
    /// Whether agents and lb show their metrics to Prometheus.
    pub telemetry: bool,
    /// What is added to the configuration of agents.
    pub extra: Extras,
    /// Interface that Nomad clients fingerprint; None: the one that has the node's address (ssh
    /// target).
    pub network_interface: Option<String>,
    /// Validity of leaf certificates, in days.
    pub certificate_days: u32,
    /// Base URL of official releases.
    pub release_url: String,
    /// The key that releases must be signed with: its fingerprint, and a file that holds it.
    pub release_key: ReleaseKey,
    /// Folder of CA, keys, tokens; absolute.
    pub state: PathBuf,
}

/// What machines behind ssh have beside the cluster's own programs, if it is configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Docker on Nomad clients.
    pub docker: bool,
    /// CNI plugins on Nomad clients.
    pub cni: bool,
    /// Consul's domain is looked up in Consul, on all nodes.
    pub consul_dns: bool,
}

/// A CA of the operator's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaFiles {
    /// Its certificate, PEM.
    pub cert: PathBuf,
    /// Its key, PEM (PKCS #8), read only when intermediates are made.
    pub key: PathBuf,
}

/// The OpenPGP key of releases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseKey {
    /// Fingerprint, 40 hexadecimal digits in upper case.
    pub fingerprint: String,
    /// The public key, armoured. None: fetched from `release_key_url` and held to the fingerprint.
    pub file: Option<PathBuf>,
    /// Where to fetch the key.
    pub url: String,
}

impl Cluster {
    /// Nodes of a role, in order.
    pub fn of_role(&self, role: Role) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| node.role == role)
    }

    /// Nodes of a phase, in order.
    pub fn of_phase(&self, phase: Phase) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(move |node| phase.includes(node))
    }

    /// Nodes on which the program is a server.
    pub fn servers(&self, product: Product) -> impl Iterator<Item = &Node> {
        self.nodes
            .iter()
            .filter(move |node| node.is_server(product))
    }

    /// Whether all nodes are processes of this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.target == Target::Local
    }

    /// What is added to the configuration of one agent.
    #[must_use]
    pub fn extra(&self, node: &Node, product: Product) -> ExtraTable {
        match product {
            Product::Consul => self.extra.of_consul(&node.name),
            Product::Nomad => {
                let is_client = node.role == Role::NomadClient;
                self.extra.of_nomad(&node.name, is_client)
            }
        }
    }

    /// Where things live on this node.
    #[must_use]
    pub fn layout(&self, node: &Node) -> Layout {
        match self.target {
            Target::Local => {
                Layout::below(&self.state.join("nodes").join(&node.name).to_string_lossy())
            }
            Target::Ssh(_) => Layout::system(),
        }
    }
}

/// Paths on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Folder of the programs; None: they run from where they are on this machine.
    pub bin: Option<String>,
    /// Consul's configuration folder.
    pub consul_config: String,
    /// Consul's data folder.
    pub consul_data: String,
    /// Nomad's configuration folder.
    pub nomad_config: String,
    /// Nomad's data folder.
    pub nomad_data: String,
    /// Folder of lb's certificate, configuration and token on Nomad clients.
    pub lb: String,
    /// Our own notes on the node: stamps of what the daemons were started with; pids and logs of
    /// the process runner.
    pub run: String,
    /// Folder of systemd units; None: there are none.
    pub units: Option<String>,
}

impl Layout {
    /// The usual places of a Linux machine.
    #[must_use]
    pub fn system() -> Self {
        Self {
            bin: Some("/usr/local/bin".to_owned()),
            consul_config: "/etc/consul.d".to_owned(),
            consul_data: "/opt/consul".to_owned(),
            nomad_config: "/etc/nomad.d".to_owned(),
            nomad_data: "/opt/nomad".to_owned(),
            lb: "/etc/lb".to_owned(),
            run: "/var/lib/lb-bootstrap".to_owned(),
            units: Some("/etc/systemd/system".to_owned()),
        }
    }

    /// Everything below one folder.
    #[must_use]
    pub fn below(root: &str) -> Self {
        Self {
            bin: None,
            consul_config: format!("{root}/consul.d"),
            consul_data: format!("{root}/consul"),
            nomad_config: format!("{root}/nomad.d"),
            nomad_data: format!("{root}/nomad"),
            lb: format!("{root}/lb"),
            run: format!("{root}/run"),
            units: None,
        }
    }

    /// A product's configuration folder.
    #[must_use]
    pub fn config(&self, product: Product) -> &str {
        match product {
            Product::Consul => &self.consul_config,
            Product::Nomad => &self.nomad_config,
        }
    }

    /// A product's data folder.
    #[must_use]
    pub fn data(&self, product: Product) -> &str {
        match product {
            Product::Consul => &self.consul_data,
            Product::Nomad => &self.nomad_data,
        }
    }

    /// The file that allows another bootstrap of ACLs when it holds the index that the leader names.
    #[must_use]
    pub fn acl_reset_file(&self, product: Product) -> String {
        let folder = match product {
            Product::Consul => "",
            Product::Nomad => "server/",
        };
        format!("{}/{folder}acl-bootstrap-reset", self.data(product))
    }
}
