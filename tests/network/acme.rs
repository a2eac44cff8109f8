//! Certificates by ACME, with pebble: one lb with a folder, three with Consul, and what goes wrong.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::CertificateDer;
use serde_json::Value;

use super::support::certs::Ca;
use super::support::client::get;
use super::support::consul::ConsulAgent;
use super::support::lb::Lb;
use super::support::loopback::free_address;
use super::support::pebble::{EXTERNAL_KEY, Options, Pebble};
use super::support::turn::Turn;
use super::support::wait::{try_wait, wait_until};
use super::tls::{Trust, shown};
use super::wire::*;

const PASSPHRASE: &str = "hush-passphrase-of-a-test";
/// An owner that was killed is succeeded within this time, and then has to order.
const SUCCESSION: Duration = Duration::from_secs(150);

/// A balancer that orders certificates for these hosts, at `ip`, where pebble looks for it.
struct Orders<'a> {
    pebble: &'a Pebble,
    hosts: Vec<String>,
    ip: String,
    /// More of `[certificates.main]`.
    source: String,
    /// More of the HTTPS listener.
    listener: String,
    /// More of everything.
    more: String,
}

impl<'a> Orders<'a> {
    fn new(pebble: &'a Pebble, hosts: &[&str]) -> Self {
        Self {
            pebble,
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            ip: "127.0.0.1".to_owned(),
            source: String::new(),
            listener: String::new(),
            more: String::new(),
        }
    }

    fn in_folder(mut self, folder: &Path) -> Self {
        let folder = folder.display();
        write!(self.source, "store = \"folder\"\nfolder = \"{folder}\"\n").unwrap();
        self
    }

    fn source(mut self, line: &str) -> Self {
        writeln!(self.source, "{line}").unwrap();
        self
    }

    fn text(&self) -> String {
        let Pebble {
            http_port,
            tls_port,
            ..
        } = self.pebble;
        let mut text = format!(
            "{more}\n[[listener]]\naddress = \"{ip}:{http_port}\"\nprotocol = \"http\"\n\
             [[listener]]\naddress = \"{ip}:{tls_port}\"\nprotocol = \"https\"\n\
             certificates = \"main\"\n{listener}\n\
             [certificates.main]\nsource = \"acme\"\ndirectory = \"{directory}\"\n\
             ca_file = \"{ca}\"\nemail = \"ops@acme.test\"\nnames = [\"*.acme.test\"]\n{source}\n",
            more = self.more,
            ip = self.ip,
            listener = self.listener,
            directory = self.pebble.directory(),
            ca = self.pebble.ca_file().display(),
            source = self.source,
        );
        let nowhere = ["http://127.0.0.1:9".to_owned()];
        for (number, host) in self.hosts.iter().enumerate() {
            let source = format!("{host}/");
            text += &route(&format!("web-{number}"), &source, &nowhere, "");
        }
        config(&text)
    }

    fn start(&self) -> Lb {
        Lb::start(&self.text())
    }

    fn tls(&self) -> SocketAddr {
        format!("{}:{}", self.ip, self.pebble.tls_port)
            .parse()
            .unwrap()
    }

    fn http(&self) -> SocketAddr {
        format!("{}:{}", self.ip, self.pebble.http_port)
            .parse()
            .unwrap()
    }
}

fn certificate(trust: &Trust, address: SocketAddr, host: &str) -> Option<CertificateDer<'static>> {
    block_on(async {
        trust
            .connect(address, host)
            .await
            .ok()
            .map(|stream| shown(&stream))
    })
}

/// Waits until every host has a certificate that clients trust.
fn wait_for_all(orders: &Orders<'_>, trust: &Trust, limit: Duration) {
    for host in &orders.hosts {
        let waited = try_wait(limit, format!("a certificate of {host}"), || {
            certificate(trust, orders.tls(), host)
        });
        waited.unwrap();
    }
}

/// What `/api/certificates` says of a name.
fn row(lb: &Lb, name: &str) -> Value {
    let (_, body) = lb.admin("/api/certificates");
    let rows: Vec<Value> = serde_json::from_str(&body).unwrap();
    let found = rows.into_iter().find(|row| row["name"] == name);
    found.unwrap_or_default()
}

fn state(lb: &Lb, name: &str) -> String {
    row(lb, name)["state"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn one_lb_orders_what_is_routed_and_named_and_keeps_it_in_a_folder() {
    let Some(pebble) = Pebble::start("acme in a folder", Options::default()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let hosts = ["a.acme.test", "b.acme.test"];
    // What is routed and not named, and a wildcard without dns-01.
    let more = route(
        "other",
        "c.other.test/",
        &["http://127.0.0.1:9".to_owned()],
        "",
    ) + &route(
        "wild",
        "*.acme.test/",
        &["http://127.0.0.1:9".to_owned()],
        "",
    );
    let orders = Orders::new(&pebble, &hosts).in_folder(folder.path());
    let orders = Orders { more, ..orders };
    let lb = orders.start();
    // `/ready` does not wait for certificates.
    lb.wait_ready();
    let trust = Trust::with_pem(&pebble.root());
    wait_for_all(&orders, &trust, SUCCESSION);
    // What a client names and no route has is not ordered, and not shown another certificate.
    assert!(certificate(&trust, orders.tls(), "x.acme.test").is_none());
    assert!(certificate(&trust, orders.tls(), "c.other.test").is_none());
    let row = wait_until("the state", || {
        Some(row(&lb, hosts[0])).filter(|it| it["state"] == "valid")
    });
    assert_eq!(
        (&row["kind"], &row["source"]),
        (&"acme".into(), &"main".into())
    );
    assert!(row["seconds_left"].as_i64().unwrap() > 80 * 86_400);
    assert_eq!(state(&lb, "*.acme.test"), "refused");
    assert_eq!(
        lb.metric("lb_acme_orders_total{result=\"issued\"}"),
        Some(2.0)
    );
    assert_eq!(
        lb.metric("lb_acme_orders_total{result=\"failed\"}"),
        Some(0.0)
    );
    let expiry = "lb_certificate_expiry_timestamp_seconds{source=\"acme\",name=\"a.acme.test\"}";
    assert!(lb.metric(expiry).is_some());
    assert_eq!(pebble.orders(), 2);
    // Files are for lb alone.
    let mut files = Vec::new();
    for entry in ["certificates", "orders", "."] {
        let below = fs::read_dir(folder.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        let below = fs::read_dir(below.path().join(entry)).unwrap();
        files.extend(
            below
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.is_file()),
        );
    }
    assert_eq!(files.len(), 4, "{files:?}");
    for file in &files {
        let mode = fs::metadata(file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file:?}");
    }
    // A restart serves what there is and orders nothing.
    let before = certificate(&trust, orders.tls(), hosts[0]);
    drop(lb);
    let lb = orders.start();
    lb.wait_ready();
    wait_for_all(&orders, &trust, SUCCESSION);
    assert_eq!(certificate(&trust, orders.tls(), hosts[0]), before);
    wait_until("the state", || state(&lb, hosts[1]) == "valid");
    assert_eq!(pebble.orders(), 2);
    assert!(!lb.stderr().contains("PRIVATE KEY"));
}

#[test]
fn a_validation_is_answered_under_strict_sni_and_client_certificates() {
    let Some(pebble) = Pebble::start("acme under client certificates", Options::default()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new("clients");
    let cas = folder.path().join("clients.pem");
    fs::write(&cas, &ca.pem).unwrap();
    let orders = Orders::new(&pebble, &["a.acme.test"])
        .in_folder(folder.path())
        .source(&format!("client_ca_file = \"{}\"", cas.display()));
    let orders = Orders {
        listener: "strict_sni = true".to_owned(),
        ..orders
    };
    let lb = orders.start();
    wait_until("the certificate", || state(&lb, "a.acme.test") == "valid");
    assert_eq!(pebble.orders(), 1);
}

#[test]
fn http_01_is_answered_before_routes_and_nothing_else_is() {
    let Some(pebble) = Pebble::start("acme by http-01", Options::default()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let orders = Orders::new(&pebble, &["a.acme.test"])
        .in_folder(folder.path())
        .source("challenge = \"http-01\"");
    // A redirect of everything, and one address that may enter.
    let to = ["https://elsewhere.test".to_owned()];
    let more = route("r", "redirected.acme.test/", &to, "redirect=301")
        + &route(
            "d",
            "denied.acme.test/",
            &["http://127.0.0.1:9".to_owned()],
            "allow=ip:10.0.0.0/8",
        );
    let orders = Orders { more, ..orders };
    let lb = orders.start();
    let trust = Trust::with_pem(&pebble.root());
    for host in ["a.acme.test", "redirected.acme.test", "denied.acme.test"] {
        wait_until(format!("a certificate of {host}"), || {
            certificate(&trust, orders.tls(), host)
        });
    }
    assert_eq!(pebble.orders(), 3);
    // Another token is a path like any other.
    let path = "/.well-known/acme-challenge/unknown";
    assert_eq!(get(orders.http(), "redirected.acme.test", path).status, 301);
    assert_eq!(get(orders.http(), "denied.acme.test", path).status, 403);
    drop(lb);
}

#[test]
fn a_name_that_is_refused_is_tried_seldom_and_holds_up_no_other() {
    let Some(pebble) = Pebble::start("acme with a refused name", Options::default()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    // Validated where nothing responds.
    pebble.host_at("dead.acme.test", &free_address());
    let hosts = ["blocked.acme.test", "dead.acme.test", "z.acme.test"];
    let orders = Orders::new(&pebble, &hosts).in_folder(folder.path());
    let lb = orders.start();
    let trust = Trust::with_pem(&pebble.root());
    wait_until("the good one", || {
        certificate(&trust, orders.tls(), "z.acme.test")
    });
    for host in ["blocked.acme.test", "dead.acme.test"] {
        let row = wait_until(format!("the failure of {host}"), || {
            Some(row(&lb, host)).filter(|row| row["state"] == "failing")
        });
        assert!(
            row["reason"].as_str().unwrap().contains("ACME server"),
            "{row}"
        );
        assert!(row["next_try"].is_string(), "{row}");
    }
    let tries = || pebble.log().matches("blocked.acme.test").count();
    wait_until("three tries", || {
        lb.metric("lb_acme_failures_total{kind=\"refused\"}")
            .is_some_and(|count| count >= 6.0)
    });
    let after_three = tries();
    // A restart remembers.
    drop(lb);
    let lb = orders.start();
    wait_until("the failure", || {
        state(&lb, "blocked.acme.test") == "failing"
    });
    wait_until("the good one", || {
        certificate(&trust, orders.tls(), "z.acme.test")
    });
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(tries(), after_three);
}

#[test]
fn an_external_account_is_bound() {
    let options = Options {
        external: true,
        ..Options::default()
    };
    let Some(pebble) = Pebble::start("acme with an external account", options) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("hmac");
    fs::write(&key, format!("{EXTERNAL_KEY}\n")).unwrap();
    let orders = Orders::new(&pebble, &["a.acme.test"]).in_folder(folder.path());
    // Without it: told, and nothing is ordered.
    let lb = orders.start();
    wait_until("the refusal", || {
        lb.metric("lb_acme_failures_total{kind=\"account\"}")
            .is_some_and(|count| count > 0.0)
    });
    assert_eq!(pebble.orders(), 0);
    drop(lb);
    let orders = orders
        .source("eab_kid = \"kid-1\"")
        .source(&format!("eab_hmac_file = \"{}\"", key.display()));
    let lb = orders.start();
    let trust = Trust::with_pem(&pebble.root());
    wait_for_all(&orders, &trust, SUCCESSION);
    assert!(!lb.stderr().contains(EXTERNAL_KEY));
}

#[test]
fn a_program_sets_records_for_wildcards() {
    let Some(pebble) = Pebble::start("acme by dns-01", Options::default()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (hook, log) = (folder.path().join("hook"), folder.path().join("hook.log"));
    let script = format!(
        "#!/bin/sh\nset -e\necho \"$1 $2\" >> {log}\n\
         case $1 in\n\
         present) curl -sS --fail -d \"{{\\\"host\\\":\\\"$2.\\\",\\\"value\\\":\\\"$3\\\"}}\" {url}/set-txt;;\n\
         cleanup) curl -sS --fail -d \"{{\\\"host\\\":\\\"$2.\\\"}}\" {url}/clear-txt;;\nesac\n",
        log = log.display(),
        url = pebble.names_url(),
    );
    fs::write(&hook, script).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let orders = Orders::new(&pebble, &["*.acme.test"])
        .in_folder(folder.path())
        .source("challenge = \"dns-01\"")
        .source(&format!("dns = {{ exec = \"{}\" }}", hook.display()));
    let lb = orders.start();
    let trust = Trust::with_pem(&pebble.root());
    wait_until("the certificate", || {
        certificate(&trust, orders.tls(), "any.acme.test")
    });
    assert_eq!(state(&lb, "*.acme.test"), "valid");
    let said = fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    let name = "_acme-challenge.acme.test";
    assert_eq!(
        lines,
        [format!("present {name}"), format!("cleanup {name}")]
    );
}

#[test]
fn renewals_fail_no_handshake() {
    let options = Options {
        life: 45,
        ..Options::default()
    };
    let Some(pebble) = Pebble::start("acme renewals", options) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let orders = Orders::new(&pebble, &["a.acme.test", "b.acme.test"]).in_folder(folder.path());
    let lb = orders.start();
    let trust = Trust::with_pem(&pebble.root());
    wait_for_all(&orders, &trust, SUCCESSION);
    let (mut seen, mut handshakes) = (BTreeSet::new(), 0);
    let begun = Instant::now();
    while seen.len() < 4 && begun.elapsed() < SUCCESSION {
        for host in &orders.hosts {
            let found = certificate(&trust, orders.tls(), host);
            let found = found.unwrap_or_else(|| panic!("{host}: handshake {handshakes} failed"));
            seen.insert(found.to_vec());
            handshakes += 1;
        }
    }
    assert!(
        seen.len() >= 4,
        "{} certificates in {handshakes} handshakes",
        seen.len()
    );
    assert_eq!(
        lb.metric("lb_acme_orders_total{result=\"failed\"}"),
        Some(0.0)
    );
}

/// Three balancers at addresses of their own that share a Consul, and the host that each of them is
/// validated at.
fn three<'a>(
    pebble: &'a Pebble,
    consul: &ConsulAgent,
    folder: &Path,
    hosts: &[&str],
) -> Vec<Orders<'a>> {
    let passphrase = folder.join("passphrase");
    fs::write(&passphrase, PASSPHRASE).unwrap();
    let all: Vec<Orders<'_>> = (0..3)
        .map(|_| {
            let orders = Orders::new(pebble, hosts).source(&format!(
                "key_passphrase_file = \"{}\"",
                passphrase.display()
            ));
            Orders {
                ip: free_address(),
                more: format!("[consul]\naddress = \"{}\"\n", consul.address()),
                ..orders
            }
        })
        .collect();
    for (number, host) in hosts.iter().enumerate() {
        pebble.host_at(host, &all[number % 3].ip);
    }
    all
}

/// What is below `lb/acme`: keys with their values.
fn stored(consul: &ConsulAgent) -> Vec<(String, String)> {
    let Ok((200, body)) = consul.try_api("GET", "/v1/kv/lb/acme?recurse", None) else {
        return Vec::new();
    };
    let entries: Vec<Value> = serde_json::from_str(&body).unwrap_or_default();
    let text = |entry: &Value| {
        let value = entry["Value"].as_str().unwrap_or_default();
        String::from_utf8_lossy(&BASE64_STANDARD.decode(value).unwrap()).into_owned()
    };
    let key = |entry: &Value| entry["Key"].as_str().unwrap().to_owned();
    entries.iter().map(|it| (key(it), text(it))).collect()
}

fn is_owner(lb: &Lb) -> bool {
    lb.stderr().contains("this lb orders certificates")
}

#[test]
fn three_lb_make_one_order_for_each_name_and_succeed_one_that_is_killed() {
    let options = Options {
        at_once: false,
        ..Options::default()
    };
    let Some(pebble) = Pebble::start("acme with three lb", options) else {
        return;
    };
    let _turn = Turn::of("acme");
    let consul = ConsulAgent::start_plain();
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..9)
        .map(|number| format!("h{number}.acme.test"))
        .collect();
    let hosts: Vec<&str> = names.iter().map(String::as_str).collect();
    let all = three(&pebble, &consul, folder.path(), &hosts);
    let mut lbs: Vec<Lb> = all.iter().map(Orders::start).collect();
    // The owner is killed in the middle of its orders.
    let owner = wait_until("an owner that has ordered", || {
        lbs.iter()
            .position(|lb| lb.stderr().contains("certificate ordered"))
    });
    lbs[owner].signal("KILL");
    let killed = Instant::now();
    lbs[owner].exit_code();
    lbs.remove(owner);
    let next = try_wait(Duration::from_secs(60), "its successor", || {
        lbs.iter().position(is_owner)
    });
    println!("succeeded by {next:?} after {:?}", killed.elapsed());
    next.unwrap();
    // Those that are validated at the dead one go there again once it is back.
    lbs.push(all[owner].start());
    let trust = Trust::with_pem(&pebble.root());
    for orders in &all {
        wait_for_all(orders, &trust, SUCCESSION);
    }
    // What the dead one could not respond to may have been refused; the rest is one order for each.
    let refused = pebble.log().matches("set INVALID by invalid authz").count();
    let (orders, issued) = (pebble.orders(), pebble.issued());
    assert!(
        orders <= hosts.len() + 1 + refused,
        "{orders} orders, {refused} of them refused"
    );
    assert!(issued <= hosts.len() + 1, "{issued} issued");
    // One key for each name, and no private key that could be read.
    let keys = wait_until("the end of all orders", || {
        let stored = stored(&consul);
        let pending = stored.iter().any(|(key, _)| key.contains("/orders/"));
        if pending {
            Err(format!("{stored:?}"))
        } else {
            Ok(stored)
        }
    });
    assert_eq!(
        keys.len(),
        hosts.len() + 2,
        "{:?}",
        keys.iter().map(|it| &it.0).collect::<Vec<_>>()
    );
    for (key, text) in &keys {
        assert!(
            !text.contains("PRIVATE KEY") && !text.contains("key_pkcs8"),
            "{key}: {text}"
        );
    }
    for lb in &lbs {
        let log = lb.stderr();
        assert!(!log.contains(PASSPHRASE) && !log.contains("PRIVATE KEY"));
    }
}

#[test]
fn what_goes_wrong_around_it_takes_nothing_from_handshakes() {
    let Some(pebble) = Pebble::start("acme when all is away", Options::default()) else {
        return;
    };
    let _turn = Turn::of("acme");
    let mut consul = ConsulAgent::start_plain();
    let folder = tempfile::tempdir().unwrap();
    let all = three(
        &pebble,
        &consul,
        folder.path(),
        &["a.acme.test", "b.acme.test", "c.acme.test"],
    );
    let lbs: Vec<Lb> = all.iter().map(Orders::start).collect();
    let trust = Trust::with_pem(&pebble.root());
    for orders in &all {
        wait_for_all(orders, &trust, SUCCESSION);
    }
    assert_eq!(pebble.orders(), 3);
    let served = |orders: &Orders<'_>| {
        let hosts = orders.hosts.iter();
        hosts
            .filter(|host| certificate(&trust, orders.tls(), host).is_some())
            .count()
    };
    // Garbage: told by all, and what was served is served on.
    let (key, good) = stored(&consul)
        .into_iter()
        .find(|(key, _)| key.ends_with("/certificates/a.acme.test"))
        .unwrap();
    consul.put_key(&key, "garbage");
    for (orders, lb) in all.iter().zip(&lbs) {
        wait_until("the report of garbage", || {
            lb.metric("lb_certificate_errors{source=\"certificates.main\"}") == Some(1.0)
        });
        assert_eq!(served(orders), 3);
    }
    consul.put_key(&key, &good);
    wait_until("the mended value", || {
        lbs[0].metric("lb_certificate_errors{source=\"certificates.main\"}") == Some(0.0)
    });
    // Another passphrase: told, nothing ordered, nothing overwritten.
    let before = stored(&consul);
    fs::write(folder.path().join("other"), "another").unwrap();
    let other = Orders {
        ip: free_address(),
        source: format!(
            "key_passphrase_file = \"{}\"",
            folder.path().join("other").display()
        ),
        more: all[0].more.clone(),
        ..Orders::new(
            &pebble,
            &["a.acme.test", "b.acme.test", "c.acme.test", "d.acme.test"],
        )
    };
    drop(lbs);
    let stranger = other.start();
    wait_until("its report", || {
        stranger
            .metric("lb_acme_failures_total{kind=\"passphrase\"}")
            .is_some_and(|count| count > 0.0)
    });
    let row = row(&stranger, "a.acme.test");
    assert!(
        row["reason"].as_str().unwrap().contains("wrong passphrase"),
        "{row}"
    );
    let account_and_certificates = |all: Vec<(String, String)>| {
        let kept = all.into_iter().filter(|(key, _)| !key.ends_with("/lock"));
        kept.collect::<Vec<_>>()
    };
    assert_eq!(
        account_and_certificates(stored(&consul)),
        account_and_certificates(before)
    );
    assert_eq!(pebble.orders(), 3);
    drop(stranger);
    // Consul and the ACME server are away: handshakes go on.
    let lbs: Vec<Lb> = all.iter().map(Orders::start).collect();
    for orders in &all {
        wait_for_all(orders, &trust, SUCCESSION);
    }
    consul.kill();
    pebble.kill();
    for (orders, lb) in all.iter().zip(&lbs) {
        wait_until("the report of the store", || {
            lb.metric("lb_acme_failures_total{kind=\"store\"}")
                .is_some_and(|count| count > 0.0)
        });
        assert_eq!(served(orders), 3);
    }
}

#[test]
fn a_ca_that_is_away_is_asked_again_until_it_is_back() {
    let Some(pebble) = Pebble::start("acme with a CA that is away", Options::default()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    pebble.kill();
    let orders_of = |pebble: &Pebble| {
        Orders::new(pebble, &["a.acme.test"])
            .in_folder(folder.path())
            .text()
    };
    let lb = Lb::start(&orders_of(&pebble));
    wait_until("the report", || {
        lb.metric("lb_acme_failures_total{kind=\"server\"}")
            .is_some_and(|count| count >= 2.0)
    });
    assert!(
        row(&lb, "a.acme.test")["reason"]
            .as_str()
            .unwrap()
            .contains("cannot connect")
    );
    pebble.restart();
    let back = Instant::now();
    let trust = Trust::with_pem(&pebble.root());
    let address = Orders::new(&pebble, &[]).tls();
    let found = try_wait(Duration::from_secs(100), "a certificate", || {
        certificate(&trust, address, "a.acme.test")
    });
    found.unwrap();
    println!("after {:?}", back.elapsed());
}
