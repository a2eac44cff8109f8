//! A backup, and what it brings back: the data of a cluster that lives on, and a whole cluster of
//! which nothing is left.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use super::cluster::{NODES, Nine};
use super::jobs::{node_id, task_processes, wait_running};
use crate::support::nomad;

const JOB: &str = r#"job "kept" {
  type = "service"
  group "app" {
    network {
      port "http" {}
    }
    service {
      name    = "kept"
      port    = "http"
      address = "${meta.bind}"
    }
    task "app" {
      driver = "raw_exec"
      config {
        command = "/bin/sleep"
        args    = ["100000"]
      }
      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
"#;

#[test]
fn a_purged_cluster_comes_back_from_its_backup() {
    let Some(binary) = nomad::find("a_purged_cluster_comes_back_from_its_backup") else {
        return;
    };
    let nine = Nine::new(binary, true);
    let text = |name: &str| nine.path(name).display().to_string();
    let (backup, passphrase, wrong) = (text("backup"), text("passphrase"), text("wrong"));
    fs::write(&passphrase, "correct horse\n").unwrap();
    fs::write(&wrong, "incorrect horse\n").unwrap();
    let restore = |more: &[&'static str]| {
        let mut words = vec!["restore", &backup, "--passphrase-file", &passphrase];
        words.extend(more);
        words.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };

    nine.good(&["up", "--detach"]);
    nine.consul(&["kv", "put", "drill/key", "kept"]);
    fs::write(nine.path("kept.nomad.hcl"), JOB).unwrap();
    nine.nomad(&["job", "run", &text("kept.nomad.hcl")]);
    variable(&nine, &["put"], &["drill/variable", "word=kept"]);
    wait_running(&nine, "kept", 1);
    let ids = ids(&nine);

    refused(&nine, &["backup", "--to", &backup], 1, "is encrypted");
    assert!(!nine.path("backup").exists());
    let words = ["backup", "--to", &backup, "--passphrase-file", &passphrase];
    for _ in 0..2 {
        nine.good(&words);
    }
    let file = only_file(&nine);
    let mode = |path: &str| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&backup), mode(&file)), (0o700, 0o600));
    let check = nine.run(&refs(&restore(&["--check"])));
    assert!(
        check.stdout.contains("The backup is whole."),
        "{}",
        check.stdout
    );
    for (words, code, expected) in [
        (
            &["restore", &backup, "--passphrase-file", &wrong][..],
            1,
            "wrong passphrase",
        ),
        (&["restore", &backup], 1, "is encrypted"),
        (&refs(&restore(&[])), 2, "add --yes"),
    ] {
        refused(&nine, words, code, expected);
    }
    let damaged = text("damaged.lb-backup");
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 20;
    bytes[last] ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let words = [
        "restore",
        &damaged,
        "--passphrase-file",
        &passphrase,
        "--yes",
    ];
    refused(&nine, &words, 1, "nothing was changed");

    // A cluster that lives on: what came later is gone, what runs runs on.
    nine.consul(&["kv", "put", "drill/later", "lost"]);
    let tasks = task_processes(&nine, "kept");
    nine.good(&refs(&restore(&["--yes"])));
    assert_ne!(
        nine.tool("consul", &["kv", "get", "drill/later"]).code,
        Some(0)
    );
    all_is_back(&nine, &ids);
    assert_eq!(task_processes(&nine, "kept"), tasks);

    // A cluster of which nothing is left, and a run that is killed halfway.
    nine.good(&["down", "--purge", "--yes"]);
    assert!(!nine.state().exists() && nine.processes().is_empty());
    killed_after(&nine, &restore(&[]), "consul snapshot");
    for word in ["status", "plan"] {
        let done = nine.run(&[word]);
        assert_eq!(done.code, Some(3), "{}{}", done.stdout, done.stderr);
        assert!(
            done.stdout.contains("is not over"),
            "{word}: {}",
            done.stdout
        );
    }
    nine.good(&refs(&restore(&[])));
    all_is_back(&nine, &ids);

    nine.good(&["down", "--purge", "--yes"]);
}

/// `nomad var`, with the management token: the operator's own has no right to variables.
fn variable(nine: &Nine, words: &[&str], about: &[&str]) -> String {
    let tokens = fs::read(nine.state().join("tokens.json")).unwrap();
    let tokens: serde_json::Value = serde_json::from_slice(&tokens).unwrap();
    let token = tokens["nomad_management"]["secret"].as_str().unwrap();
    let token = format!("-token={token}");
    nine.nomad(&[&["var"], words, &[&token], about].concat())
}

fn refs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn refused(nine: &Nine, words: &[&str], code: i32, expected: &str) {
    let daemons = nine.daemons();
    let done = nine.run(words);
    assert_eq!(
        done.code,
        Some(code),
        "{words:?}: {}{}",
        done.stdout,
        done.stderr
    );
    assert!(done.stderr.contains(expected), "{words:?}: {}", done.stderr);
    assert_eq!(nine.daemons(), daemons);
}

fn only_file(nine: &Nine) -> String {
    let found = fs::read_dir(nine.path("backup")).unwrap();
    let names: Vec<_> = found.map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    names[0].display().to_string()
}

/// Ids of all agents, and of Nomad's clients.
fn ids(nine: &Nine) -> BTreeMap<String, String> {
    let mut ids = BTreeMap::new();
    for node in NODES {
        let file = nine.state().join("nodes").join(node).join("consul/node-id");
        ids.insert(node.to_owned(), fs::read_to_string(file).unwrap());
    }
    for client in &NODES[6..] {
        ids.insert(format!("nomad of {client}"), node_id(nine, client));
    }
    ids
}

fn all_is_back(nine: &Nine, expected: &BTreeMap<String, String>) {
    for word in ["status", "plan"] {
        let done = nine.run(&[word]);
        assert_eq!(done.code, Some(0), "{word}: {}{}", done.stdout, done.stderr);
    }
    assert_eq!(nine.consul(&["kv", "get", "drill/key"]).trim(), "kept");
    let found = variable(nine, &["get", "-item", "word"], &["drill/variable"]);
    assert_eq!(found.trim(), "kept");
    // Both snapshots call it running: it has to be seen.
    nine.wait("the task of kept", || {
        let processes = nine.processes();
        let mut tasks = processes
            .values()
            .filter(|line| line.contains("sleep 100000"));
        tasks.next().map(drop)
    });
    wait_running(nine, "kept", 1);
    assert_eq!(task_processes(nine, "kept").len(), 1);
    assert_eq!(&ids(nine), expected);
    // No node is there twice.
    let nodes = nine.nomad_api("/v1/nodes").unwrap();
    assert_eq!(nodes.as_array().unwrap().len(), 3, "{nodes}");
    let catalog = nine.consul_api("/v1/catalog/nodes").unwrap();
    assert_eq!(catalog.as_array().unwrap().len(), 9, "{catalog}");
}

/// Starts a command and kills it as soon as it has told of this phase.
fn killed_after(nine: &Nine, words: &[String], phase: &str) {
    let mut command = nine.command(&refs(words));
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut told = Vec::new();
    let seen = lines.map_while(Result::ok).any(|line| {
        told.push(line.clone());
        line.to_lowercase().starts_with(phase)
    });
    child.kill().unwrap();
    assert!(
        seen && child.wait().unwrap().code().is_none(),
        "no line {phase:?}: {told:?}"
    );
}
