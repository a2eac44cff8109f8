//! Nomad's configuration, for servers and clients.
//!
//! Source: <https://developer.hashicorp.com/nomad/docs/configuration>.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::consul::{count, join_addresses, loopback_like};
use super::hcl::Hcl;
use super::program::Program;
use super::version::{Version, Versions};
use crate::bootstrap::nodes::CNI_FOLDERS;
use crate::bootstrap::security::secrets::Secret;
use crate::bootstrap::topology::{CONSUL_HTTPS_PORT, Cluster, Layout, Node, Product, Role};

/// From here on raw_exec knows no `no_cgroups`, and does without cgroups by itself where it may not
/// make them.
const NO_CGROUPS_GONE: Version = Version::new(1, 7, 0);

/// `nomad.hcl`: everything but secrets.
pub(super) fn agent(
    cluster: &Cluster,
    node: &Node,
    layout: &Layout,
    versions: &Versions,
    lb: Option<&Program>,
    own_pair_at_consul: bool,
) -> String {
    let mut hcl = Hcl::with_extra(cluster.extra(node, Product::Nomad));
    hcl.text("name", &node.name)
        .text("region", &cluster.region)
        .text("datacenter", &cluster.datacenter);
    hcl.text("data_dir", &layout.nomad_data)
        .text("log_level", "INFO");
    let bind = match (cluster.is_local(), node.address) {
        (true, own) => own,
        (false, IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
        (false, IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
    };
    hcl.text("bind_addr", &bind.to_string());
    hcl.flag("disable_update_check", true)
        .flag("leave_on_interrupt", false)
        .flag("leave_on_terminate", false);
    // Nomad refuses to guess a loopback address, and with several interfaces it may guess the wrong
    // one.
    hcl.block("advertise", |hcl| {
        for (key, port) in [("http", 4646), ("rpc", 4647), ("serf", 4648)] {
            hcl.text(key, &SocketAddr::new(node.address, port).to_string());
        }
    });
    match node.role {
        Role::NomadClient => client(&mut hcl, cluster, node, layout, versions, lb),
        Role::NomadServer | Role::ConsulServer => server(&mut hcl),
    }
    if cluster.telemetry {
        hcl.block("telemetry", |hcl| {
            hcl.flag("prometheus_metrics", true)
                .flag("publish_allocation_metrics", true)
                .flag("publish_node_metrics", true)
                .flag("disable_hostname", true);
        });
    }
    if cluster.acl {
        hcl.block("acl", |hcl| {
            hcl.flag("enabled", true);
        });
    }
    let agent = if cluster.is_local() {
        node.address
    } else {
        loopback_like(node.address)
    };
    hcl.block("consul", |hcl| {
        hcl.text(
            "address",
            &SocketAddr::new(agent, CONSUL_HTTPS_PORT).to_string(),
        );
        hcl.flag("ssl", true).flag("verify_ssl", true);
        files(hcl, layout, if own_pair_at_consul { "consul-" } else { "" });
    });
    hcl.block("tls", |hcl| {
        hcl.flag("http", true).flag("rpc", true);
        files(hcl, layout, "");
        hcl.flag("verify_server_hostname", true)
            .flag("verify_https_client", true);
    });
    hcl.finish()
}

fn files(hcl: &mut Hcl, layout: &Layout, prefix: &str) {
    for (key, file) in [
        ("ca_file", "ca.pem"),
        ("cert_file", "cert.pem"),
        ("key_file", "key.pem"),
    ] {
        hcl.text(key, &format!("{}/{prefix}{file}", layout.nomad_config));
    }
}

fn server(hcl: &mut Hcl) {
    hcl.block("server", |hcl| {
        hcl.flag("enabled", true).number("raft_multiplier", 1);
    });
}

fn client(
    hcl: &mut Hcl,
    cluster: &Cluster,
    node: &Node,
    layout: &Layout,
    versions: &Versions,
    lb: Option<&Program>,
) {
    hcl.block("client", |hcl| {
        hcl.flag("enabled", true);
        match &cluster.network_interface {
            _ if cluster.is_local() => hcl.text("network_interface", "lo"),
            Some(interface) => hcl.text("network_interface", interface),
            None => hcl.text("network_interface", &interface_of(node.address)),
        };
        if cluster.features.cni {
            hcl.text("cni_path", &CNI_FOLDERS.join(":"));
        }
        if let Some((first, last)) = node.dynamic_ports {
            hcl.number("min_dynamic_port", first)
                .number("max_dynamic_port", last);
        }
        hcl.comment("For jobs: where tasks bind, and where lb and its files are.");
        hcl.block("meta", |hcl| {
            hcl.text("bind", &node.address.to_string());
            hcl.text(
                "lb_admin",
                &super::lb::admin_address(cluster, node).to_string(),
            );
            if lb.is_some() {
                let starter = format!("{}/{}", layout.run, super::lb::STARTER);
                hcl.text("lb_bin", &starter).text("lb_dir", &layout.lb);
            }
        });
        hcl.comment(
            "Nobody answers these questions outside the clouds; each costs seconds at start.",
        );
        hcl.block("options =", |hcl| {
            hcl.text(
                "\"fingerprint.denylist\"",
                "env_aws,env_gce,env_azure,env_digitalocean",
            );
        });
    });
    if cluster.features.docker {
        hcl.block("plugin \"docker\"", |hcl| {
            hcl.block("config", |hcl| {
                hcl.text("endpoint", "unix:///run/docker.sock")
                    .flag("allow_privileged", false);
            });
        });
    }
    if !cluster.raw_exec {
        return;
    }
    hcl.block("plugin \"raw_exec\"", |hcl| {
        hcl.block("config", |hcl| {
            hcl.flag("enabled", true);
            if !versions.privileged
                && versions
                    .nomad
                    .is_some_and(|version| version < NO_CGROUPS_GONE)
            {
                hcl.flag("no_cgroups", true);
            }
        });
    });
}

/// The interface with this address, whatever it is called on that machine. Nomad's own choice, the
/// one of the default route, is the public one of a machine with a private network, and none where
/// there is no such route.
/// <https://developer.hashicorp.com/nomad/docs/configuration/client#network_interface>
fn interface_of(address: IpAddr) -> String {
    let pattern = address.to_string().replace('.', "[.]");
    format!("{{{{ GetAllInterfaces | include \"address\" \"^{pattern}(/|$)\" | attr \"name\" }}}}")
}

/// `join.hcl`: as Consul's.
pub(super) fn join(cluster: &Cluster, node: &Node) -> String {
    let mut hcl = Hcl::file();
    let server = node.is_server(Product::Nomad);
    hcl.block(if server { "server" } else { "client" }, |hcl| {
        if server {
            hcl.number("bootstrap_expect", count(cluster, Product::Nomad));
        }
        hcl.block("server_join", |hcl| {
            hcl.list("retry_join", &join_addresses(cluster, Product::Nomad))
                .text("retry_interval", "1s");
        });
    });
    hcl.finish()
}

/// `encrypt.hcl` of servers. Like Consul's, it counts at the first start alone.
pub(super) fn encrypt(key: &Secret) -> String {
    let mut hcl = Hcl::file();
    hcl.block("server", |hcl| {
        hcl.text("encrypt", key.reveal());
    });
    hcl.finish()
}

/// `consul-token.hcl`: what the agent shows to Consul.
pub(super) fn token(token: &Secret) -> String {
    let mut hcl = Hcl::file();
    hcl.block("consul", |hcl| {
        hcl.text("token", token.reveal());
    });
    hcl.finish()
}
