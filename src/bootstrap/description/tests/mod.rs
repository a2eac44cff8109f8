//! Whole descriptions: what they come to, and what is said about wrong ones.

mod extra;
mod features;
mod shipped;

use std::path::{Path, PathBuf};

use super::build::build;
use super::build_context::{BuildContext, Programs, Recorded};
use super::keys;
use super::nodes::ROLES;
use crate::bootstrap::topology::{
    BinarySource, Cluster, Node, ReleaseKey, Role, Runner, Scope, Ssh, Target,
};

/// Programs that a machine is said to have.
struct Said {
    found: &'static [&'static str],
    linux: bool,
}

impl Programs for Said {
    fn find(&self, name: &str) -> Option<PathBuf> {
        self.found
            .contains(&name)
            .then(|| Path::new("/usr/bin").join(name))
    }

    fn check(&self, path: &Path) -> Result<(), String> {
        if path.ends_with("bad") {
            Err("is not executable".to_owned())
        } else {
            Ok(())
        }
    }

    fn run_on_linux(&self) -> bool {
        self.linux
    }
}

const BOTH: Said = Said {
    found: &["consul", "nomad"],
    linux: true,
};

fn read_with(text: &str, programs: &Said) -> Result<Cluster, Vec<String>> {
    read_told(text, programs, Recorded::default(), Scope::All)
}

fn read_again(text: &str, programs: &Said, recorded: Recorded) -> Result<Cluster, Vec<String>> {
    read_told(text, programs, recorded, Scope::All)
}

fn read_for(text: &str, programs: &Said, scope: Scope) -> Result<Cluster, Vec<String>> {
    read_told(text, programs, Recorded::default(), scope)
}

fn read_told(
    text: &str,
    programs: &Said,
    recorded: Recorded,
    scope: Scope,
) -> Result<Cluster, Vec<String>> {
    let mut mistakes = Vec::new();
    let settings = keys::read(Path::new("c.toml"), text, &mut mistakes);
    let context = BuildContext {
        recorded,
        folder: Path::new("/etc/lb"),
        home: Some(Path::new("/home/op")),
        state: Some(PathBuf::from("/etc/lb/c.state")),
        programs,
        scope,
    };
    build(&settings, &context, mistakes)
        .map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect())
}

fn read(text: &str) -> Result<Cluster, Vec<String>> {
    read_with(text, &BOTH)
}

fn good(text: &str) -> Cluster {
    read(text).unwrap_or_else(|mistakes| panic!("{text}\n{mistakes:#?}"))
}

fn names(cluster: &Cluster) -> Vec<&str> {
    cluster
        .nodes
        .iter()
        .map(|node| node.name.as_str())
        .collect()
}

const THREE_LINES: &str = r#"consul_servers = ["10.0.0.11", "10.0.0.12", "10.0.0.13"]
nomad_servers  = ["10.0.0.14", "10.0.0.15", "10.0.0.16"]
nomad_clients  = ["10.0.0.17", "10.0.0.18", "10.0.0.19"]
"#;

#[test]
fn three_lines_are_enough() {
    let cluster = good(THREE_LINES);
    let prefixes = ["consul", "nomad-server", "nomad-client"];
    let nodes: Vec<Node> = (0..9)
        .map(|at| Node {
            name: format!("{}-{}", prefixes[at / 3], at % 3),
            role: ROLES[at / 3].0,
            address: format!("10.0.0.{}", 11 + at).parse().unwrap(),
            ssh: None,
            dynamic_ports: (at >= 6).then_some((20_000, 32_000)),
        })
        .collect();
    let expected = Cluster {
        name: "lb".to_owned(),
        datacenter: "dc1".to_owned(),
        region: "global".to_owned(),
        domain: "consul".to_owned(),
        target: Target::Ssh(Ssh {
            options: Vec::new(),
            sudo: true,
            parallel: 4,
            runner: Runner::Systemd,
        }),
        nodes,
        acl: true,
        raw_exec: true,
        features: crate::bootstrap::topology::Features::default(),
        ca: None,
        consul: BinarySource::File("/usr/bin/consul".into()),
        nomad: Some(BinarySource::File("/usr/bin/nomad".into())),
        telemetry: true,
        extra: crate::bootstrap::topology::Extras::default(),
        network_interface: None,
        certificate_days: 365,
        release_url: "https://releases.hashicorp.com".to_owned(),
        release_key: ReleaseKey {
            fingerprint: "C874011F0AB405110D02105534365D9472D7468F".to_owned(),
            file: None,
            url: "https://www.hashicorp.com/.well-known/pgp-key.txt".to_owned(),
        },
        state: "/etc/lb/c.state".into(),
    };
    assert_eq!(cluster, expected);
}

#[test]
fn nothing_at_all_is_nine_local_nodes() {
    let cluster = good("");
    assert!(cluster.is_local());
    let shown: Vec<String> = cluster
        .nodes
        .iter()
        .map(|node| format!("{} {}", node.name, node.address))
        .collect();
    assert_eq!(shown[0], "consul-0 127.0.1.11");
    assert_eq!(shown[3], "nomad-server-0 127.0.1.14");
    assert_eq!(shown[8], "nomad-client-2 127.0.1.19");
    assert_eq!(shown.len(), 9);
    assert_eq!(cluster.network_interface.as_deref(), Some("lo"));
    assert_eq!(
        cluster,
        good("target = \"local\"\nconsul_servers = 3\nnomad_servers = 3\nnomad_clients = 3")
    );
}

#[test]
fn counts_and_lists_can_be_mixed_on_the_local_target() {
    let text = "consul_servers = 1\nnomad_servers = [\"127.0.9.1\"]\nnomad_clients = [{ name = \"w\" }, \"127.0.9.2\"]\n\
                [local]\nnetwork = \"127.3.0.0/16\"";
    let cluster = good(text);
    let shown: Vec<String> = cluster
        .nodes
        .iter()
        .map(|node| format!("{} {}", node.name, node.address))
        .collect();
    assert_eq!(
        shown,
        [
            "consul-0 127.3.0.11",
            "nomad-server-0 127.0.9.1",
            "w 127.3.0.13",
            "nomad-client-1 127.0.9.2"
        ]
    );
    assert_eq!(
        names(&good(
            "consul_servers = 1\nnomad_servers = 0\nnomad_clients = 0"
        )),
        ["consul-0"]
    );
    // Consul agents on workers do without Nomad's servers.
    let alone = read_for(
        "consul_servers = 1\nnomad_servers = 0\nnomad_clients = 1",
        &BOTH,
        Scope::ConsulOnly,
    );
    assert_eq!(names(&alone.unwrap()), ["consul-0", "nomad-client-0"]);
    assert_eq!(good("nomad_clients = 0").nodes.len(), 6);
}

#[test]
fn local_clients_share_the_ports_below_the_ephemeral_ones() {
    for clients in [1, 3, 12, 200, 900] {
        let text = format!("nomad_clients = {clients}\n[local]\nnetwork = \"127.1.0.0/16\"");
        let cluster = good(&text);
        let mut last = 19_999;
        for client in cluster.of_role(Role::NomadClient) {
            let (first, end) = client.dynamic_ports.unwrap();
            assert!(
                first > last && end >= first + 10 && end < 32_768,
                "{clients}: {first}-{end} after {last}"
            );
            last = end;
        }
        assert!(
            cluster
                .of_role(Role::NomadServer)
                .all(|node| node.dynamic_ports.is_none())
        );
    }
    assert_eq!(good("").nodes[7].dynamic_ports, Some((21_000, 21_999)));
}

#[test]
fn ssh_words_come_in_order() {
    let keys = "[ssh]\nuser = \"root\"\nport = 2222\nidentity_file = \"key\"\njump = \"b\"\noptions = [\"-4\"]\n\
                parallel = 9\nrunner = \"process\"\n";
    let Target::Ssh(ssh) = good(&format!("{THREE_LINES}{keys}")).target else {
        panic!()
    };
    assert_eq!(
        ssh.options,
        [
            "-l",
            "root",
            "-p",
            "2222",
            "-i",
            "/etc/lb/key",
            "-J",
            "b",
            "-4"
        ]
    );
    assert_eq!(
        (ssh.sudo, ssh.parallel, ssh.runner),
        (false, 9, Runner::Process)
    );
    let Target::Ssh(ssh) = good(&format!(
        "{THREE_LINES}[ssh]\nuser = \"op\"\nidentity_file = \"~/k\""
    ))
    .target
    else {
        panic!()
    };
    assert_eq!(
        (ssh.options.join(" "), ssh.sudo),
        ("-l op -i /home/op/k".to_owned(), true)
    );
    let Target::Ssh(ssh) =
        good(&format!("{THREE_LINES}[ssh]\nuser = \"root\"\nsudo = true")).target
    else {
        panic!()
    };
    assert!(ssh.sudo);
}

#[test]
fn tables_and_ipv6_describe_nodes_too() {
    let cluster = good(
        r#"
        consul_servers = [{ name = "c", address = "fd00::1", ssh = "host-1" }]
        nomad_servers = ["fd00::2"]
        nomad_clients = [{ address = "fd00::3", dynamic_ports = "30000-30999" }]
        "#,
    );
    assert_eq!(names(&cluster), ["c", "nomad-server-0", "nomad-client-0"]);
    assert_eq!(cluster.nodes[0].ssh.as_deref(), Some("host-1"));
    assert_eq!(cluster.nodes[2].dynamic_ports, Some((30_000, 30_999)));
    assert!(!cluster.is_local());
}

#[test]
fn programs_are_named_found_or_fetched() {
    let file = |path: &str| Some(BinarySource::File(path.into()));
    let local = good("[consul]\nbinary = \"bin/consul\"\n[nomad]\nbinary = \"/n\"");
    assert_eq!(
        (Some(local.consul), local.nomad),
        (file("/etc/lb/bin/consul"), file("/n"))
    );
    let remote = format!("{THREE_LINES}[consul]\nversion = \"1.8.7\"\n");
    let cluster = read_with(
        &remote,
        &Said {
            found: &["nomad"],
            linux: false,
        },
    )
    .unwrap();
    assert_eq!(cluster.consul, BinarySource::Release("1.8.7".to_owned()));
    assert_eq!(cluster.nomad, None, "a nomad for another system is none");
    assert!(
        super::no_nomad(&cluster).contains("version = "),
        "{}",
        super::no_nomad(&cluster)
    );
    let cluster = read_with(
        "",
        &Said {
            found: &["consul"],
            linux: false,
        },
    )
    .unwrap();
    assert_eq!(
        (Some(cluster.consul.clone()), cluster.nomad.clone()),
        (file("/usr/bin/consul"), None)
    );
    let said = super::no_nomad(&cluster);
    for word in ["--nomad-bin", "--only consul", "PATH"] {
        assert!(said.contains(word), "{said}");
    }
    assert!(!said.contains("version"), "{said}");
}

/// Descriptions with one mistake, and what is said of it.
const MISTAKES: &[(&str, &str)] = &[
    (
        "consul_servers = 2",
        "c.toml:1: consul_servers = 2 makes 2 servers: an even number outlives no more failures than 1; take 1, 3 or 5",
    ),
    (
        "consul_servers = 4",
        "c.toml:1: consul_servers = 4 makes 4 servers: an even number outlives no more failures than 3; take 1, 3 or 5",
    ),
    (
        "nomad_servers = 7",
        "c.toml:1: nomad_servers = 7 makes 7 servers: each voter more slows every write down; take 1, 3 or 5",
    ),
    (
        "consul_servers = 0",
        "c.toml:1: consul_servers = 0 names no node; a cluster needs 1, 3 or 5 Consul servers; 3 outlive the loss of one",
    ),
    (
        "consul_servers = []",
        "c.toml:1: consul_servers = [] names no node; ",
    ),
    (
        "consul_servers = -1",
        "c.toml:1: consul_servers = -1 is not a number of nodes; ",
    ),
    (
        "consul_servers = 1.5",
        "c.toml:1: consul_servers = 1.5 is neither a list nor a number; ",
    ),
    (
        "consul_servers = [3]",
        "c.toml:1: consul_servers[0] = 3 is not a node; write \"10.0.0.11\", or { name",
    ),
    (
        "nomad_servers = 0",
        "c.toml:1: nomad_servers = 0 names no node, and nomad_clients has 3; clients need servers",
    ),
    (
        "nomad_clients = 9223372036854775807",
        "c.toml:1: nomad_clients = 9223372036854775807 makes 9223372036854775813 nodes in all; 1000 are",
    ),
    (
        "target = \"ssh\"\nconsul_servers = 3\nnomad_servers = 0",
        "c.toml:2: consul_servers = 3 is a number, and machines have to be named; list the",
    ),
    (
        "target = \"ssh\"",
        "configuration: consul_servers names no node; ",
    ),
    (
        "target = \"shh\"",
        "c.toml:1: target = \"shh\" is not one of the known words; write one of: local, ssh",
    ),
    (
        "target = \"local\"\nconsul_servers = [\"10.0.0.1\"]",
        "c.toml:2: consul_servers[0] = \"10.0.0.1\" is not in 127.0.0.0/8, where",
    ),
    (
        "consul_servers = [\"10.0.0.1\"]\nnomad_servers = [\"127.0.0.2\"]",
        "c.toml:2: nomad_servers[0] = \"127.0.0.2\" is a loopback address, on",
    ),
    (
        "consul_servers = [\"a.example\"]",
        "c.toml:1: consul_servers[0] = \"a.example\" is not an IP address; agents bind an address, not a name",
    ),
    (
        "consul_servers = [\n  { address = \"10.0.0.1/8\" },\n]",
        "c.toml:2: consul_servers[0].address = \"10.0.0.1/8\" is not an IP address",
    ),
    (
        "target = \"ssh\"\nconsul_servers = [{ name = \"a\" }]",
        "c.toml:2: consul_servers[0] = { … } has no address; add address = ",
    ),
    (
        "consul_servers = [\"0.0.0.0\"]",
        "c.toml:1: consul_servers[0] = \"0.0.0.0\" is not the address of a machine; ",
    ),
    (
        "consul_servers = [\"224.0.0.1\"]",
        "c.toml:1: consul_servers[0] = \"224.0.0.1\" is a multicast address; ",
    ),
    (
        "consul_servers = [\"255.255.255.255\"]",
        "c.toml:1: consul_servers[0] = \"255.255.255.255\" is the broadcast address; ",
    ),
    (
        "consul_servers = [\"ff02::1\"]",
        "c.toml:1: consul_servers[0] = \"ff02::1\" is a multicast address; ",
    ),
    (
        "consul_servers = [\"fe80::1\"]",
        "c.toml:1: consul_servers[0] = \"fe80::1\" is link-local, and means nothing",
    ),
    (
        "consul_servers = [\"::ffff:10.0.0.1\"]",
        "c.toml:1: consul_servers[0] = \"::ffff:10.0.0.1\" is an IPv4 address in disguise; ",
    ),
    (
        "consul_servers = [\"10.0.0.1\"]\nnomad_servers = [\"fd00::1\"]",
        "c.toml:2: nomad_servers[0] = \"fd00::1\" is IPv6, and nomad-server-0 has the",
    ),
    (
        "consul_servers = [\"10.0.0.1\"]\nnomad_servers = [\"10.0.0.1\"]",
        "c.toml:2: nomad_servers[0] = \"10.0.0.1\" is the address of consul-0, too; ",
    ),
    (
        "consul_servers = [{ name = \"nomad-client-1\" }]",
        "configuration: nomad_clients is called nomad-client-1, and so is consul_servers[0]; ",
    ),
    (
        "consul_servers = [{ name = \"Bad\" }]",
        "c.toml:1: consul_servers[0].name = \"Bad\" is not a lower-case DNS label; ",
    ),
    (
        "consul_servers = [{ nmae = \"a\" }]",
        "c.toml:1: consul_servers[0].nmae = \"a\" is not a known key; did you mean name?",
    ),
    (
        "consul_servers = [{ color = \"a\" }]",
        "c.toml:1: consul_servers[0].color = \"a\" is not a known key; a node has name, address, ssh, dynamic_ports",
    ),
    (
        "consul_servers = [{ name = 3 }]",
        "c.toml:1: consul_servers[0].name = 3 is not a text; write a text in quotes",
    ),
    (
        "consul_servers = [{ ssh = \"a\" }]",
        "c.toml:1: consul_servers[0].ssh = { … } is not for nodes of the local target; ",
    ),
    (
        "consul_servers = [{ address = \"10.0.0.1\", ssh = \"-oProxyCommand=x\" }]",
        "c.toml:1: consul_servers[0].ssh = \"-oProxyCommand=x\" begins with -",
    ),
    (
        "consul_servers = [{ dynamic_ports = \"20000-30000\" }]",
        "c.toml:1: consul_servers[0].dynamic_ports = { … } is for Nomad clients; ",
    ),
    (
        "nomad_clients = [{ dynamic_ports = \"32000-20000\" }]",
        "c.toml:1: nomad_clients[0].dynamic_ports = \"32000-20000\" is not a range of ports above 1023; ",
    ),
    (
        "nomad_clients = [{ dynamic_ports = \"4000-9000\" }]",
        "c.toml:1: nomad_clients[0].dynamic_ports = \"4000-9000\" holds port 4646, which",
    ),
    (
        "nomad_clients = [{ }, { dynamic_ports = \"20500-21500\" }]",
        "c.toml:1: nomad_clients[1].dynamic_ports = { … } of nomad-client-1 overlaps with that of nomad-client-0 on the same machine; ",
    ),
    (
        "[local]\nnetwork = \"127.0.1.0/28\"",
        "c.toml:2: local.network = \"127.0.1.0/28\" is too small: 127.0.1.0/28 has room for 4 nodes from .11 on, and 9 are described; ",
    ),
    (
        "[local]\nnetwork = \"10.0.1.0/24\"",
        "c.toml:2: local.network = \"10.0.1.0/24\" is not within 127.0.0.0/8; ",
    ),
    (
        "[local]\nnetwork = \"127.0.1.0\"",
        "c.toml:2: local.network = \"127.0.1.0\" is not an IPv4 network; write it like \"127.0.1.0/24\"",
    ),
    (
        "nomad_clients = 300",
        "configuration: local.network is too small: 127.0.1.0/24 has room for 244 nodes from .11 on, and 306 are described; ",
    ),
    (
        "name = \"My cluster\"",
        "c.toml:1: name = \"My cluster\" is not a lower-case DNS label; ",
    ),
    (
        "datacenter = \"DC1\"",
        "c.toml:1: datacenter = \"DC1\" has characters other than lower-case letters, digits, - and _; ",
    ),
    (
        "region = \"eu.west\"",
        "c.toml:1: region = \"eu.west\" has characters other than",
    ),
    (
        "domain = \"consul.\"",
        "c.toml:1: domain = \"consul.\" is not a lower-case DNS domain; ",
    ),
    ("acl = 1", "c.toml:1: acl = 1 is neither true nor false; "),
    ("ca = 1", "c.toml:1: ca = 1 is not a table; "),
    (
        "ca = { cert_file = \"c.pem\" }",
        "c.toml:1: ca = { … } lacks key_file; ",
    ),
    (
        "ca = { cert_file = \"c.pem\", key_file = \"k.pem\", cert = 1 }",
        "c.toml:1: ca.cert = 1 is not a known key; ",
    ),
    (
        "ca = { cert_file = \"c.pem\", key_file = 1 }",
        "c.toml:1: ca.key_file = 1 is not a text; ",
    ),
    (
        "[certificates]\ndays = 6",
        "c.toml:2: certificates.days = 6 is too small; write a whole number from 7 to 1825",
    ),
    (
        "[certificates]\ndays = \"365\"",
        "c.toml:2: certificates.days = \"365\" is a text, not a number; write a whole number from 7 to 1825",
    ),
    (
        "[nomad]\nnetwork_interface = \"{{ x }}\"",
        "c.toml:2: nomad.network_interface = \"{{ x }}\" is not the name of a network interface; ",
    ),
    (
        "[consul]\nversion = \"1.8.7\"",
        "c.toml:2: consul.version = \"1.8.7\" is for machines behind ssh: the local target runs the binaries of this machine; ",
    ),
    (
        "[consul]\nversion = \"1.8.7\"\nbinary = \"/b\"",
        "c.toml:2: consul.version = \"1.8.7\" stands beside consul.binary, and only one",
    ),
    (
        "[nomad]\nbinary = \"bad\"",
        "c.toml:2: nomad.binary = \"bad\" is not executable; name the nomad program",
    ),
    (
        "[ssh]\nuser = \"a b\"",
        "c.toml:2: ssh.user = \"a b\" has a space or control character; ",
    ),
    (
        "[ssh]\nparallel = 0",
        "c.toml:2: ssh.parallel = 0 is too small; write a whole number from 1 to 64",
    ),
    (
        "[releases]\nurl = \"releases.hashicorp.com\"",
        "c.toml:2: releases.url = \"releases.hashicorp.com\" is not an https:// URL; ",
    ),
    (
        "name = 3",
        "c.toml:1: name = 3 is not a text; write a text in quotes",
    ),
    (
        "name = \"\"",
        "c.toml:1: name = \"\" is empty; use lower-case",
    ),
    (
        "state = \"\"",
        "c.toml:1: state = \"\" is not a path; write the path of a file or folder",
    ),
    (
        "[ssh]\noptions = \"-4\"",
        "c.toml:2: ssh.options = \"-4\" is not a list; write [\"…\", \"…\"]",
    ),
    (
        "[ssh]\noptions = [\"-4\", 6]",
        "c.toml:2: ssh.options = [\"-4\", 6] is not a list of texts; write a list of texts, like",
    ),
    (
        "[ssh]\nport = 70000",
        "c.toml:2: ssh.port = 70000 is too large; write a whole number from 1 to 65535",
    ),
    (
        "[ssh]\nrunner = \"sytemd\"",
        "c.toml:2: ssh.runner = \"sytemd\" is not one of the known words; did you mean systemd? write",
    ),
    (
        "nmae = 1",
        "c.toml:1: nmae is not a known key; did you mean name?",
    ),
    (
        "\nconsul_server = 3",
        "c.toml:2: consul_server is not a known key; did you mean consul_servers?",
    ),
    (
        "[ssh]\nusr = 1",
        "c.toml:2: ssh.usr is not a known key; did you mean ssh.user?",
    ),
    (
        "[ssh]\nacl = true",
        "c.toml:2: ssh.acl is not a known key; acl belongs at the top of the file, above the first [section]",
    ),
    (
        "jump = \"a\"",
        "c.toml:1: jump is not a known key; did you mean ssh.jump?",
    ),
    (
        "zzzz = 1",
        "c.toml:1: zzzz is not a known key; config/cluster.toml lists every key",
    ),
    (
        "[certificate]\ndays = 1",
        "c.toml:1: certificate is not a known section; did you mean [certificates]?",
    ),
    (
        "[zzzz]",
        "c.toml:1: zzzz is not a known section; config/cluster.toml lists every key",
    ),
    (
        "consul = \"1.8.7\"",
        "c.toml:1: consul is a section, not a value; write [consul] on a line of its own",
    ),
    (
        "[releases]\nfingerprint = \"72D7468F\"",
        "c.toml:2: releases.fingerprint = \"72D7468F\" is not a fingerprint; write its 40",
    ),
];

#[test]
fn every_kind_of_mistake_is_told() {
    let mut unexpected = Vec::new();
    for (text, expected) in MISTAKES {
        let said = read(text).expect_err(text);
        let advised = said[0]
            .split_once("; ")
            .is_some_and(|(_, advice)| !advice.is_empty());
        if said.len() != 1 || !said[0].starts_with(expected) || !advised {
            unexpected.push(format!("{text}\n  expected {expected}\n  said {said:#?}"));
        }
    }
    assert!(unexpected.is_empty(), "{}", unexpected.join("\n"));
}

#[test]
fn syntax_errors_have_their_line_and_nothing_else_is_guessed() {
    let said = read("nmae = 1\nacl = \n").unwrap_err();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("c.toml:2: "), "{said:?}");
}

#[test]
fn strange_text_does_no_harm() {
    for text in [
        "\u{feff}",
        "= = =",
        "[[ssh]]",
        "a.b.c = 1",
        "[ssh",
        "consul_servers = [[[[]]]]",
        "\0",
    ] {
        drop(read(text));
    }
}

#[test]
fn a_version_of_a_release_is_checked_on_the_ssh_target() {
    let said = read(&format!("{THREE_LINES}[consul]\nversion = \"v1.8\"")).unwrap_err();
    assert_eq!(
        said,
        [
            "c.toml:5: consul.version = \"v1.8\" is not a version; write it in full, like \"1.22.1\" and without v"
        ]
    );
}

#[test]
fn a_missing_consul_is_told_with_the_ways_to_name_one() {
    let said = read_with(
        "",
        &Said {
            found: &["nomad"],
            linux: true,
        },
    )
    .unwrap_err();
    assert_eq!(
        said,
        [
            "configuration: consul is not on PATH: there is no consul program to run; \
          install it, or name it with --consul-bin FILE or binary = \"FILE\" below [consul]"
        ]
    );
    for programs in [
        Said {
            found: &[],
            linux: true,
        },
        Said {
            found: &["consul"],
            linux: false,
        },
    ] {
        let said = read_with(THREE_LINES, &programs).unwrap_err();
        assert!(
            said.len() == 1 && said[0].contains("for the nodes to fetch it"),
            "{said:?}"
        );
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let text = "nmae = 1\nconsul_servers = 2\nacl = 3\n[ssh]\nport = 0\nacl = true\n[consul]\nversion = 7\nbinary = \"x\"\n[x]\n";
    let said = read(text).unwrap_err();
    assert_eq!(said.len(), 8, "{said:#?}");
}

#[test]
fn what_is_left_unsaid_stays_as_it_was() {
    let addresses = |cluster: &Cluster| {
        cluster
            .nodes
            .iter()
            .map(|node| (node.name.clone(), node.address))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let before = good("consul_servers = 1\nacl = true\n[local]\nnetwork = \"127.0.9.0/24\"\n");
    let recorded = Recorded {
        acl: Some(true),
        addresses: addresses(&before),
        ..Recorded::default()
    };
    let again = |text: &str| read_again(text, &BOTH, recorded.clone()).unwrap();
    let same = again("consul_servers = 1\n");
    assert_eq!((addresses(&same), same.acl), (addresses(&before), true));
    assert!(!again("consul_servers = 1\nacl = false\n").acl);
    // ACLs are on where machines are made anew, and stay off where they were.
    let without = Recorded {
        acl: Some(false),
        ..Recorded::default()
    };
    assert!(good(THREE_LINES).acl && !good("").acl);
    assert!(!read_again(THREE_LINES, &BOTH, without).unwrap().acl);
    // Others come without moving those that are there.
    let more = addresses(&again("nomad_clients = 4\n"));
    for (name, address) in addresses(&before) {
        assert_eq!(more[&name], address, "{name}");
    }
    let new = ["consul-1", "consul-2", "nomad-client-3"].map(|name| more[name].to_string());
    assert_eq!(new, ["127.0.9.18", "127.0.9.19", "127.0.9.20"]);
    // What is said wins, and is refused later where it cannot be.
    let moved = again("consul_servers = 1\n[local]\nnetwork = \"127.0.8.0/24\"\n");
    assert_eq!(moved.nodes[0].address.to_string(), "127.0.8.11");
}

#[test]
fn programs_that_were_used_before_serve_where_none_is_found() {
    let used = |path: &str| {
        let sources = ["consul", "nomad"].map(|name| {
            (
                name.to_owned(),
                BinarySource::File(format!("{path}{name}").into()),
            )
        });
        Recorded {
            sources: sources.into(),
            ..Recorded::default()
        }
    };
    let found = |told: &Said, recorded: Recorded| {
        let cluster = read_again("", told, recorded)?;
        Ok((cluster.consul, cluster.nomad))
    };
    let file = |path: &str| BinarySource::File(path.into());
    let none = Said {
        found: &[],
        linux: true,
    };
    let consul = Said {
        found: &["consul"],
        linux: true,
    };
    assert_eq!(
        found(&none, used("/opt/")),
        Ok((file("/opt/consul"), Some(file("/opt/nomad"))))
    );
    assert_eq!(
        found(&consul, used("/opt/")),
        Ok((file("/usr/bin/consul"), Some(file("/opt/nomad"))))
    );
    // One that is gone is as good as none.
    let gone = Recorded {
        sources: [("nomad".to_owned(), file("/opt/bad"))].into(),
        ..Recorded::default()
    };
    assert_eq!(
        found(&consul, gone.clone()),
        Ok((file("/usr/bin/consul"), None))
    );
    assert!(
        found(&none, gone)
            .is_err_and(|said: Vec<String>| said[0].contains("consul is not on PATH"))
    );
}
