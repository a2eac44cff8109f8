//! What lb reads on a Nomad client, when the job of `deploy/nomad/lb.nomad.hcl` runs it there, and
//! the program that starts it without root's rights.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::consul::loopback_like;
use super::hcl::HEAD;
use crate::bootstrap::topology::{CONSUL_HTTPS_PORT, Cluster, Node, Product};

/// Where lb takes requests.
pub(super) const LISTENER_PORT: u16 = 9999;
/// What the listener for Prometheus shows.
pub(super) const METRICS_CERT: &str = "metrics.pem";
pub(super) const METRICS_KEY: &str = "metrics-key.pem";
/// Its admin listener.
pub(super) const ADMIN_PORT: u16 = 9998;

/// Its listener for Prometheus.
pub const METRICS_PORT: u16 = 9997;

/// Address of the admin listener: it speaks plain HTTP, so that other machines are kept from it.
pub(super) fn admin_address(cluster: &Cluster, node: &Node) -> IpAddr {
    if cluster.is_local() {
        node.address
    } else {
        loopback_like(node.address)
    }
}

/// Name of the program that starts lb, in the node's own folder. There root alone may write: it is
/// root that runs it.
pub(super) const STARTER: &str = "lb";

/// The program that Nomad's tasks run in the place of lb (`meta.lb_bin`). As root it becomes a user
/// that may open ports below 1024, and nothing else.
///
/// On the local target the files lie in folders that are closed to all but the caller, so there it
/// keeps the right to read files, too, and the second shell is what has it when it looks for `lb`.
pub(super) fn starter(cluster: &Cluster, program: &str) -> String {
    let program = format!("'{}'", program.replace('\'', r"'\''"));
    let (user, rights, shell) = match cluster.is_local() {
        true => (
            "user=lb\nid -u lb >/dev/null 2>&1 || user=nobody\n",
            "-all,+net_bind_service,+dac_read_search",
            "/bin/sh -c 'exec \"$0\" \"$@\"' ",
        ),
        false => ("user=lb\n", "-all,+net_bind_service", ""),
    };
    format!(
        "#!/bin/sh\n{HEAD}# lb as a user of its own, with the right to open ports below 1024 and no other.\n\
         [ \"$(id -u)\" = 0 ] || exec {program} \"$@\"\n{user}rights={rights}\n\
         exec setpriv --reuid \"$user\" --regid \"$(id -g \"$user\")\" --init-groups --inh-caps \"$rights\" \\\n  \
         --ambient-caps \"$rights\" --bounding-set \"$rights\" --no-new-privs -- \\\n  {shell}{program} \"$@\"\n"
    )
}

/// `lb.toml`. The files it names lie beside it.
pub(super) fn config(cluster: &Cluster, node: &Node, with_token: bool) -> String {
    let agent = if cluster.is_local() {
        node.address
    } else {
        loopback_like(node.address)
    };
    let listen: IpAddr = match (cluster.is_local(), node.address) {
        (true, own) => own,
        (false, IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
        (false, IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // The servers stand in while the node's own agent is away.
    let agents: Vec<String> = std::iter::once(SocketAddr::new(agent, CONSUL_HTTPS_PORT))
        .chain(
            cluster
                .servers(Product::Consul)
                .map(|server| server.https(Product::Consul)),
        )
        .map(|agent| format!("https://{agent}"))
        .collect();
    let agents = agents.join(",");
    let listener = SocketAddr::new(listen, LISTENER_PORT);
    let admin = SocketAddr::new(admin_address(cluster, node), ADMIN_PORT);
    let token = if with_token {
        "token_file = \"token\"\n"
    } else {
        ""
    };
    // By mutual TLS, with the pair of the node's Consul agent: lb's own is a client's, and names no
    // host.
    let metrics = if cluster.telemetry {
        format!(
            "[metrics]\naddress = \"{}\"\ncertificates = \"metrics\"\nclient_ca_file = \"ca.pem\"\n\n\
             [certificates.metrics]\ncert_file = \"{METRICS_CERT}\"\nkey_file = \"{METRICS_KEY}\"\n\n",
            SocketAddr::new(node.address, METRICS_PORT)
        )
    } else {
        String::new()
    };
    format!(
        "{HEAD}\n[consul]\naddress = \"{agents}\"\nca_file = \"ca.pem\"\ncert_file = \"cert.pem\"\n\
         key_file = \"key.pem\"\n{token}\n[[listener]]\naddress = \"{listener}\"\n\n[admin]\naddress = \"{admin}\"\n\n{metrics}\
         # Shorter than the job's kill_timeout.\n[drain]\ntimeout = \"25s\"\n"
    )
}
