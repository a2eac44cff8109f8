//! The tests' own tools, tested against each other: a drill that passes because its upstream never
//! dies, or its client never counts, would be worth nothing.

use std::time::Duration;

use http::Method;

use crate::support::certs::Ca;
use crate::support::client::{Load, RawClient, exchange, get};
use crate::support::turn::Turn;
use crate::support::upstream::{RawUpstream, TcpEcho, Upstream};
use crate::support::wait::{PATIENCE, try_wait};

#[test]
fn upstream_says_what_arrived() {
    let upstream = Upstream::start("one");
    let body = "POST /x?y=1 HTTP/1.1\r\nHost: h\r\nX-A: b\r\nContent-Length: 2\r\n\r\nhi";
    let response = exchange(upstream.address, body).unwrap();
    assert_eq!(
        (response.status, response.header("x-instance")),
        (200, Some("one"))
    );
    let seen: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(
        (&seen["path"], &seen["body"], &seen["version"]),
        (&"/x?y=1".into(), &"hi".into(), &"1".into())
    );
    assert!(
        seen["headers"]
            .as_array()
            .unwrap()
            .contains(&serde_json::json!(["x-a", "b"]))
    );
    upstream.set_status(503);
    assert_eq!(get(upstream.address, "h", "/").status, 503);
    assert_eq!(upstream.requests(), 2);
}

#[test]
fn upstream_frames_bodies_in_every_way() {
    let upstream = Upstream::start("one");
    let mut client = RawClient::connect(upstream.address);
    let mut ask = |path: &str| {
        client.send(format!(
            "GET {path} HTTP/1.1\r\nHost: h\r\nTE: trailers\r\n\r\n"
        ));
        client.response().unwrap()
    };
    assert_eq!(ask("/a/chunks").text(), "one two three");
    let trailers = ask("/trailers");
    assert_eq!(
        (trailers.text(), trailers.trailers),
        ("body".into(), vec![("x-checksum".into(), "42".into())])
    );
    assert_eq!(ask("/bytes/70000").body.len(), 70_000);
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn upstream_streams_events_as_they_happen() {
    let upstream = Upstream::start("one");
    let mut client = RawClient::connect(upstream.address);
    client
        .send("GET /sse HTTP/1.1\r\nHost: h\r\n\r\n")
        .until(b"data: 0\n\n");
    upstream.tick();
    client.until(b"data: 1\n\n");
}

#[test]
fn upstream_upgrades_and_echoes() {
    let upstream = Upstream::start("one");
    let mut client = RawClient::connect(upstream.address);
    client.send("GET /ws HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.response().unwrap().status, 101);
    assert_eq!(client.send(b"\x81\x02hi").bytes(4), b"\x81\x02hi");
}

#[test]
fn upstream_closes_freezes_and_dies() {
    let upstream = Upstream::start("one");
    assert_eq!(
        exchange(upstream.address, "GET /close HTTP/1.1\r\nHost: h\r\n\r\n"),
        None
    );

    upstream.freeze();
    let mut frozen = RawClient::connect(upstream.address);
    frozen.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    upstream.thaw();
    assert_eq!(frozen.response().unwrap().status, 200);

    let mut open = RawClient::connect(upstream.address);
    open.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(open.response().unwrap().status, 200);
    let address = upstream.kill();
    assert!(open.is_closed());
    assert!(std::net::TcpStream::connect(address).is_err());
    let back = Upstream::start_at("two", address);
    assert_eq!(
        get(back.address, "h", "/").header("x-instance"),
        Some("two")
    );
}

#[test]
fn load_counts_answers_and_errors() {
    let upstream = Upstream::start("one");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut load = Load::new(upstream.address, "h", "/", 200);
    load.connections = 4;
    let outcome = runtime.block_on(load.run(Duration::from_millis(500)));
    outcome.assert_none_failed();
    assert_eq!((outcome.requests(), outcome.instances["one"]), (100, 100));
    assert_eq!(outcome.latencies.len(), 100);
    assert!(outcome.percentile(0.5) <= outcome.percentile(0.99));

    upstream.set_status(502);
    load.method = Method::POST;
    assert_eq!(
        runtime
            .block_on(load.run(Duration::from_millis(100)))
            .failed(),
        20
    );

    upstream.set_status(200);
    upstream.freeze();
    load.timeout = Duration::from_millis(50);
    let outcome = runtime.block_on(load.run(Duration::from_millis(100)));
    assert!(
        outcome.errors["timeout"] > 0 && outcome.failed() == outcome.requests(),
        "{outcome:?}"
    );

    upstream.kill();
    let outcome = runtime.block_on(load.run(Duration::from_millis(100)));
    assert_eq!((outcome.failed(), outcome.requests()), (20, 20));
}

#[test]
fn raw_answers_and_half_close() {
    let reply = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let raw = RawUpstream::start(reply, false);
    let mut client = RawClient::connect(raw.address);
    client.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(client.response().unwrap().status, 103);
    assert_eq!(client.response().unwrap().text(), "ok");

    let echo = TcpEcho::start("hello ", " bye");
    let mut client = RawClient::connect(echo.address);
    client.send("you").finish();
    assert_eq!(client.rest(), b"hello you bye");
}

#[test]
fn certificates_are_fit_for_servers_and_clients() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new("test CA");
    let files = ca
        .pair(&["localhost", "127.0.0.1"])
        .write(folder.path(), "server");
    let ca_file = ca.write(folder.path(), "ca");
    for purpose in ["sslserver", "sslclient"] {
        let verified = std::process::Command::new("openssl")
            .args(["verify", "-purpose", purpose, "-CAfile"])
            .args([&ca_file, &files.cert])
            .output()
            .unwrap();
        assert!(
            verified.status.success(),
            "{}",
            String::from_utf8_lossy(&verified.stderr)
        );
    }
}

#[test]
fn a_wait_ends_with_its_condition_or_tells_what_was_seen() {
    let mut looks = 0;
    let third = try_wait(PATIENCE, "the third look", || {
        looks += 1;
        (looks == 3).then_some(looks)
    });
    assert_eq!(third, Ok(3));
    let never = try_wait(Duration::from_millis(10), "rain", || Err::<(), _>("sun"));
    assert_eq!(never, Err("not seen within 10ms: rain: sun".to_owned()));
}

#[test]
fn tests_of_another_kind_wait_for_their_turn() {
    let (one, beside) = (Turn::of("one"), Turn::of("one"));
    let (began, begins) = std::sync::mpsc::channel();
    let other = std::thread::spawn(move || {
        let _turn = Turn::of("another");
        began.send(()).unwrap();
    });
    drop(one);
    begins
        .recv_timeout(Duration::from_millis(100))
        .expect_err("one of the other kind still runs");
    drop(beside);
    begins.recv_timeout(PATIENCE).unwrap();
    other.join().unwrap();
}
