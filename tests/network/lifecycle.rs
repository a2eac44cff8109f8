//! The life of the process: start, signals, drain, hand-over to a successor, systemd, and the
//! commands that look at it.

use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use super::support::client::{self, Load, RawClient};
use super::support::lb::Lb;
use super::support::upstream::Upstream;
use super::wire::*;
use crate::support::wait::{PATIENCE, wait_until};

fn web(upstream: &Upstream, more: &str) -> String {
    config(
        &(listener("http", "")
            + &route("web", "/", &[url("http", upstream.address)], "")
            + "[proxy]\nworkers = 2\n"
            + more),
    )
}

/// First `/ready`, then no new connections, then the end of what runs and of what idles, then the
/// exit.
#[test]
fn sigterm_drains_in_order() {
    let upstream = Upstream::start("u");
    let mut lb = Lb::start(&web(
        &upstream,
        "[drain]\ngrace = \"1500ms\"\ntimeout = \"10s\"\n",
    ));
    let address = lb.address("http");
    lb.wait_ready();
    let mut idle = RawClient::connect(address);
    assert_eq!(
        idle.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            .response()
            .unwrap()
            .status,
        200
    );
    // Never says a word.
    let mut silent = RawClient::connect(address);
    let begun = Instant::now();
    lb.sigterm();
    wait_until("not ready", || lb.admin("/ready").0 == 503);
    assert!(
        lb.admin("/ready").1.contains("drain"),
        "{}",
        lb.admin("/ready").1
    );
    assert_eq!(lb.admin("/health").0, 200);
    assert_eq!(client::get(address, "h", "/during-grace").status, 200);
    assert!(
        begun.elapsed() < Duration::from_millis(1500),
        "too slow to tell the grace: {:?}",
        begun.elapsed()
    );

    // Beyond the grace, whenever it is sent.
    upstream.set_delay(Duration::from_secs(2));
    let seen = upstream.requests();
    let mut running = RawClient::connect(address);
    running.send("GET /running HTTP/1.1\r\nHost: h\r\n\r\n");
    wait_until("the request at the upstream", || upstream.requests() > seen);
    wait_until("no new connections", || {
        std::net::TcpStream::connect(address).is_err()
    });
    assert!(
        begun.elapsed() >= Duration::from_millis(1450),
        "{:?}",
        begun.elapsed()
    );
    let answer = running
        .response()
        .expect("the response to a request that ran");
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close"))
    );
    assert!(running.is_closed());
    assert!(idle.is_closed());
    assert!(silent.is_closed());
    assert_eq!(lb.exit_code(), Some(0));
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_second_signal_ends_at_once() {
    let upstream = Upstream::start("u");
    upstream.set_delay(Duration::from_secs(30));
    for signals in [["TERM", "TERM"], ["INT", "TERM"]] {
        let seen = upstream.requests();
        let mut lb = Lb::start(&web(&upstream, ""));
        let mut client = RawClient::connect(lb.address("http"));
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        wait_until("the request at the upstream", || upstream.requests() > seen);
        lb.signal(signals[0]);
        wait_until("not ready", || lb.admin("/ready").0 == 503);
        assert!(lb.is_running());
        let begun = Instant::now();
        lb.signal(signals[1]);
        assert_eq!(lb.exit_code(), Some(0));
        assert!(
            begun.elapsed() < Duration::from_secs(3),
            "{:?}",
            begun.elapsed()
        );
        assert!(client.is_closed());
    }
}

#[test]
fn the_drain_deadline_cuts_what_still_runs() {
    let upstream = Upstream::start("u");
    upstream.set_delay(Duration::from_secs(30));
    let mut lb = Lb::start(&web(&upstream, "[drain]\ntimeout = \"300ms\"\n"));
    let mut client = RawClient::connect(lb.address("http"));
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    wait_until("the request at the upstream", || upstream.requests() == 1);
    lb.sigterm();
    assert_eq!(lb.exit_code(), Some(0));
    assert!(client.is_closed());
    assert!(lb.stderr().contains("drain timeout"), "{}", lb.stderr());
}

/// A connection that was in use a moment ago may send one more request, and learns that this was
/// the last time.
#[test]
fn a_drain_answers_a_request_that_crosses_it() {
    let upstream = Upstream::start("u");
    let mut lb = Lb::start(&web(&upstream, ""));
    let address = lb.address("http");
    let mut client = RawClient::connect(address);
    assert_eq!(
        client
            .send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            .response()
            .unwrap()
            .status,
        200
    );
    lb.sigterm();
    wait_until("no new connections", || {
        std::net::TcpStream::connect(address).is_err()
    });
    let answer = client
        .send("GET /last HTTP/1.1\r\nHost: h\r\n\r\n")
        .response()
        .expect("one more response");
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, Some("close"))
    );
    assert!(client.is_closed());
    assert_eq!(lb.exit_code(), Some(0));
}

/// The hand-over: a successor binds the same addresses, then the first one is told to go.
#[test]
fn a_successor_takes_over_without_a_failed_request() {
    let upstream = Upstream::start("u");
    let text = web(&upstream, "");
    let mut old = Lb::start(&text);
    let (address, admin) = (old.address("http"), old.address("admin"));
    let text = text
        .replacen("127.0.0.1:0", &address.to_string(), 1)
        .replace(
            "[admin]\naddress = \"127.0.0.1:0\"",
            &format!("[admin]\naddress = \"{admin}\""),
        );
    let load = |connections, path: &str| Load {
        connections,
        ..Load::new(address, "h", path, 400)
    };
    let (kept, fresh) = block_on(async {
        let running = tokio::spawn({
            let kept = load(16, "/kept");
            async move { kept.run(Duration::from_millis(2500)).await }
        });
        // Connections of one request each: those that wait in a queue when it is closed would be
        // lost.
        let opening = tokio::task::spawn_blocking(move || {
            let (begun, mut count) = (Instant::now(), 0);
            while begun.elapsed() < Duration::from_millis(2500) {
                assert_eq!(client::get(address, "h", "/fresh").status, 200);
                count += 1;
            }
            count
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        let successor = tokio::task::block_in_place(|| {
            let successor = Lb::start_with(&text, &["--take-over"], &[]);
            successor.address("http");
            successor
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        old.sigterm();
        let outcome = (running.await.unwrap(), opening.await.unwrap());
        assert_eq!(old.exit_code(), Some(0));
        drop(successor);
        outcome
    });
    kept.assert_none_failed();
    assert!(
        kept.requests() > 500 && fresh > 50,
        "{} and {fresh} requests",
        kept.requests()
    );
}

/// What systemd would hear.
fn heard(socket: &UnixDatagram, wanted: &str) {
    let begun = Instant::now();
    let mut buffer = [0; 4096];
    loop {
        let count = socket
            .recv(&mut buffer)
            .unwrap_or_else(|error| panic!("waiting for {wanted}: {error}"));
        if String::from_utf8_lossy(&buffer[..count])
            .lines()
            .any(|line| line == wanted)
        {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "no {wanted}");
    }
}

#[test]
fn systemd_hears_of_start_life_and_end() {
    use std::os::linux::net::SocketAddrExt as _;
    let upstream = Upstream::start("u");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let name = format!("lb-test-{}", std::process::id());
    let by_name = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let sockets = [
        (
            UnixDatagram::bind(&path).unwrap(),
            path.display().to_string(),
        ),
        (
            UnixDatagram::bind_addr(&by_name).unwrap(),
            format!("@{name}"),
        ),
    ];
    for (socket, address) in sockets {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let environment = [
            ("NOTIFY_SOCKET", address.as_str()),
            ("WATCHDOG_USEC", "400000"),
        ];
        let mut lb = Lb::start_with(&web(&upstream, ""), &[], &environment);
        heard(&socket, "READY=1");
        assert_eq!(
            client::get(lb.address("http"), "h", "/").status,
            200,
            "ready means ready"
        );
        for _ in 0..3 {
            heard(&socket, "WATCHDOG=1");
        }
        lb.sigterm();
        heard(&socket, "STOPPING=1");
        assert_eq!(lb.exit_code(), Some(0));
    }
}

#[test]
fn without_consul_it_does_not_listen_and_says_why() {
    let nobody = Upstream::start("consul").kill();
    let text =
        config(&(format!("[consul]\naddress = \"http://{nobody}\"\n") + &listener("http", "")));
    let mut lb = Lb::start(&text);
    let (status, body) = lb.admin("/ready");
    assert_eq!(status, 503);
    assert!(body.contains("consul"), "{body}");
    assert_eq!(lb.admin("/health").0, 200);
    wait_until("a counted error", || {
        lb.metric("lb_registry_errors_total{kind=\"connect\"}")
            .is_some_and(|count| count > 0.0)
    });
    assert!(
        !lb.stderr().contains("\"listener\":\"http\""),
        "{}",
        lb.stderr()
    );
    let begun = Instant::now();
    lb.sigterm();
    assert_eq!(lb.exit_code(), Some(0));
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
}

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
    for (name, _) in
        std::env::vars().filter(|(name, _)| name.starts_with("CONSUL_") || name.starts_with("LB_"))
    {
        command.env_remove(name);
    }
    command.args(arguments).output().unwrap()
}

#[test]
fn commands_look_at_the_running_process() {
    let upstream = Upstream::start("u");
    let lb = Lb::start(&web(&upstream, ""));
    lb.wait_ready();
    let admin = format!("http://{}", lb.address("admin"));
    let target = upstream.address.to_string();
    for format in ["table", "json", "fabio"] {
        let output = run(&["routes", "--admin", &admin, "--format", format]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains(&target),
            "{format}: {output:?}"
        );
    }
    let output = run(&["explain", "http://any.host/some/path", "--admin", &admin]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("web") && text.contains(&target),
        "{output:?}"
    );
    let file = lb.folder().join("lb.toml");
    let output = run(&["check", "--config", file.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let nobody = Upstream::start("consul").kill();
    std::fs::write(&file, format!("[consul]\naddress = \"http://{nobody}\"\n")).unwrap();
    let output = run(&["check", "--live", "--config", file.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_ne!(output.status.code(), Some(0));
    assert!(
        text.contains("connect"),
        "the failed step has a name: {text}"
    );
}

#[test]
fn two_that_may_not_share_an_address_say_which() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    let upstream = Upstream::start("u");
    for text in [
        web(&upstream, "").replacen("127.0.0.1:0", &taken, 1),
        web(&upstream, "").replace(
            "[admin]\naddress = \"127.0.0.1:0\"",
            &format!("[admin]\naddress = \"{taken}\""),
        ),
    ] {
        let mut lb = Lb::spawn(&text, &[], &[]);
        assert_eq!(lb.exit_code(), Some(1));
        wait_until("a word about it", || lb.stderr().contains(&taken));
    }
}

/// The limit holds, connections above it wait, and a listener without visitors takes no place.
#[test]
fn connections_above_the_limit_wait_for_their_turn() {
    let upstream = Upstream::start("u");
    let text = listener("http", "")
        + &listener("http", "")
        + &route("web", "/", &[url("http", upstream.address)], "")
        + "[proxy]\nworkers = 1\nmax_connections = 1\n";
    let lb = Lb::start(&config(&text));
    let addresses = lb.addresses("http", 2);
    for address in [addresses[1], addresses[0], addresses[1]] {
        assert_eq!(client::get(address, "h", "/").status, 200);
    }
    let mut first = RawClient::connect(addresses[0]);
    assert_eq!(
        first
            .send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            .response()
            .unwrap()
            .status,
        200
    );
    let mut second = RawClient::connect(addresses[0]);
    second.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(upstream.requests(), 4, "no place for it yet");
    drop(first);
    assert_eq!(second.response().unwrap().status, 200);
}

/// Upgraded connections are not requests: a drain leaves them until its deadline.
#[test]
fn a_drain_keeps_websockets_until_its_deadline() {
    let upstream = Upstream::start("u");
    let mut lb = Lb::start(&web(&upstream, "[drain]\ntimeout = \"1500ms\"\n"));
    let mut client = RawClient::connect(lb.address("http"));
    client.send("GET /ws HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n");
    client.send("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
    assert_eq!(client.response().unwrap().status, 101);
    lb.sigterm();
    let address = lb.address("http");
    wait_until("no new connections", || {
        std::net::TcpStream::connect(address).is_err()
    });
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(client.send(b"\x81\x02hi").bytes(4), b"\x81\x02hi");
    assert!(client.is_closed());
    assert_eq!(lb.exit_code(), Some(0));
    std::io::stderr().flush().unwrap();
}
