//! The command line as a terminal shows it: exit code, standard output, standard error of the built
//! binary.

use std::path::Path;
use std::process::{Command, Output, Stdio};

struct Shown {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs `lb` in the repository's root with an empty environment.
fn lb_with(env: &[(&str, &str)], args: &[&str]) -> Shown {
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_lb"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_clear()
        .envs(env.iter().copied())
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Shown {
        code: status.code(),
        out: text(stdout),
        err: text(stderr),
    }
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
    for word in [
        "Usage: lb",
        "run",
        "demo",
        "check",
        "routes",
        "explain",
        "bootstrap",
        "completions",
        "man",
        "version",
    ] {
        assert!(shown.err.contains(word), "{word}\n{}", shown.err);
    }
    let shown = lb(&["--help"]);
    assert_eq!((shown.code, shown.err.as_str()), (Some(0), ""));
}

#[test]
fn check_knows_which_schemes_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let users = write(dir.path(), "users", "ann:secret\n");
    let config = write(
        dir.path(),
        "lb.toml",
        &format!("[auth.main]\nfile = {users:?}\n[consul]\n"),
    );
    let job = |option: &str| {
        format!(
            "job \"j\" {{\n group \"g\" {{\n shutdown_delay = \"3s\"\n service {{\n name = \"web\"\n \
             tags = [\"urlprefix-/a {option}\"]\n check {{\n type = \"http\"\n }}\n }}\n }}\n}}\n"
        )
    };
    for (option, code, told) in [
        ("auth=main", 0, None),
        ("auth=mian", 2, Some("did you mean auth=main?")),
        ("", 0, None),
    ] {
        let file = write(dir.path(), "web.nomad.hcl", &job(option));
        let shown = lb(&["check", "--config", &config, &file]);
        assert_eq!(
            shown.code,
            Some(code),
            "{option}: {}{}",
            shown.out,
            shown.err
        );
        assert!(
            told.is_none_or(|told| shown.out.contains(told)),
            "{}",
            shown.out
        );
        // Without a configuration it is not known.
        assert_eq!(lb(&["check", &file]).code, Some(0), "{option}");
    }
    let route = "[[static.route]]\nservice = \"s\"\nsource = \"/b\"\ntargets = [\"http://127.0.0.1:1\"]\noptions = \"auth=none\"\n";
    let config = write(dir.path(), "static.toml", route);
    let shown = lb(&["check", "--config", &config]);
    assert_eq!(shown.code, Some(2), "{}", shown.out);
    assert!(
        shown.out.contains("there is no [auth.none]"),
        "{}",
        shown.out
    );
}

/// Keys of `[routing]` were keys of `[consul]` once.
#[test]
fn old_names_of_keys_are_a_remark_and_contradictions_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let check = |text: &str, env: &[(&str, &str)]| {
        let config = write(dir.path(), "lb.toml", text);
        lb_with(env, &["check", "--strict", "--config", &config])
    };
    let shown = check("[consul]\nweights = false\ncheck_grace = \"1s\"\n", &[]);
    assert_eq!(shown.code, Some(0), "{}", shown.out);
    assert!(
        shown.out.contains(
            "  2: remark: consul.weights, consul.check_grace moved to [routing]\n      the old name goes on working\n"
        ),
        "{}",
        shown.out
    );
    assert!(shown.out.ends_with("no mistakes found\n"), "{}", shown.out);
    let shown = check("[consul]\n[routing]\nweights = false\n", &[]);
    assert_eq!((shown.code, &*shown.out), (Some(0), "no mistakes found\n"));

    let both = "[consul]\ntag_prefix = \"a-\"\n[routing]\ntag_prefix = \"b-\"\n";
    let shown = check(both, &[]);
    assert_eq!(shown.code, Some(2), "{}", shown.out);
    for name in ["consul.tag_prefix = \"a-\"", "routing.tag_prefix = \"b-\""] {
        assert!(shown.out.contains(name), "{name}: {}", shown.out);
    }
    let same = both.replace("a-", "b-");
    assert_eq!(check(&same, &[]).code, Some(0));
    let shown = check(&same, &[("LB_CONSUL_TAG_PREFIX", "c-")]);
    assert_eq!(shown.code, Some(2), "{}", shown.out);
    assert!(shown.out.contains("LB_CONSUL_TAG_PREFIX"), "{}", shown.out);
}

#[test]
fn help_of_run_describes_every_key() {
    let shown = lb(&["run", "--help"]);
    assert_eq!(shown.code, Some(0));
    for word in [
        "--consul.address",
        "--proxy.max_header_bytes",
        "[default: 65536]",
        "--listener",
        "--log.access",
        "--routing.weights",
    ] {
        assert!(shown.out.contains(word), "{word}");
    }
    assert!(!shown.out.contains("--consul.weights"), "a name of old");
    let short = lb(&["run", "-h"]).out;
    assert!(
        !short.contains("--proxy.max_header_bytes") && short.contains("--config"),
        "{short}"
    );
}

#[test]
fn version_is_a_result() {
    let shown = lb(&["version"]);
    assert_eq!((shown.code, shown.err.as_str()), (Some(0), ""));
    assert!(
        shown
            .out
            .starts_with(concat!("lb ", env!("CARGO_PKG_VERSION"), " (")),
        "{}",
        shown.out
    );
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
    for part in [
        ".TH",
        "consul.max_stale",
        "LB_CONSUL_MAX_STALE",
        "Default: 5s",
        "EXIT STATUS",
    ] {
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
    assert_eq!(
        (shown.code, shown.out.as_str(), shown.err.as_str()),
        (Some(0), "no mistakes found\n", "")
    );
    let shown = lb(&["check"]);
    assert_eq!(
        (shown.code, shown.out.as_str()),
        (Some(0), "no mistakes found\n")
    );
}

#[test]
fn check_lists_every_mistake_by_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(
        dir.path(),
        "lb.toml",
        "[consul]\nadress = \"x\"\nwait = 5\n",
    );
    let env = [("LB_DRAIN_TIMEOUT", "soon")];
    let shown = lb_with(
        &env,
        &["check", "--config", &file, "--proxy.workers", "many"],
    );
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
    assert_eq!(
        (shown.code, shown.out.as_str(), shown.err.as_str()),
        (Some(2), expected.as_str(), "")
    );
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
        (
            "CONSUL_TLS_SERVER_NAME",
            "a b",
            "not a name a certificate can carry",
        ),
        ("CONSUL_CLIENT_CERT", "c.pem", "has no key beside it"),
        ("CONSUL_NAMESPACE", "a b", "cannot be such a name"),
        ("CONSUL_CACERT", "/nonexistent/ca.pem", "cannot be read"),
        ("CONSUL_CACERT", &file, "holds no CA certificate"),
        ("CONSUL_CAPATH", "/nonexistent/cas", "cannot be read"),
        (
            "CONSUL_CAPATH",
            empty,
            "holds no file with a CA certificate",
        ),
        (
            "CONSUL_CAPATH",
            dir.path().to_str().unwrap(),
            "holds no file with a CA certificate",
        ),
        (
            "CONSUL_HTTP_TOKEN_FILE",
            "/nonexistent/token",
            "cannot be read",
        ),
    ] {
        let shown = lb_with(&[(variable, value)], &["check"]);
        assert_eq!(shown.code, Some(2), "{variable}={value}: {}", shown.out);
        let told = shown.out.lines().any(|line| line.contains(variable));
        assert!(
            told && shown.out.contains(part),
            "{variable}={value}: {}",
            shown.out
        );
        assert!(!shown.out.contains("secret"), "{}", shown.out);
    }
}

#[test]
fn run_refuses_a_bad_configuration_with_the_same_report() {
    let shown = lb(&["run", "--listener", "127.0.0.1:0;protocol=https"]);
    assert_eq!((shown.code, shown.out.as_str()), (Some(2), ""));
    assert!(
        shown
            .err
            .contains("certificates is missing, and the protocol needs it"),
        "{}",
        shown.err
    );
    let shown = lb(&["run", "--config", "/nonexistent/lb.toml"]);
    assert_eq!(shown.code, Some(2));
    assert!(
        shown
            .err
            .contains("/nonexistent/lb.toml cannot be read: No such file"),
        "{}",
        shown.err
    );
}

#[test]
fn run_says_its_warnings_in_the_form_of_the_log() {
    // A taken port ends it at once, after the warnings.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let routes = write(dir.path(), "routes.txt", "route ad\n");
    let run = |format: &str| {
        let admin = [
            "run",
            "--admin.address",
            "127.0.0.1:0",
            "--listener",
            &listener,
        ];
        lb(&[
            &admin[..],
            &["--routes_file", &routes, "--log.format", format],
        ]
        .concat())
    };
    let json = run("json");
    assert_eq!(json.code, Some(1), "{}", json.err);
    let line: serde_json::Value = serde_json::from_str(json.err.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&line["level"], &line["file"], &line["line"]),
        (&"WARN".into(), &routes.as_str().into(), &1.into())
    );
    assert!(
        line["message"].as_str().unwrap().contains("route ad"),
        "{line}"
    );
    let text = run("text").err;
    assert!(
        text.starts_with(&format!("{routes}\n  1: warning: ")),
        "{text}"
    );
}

#[test]
fn check_reads_job_files() {
    let shown = lb(&["check", "tests/fixtures/jobs/good.nomad.hcl"]);
    assert_eq!((shown.code, shown.err.as_str()), (Some(0), ""));
    assert!(shown.out.ends_with("1 warning\n"), "{}", shown.out);

    let jobs = [
        "tests/fixtures/jobs/bad.nomad.hcl",
        "tests/fixtures/jobs/missing.hcl",
    ];
    let shown = lb(&["check", "--json", jobs[0], jobs[1]]);
    assert_eq!((shown.code, shown.err.as_str()), (Some(2), ""));
    let json: serde_json::Value = serde_json::from_str(&shown.out).unwrap();
    let findings = json["findings"].as_array().unwrap();
    let find = |part: &str| {
        let has = |finding: &&serde_json::Value| {
            finding["problem"]
                .as_str()
                .is_some_and(|text| text.contains(part))
        };
        findings
            .iter()
            .find(has)
            .unwrap_or_else(|| panic!("{part}\n{}", shown.out))
    };
    let empty = find("makes no route: no place given");
    assert_eq!(
        (&empty["file"], &empty["line"]),
        (&jobs[0].into(), &6.into())
    );
    assert_eq!(empty["subject"], "job bad, group web, service bad-web");
    assert_eq!(empty["severity"], "error");
    assert_eq!(find("no shutdown_delay")["severity"], "warning");
    assert_eq!(find("cannot be read")["file"], jobs[1]);
    assert_eq!(find("that is nearly a route")["value"], "\"urlprefix/b\"");
}

#[test]
fn check_judges_route_commands_wherever_they_stand() {
    let dir = tempfile::tempdir().unwrap();
    let good = "route add web /a http://127.0.0.1:1/\n";
    let doubtful = "route add web /a http://127.0.0.1:1/ opts \"stirp=/a\"\n";
    let one_of_seven = "route add web /a http://127.0.0.1:1/\nroute ad\nrout add x\nroute add web\nx\ny\nroute del\n";
    let job = |option: &str| {
        format!(
            "job \"j\" {{\n  group \"g\" {{\n    shutdown_delay = \"3s\"\n    service {{\n      name = \"web\"\n      \
             tags = [\"urlprefix-/a {option}\"]\n      check {{\n        type = \"tcp\"\n      }}\n    }}\n  }}\n}}\n"
        )
    };
    let command =
        |option: &str| format!("route add web /a http://127.0.0.1:1/ opts \"{option}\"\n");
    // The text of a file, its exit code, and that with --strict.
    let mut cases = vec![
        (good.to_owned(), 0, 0),
        (doubtful.to_owned(), 0, 2),
        (one_of_seven.to_owned(), 2, 2),
        (job("strip=/a"), 0, 0),
        (job("stirp=/a"), 0, 2),
    ];
    for option in [
        "ratelimit=5",
        "ipallow=10.0.0.1",
        "limit=3",
        "auth_basic=x",
        "alow=ip:10.0.0.1",
        "deny_ip=10.0.0.1",
    ] {
        cases.push((command(option), 2, 2));
        cases.push((job(option), 2, 2));
        let static_route = format!("web /a http://127.0.0.1:1/ {option}");
        assert_eq!(
            lb(&["check", "--static.route", &static_route]).code,
            Some(2),
            "{option}"
        );
        assert_eq!(
            lb(&["check", "--routes", &command(option)]).code,
            Some(2),
            "{option}"
        );
    }
    for (text, code, strict) in cases {
        let path = write(dir.path(), "file", &text);
        let ways: &[&[&str]] = match text.starts_with("route") {
            true => &[&["check", "--routes_file", &path], &["check", &path]],
            false => &[&["check", &path]],
        };
        for way in ways {
            let shown = lb(way);
            assert_eq!(shown.code, Some(code), "{way:?} {text}{}", shown.out);
            let shown = lb(&[*way, &["--strict"]].concat());
            assert_eq!(
                shown.code,
                Some(strict),
                "--strict {way:?} {text}{}",
                shown.out
            );
        }
    }
}

/// What lb does must be allowed by the unit that it is shipped with.
#[test]
fn the_shipped_unit_lets_lb_do_its_work() {
    let unit = include_str!("../../deploy/systemd/lb.service");
    let values = |key: &str| -> Vec<&str> {
        let lines = unit
            .lines()
            .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        lines.flat_map(str::split_whitespace).collect()
    };
    // TCP and DNS; Consul and systemd by their sockets; the addresses of the machine.
    assert_eq!(
        values("RestrictAddressFamilies"),
        ["AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"]
    );
    assert_eq!(
        values("SystemCallFilter"),
        ["@system-service", "~@privileged", "@resources"]
    );
    assert_eq!(values("Type"), ["notify"]);
    // A mistake that is found must not keep it from starting: files that were good yesterday are
    // served today.
    assert_eq!(values("ExecStartPre")[..2], ["-/usr/local/bin/lb", "check"]);
    assert_eq!(values("ExecStart")[..2], ["/usr/local/bin/lb", "run"]);
    assert!(
        !unit.contains("take-over") && !unit.contains("TAKE_OVER"),
        "nothing else runs on its ports"
    );
}

#[test]
fn check_names_files_that_are_missing() {
    let flags = [
        "--certificates",
        "main;cert_file=a.pem",
        "--listener",
        "127.0.0.1:0;protocol=https;certificates=main",
    ];
    let shown = lb(&[&["check"][..], &flags].concat());
    assert_eq!((shown.code, shown.err.as_str()), (Some(2), ""));
    assert!(
        shown
            .out
            .contains("a.pem\n  error: certificates.main.cert_file cannot be read"),
        "{}",
        shown.out
    );
}

#[test]
fn check_looks_at_files_in_spite_of_wrong_keys() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[consul]\nca_file = \"ca.pem\"\ncert_file = \"client.pem\"\nwait = 5\n[proxy]\nworkers = -1\n";
    let file = write(dir.path(), "lb.toml", text);
    let shown = lb(&["check", "--config", &file]);
    assert_eq!(shown.code, Some(2));
    for part in [
        "consul.ca_file cannot be read",
        "consul.cert_file cannot be read",
        "has no unit",
        "is too small",
    ] {
        assert!(shown.out.contains(part), "{part}\n{}", shown.out);
    }
    assert!(shown.out.ends_with("5 errors\n"), "{}", shown.out);
}

#[test]
fn live_steps_wait_for_a_consul_section_that_is_right() {
    let shown = lb_with(
        &[("CONSUL_CLIENT_CERT", "client.pem")],
        &["check", "--live"],
    );
    assert_eq!((shown.code, shown.err.as_str()), (Some(2), ""));
    assert!(
        shown
            .out
            .contains("has no key beside it\n      set consul.key_file too"),
        "{}",
        shown.out
    );
    assert!(
        shown
            .out
            .contains("not dialled: the configuration of Consul is wrong"),
        "{}",
        shown.out
    );
    let shown = lb(&[
        "check",
        "--live",
        "--static.route",
        "web / http://127.0.0.1:1/",
    ]);
    assert_eq!((shown.code, shown.err.as_str()), (Some(1), ""));
    assert!(
        shown.out.contains("no Consul is configured"),
        "{}",
        shown.out
    );
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
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );
}
