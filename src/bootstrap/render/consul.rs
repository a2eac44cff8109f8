//! Consul's configuration, in the form that its version reads. Unknown keys are fatal to an agent,
//! so every form has the version at which it began.
//!
//! Source: <https://developer.hashicorp.com/consul/docs/reference/agent/configuration-file>.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::hcl::{HEAD, Hcl};
use super::version::Version;
use crate::bootstrap::security::secrets::Secret;
use crate::bootstrap::topology::{CONSUL_HTTPS_PORT, Cluster, Layout, Node, Product};

/// Port of DNS.
const DNS_PORT: u16 = 8600;

/// `ui_config {}` instead of `ui`.
const UI_BLOCK: Version = Version::new(1, 9, 0);
/// `tls {}` instead of keys at the top.
const TLS_BLOCK: Version = Version::new(1, 12, 0);
/// gRPC with TLS has a port of its own, open on servers unless told otherwise.
const GRPC_TLS: Version = Version::new(1, 14, 0);

/// `consul.hcl`: everything but secrets.
pub(super) fn agent(
    cluster: &Cluster,
    node: &Node,
    layout: &Layout,
    version: Version,
    acl_open: bool,
) -> String {
    let server = node.is_server(Product::Consul);
    let mut hcl = Hcl::with_extra(cluster.extra(node, Product::Consul));
    hcl.text("datacenter", &cluster.datacenter)
        .text("domain", &cluster.domain)
        .text("node_name", &node.name);
    hcl.text("data_dir", &layout.consul_data)
        .text("log_level", "INFO");
    if server {
        hcl.flag("server", true);
    }

    hcl.comment("No plain HTTP anywhere; HTTPS wants a client certificate.");
    hcl.text("bind_addr", &node.address.to_string());
    // Locally all nodes share the machine: the usual 127.0.0.1 would be taken by the first.
    let loopback = loopback_like(node.address).to_string();
    let own = node.address.to_string();
    if cluster.is_local() {
        hcl.text("client_addr", &own);
    } else {
        hcl.text("client_addr", &loopback);
        hcl.block("addresses", |hcl| {
            hcl.text("https", &format!("{loopback} {own}"));
        });
    }
    hcl.block("ports", |hcl| {
        hcl.number("http", -1)
            .number("https", CONSUL_HTTPS_PORT)
            .number("dns", DNS_PORT)
            .number("grpc", -1);
        if version >= GRPC_TLS {
            hcl.number("grpc_tls", -1);
        }
    });

    hcl.comment("A restart is no farewell: the node keeps its place in the catalog.");
    hcl.flag("leave_on_terminate", false)
        .flag("skip_leave_on_interrupt", true);
    hcl.flag("disable_update_check", true);
    if server {
        hcl.comment("Timing for production: a lost leader is replaced in 3 s.");
        hcl.block("performance", |hcl| {
            hcl.number("raft_multiplier", 1);
        });
        if version >= UI_BLOCK {
            hcl.block("ui_config", |hcl| {
                hcl.flag("enabled", true);
            });
        } else {
            hcl.gap().flag("ui", true);
        }
    }
    if cluster.telemetry {
        hcl.block("telemetry", |hcl| {
            hcl.text("prometheus_retention_time", "10m")
                .flag("disable_hostname", true);
        });
    }
    if cluster.acl {
        hcl.block("acl", |hcl| {
            hcl.flag("enabled", true)
                .text("default_policy", if acl_open { "allow" } else { "deny" })
                .text("down_policy", "extend-cache");
            hcl.flag("enable_token_persistence", true);
        });
    }
    tls(&mut hcl, layout, version);
    hcl.finish()
}

fn tls(hcl: &mut Hcl, layout: &Layout, version: Version) {
    let files = |hcl: &mut Hcl| {
        for (key, file) in [
            ("ca_file", "ca.pem"),
            ("cert_file", "cert.pem"),
            ("key_file", "key.pem"),
        ] {
            hcl.text(key, &format!("{}/{file}", layout.consul_config));
        }
        hcl.flag("verify_incoming", true)
            .flag("verify_outgoing", true);
    };
    if version >= TLS_BLOCK {
        hcl.block("tls", |hcl| {
            hcl.block("defaults", files);
            hcl.block("internal_rpc", |hcl| {
                hcl.flag("verify_server_hostname", true);
            });
        });
    } else {
        files(hcl.gap());
        hcl.flag("verify_server_hostname", true);
    }
}

/// The drop-in with which systemd-resolved resolves names of Consul's domain by the agent, and no
/// others.
pub(super) fn resolver(cluster: &Cluster, node: &Node) -> String {
    let agent = SocketAddr::new(loopback_like(node.address), DNS_PORT);
    format!(
        "{HEAD}[Resolve]\nDNS={agent}\nDomains=~{}\n",
        cluster.domain
    )
}

/// `join.hcl`: which servers an agent looks for when it starts. One that has found the others knows
/// them from then on, so that a cluster can grow without a restart of what is there.
pub(super) fn join(cluster: &Cluster, node: &Node) -> String {
    let mut hcl = Hcl::file();
    if node.is_server(Product::Consul) {
        hcl.number("bootstrap_expect", count(cluster, Product::Consul));
    }
    hcl.comment("The default of 30s makes half a minute of one missed join.");
    hcl.list("retry_join", &join_addresses(cluster, Product::Consul))
        .text("retry_interval", "1s");
    hcl.finish()
}

/// `encrypt.hcl`. Read at the very first start alone: from then on the key lives in the agent's
/// keyring, where a rotation changes it.
pub(super) fn encrypt(key: &Secret) -> String {
    let mut hcl = Hcl::file();
    hcl.text("encrypt", key.reveal())
        .flag("encrypt_verify_incoming", true)
        .flag("encrypt_verify_outgoing", true);
    hcl.finish()
}

/// How many servers there are. Descriptions have a handful.
pub(super) fn count(cluster: &Cluster, product: Product) -> i64 {
    i64::try_from(cluster.servers(product).count()).unwrap_or(i64::MAX)
}

/// The loopback address of the same family.
pub(super) fn loopback_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    }
}

/// Addresses to join, with brackets where an address has colons of its own.
pub(super) fn join_addresses(cluster: &Cluster, product: Product) -> Vec<String> {
    let join = |node: &Node| match node.address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    cluster.servers(product).map(join).collect()
}
