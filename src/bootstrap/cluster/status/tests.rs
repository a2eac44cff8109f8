use serde_json::{Value, json};

use super::*;
use crate::bootstrap::topology::{BinarySource, ReleaseKey, Target};

const DAY: i64 = 86_400;

fn cluster() -> Cluster {
    let node = |name: &str, role, last: u8| Node {
        name: name.to_owned(),
        role,
        address: [127, 0, 35, last].into(),
        ssh: None,
        dynamic_ports: None,
    };
    Cluster {
        name: "test".to_owned(),
        datacenter: "dc1".to_owned(),
        region: "global".to_owned(),
        domain: "consul".to_owned(),
        target: Target::Local,
        nodes: vec![
            node("consul-0", Role::ConsulServer, 11),
            node("nomad-server-0", Role::NomadServer, 14),
            node("nomad-client-0", Role::NomadClient, 17),
        ],
        acl: false,
        raw_exec: true,
        features: crate::bootstrap::topology::Features::default(),
        ca: None,
        consul: BinarySource::File("/usr/bin/consul".into()),
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
        state: "/nowhere".into(),
    }
}

fn peer(node: &str, address: &str) -> RaftPeer {
    RaftPeer {
        id: "1".to_owned(),
        node: node.to_owned(),
        address: address.to_owned(),
        voter: true,
        leader: true,
    }
}

fn members(json: Value) -> Vec<Member> {
    serde_json::from_value(json).unwrap()
}

fn consul() -> ServerView {
    let member = |name: &str, status: u8| json!({"Name": name, "Status": status, "Tags": {"build": "1.8.7:abc"}});
    ServerView {
        product: Product::Consul,
        members: Ok(members(json!([
            member("consul-0", 1),
            member("nomad-server-0", 1),
            member("nomad-client-0", 4),
        ]))),
        clients: Ok(Vec::new()),
        peers: Some(vec![peer("consul-0", "127.0.35.11:8300")]),
        leader: Some("consul-0".to_owned()),
    }
}

fn nomad() -> ServerView {
    let client = |status: &str, id: &str| NomadNode {
        id: id.to_owned(),
        name: "nomad-client-0".to_owned(),
        status: status.to_owned(),
        scheduling_eligibility: Some("eligible".to_owned()),
        drain: Some(false),
        version: Some("2.0.5".to_owned()),
        ..NomadNode::default()
    };
    ServerView {
        product: Product::Nomad,
        members: Ok(members(json!([
            {"Name": "nomad-server-0.global", "Status": "alive", "Tags": {"build": "2.0.5"}},
        ]))),
        clients: Ok(vec![client("down", "1"), client("ready", "2")]),
        peers: Some(vec![peer("nomad-server-0", "127.0.35.14:4647")]),
        leader: Some("nomad-server-0".to_owned()),
    }
}

fn well(days: i64) -> AgentView {
    AgentView {
        trouble: None,
        answers: true,
        certificate_end: Some(days * DAY + 5),
    }
}

#[test]
fn every_kind_of_node_is_told() {
    let cluster = cluster();
    let (consul, nomad) = (consul(), nomad());
    let judge = |index: usize, own, of_nomad: Option<AgentView>| {
        judge(
            &cluster,
            &cluster.nodes[index],
            (&consul, own),
            of_nomad.map(|own| (&nomad, own)),
            0,
            30,
        )
    };
    let server = judge(0, well(365), None);
    assert_eq!(
        (
            server.consul.status.as_str(),
            server.consul.version.as_deref()
        ),
        ("alive", Some("1.8.7"))
    );
    assert_eq!(
        (
            server.consul.voter,
            server.consul.leader,
            server.consul.certificate_days
        ),
        (Some(true), Some(true), Some(365))
    );
    assert_eq!(server.problems, Vec::<String>::new());

    let client = judge(2, well(365), Some(well(29)));
    let own = client.nomad.unwrap();
    assert_eq!(
        (own.status.as_str(), own.eligibility.as_deref(), own.drain),
        ("ready", Some("eligible"), Some(false))
    );
    assert_eq!(client.problems.len(), 2, "{:?}", client.problems);
    assert_eq!(client.problems[0], "consul: failed");
    assert!(
        client.problems[1].contains("nomad-client-0 serves ends in 29 days"),
        "{:?}",
        client.problems
    );

    let expired = judge(
        1,
        AgentView {
            certificate_end: Some(-1),
            ..well(0)
        },
        Some(well(30)),
    );
    assert_eq!(expired.consul.certificate_days, Some(-1));
    assert!(
        expired.problems[0].contains("has expired"),
        "{:?}",
        expired.problems
    );
}

#[test]
fn what_nobody_can_tell_is_unknown() {
    let cluster = cluster();
    let dead = ServerView {
        members: Err("refused".to_owned()),
        peers: None,
        leader: None,
        ..consul()
    };
    let own = AgentView {
        trouble: Some("does not respond: refused".to_owned()),
        answers: false,
        certificate_end: None,
    };
    let node = judge(&cluster, &cluster.nodes[0], (&dead, own), None, 0, 30);
    assert_eq!(
        node.consul,
        AgentStatus {
            status: "unknown".to_owned(),
            ..AgentStatus::default()
        }
    );
    let problems = general_problems(&cluster, &dead);
    assert_eq!(
        problems,
        [
            "consul: no server tells the members: refused",
            "consul: no server leads"
        ]
    );
}

#[test]
fn a_peer_that_is_not_described_is_a_problem() {
    let mut told = consul();
    told.peers = Some(vec![
        peer("consul-0", "127.0.35.11:8300"),
        peer("(unknown)", "10.9.9.9:8300"),
    ]);
    assert_eq!(
        general_problems(&cluster(), &told),
        ["consul: raft peer (unknown) (10.9.9.9:8300) is not in the description"]
    );
}

#[test]
fn tables_are_as_people_know_them() {
    let cluster = cluster();
    let mut status = ClusterStatus::default();
    for (node, with_nomad) in cluster.nodes.iter().zip([false, true, true]) {
        let (consul, nomad) = (consul(), nomad());
        let of_nomad = with_nomad.then(|| (&nomad, well(100)));
        status
            .nodes
            .push(judge(&cluster, node, (&consul, well(365)), of_nomad, 0, 30));
    }
    let expected = "\
Consul
  Node            Address      Status  Type    Voter  Leader  Build  Certificate
  consul-0        127.0.35.11  alive   server  yes    yes     1.8.7  365 days
  nomad-server-0  127.0.35.14  alive   client  -      -       1.8.7  365 days
  nomad-client-0  127.0.35.17  failed  client  -      -       1.8.7  365 days

Nomad servers
  Node            Address      Status  Voter  Leader  Build  Certificate
  nomad-server-0  127.0.35.14  alive   yes    yes     2.0.5  100 days

Nomad clients
  Node            Address      Status  Eligibility  Drain  Build  Certificate
  nomad-client-0  127.0.35.17  ready   eligible     no     2.0.5  100 days

Degraded:
  nomad-client-0: consul: failed
";
    assert_eq!(render(&status), expected);
    for node in &mut status.nodes {
        node.problems.clear();
    }
    assert!(render(&status).ends_with("\nAll is well.\n"));
}

#[test]
fn a_ca_that_ends_soon_is_a_problem() {
    for (days, problem) in [
        (31, None),
        (30, None),
        (
            29,
            Some("the CA ends in 29 days; run `lb bootstrap rotate-certs --ca`"),
        ),
        (
            1,
            Some("the CA ends in 1 day; run `lb bootstrap rotate-certs --ca`"),
        ),
        (
            -1,
            Some("the CA has expired; run `lb bootstrap rotate-certs --ca`"),
        ),
    ] {
        let mut status = ClusterStatus::default();
        status.judge_ca(days, 30);
        assert_eq!(status.problems.first().map(String::as_str), problem);
        assert_eq!(
            (status.degraded, status.ca_days),
            (problem.is_some(), Some(days))
        );
    }
}
