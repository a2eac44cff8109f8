//! The quick start of the README, run as it is pasted, but for its ports.

use std::process::{Command, Stdio};

use super::support::consul::ConsulAgent;
use crate::support::loopback::free_port;

const README: &str = include_str!("../../README.md");

/// The block of commands that starts a sample instance.
fn quick_start() -> &'static str {
    let mut blocks = README
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap());
    blocks
        .find(|block| block.contains("lb sample"))
        .expect("a quick start in the README")
}

#[test]
fn the_quick_start_works_when_pasted() {
    let agent = ConsulAgent::start_plain();
    let [sample, http, admin] = [free_port(), free_port(), free_port()];
    let lb = env!("CARGO_BIN_EXE_lb");
    let mut script = String::from("trap 'kill $(jobs -p) 2>/dev/null' EXIT\nset -eu\n");
    for line in quick_start().lines() {
        // The agent of this test stands for the one that is started, and its binary for the one
        // that is built.
        if line.starts_with("make build")
            || line.starts_with("export PATH")
            || line.starts_with("consul agent")
        {
            continue;
        }
        script += line;
        script.push('\n');
    }
    let replaced = [
        ("http://127.0.0.1:8500", agent.address()),
        ("8080", sample.to_string()),
        ("9999", http.to_string()),
        (
            "lb run",
            format!("lb run --listener 127.0.0.1:{http} --admin.address 127.0.0.1:{admin}"),
        ),
    ];
    for (from, to) in replaced {
        assert!(
            script.contains(from),
            "{from} is not in the quick start:\n{script}"
        );
        script = script.replace(from, &to);
    }
    let folder = tempfile::tempdir().unwrap();
    let bin = std::path::Path::new(lb).parent().unwrap();
    let mut command = Command::new("bash");
    for (name, _) in
        std::env::vars().filter(|(name, _)| name.starts_with("CONSUL_") || name.starts_with("LB_"))
    {
        command.env_remove(name);
    }
    let output = command
        .args(["-c", &script])
        .current_dir(folder.path())
        .env(
            "PATH",
            format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()),
        )
        .env("LB_ADMIN_URL", format!("http://127.0.0.1:{admin}"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let log = std::fs::read_to_string(folder.path().join("lb.log")).unwrap_or_default();
    assert!(
        output.status.success(),
        "{}\n{out}\n{err}\n{log}",
        output.status
    );
    // What the sample says of itself, by way of the router; what explain says; and what happened.
    for part in ["shop v1", "sent to the only instance", "-> healthy"] {
        assert!(out.contains(part), "{part} is not in:\n{out}\n{err}\n{log}");
    }
}
