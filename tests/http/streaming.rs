//! Bodies that are large, slow or endless: nothing is buffered, and memory stays bounded.

use std::time::Duration;

use crate::harness::{Scripted, router, wait_quiet};
use crate::support::client::RawClient;
use crate::support::lb::Lb;
use crate::support::upstream::Upstream;

const MIB: usize = 1 << 20;

fn resident_bytes(lb: &Lb) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", lb.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.split_whitespace()
        .next()
        .unwrap()
        .parse::<usize>()
        .unwrap()
        * 1024
}

#[test]
fn events_arrive_one_by_one() {
    let upstream = Upstream::start("one");
    let lb = router(&[("/", &[upstream.address], "")], "");
    let mut client = RawClient::connect(lb.address("http"));
    client
        .send("GET /sse HTTP/1.1\r\nHost: h\r\n\r\n")
        .until(b"data: 0\n\n");
    for event in 1..4 {
        // Only sent now: the ones before were not held back.
        upstream.tick();
        client.until(format!("data: {event}\n\n").as_bytes());
    }
}

#[test]
fn a_large_upload_and_download_pass_in_bounded_memory() {
    const SIZE: usize = 100 * MIB;
    let upstream = Upstream::start("one");
    let lb = router(&[("/", &[upstream.address], "")], "[proxy]\nworkers = 1\n");
    let mut warm = RawClient::connect(lb.address("http"));
    assert_eq!(
        warm.send("GET /bytes/1 HTTP/1.1\r\nHost: h\r\n\r\n")
            .response()
            .unwrap()
            .status,
        200
    );
    let before = resident_bytes(&lb);

    let mut client = RawClient::connect(lb.address("http"));
    let mut sender = client.clone_for_sending();
    let sending = std::thread::spawn(move || {
        sender.send(format!(
            "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {SIZE}\r\n\r\n"
        ));
        let block: Vec<u8> = (0..MIB).map(|at| (at % 251) as u8).collect();
        for _ in 0..SIZE / MIB {
            sender.send(&block);
        }
    });
    let head = String::from_utf8(client.until(b"\r\n\r\n")).unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    // Half way the client stops reading: nothing may pile up.
    let mut seen = 0usize;
    let mut most = 0;
    while seen < SIZE {
        let part = client.bytes(MIB);
        assert_eq!(
            usize::from(*part.last().expect("more of the body")),
            (seen + part.len() - 1) % MIB % 251
        );
        seen += part.len();
        if seen == SIZE / 2 {
            std::thread::sleep(Duration::from_millis(300));
            most = resident_bytes(&lb);
        }
    }
    assert_eq!(seen, SIZE);
    sending.join().unwrap();
    let grown = most.max(resident_bytes(&lb)).saturating_sub(before);
    assert!(grown < 16 * MIB, "grew by {} KiB", grown / 1024);
    wait_quiet(&lb, "s0");
    let sum = lb.metric("lb_bytes_total{service=\"s0\",direction=\"in\"}");
    assert_eq!(sum, Some(SIZE as f64));
}

#[test]
fn an_upload_begins_before_it_ends() {
    // The upstream responds to the first part, before the second is sent.
    let upstream = Scripted::start(|visit| {
        visit.head();
        while !visit.received_contains("first") {
            visit.more();
        }
        visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        while !visit.received_contains("second") {
            visit.more();
        }
        visit.send("6\r\nsecond\r\n0\r\n\r\n");
        visit.until_closed();
    });
    let lb = router(&[("/", &[upstream.address], "")], "");
    let mut client = RawClient::connect(lb.address("http"));
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
    client.until(b"first\r\n");
    client.send("6\r\nsecond\r\n0\r\n\r\n");
    client.until(b"6\r\nsecond\r\n0\r\n\r\n");
    wait_quiet(&lb, "s0");
}
