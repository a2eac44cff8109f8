//! Whole nodes against the files of `tests/fixtures/bootstrap`, and against the real programs' own
//! validators.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;
use crate::bootstrap::security::secrets::Secret;
use crate::bootstrap::topology::{Features, PerProduct, ReleaseKey, Ssh};

const OLD: Version = Version::new(1, 8, 7);
const UI_BLOCK: Version = Version::new(1, 9, 0);
const TLS_BLOCK: Version = Version::new(1, 13, 9);
const NEW: Version = Version::new(1, 22, 0);
const NOMAD: Version = Version::new(2, 0, 6);

fn cluster(local: bool, acl: bool) -> Cluster {
    let network = if local { "127.0.33" } else { "10.0.0" };
    let roles = [
        (Role::ConsulServer, "consul"),
        (Role::NomadServer, "nomad-server"),
        (Role::NomadClient, "nomad-client"),
    ];
    let nodes = roles.iter().enumerate().flat_map(|(group, (role, name))| {
        (0..3u16).map(move |number| {
            let place = u16::try_from(group).unwrap() * 3 + number;
            let first = 20_000 + number * 1000;
            Node {
                name: format!("{name}-{number}"),
                role: *role,
                address: format!("{network}.{}", 11 + place).parse().unwrap(),
                ssh: None,
                dynamic_ports: (local && *role == Role::NomadClient)
                    .then_some((first, first + 999)),
            }
        })
    });
    let ssh = Ssh {
        options: Vec::new(),
        sudo: true,
        parallel: 4,
        runner: Runner::Systemd,
    };
    let file = |path: &str| BinarySource::File(PathBuf::from(path));
    Cluster {
        name: "test".into(),
        datacenter: "dc1".into(),
        region: "global".into(),
        domain: "consul".into(),
        target: if local {
            Target::Local
        } else {
            Target::Ssh(ssh)
        },
        nodes: nodes.collect(),
        acl,
        raw_exec: true,
        features: crate::bootstrap::topology::Features::default(),
        ca: None,
        consul: if local {
            file("/usr/bin/consul")
        } else {
            BinarySource::Release("1.22.0".into())
        },
        nomad: Some(if local {
            file("/usr/bin/nomad")
        } else {
            BinarySource::Release("2.0.5".into())
        }),
        telemetry: true,
        extra: crate::bootstrap::topology::Extras::default(),
        network_interface: None,
        certificate_days: 365,
        release_url: "https://releases.example.com".into(),
        release_key: ReleaseKey {
            fingerprint: "A".repeat(40),
            file: None,
            url: String::new(),
        },
        state: "/home/op/state".into(),
    }
}

fn pair(name: &str) -> Pair {
    Pair {
        cert: format!("(certificate of {name})\n"),
        key: Secret::new(format!("(key of {name})\n")),
    }
}

/// 32 bytes in base64, as the programs check.
fn gossip(letter: &str) -> Secret {
    Secret::new(
        format!("{}=", letter.repeat(43).replace(|_: char| true, "A")).replacen('A', letter, 1),
    )
}

fn shared(acl: bool) -> Shared {
    let token = |text: &str| acl.then(|| Secret::new(text));
    Shared {
        trusted: PerProduct {
            consul: "(CA of Consul)\n".into(),
            nomad: "(CA of Nomad)\n".into(),
        },
        consul_gossip: gossip("C"),
        nomad_gossip: gossip("N"),
        lb: pair("lb"),
        acl_open: false,
        nomad_consul_token: token("11111111-1111-1111-1111-111111111111"),
        lb_consul_token: token("22222222-2222-2222-2222-222222222222"),
    }
}

fn versions(consul: Version) -> Versions {
    Versions {
        consul,
        nomad: Some(NOMAD),
        lb: Some("/usr/local/bin/lb".into()),
        privileged: true,
    }
}

fn rendered(cluster: &Cluster, name: &str, consul: Version) -> NodeSpec {
    let found = cluster.nodes.iter().find(|node| node.name == name).unwrap();
    let nomad = |name| (found.role != Role::ConsulServer).then(|| pair(name));
    let pairs = NodePairs {
        consul: pair("consul"),
        nomad: nomad("nomad"),
        nomad_at_consul: nomad("nomad at consul"),
    };
    node(
        cluster,
        found,
        &pairs,
        &shared(cluster.acl),
        &versions(consul),
        Scope::All,
    )
}

/// The whole node as text.
fn picture(spec: &NodeSpec) -> String {
    let mut out = String::new();
    let users: Vec<&str> = spec.users.iter().map(|user| user.name()).collect();
    let _ = writeln!(out, "users: {users:?}");
    for directory in &spec.directories {
        let _ = writeln!(
            out,
            "directory: {} {:o} {}",
            directory.path,
            directory.mode,
            directory.owner.name()
        );
    }
    for binary in &spec.binaries {
        let _ = writeln!(
            out,
            "program: {} at {} from {:?}",
            binary.name, binary.path, binary.source
        );
    }
    if !spec.packages.is_empty() {
        let _ = writeln!(out, "packages: {:?}", spec.packages);
    }
    for daemon in &spec.daemons {
        let (command, user) = (daemon.command.join(" "), daemon.user.name());
        let _ = writeln!(
            out,
            "daemon: {command} (as {user}, keeps children: {})",
            daemon.keeps_children
        );
    }
    for file in &spec.files {
        let secret = if file.secret { " secret" } else { "" };
        let _ = writeln!(
            out,
            "\n=== {} {:o} {} {:?}{secret}",
            file.path,
            file.mode,
            file.owner.name(),
            file.effect
        );
        out.push_str(std::str::from_utf8(&file.content).unwrap());
    }
    out
}

fn text<'a>(spec: &'a NodeSpec, end: &str) -> Option<&'a str> {
    let file = spec.files.iter().find(|file| file.path.ends_with(end))?;
    Some(std::str::from_utf8(&file.content).unwrap())
}

#[test]
fn nodes_are_as_in_the_fixtures() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bootstrap");
    for (file, local, acl, node, consul) in [
        ("ssh-consul-server-1.8", false, false, "consul-1", OLD),
        (
            "ssh-nomad-server-acl-1.22",
            false,
            true,
            "nomad-server-0",
            NEW,
        ),
        (
            "ssh-nomad-client-acl-1.22",
            false,
            true,
            "nomad-client-2",
            NEW,
        ),
        (
            "local-consul-server-acl-1.13",
            true,
            true,
            "consul-0",
            TLS_BLOCK,
        ),
        (
            "ssh-nomad-client-features-1.22",
            false,
            false,
            "nomad-client-0",
            NEW,
        ),
        ("local-nomad-client-1.8", true, false, "nomad-client-2", OLD),
    ] {
        let mut cluster = cluster(local, acl);
        cluster.features = Features {
            docker: file.contains("features"),
            cni: file.contains("features"),
            consul_dns: file.contains("features"),
        };
        let picture = picture(&rendered(&cluster, node, consul));
        let path = folder.join(format!("{file}.txt"));
        if std::env::var_os("LB_TEST_WRITE").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &picture).unwrap();
        }
        let expected = std::fs::read_to_string(&path).unwrap_or_default();
        let stale =
            "differs: LB_TEST_WRITE=1 cargo test --lib bootstrap::render, then look at the diff";
        assert!(picture == expected, "{} {stale}", path.display());
    }
}

#[test]
fn features_are_for_the_nodes_that_they_are_of_use_to() {
    let mut cluster = cluster(false, true);
    for (docker, cni, consul_dns) in [
        (false, false, false),
        (true, false, false),
        (false, true, false),
        (false, false, true),
    ] {
        cluster.features = Features {
            docker,
            cni,
            consul_dns,
        };
        for (name, is_client) in [
            ("consul-0", false),
            ("nomad-server-0", false),
            ("nomad-client-0", true),
        ] {
            let spec = rendered(&cluster, name, NEW);
            let has = |package| spec.packages.contains(&package);
            assert_eq!(has(Package::Docker), docker && is_client, "{name}");
            assert_eq!(has(Package::CniPlugins), cni && is_client, "{name}");
            assert_eq!(has(Package::Iptables), cni && is_client, "{name}");
            let nomad = text(&spec, "/nomad.hcl").unwrap_or_default();
            assert_eq!(nomad.contains("cni_path"), cni && is_client, "{name}");
            assert_eq!(nomad.contains("plugin \"docker\""), docker && is_client);
            // What is not configured any more is taken away.
            assert_eq!(text(&spec, RESOLVER_FILE).is_some(), consul_dns, "{name}");
            assert_eq!(spec.gone == [RESOLVER_FILE], !consul_dns, "{name}");
        }
    }
}

#[test]
fn forms_change_at_their_versions() {
    for (version, ui, tls, grpc) in [(OLD, false, false, false), (UI_BLOCK, true, false, false)]
        .into_iter()
        .chain([
            (Version::new(1, 11, 99), true, false, false),
            (Version::new(1, 12, 0), true, true, false),
        ])
        .chain([
            (Version::new(1, 14, 0), true, true, true),
            (NEW, true, true, true),
        ])
    {
        let spec = rendered(&cluster(false, false), "consul-0", version);
        let text = text(&spec, "/consul.hcl").unwrap();
        let found = (
            text.contains("ui_config {"),
            text.contains("tls {"),
            text.contains("grpc_tls"),
        );
        assert_eq!(found, (ui, tls, grpc), "{version}: {text}");
        assert_ne!(text.contains("\nui = true"), ui, "{version}: {text}");
        assert_ne!(text.contains("\nca_file"), tls, "{version}: {text}");
    }
}

#[test]
fn a_rotation_asks_for_no_restart_but_of_nomads_certificate() {
    for (local, name) in [
        (true, "consul-0"),
        (false, "nomad-server-1"),
        (false, "nomad-client-0"),
    ] {
        let cluster = cluster(local, true);
        let found = cluster.nodes.iter().find(|node| node.name == name).unwrap();
        let mut pairs = NodePairs {
            consul: pair("consul"),
            nomad: Some(pair("nomad")),
            nomad_at_consul: Some(pair("nomad at consul")),
        };
        let mut shared = shared(true);
        let stamps = |pairs: &NodePairs, shared: &Shared| {
            let spec = node(&cluster, found, pairs, shared, &versions(NEW), Scope::All);
            let of = |product| (spec.restart_stamp(product, "x"), spec.reload_stamp(product));
            (of(Product::Consul), of(Product::Nomad))
        };
        let before = stamps(&pairs, &shared);
        shared.consul_gossip = gossip("X");
        shared.nomad_gossip = gossip("Y");
        assert_eq!(stamps(&pairs, &shared), before, "{name}: gossip keys");
        pairs.consul = pair("renewed");
        let after = stamps(&pairs, &shared);
        assert_eq!(after.0.0, before.0.0, "{name}: a certificate");
        assert_ne!(after.0.1, before.0.1, "{name}: a certificate is read again");
        assert_eq!(after.1, before.1, "{name}: Nomad has its own");
        pairs.nomad_at_consul = Some(pair("renewed"));
        let restarted = stamps(&pairs, &shared).1.0 != after.1.0;
        assert_eq!(
            restarted,
            name != "consul-0",
            "{name}: Nomad's way to Consul is renewed by a restart alone"
        );
    }
}

#[test]
fn no_secret_is_in_an_open_file() {
    for name in ["consul-0", "nomad-server-0", "nomad-client-0"] {
        for local in [true, false] {
            let spec = rendered(&cluster(local, true), name, NEW);
            let shared = shared(true);
            let tokens = [&shared.nomad_consul_token, &shared.lb_consul_token]
                .map(|token| token.as_ref().unwrap());
            for file in &spec.files {
                let text = std::str::from_utf8(&file.content).unwrap();
                let known = tokens
                    .into_iter()
                    .chain([&shared.consul_gossip, &shared.nomad_gossip]);
                let holds = text.contains("(key of")
                    || known
                        .into_iter()
                        .any(|secret| text.contains(secret.reveal()));
                assert_eq!(holds, file.secret, "{}", file.path);
                assert!(
                    !file.secret || file.mode == 0o600,
                    "{} {:o}",
                    file.path,
                    file.mode
                );
            }
        }
    }
}

#[test]
fn consul_alone_is_consul_alone() {
    let mut cluster = cluster(false, true);
    let found = cluster.nodes[7].clone();
    let pairs = NodePairs {
        consul: pair("consul"),
        nomad: Some(pair("nomad")),
        nomad_at_consul: Some(pair("nomad at consul")),
    };
    let scoped = node(
        &cluster,
        &found,
        &pairs,
        &shared(true),
        &versions(NEW),
        Scope::ConsulOnly,
    );
    cluster.nomad = None;
    let without = node(
        &cluster,
        &found,
        &pairs,
        &shared(true),
        &versions(NEW),
        Scope::All,
    );
    assert_eq!(scoped, without);
    assert!(
        scoped
            .daemons
            .iter()
            .all(|daemon| daemon.product == Product::Consul)
            && scoped.daemons.len() == 1
    );
    assert!(
        !scoped
            .files
            .iter()
            .any(|file| file.path.contains("nomad") || file.path.contains("/lb")),
        "{scoped:?}"
    );
}

#[test]
fn addresses_of_version_six_have_brackets_where_a_port_follows() {
    let mut cluster = cluster(false, false);
    for (number, node) in cluster.nodes.iter_mut().enumerate() {
        node.address = format!("fd00::{}", 1 + number).parse().unwrap();
    }
    let spec = rendered(&cluster, "nomad-client-0", NEW);
    let join = text(&spec, "/consul.d/join.hcl").unwrap();
    assert!(
        join.contains(r#"["[fd00::1]", "[fd00::2]", "[fd00::3]"]"#),
        "{join}"
    );
    let consul = text(&spec, "/consul.hcl").unwrap();
    assert!(consul.contains(r#"https = "::1 fd00::7""#), "{consul}");
    let nomad = text(&spec, "/nomad.hcl").unwrap();
    assert!(
        nomad.contains(r#""[fd00::7]:4647""#) && nomad.contains(r#""[::1]:8501""#),
        "{nomad}"
    );
}

/// A cluster of before there were intermediates stays as it is until its CA is changed.
#[test]
fn without_a_pair_of_its_own_towards_consul_nomad_shows_the_one_that_it_has() {
    let cluster = cluster(false, false);
    let pairs = NodePairs {
        consul: pair("consul"),
        nomad: Some(pair("nomad")),
        nomad_at_consul: None,
    };
    let found = &cluster.nodes[6];
    let (shared, versions) = (shared(false), versions(OLD));
    let spec = node(&cluster, found, &pairs, &shared, &versions, Scope::All);
    let nomad = text(&spec, "/nomad.hcl").unwrap();
    assert_eq!(
        nomad.matches("\"/etc/nomad.d/ca.pem\"").count(),
        2,
        "{nomad}"
    );
    assert!(!spec.files.iter().any(|file| file.path.contains("/consul-")));
}

#[test]
fn without_raw_exec_systemd_runs_lb() {
    for (local, raw_exec) in [(false, false), (false, true), (true, false)] {
        let mut cluster = cluster(local, true);
        cluster.raw_exec = raw_exec;
        let spec = rendered(&cluster, "nomad-client-0", NEW);
        assert_eq!(
            text(&spec, "/nomad.hcl").unwrap().contains("raw_exec"),
            raw_exec
        );
        let unit = text(&spec, "/lb.service");
        assert_eq!(unit.is_some(), !local && !raw_exec);
        if let Some(unit) = unit {
            let lb = spec
                .binaries
                .iter()
                .find(|binary| binary.name == "lb")
                .unwrap();
            let layout = Layout::system();
            let start = format!(
                "\nExecStart={} run --config {}/lb.toml\n",
                lb.path, layout.lb
            );
            assert!(
                unit.contains(&start) && unit.contains("\nUser=lb\n"),
                "{unit}"
            );
        }
    }
}

/// What starts lb for Nomad: a script that gives up root's rights, whatever the program is called.
#[test]
fn lb_is_started_without_the_rights_of_root() {
    for (local, rights) in [
        (true, "dac_read_search"),
        (false, "-all,+net_bind_service\n"),
    ] {
        let spec = rendered(&cluster(local, true), "nomad-client-0", NEW);
        let starter = text(&spec, "/lb").unwrap();
        assert!(
            starter.contains(rights) && starter.contains("--no-new-privs"),
            "{starter}"
        );
        let owner_of = |end: &str| {
            let file = spec.files.iter().find(|file| file.path.ends_with(end));
            file.unwrap().owner
        };
        // What root runs is root's; what lb reads is lb's.
        assert_eq!(
            (owner_of("/lb"), owner_of("/token")),
            (Owner::Root, Owner::Lb)
        );
        let nomad = text(&spec, "/nomad.hcl").unwrap();
        assert!(nomad.contains("/lb\"\n    lb_dir"), "{nomad}");
    }
}

#[test]
fn cgroups_are_left_alone_without_root() {
    for (nomad, privileged, expected) in [
        (Version::new(1, 6, 2), false, true),
        (Version::new(1, 6, 2), true, false),
        (Version::new(2, 0, 6), false, false),
    ] {
        let cluster = cluster(true, false);
        let pairs = NodePairs {
            consul: pair("consul"),
            nomad: Some(pair("nomad")),
            nomad_at_consul: Some(pair("nomad at consul")),
        };
        let versions = Versions {
            nomad: Some(nomad),
            privileged,
            ..versions(OLD)
        };
        let spec = node(
            &cluster,
            &cluster.nodes[6],
            &pairs,
            &shared(false),
            &versions,
            Scope::All,
        );
        assert_eq!(
            text(&spec, "/nomad.hcl").unwrap().contains("no_cgroups"),
            expected,
            "{nomad} {privileged}"
        );
    }
}

#[test]
fn lb_understands_its_file() {
    for local in [true, false] {
        let spec = rendered(&cluster(local, true), "nomad-client-0", NEW);
        let file = Some((
            PathBuf::from("lb.toml"),
            text(&spec, "/lb.toml").unwrap().to_owned(),
        ));
        let loaded = crate::config::load(&crate::config::Inputs {
            file,
            ..Default::default()
        })
        .unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    }
}

fn table(value: serde_json::Value) -> crate::bootstrap::topology::ExtraTable {
    serde_json::from_value(value).unwrap()
}

/// What is there and is replaced, what is there and is added to, and what is new.
fn extras() -> crate::bootstrap::topology::Extras {
    use serde_json::json;
    crate::bootstrap::topology::Extras {
        consul: table(json!({
            "log_level": "WARN",
            "limits": { "http_max_conns_per_client": 400 },
            "performance": { "raft_multiplier": 5, "leave_drain_time": "2s" },
            "http_config": { "response_headers": { "x.y": "a \"b\"" } },
            "recursors": ["192.0.2.1", "192.0.2.2"],
            "telemetry": { "disable_hostname": false },
            "services": [{ "name": "x", "port": 1 }],
        })),
        nomad: table(json!({
            "log_level": "WARN",
            "telemetry": { "publish_node_metrics": false, "collection_interval": "5s" },
            "server": { "heartbeat_grace": "20s" },
        })),
        clients: table(json!({
            "client": {
                "node_class": "web",
                "reserved": { "memory": 512 },
                "meta": { "rack": "r1" },
                "options": { "driver.allowlist": "raw_exec" },
                "host_volume": { "data": { "path": "/tmp", "read_only": true } },
            },
            "plugin": {
                "docker": { "config": { "volumes": { "enabled": true } } },
                "raw_exec": { "config": { "denied_envvars": ["A", "B"] } },
            },
        })),
        nodes: Default::default(),
    }
}

#[test]
fn extra_is_merged_into_what_is_rendered() {
    let mut cluster = cluster(false, false);
    cluster.extra = extras();
    let client = rendered(&cluster, "nomad-client-0", NEW);
    let server = rendered(&cluster, "nomad-server-0", NEW);
    let consul = rendered(&cluster, "consul-0", NEW);
    for (spec, file, once, never) in [
        (
            &consul,
            "/consul.hcl",
            &[
                "log_level = \"WARN\"",
                "raft_multiplier = 5",
                "leave_drain_time = \"2s\"",
                "disable_hostname = false",
                "prometheus_retention_time = \"10m\"",
                "\"x.y\" = \"a \\\"b\\\"\"",
                "recursors = [\"192.0.2.1\", \"192.0.2.2\"]",
                "http_max_conns_per_client = 400",
                "performance {",
                "telemetry {",
            ][..],
            &["INFO"][..],
        ),
        (
            &client,
            "/nomad.hcl",
            &[
                "log_level = \"WARN\"",
                "node_class = \"web\"",
                "memory = 512",
                "rack = \"r1\"",
                "bind = \"10.0.0.17\"",
                "\"driver.allowlist\" = \"raw_exec\"",
                "\"fingerprint.denylist\" =",
                "host_volume \"data\" {",
                "plugin \"docker\" {",
                "plugin \"raw_exec\" {",
                "denied_envvars = [\"A\", \"B\"]",
                "publish_node_metrics = false",
                "collection_interval = \"5s\"",
                "client {",
            ],
            &["INFO", "heartbeat_grace", "server {"],
        ),
        (
            &server,
            "/nomad.hcl",
            &["heartbeat_grace = \"20s\"", "server {"],
            &["client {", "docker"],
        ),
    ] {
        let text = text(spec, file).unwrap();
        let plain = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect::<Vec<_>>()
            .join("\n");
        for part in once {
            assert_eq!(plain.matches(part).count(), 1, "{part}:\n{text}");
        }
        for part in never {
            assert!(!plain.contains(part), "{part}:\n{text}");
        }
        // It is drift, and makes a restart necessary.
        let before = rendered(&self::cluster(false, false), "consul-0", NEW);
        assert_ne!(
            before.restart_stamp(Product::Consul, ""),
            consul.restart_stamp(Product::Consul, "")
        );
    }
}

#[test]
fn without_telemetry_there_is_none() {
    for (local, name) in [(true, "nomad-client-0"), (false, "nomad-client-0")] {
        for telemetry in [true, false] {
            let mut cluster = cluster(local, false);
            cluster.telemetry = telemetry;
            let spec = rendered(&cluster, name, NEW);
            for (file, part) in [
                ("/consul.hcl", "prometheus_retention_time"),
                ("/nomad.hcl", "prometheus_metrics"),
                ("/lb.toml", ":9997"),
            ] {
                let found = text(&spec, file).unwrap().contains(part);
                assert_eq!(found, telemetry, "{file}");
            }
            assert_eq!(text(&spec, "/metrics-key.pem").is_some(), telemetry);
        }
    }
}

/// A program of the environment (`CONSUL_BIN`, `NOMAD_BIN`), or of PATH; None, loudly, when it is
/// not there.
fn program(name: &str) -> Option<OsString> {
    let named =
        std::env::var_os(format!("{}_BIN", name.to_uppercase())).unwrap_or_else(|| name.into());
    let argument = if name.starts_with("systemd") {
        "--version"
    } else {
        "version"
    };
    if Command::new(&named)
        .arg(argument)
        .output()
        .is_ok_and(|output| output.status.success())
    {
        return Some(named);
    }
    eprintln!("SKIPPED: no {name} on PATH");
    None
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let said = [output.stdout, output.stderr].concat();
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&said).into_owned())
    }
}

/// The node's files below a folder of this machine.
fn write(spec: &NodeSpec, root: &Path) {
    for file in &spec.files {
        let path = root.join(file.path.trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &file.content).unwrap();
    }
}

fn each_node(consul: Version, mut look: impl FnMut(&Cluster, &NodeSpec, &Layout)) {
    let cases = [(true, false), (true, true), (false, false), (false, true)];
    for (at, (local, acl)) in cases.into_iter().enumerate() {
        let mut cluster = cluster(local, acl);
        if at % 2 == 0 {
            cluster.extra = extras();
        }
        for number in [0, 3, 6] {
            let node = &cluster.nodes[number];
            look(
                &cluster,
                &rendered(&cluster, &node.name, consul),
                &cluster.layout(node),
            );
        }
    }
}

#[test]
fn consul_takes_its_folder() {
    let Some(consul) = program("consul") else {
        return;
    };
    let output = Command::new(&consul).arg("version").output().unwrap();
    let version = Version::parse(&String::from_utf8_lossy(&output.stdout)).unwrap();
    each_node(version, |_, spec, layout| {
        let root = tempfile::tempdir().unwrap();
        write(spec, root.path());
        let folder = root
            .path()
            .join(layout.consul_config.trim_start_matches('/'));
        run(Command::new(&consul).arg("validate").arg(&folder)).unwrap();
        // It would tell: a key of another version is fatal.
        std::fs::write(folder.join("wrong.hcl"), "no_such_key = true\n").unwrap();
        let said = run(Command::new(&consul).arg("validate").arg(&folder)).unwrap_err();
        assert!(said.contains("no_such_key"), "{said}");
    });
}

#[test]
fn nomad_takes_its_folder() {
    let Some(nomad) = program("nomad") else {
        return;
    };
    each_node(OLD, |_, spec, layout| {
        if spec.daemon(Product::Nomad).is_none() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        write(spec, root.path());
        let folder = root
            .path()
            .join(layout.nomad_config.trim_start_matches('/'));
        run(Command::new(&nomad)
            .args(["config", "validate"])
            .arg(&folder))
        .unwrap();
        run(Command::new(&nomad)
            .args(["fmt", "-check", "-list=false"])
            .arg(&folder))
        .unwrap();
        std::fs::write(folder.join("wrong.hcl"), "no_such_key = true\n").unwrap();
        let said = run(Command::new(&nomad)
            .args(["config", "validate"])
            .arg(&folder))
        .unwrap_err();
        assert!(said.contains("no_such_key"), "{said}");
    });
}

/// What systemd says about a unit, its program taken to be there.
fn complaints(systemd: &OsString, text: &str, unit: &str) -> Vec<String> {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join(unit);
    let swap =
        |text: String, name: &str| text.replace(&format!("/usr/local/bin/{name}"), "/bin/true");
    std::fs::write(
        &path,
        ["consul", "nomad", "lb"]
            .into_iter()
            .fold(text.to_owned(), swap),
    )
    .unwrap();
    let output = Command::new(systemd)
        .arg("verify")
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    said.lines()
        .filter(|line| line.contains(unit))
        .map(str::to_owned)
        .collect()
}

#[test]
fn systemd_takes_its_units() {
    let Some(systemd) = program("systemd-analyze") else {
        return;
    };
    for node in ["nomad-server-0", "nomad-client-0"] {
        let spec = rendered(&cluster(false, true), node, NEW);
        for unit in ["consul.service", "nomad.service"] {
            let text = text(&spec, unit).unwrap();
            assert_eq!(complaints(&systemd, text, unit), [""; 0], "{node}");
            // It would tell.
            let wrong = text.replace("KillSignal=SIGINT", "KillSignal=SIGNONE");
            assert!(!complaints(&systemd, &wrong, unit).is_empty(), "{node}");
        }
    }
    let shipped = include_str!("../../../deploy/systemd/lb.service");
    assert_eq!(complaints(&systemd, shipped, "lb.service"), [""; 0]);
}

#[test]
fn words_of_a_command_stay_words() {
    let layout = Layout::system();
    let command = ["/a b/consul", "x%h", "$HOME", "plain"]
        .map(str::to_owned)
        .to_vec();
    let daemon = DaemonSpec {
        product: Product::Consul,
        command,
        user: Owner::Consul,
        keeps_children: false,
    };
    let unit = systemd::unit(&daemon, &layout);
    assert!(
        unit.contains("ExecStart=\"/a b/consul\" x%%h $$HOME plain\n"),
        "{unit}"
    );
}

#[test]
fn a_new_server_is_no_reason_to_restart_what_is_there() {
    let before = cluster(true, false);
    let mut after = before.clone();
    for name in ["consul-3", "consul-4"] {
        let node = Node {
            name: name.to_owned(),
            address: "127.0.33.99".parse().unwrap(),
            ..after.nodes[0].clone()
        };
        after.nodes.insert(3, node);
    }
    for name in ["consul-0", "nomad-server-0", "nomad-client-0"] {
        let (before, after) = (rendered(&before, name, OLD), rendered(&after, name, OLD));
        assert_ne!(
            text(&before, "/consul.d/join.hcl"),
            text(&after, "/consul.d/join.hcl")
        );
        for product in Product::ALL {
            assert_eq!(
                before.restart_stamp(product, ""),
                after.restart_stamp(product, ""),
                "{name} {product}"
            );
        }
    }
}
