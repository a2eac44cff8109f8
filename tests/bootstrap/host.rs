//! Acting on nodes: on this machine, over a real sshd, and on machines made of namespaces. What
//! needs tools or rights that are missing is skipped, loudly.

mod local;
mod over_ssh;
mod releases;

use std::net::IpAddr;
use std::path::Path;

use lb::bootstrap::nodes::spec::{DaemonSpec, Effect, FileSpec, Owner};
use lb::bootstrap::topology::{BinarySource, Cluster, Node, Product, ReleaseKey, Role, Target};

/// A cluster of one Nomad client.
fn cluster(state: &Path, target: Target, address: &str, ssh: Option<String>) -> Cluster {
    let address: IpAddr = address.parse().unwrap();
    Cluster {
        name: "test".to_owned(),
        datacenter: "dc1".to_owned(),
        region: "global".to_owned(),
        domain: "consul".to_owned(),
        target,
        nodes: vec![Node {
            name: "nomad-client-0".to_owned(),
            role: Role::NomadClient,
            address,
            ssh,
            dynamic_ports: None,
        }],
        acl: false,
        raw_exec: true,
        features: lb::bootstrap::topology::Features::default(),
        ca: None,
        consul: BinarySource::File("/bin/sh".into()),
        nomad: None,
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
        state: state.to_owned(),
    }
}

fn file(path: &str, content: &str, mode: u32, owner: Owner) -> FileSpec {
    FileSpec {
        path: path.to_owned(),
        content: content.as_bytes().to_vec(),
        mode,
        owner,
        effect: Effect::None,
        secret: false,
    }
}

/// Stands in for an agent: notes its signals, and ends on SIGINT unless told to be deaf.
const AGENT: &str = r#"#!/bin/sh
config=$1
case $(cat "$config/agent.hcl") in
  bad) echo "invalid config key"; exit 1 ;;
  deaf) trap '' INT ;;
  *) trap 'echo interrupted; exit 0' INT ;;
esac
trap 'echo reloaded' HUP
echo "started as $(id -un)"
while :; do sleep 0.05; done
"#;

fn agent(program: &str, config: &str) -> DaemonSpec {
    DaemonSpec {
        product: Product::Consul,
        command: ["/bin/sh", program, config].map(str::to_owned).to_vec(),
        user: Owner::Consul,
        keeps_children: false,
    }
}
