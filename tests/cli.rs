//! The command line as a terminal shows it: exit code, standard output, standard error of the built binary.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::{Command, Output, Stdio};

struct Shown {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs `lb` in the repository's root with an empty environment.
fn lb_with(env: &[(&str, &str)], args: &[&str]) -> Shown {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_lb"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .envs(env.iter().copied())
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Shown { code: status.code(), out: text(stdout), err: text(stderr) }
}

fn lb(args: &[&str]) -> Shown {
    lb_with(&[], args)
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn without_arguments_help_is_shown() {
    let shown = lb(&[]);
    assert_eq!((shown.code, shown.out.as_str()), (Some(2), ""));
    for word in ["Usage: lb", "run", "demo", "check", "routes", "explain", "bootstrap", "completions", "man", "version"]
    {
        assert!(shown.err.contains(word), "{word}\n{}", shown.err);
    }
    let shown = lb(&["--help"]);
    assert_eq!((shown.code, shown.err.as_str()), (Some(0), ""));
}

#[test]
fn help_of_run_describes_every_key() {
    let shown = lb(&["run", "--help"]);
    assert_eq!(shown.code, Some(0));
    for word in ["--consul.address", "--proxy.max_header_bytes", "[default: 65536]", "--listener", "--log.access"] {
        assert!(shown.out.contains(word), "{word}");
    }
    let short = lb(&["run", "-h"]).out;
    assert!(!short.contains("--proxy.max_header_bytes") && short.contains("--config"), "{short}");
}

#[test]
fn version_is_a_result() {
    let shown = lb(&["version"]);
    assert_eq!((shown.code, shown.err.as_str()), (Some(0), ""));
    assert!(shown.out.starts_with(concat!("lb ", env!("CARGO_PKG_VERSION"), " (")), "{}", shown.out);
    let json: serde_json::Value = serde_json::from_str(&lb(&["version", "--json"]).out).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn completions_and_manual_know_the_keys() {
    for shell in ["bash", "zsh", "fish"] {
        let shown = lb(&["completions", shell]);
        assert_eq!(shown.code, Some(0), "{}", shown.err);
        assert!(shown.out.contains("consul.address"), "{shell}");
    }
    let shown = lb(&["man"]);
    assert_eq!(shown.code, Some(0), "{}", shown.err);
    for part in [".TH", "consul.max_stale", "LB_CONSUL_MAX_STALE", "Default: 5s", "EXIT STATUS"] {
        assert!(shown.out.contains(part), "{part}\n{}", shown.out);
    }
}

#[test]
fn wrong_usage_is_two_and_names_what_was_meant() {
    let shown = lb(&["run", "--consul.adress", "http://h:1"]);
    assert_eq!((shown.code, shown.out.as_str()), (Some(2), ""));
    assert!(shown.err.contains("--consul.address"), "{}", shown.err);
    assert_eq!(lb(&["fly"]).code, Some(2));
    assert_eq!(lb(&["explain"]).code, Some(2));
    assert_eq!(lb(&["demo", "--json"]).code, Some(2));
}

#[test]
fn check_passes_the_shipped_file() {
    let shown = lb(&["check", "--config", "config/lb.toml"]);
    assert_eq!((shown.code, shown.out.as_str(), shown.err.as_str()), (Some(0), "no mistakes found\n", ""));
    let shown = lb(&["check"]);
    assert_eq!((shown.code, shown.out.as_str()), (Some(0), "no mistakes found\n"));
}

#[test]
fn check_lists_every_mistake_by_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "lb.toml", "[consul]\nadress = \"x\"\nwait = 5\n");
    let env = [("LB_DRAIN_TIMEOUT", "soon")];
    let shown = lb_with(&env, &["check", "--config", &file, "--proxy.workers", "many"]);
    let expected = format!(
        "{file}
  2: error: consul.adress is not a known key
      did you mean consul.address?
  3: error: consul.wait = 5 has no unit
      write a number with its unit, like \"250ms\", \"10s\" or \"1m30s\", from 1s to 10m

environment
  error: LB_DRAIN_TIMEOUT: drain.timeout = \"soon\" is not a duration
      write a number with its unit, like \"250ms\", \"10s\" or \"1m30s\", from 0s to 24h

command line
  error: --proxy.workers: proxy.workers = \"many\" is not a whole number
      write a whole number from 0 to 1024
4 errors
"
    );
    assert_eq!((shown.code, shown.out.as_str(), shown.err.as_str()), (Some(2), expected.as_str(), ""));
}

#[test]
fn check_names_the_variable_of_consul_that_says_something_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("cas");
    std::fs::create_dir(&empty).unwrap();
    let file = write(dir.path(), "README", "no certificate");
    let empty = empty.to_str().unwrap();
    for (variable, value, part) in [
        ("CONSUL_HTTP_ADDR", "ftp://h", "unknown scheme"),
        ("CONSUL_HTTP_ADDR", "http://user:secret@h:1", "credentials"),
        ("CONSUL_HTTP_SSL", "yes", "neither true nor false"),
        ("CONSUL_HTTP_SSL_VERIFY", "no", "neither true nor false"),
        ("CONSUL_TLS_SERVER_NAME", "a b", "not a name a certificate can carry"),
        ("CONSUL_CLIENT_CERT", "c.pem", "has no key beside it"),
        ("CONSUL_NAMESPACE", "a b", "cannot be such a name"),
        ("CONSUL_CACERT", "/nonexistent/ca.pem", "cannot be read"),
        ("CONSUL_CACERT", &file, "holds no CA certificate"),
        ("CONSUL_CAPATH", "/nonexistent/cas", "cannot be read"),
        ("CONSUL_CAPATH", empty, "holds no file with a CA certificate"),
        ("CONSUL_CAPATH", dir.path().to_str().unwrap(), "holds no file with a CA certificate"),
        ("CONSUL_HTTP_TOKEN_FILE", "/nonexistent/token", "cannot be read"),
    ] {
        let shown = lb_with(&[(variable, value)], &["check"]);
        assert_eq!(shown.code, Some(2), "{variable}={value}: {}", shown.out);
        let told = shown.out.lines().any(|line| line.contains(variable));
        assert!(told && shown.out.contains(part), "{variable}={value}: {}", shown.out);
        assert!(!shown.out.contains("secret"), "{}", shown.out);
    }
}

#[test]
fn run_refuses_a_bad_configuration_with_the_same_report() {
    let shown = lb(&["run", "--listener", "127.0.0.1:0;protocol=https"]);
    assert_eq!((shown.code, shown.out.as_str()), (Some(2), ""));
    assert!(shown.err.contains("certificates is missing, and the protocol needs it"), "{}", shown.err);
    let shown = lb(&["run", "--config", "/nonexistent/lb.toml"]);
    assert_eq!(shown.code, Some(2));
    assert!(shown.err.contains("/nonexistent/lb.toml cannot be read: No such file"), "{}", shown.err);
}

#[test]
fn run_says_its_warnings_in_the_form_of_the_log() {
    // A taken port ends it at once, after the warnings.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let routes = write(dir.path(), "routes.txt", "route ad\n");
    let run = |format: &str| {
        let admin = ["run", "--admin.address", "127.0.0.1:0", "--listener", &listener];
        lb(&[&admin[..], &["--routes_file", &routes, "--log.format", format]].concat())
    };
    let json = run("json");
    assert_eq!(json.code, Some(1), "{}", json.err);
    let line: serde_json::Value = serde_json::from_str(json.err.lines().next().unwrap()).unwrap();
    assert_eq!((&line["level"], &line["file"], &line["line"]), (&"WARN".into(), &routes.as_str().into(), &1.into()));
    assert!(line["message"].as_str().unwrap().contains("route ad"), "{line}");
    let text = run("text").err;
    assert!(text.starts_with(&format!("{routes}\n  1: warning: ")), "{text}");
}

#[test]
fn check_reads_job_files() {
    let shown = lb(&["check", "tests/fixtures/jobs/good.nomad.hcl"]);
    assert_eq!((shown.code, shown.err.as_str()), (Some(0), ""));
    assert!(shown.out.ends_with("1 warning\n"), "{}", shown.out);

    let jobs = ["tests/fixtures/jobs/bad.nomad.hcl", "tests/fixtures/jobs/missing.hcl"];
    let shown = lb(&["check", "--json", jobs[0], jobs[1]]);
    assert_eq!((shown.code, shown.err.as_str()), (Some(2), ""));
    let json: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
    let findings = json["findings"].as_array().unwrap();
    let find = |part: &str| {
        let has = |finding: &&serde_json::Value| finding["problem"].as_str().is_some_and(|text| text.contains(part));
        findings.iter().find(has).unwrap_or_else(|| panic!("{part}\n{}", shown.out))
    };
    let empty = find("makes no route: no place given");
    assert_eq!((&empty["file"], &empty["line"]), (&jobs[0].into(), &6.into()));
    assert_eq!(empty["subject"], "job bad, group web, service bad-web");
    assert_eq!(empty["severity"], "error");
    assert_eq!(find("no shutdown_delay")["severity"], "warning");
    assert_eq!(find("cannot be read")["file"], jobs[1]);
    assert_eq!(find("that is nearly a route")["value"], "\"urlprefix/b\"");
}

#[test]
fn check_names_files_that_are_missing() {
    let flags =
        ["--certificates", "main;cert_file=a.pem", "--listener", "127.0.0.1:0;protocol=https;certificates=main"];
    let shown = lb(&[&["check"][..], &flags].concat());
    assert_eq!((shown.code, shown.err.as_str()), (Some(2), ""));
    assert!(shown.out.contains("a.pem\n  error: certificates.main.cert_file cannot be read"), "{}", shown.out);
}

#[test]
fn check_looks_at_files_in_spite_of_wrong_keys() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[consul]\nca_file = \"ca.pem\"\ncert_file = \"client.pem\"\nwait = 5\n[proxy]\nworkers = -1\n";
    let file = write(dir.path(), "lb.toml", text);
    let shown = lb(&["check", "--config", &file]);
    assert_eq!(shown.code, Some(2));
    for part in ["consul.ca_file cannot be read", "consul.cert_file cannot be read", "has no unit", "is too small"] {
        assert!(shown.out.contains(part), "{part}\n{}", shown.out);
    }
    assert!(shown.out.ends_with("5 errors\n"), "{}", shown.out);
}

#[test]
fn live_steps_wait_for_a_consul_section_that_is_right() {
    let shown = lb_with(&[("CONSUL_CLIENT_CERT", "client.pem")], &["check", "--live"]);
    assert_eq!((shown.code, shown.err.as_str()), (Some(2), ""));
    assert!(shown.out.contains("has no key beside it\n      set consul.key_file too"), "{}", shown.out);
    assert!(shown.out.contains("not dialled: the configuration of Consul is wrong"), "{}", shown.out);
    let shown = lb(&["check", "--live", "--static.route", "web / http://127.0.0.1:1/"]);
    assert_eq!((shown.code, shown.err.as_str()), (Some(1), ""));
    assert!(shown.out.contains("no Consul is configured"), "{}", shown.out);
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lb"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The script is longer than a pipe holds, so the write meets the closed end.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
