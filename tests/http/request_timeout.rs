//! `proxy.request_timeout`: a limit for a request as a whole.

use std::time::{Duration, Instant};

use crate::harness::{OK, Scripted, router, wait_quiet};
use crate::support::client::RawClient;
use crate::support::wait::wait_until;

const LIMIT: &str = "[proxy]\nrequest_timeout = \"300ms\"\n[log]\naccess = \"json\"\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn no_answer_in_time_is_504() {
    let upstream = Scripted::start(|visit| {
        visit.request();
        visit.until_closed();
    });
    let lb = router(&[("/", &[upstream.address], "")], LIMIT);
    let begun = Instant::now();
    let answer = RawClient::connect(lb.address("http"))
        .send(GET)
        .response()
        .unwrap();
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (504, "the request took too long\n")
    );
    assert!(begun.elapsed() >= Duration::from_millis(300));
    lb.wait_stdout("record", |line| {
        line.contains("\"error\":\"request_timeout\"")
    });
    upstream.wait_closed(1);
}

#[test]
fn an_answer_that_goes_on_is_cut_and_looks_cut() {
    let upstream = Scripted::start(|visit| {
        visit.request();
        visit.send("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        visit.until_closed();
    });
    // As it is, and through an encoder.
    for more in ["", "[proxy.compression]\ncontent_types = \"^text/\"\n"] {
        let lb = router(&[("/", &[upstream.address], "")], &format!("{LIMIT}{more}"));
        let mut client = RawClient::connect(lb.address("http"));
        client.send("GET / HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip\r\n\r\n");
        let rest = String::from_utf8_lossy(&client.rest()).into_owned();
        assert!(
            rest.starts_with("HTTP/1.1 200 ") && !rest.ends_with("\r\n0\r\n\r\n"),
            "{rest}"
        );
        assert!(
            rest.contains("content-encoding: gzip") != rest.ends_with("first\r\n"),
            "{rest}"
        );
        let line = lb.wait_stdout("record", |line| {
            line.contains("\"error\":\"request_timeout\"")
        });
        assert!(line.contains("\"status\":200"), "{line}");
        wait_quiet(&lb, "s0");
    }
    upstream.wait_closed(2);
}

#[test]
fn a_client_that_takes_nothing_is_cut() {
    let upstream = Scripted::start(|visit| {
        visit.request();
        visit.send("HTTP/1.1 200 OK\r\n\r\n");
        visit.send_until_closed();
    });
    let lb = router(&[("/", &[upstream.address], "")], LIMIT);
    let mut client = RawClient::connect(lb.address("http"));
    client.send(GET);
    // Nothing is read here meanwhile.
    upstream.wait_closed(1);
    lb.wait_stdout("record", |line| line.contains("\"status\":200"));
    wait_quiet(&lb, "s0");
}

#[test]
fn who_is_done_in_time_and_websockets_are_left_alone() {
    let upstream = Scripted::start(|visit| {
        while let Some(request) = visit.request() {
            if request.contains("pgrade: websocket") {
                visit.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
                while visit.more().is_some() {
                    visit.send("pong");
                }
                return;
            }
            visit.send(OK);
        }
    });
    let lb = router(&[("/", &[upstream.address], "")], LIMIT);
    let mut socket = RawClient::connect(lb.address("http"));
    socket.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
    socket.until(b"\r\n\r\n");
    let mut client = RawClient::connect(lb.address("http"));
    let begun = Instant::now();
    // One connection, many requests, for longer than one may take.
    while begun.elapsed() < Duration::from_millis(1500) {
        assert_eq!(client.send(GET).response().unwrap().status, 200);
    }
    assert_eq!(socket.send("ping").bytes(4), b"pong");
}

#[test]
fn a_listener_may_have_a_limit_of_its_own() {
    let upstream = Scripted::start(|visit| {
        visit.request();
        visit.until_closed();
    });
    let more = "[[listener]]\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\nrequest_timeout = \"200ms\"\n";
    let lb = router(&[("/", &[upstream.address], "")], more);
    let addresses = lb.addresses("http", 2);
    let mut patient = RawClient::connect(addresses[0]);
    patient.send(GET);
    assert_eq!(
        RawClient::connect(addresses[1])
            .send(GET)
            .response()
            .unwrap()
            .status,
        504
    );
    // The other listener has none: its request is still out. The record of the first one ends a
    // moment after its response.
    wait_until("one request in flight", || {
        lb.metric("lb_http_requests_in_flight{service=\"s0\"}") == Some(1.0)
    });
}
