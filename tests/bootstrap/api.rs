//! What `lb bootstrap` says to a running cluster, said to real Consul and Nomad agents: mTLS,
//! gossip keys, ACLs with default deny. The configurations are written here, so that a mistake of
//! the renderer cannot hide one of the gates.
//!
//! `consul` must be on PATH; the part of Nomad is left out when `nomad` is not.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use lb::bootstrap::cluster::acl::{self, Bootstrapped, TokenStore};
use lb::bootstrap::cluster::api::{self, ApiError, LIMIT};
use lb::bootstrap::cluster::client::ClusterClient;
use lb::bootstrap::cluster::gates::{GateFailure, Gates};
use lb::bootstrap::cluster::view::ClusterView;
use lb::bootstrap::cluster::{gossip, peers, status};
use lb::bootstrap::security::secrets::{Pair, Secret};
use lb::bootstrap::topology::{
    BinarySource, Cluster, Node, PerProduct, Phase, Product, ReleaseKey, Role, Scope, Target,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::consul::Certificates;
use crate::support::loopback::free_address;
use crate::support::turn::Turn;
use crate::support::wait::{PATIENCE, wait_until_async};

const KEYS: [&str; 4] = [
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI=",
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAM=",
];

/// A cluster made by hand. Its processes end with it.
struct Site {
    dir: TempDir,
    certificates: Arc<Certificates>,
    cluster: Cluster,
    processes: BTreeMap<(String, Product), Child>,
    _turn: Turn,
}

impl Site {
    fn new(roles: &[Role]) -> Self {
        let turn = Turn::of("agents by hand");
        let dir = tempfile::tempdir().unwrap();
        let nodes = roles.iter().enumerate().map(|(index, &role)| {
            let kind = match role {
                Role::ConsulServer => "consul",
                Role::NomadServer => "nomad-server",
                Role::NomadClient => "nomad-client",
            };
            let address: IpAddr = free_address().parse().unwrap();
            Node {
                name: format!("{kind}-{index}"),
                role,
                address,
                ssh: None,
                dynamic_ports: None,
            }
        });
        let cluster = Cluster {
            name: "test".to_owned(),
            datacenter: "dc1".to_owned(),
            region: "global".to_owned(),
            domain: "consul".to_owned(),
            target: Target::Local,
            nodes: nodes.collect(),
            acl: true,

            raw_exec: true,
            features: lb::bootstrap::topology::Features::default(),
            ca: None,
            consul: BinarySource::File(PathBuf::from("consul")),
            nomad: Some(BinarySource::File(PathBuf::from("nomad"))),
            telemetry: true,
            extra: lb::bootstrap::topology::Extras::default(),
            network_interface: None,
            certificate_days: 365,
            release_url: String::new(),
            release_key: ReleaseKey {
                fingerprint: String::new(),
                file: None,
                url: String::new(),
            },
            state: dir.path().to_owned(),
        };
        Self {
            dir,
            certificates: Certificates::new(),
            cluster,
            processes: BTreeMap::new(),
            _turn: turn,
        }
    }

    fn cluster_client(&self) -> ClusterClient {
        let read = |name: &str| fs::read_to_string(self.certificates.path(name)).unwrap();
        let operator = Pair {
            cert: read("client.pem"),
            key: Secret::new(read("client-key.pem")),
        };
        let tls = api::tls_config(&read("ca.pem"), &operator).unwrap();
        let tls = PerProduct {
            consul: tls.clone(),
            nomad: tls,
        };
        ClusterClient::new(api::direct(), tls)
    }

    fn view(&self, cluster_client: &ClusterClient) -> ClusterView<'_> {
        ClusterView::new(&self.cluster, cluster_client.clone())
    }

    fn node(&self, index: usize) -> &Node {
        &self.cluster.nodes[index]
    }

    fn start_consul(&mut self, index: usize) {
        let certificates = self.certificates.clone();
        self.start_consul_with(index, &certificates);
    }

    fn start_consul_with(&mut self, index: usize, certificates: &Certificates) {
        let node = self.node(index).clone();
        let server = node.is_server(Product::Consul);
        let data = PathBuf::from(self.cluster.layout(&node).consul_data);
        let role = if server {
            "server.dc1.consul"
        } else {
            "client.dc1.consul"
        };
        let join: Vec<String> = self
            .cluster
            .servers(Product::Consul)
            .map(|node| node.address.to_string())
            .collect();
        let tls = pair(certificates, &node, "consul", role);
        let mut config = json!({
            "datacenter": "dc1", "node_name": node.name, "data_dir": data,
            "bind_addr": node.address, "client_addr": node.address.to_string(),
            "ports": {"http": -1, "https": 8501, "dns": -1, "grpc": -1, "serf_wan": -1},
            "encrypt": KEYS[0], "retry_join": join, "retry_interval": "1s", "server": server,
            "disable_update_check": true, "leave_on_terminate": false, "skip_leave_on_interrupt": true,
            "ca_file": tls[0], "cert_file": tls[1], "key_file": tls[2],
            "verify_incoming": true, "verify_outgoing": true, "verify_server_hostname": true,
            "performance": {"raft_multiplier": 1}, "autopilot": {"server_stabilization_time": "1s"},
            "acl": {"enabled": true, "default_policy": "deny", "down_policy": "extend-cache",
                    "enable_token_persistence": true},
        });
        if server {
            config["bootstrap_expect"] = join.len().into();
        }
        self.start(&node, Product::Consul, &config, "-config-file");
    }

    fn start_nomad(&mut self, index: usize, consul_token: &Secret) {
        let node = self.node(index).clone();
        let server = node.is_server(Product::Nomad);
        let address = node.address.to_string();
        let role = if server {
            "server.global.nomad"
        } else {
            "client.global.nomad"
        };
        let tls = pair(&self.certificates, &node, "nomad", role);
        let join: Vec<String> = self
            .cluster
            .servers(Product::Nomad)
            .map(|node| node.address.to_string())
            .collect();
        let mut config = json!({
            "name": node.name, "region": "global", "datacenter": "dc1", "bind_addr": address,
            "data_dir": self.cluster.layout(&node).nomad_data, "disable_update_check": true,
            "advertise": {"http": address, "rpc": address, "serf": address},
            "acl": {"enabled": true},
            "consul": {"address": format!("{address}:8501"), "ssl": true, "verify_ssl": true, "ca_file": tls[0],
                       "cert_file": tls[1], "key_file": tls[2], "token": consul_token.reveal()},
            "tls": {"http": true, "rpc": true, "ca_file": tls[0], "cert_file": tls[1], "key_file": tls[2],
                    "verify_server_hostname": true, "verify_https_client": true},
        });
        if server {
            config["server"] = json!({"enabled": true, "bootstrap_expect": join.len(), "encrypt": KEYS[2],
                                      "raft_multiplier": 1});
        } else {
            config["client"] = json!({"enabled": true, "network_interface": "lo",
                "server_join": {"retry_join": join, "retry_interval": "1s"},
                "options": {"fingerprint.denylist": "env_aws,env_gce,env_azure,env_digitalocean"}});
            config["plugin"] = json!([{"raw_exec": [{"config": [{"enabled": true}]}]}]);
        }
        self.start(&node, Product::Nomad, &config, "-config");
    }

    fn start(&mut self, node: &Node, product: Product, config: &Value, flag: &str) {
        let file = self
            .dir
            .path()
            .join(format!("{}-{product}.json", node.name));
        fs::create_dir_all(self.cluster.layout(node).data(product)).unwrap();
        fs::write(&file, config.to_string()).unwrap();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path(&node.name, product))
            .unwrap();
        let child = Command::new(product.name())
            .args(["agent", flag])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.processes.insert((node.name.clone(), product), child);
    }

    fn kill(&mut self, name: &str, product: Product) {
        let mut child = self.processes.remove(&(name.to_owned(), product)).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn log_path(&self, name: &str, product: Product) -> PathBuf {
        self.dir.path().join(format!("{name}-{product}.log"))
    }

    async fn gate(
        &self,
        cluster_client: &ClusterClient,
        phase: Phase,
        absent: &[String],
        deadline: Duration,
    ) -> Result<(), GateFailure> {
        let logs = |node: &Node, product: Product| self.log(node, product);
        let looks = AtomicUsize::new(0);
        let progress = |done: usize, total: usize| {
            assert!(done <= total);
            looks.fetch_add(1, Ordering::Relaxed);
        };
        let gates = Gates {
            view: &self.view(cluster_client),
            absent,
            logs: &logs,
            progress: &progress,
            deadline,
        };
        let result = gates.phase(phase).await;
        assert!(looks.load(Ordering::Relaxed) > 0, "progress is told");
        result
    }

    async fn rolling(&self, cluster_client: &ClusterClient, product: Product, node: &Node) {
        let logs = |node: &Node, product: Product| self.log(node, product);
        let gates = Gates {
            view: &self.view(cluster_client),
            absent: &[],
            logs: &logs,
            progress: &|_, _| {},
            deadline: PATIENCE,
        };
        gates.rolling(product, node).await.unwrap();
    }

    fn log(&self, node: &Node, product: Product) -> BoxFuture<'static, String> {
        let text = fs::read_to_string(self.log_path(&node.name, product)).unwrap_or_default();
        async move { text }.boxed()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for child in self.processes.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// CA, certificate and key of a daemon, as paths.
fn pair(certificates: &Certificates, node: &Node, product: &str, role: &str) -> [PathBuf; 3] {
    let name = format!("{product}-{}", node.name);
    let names = [
        role.to_owned(),
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        node.address.to_string(),
    ];
    certificates.issue(&name, &names);
    [
        certificates.path("ca.pem"),
        certificates.path(&format!("{name}.pem")),
        certificates.path(&format!("{name}-key.pem")),
    ]
}

#[derive(Default)]
struct Tokens(BTreeMap<String, (String, Secret)>);

impl TokenStore for Tokens {
    fn get(&self, name: &str) -> Option<Secret> {
        self.0.get(name).map(|(_, secret)| secret.clone())
    }

    fn put(&mut self, name: &str, accessor: &str, secret: &Secret) -> anyhow::Result<()> {
        let token = (accessor.to_owned(), secret.clone());
        self.0.insert(name.to_owned(), token);
        Ok(())
    }

    fn accessor(&self, name: &str) -> Option<String> {
        self.0.get(name).map(|(accessor, _)| accessor.clone())
    }

    fn remove(&mut self, name: &str) -> anyhow::Result<()> {
        self.0.remove(name);
        Ok(())
    }
}

/// The first token, which must not be lost.
async fn bootstrap(
    view: &ClusterView<'_>,
    product: Product,
    tokens: &mut Tokens,
) -> anyhow::Result<Secret> {
    match acl::bootstrap(view, product, tokens, PATIENCE).await? {
        Bootstrapped::Token(secret) => Ok(secret),
        lost @ Bootstrapped::TokenLost { .. } => panic!("{lost:?}"),
    }
}

fn now() -> i64 {
    i64::try_from(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs(),
    )
    .unwrap()
}

#[tokio::test(flavor = "current_thread")]
async fn consul_from_nothing_and_through_its_life() {
    use Product::Consul;
    let mut site = Site::new(&[
        Role::ConsulServer,
        Role::ConsulServer,
        Role::ConsulServer,
        Role::NomadServer,
        Role::NomadClient,
    ]);
    let bare = site.cluster_client();
    let refused = bare
        .api(site.node(0), Consul)
        .get("/v1/status/leader", LIMIT)
        .await;
    assert!(matches!(refused, Err(ApiError::Refused(_))), "{refused:?}");

    for index in 0..3 {
        site.start_consul(index);
    }
    site.gate(&bare, Phase::ConsulServers, &[], PATIENCE)
        .await
        .unwrap();

    // ACLs: once; again; with the state lost; with the way out that the error tells.
    let mut tokens = Tokens::default();
    let management = bootstrap(&site.view(&bare), Consul, &mut tokens)
        .await
        .unwrap();
    assert_eq!(
        tokens.get(acl::CONSUL_MANAGEMENT).as_ref(),
        Some(&management)
    );
    assert_eq!(
        bootstrap(&site.view(&bare), Consul, &mut tokens)
            .await
            .unwrap(),
        management
    );
    let leader = site.view(&bare).leader(Consul).await.unwrap().clone();
    let mut tokens = Tokens::default();
    // Twice: a token that was refused is not one whose response was lost.
    for _ in 0..2 {
        let refused = bootstrap(&site.view(&bare), Consul, &mut tokens).await;
        let error = refused.unwrap_err().to_string();
        assert!(
            error.contains(&format!("on {}, which leads", leader.name)),
            "{error}"
        );
        assert!(tokens.0.is_empty());
    }
    // A run was killed behind its request.
    let chosen = Secret::new("22222222-2222-3333-4444-555555555555");
    tokens.put(acl::CONSUL_MANAGEMENT, "", &chosen).unwrap();
    let lost = acl::bootstrap(&site.view(&bare), Consul, &mut tokens, PATIENCE).await;
    let Bootstrapped::TokenLost {
        leader: named,
        reset_index,
    } = lost.unwrap()
    else {
        panic!("it is not noticed that the token was lost")
    };
    assert_eq!(named, leader.name);
    let file = site.cluster.layout(&leader).acl_reset_file(Consul);
    fs::write(file, reset_index.to_string()).unwrap();
    let management = bootstrap(&site.view(&bare), Consul, &mut tokens)
        .await
        .unwrap();
    let cluster_client = bare.clone().with_token(Consul, Some(management));

    // A token that a run which was then killed had saved, but not made.
    let chosen = Secret::new("11111111-2222-3333-4444-555555555555");
    tokens.put(acl::CONSUL_LB, "", &chosen).unwrap();
    acl::consul_tokens(&site.view(&cluster_client), &mut tokens)
        .await
        .unwrap();
    let count = || async {
        site.view(&cluster_client)
            .any_server::<Vec<Value>>(Consul, "/v1/acl/tokens")
            .await
            .unwrap()
            .1
            .len()
    };
    let (made, kept) = (count().await, tokens.0.clone());
    acl::consul_tokens(&site.view(&cluster_client), &mut tokens)
        .await
        .unwrap();
    assert_eq!(
        (count().await, &tokens.0),
        (made, &kept),
        "again makes nothing"
    );
    assert_eq!(tokens.get(acl::CONSUL_LB), Some(chosen.clone()));
    let lb = cluster_client
        .api(site.node(1), Consul)
        .with_token(Some(chosen));
    let write = lb.put("/v1/kv/lb/x", Some(&json!(1)), LIMIT).await.unwrap();
    assert_eq!(write.status, 403, "lb may only read");
    assert_eq!(
        lb.get("/v1/catalog/services", LIMIT)
            .await
            .unwrap()
            .json::<Value>()
            .unwrap(),
        json!({"consul": []})
    );

    // A node whose certificate is of another CA is a member, and yet of no use.
    site.start_consul(3);
    let foreign = Certificates::new();
    site.start_consul_with(4, &foreign);
    let all: Vec<&Node> = site.cluster.nodes.iter().collect();
    acl::give_agent_tokens(&site.view(&cluster_client), &all[..4], &tokens, PATIENCE)
        .await
        .unwrap();
    let failure = site
        .gate(
            &cluster_client,
            Phase::ConsulClients,
            &[],
            Duration::from_secs(4),
        )
        .await
        .unwrap_err();
    assert_eq!(failure.reasons.len(), 1, "{failure}");
    assert_eq!(failure.reasons[0].node, "nomad-client-4");
    assert!(
        failure.reasons[0]
            .cause
            .is_some_and(|cause| cause.text.contains("another CA")),
        "{failure}"
    );
    site.kill("nomad-client-4", Consul);
    site.start_consul(4);
    site.gate(&cluster_client, Phase::ConsulClients, &[], PATIENCE)
        .await
        .unwrap();
    let all: Vec<&Node> = site.cluster.nodes.iter().collect();
    acl::give_agent_tokens(&site.view(&cluster_client), &all, &tokens, PATIENCE)
        .await
        .unwrap();

    let status = status::look(&site.view(&cluster_client), Scope::ConsulOnly, now(), 30).await;
    assert!(!status.degraded, "{}", status::render(&status));
    assert_eq!(
        status.consul_leader.as_deref(),
        site.view(&cluster_client)
            .leader(Consul)
            .await
            .map(|node| &*node.name)
    );
    assert!(
        status
            .nodes
            .iter()
            .all(|node| node.consul.certificate_days > Some(30)),
        "{status:?}"
    );

    // Gossip keys: from the start, again, and back from a state that an interrupted run left.
    let key = |index: usize| Secret::new(KEYS[index]);
    let steps = AtomicUsize::new(0);
    let done = |_| {
        steps.fetch_add(1, Ordering::Relaxed);
    };
    gossip::rotate(
        &site.view(&cluster_client),
        Consul,
        &key(0),
        &key(1),
        PATIENCE,
        &done,
    )
    .await
    .unwrap();
    gossip::rotate(
        &site.view(&cluster_client),
        Consul,
        &key(0),
        &key(1),
        PATIENCE,
        &done,
    )
    .await
    .unwrap();
    assert_eq!(steps.load(Ordering::Relaxed), 6);
    let install = json!({ "Key": KEYS[3] });
    // One late response makes the call fail, though the key is installed.
    wait_until_async("the third key", async || {
        let posted = cluster_client
            .api(site.node(0), Consul)
            .post("/v1/operator/keyring", Some(&install), LIMIT)
            .await;
        posted.unwrap().good().map(drop)
    })
    .await;
    gossip::rotate(
        &site.view(&cluster_client),
        Consul,
        &key(1),
        &key(3),
        PATIENCE,
        &done,
    )
    .await
    .unwrap();

    // A restart, then a loss.
    let leader = site
        .view(&cluster_client)
        .leader(Consul)
        .await
        .unwrap()
        .name
        .clone();
    let follower = (0..3)
        .find(|&index| site.node(index).name != leader)
        .unwrap();
    let name = site.node(follower).name.clone();
    site.kill(&name, Consul);
    site.start_consul(follower);
    site.rolling(&cluster_client, Consul, site.node(follower))
        .await;
    let own = cluster_client
        .api(site.node(follower), Consul)
        .get("/v1/status/leader", LIMIT)
        .await
        .unwrap();
    assert!(own.json::<String>().unwrap().ends_with(":8300"));

    site.kill(&name, Consul);
    let begun = Instant::now();
    let status = status::look(&site.view(&cluster_client), Scope::ConsulOnly, now(), 30).await;
    assert!(
        status.degraded && begun.elapsed() < 2 * LIMIT,
        "{:?}",
        begun.elapsed()
    );
    assert!(
        !status.nodes[follower].consul.answers && status.nodes[follower].problems.len() <= 2,
        "{status:?}"
    );
    let failure = site
        .gate(&cluster_client, Phase::ConsulServers, &[], Duration::ZERO)
        .await
        .unwrap_err();
    assert!(
        failure
            .reasons
            .iter()
            .any(|reason| reason.node == name && reason.text.contains("refused")),
        "{failure}"
    );

    wait_until_async("the loss of the follower", async || {
        let status = status::look(&site.view(&cluster_client), Scope::ConsulOnly, now(), 30).await;
        status.nodes[follower].consul.status != "alive"
    })
    .await;
    let refusal = gossip::rotate(
        &site.view(&cluster_client),
        Consul,
        &key(3),
        &key(0),
        PATIENCE,
        &done,
    )
    .await
    .unwrap_err();
    assert!(
        refusal.to_string().contains(&format!("are away: {name}")),
        "{refusal}"
    );

    // Replaced: the same name, nothing of its data.
    peers::forget(
        &site.view(&cluster_client),
        Consul,
        site.node(follower),
        PATIENCE,
    )
    .await
    .unwrap();
    peers::forget(
        &site.view(&cluster_client),
        Consul,
        site.node(follower),
        PATIENCE,
    )
    .await
    .unwrap();
    assert_eq!(
        site.view(&cluster_client)
            .raft_peers(Consul)
            .await
            .unwrap()
            .len(),
        2
    );
    site.gate(
        &cluster_client,
        Phase::ConsulServers,
        std::slice::from_ref(&name),
        PATIENCE,
    )
    .await
    .unwrap();
    fs::remove_dir_all(site.cluster.layout(site.node(follower)).consul_data).unwrap();
    let data = PathBuf::from(site.cluster.layout(site.node(follower)).consul_data);
    fs::create_dir_all(data.join("serf")).unwrap();
    for pool in ["local", "remote"] {
        fs::write(
            data.join(format!("serf/{pool}.keyring")),
            json!([KEYS[3]]).to_string(),
        )
        .unwrap();
    }
    site.start_consul(follower);
    peers::wait_voter(
        &site.view(&cluster_client),
        Consul,
        site.node(follower),
        PATIENCE,
    )
    .await
    .unwrap();
    site.rolling(&cluster_client, Consul, site.node(follower))
        .await;
    assert!(
        !peers::step_down(&site.view(&cluster_client), Consul)
            .await
            .is_err_and(|error| error.to_string().contains("500"))
    );
}

#[tokio::test(flavor = "current_thread")]
async fn nomad_from_nothing_and_through_its_life() {
    use Product::{Consul, Nomad};
    if Command::new("nomad")
        .arg("version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"SKIPPED nomad_from_nothing_and_through_its_life: it needs `nomad`\n",
        );
        return;
    }
    let mut site = Site::new(&[Role::ConsulServer, Role::NomadServer, Role::NomadClient]);
    let bare = site.cluster_client();
    for index in 0..3 {
        site.start_consul(index);
    }
    let mut tokens = Tokens::default();
    site.gate(&bare, Phase::ConsulServers, &[], PATIENCE)
        .await
        .unwrap();
    let management = bootstrap(&site.view(&bare), Consul, &mut tokens)
        .await
        .unwrap();
    let cluster_client = bare.with_token(Consul, Some(management));
    acl::consul_tokens(&site.view(&cluster_client), &mut tokens)
        .await
        .unwrap();
    site.gate(&cluster_client, Phase::ConsulClients, &[], PATIENCE)
        .await
        .unwrap();
    let all: Vec<&Node> = site.cluster.nodes.iter().collect();
    acl::give_agent_tokens(&site.view(&cluster_client), &all, &tokens, PATIENCE)
        .await
        .unwrap();

    let token = tokens.get(acl::CONSUL_NOMAD).unwrap();
    site.start_nomad(1, &token);
    site.gate(&cluster_client, Phase::NomadServers, &[], PATIENCE)
        .await
        .unwrap();
    let management = bootstrap(&site.view(&cluster_client), Nomad, &mut tokens)
        .await
        .unwrap();
    assert_eq!(
        bootstrap(&site.view(&cluster_client), Nomad, &mut tokens)
            .await
            .unwrap(),
        management
    );
    let error = bootstrap(&site.view(&cluster_client), Nomad, &mut Tokens::default())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("nomad/server/acl-bootstrap-reset") && error.contains("on nomad-server-1"),
        "{error}"
    );
    let cluster_client = cluster_client.with_token(Nomad, Some(management));
    acl::nomad_tokens(&site.view(&cluster_client), &mut tokens)
        .await
        .unwrap();
    let (_, operator) = tokens.0.remove(acl::NOMAD_OPERATOR).unwrap();
    acl::nomad_tokens(&site.view(&cluster_client), &mut tokens)
        .await
        .unwrap();
    assert_eq!(
        tokens.get(acl::NOMAD_OPERATOR),
        Some(operator.clone()),
        "made, not saved: found again"
    );
    site.gate(&cluster_client, Phase::NomadServers, &[], PATIENCE)
        .await
        .unwrap();

    site.start_nomad(2, &token);
    // As the operator, whose token has to be enough for the gates and for status.
    let operator = cluster_client
        .clone()
        .with_token(Nomad, Some(operator))
        .with_token(Consul, tokens.get(acl::CONSUL_OPERATOR));
    site.gate(&operator, Phase::NomadClients, &[], PATIENCE)
        .await
        .unwrap();
    let status = status::look(&site.view(&operator), Scope::All, now(), 30).await;
    assert!(!status.degraded, "{}", status::render(&status));

    let key = |index: usize| Secret::new(KEYS[index]);
    for _ in 0..2 {
        gossip::rotate(
            &site.view(&operator),
            Nomad,
            &key(2),
            &key(3),
            PATIENCE,
            &|_| {},
        )
        .await
        .unwrap();
    }
    site.kill("nomad-server-1", Nomad);
    site.start_nomad(1, &token);
    site.rolling(&operator, Nomad, site.node(1)).await;
    site.gate(&operator, Phase::NomadClients, &[], PATIENCE)
        .await
        .unwrap();

    peers::wait_voter(&site.view(&operator), Nomad, site.node(1), PATIENCE)
        .await
        .unwrap();
    peers::drain(&site.view(&operator), site.node(2), PATIENCE)
        .await
        .unwrap();
    // It takes no allocations, and is well all the same: maintenance is nothing to wait for.
    let (_, nodes) = site
        .view(&operator)
        .any_server::<Vec<Value>>(Nomad, "/v1/nodes")
        .await
        .unwrap();
    assert_eq!(nodes[0]["SchedulingEligibility"], "ineligible");
    site.gate(&operator, Phase::NomadClients, &[], PATIENCE)
        .await
        .unwrap();
    peers::undrain(&site.view(&operator), site.node(2))
        .await
        .unwrap();
    site.gate(&operator, Phase::NomadClients, &[], PATIENCE)
        .await
        .unwrap();
    peers::purge(&site.view(&operator), site.node(2))
        .await
        .unwrap();
    site.gate(&operator, Phase::NomadClients, &[], Duration::ZERO)
        .await
        .unwrap();
    site.kill("nomad-client-2", Nomad);
    peers::purge(&site.view(&operator), site.node(2))
        .await
        .unwrap();
    let gone = [site.node(2).name.clone()];
    let count = || async {
        site.view(&operator)
            .any_server::<Vec<Value>>(Nomad, "/v1/nodes")
            .await
            .unwrap()
            .1
            .len()
    };
    assert_eq!(
        count().await,
        0,
        "no agent responds for it, so that it is forgotten at once"
    );
    site.gate(&operator, Phase::NomadClients, &gone, PATIENCE)
        .await
        .unwrap_or_else(|failure| panic!("{failure}"));
}
