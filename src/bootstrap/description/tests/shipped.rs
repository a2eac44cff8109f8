//! The files that are shipped: config/cluster.toml and deploy/terraform.

use std::path::Path;

use super::super::keys::{NodeSettings, SCHEMA};
use super::super::{Request, locate};
use super::{good, names};
use crate::bootstrap::topology::{BinarySource, CaFiles, Runner, Target};
use crate::config::declare::Declared as _;
use crate::config::template;

const INTRO: &str = "\
# Description of a cluster for `lb bootstrap`: every key, with its default. Lines that begin with `#` and a key show a
# default, or an example where there is none; take the `#` away to change it.
#
# As it stands: nine nodes on this machine, on loopback addresses, as `lb bootstrap --local` makes them without a file.
# For machines of your own three lines are enough: consul_servers, nomad_servers and nomad_clients with addresses.
# Paths are relative to the folder of this file. Every mistake in it is told at once, before anything is touched.
";

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/cluster.toml");

/// The shipped file.
fn shipped() -> String {
    std::fs::read_to_string(PATH).unwrap()
}

/// The shipped file with every line `#key = value` written out, but for keys of which `without` has
/// one, and without lines of keys that now stand twice.
fn written_out(without: &[&str]) -> String {
    let mut section = String::new();
    let mut rows: Vec<(String, String)> = Vec::new();
    for row in shipped().lines() {
        if let Some(name) = row.strip_prefix('[') {
            section = format!("{}.", name.trim_end_matches(']'));
            rows.push((String::new(), row.to_owned()));
        }
        let row_of = row.strip_prefix('#').unwrap_or(row);
        let Some((name, _)) = row_of
            .split_once(" = ")
            .filter(|(name, _)| !name.contains([' ', '#']))
        else {
            continue;
        };
        let path = format!("{section}{name}");
        if row.starts_with('#') && without.contains(&path.as_str()) {
            continue;
        }
        rows.retain(|(earlier, _)| *earlier != path);
        rows.push((path, row_of.to_owned()));
    }
    rows.iter().map(|(_, row)| format!("{row}\n")).collect()
}

#[test]
fn the_shipped_file_is_made_of_the_declarations_and_is_the_local_cluster() {
    let expected = template::write_file(INTRO, SCHEMA.sections, &[]);
    if std::env::var_os("LB_TEST_WRITE").is_some() {
        std::fs::write(PATH, &expected).unwrap();
    }
    let text = shipped();
    assert!(
        text == expected,
        "config/cluster.toml is stale: run LB_TEST_WRITE=1 cargo test --lib shipped_file"
    );
    assert_eq!(good(&text), good(""));
}

#[test]
fn the_keys_of_a_node_are_told_with_the_lists_of_nodes() {
    let top = SCHEMA.section("").unwrap();
    let key = SCHEMA.key(top, "consul_servers").unwrap();
    for inner in NodeSettings::SECTION.keys {
        assert!(key.doc.contains(inner.name), "{}", inner.name);
    }
}

#[test]
fn the_shipped_file_can_be_written_out() {
    let machines = ["consul_servers", "nomad_servers", "nomad_clients"];
    let local: Vec<&str> = machines
        .into_iter()
        .chain(["inventory", "state", "consul.version", "nomad.version"])
        .collect();
    let mut expected = good("");
    expected.consul = BinarySource::File("/usr/local/bin/consul".into());
    expected.nomad = Some(BinarySource::File("/usr/local/bin/nomad".into()));
    expected.network_interface = Some("eth0".to_owned());
    // The default of machines of one's own, and one that has none.
    expected.acl = true;
    expected.ca = Some(CaFiles {
        cert: "/etc/lb/ca.pem".into(),
        key: "/etc/lb/ca-key.pem".into(),
    });
    let example = |value| serde_json::from_value(value).unwrap();
    expected.extra.consul = example(
        serde_json::json!({ "log_level": "WARN", "limits": { "http_max_conns_per_client": 400 } }),
    );
    expected.extra.nomad = example(serde_json::json!({ "log_level": "WARN" }));
    expected.extra.clients = example(serde_json::json!({
        "client": { "node_class": "web", "reserved": { "memory": 512 } }
    }));
    expected.release_key.file = Some("/etc/lb/hashicorp.asc".into());
    assert_eq!(
        good(&written_out(&local)),
        expected,
        "what is called a default is one"
    );

    let text = written_out(&["inventory", "consul.binary", "nomad.binary"]);
    let cluster = good(&text.replace("target = \"local\"", "target = \"ssh\""));
    assert_eq!(cluster.consul, BinarySource::Release("1.22.1".to_owned()));
    assert_eq!(names(&cluster)[5], "chief");
    assert_eq!(cluster.state, Path::new("/etc/lb/cluster.state"));
    let Target::Ssh(ssh) = cluster.target else {
        panic!()
    };
    assert_eq!(ssh.options.len(), 10, "{:?}", ssh.options);
    assert_eq!(
        (ssh.sudo, ssh.parallel, ssh.runner),
        (true, 4, Runner::Systemd)
    );
}

/// Text of a fenced block in a file, `before` taken off each line.
fn fenced(text: &str, language: &str, before: &str) -> String {
    let lines = text
        .lines()
        .map(|line| line.strip_prefix(before).unwrap_or(line));
    let inside = lines
        .skip_while(|line| *line != format!("```{language}"))
        .skip(1);
    inside
        .take_while(|line| *line != "```")
        .map(|line| format!("{line}\n"))
        .collect()
}

#[test]
fn the_inventories_of_deploy_terraform_are_clusters() {
    for (provider, first, last, interface) in [
        (
            "digitalocean",
            "consul-0 10.88.0.2 203.0.113.10",
            "nomad-client-2 10.88.0.10 203.0.113.18",
            Some("eth1"),
        ),
        (
            "hetzner",
            "consul-0 10.88.0.2 203.0.113.10",
            "nomad-client-2 10.88.0.10 203.0.113.18",
            Some("enp7s0"),
        ),
        (
            "libvirt",
            "consul-0 10.88.0.11 10.88.0.11",
            "nomad-client-2 10.88.0.53 10.88.0.53",
            None,
        ),
    ] {
        is_a_cluster(provider, first, last, interface);
    }
}

fn is_a_cluster(provider: &str, first: &str, last: &str, interface: Option<&str>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy/terraform")
        .join(provider);
    let file = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("cluster.toml"),
        fenced(&file("README.md"), "toml", ""),
    )
    .unwrap();
    std::fs::write(
        dir.path().join("inventory.json"),
        fenced(&file("outputs.tf"), "json", "# "),
    )
    .unwrap();
    let process = locate::Process {
        folder: dir.path().to_owned(),
        home: None,
        state_home: None,
        path: None,
        os: "macos",
    };
    let request = Request {
        file: Some("cluster.toml".into()),
        ..Request::default()
    };
    let cluster = locate::describe_for(&request, &process)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
        .cluster;
    let shown: Vec<String> = cluster
        .nodes
        .iter()
        .map(|node| {
            format!(
                "{} {} {}",
                node.name,
                node.address,
                node.ssh.as_deref().unwrap_or_default()
            )
        })
        .collect();
    assert_eq!(shown.len(), 9, "{provider}");
    assert_eq!((shown[0].as_str(), shown[8].as_str()), (first, last));
    assert_eq!(cluster.network_interface.as_deref(), interface);
    let Target::Ssh(ssh) = cluster.target else {
        panic!()
    };
    assert_eq!((ssh.options[1].as_str(), ssh.sudo), ("root", false));
}

#[test]
fn the_files_of_deploy_terraform_parse_and_describe_every_variable() {
    for provider in ["digitalocean", "hetzner", "libvirt"] {
        parses_and_describes(provider);
    }
}

fn parses_and_describes(provider: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy/terraform")
        .join(provider);
    let firewall = folder.join("firewall.tf").exists();
    assert_eq!(firewall, provider != "libvirt", "{provider}");
    let mut used = String::new();
    let mut variables = Vec::new();
    for name in [
        "versions.tf",
        "variables.tf",
        "main.tf",
        "firewall.tf",
        "outputs.tf",
    ] {
        if name == "firewall.tf" && !firewall {
            continue;
        }
        let text = std::fs::read_to_string(folder.join(name)).unwrap();
        let body: hcl_edit::structure::Body = text
            .parse()
            .unwrap_or_else(|error| panic!("{provider}: {name}: {error}"));
        for block in body
            .blocks()
            .filter(|block| block.ident.as_str() == "variable")
        {
            assert!(
                block.body.get_attribute("description").is_some(),
                "{:?}",
                block.labels
            );
            variables.push(block.labels[0].as_str().to_owned());
        }
        if name != "variables.tf" {
            used.push_str(&text);
        }
    }
    assert!(variables.len() > 10, "{variables:?}");
    for variable in variables {
        assert!(
            used.contains(&format!("var.{variable}")),
            "{provider}: {variable} is used nowhere"
        );
    }
}
