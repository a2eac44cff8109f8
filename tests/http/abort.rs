//! Clients that go away or stop, at every stage: the upstream learns of it, and nothing stays
//! counted.

use std::time::{Duration, Instant};

use crate::harness::{OK, Scripted, router, wait_quiet};
use crate::support::client::{RawClient, get};
use crate::support::lb::Lb;
use crate::support::wait::wait_until;

const QUICK: &str = "[proxy]\nworkers = 1\nbody_timeout = \"300ms\"\n[log]\naccess = \"json\"\n";

/// Waits for the record of the request to `path`.
fn record(lb: &Lb, path: &str) -> serde_json::Value {
    let line = lb.wait_stdout("record", |line| {
        line.contains(&format!("\"uri\":\"{path}\""))
    });
    serde_json::from_str(&line).unwrap()
}

/// Reads a head, and then only what comes; counts the end.
fn silent() -> Scripted {
    Scripted::start(|visit| {
        visit.head();
        visit.until_closed();
    })
}

#[test]
fn before_the_answer() {
    let upstream = silent();
    let lb = router(
        &[("/", &[upstream.address], "")],
        "[log]\naccess = \"json\"\n",
    );
    // FIN: the client may only have half-closed, so it gets a moment.
    let mut client = RawClient::connect(lb.address("http"));
    client.send("GET /fin HTTP/1.1\r\nHost: h\r\n\r\n");
    wait_in_flight(&lb);
    drop(client);
    let begun = Instant::now();
    upstream.wait_closed(1);
    assert!(
        begun.elapsed() < Duration::from_secs(9),
        "{:?}",
        begun.elapsed()
    );
    let fin = record(&lb, "/fin");
    assert_eq!(
        (&fin["status"], &fin["error"]),
        (&499.into(), &"client_closed".into()),
        "{fin}"
    );
    // RST says it all.
    let mut client = RawClient::connect(lb.address("http"));
    client.send("GET /rst HTTP/1.1\r\nHost: h\r\n\r\n");
    wait_in_flight(&lb);
    client.reset();
    let begun = Instant::now();
    upstream.wait_closed(2);
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(record(&lb, "/rst")["status"], 499);
    wait_quiet(&lb, "s0");
    assert_eq!(
        lb.metric("lb_http_requests_total{service=\"s0\",method=\"GET\",code=\"499\"}"),
        Some(2.0)
    );
}

/// Closed in one direction alone is not gone (RFC 9112 section 9.6), however the request came.
#[test]
fn half_closed_clients_get_their_response() {
    let upstream = Scripted::start(|visit| {
        let Some(head) = visit.head() else { return };
        if head.starts_with("PUT") {
            while !visit.received_contains("0\r\n\r\n") && !visit.received_contains("abc") {
                if visit.more().is_none() {
                    return;
                }
            }
        }
        std::thread::sleep(Duration::from_secs(4));
        visit.send(OK);
    });
    let more =
        "[proxy]\nworkers = 1\nrequest_timeout = \"30s\"\n[proxy.compression]\nmin_bytes = 1\n";
    for more in ["[proxy]\nworkers = 1\n", more] {
        let lb = router(&[("/", &[upstream.address], "")], more);
        let requests = [
            "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip\r\n\r\n",
            "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
            "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ];
        let address = lb.address("http");
        std::thread::scope(|scope| {
            for request in requests {
                scope.spawn(move || {
                    let mut client = RawClient::connect(address);
                    client.send(request).finish();
                    let response = client
                        .response()
                        .unwrap_or_else(|| panic!("no response to {request:?}"));
                    assert_eq!(response.status, 200, "{request:?}");
                });
            }
        });
    }
}

/// What is sent too much is not read without end; the end of the client is seen all the same, once
/// the kernel has it.
#[test]
fn behind_bytes_that_nobody_reads() {
    let upstream = silent();
    let lb = router(&[("/", &[upstream.address], "")], QUICK);
    for (number, excess, resets) in [
        (1, 1, false),
        (2, 100_000, false),
        (3, 1, true),
        (4, 100_000, true),
    ] {
        let mut client = RawClient::connect(lb.address("http"));
        client.send(format!("GET /{number} HTTP/1.1\r\nHost: h\r\n\r\n"));
        wait_in_flight(&lb);
        client.send("G".repeat(excess));
        let begun = Instant::now();
        if resets {
            client.reset();
        } else {
            drop(client);
        }
        upstream.wait_closed(number);
        let most = Duration::from_secs(if resets { 3 } else { 9 });
        assert!(
            begun.elapsed() < most,
            "{excess} bytes, reset {resets}: {:?}",
            begun.elapsed()
        );
        assert_eq!(record(&lb, &format!("/{number}"))["status"], 499);
        wait_quiet(&lb, "s0");
    }
}

fn wait_in_flight(lb: &Lb) {
    wait_until("request in flight", || {
        lb.metric("lb_http_requests_in_flight{service=\"s0\"}") == Some(1.0)
    });
}

#[test]
fn inside_the_answer() {
    let upstream = Scripted::start(|visit| {
        visit.head();
        visit.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n");
        // Sends until the other side closes.
        visit.send_until_closed();
    });
    let lb = router(&[("/", &[upstream.address], "")], QUICK);
    let mut client = RawClient::connect(lb.address("http"));
    client
        .send("GET /part HTTP/1.1\r\nHost: h\r\n\r\n")
        .bytes(100_000);
    drop(client);
    upstream.wait_closed(1);
    let seen = record(&lb, "/part");
    // The status went out before the client did.
    assert_eq!(
        (&seen["status"], &seen["error"]),
        (&200.into(), &"client_closed".into()),
        "{seen}"
    );
    // One that stays but does not read.
    let mut client = RawClient::connect(lb.address("http"));
    client
        .send("GET /unread HTTP/1.1\r\nHost: h\r\n\r\n")
        .bytes(10);
    upstream.wait_closed(2);
    assert_eq!(record(&lb, "/unread")["error"], "client_closed");
    wait_quiet(&lb, "s0");
}

#[test]
fn inside_the_upload() {
    let upstream = silent();
    let lb = router(&[("/", &[upstream.address], "")], QUICK);
    for (number, stays) in [(1, false), (2, true)] {
        let mut client = RawClient::connect(lb.address("http"));
        let path = format!("/{number}");
        // Long enough to be passed on as it comes.
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\nonly a part"
        ));
        wait_in_flight(&lb);
        if !stays {
            drop(client);
            upstream.wait_closed(number);
        } else {
            upstream.wait_closed(number);
            assert!(client.is_closed(), "a client that stalls is not waited for");
        }
        let seen = record(&lb, &path);
        assert_eq!(
            (&seen["status"], &seen["error"]),
            (&499.into(), &"client_closed".into()),
            "{seen}"
        );
        wait_quiet(&lb, "s0");
    }
}

/// A short body is read as a whole before a request is made: its upstream hears nothing of one that
/// breaks off.
#[test]
fn inside_a_short_upload() {
    let upstream = silent();
    let lb = router(&[("/", &[upstream.address], "")], QUICK);
    for (number, stays) in [(1, false), (2, true)] {
        let mut client = RawClient::connect(lb.address("http"));
        let path = format!("/{number}");
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nonly a part"
        ));
        wait_in_flight(&lb);
        if stays {
            assert!(client.is_closed(), "a client that stalls is not waited for");
        } else {
            drop(client);
        }
        let seen = record(&lb, &path);
        assert_eq!(
            (&seen["status"], &seen["error"]),
            (&499.into(), &"client_closed".into()),
            "{seen}"
        );
        wait_quiet(&lb, "s0");
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn after_the_request_for_an_upgrade() {
    // The client is gone when the 101 comes.
    let upstream = Scripted::start(|visit| {
        visit.head();
        std::thread::sleep(Duration::from_millis(200));
        visit.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        );
        visit.until_closed();
    });
    let lb = router(&[("/", &[upstream.address], "")], "");
    for number in 1..4 {
        let mut client = RawClient::connect(lb.address("http"));
        client.send(
            "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        );
        if number % 2 == 0 {
            wait_in_flight(&lb);
            client.reset();
        } else {
            drop(client);
        }
        upstream.wait_closed(number);
        wait_quiet(&lb, "s0");
    }
}

#[test]
fn an_upstream_that_does_not_take_the_upload_is_not_waited_for_forever() {
    let upstream = Scripted::start(|visit| {
        visit.head();
        std::thread::sleep(Duration::from_secs(4));
    });
    let lb = router(
        &[("/", &[upstream.address], "")],
        "[proxy]\nresponse_timeout = \"500ms\"\n",
    );
    // A whole body of known length, and one that is too large for all buffers together.
    let mut client = RawClient::connect(lb.address("http"));
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody");
    assert_eq!(client.response().unwrap().status, 504);
    let mut client = RawClient::connect(lb.address("http"));
    let mut sender = client.clone_for_sending();
    let begun = Instant::now();
    std::thread::spawn(move || {
        sender.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 64000000\r\n\r\n");
        sender.send(vec![b'x'; 64_000_000]);
    });
    assert_eq!(client.response().unwrap().status, 504);
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    wait_quiet(&lb, "s0");
    // The rest still works.
    let fine = Scripted::replying(OK);
    let lb = router(&[("/", &[fine.address], "")], "");
    assert_eq!(get(lb.address("http"), "h", "/").status, 200);
}
