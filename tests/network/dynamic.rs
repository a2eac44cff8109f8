//! `tcp-dynamic`: ports that come and go with the routes of the catalog, inside the range that the
//! operator allows.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use lb::catalog::CheckStatus;

use super::support::certs::Ca;
use super::support::client::{self, RawClient};
use super::support::consul::{ConsulAgent, Registration};
use super::support::lb::Lb;
use super::support::upstream::{TcpEcho, Upstream};
use super::wire::*;
use crate::support::loopback::free_port;
use crate::support::wait::wait_until;

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn dynamic(ports: &str, more: &str) -> String {
    listener(
        "tcp-dynamic",
        &format!("ports = {ports:?}\nrefresh = \"50ms\"\n{more}"),
    )
}

fn list(ports: &[u16]) -> String {
    ports
        .iter()
        .map(u16::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// A balancer with a watched routes file, and that file.
fn with_routes(text: &str, routes: &str) -> (Lb, tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.txt");
    std::fs::write(&path, routes).unwrap();
    let lb = Lb::start(&config(&(format!("routes_file = {path:?}\n") + text)));
    lb.wait_ready();
    (lb, folder, path)
}

fn add(port: u16, echo: &TcpEcho) -> String {
    format!("route add db-{port} :{port} tcp://{}\n", echo.address)
}

fn is_open(port: u16) -> bool {
    TcpStream::connect(at(port)).is_ok()
}

fn rewrite(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// Whole life of a port, with a real catalog: registered, sick, well, gone.
#[test]
fn ports_come_and_go_with_the_catalog() {
    let agent = ConsulAgent::start_plain();
    agent.wait_ready();
    let echo = TcpEcho::start("db", "");
    let port = free_port();
    let text = format!(
        "[consul]\naddress = {:?}\ncritical_hold = \"0s\"\n",
        agent.address()
    ) + &dynamic(&list(&[port]), "");
    let lb = Lb::start(&config(&text));
    lb.wait_ready();
    assert!(!is_open(port));
    let tag = format!("urlprefix-:{port} proto=tcp");
    let register = || {
        agent.register(&Registration {
            service: "db",
            id: "db-1",
            port: echo.address.port(),
            tags: &[&tag],
        });
        agent.set_check("db-1", CheckStatus::Passing);
    };
    register();
    wait_until("the port", || is_open(port));
    let mut client = RawClient::connect(at(port));
    assert_eq!(client.bytes(2), b"db");
    agent.set_check("db-1", CheckStatus::Critical);
    wait_until("no port while nobody is well", || !is_open(port));
    agent.set_check("db-1", CheckStatus::Passing);
    wait_until("the port again", || is_open(port));
    agent.deregister("db-1");
    wait_until("the end of the port", || !is_open(port));
    // What was connected goes on, for the grace that connections of vanished instances have.
    assert_eq!(client.send("still here").bytes(10), b"still here");
    let series = format!("listener=\"127.0.0.1:{port}\"");
    wait_until("the end of its series", || {
        !lb.admin("/metrics").1.contains(&series)
    });
    register();
    wait_until("the port once more", || is_open(port));
}

#[test]
fn only_allowed_ports_are_opened_and_nobody_elses_is_taken() {
    let echo = TcpEcho::start("db", "");
    let web = Upstream::start("web");
    let ports: Vec<u16> = (0..6).map(|_| free_port()).collect();
    let [allowed, outside, http, tcp, admin, plain] = ports[..] else {
        panic!("six ports")
    };
    let text = format!("[[listener]]\naddress = \"127.0.0.1:{http}\"\nprotocol = \"http\"\n")
        + &format!("[[listener]]\naddress = \"0.0.0.0:{tcp}\"\nprotocol = \"tcp\"\n")
        + &dynamic(&list(&[allowed, http, tcp, admin, plain]), "")
        + &format!("[admin]\naddress = \"127.0.0.1:{admin}\"\n");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("routes.txt");
    let routes: String = [allowed, outside, http, tcp, admin]
        .iter()
        .map(|port| add(*port, &echo))
        .collect();
    let routes = routes
        + &format!("route add web web/ http://{}/\n", web.address)
        // Not a port of TCP.
        + &format!("route add plain :{plain} http://{}/\n", web.address);
    rewrite(&path, &routes);
    let lb = Lb::start(&(format!("routes_file = {path:?}\n") + &text));
    lb.wait_ready();
    wait_until("the allowed port", || is_open(allowed));
    assert_eq!(RawClient::connect(at(allowed)).bytes(2), b"db");
    for (port, words) in [
        (outside, "may open it"),
        (http, "another listener's (http)"),
        (admin, "(admin)"),
    ] {
        let line = lb.wait_for_line(words, |line| line.contains(words));
        assert!(
            line.contains(&port.to_string()) && line.contains("WARN"),
            "{line}"
        );
    }
    assert!(!is_open(outside) && !is_open(plain));
    // Each of many connections: a socket that shared the port would get some of them.
    for _ in 0..20 {
        assert_eq!(client::get(at(http), "web", "/").status, 200);
        assert_eq!(lb.admin("/health").0, 200);
        assert_eq!(RawClient::connect(at(tcp)).bytes(2), b"db");
    }
    assert_eq!(lb.addresses("tcp-dynamic", 1), [at(allowed)]);
    assert_eq!(
        lb.stderr().matches("\"tcp-dynamic\"").count(),
        1,
        "{}",
        lb.stderr()
    );
    assert!(
        !lb.stderr().contains(&format!("\"port\":{tcp}")),
        "its route is served: {}",
        lb.stderr()
    );
}

#[test]
fn a_port_that_is_taken_is_reported_once_and_opened_when_it_is_free() {
    let echo = TcpEcho::start("db", "");
    let (taken, free, later) = (free_port(), free_port(), free_port());
    let holder = TcpListener::bind(at(taken)).unwrap();
    let (lb, _folder, path) = with_routes(
        &dynamic(&list(&[taken, free, later]), ""),
        &(add(taken, &echo) + &add(free, &echo)),
    );
    wait_until("the other port", || is_open(free));
    let mut client = RawClient::connect(at(free));
    assert_eq!(client.bytes(2), b"db");
    let line = lb.wait_for_line("a report", |line| line.contains("cannot be opened"));
    assert!(
        line.contains(&taken.to_string()) && line.contains("WARN"),
        "{line}"
    );
    rewrite(
        &path,
        &(add(taken, &echo) + &add(free, &echo) + &add(later, &echo)),
    );
    wait_until("a later port", || is_open(later));
    // Several looks later.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(
        lb.stderr().matches("cannot be opened").count(),
        1,
        "{}",
        lb.stderr()
    );
    drop(holder);
    lb.wait_for_line("the port", |line| {
        line.contains("\"listening\"") && line.contains(&taken.to_string())
    });
    assert_eq!(RawClient::connect(at(taken)).bytes(2), b"db");
    assert_eq!(client.send("x").bytes(1), b"x");
}

#[test]
fn a_reload_changes_adds_and_removes_them() {
    let echo = TcpEcho::start("db", "");
    let (first, second, configured) = (free_port(), free_port(), free_port());
    let routes = add(first, &echo) + &add(second, &echo) + &add(configured, &echo);
    let text = |ports: &[u16], more: &str| dynamic(&list(ports), more);
    let (lb, _folder, path) = with_routes(&text(&[first, configured], ""), &routes);
    let reload = |text: &str| {
        let reloaded = lb.stderr().matches("\"reloaded").count();
        let text = config(&(format!("routes_file = {path:?}\n") + text));
        std::fs::write(lb.folder().join("lb.toml"), text).unwrap();
        lb.sighup();
        wait_until("a reload", || {
            lb.stderr().matches("\"reloaded").count() > reloaded
        });
    };
    wait_until("the ports", || is_open(first) && is_open(configured));
    let mut client = RawClient::connect(at(first));
    assert_eq!(client.bytes(2), b"db");
    // Another range, and one of its ports gets a listener of its own.
    let own = format!("[[listener]]\naddress = \"127.0.0.1:{configured}\"\nprotocol = \"tcp\"\n");
    reload(&(own.clone() + &text(&[first, second, configured], "proxy_protocol = true")));
    assert!(
        is_open(second) && is_open(first) && is_open(configured),
        "at once"
    );
    assert_eq!(RawClient::connect(at(configured)).bytes(2), b"db");
    // Each connection meets the new form, once the old one has taken what waited in its queue.
    let taken = || {
        RawClient::connect(at(first))
            .send("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nx")
            .bytes(3)
            == b"dbx"
    };
    wait_until("the new form", || (0..10).all(|_| taken()));
    reload(&text(&[second], ""));
    wait_until("the end of two", || !is_open(first) && !is_open(configured));
    assert!(is_open(second));
    reload("");
    wait_until("the end of the last", || !is_open(second));
    assert_eq!(client.send("still here").bytes(10), b"still here");
}

#[test]
fn a_drain_closes_them_all_and_opens_no_more() {
    let echo = TcpEcho::start("db", "");
    let (first, second) = (free_port(), free_port());
    let text = dynamic(&list(&[first, second]), "") + "[drain]\ntimeout = \"1h\"\n";
    let (mut lb, _folder, path) = with_routes(&text, &add(first, &echo));
    wait_until("the port", || is_open(first));
    let mut client = RawClient::connect(at(first));
    assert_eq!(client.bytes(2), b"db");
    lb.sigterm();
    wait_until("the end of the port", || !is_open(first));
    rewrite(&path, &(add(first, &echo) + &add(second, &echo)));
    std::thread::sleep(Duration::from_millis(300));
    assert!(!is_open(second) && !is_open(first));
    assert_eq!(client.send("x").bytes(1), b"x");
    drop(client);
    assert_eq!(lb.exit_code(), Some(0));
}

#[test]
fn tls_may_be_ended_on_them() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new("own");
    let files = ca.pair(&["a.test"]).write(folder.path(), "site");
    let echo = TcpEcho::start("db", "");
    let port = free_port();
    let text = dynamic(&list(&[port]), "certificates = \"main\"")
        + &format!(
            "[certificates.main]\ncert_file = {:?}\nkey_file = {:?}\n",
            files.cert, files.key
        );
    let (_lb, _folder, _path) = with_routes(&text, &add(port, &echo));
    wait_until("the port", || is_open(port));
    block_on(async {
        let mut stream = super::tls::Trust::new(&ca)
            .connect(at(port), "a.test")
            .await
            .unwrap();
        let mut greeting = [0; 2];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut greeting)
            .await
            .unwrap();
        assert_eq!(&greeting, b"db");
    });
}

/// Fabio's rule: a route of one address before one of the port alone.
#[test]
fn an_address_goes_before_a_port() {
    let (one, any) = (TcpEcho::start("one", ""), TcpEcho::start("any", ""));
    let port = free_port();
    let text = dynamic(&list(&[port]), "").replace("127.0.0.1:0", "0.0.0.0:0");
    let routes =
        format!("route add one 127.0.0.2:{port} tcp://{}\n", one.address) + &add(port, &any);
    let (_lb, _folder, _path) = with_routes(&text, &routes);
    wait_until("the port", || is_open(port));
    for (ip, greeting) in [([127, 0, 0, 1], "any"), ([127, 0, 0, 2], "one")] {
        assert_eq!(
            RawClient::connect(SocketAddr::from((ip, port))).bytes(3),
            greeting.as_bytes()
        );
    }
}
