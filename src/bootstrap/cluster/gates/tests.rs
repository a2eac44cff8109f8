use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::FutureExt as _;

use super::consul::judge_agent;
use super::nomad::judge_client;
use super::rolling::judge_health;
use super::*;
use crate::bootstrap::cluster::api::Connect;
use crate::bootstrap::cluster::client::ClusterClient;
use crate::bootstrap::cluster::facts::{
    AutopilotHealth, Driver, Member, MemberStatus, NomadNode, ServerHealth,
};
use crate::bootstrap::topology::{BinarySource, Cluster, PerProduct, ReleaseKey, Role, Target};

fn cluster(servers: u8) -> Cluster {
    let node = |index: u8| Node {
        name: format!("consul-{index}"),
        role: Role::ConsulServer,
        address: [127, 0, 35, 100 + index].into(),
        ssh: None,
        dynamic_ports: None,
    };
    Cluster {
        name: "test".to_owned(),
        datacenter: "dc1".to_owned(),
        region: "global".to_owned(),
        domain: "consul".to_owned(),
        target: Target::Local,
        nodes: (0..servers).map(node).collect(),
        acl: false,
        raw_exec: true,
        features: crate::bootstrap::topology::Features::default(),
        ca: None,
        consul: BinarySource::File(PathBuf::from("/usr/bin/consul")),
        nomad: None,
        telemetry: true,
        extra: crate::bootstrap::topology::Extras::default(),
        network_interface: None,
        certificate_days: 365,
        release_url: String::new(),
        release_key: ReleaseKey {
            fingerprint: String::new(),
            file: None,
            url: String::new(),
        },
        state: PathBuf::from("/nowhere"),
    }
}

fn view_of(cluster: &Cluster) -> ClusterView<'_> {
    let refused: Connect =
        Arc::new(|_| async { Err(std::io::ErrorKind::ConnectionRefused.into()) }.boxed());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let tls = Arc::new(tls);
    let tls = PerProduct {
        consul: tls.clone(),
        nomad: tls,
    };
    ClusterView::new(cluster, ClusterClient::new(refused, tls))
}

fn no_logs(_: &Node, _: Product) -> BoxFuture<'static, String> {
    async { String::new() }.boxed()
}

fn gates<'a>(view: &'a ClusterView<'a>, absent: &'a [String]) -> Gates<'a> {
    Gates {
        view,
        absent,
        logs: &no_logs,
        progress: &|_, _| {},
        deadline: Duration::from_millis(150),
    }
}

fn view(leader: u8, peers: &[u8]) -> View {
    let rpc = |index: &u8| format!("127.0.35.{}:8300", 100 + index);
    Ok((rpc(&leader), peers.iter().map(rpc).collect()))
}

#[test]
fn servers_must_agree_on_leader_and_peers() {
    let cluster = cluster(3);
    let cluster_view = view_of(&cluster);
    let cases: [(&str, Vec<View>, [&str; 3]); 5] = [
        (
            "all well",
            vec![
                view(0, &[0, 1, 2]),
                view(0, &[0, 1, 2]),
                view(0, &[2, 1, 0]),
            ],
            ["", "", ""],
        ),
        (
            "one misses a peer",
            vec![view(0, &[0, 1, 2]), view(0, &[0, 1]), view(0, &[0, 1, 2])],
            ["", "missing: consul-2", ""],
        ),
        (
            "two leaders",
            vec![
                view(0, &[0, 1, 2]),
                view(0, &[0, 1, 2]),
                view(1, &[0, 1, 2]),
            ],
            ["", "", "consul-0 says that"],
        ),
        (
            "a stranger",
            vec![
                view(0, &[0, 1, 2, 9]),
                view(0, &[0, 1, 2]),
                view(0, &[0, 1, 2]),
            ],
            ["127.0.35.109:8300", "", ""],
        ),
        (
            "one is dead",
            vec![
                view(0, &[0, 1, 2]),
                Err("request to https://x: refused".to_owned()),
                view(0, &[0, 1, 2]),
            ],
            ["", "refused", ""],
        ),
    ];
    for (what, views, expected) in cases {
        let gates = gates(&cluster_view, &[]);
        let servers = gates.present_servers(Product::Consul);
        for ((node, finding), expected) in judge_servers(&gates, Product::Consul, &servers, views)
            .iter()
            .zip(expected)
        {
            match finding {
                Ok(()) => assert_eq!(expected, "", "{what}: {} is well", node.name),
                Err(text) => assert!(
                    !expected.is_empty() && text.contains(expected),
                    "{what}: {}: {text}",
                    node.name
                ),
            }
        }
    }
}

#[test]
fn an_absent_server_gets_no_request_and_is_not_missed() {
    let (cluster, absent) = (cluster(3), ["consul-2".to_owned()]);
    let cluster_view = view_of(&cluster);
    let gates = gates(&cluster_view, &absent);
    let servers = gates.present_servers(Product::Consul);
    assert_eq!(servers.len(), 2);
    for peers in [&[0, 1][..], &[0, 1, 2]] {
        let findings = judge_servers(
            &gates,
            Product::Consul,
            &servers,
            vec![view(0, peers), view(0, peers)],
        );
        assert!(
            findings.iter().all(|(_, finding)| finding.is_ok()),
            "{findings:?}"
        );
    }
}

#[tokio::test]
async fn a_gate_that_stays_shut_gives_a_reason_per_node() {
    let cluster = cluster(2);
    let cluster_view = view_of(&cluster);
    let log = "couldn't join: No installed keys could decrypt the message";
    let logs = |node: &Node, _: Product| {
        let text = if node.name == "consul-1" { log } else { "" };
        async move { text.to_owned() }.boxed()
    };
    let failure = Gates {
        logs: &logs,
        ..gates(&cluster_view, &[])
    }
    .phase(Phase::ConsulServers)
    .await
    .unwrap_err();
    assert_eq!(failure.reasons.len(), 2);
    assert!(
        failure.reasons[0]
            .text
            .contains("127.0.35.100:8501: connection refused"),
        "{failure}"
    );
    assert_eq!(failure.reasons[0].cause, None);
    assert!(
        failure.reasons[1]
            .cause
            .is_some_and(|cause| cause.text.contains("gossip key")),
        "{failure}"
    );
    let shown = failure.to_string();
    assert!(
        shown.contains("\n  consul-1: request to ") && shown.contains("\n    to do: "),
        "{shown}"
    );
}

#[test]
fn an_alive_member_must_also_reach_the_servers() {
    let members = [
        Member::new("a", MemberStatus::Alive),
        Member::new("b", MemberStatus::Failed),
    ];
    let known = || Ok("10.0.0.1:8300".to_owned());
    let fails = || Err("request to https://x: 500: rpc error making call: EOF".to_owned());
    assert_eq!(judge_agent("s", &members, "a", known()), Ok(()));
    let text = judge_agent("s", &members, "a", fails()).unwrap_err();
    assert!(
        text.starts_with("member alive, but its RPC to the servers fails: request to "),
        "{text}"
    );
    assert_eq!(
        judge_agent("s", &members, "b", known()).unwrap_err(),
        "s sees it as failed"
    );
    assert!(
        judge_agent("s", &members, "c", known())
            .unwrap_err()
            .contains("not among the members that s sees")
    );
    assert!(
        judge_agent("s", &[], "a", known())
            .unwrap_err()
            .contains("token")
    );
}

#[test]
fn a_client_must_be_of_use() {
    let good = NomadNode {
        id: "1".to_owned(),
        name: "a".to_owned(),
        status: "ready".to_owned(),
        scheduling_eligibility: Some("eligible".to_owned()),
        drivers: Some(BTreeMap::from([(
            "raw_exec".to_owned(),
            Driver {
                healthy: true,
                ..Driver::default()
            },
        )])),
        ..NomadNode::default()
    };
    let down = NomadNode {
        status: "down".to_owned(),
        id: "0".to_owned(),
        ..good.clone()
    };
    assert_eq!(
        judge_client(&[down.clone(), good.clone()], "a", true)
            .unwrap()
            .id,
        "1",
        "the former self does not count"
    );
    let drained = NomadNode {
        scheduling_eligibility: Some("ineligible".to_owned()),
        drain: Some(true),
        ..good.clone()
    };
    assert!(
        judge_client(&[drained], "a", true).is_ok(),
        "maintenance is not waited for"
    );
    let cases = [
        (vec![], "has not registered"),
        (vec![down], "sees it as down"),
        (
            vec![NomadNode {
                drivers: None,
                ..good.clone()
            }],
            "no driver raw_exec",
        ),
        (
            vec![NomadNode {
                drivers: Some(BTreeMap::from([("raw_exec".to_owned(), Driver::default())])),
                ..good
            }],
            "not healthy",
        ),
    ];
    for (clients, expected) in cases {
        let text = judge_client(&clients, "a", true).unwrap_err();
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn the_next_restart_waits_for_health_and_tolerance() {
    let cluster = cluster(3);
    let restarted = &cluster.nodes[1];
    let server = |index: usize, healthy, voter, serf: &str| ServerHealth {
        id: index.to_string(),
        name: format!("consul-{index}"),
        leader: index == 0,
        address: format!("127.0.35.{}:8300", 100 + index),
        healthy,
        voter,
        serf_status: serf.to_owned(),
    };
    let health = |healthy, failure_tolerance, own| AutopilotHealth {
        healthy,
        failure_tolerance,
        servers: vec![
            server(0, true, true, "alive"),
            own,
            server(2, true, true, "alive"),
        ],
    };
    let cases = [
        (health(true, 1, server(1, true, true, "alive")), 0, ""),
        (
            health(true, 0, server(1, true, true, "alive")),
            0,
            "could lose",
        ),
        (
            health(false, 1, server(1, true, true, "alive")),
            0,
            "all servers healthy",
        ),
        (health(false, 0, server(1, true, true, "alive")), 1, ""),
        (
            health(true, 1, server(1, false, true, "alive")),
            0,
            "healthy yet",
        ),
        (
            health(true, 1, server(1, true, false, "alive")),
            0,
            "not a voter",
        ),
        (
            health(true, 1, server(1, true, true, "failed")),
            0,
            "as failed",
        ),
        (
            health(true, 1, server(7, true, true, "alive")),
            0,
            "does not know it",
        ),
    ];
    for (health, absent, expected) in cases {
        match judge_health(&health, Product::Consul, restarted, 3, absent) {
            Ok(()) => assert_eq!(expected, "", "{health:?}"),
            Err(text) => assert!(!expected.is_empty() && text.contains(expected), "{text}"),
        }
    }
    let single = AutopilotHealth {
        healthy: true,
        failure_tolerance: 0,
        servers: vec![server(1, true, true, "alive")],
    };
    assert_eq!(
        judge_health(&single, Product::Consul, restarted, 1, 0),
        Ok(()),
        "one server needs no tolerance"
    );
}
