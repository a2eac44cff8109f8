//! A new configuration in a running process: what changes, what stays, and what it costs (nothing).

use std::path::Path;
use std::time::Duration;

use super::support::certs::Ca;
use super::support::client::{self, Load, RawClient};
use super::support::lb::Lb;
use super::support::upstream::Upstream;
use super::wire::*;
use crate::support::loopback::free_port;
use crate::support::wait::wait_until;

fn web(upstream: &Upstream, more: &str) -> String {
    config(
        &(listener("http", "")
            + &route("web", "web/", &[url("http", upstream.address)], "")
            + "[proxy]\nworkers = 2\n"
            + more),
    )
}

fn rewrite(lb: &Lb, text: &str) {
    std::fs::write(lb.folder().join("lb.toml"), text).unwrap();
}

fn reloads(lb: &Lb) -> usize {
    lb.stderr()
        .lines()
        .filter(|line| line.contains("\"message\":\"reloaded"))
        .count()
}

fn reload(lb: &Lb, text: &str) {
    let before = reloads(lb);
    rewrite(lb, text);
    lb.sighup();
    wait_until("a reload", || reloads(lb) > before);
}

#[test]
fn a_changed_key_takes_effect_by_signal_and_by_file() {
    let upstream = Upstream::start("u");
    let lb = Lb::start(&web(&upstream, ""));
    let address = lb.address("http");
    let mut open = RawClient::connect(address);
    let request = "GET / HTTP/1.1\r\nHost: nowhere\r\n\r\n";
    assert_eq!(open.send(request).response().unwrap().status, 404);
    reload(&lb, &web(&upstream, "no_route_status = 418\n"));
    assert_eq!(client::get(address, "nowhere", "/").status, 418);
    assert_eq!(
        open.send(request).response().unwrap().status,
        418,
        "on a connection from before"
    );
    // Without a signal.
    rewrite(&lb, &web(&upstream, "no_route_status = 410\n"));
    wait_until("the file to be noticed", || {
        client::get(address, "nowhere", "/").status == 410
    });
    assert_eq!(open.send(request).response().unwrap().status, 410);
    lb.wait_admin("/api/config", "410", |body| body.contains("410"));
}

#[test]
fn a_static_route_and_the_log_level_change() {
    let (one, two) = (Upstream::start("one"), Upstream::start("two"));
    let lb = Lb::start(&web(&one, ""));
    let address = lb.address("http");
    assert_eq!(
        client::get(address, "web", "/").header("x-instance"),
        Some("one")
    );
    assert!(!lb.stderr().contains("\"level\":\"DEBUG\""));
    reload(&lb, &web(&two, "[log]\nlevel = \"debug\"\n"));
    wait_until("the other one", || {
        client::get(address, "web", "/").header("x-instance") == Some("two")
    });
    two.kill();
    assert_eq!(client::get(address, "web", "/").status, 502);
    lb.wait_for_line("a line of that level", |line| {
        line.contains("\"level\":\"DEBUG\"")
    });
}

#[test]
fn access_rules_of_a_routes_file_take_effect() {
    let upstream = Upstream::start("u");
    let folder = tempfile::tempdir().unwrap();
    let routes = folder.path().join("routes.txt");
    let add = |options: &str| {
        format!(
            "route add web web/ http://{}/ {options}\n",
            upstream.address
        )
    };
    std::fs::write(&routes, add("")).unwrap();
    let lb = Lb::start(&config(
        &(format!("routes_file = {routes:?}\n") + &listener("http", "")),
    ));
    let address = lb.address("http");
    assert_eq!(client::get(address, "web", "/").status, 200);
    std::fs::write(&routes, add("opts \"deny=ip:127.0.0.1\"")).unwrap();
    wait_until("a refusal", || {
        client::get(address, "web", "/").status == 403
    });
    // A line that makes no sense leaves the rest and what was there.
    std::fs::write(
        &routes,
        add("opts \"allow=ip:127.0.0.1\"") + "route nonsense\n",
    )
    .unwrap();
    wait_until("an error or the change", || {
        client::get(address, "web", "/").status == 200 || lb.stderr().contains("nonsense")
    });
    std::fs::write(&routes, add("opts \"allow=ip:127.0.0.1\"")).unwrap();
    wait_until("the permission", || {
        client::get(address, "web", "/").status == 200
    });
}

#[test]
fn a_bad_configuration_is_reported_counted_and_ignored() {
    let upstream = Upstream::start("u");
    let lb = Lb::start(&web(&upstream, "no_route_status = 418\n"));
    let address = lb.address("http");
    let errors = "lb_reload_errors_total{kind=\"config\"}";
    let missing = Path::new("/nonexistent/page.html");
    let bad = [
        (
            web(&upstream, "no_route_status = 410\nno_route_stat = 1\n"),
            "did you mean",
        ),
        ("nonsense".to_owned(), "the old one stays"),
        (
            web(
                &upstream,
                &format!("no_route_status = 410\nno_route_page = {missing:?}\n"),
            ),
            "no_route_page",
        ),
        (
            web(
                &upstream,
                &format!("no_route_status = 410\nupstream_ca_file = {missing:?}\n"),
            ),
            "upstream_ca_file",
        ),
        (
            web(
                &upstream,
                &format!(
                    "no_route_status = 410\n[certificates.x]\nsource = \"file\"\ncert_file = {missing:?}\nkey_file = {missing:?}\n"
                ),
            ),
            "certificates.x",
        ),
    ];
    for (at, (text, words)) in bad.iter().enumerate() {
        rewrite(&lb, text);
        lb.sighup();
        wait_until("a counted refusal", || {
            lb.metric(errors).is_some_and(|count| count > at as f64)
        });
        lb.wait_for_line(words, |line| line.contains("ERROR") && line.contains(words));
        assert_eq!(client::get(address, "nowhere", "/").status, 418, "{words}");
    }
    assert_eq!(client::get(address, "web", "/").status, 200);
}

#[test]
fn keys_that_need_a_restart_are_named() {
    let upstream = Upstream::start("u");
    let lb = Lb::start(&web(&upstream, ""));
    let text = web(&upstream, "no_route_status = 418\n").replace("workers = 2", "workers = 1");
    reload(&lb, &text);
    let line = lb.wait_for_line("the keys", |line| line.contains("need a restart"));
    assert!(
        line.contains("proxy.workers") && !line.contains("no_route_status"),
        "{line}"
    );
    assert_eq!(
        client::get(lb.address("http"), "nowhere", "/").status,
        418,
        "the rest is taken over"
    );
}

/// Whether a source comes or goes is settled at the start: the log names the key. What a source says
/// follows the configuration all the same, and neither source is disturbed by the other.
#[test]
fn of_two_sources_one_is_taken_away_and_put_back() {
    let (fixed, filed) = (Upstream::start("fixed"), Upstream::start("filed"));
    let folder = tempfile::tempdir().unwrap();
    let routes = folder.path().join("routes.txt");
    std::fs::write(
        &routes,
        format!("route add filed filed/ http://{}/\n", filed.address),
    )
    .unwrap();
    let file = format!("routes_file = {routes:?}\n");
    let route = route("fixed", "fixed/", &[url("http", fixed.address)], "");
    let text = |file: &str, route: &str| config(&(file.to_owned() + &listener("http", "") + route));
    let lb = Lb::start(&text(&file, &route));
    let address = lb.address("http");
    let served = |host: &str| client::get(address, host, "/").status;
    let names = || -> Vec<String> {
        let sources: serde_json::Value = serde_json::from_str(&lb.admin("/api/sources").1).unwrap();
        let all = sources.as_array().unwrap().iter();
        all.map(|source| {
            assert_eq!(source["state"], "ok", "{source}");
            source["name"].as_str().unwrap().to_owned()
        })
        .collect()
    };
    let restarts = |key: &str| {
        let lines = lb.stderr();
        let lines = lines.lines().filter(|line| line.contains("need a restart"));
        lines
            .filter(|line| line.contains(&format!("\"keys\":\"{key}\"")))
            .count()
    };
    assert_eq!((served("fixed"), served("filed")), (200, 200));
    assert_eq!(names(), ["routes_file", "static"]);

    reload(&lb, &text(&file, ""));
    wait_until("the end of its route", || served("fixed") == 404);
    assert_eq!((served("filed"), restarts("static.route")), (200, 1));
    reload(&lb, &text(&file, &route));
    wait_until("its route", || served("fixed") == 200);
    assert_eq!((served("filed"), restarts("static.route")), (200, 2));

    // The file is followed until the restart, so its route goes on.
    reload(&lb, &text("", &route));
    assert_eq!((served("filed"), restarts("routes_file")), (200, 1));
    reload(&lb, &text(&file, &route));
    assert_eq!((served("filed"), restarts("routes_file")), (200, 2));
    std::fs::write(&routes, "# no route\n").unwrap();
    wait_until("what the file says", || served("filed") == 404);
    assert_eq!(served("fixed"), 200);
    assert_eq!(names(), ["routes_file", "static"]);
    assert_eq!(lb.admin("/ready").0, 200);
}

/// Listeners come, change and go; those that stay notice nothing.
#[test]
fn listeners_are_opened_changed_and_closed() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new("ca");
    let files = ca.pair(&["web"]).write(folder.path(), "site");
    let upstream = Upstream::start("u");
    let certificates = format!(
        "[certificates.main]\nsource = \"file\"\ncert_file = {:?}\nkey_file = {:?}\n",
        files.cert, files.key
    );
    let lb = Lb::start(&web(&upstream, ""));
    let stays = lb.address("http");
    let mut open = RawClient::connect(stays);
    let request = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";
    assert_eq!(open.send(request).response().unwrap().status, 200);

    let added = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let second = format!("[[listener]]\naddress = \"{added}\"\nprotocol = \"http\"\n");
    reload(&lb, &web(&upstream, &second));
    assert_eq!(client::get(added, "web", "/").status, 200);
    let mut old = RawClient::connect(added);
    assert_eq!(old.send(request).response().unwrap().status, 200);

    // The same address with TLS and a pair that is new too.
    let secure =
        second.replace("\"http\"", "\"https\"") + "certificates = \"main\"\n" + &certificates;
    reload(&lb, &web(&upstream, &secure));
    block_on(async {
        let trust = super::tls::Trust::new(&ca).with_alpn(&["h2"]);
        // The old form may take what comes while it closes.
        let stream = loop {
            if let Ok(stream) = trust.connect(added, "web").await {
                break stream;
            }
        };
        let (mut client, _) = h2_on(stream, 1 << 20).await;
        assert_eq!(ask(&mut client, get("https://web/")).await.0.status, 200);
    });
    assert!(old.is_closed(), "its listener is gone, and it was idle");

    reload(&lb, &web(&upstream, ""));
    wait_until("the end of the listener", || {
        std::net::TcpStream::connect(added).is_err()
    });
    assert_eq!(
        open.send(request).response().unwrap().status,
        200,
        "on the connection from before"
    );
    assert_eq!(client::get(stays, "web", "/").status, 200);

    // An address that another process has: refused as a whole.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!(
        "[[listener]]\naddress = \"{}\"\nprotocol = \"http\"\n",
        other.local_addr().unwrap()
    );
    rewrite(
        &lb,
        &web(&upstream, &("no_route_status = 418\n".to_owned() + &taken)),
    );
    lb.sighup();
    lb.wait_for_line("a refusal", |line| {
        line.contains("not reloaded") && line.contains("cannot listen on")
    });
    assert_eq!(client::get(stays, "nowhere", "/").status, 404);
}

#[test]
fn twenty_reloads_under_load_fail_no_request() {
    let upstream = Upstream::start("u");
    let text = |n: u32| {
        // A listener comes and goes with every second one, and the routes change with each.
        let extra = if n.is_multiple_of(2) {
            ""
        } else {
            "[[listener]]\naddress = \"127.0.0.2:0\"\nprotocol = \"http\"\n"
        };
        let more = route(
            &format!("s{n}"),
            &format!("s{n}/"),
            &[url("http", upstream.address)],
            "",
        );
        web(
            &upstream,
            &format!("max_headers = {}\n{extra}{more}", 100 + n),
        )
    };
    let lb = Lb::start(&text(0));
    let load = Load::new(lb.address("http"), "web", "/", 500);
    let outcome = block_on(async {
        let running = tokio::spawn(async move { load.run(Duration::from_millis(2000)).await });
        for n in 1..=20 {
            reload(&lb, &text(n));
            // Routes follow on a path of their own: names in them may have to be resolved.
            wait_until("the new route", || {
                client::get(lb.address("http"), &format!("s{n}"), "/").status == 200
            });
        }
        running.await.unwrap()
    });
    outcome.assert_none_failed();
    assert!(reloads(&lb) >= 20);
}

/// A file that is truncated, written in parts, and read in the midst of it.
#[test]
fn a_half_written_configuration_takes_nothing_away() {
    let upstream = Upstream::start("u");
    let whole = web(&upstream, "");
    let lb = Lb::start(&whole);
    let address = lb.address("http");
    let load = Load::new(address, "web", "/", 200).start();
    let cuts = [
        0,
        1,
        whole.find("[[static.route]]").unwrap(),
        whole.find("[admin]").unwrap(),
        whole.len() - 1,
    ];
    for round in 0..15 {
        rewrite(&lb, &whole[..cuts[round % cuts.len()]]);
        lb.sighup();
        std::thread::sleep(Duration::from_millis([5, 60, 300][round % 3]));
        rewrite(&lb, &whole);
        std::thread::sleep(Duration::from_millis(20));
    }
    let before = reloads(&lb);
    lb.sighup();
    wait_until("a reload of the whole file", || reloads(&lb) > before);
    load.stop().assert_none_failed();
    assert!(!lb.stderr().contains("listener closed"), "{}", lb.stderr());
    // What is meant counts in the end.
    let (head, rest) = whole.split_at(whole.find("[[static.route]]").unwrap());
    let without = head.to_owned()
        + &rest[rest.find("[proxy]").unwrap()..]
        + "[consul]\naddress = \"http://127.0.0.1:1\"\n";
    rewrite(
        &lb,
        &(without + &route("other", "other/", &[url("http", upstream.address)], "")),
    );
    wait_until("the route to go", || {
        client::get(address, "web", "/").status == 404
    });
    assert_eq!(client::get(address, "other", "/").status, 200);
}
