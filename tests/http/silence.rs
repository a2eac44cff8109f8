//! Instances that fall silent inside a response: `proxy.response_idle_timeout`.

use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::harness::{Scripted, Visit, router, runtime, wait_quiet};
use crate::support::client::RawClient;

const LIMIT: &str = "[proxy]\nworkers = 1\nresponse_idle_timeout = \"600ms\"\n[log]\naccess = \"json\"\n\
                     [proxy.compression]\ncontent_types = \"^text/html\"\nmin_bytes = 1\n";

/// How the body of a response is framed, and what of it comes: two pieces, with a pause between.
const HEADS: [(&str, &str, &str, &str); 5] = [
    ("length", "Content-Length: 8", "half", "rest"),
    (
        "chunks",
        "Transfer-Encoding: chunked",
        "4\r\nhalf\r\n",
        "4\r\nrest\r\n0\r\n\r\n",
    ),
    ("close", "Connection: close", "half", "rest"),
    (
        "html",
        "Transfer-Encoding: chunked\r\nContent-Type: text/html",
        "4\r\nhalf\r\n",
        "4\r\nrest\r\n0\r\n\r\n",
    ),
    (
        "events",
        "Transfer-Encoding: chunked\r\nContent-Type: text/event-stream",
        "4\r\nhalf\r\n",
        "4\r\nrest\r\n0\r\n\r\n",
    ),
];

/// `/NAME/PAUSE_MS`; without a pause it stays silent.
fn pausing(visit: &mut Visit) {
    while let Some(head) = visit.head() {
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut parts = path.trim_start_matches('/').split('/');
        let (name, pause) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        let (_, fields, first, second) = HEADS
            .iter()
            .find(|(known, ..)| *known == name)
            .expect("a known path");
        visit.send(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{first}"));
        let Ok(pause) = pause.parse() else {
            visit.until_closed();
            return;
        };
        std::thread::sleep(Duration::from_millis(pause));
        visit.send(second);
        if name == "close" {
            visit.finish();
            return;
        }
    }
}

/// What a client of a version gets of the body; an error where it broke off.
fn body(address: std::net::SocketAddr, version: &str, path: &str) -> Result<usize, String> {
    if version == "HTTP/2" {
        return runtime().block_on(async {
            let stream = tokio::net::TcpStream::connect(address)
                .await
                .map_err(|error| error.to_string())?;
            let made = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
            let (mut sender, connection) = made.map_err(|error| error.to_string())?;
            tokio::spawn(connection);
            let request = Request::get(format!("http://h{path}"))
                .body(Empty::<Bytes>::new())
                .expect("a request");
            let response = sender
                .send_request(request)
                .await
                .map_err(|error| error.to_string())?;
            assert_eq!(response.status(), 200);
            let body = response
                .into_body()
                .collect()
                .await
                .map_err(|error| error.to_string())?;
            Ok(body.to_bytes().len())
        });
    }
    let mut client = RawClient::connect(address);
    client.send(format!(
        "GET {path} {version}\r\nHost: h\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n"
    ));
    let all = client.rest();
    let head = all
        .windows(4)
        .position(|end| end == b"\r\n\r\n")
        .ok_or("no head")?
        + 4;
    let text = String::from_utf8_lossy(&all[..head]).to_lowercase();
    assert!(text.contains(" 200 "), "{text}");
    let whole = match () {
        () if text.contains("transfer-encoding: chunked") => all.ends_with(b"\r\n0\r\n\r\n"),
        () if text.contains("content-length: 8") => all.len() - head == 8,
        // The bytes do not tell, of a response without a length in HTTP/1.0.
        () => text.contains("content-encoding: gzip") || all.ends_with(b"rest"),
    };
    if whole {
        Ok(all.len() - head)
    } else {
        Err("broken off".to_owned())
    }
}

/// A pause within the limit costs nothing; one above it ends the response, and neither its client
/// nor its instance waits on.
#[test]
fn a_pause_inside_a_response_is_limited() {
    let upstream = Scripted::start(pausing);
    let lb = router(&[("/", &[upstream.address], "")], LIMIT);
    let address = lb.address("http");
    std::thread::scope(|scope| {
        for version in ["HTTP/1.1", "HTTP/1.0", "HTTP/2"] {
            for (name, ..) in HEADS {
                scope.spawn(move || {
                    let short = body(address, version, &format!("/{name}/250"));
                    assert!(short.is_ok(), "{version} {name}: {short:?}");
                });
                let silent = if name == "events" {
                    format!("/{name}/1500")
                } else {
                    format!("/{name}/")
                };
                scope.spawn(move || {
                    let long = body(address, version, &silent);
                    // In HTTP/1.0 the end of such a body is the end of its connection.
                    let unknowable = version == "HTTP/1.0" && name == "html";
                    assert_eq!(
                        long.is_ok(),
                        name == "events" || unknowable,
                        "{version} {name}: {long:?}"
                    );
                });
            }
        }
    });
    wait_quiet(&lb, "s0");
    let line = lb.wait_stdout("record", |line| line.contains("\"uri\":\"/length/\""));
    assert!(line.contains("upstream_body"), "{line}");
}

/// A long body that goes from socket to socket.
#[test]
fn it_is_limited_past_this_process_too() {
    let upstream = Scripted::start(|visit| {
        visit.head();
        visit.send("HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n");
        visit.send(vec![b'x'; 200_000]);
        visit.until_closed();
    });
    let lb = router(&[("/", &[upstream.address], "")], LIMIT);
    let mut client = RawClient::connect(lb.address("http"));
    client.send("GET /long HTTP/1.1\r\nHost: h\r\n\r\n");
    let all = client.rest();
    assert!((200_000..210_000).contains(&all.len()), "{}", all.len());
    upstream.wait_closed(1);
    let line = lb.wait_stdout("record", |line| line.contains("\"uri\":\"/long\""));
    assert!(line.contains("upstream_body"), "{line}");
}

/// Off by 0s.
#[test]
fn without_a_limit_it_waits() {
    let upstream = Scripted::start(pausing);
    let lb = router(
        &[("/", &[upstream.address], "")],
        "[proxy]\nresponse_idle_timeout = \"0s\"\n",
    );
    assert_eq!(body(lb.address("http"), "HTTP/1.1", "/length/1000"), Ok(8));
}

/// An instance that begins its response and then takes no more of the request is as silent.
#[test]
fn one_that_takes_no_more_of_the_request_is_silent_too() {
    let upstream = Scripted::start(|visit| {
        visit.head();
        visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n");
        // Longer than the test: neither reads nor writes.
        std::thread::sleep(Duration::from_secs(8));
    });
    let lb = router(&[("/", &[upstream.address], "")], LIMIT);
    let mut client = RawClient::connect(lb.address("http"));
    client.send("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 50000000\r\n\r\n");
    client.until(b"hi");
    let mut sends = client.clone_for_sending();
    let begun = std::time::Instant::now();
    // As much as is taken; the connection is cut in the middle.
    std::thread::spawn(move || {
        for _ in 0..50 {
            sends.send([b'x'; 1_000_000]);
        }
    });
    client.rest();
    assert!(
        begun.elapsed() < Duration::from_secs(6),
        "{:?}",
        begun.elapsed()
    );
}
