//! `lb fabio` as a terminal and a client see it: Fabio's flags, environment and properties file, and
//! that the data path does what Fabio's does (`conformance`).

#![allow(clippy::unwrap_used, unreachable_pub, reason = "tests")]

#[path = "../support/mod.rs"]
mod support;

mod command_line;
mod conformance;
mod registries;
mod scrape;
mod shadow;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};

use lb::fabio::Machine;
use lb::fabio::settings::defaults_file;
use support::client;
use support::fake_consul::FakeConsul;
use support::lb::Lb;
use support::upstream::Upstream;

struct Shown {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs the binary under the name of Fabio, with this environment and no other.
fn fabio_with(env: &[(&str, &str)], args: &[&str]) -> Shown {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
    command
        .arg0("/usr/local/bin/fabio")
        .env_clear()
        .envs(env.iter().copied())
        .args(args)
        .stdin(Stdio::null());
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Shown {
        code: status.code(),
        out: text(stdout),
        err: text(stderr),
    }
}

fn fabio(args: &[&str]) -> Shown {
    fabio_with(&[], args)
}

#[test]
fn the_version_is_two_words() {
    for flag in ["-v", "-version", "--version"] {
        let shown = fabio(&["-proxy.addr", ":1", flag]);
        assert_eq!((shown.code, shown.err.as_str()), (Some(0), ""));
        let words: Vec<&str> = shown.out.split_whitespace().collect();
        assert_eq!(
            (words.len(), words[0]),
            (2, env!("CARGO_PKG_VERSION")),
            "{}",
            shown.out
        );
    }
}

#[test]
fn exit_codes_are_fabios() {
    for (args, code, part) in [
        (
            &["-nothing"][..],
            2,
            "flag provided but not defined: -nothing",
        ),
        (
            &["-proxy.maxconn", "many"],
            2,
            "invalid value \"many\" for flag -proxy.maxconn",
        ),
        (&["-cfg"], 1, "-cfg needs the path or URL"),
        (&["-cfg="], 1, "-cfg needs the path or URL"),
        (
            &["-cfg", "/nonexistent/f"],
            1,
            "-cfg /nonexistent/f: No such file",
        ),
        (
            &["-proxy.strategy", "best"],
            1,
            "proxy.strategy (command line): \"best\" is not one of rnd, rr",
        ),
        (
            &["-proxy.auth", "name=a;type=basic;file=/nonexistent"],
            1,
            "/nonexistent",
        ),
    ] {
        let shown = fabio(args);
        assert_eq!(
            (shown.code, shown.out.as_str()),
            (Some(code), ""),
            "{args:?}: {}",
            shown.err
        );
        assert!(shown.err.contains(part), "{args:?}: {}", shown.err);
    }
    let help = fabio(&["-help"]);
    assert_eq!((help.code, help.out.as_str()), (Some(0), ""));
    assert!(
        help.err.contains("  -proxy.addr TEXT") && help.err.contains("-print-config"),
        "{}",
        help.err
    );
}

/// Other than in Fabio, which ends: an https port less must not close all the others after a
/// reboot.
#[test]
fn a_certificate_that_cannot_be_used_closes_its_listener_alone() {
    let upstream = Upstream::start("web");
    for source in ["type=file;cert=certs/a.pem", "type=path;cert=certs"] {
        for content in [
            None,
            Some("garbage"),
            Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(
                folder.path().join("routes.txt"),
                format!("route add web / http://{}/\n", upstream.address),
            )
            .unwrap();
            if let Some(content) = content {
                fs::create_dir(folder.path().join("certs")).unwrap();
                fs::write(folder.path().join("certs/a.pem"), content).unwrap();
            }
            let cs = format!("-proxy.cs=cs=x;{source}");
            let args = [
                "-registry.backend=file",
                "-registry.file.path=routes.txt",
                "-proxy.addr=127.0.0.1:0;cs=x,127.0.0.1:0",
                "-ui.addr=127.0.0.1:0",
                &cs,
            ];
            let lb = Lb::start_fabio(folder, &args, &[]);
            assert_eq!(
                client::get(lb.address("http"), "any.test", "/").status,
                200,
                "{source} {content:?}"
            );
            lb.wait_for_line("what is closed", |line| {
                line.contains("ERROR") && line.contains("listener not opened")
            });
            let pair = support::certs::Ca::new("ca").pair(&["a.test"]);
            fs::create_dir_all(lb.folder().join("certs")).unwrap();
            fs::write(
                lb.folder().join("certs/a.pem"),
                pair.cert_pem + &pair.key_pem,
            )
            .unwrap();
            lb.address("https");
        }
    }
}

#[test]
fn every_default_in_a_file_is_as_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fabio.properties");
    fs::write(&path, defaults_file(&Machine::here())).unwrap();
    let from_file = fabio(&["-print-config", "-cfg", path.to_str().unwrap()]);
    // The one key whose default counts only when it is written down.
    let from_nothing = fabio(&["-print-config", "-ui.access", "rw"]);
    assert_eq!(
        (from_file.code, from_nothing.code),
        (Some(0), Some(0)),
        "{}",
        from_file.err
    );
    assert_eq!(from_file.out, from_nothing.out);
    assert!(
        from_nothing
            .out
            .contains("strategy = \"rnd\" # proxy.strategy"),
        "{}",
        from_nothing.out
    );
}

#[test]
fn the_environment_is_read_in_any_case() {
    let env = [
        ("FABIO_proxy_strategy", "rr"),
        ("UI_ADDR", "127.0.0.1:1234"),
        ("FABIO_PROXY_MAXCONN", "x"),
    ];
    let shown = fabio_with(&env, &["-print-config"]);
    for part in [
        "strategy = \"rr\"",
        "address = \"127.0.0.1:1234\" # ui.addr",
        "upstream_max_idle = 10000",
    ] {
        assert!(shown.out.contains(part), "{part}\n{}", shown.out);
    }
    assert!(
        shown
            .err
            .contains("proxy.maxconn (environment FABIO_PROXY_MAXCONN): \"x\" is not a whole"),
        "{}",
        shown.err
    );
}

/// The settings of a router without Consul, as a file; the listener is told by flags and the
/// environment.
fn properties(more: &str) -> String {
    format!(
        "registry.backend = file\nregistry.file.path = routes.txt\nmetrics.target = circonus\nmetrics.circonus.apikey = x\n{more}"
    )
}

#[test]
fn it_serves_reloads_and_tells_what_it_leaves_out() {
    let upstream = Upstream::start("web");
    let folder = tempfile::tempdir().unwrap();
    let routes = format!("route add web /web http://{}/\n", upstream.address);
    fs::write(folder.path().join("routes.txt"), routes).unwrap();
    fs::write(
        folder.path().join("fabio.properties"),
        properties("proxy.noroutestatus = 410\n"),
    )
    .unwrap();
    let args = ["-proxy.addr=127.0.0.1:0", "-cfg", "fabio.properties"];
    // Consul gets no request here, whatever its variables say.
    let env = [
        ("FABIO_UI_ADDR", "127.0.0.1:0"),
        ("CONSUL_HTTP_ADDR", "127.0.0.1:1"),
    ];
    let mut lb = Lb::start_fabio(folder, &args, &env);
    lb.wait_ready();
    let address = lb.address("http");
    let answer = client::get(address, "any.test", "/web/x");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(client::get(address, "any.test", "/other").status, 410);
    let told = lb.stderr();
    assert_eq!(told.matches("metrics.target").count(), 1, "{told}");
    assert!(!told.contains("registry.consul"), "{told}");

    fs::write(
        lb.folder().join("fabio.properties"),
        properties("proxy.noroutestatus = 451\n"),
    )
    .unwrap();
    lb.wait_for_line("a reload", |line| line.contains("\"reloaded"));
    assert_eq!(client::get(address, "any.test", "/other").status, 451);
    fs::write(
        lb.folder().join("fabio.properties"),
        properties("proxy.noroutestatus = 7\n"),
    )
    .unwrap();
    lb.wait_for_line("a refusal", |line| {
        line.contains("the old one stays") && line.contains("between 100 and 999")
    });
    assert_eq!(client::get(address, "any.test", "/other").status, 451);
    lb.sigterm();
    assert_eq!(lb.exit_code(), Some(0));
}

#[test]
fn every_sender_is_trusted_and_every_hop_is_checked_and_that_is_told() {
    let upstream = Upstream::start("web");
    let folder = tempfile::tempdir().unwrap();
    let routes = format!(
        "route add web / http://{0}/\nroute add web /deny http://{0}/ opts \"deny=ip:203.0.113.0/24\"\n",
        upstream.address
    );
    fs::write(folder.path().join("routes.txt"), routes).unwrap();
    let args = [
        "-proxy.addr=127.0.0.1:0",
        "-ui.addr=127.0.0.1:0",
        "-registry.backend=file",
        "-registry.file.path=routes.txt",
        "-log.access.target=stdout",
    ];
    let lb = Lb::start_fabio(folder, &args, &[]);
    lb.wait_ready();
    lb.wait_for_line("the trust in all", |line| {
        line.contains("every sender is trusted") && line.contains("0.0.0.0/0, ::/0")
    });
    let ask = |path: &str, hops: &str| {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: {hops}\r\nX-Forwarded-User: ann\r\n\r\n"
        );
        client::exchange(lb.address("http"), request).unwrap()
    };
    let seen = ask("/seen", "198.51.100.1, 203.0.113.9").text();
    for part in ["198.51.100.1, 203.0.113.9, 127.0.0.1", "x-forwarded-user"] {
        assert!(seen.contains(part), "{seen}");
    }
    let line = lb.wait_stdout("record", |line| line.contains("/seen"));
    assert!(line.starts_with("127.0.0.1 "), "{line}");
    for (hops, status) in [
        ("198.51.100.1", 200),
        ("203.0.113.9", 403),
        ("203.0.113.9, 198.51.100.1", 403),
        ("198.51.100.1, unknown", 403),
    ] {
        assert_eq!(ask("/deny", hops).status, status, "{hops}");
    }
    assert!(
        !lb.stderr().contains("that is not trusted"),
        "{}",
        lb.stderr()
    );
}

/// The wire as a running Fabio 1.7.3 wrote it for the same traffic, but for durations.
#[test]
fn metrics_have_fabios_names_wherever_they_go() {
    let upstream = Upstream::start("web");
    let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    server
        .set_read_timeout(Some(std::time::Duration::from_secs(60)))
        .unwrap();
    let statsd = format!("-metrics.statsd.addr={}", server.local_addr().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let routes = format!("route add web www.a.com/web http://{}/\n", upstream.address);
    fs::write(folder.path().join("routes.txt"), routes).unwrap();
    let args = [
        "-registry.backend=file",
        "-registry.file.path=routes.txt",
        "-proxy.addr=127.0.0.1:0,127.0.0.1:0;proto=prometheus",
        "-ui.addr=127.0.0.1:0",
        "-metrics.target=prometheus,statsd_raw,label",
        "-metrics.prefix=vm.{{clean .Exec}}",
        "-metrics.prometheus.path=/m",
        "-metrics.interval=100ms",
        &statsd,
    ];
    let lb = Lb::start_fabio(folder, &args, &[]);
    lb.wait_ready();
    let address = lb.address("http");
    assert_eq!(client::get(address, "www.a.com", "/web").status, 200);
    assert_eq!(client::get(address, "www.a.com", "/none").status, 404);

    let mut seen = String::new();
    for expected in [
        "vm.fabiorequests.service.web:".to_owned(),
        "vm.fabiohttp.status.code.200.service.web:".to_owned(),
        format!(
            "vm.fabioweb.www_a_com./web.{}:",
            upstream.address.to_string().replace(['.', ':'], "_")
        ),
        "vm.fabionotfound:1.000000|c\n".to_owned(),
        "vm.fabiows.conn:0.000000|g\n".to_owned(),
    ] {
        // A test that waits for a line that never comes ends by the time limit of the socket or of
        // the count.
        for _ in 0..600 {
            if seen.contains(&expected) {
                break;
            }
            let mut packet = [0; 2048];
            let length = server.recv(&mut packet).unwrap();
            seen.push_str(std::str::from_utf8(&packet[..length]).unwrap());
        }
        assert!(seen.contains(&expected), "{expected} not in {seen}");
    }
    lb.wait_stdout("a line with labels", |line| {
        line.starts_with("vm.fabio.http.status:") && line.ends_with("|#code:200,service:web")
    });

    let scraped = lb.address("prometheus");
    let moved = client::get(scraped, "any.test", "/");
    assert_eq!((moved.status, moved.header("location")), (308, Some("/m")));
    let text = client::get(scraped, "any.test", "/m").text();
    for sample in [
        "vm_fabio_notfound 1".to_owned(),
        "vm_fabio_requests_count{service=\"web\"} 1".to_owned(),
        "vm_fabio_http_status_bucket{code=\"200\",service=\"web\",le=\"+Inf\"} 1".to_owned(),
        format!(
            "vm_fabio_route_count{{host=\"www.a.com\",path=\"/web\",service=\"web\",target=\"http://{}/\"}} 1",
            upstream.address
        ),
    ] {
        assert!(
            text.lines().any(|line| line == sample),
            "{sample} not in\n{text}"
        );
    }
    assert!(lb.admin("/m").1.contains("\nvm_fabio_notfound 1"));
}

/// Fabio refuses requests with 401 where a scheme is not configured; a 401 needs a challenge all
/// the same.
#[test]
fn an_unknown_scheme_is_refused_as_fabio_does_and_with_a_challenge() {
    let upstream = Upstream::start("web");
    let routes = format!(
        "-registry.static.routes=route add web /a http://{} opts \"auth=none\"",
        upstream.address
    );
    let args = [
        "-registry.backend=static",
        &routes,
        "-proxy.addr=127.0.0.1:0",
        "-ui.addr=127.0.0.1:0",
    ];
    let lb = Lb::start_fabio(tempfile::tempdir().unwrap(), &args, &[]);
    lb.wait_ready();
    let answer = client::get(lb.address("http"), "any.test", "/a");
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (401, "authorization failed\n")
    );
    assert_eq!(
        answer.header("www-authenticate"),
        Some("Basic realm=\"lb\"")
    );
    assert_eq!(upstream.requests(), 0);
    lb.wait_for_line("a warning", |line| {
        line.contains("WARN") && line.contains("there is no [auth.none]")
    });
}

#[test]
fn standard_output_is_told_at_once_and_once() {
    let args = [
        "-registry.backend=static",
        "-registry.static.routes=route add away away.test/ https://to.test/ opts \"redirect=302\"",
        "-proxy.addr=127.0.0.1:0",
        "-ui.addr=127.0.0.1:0",
        "-metrics.target=stdout",
        "-metrics.prefix=p",
    ];
    let lb = Lb::start_fabio(tempfile::tempdir().unwrap(), &args, &[]);
    lb.wait_ready();
    let address = lb.address("http");
    assert_eq!(client::get(address, "any.test", "/none").status, 404);
    lb.wait_stdout("a count", |line| line == "p.notfound:1|c");
    assert_eq!(client::get(address, "away.test", "/").status, 302);
    lb.wait_stdout("another one", |line| {
        line == "p.http.redirect.count.code.302:1|c"
    });
    let said = fs::read_to_string(lb.folder().join("stdout")).unwrap();
    assert_eq!(said.matches("p.notfound:1|c\n").count(), 1, "{said}");
}

#[test]
fn the_printed_configuration_is_what_runs() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("routes.txt"), "").unwrap();
    let addresses = [
        "-proxy.addr",
        "127.0.0.1:0;rt=3s",
        "-ui.addr",
        "127.0.0.1:0",
    ];
    let routes = folder.path().join("routes.txt");
    let registry = [
        "-registry.backend",
        "file",
        "-registry.file.path",
        routes.to_str().unwrap(),
    ];
    let args = [
        &addresses[..],
        &registry,
        &[
            "-proxy.strategy",
            "rr",
            "-proxy.header.clientip",
            "X-Client",
        ],
    ]
    .concat();
    let printed = fabio(&[&args[..], &["-print-config"]].concat());
    assert_eq!((printed.code, printed.err.as_str()), (Some(0), ""));
    let lived = |lb: &Lb| lb.admin("/api/config").1;
    let as_run = Lb::start_with(&printed.out, &[], &[("LB_LOG_FORMAT", "json")]);
    let as_fabio = Lb::start_fabio(tempfile::tempdir().unwrap(), &args, &[]);
    assert_eq!(lived(&as_fabio), lived(&as_run));
    assert!(
        lived(&as_run).contains("\"header_timeout\":\"3s\""),
        "{}",
        lived(&as_run)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn it_reads_consul() {
    let upstream = Upstream::start("web");
    let consul = FakeConsul::start().await;
    consul.set("web", &[upstream.address.port()]);
    let address = consul.address.to_string();
    let text = tokio::task::spawn_blocking(move || {
        let addresses = [
            "-proxy.addr=127.0.0.1:0",
            "-ui.addr=127.0.0.1:0",
            "-registry.consul.addr",
            &address,
        ];
        let args = [&addresses[..], &["-registry.consul.register.enabled=false"]].concat();
        let lb = Lb::start_fabio(
            tempfile::tempdir().unwrap(),
            &args,
            &[("CONSUL_HTTP_ADDR", "127.0.0.1:1")],
        );
        lb.wait_ready();
        assert!(!lb.stderr().contains("register.enabled"), "{}", lb.stderr());
        client::get(lb.address("http"), "any.test", "/web").text()
    });
    assert!(text.await.unwrap().contains("web"));
}
