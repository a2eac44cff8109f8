//! The subject of a certificate, and which names it holds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rcgen::ExtendedKeyUsagePurpose;

use crate::bootstrap::topology::{Cluster, Node, Product};

/// What a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its names, the common name first: DNS names, then addresses.
    pub(super) names: Vec<String>,
    /// Whether it may act as a TLS server, too.
    pub(super) server: bool,
}

impl Subject {
    /// Of a node's Consul agent. <https://developer.hashicorp.com/consul/docs/security/encryption>
    #[must_use]
    pub fn consul(cluster: &Cluster, node: &Node) -> Self {
        let (datacenter, domain) = (&cluster.datacenter, &cluster.domain);
        let role = if node.is_server(Product::Consul) {
            "server"
        } else {
            "client"
        };
        Self::agent(
            node,
            format!("{role}.{datacenter}.{domain}"),
            format!("{}.node.{datacenter}.{domain}", node.name),
        )
    }

    /// Of a node's Nomad agent. <https://developer.hashicorp.com/nomad/docs/secure/traffic/tls>
    #[must_use]
    pub fn nomad(cluster: &Cluster, node: &Node) -> Self {
        let region = &cluster.region;
        let role = if node.is_server(Product::Nomad) {
            "server"
        } else {
            "client"
        };
        Self::agent(
            node,
            format!("{role}.{region}.nomad"),
            format!("{}.{region}.nomad", node.name),
        )
    }

    /// Of a node's Nomad agent towards Consul. A client and nothing else.
    #[must_use]
    pub fn nomad_at_consul(node: &Node) -> Self {
        Self {
            names: vec![format!("nomad.{}", node.name)],
            server: false,
        }
    }

    /// Of the operator: command line and browser. A client and nothing else.
    #[must_use]
    pub fn operator() -> Self {
        Self {
            names: vec!["operator".to_owned()],
            server: false,
        }
    }

    /// Of lb. A client and nothing else.
    #[must_use]
    pub fn lb() -> Self {
        Self {
            names: vec!["lb".to_owned()],
            server: false,
        }
    }

    /// The names it has to hold, the common name first.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Agents are dialled by address and by the node's name (browsers), and each is server and
    /// client at once.
    fn agent(node: &Node, role: String, own: String) -> Self {
        let mut names: Vec<String> = Vec::new();
        let addresses = [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
            node.address,
        ];
        let dns = [role, own, node.name.clone(), "localhost".to_owned()];
        for name in dns
            .into_iter()
            .chain(addresses.map(|address| address.to_string()))
        {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Self {
            names,
            server: true,
        }
    }

    pub(super) fn usages(&self) -> Vec<ExtendedKeyUsagePurpose> {
        match self.server {
            true => vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            false => vec![ExtendedKeyUsagePurpose::ClientAuth],
        }
    }
}
