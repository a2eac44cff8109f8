//! HTTP/2 from clients, towards both kinds of upstream.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::support::certs::Ca;
use super::support::client::{self, RawClient};
use super::support::lb::Lb;
use super::support::upstream::Upstream;
use super::wire::*;
use crate::support::wait::{PATIENCE, wait_until};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One balancer with an HTTP/1.1 upstream for host `one` and the same upstream by h2c for host
/// `two`.
fn both(proxy: &str) -> (Upstream, Lb) {
    let upstream = Upstream::start("u");
    let target = [url("http", upstream.address)];
    let text = listener("http", "")
        + &route("one", "one/", &target, "")
        + &route("two", "two/", &target, "proto=h2c")
        + "[proxy]\nworkers = 1\n"
        + proxy;
    (upstream, Lb::start(&config(&text)))
}

/// The tool checks every MUST of RFC 9113 and RFC 7541 that a server can break.
#[test]
fn h2spec_finds_nothing_in_clear_or_over_tls() {
    let tool = std::env::var_os("H2SPEC")
        .map(std::path::PathBuf::from)
        .or_else(|| {
            let home =
                std::env::var_os("HOME").map(|home| std::path::PathBuf::from(home).join("go/bin"));
            let path = std::env::var_os("PATH").unwrap_or_default();
            let folders = std::env::split_paths(&path).chain(home);
            folders
                .map(|folder| folder.join("h2spec"))
                .find(|tool| tool.is_file())
        });
    let Some(tool) = tool else {
        eprintln!(
            "SKIPPED: no h2spec on PATH, in ~/go/bin, or named by H2SPEC: HTTP/2 conformance was not checked"
        );
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let pair = Ca::new("ca")
        .pair(&["localhost", "127.0.0.1"])
        .write(folder.path(), "site");
    let upstream = Upstream::start("u");
    let text = listener("http", "")
        + &listener("https", "certificates = \"main\"")
        + &format!(
            "[certificates.main]\ncert_file = {:?}\nkey_file = {:?}\n",
            pair.cert, pair.key
        )
        + &route("web", "/", &[url("http", upstream.address)], "");
    let lb = Lb::start(&config(&text));
    for (listener, tls) in [("http", &[][..]), ("https", &["-t", "-k"][..])] {
        let port = lb.address(listener).port().to_string();
        let mut command = Command::new(&tool);
        // 2 s is what a case may take that waits for a connection to end.
        command
            .args(["-h", "127.0.0.1", "-p", &port, "-o", "2", "-S"])
            .args(tls);
        let output = command.output().unwrap();
        let report = String::from_utf8_lossy(&output.stdout);
        let failures = report.split("Failures:").nth(1).unwrap_or(&report);
        assert!(
            output.status.success() && report.contains(" 0 failed"),
            "{listener}: {failures}"
        );
    }
}

#[test]
fn many_streams_share_a_connection_whatever_the_upstream_speaks() {
    let (upstream, lb) = both("");
    block_on(async {
        for host in ["one", "two"] {
            let (client, _) = h2(lb.address("http")).await;
            let asked = (0..200).map(|n| {
                let mut client = client.clone();
                async move { ask(&mut client, get(&format!("http://{host}/n/{n}"))).await }
            });
            for (n, (parts, body, _)) in join_all(asked).await.into_iter().enumerate() {
                assert_eq!(
                    (parts.status, parts.version),
                    (StatusCode::OK, Version::HTTP_2),
                    "{host} {n}: {body:?}"
                );
                let seen = json(&body);
                assert_eq!(seen["path"], format!("/n/{n}"));
                assert_eq!(seen["version"], if host == "one" { "1" } else { "2" });
            }
        }
    });
    assert_eq!(upstream.requests(), 400);
}

#[test]
fn authority_chooses_the_route_and_becomes_host_or_authority() {
    let (_upstream, lb) = both("");
    block_on(async {
        let (mut client, _) = h2(lb.address("http")).await;
        let (_, body, _) = ask(&mut client, get("http://one/x?y=1")).await;
        let seen = json(&body);
        assert_eq!(
            (&seen["path"], &seen["authority"]),
            (&"/x?y=1".into(), &serde_json::Value::Null)
        );
        assert!(
            seen["headers"]
                .as_array()
                .unwrap()
                .contains(&serde_json::json!(["host", "one"])),
            "{seen}"
        );
        let (_, body, _) = ask(&mut client, get("http://two/")).await;
        assert_eq!(json(&body)["authority"], "two");
        let (parts, _, _) = ask(&mut client, get("http://three/")).await;
        assert_eq!(parts.status, StatusCode::NOT_FOUND);
    });
}

/// RFC 9113 section 8.2.3: split for compression, joined with `; ` before it becomes HTTP/1.1.
#[test]
fn cookies_are_joined_for_http1() {
    let (_upstream, lb) = both("");
    block_on(async {
        let (mut client, _) = h2(lb.address("http")).await;
        let request = Request::get("http://one/")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(full(""))
            .unwrap();
        let (_, body, _) = ask(&mut client, request).await;
        let seen = json(&body);
        let cookies: Vec<_> = seen["headers"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|field| field[0] == "cookie")
            .collect();
        assert_eq!(cookies, [&serde_json::json!(["cookie", "a=1; b=2"])]);
    });
}

#[test]
fn trailers_pass_both_ways() {
    let (_upstream, lb) = both("");
    block_on(async {
        let (mut client, _) = h2(lb.address("http")).await;
        for host in ["one", "two"] {
            let request = Request::get(format!("http://{host}/trailers"))
                .header("te", "trailers")
                .body(full(""))
                .unwrap();
            let (_, body, trailers) = ask(&mut client, request).await;
            assert_eq!(body, "body");
            assert_eq!(
                trailers.get("x-checksum").map(|value| value.as_bytes()),
                Some(&b"42"[..]),
                "{host}"
            );
        }
        let (sender, body) = channel();
        let request = Request::post("http://two/echo").body(body).unwrap();
        sender.send(data("question")).await.unwrap();
        let mut fields = HeaderMap::new();
        fields.insert("x-sum", "7".parse().unwrap());
        sender.send(Frame::trailers(fields)).await.unwrap();
        drop(sender);
        let (_, body, trailers) = ask(&mut client, request).await;
        assert_eq!(
            (&body[..], trailers["x-sum"].as_bytes()),
            (&b"question"[..], &b"7"[..])
        );
    });
}

#[test]
fn connect_is_refused() {
    let (upstream, lb) = both("");
    block_on(async {
        let (mut client, _) = h2(lb.address("http")).await;
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri("one:80")
            .body(full(""))
            .unwrap();
        client.ready().await.unwrap();
        let response = client.send_request(request).await.expect("a response");
        assert!(response.status().is_client_error(), "{}", response.status());
        let (parts, _, _) = ask(&mut client, get("http://one/")).await;
        assert_eq!(parts.status, StatusCode::OK, "the connection lives on");
    });
    assert_eq!(upstream.requests(), 1);
}

/// Both before the head of a response and in the middle of its body.
#[test]
fn a_reset_stream_ends_its_request_at_the_upstream() {
    let sockets = Sockets::start();
    let text = listener("http", "")
        + &route("one", "/", &[url("http", sockets.address)], "")
        + "[proxy]\nworkers = 1\n";
    let lb = Lb::start(&config(&text));
    block_on(async {
        let (mut client, _) = h2(lb.address("http")).await;
        for answer in ["", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf"] {
            client.ready().await.unwrap();
            let waiting = tokio::spawn(client.send_request(get("http://one/")));
            let mut upstream = sockets.accept();
            read_until(&mut upstream, b"\r\n\r\n");
            upstream.write_all(answer.as_bytes()).unwrap();
            if answer.is_empty() {
                waiting.abort();
            } else {
                drop(waiting.await.unwrap().expect("a head"));
            }
            assert_eq!(read_to_end(&mut upstream), b"");
        }
    });
    wait_until("no request in flight", || {
        lb.metric("lb_http_requests_in_flight{service=\"one\"}") == Some(0.0)
    });
}

/// A client that requests much and reads little is served from a bounded buffer, and holds up no
/// other stream.
#[test]
fn a_slow_reader_neither_fills_memory_nor_holds_up_others() {
    const STREAMS: u64 = 20;
    let flood = Flood::start(1 << 30);
    let upstream = Upstream::start("u");
    let text = listener("http", "")
        + &route("flood", "flood/", &[url("http", flood.address)], "")
        + &route("one", "one/", &[url("http", upstream.address)], "")
        + "[proxy]\nworkers = 1\n";
    let lb = Lb::start(&config(&text));
    let before = lb.metric("process_resident_memory_bytes").unwrap();
    block_on(async {
        let io = tokio::net::TcpStream::connect(lb.address("http"))
            .await
            .unwrap();
        let (mut client, _) = h2_on(io, 64 << 10).await;
        let mut unread = Vec::new();
        for _ in 0..STREAMS {
            client.ready().await.unwrap();
            unread.push(
                client
                    .send_request(get("http://flood/"))
                    .await
                    .expect("a head"),
            );
        }
        let (parts, _, _) = ask(&mut client, get("http://one/")).await;
        assert_eq!(parts.status, StatusCode::OK);
        // Taken off the upstreams' hands: what sockets hold (up to some MiB each), and little more.
        let mut last = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = flood.written.load(SeqCst);
            if now == last {
                break;
            }
            last = now;
        }
        assert!(
            last < STREAMS * (12 << 20),
            "{last} bytes taken for a client that reads none"
        );
        let after = lb.metric("process_resident_memory_bytes").unwrap();
        assert!(
            after - before < 32.0 * 1024.0 * 1024.0,
            "memory grew from {before} to {after} bytes"
        );
    });
}

/// A slow reader of one upstream HTTP/2 connection must not use up the window that its other
/// streams share.
#[test]
fn a_slow_reader_leaves_a_shared_upstream_connection_usable() {
    let (upstream, lb) = both("");
    block_on(async {
        let io = tokio::net::TcpStream::connect(lb.address("http"))
            .await
            .unwrap();
        let (mut slow, _) = h2_on(io, 1 << 10).await;
        let mut unread = Vec::new();
        for _ in 0..30 {
            slow.ready().await.unwrap();
            unread.push(
                slow.send_request(get("http://two/bytes/2000000"))
                    .await
                    .expect("a head"),
            );
        }
        let (mut quick, _) = h2(lb.address("http")).await;
        let (_, body, _) = ask(&mut quick, get("http://two/bytes/1000000")).await;
        assert_eq!(body.len(), 1_000_000);
        drop(unread);
    });
    assert_eq!(upstream.connections(), 1);
}

/// CVE-2023-44487: streams opened and reset at once, as fast as the wire takes them.
#[test]
fn rapid_reset_ends_the_connection_and_nothing_else() {
    let (upstream, lb) = both("");
    let mut socket = TcpStream::connect(lb.address("http")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = PREFACE.to_vec();
    bytes.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    for stream in (1..40_000u32).step_by(2) {
        // GET http://one/, indexed but for the authority; then RST_STREAM(CANCEL).
        let block = [0x82, 0x86, 0x84, 0x41, 3, b'o', b'n', b'e'];
        bytes.extend_from_slice(&[0, 0, u8::try_from(block.len()).unwrap(), 1, 5]);
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(&block);
        bytes.extend_from_slice(&[0, 0, 4, 3, 0]);
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(&8u32.to_be_bytes());
    }
    // The end may come while this is still being written.
    let _ = socket.write_all(&bytes);
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    assert_eq!(client::get(lb.address("http"), "one", "/").status, 200);
    assert!(
        upstream.requests() < 2_000,
        "{} of 20000 streams reached the upstream",
        upstream.requests()
    );
    wait_until("no request in flight", || {
        lb.metric("lb_http_requests_in_flight{service=\"one\"}") == Some(0.0)
    });
}

#[test]
fn a_header_list_above_the_limit_is_refused_and_the_connection_lives() {
    let (upstream, lb) = both("max_header_bytes = 4096\n");
    block_on(async {
        let (mut client, _) = h2(lb.address("http")).await;
        let request = Request::get("http://one/")
            .header("x-big", "x".repeat(8000))
            .body(full(""))
            .unwrap();
        client.ready().await.unwrap();
        if let Ok(response) = client.send_request(request).await {
            assert_eq!(
                response.status(),
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            );
        }
        let (mut client, _) = h2(lb.address("http")).await;
        assert_eq!(
            ask(&mut client, get("http://one/")).await.0.status,
            StatusCode::OK
        );
    });
    assert_eq!(upstream.requests(), 1);
}

#[test]
fn too_many_fields_and_two_hosts_are_refused() {
    let (upstream, lb) = both("max_headers = 20\n");
    block_on(async {
        let (mut client, _) = h2(lb.address("http")).await;
        let many = (0..30).fold(Request::get("http://one/"), |request, n| {
            request.header(format!("x-{n}"), "1")
        });
        let (parts, _, _) = ask(&mut client, many.body(full("")).unwrap()).await;
        assert_eq!(parts.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        let two = Request::get("http://one/")
            .header("host", "two")
            .body(full(""))
            .unwrap();
        assert_eq!(
            ask(&mut client, two).await.0.status,
            StatusCode::BAD_REQUEST
        );
        assert_eq!(
            ask(&mut client, get("http://one/")).await.0.status,
            StatusCode::OK
        );
    });
    assert_eq!(upstream.requests(), 1);
}

#[test]
fn uploads_without_a_length_stream_to_either_upstream() {
    let (_upstream, lb) = both("");
    block_on(async {
        let (mut client, _) = h2(lb.address("http")).await;
        for host in ["one", "two"] {
            let (sender, body) = channel();
            client.ready().await.unwrap();
            let answer = client.send_request(
                Request::post(format!("http://{host}/echo"))
                    .body(body)
                    .unwrap(),
            );
            let parts: Vec<String> = (0..50).map(|n| format!("part {n};").repeat(1000)).collect();
            let wanted = parts.concat();
            tokio::spawn(async move {
                for part in parts {
                    sender.send(data(part)).await.unwrap();
                }
            });
            let (parts, body, _) = whole(answer.await.expect("a response")).await;
            assert_eq!(parts.status, StatusCode::OK);
            assert!(
                body == wanted,
                "{host}: {} of {} bytes",
                body.len(),
                wanted.len()
            );
        }
    });
}

/// One stream that stops in its upload ends alone, and takes no upstream connection with it for
/// good.
#[test]
fn an_upload_that_stops_is_ended_and_blamed_on_nobody() {
    let (_upstream, lb) = both("response_timeout = \"300ms\"\nbody_timeout = \"400ms\"\n");
    block_on(async {
        let (mut client, _) = h2(lb.address("http")).await;
        let (sender, body) = channel();
        sender.send(data("half")).await.unwrap();
        let request = Request::post("http://one/").body(body).unwrap();
        let (parts, _, _) = ask(&mut client, request).await;
        assert_eq!(parts.status, StatusCode::REQUEST_TIMEOUT);
        assert_eq!(
            ask(&mut client, get("http://one/")).await.0.status,
            StatusCode::OK
        );
        drop(sender);
    });
    assert_eq!(
        lb.metric("lb_http_requests_in_flight{service=\"one\"}"),
        Some(0.0)
    );
    assert_eq!(
        lb.metric("lb_upstream_ejections_total{service=\"one\"}")
            .unwrap_or(0.0),
        0.0
    );
}

#[test]
fn an_idle_connection_is_closed_and_a_used_one_is_not() {
    let (upstream, lb) = both("idle_timeout = \"400ms\"\n");
    upstream.set_delay(Duration::from_millis(1200));
    block_on(async {
        let begun = Instant::now();
        let (mut client, ended) = h2(lb.address("http")).await;
        let (parts, _, _) = ask(&mut client, get("http://one/")).await;
        assert_eq!(
            parts.status,
            StatusCode::OK,
            "longer than the idle time, and not idle"
        );
        ended.await.unwrap().expect("an orderly end");
        assert!(
            begun.elapsed() > Duration::from_millis(1500),
            "{:?}",
            begun.elapsed()
        );
    });
}

#[test]
fn a_drain_says_goaway_and_lets_streams_finish() {
    let (upstream, mut lb) = both("");
    upstream.set_delay(Duration::from_millis(600));
    block_on(async {
        let (mut client, ended) = h2(lb.address("http")).await;
        client.ready().await.unwrap();
        let running = client.send_request(get("http://one/"));
        wait_until("a request", || upstream.requests() == 1);
        lb.sigterm();
        let (parts, _, _) = whole(
            running
                .await
                .expect("the response of a stream that was open"),
        )
        .await;
        assert_eq!(parts.status, StatusCode::OK);
        ended.await.unwrap().expect("an orderly end");
        assert!(client.ready().await.is_err());
    });
    assert_eq!(lb.exit_code(), Some(0));
}

/// What cannot be HTTP gets no response in HTTP; what might be does.
#[test]
fn a_foreign_protocol_is_closed_without_an_answer() {
    let (_upstream, lb) = both("");
    let mut foreign = RawClient::connect(lb.address("http"));
    assert_eq!(
        foreign.send("INVALID CONNECTION PREFACE\r\n\r\n").rest(),
        b""
    );
    let mut bad = RawClient::connect(lb.address("http"));
    assert_eq!(
        bad.send("GET / HTTP/1.1\r\nHost : one\r\n\r\n")
            .response()
            .unwrap()
            .status,
        400
    );
    let mut split = TcpStream::connect(lb.address("http")).unwrap();
    split.set_nodelay(true).unwrap();
    for part in [
        "P",
        "O",
        "ST / HTTP/1.1\r\nHost: one\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    ] {
        split.write_all(part.as_bytes()).unwrap();
    }
    let mut answer = String::new();
    split.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// An upstream that serves its connections with the function.
fn serving<F>(serve: impl Fn(tokio::net::TcpStream) -> F + Send + 'static) -> std::net::SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let socket = tokio::net::TcpListener::from_std(socket).unwrap();
            while let Ok((stream, _)) = socket.accept().await {
                tokio::spawn(serve(stream));
            }
        });
    });
    address
}

/// An h2c upstream that ends each connection in the orderly way after some requests, as servers
/// with a limit on the age of connections do: GOAWAY, and a response to what came before it.
fn ageing_upstream(requests_each: usize) -> std::net::SocketAddr {
    serving(move |stream| async move {
        let served = Arc::new(AtomicUsize::new(0));
        let old = Arc::new(tokio::sync::Notify::new());
        let (count, signal) = (Arc::clone(&served), Arc::clone(&old));
        let service = service_fn(move |request: Request<Incoming>| {
            if count.fetch_add(1, SeqCst) + 1 == requests_each {
                signal.notify_one();
            }
            async { Ok::<_, hyper::Error>(Response::new(request.into_body())) }
        });
        let builder = http2::Builder::new(TokioExecutor::new());
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => return,
            () = old.notified() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    })
}

/// What an upstream has no stream for waits for one here, and is neither refused nor lost.
#[test]
fn an_upstream_that_takes_few_streams_gets_all_requests() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (count, highest) = (Arc::clone(&now), Arc::clone(&most));
    let address = serving(move |stream| {
        let (count, highest) = (Arc::clone(&count), Arc::clone(&highest));
        async move {
            let mut builder = h2::server::Builder::new();
            let mut connection = builder
                .max_concurrent_streams(2)
                .handshake::<_, Bytes>(stream)
                .await
                .unwrap();
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                highest.fetch_max(count.fetch_add(1, SeqCst) + 1, SeqCst);
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    count.fetch_sub(1, SeqCst);
                    respond.send_response(Response::new(()), true).unwrap();
                });
            }
        }
    });
    let text = listener("http", "") + &route("one", "/", &[url("http", address)], "proto=h2c");
    let lb = Lb::start(&config(
        &(text + "[proxy]\nworkers = 1\n[retry]\nattempts = 1\n"),
    ));
    block_on(async {
        let (client, _) = h2(lb.address("http")).await;
        let asked = (0..100).map(|n| {
            let mut client = client.clone();
            let request = Request::post("http://one/")
                .body(full(format!("body {n}")))
                .unwrap();
            async move { ask(&mut client, request).await }
        });
        for (parts, body, _) in join_all(asked).await {
            assert_eq!(parts.status, StatusCode::OK, "{body:?}");
        }
    });
    // Two streams on each of eight connections.
    assert!(
        (2..=16).contains(&most.load(SeqCst)),
        "{most:?} at the same time"
    );
}

#[test]
fn an_error_for_head_has_no_body() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let text = listener("http", "") + &route("gone", "/", &[url("http", closed)], "");
    let lb = Lb::start(&config(&(text + "[proxy]\nworkers = 1\n")));
    block_on(async {
        let (mut client, _) = h2(lb.address("http")).await;
        let request = Request::head("http://one/").body(full("")).unwrap();
        let (parts, body, _) = ask(&mut client, request).await;
        assert!(parts.status.is_server_error(), "{}", parts.status);
        assert_eq!(body.len(), 0);
        assert_ne!(parts.headers.get("content-length"), None);
    });
    wait_until("it is counted", || {
        lb.metric("lb_http_requests_in_flight{service=\"gone\"}") == Some(0.0)
    });
}

/// RFC 9113 section 8.1: a server that needs no more of an upload responds, and ends the stream
/// without an error.
#[test]
fn an_answer_may_end_before_the_upload_does() {
    let upstream = serving(|stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            // With the last handle of the stream goes its reset.
            stream.send_data("enough".into(), true).unwrap();
        }
    });
    let text = listener("http", "") + &route("one", "/", &[url("http", upstream)], "proto=h2c");
    let lb = Lb::start(&config(&(text + "[proxy]\nworkers = 1\n")));
    block_on(async {
        let (mut client, _) = h2(lb.address("http")).await;
        for _ in 0..3 {
            let (sender, body) = channel();
            sender.send(data("half")).await.unwrap();
            let (parts, body, _) = ask(
                &mut client,
                Request::post("http://one/").body(body).unwrap(),
            )
            .await;
            assert_eq!((parts.status, &body[..]), (StatusCode::OK, &b"enough"[..]));
            drop(sender);
        }
    });
}

#[test]
fn a_part_of_an_answer_is_never_taken_for_the_whole() {
    const STATUS_200: &[u8] = &[0x88];
    const LENGTH_100: &[u8] = b"\x0f\x0d\x03100";
    let sockets = Sockets::start();
    let text =
        listener("http", "") + &route("one", "/", &[url("http", sockets.address)], "proto=h2c");
    let lb = Lb::start(&config(&(text + "[proxy]\nworkers = 1\n")));
    block_on(async {
        let (mut client, _) = h2(lb.address("http")).await;
        for (promise, reason) in [
            (&b""[..], h2::Reason::CANCEL),
            (b"", h2::Reason::NO_ERROR),
            (LENGTH_100, h2::Reason::NO_ERROR),
        ] {
            client.ready().await.unwrap();
            let answer = tokio::spawn(client.send_request(get("http://one/")));
            let mut upstream = greeted(&sockets);
            let reset = u32::from(reason).to_be_bytes();
            let head = raw_frame(1, 4, 1, &[STATUS_200, promise].concat());
            let (part, reset) = (raw_frame(0, 0, 1, b"a part"), raw_frame(3, 0, 1, &reset));
            upstream.write_all(&[head, part, reset].concat()).unwrap();
            // The reset of the client's stream may overtake the head.
            let whole = match answer.await.unwrap() {
                Ok(answer) => answer.into_body().collect().await.is_ok(),
                Err(_) => false,
            };
            assert!(!whole, "{reason:?}");
            drop(upstream);
            wait_until("the connection is given up", || {
                lb.metric("lb_http_requests_in_flight{service=\"one\"}") == Some(0.0)
            });
        }
    });
}

/// A frame of HTTP/2 as it is on the wire (RFC 9113 section 4.1).
fn raw_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The next connection of an h2c upstream, read to the end of the first request's head.
fn greeted(sockets: &Sockets) -> std::net::TcpStream {
    let mut upstream = sockets.accept();
    upstream.write_all(&raw_frame(4, 0, 0, b"")).unwrap();
    read_until(&mut upstream, PREFACE);
    loop {
        let mut head = [0; 9];
        upstream.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        upstream.read_exact(&mut vec![0; length as usize]).unwrap();
        if head[3] == 1 {
            return upstream;
        }
    }
}

/// A GOAWAY that crosses a request on its way: the request was not looked at, so it is not an
/// attempt.
#[test]
fn a_request_behind_the_last_stream_of_a_goaway_is_sent_again() {
    for body in ["", "of a request"] {
        let sockets = Sockets::start();
        let text =
            listener("http", "") + &route("one", "/", &[url("http", sockets.address)], "proto=h2c");
        let lb = Lb::start(&config(
            &(text + "[proxy]\nworkers = 1\n[retry]\nattempts = 1\n"),
        ));
        block_on(async {
            let (mut client, _) = h2(lb.address("http")).await;
            let request = Request::post("http://one/").body(full(body)).unwrap();
            let answer = tokio::spawn(async move { ask(&mut client, request).await });
            // GOAWAY with nought as the last stream, and nought for no error.
            let mut first = greeted(&sockets);
            first.write_all(&raw_frame(7, 0, 0, &[0; 8])).unwrap();
            let mut second = greeted(&sockets);
            let head = raw_frame(1, 4 | 1, 1, &[0x88]);
            second.write_all(&head).unwrap();
            let (parts, _, _) = answer.await.unwrap();
            assert_eq!(parts.status, StatusCode::OK);
        });
    }
}

#[test]
fn upstream_connections_that_end_in_order_cost_no_request() {
    let text = listener("http", "")
        + &route("old", "/", &[url("http", ageing_upstream(7))], "proto=h2c")
        + "[proxy]\nworkers = 1\n[retry]\nattempts = 1\n";
    let lb = Lb::start(&config(&text));
    block_on(async {
        let (client, _) = h2(lb.address("http")).await;
        for _ in 0..40 {
            let asked = (0..8).map(|n| {
                let mut client = client.clone();
                let request = Request::post("http://one/")
                    .body(full(format!("body {n}")))
                    .unwrap();
                async move { ask(&mut client, request).await }
            });
            for (n, (parts, body, _)) in join_all(asked).await.into_iter().enumerate() {
                assert_eq!(
                    (parts.status, body),
                    (StatusCode::OK, format!("body {n}").into())
                );
            }
        }
    });
}

/// What a stream is compressed with is its own business; upstreams of both kinds, trailers, events.
#[test]
fn answers_are_compressed_stream_by_stream() {
    let (upstream, lb) = both(
        "[proxy.compression]\ncontent_types = \"json|event-stream|octet|text\"\nmin_bytes = 0\n",
    );
    let packed = |bytes: &[u8]| {
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(bytes)
            .read_to_end(&mut text)
            .unwrap();
        text
    };
    block_on(async {
        for host in ["one", "two"] {
            let (mut client, _) = h2(lb.address("http")).await;
            let request = |path: &str, coding: &str| {
                Request::get(format!("http://{host}{path}"))
                    .header("accept-encoding", coding)
                    .body(full(""))
                    .unwrap()
            };
            let (parts, body, _) = ask(&mut client, request("/x", "gzip")).await;
            assert_eq!(parts.headers["content-encoding"], "gzip");
            assert_eq!(parts.headers["vary"], "Accept-Encoding");
            assert_eq!(parts.headers.get("content-length"), None);
            assert_eq!(json(&packed(&body))["path"], "/x");
            let (parts, body, _) = ask(&mut client, request("/x", "br;q=0")).await;
            assert_eq!(
                (
                    parts.headers.get("content-encoding"),
                    json(&body)["path"].as_str()
                ),
                (None, Some("/x"))
            );

            let mut answer = client.send_request(request("/sse", "gzip")).await.unwrap();
            assert_eq!(answer.headers()["content-encoding"], "gzip");
            let mut decoder = flate2::write::GzDecoder::new(Vec::new());
            for events in 1..=3 {
                loop {
                    decoder.flush().unwrap();
                    let seen = String::from_utf8_lossy(decoder.get_ref())
                        .matches("\n\n")
                        .count();
                    if seen == events {
                        break;
                    }
                    let frame = answer.body_mut().frame().await.unwrap().unwrap();
                    decoder.write_all(frame.data_ref().unwrap()).unwrap();
                }
                upstream.tick();
            }
        }
    });
}

/// A stream that takes too long is reset; its neighbours, and the connection, are not.
#[test]
fn a_stream_ends_with_its_time() {
    let (_upstream, lb) = both("request_timeout = \"300ms\"\n");
    block_on(async {
        for host in ["one", "two"] {
            let (mut client, connection) = h2(lb.address("http")).await;
            let answer = client
                .send_request(get(&format!("http://{host}/sse")))
                .await
                .unwrap();
            let body = answer.into_body().collect().await;
            let error = body.expect_err("a stream that is cut");
            assert!(error.to_string().contains("error"), "{error}");
            let (parts, _, _) = ask(&mut client, get(&format!("http://{host}/x"))).await;
            assert_eq!(parts.status, StatusCode::OK);
            assert!(!connection.is_finished());
        }
    });
}
