//! What lies between requests and beside them: tunnels behind a body, connections that are parked,
//! bodies that never begin, bytes of next requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use http::{Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Bytes;
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::harness::{OK, Scripted, router, runtime, wait_quiet};
use crate::support::client::RawClient;
use crate::support::wait::wait_until;

/// The body of a request that another protocol follows is the request's alone.
#[test]
fn a_tunnel_begins_behind_the_body() {
    let upstream = Scripted::start(|visit| {
        let Some(head) = visit.head() else { return };
        let body = if head.to_lowercase().contains("chunked") {
            visit.chunks()
        } else {
            visit.exactly(7)
        };
        visit.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
        );
        visit.send(format!("{}|", body.unwrap_or_default()));
        while visit.received_contains("!") || visit.more().is_some() {
            if visit.received_contains("!") {
                let rest = visit.exactly(5).unwrap_or_default();
                visit.send(rest);
                return;
            }
        }
    });
    let lb = router(&[("/", &[upstream.address], "")], "");
    for (framing, body) in [
        ("Content-Length: 7", "{\"a\":1}"),
        ("Transfer-Encoding: chunked", "7\r\n{\"a\":1}\r\n0\r\n\r\n"),
    ] {
        for ahead in ["", "tail!"] {
            let mut client = RawClient::connect(lb.address("http"));
            client.send(format!(
                "POST /up HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n{framing}\r\n\r\n{body}{ahead}"
            ));
            let head = String::from_utf8(client.until(b"\r\n\r\n")).unwrap();
            assert!(head.starts_with("HTTP/1.1 101 "), "{framing}: {head}");
            assert_eq!(client.until(b"|"), b"{\"a\":1}|", "{framing}");
            if ahead.is_empty() {
                client.send("tail!");
            }
            assert_eq!(client.bytes(5), b"tail!", "{framing} {ahead:?}");
        }
    }
}

/// A body of which nothing comes is a client that stops, as one of which a part came.
#[test]
fn a_body_that_never_begins_is_not_waited_for() {
    let upstream = Scripted::start(|visit| {
        visit.head();
        visit.until_closed();
    });
    let config = "[proxy]\nworkers = 1\nbody_timeout = \"400ms\"\nresponse_timeout = \"1s\"\n";
    let lb = router(&[("/", &[upstream.address], "")], config);
    for framing in [
        "Transfer-Encoding: chunked",
        "Content-Length: 100000",
        "Content-Length: 10",
        "Expect: 100-continue\r\nContent-Length: 100000",
        "Expect: 100-continue\r\nTransfer-Encoding: chunked",
    ] {
        let mut client = RawClient::connect(lb.address("http"));
        client.send(format!("POST / HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n"));
        let begun = Instant::now();
        client.rest();
        assert!(
            begun.elapsed() < Duration::from_secs(4),
            "{framing}: {:?}",
            begun.elapsed()
        );
        wait_quiet(&lb, "s0");
    }
}

/// A client is told of a slow head while it sends one, and at no other time.
#[test]
fn nothing_comes_behind_a_response() {
    let upstream = Scripted::replying(OK);
    let config = "[proxy]\nworkers = 1\nheader_timeout = \"300ms\"\nbody_timeout = \"300ms\"\nidle_timeout = \"2s\"\n";
    let lb = router(&[("h/", &[upstream.address], "")], config);
    for (first, second) in [
        ("GET / HTTP/1.1\r\nHost: ", "nobody\r\n\r\n"),
        ("GET / HTTP/1.1\r\nHost: ", "h\r\n\r\n"),
        (
            "POST / HTTP/1.1\r\nHost: nobody\r\nContent-Length: 10\r\n\r\n",
            "abc",
        ),
        // Old clients send a line end too much (RFC 9112 section 2.2).
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n\r\n", ""),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n",
            "ok\r\n",
        ),
    ] {
        let mut client = RawClient::connect(lb.address("http"));
        client.send(first);
        std::thread::sleep(Duration::from_millis(100));
        client.send(second);
        let response = client.response().unwrap();
        assert!(
            [200, 404].contains(&response.status),
            "{first:?}: {}",
            response.status
        );
        let rest = client.rest();
        assert!(
            rest.is_empty(),
            "{first:?}: {:?}",
            String::from_utf8_lossy(&rest)
        );
    }
}

/// A response made here leaves the connection, whatever length of body is still to come.
#[test]
fn a_body_of_any_length_is_read_past() {
    let upstream = Scripted::replying(OK);
    let lb = router(&[("h/", &[upstream.address], "")], "");
    for length in [1, 65_535, 65_536] {
        let mut client = RawClient::connect(lb.address("http"));
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: nobody\r\nContent-Length: {length}\r\n\r\n"
        ));
        assert_eq!(client.response().unwrap().status, 404);
        client.send(format!(
            "{}GET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "x".repeat(length)
        ));
        assert_eq!(
            client.response().map(|response| response.status),
            Some(200),
            "{length}"
        );
    }
}

/// An upload that turns out to be none ends the response that runs beside it, however that goes to
/// the client.
#[test]
fn a_malformed_upload_ends_the_response_beside_it() {
    let upstream = Scripted::start(|visit| {
        let Some(head) = visit.head() else { return };
        let (kind, length) = if head.contains("/page") {
            ("text/html", "")
        } else {
            ("image/png", "1")
        };
        let framing = if length.is_empty() {
            "Transfer-Encoding: chunked"
        } else {
            "Content-Length: 1000000"
        };
        let first = if length.is_empty() {
            "4\r\nbody\r\n"
        } else {
            "body"
        };
        visit.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{framing}\r\n\r\n{first}"
        ));
        visit.until_closed();
    });
    let config =
        "[proxy]\nworkers = 1\n[proxy.compression]\ncontent_types = \"^text/\"\nmin_bytes = 1\n";
    let lb = router(&[("/", &[upstream.address], "")], config);
    for path in ["/page", "/picture"] {
        let mut client = RawClient::connect(lb.address("http"));
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
        ));
        client.until(b"\r\n\r\n");
        client.send("ZZZ\r\n");
        let begun = Instant::now();
        client.rest();
        assert!(
            begun.elapsed() < Duration::from_secs(3),
            "{path}: {:?}",
            begun.elapsed()
        );
        wait_quiet(&lb, "s0");
    }
}

/// A connection that authenticates itself keeps its instance's while it is quiet.
#[test]
fn what_belongs_to_a_client_outlives_its_pauses() {
    let upstream = Scripted::start(|visit| {
        while visit.head().is_some() {
            visit.send("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM x\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let lb = router(&[("/", &[upstream.address], "")], "[proxy]\nworkers = 1\n");
    let mut client = RawClient::connect(lb.address("http"));
    let before = upstream.connections();
    for _ in 0..3 {
        let request = "GET / HTTP/1.1\r\nHost: h\r\nAuthorization: NTLM x\r\n\r\n";
        assert_eq!(client.send(request).response().unwrap().status, 401);
        // Longer than a connection that is parked has to be quiet for.
        std::thread::sleep(Duration::from_millis(1_500));
    }
    assert_eq!(upstream.connections(), before + 1);
}

/// A client that sends faster than it gets responses is read from no faster.
#[test]
fn next_requests_are_bounded() {
    let upstream = Scripted::replying(OK);
    let lb = router(&[("/", &[upstream.address], "")], "[proxy]\nworkers = 1\n");
    let mut client = RawClient::connect(lb.address("http"));
    let mut sends = client.clone_for_sending();
    let request = "GET /ok HTTP/1.1\r\nHost: h\r\n\r\n".repeat(10_000);
    let sent = std::thread::spawn(move || {
        for _ in 0..4 {
            sends.send(&request);
        }
    });
    let begun = lb.metric("process_resident_memory_bytes").unwrap();
    for _ in 0..40_000 {
        assert_eq!(client.response().unwrap().status, 200);
    }
    sent.join().unwrap();
    wait_until("a look at memory", || {
        lb.metric("process_resident_memory_bytes").is_some()
    });
    let grown = lb.metric("process_resident_memory_bytes").unwrap() - begun;
    assert!(grown < 16e6, "{grown} bytes more");
}

/// A request that stays open while its response moves is a conversation, and no client that
/// stopped.
#[test]
fn a_request_may_stay_open_beside_a_response_that_moves() {
    let upstream = Scripted::start(|visit| {
        visit.head();
        visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..15 {
            visit.send("2\r\nhi\r\n");
            std::thread::sleep(Duration::from_millis(100));
        }
        visit.send("0\r\n\r\n");
        visit.until_closed();
    });
    let lb = router(
        &[("/", &[upstream.address], "")],
        "[proxy]\nworkers = 1\nbody_timeout = \"400ms\"\n",
    );
    let mut client = RawClient::connect(lb.address("http"));
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    assert_eq!(client.response().unwrap().text(), "hi".repeat(15));
    let got = runtime().block_on(async {
        let io = TokioIo::new(
            tokio::net::TcpStream::connect(lb.address("http"))
                .await
                .unwrap(),
        );
        let (mut client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let first = std::future::ready(Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(
            b"hello",
        ))));
        let body = StreamBody::new(
            futures_util::stream::once(first).chain(futures_util::stream::pending()),
        );
        let response = client
            .send_request(Request::post("http://h/").body(body).unwrap())
            .await
            .unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    });
    assert_eq!(got, "hi".repeat(15));
}

/// An instance that refuses all requests is left out, as one that fails in another way, and no
/// client notices.
#[test]
fn an_instance_that_refuses_streams_draws_no_traffic() {
    for reason in [h2::Reason::REFUSED_STREAM, h2::Reason::INTERNAL_ERROR] {
        let (refuses, asked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let instances = [
            speaking_h2(Some(reason), &refuses),
            speaking_h2(None, &asked),
        ];
        let lb = router(&[("/", &instances, "proto=h2c")], "[proxy]\nworkers = 1\n");
        let mut failed = 0;
        for _ in 0..60 {
            let mut client = RawClient::connect(lb.address("http"));
            let status = client
                .send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                .response()
                .unwrap()
                .status;
            failed += usize::from(status != 200);
        }
        assert_eq!(failed, 0, "{reason:?}");
        assert!(
            refuses.load(SeqCst) < 15,
            "{reason:?}: {} requests",
            refuses.load(SeqCst)
        );
    }
}

/// A single instance that refuses all requests is not flooded.
#[test]
fn what_is_refused_is_sent_again_within_the_budget() {
    let refuses = Arc::new(AtomicUsize::new(0));
    let address = speaking_h2(Some(h2::Reason::REFUSED_STREAM), &refuses);
    let lb = router(&[("/", &[address], "proto=h2c")], "[proxy]\nworkers = 1\n");
    for _ in 0..100 {
        let mut client = RawClient::connect(lb.address("http"));
        assert_eq!(
            client
                .send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                .response()
                .unwrap()
                .status,
            502
        );
    }
    // One more for each, and those of the budget.
    let asked = refuses.load(SeqCst);
    assert!((100..=250).contains(&asked), "{asked}");
}

/// One that responds slowly, or resets every stream for `reason` at once; counts them.
fn speaking_h2(reason: Option<h2::Reason>, count: &Arc<AtomicUsize>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::clone(count));
    std::thread::spawn(move || {
        runtime().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(socket).await else {
                        return;
                    };
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        count.fetch_add(1, SeqCst);
                        match reason {
                            Some(reason) => respond.send_reset(reason),
                            None => {
                                tokio::spawn(async move {
                                    tokio::time::sleep(Duration::from_millis(20)).await;
                                    let _ = respond.send_response(Response::new(()), true);
                                });
                            }
                        }
                    }
                });
            }
        });
    });
    address
}

/// What a client has requested and does not take is not kept for it without end, in HTTP/2 as in
/// HTTP/1.
#[test]
fn a_client_of_http2_that_takes_nothing_is_let_go() {
    let upstream = Scripted::start(|visit| {
        while visit.head().is_some() {
            visit.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n{}",
                "x".repeat(60_000)
            ));
        }
    });
    let config = "[proxy]\nworkers = 1\nbody_timeout = \"300ms\"\nidle_timeout = \"600ms\"\n";
    let lb = router(&[("/", &[upstream.address], "")], config);
    runtime().block_on(async {
        let io = TokioIo::new(
            tokio::net::TcpStream::connect(lb.address("http"))
                .await
                .unwrap(),
        );
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let (mut client, connection) = builder
            .initial_stream_window_size(1)
            .handshake(io)
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let body = || http_body_util::Empty::<Bytes>::new();
        let mut held = Vec::new();
        for _ in 0..20 {
            client.ready().await.unwrap();
            held.push(
                client
                    .send_request(Request::get("http://h/").body(body()).unwrap())
                    .await
                    .unwrap(),
            );
        }
        let begun = Instant::now();
        let ended = tokio::time::timeout(Duration::from_secs(8), connection).await;
        assert!(ended.is_ok(), "still open after {:?}", begun.elapsed());
    });
    wait_quiet(&lb, "s0");
}

/// What has no content says nothing of one, whatever its instance says.
#[test]
fn a_response_without_content_has_no_framing_of_one() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        runtime().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let Ok(mut connection) = h2::server::handshake(socket).await else {
                        return;
                    };
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        let response = Response::builder().header("content-type", "text/plain");
                        let response = match request.uri().path() {
                            "/204" => response.status(204).header("content-length", "5"),
                            _ => response.status(200),
                        };
                        let _ = respond.send_response(response.body(()).unwrap(), true);
                    }
                });
            }
        });
    });
    let config =
        "[proxy]\nworkers = 1\n[proxy.compression]\ncontent_types = \"^text/\"\nmin_bytes = 1\n";
    let lb = router(&[("/", &[address], "proto=h2c")], config);
    for (path, status) in [("/204", 204), ("/empty", 200)] {
        let mut client = RawClient::connect(lb.address("http"));
        client.send(format!(
            "GET {path} HTTP/1.1\r\nHost: h\r\nAccept-Encoding: gzip\r\n\r\n"
        ));
        let response = client.response().unwrap();
        assert_eq!(
            (response.status, response.text().len()),
            (status, 0),
            "{path}"
        );
        assert_eq!(response.header("content-encoding"), None, "{path}");
        assert_eq!(
            response.header("content-length").filter(|_| status == 204),
            None,
            "{path}"
        );
        assert_eq!(
            client
                .send("GET /empty HTTP/1.1\r\nHost: h\r\n\r\n")
                .response()
                .unwrap()
                .status,
            200,
            "{path}"
        );
    }
}

/// A target is made legal, whatever protocol it came by.
#[test]
fn raw_bytes_of_a_target_are_encoded() {
    let upstream = Scripted::replying(OK);
    let lb = router(&[("/", &[upstream.address], "")], "");
    runtime().block_on(async {
        let io = TokioIo::new(
            tokio::net::TcpStream::connect(lb.address("http"))
                .await
                .unwrap(),
        );
        let (mut client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("http://h/ä/two?ö=1")
            .body(http_body_util::Empty::<Bytes>::new())
            .unwrap();
        assert_eq!(client.send_request(request).await.unwrap().status(), 200);
    });
    let mut client = RawClient::connect(lb.address("http"));
    assert_eq!(
        client
            .send("GET /ä/one?ö=1 HTTP/1.1\r\nHost: h\r\n\r\n")
            .response()
            .unwrap()
            .status,
        200
    );
    let received = upstream.received();
    for number in ["one", "two"] {
        assert!(
            received.contains(&format!("GET /%C3%A4/{number}?%C3%B6=1 HTTP/1.1\r\n")),
            "{received}"
        );
    }
}
