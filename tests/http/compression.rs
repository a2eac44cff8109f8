//! Responses that are compressed on their way, seen by a client that speaks HTTP/1.1.

use std::io::Read as _;

use crate::harness::{Scripted, router, wait_quiet};
use crate::support::client::{RawClient, RawResponse, exchange};
use crate::support::lb::Lb;
use crate::support::wait::wait_until;

const ON: &str = "[proxy.compression]\ncontent_types = \"^text/\"\n";

/// Responds as the path says.
fn mirror() -> Scripted {
    Scripted::start(|visit| {
        while let Some(request) = visit.request() {
            let (method, rest) = request.split_once(' ').unwrap();
            let path = rest.split(' ').next().unwrap();
            let body = "all work and no play. ".repeat(400);
            let head = match path {
                "/text" => {
                    format!("200 OK\r\nContent-Type: text/plain\r\nETag: \"1\"\r\nContent-Length: {}", body.len())
                }
                "/png" => format!("200 OK\r\nContent-Type: image/png\r\nContent-Length: {}", body.len()),
                "/own" => {
                    format!(
                        "200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: x\r\nContent-Length: {}",
                        body.len()
                    )
                }
                "/part" => {
                    "206 Partial\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-9/99\r\nContent-Length: 10"
                        .to_owned()
                }
                "/short" => "200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5".to_owned(),
                "/none" => "204 No Content\r\nContent-Type: text/plain".to_owned(),
                _ => "200 OK\r\nContent-Type: text/plain\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked".to_owned(),
            };
            visit.send(format!("HTTP/1.1 {head}\r\n\r\n"));
            match (method, path) {
                ("HEAD", _) | (_, "/none") => {}
                (_, "/part") => visit.send(&body[..10]),
                (_, "/short") => visit.send("short"),
                (_, "/text" | "/png" | "/own") => visit.send(&body),
                // In pieces, and with a trailer.
                _ => {
                    for piece in body.as_bytes().chunks(1000) {
                        visit.send(
                            [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat(),
                        );
                    }
                    visit.send("0\r\nX-Sum: 7\r\n\r\n");
                }
            }
        }
    })
}

fn ask(lb: &Lb, path: &str, more: &str) -> RawResponse {
    exchange(
        lb.address("http"),
        format!("GET {path} HTTP/1.1\r\nHost: h\r\n{more}\r\n"),
    )
    .unwrap()
}

fn plain(response: &RawResponse) -> String {
    let mut text = String::new();
    match response.header("content-encoding") {
        Some("gzip") => flate2::read::GzDecoder::new(&*response.body).read_to_string(&mut text),
        Some("br") => brotli::Decompressor::new(&*response.body, 4096).read_to_string(&mut text),
        Some("zstd") => zstd::Decoder::new(&*response.body)
            .unwrap()
            .read_to_string(&mut text),
        other => panic!("{other:?}"),
    }
    .unwrap();
    text
}

#[test]
fn the_client_gets_the_coding_it_likes_best() {
    let upstream = mirror();
    let lb = router(
        &[("/", &[upstream.address], "")],
        &format!("[proxy]\nworkers = 1\n{ON}"),
    );
    let whole = "all work and no play. ".repeat(400);
    for path in ["/text", "/chunked"] {
        for (accept, coding) in [
            ("gzip, br, zstd", "zstd"),
            ("gzip, br;q=0.9", "gzip"),
            ("br, gzip;q=0.1", "br"),
        ] {
            let answer = ask(
                &lb,
                path,
                &format!("Accept-Encoding: {accept}\r\nTE: trailers\r\n"),
            );
            assert_eq!(
                answer.header("content-encoding"),
                Some(coding),
                "{path} {accept}"
            );
            assert_eq!(
                answer.header("vary"),
                Some("Accept-Encoding"),
                "{path} {accept}"
            );
            assert_eq!(answer.header("content-length"), None, "{path} {accept}");
            assert!(
                answer.body.len() < whole.len() / 10,
                "{path} {accept}: {}",
                answer.body.len()
            );
            assert_eq!(plain(&answer), whole, "{path} {accept}");
            match path {
                "/text" => assert_eq!(answer.header("etag"), Some("W/\"1\"")),
                _ => assert_eq!(answer.trailers, [("x-sum".to_owned(), "7".to_owned())]),
            }
        }
    }
    // What was sent is what counts.
    wait_quiet(&lb, "s0");
    let sent = lb
        .metric("lb_bytes_total{service=\"s0\",direction=\"out\"}")
        .unwrap();
    assert!(
        sent > 100.0 && sent < 6.0 * 0.1 * whole.len() as f64,
        "{sent}"
    );
    // The connections went back to the pool.
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn what_must_not_change_passes_as_it_is() {
    let upstream = mirror();
    let lb = router(&[("/", &[upstream.address], "")], ON);
    let gzip = "Accept-Encoding: gzip\r\n";
    let long = "all work and no play. ".repeat(400);
    type Case<'a> = (&'a str, &'a str, Option<&'a str>, Option<&'a str>, &'a str);
    // path, fields of the request, coding, Vary, body
    let cases: [Case<'_>; 8] = [
        ("/text", "", None, Some("Accept-Encoding"), &long),
        (
            "/text",
            "Accept-Encoding: gzip;q=0\r\n",
            None,
            Some("Accept-Encoding"),
            &long,
        ),
        (
            "/text",
            "Accept-Encoding: gzip\r\nAccept: text/event-stream\r\n",
            None,
            Some("Accept-Encoding"),
            &long,
        ),
        ("/png", gzip, None, None, &long),
        ("/own", gzip, Some("x"), None, &long),
        ("/part", gzip, None, None, &long[..10]),
        ("/short", gzip, None, Some("Accept-Encoding"), "short"),
        ("/none", gzip, None, None, ""),
    ];
    for (path, more, coding, vary, body) in cases {
        let answer = ask(&lb, path, more);
        assert_eq!(
            (answer.header("content-encoding"), answer.header("vary")),
            (coding, vary),
            "{path} {more}"
        );
        assert_eq!(answer.text(), body, "{path} {more}");
        if path != "/none" {
            assert_eq!(
                answer.header("content-length"),
                Some(body.len().to_string().as_str()),
                "{path} {more}"
            );
        }
    }
}

#[test]
fn head_tells_what_get_would() {
    let upstream = mirror();
    let lb = router(&[("/", &[upstream.address], "")], ON);
    let mut client = RawClient::connect(lb.address("http"));
    for path in ["/text", "/chunked", "/short", "/png"] {
        let fields = |method: &str, client: &mut RawClient| {
            client.send(format!(
                "{method} {path} HTTP/1.1\r\nHost: h\r\nAccept-Encoding: br\r\n\r\n"
            ));
            let head = String::from_utf8(client.until(b"\r\n\r\n"))
                .unwrap()
                .to_ascii_lowercase();
            let names = ["content-encoding", "vary", "etag", "content-length"];
            let of = |line: &&str| names.iter().any(|name| line.starts_with(name));
            let mut lines: Vec<String> = head.lines().filter(of).map(str::to_owned).collect();
            lines.sort();
            lines
        };
        // The next head follows at once: no body came with this one.
        let head = fields("HEAD", &mut client);
        let get = fields("GET", &mut RawClient::connect(lb.address("http")));
        assert_eq!(head, get, "{path}");
    }
}

#[test]
fn events_are_not_held_up() {
    let (tick, ticks) = std::sync::mpsc::channel::<()>();
    let ticks = std::sync::Mutex::new(ticks);
    let upstream = Scripted::start(move |visit| {
        visit.request();
        visit.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        for event in 0..3 {
            let text = format!("data: {event}\n\n");
            visit.send(format!("{:x}\r\n{text}\r\n", text.len()));
            // Silence until the client has seen it.
            ticks.lock().unwrap().recv().unwrap();
        }
        visit.send("0\r\n\r\n");
    });
    let lb = router(&[("/", &[upstream.address], "")], ON);
    let mut client = RawClient::connect(lb.address("http"));
    client.send("GET / HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip\r\n\r\n");
    let head = String::from_utf8(client.until(b"\r\n\r\n")).unwrap();
    assert!(head.contains("content-encoding: gzip"), "{head}");
    let mut decoder = flate2::write::GzDecoder::new(Vec::new());
    for event in 0..3 {
        let wanted = format!("data: {event}\n\n");
        while !decoder.get_ref().ends_with(wanted.as_bytes()) {
            let line = client.until(b"\r\n");
            let size =
                usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
            let piece = client.bytes(size + 2);
            std::io::Write::write_all(&mut decoder, &piece[..size]).unwrap();
            std::io::Write::flush(&mut decoder).unwrap();
        }
        tick.send(()).unwrap();
    }
    wait_quiet(&lb, "s0");
}

#[test]
fn a_body_that_breaks_off_looks_broken() {
    let upstream = Scripted::start(|visit| {
        visit.request();
        visit.send(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\nbegin",
        );
        visit.finish();
    });
    let lb = router(&[("/", &[upstream.address], "")], ON);
    let mut client = RawClient::connect(lb.address("http"));
    client.send("POST / HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip\r\nContent-Length: 0\r\n\r\n");
    let rest = client.rest();
    assert!(
        !rest.ends_with(b"0\r\n\r\n"),
        "{}",
        String::from_utf8_lossy(&rest)
    );
    wait_quiet(&lb, "s0");
}

#[test]
fn a_reload_switches_it_on_and_off() {
    let upstream = mirror();
    let lb = router(&[("/", &[upstream.address], "")], "");
    let gzip = "Accept-Encoding: gzip\r\n";
    assert_eq!(ask(&lb, "/text", gzip).header("content-encoding"), None);
    let path = lb.folder().join("lb.toml");
    let off = std::fs::read_to_string(&path).unwrap();
    for (text, coding) in [(format!("{off}\n{ON}"), Some("gzip")), (off, None)] {
        std::fs::write(&path, text).unwrap();
        lb.sighup();
        wait_until("other rules", || {
            ask(&lb, "/text", gzip).header("content-encoding") == coding
        });
    }
}
