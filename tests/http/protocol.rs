//! HTTP/1.1 as both sides see it: connections, framing, statuses without bodies, interim responses,
//! upgrades.

use std::time::{Duration, Instant};

use crate::harness::{OK, Scripted, router, wait_quiet};
use crate::support::client::{RawClient, exchange, get};
use crate::support::upstream::{RawUpstream, Upstream};
use crate::support::wait::wait_until;

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

#[test]
fn connections_are_kept_and_used_again_on_both_sides() {
    let upstream = Upstream::start("one");
    let lb = router(&[("/", &[upstream.address], "")], "[proxy]\nworkers = 1\n");
    let mut client = RawClient::connect(lb.address("http"));
    for _ in 0..20 {
        assert_eq!(client.send(GET).response().unwrap().status, 200);
    }
    assert_eq!((upstream.requests(), upstream.connections()), (20, 1));
    // Connection: close is the client's own affair.
    client.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert_eq!(
        client.response().unwrap().header("connection"),
        Some("close")
    );
    assert!(client.is_closed());
    assert_eq!(get(lb.address("http"), "h", "/").status, 200);
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn pipelined_requests_are_answered_in_order_even_after_a_half_close() {
    let upstream = Upstream::start("one");
    upstream.set_delay(Duration::from_millis(30));
    let lb = router(&[("/", &[upstream.address], "")], "");
    let requests: String = (0..5)
        .map(|n| format!("GET /bytes/{n} HTTP/1.1\r\nHost: h\r\n\r\n"))
        .collect();
    for half_close in [false, true] {
        let mut client = RawClient::connect(lb.address("http"));
        client.send(&requests);
        if half_close {
            client.finish();
        }
        for n in 0..5 {
            let response = client
                .response()
                .unwrap_or_else(|| panic!("no response {n}, half close {half_close}"));
            assert_eq!((response.status, response.body.len()), (200, n));
        }
        if half_close {
            assert!(client.is_closed());
        }
    }
    // One request and FIN behind it, in one packet or two.
    let mut client = RawClient::connect(lb.address("http"));
    client
        .send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody")
        .finish();
    assert_eq!(client.response().unwrap().text(), "body");
    assert!(client.is_closed());
}

#[test]
fn a_half_closed_client_gets_a_large_answer_whole() {
    let upstream = Upstream::start("one");
    let lb = router(&[("/", &[upstream.address], "")], "");
    let mut client = RawClient::connect(lb.address("http"));
    client
        .send("GET /bytes/20000000 HTTP/1.1\r\nHost: h\r\n\r\n")
        .finish();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(client.response().unwrap().body.len(), 20_000_000);
    assert!(client.is_closed());
    wait_quiet(&lb, "s0");
}

#[test]
fn answers_without_a_body_keep_the_connection() {
    let bodiless = Scripted::start(|visit| {
        while let Some(request) = visit.request() {
            visit.send(match request.split(' ').nth(1).unwrap() {
                "/204" => "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
                "/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"e\"\r\nContent-Length: 77\r\n\r\n",
                _ if request.starts_with("HEAD") => "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n",
                _ => OK,
            });
        }
    });
    let lb = router(&[("/", &[bodiless.address], "")], "[proxy]\nworkers = 1\n");
    let mut client = RawClient::connect(lb.address("http"));
    let mut ask = |method: &str, path: &str| {
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        String::from_utf8(client.until(b"\r\n\r\n"))
            .unwrap()
            .to_ascii_lowercase()
    };
    for _ in 0..3 {
        let head = ask("HEAD", "/");
        assert!(
            head.contains(" 200 ") && head.contains("content-length: 77"),
            "{head}"
        );
        let no_content = ask("GET", "/204");
        assert!(
            no_content.contains(" 204 ") && no_content.contains("x-a: 1"),
            "{no_content}"
        );
        assert!(
            !no_content.contains("content-length") && !no_content.contains("transfer-encoding"),
            "{no_content}"
        );
        let not_modified = ask("GET", "/304");
        assert!(
            not_modified.contains(" 304 ") && not_modified.contains("etag"),
            "{not_modified}"
        );
        assert!(
            !not_modified.contains("transfer-encoding"),
            "{not_modified}"
        );
    }
    assert_eq!((bodiless.connections(), bodiless.requests()), (1, 9));
}

#[test]
fn http_1_0_clients_get_what_they_understand() {
    let upstream = Upstream::start("one");
    let lb = router(&[("/", &[upstream.address], "")], "");
    // No chunks: the end of the connection is the end of the body.
    let mut client = RawClient::connect(lb.address("http"));
    let answer = String::from_utf8(
        client
            .send("GET /chunks HTTP/1.0\r\nHost: h\r\n\r\n")
            .rest(),
    )
    .unwrap();
    assert!(
        answer.ends_with("\r\n\r\none two three") && !answer.contains("chunked"),
        "{answer}"
    );
    // Kept only when the client says so, and only with a length.
    let mut client = RawClient::connect(lb.address("http"));
    for _ in 0..2 {
        client.send("GET /bytes/3 HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\n\r\n");
        let response = client.response().unwrap();
        assert_eq!(
            (response.text().as_str(), response.header("connection")),
            ("xxx", Some("keep-alive"))
        );
    }
    let mut client = RawClient::connect(lb.address("http"));
    client.send("GET /bytes/3 HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().unwrap().text(), "xxx");
    assert!(client.is_closed());
}

#[test]
fn a_client_that_expects_100_gets_it_once_the_body_is_wanted() {
    let upstream = Upstream::start("one");
    let lb = router(
        &[
            ("/", &[upstream.address], ""),
            ("/no", &[upstream.address], "deny=ip:127.0.0.0/8"),
        ],
        "",
    );
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
    };
    let mut client = RawClient::connect(lb.address("http"));
    assert_eq!(client.send(head("/echo")).response().unwrap().status, 100);
    assert_eq!(client.send("hello").response().unwrap().text(), "hello");
    // A refusal comes without it.
    let mut client = RawClient::connect(lb.address("http"));
    assert_eq!(client.send(head("/no")).response().unwrap().status, 403);
}

#[test]
fn chunks_and_trailers_pass_both_ways() {
    let plain = Upstream::start("plain");
    let h2c = Upstream::start("h2c");
    let lb = router(
        &[
            ("/", &[plain.address], ""),
            ("/h2", &[h2c.address], "proto=grpc"),
        ],
        "",
    );
    for prefix in ["", "/h2"] {
        let mut client = RawClient::connect(lb.address("http"));
        client.send(format!("GET {prefix}/chunks HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(
            client.response().unwrap().text(),
            "one two three",
            "{prefix}"
        );
        client.send(format!(
            "GET {prefix}/trailers HTTP/1.1\r\nHost: h\r\nTE: trailers\r\n\r\n"
        ));
        let response = client.response().unwrap();
        assert_eq!(response.text(), "body", "{prefix}");
        assert_eq!(
            response.trailers,
            [("x-checksum".to_owned(), "42".to_owned())],
            "{prefix}"
        );
        // Without TE the client may not expect them (RFC 9110 section 6.5.1), but the body is the
        // same.
        client.send(format!("GET {prefix}/trailers HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(client.response().unwrap().text(), "body", "{prefix}");
        client.send(format!(
            "POST {prefix}/echo HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nTrailer: x-sum\r\n\
             Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nX-Sum: 7\r\n\r\n"
        ));
        assert_eq!(client.response().unwrap().text(), "hello world", "{prefix}");
    }
    assert_eq!((plain.requests(), h2c.requests()), (4, 4));
}

#[test]
fn request_trailers_reach_an_http_1_upstream() {
    let upstream = Scripted::start(|visit| {
        visit.head();
        while !visit.received_ends_with("\r\n\r\n") || !visit.received_contains("0\r\n") {
            if visit.more().is_none() {
                return;
            }
        }
        visit.send(OK);
        visit.until_closed();
    });
    let lb = router(&[("/", &[upstream.address], "")], "");
    let request = "POST / HTTP/1.1\r\nHost: h\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n";
    assert_eq!(exchange(lb.address("http"), request).unwrap().status, 200);
    assert!(
        upstream
            .received()
            .to_ascii_lowercase()
            .contains("0\r\nx-sum: 7\r\n"),
        "{}",
        upstream.received()
    );
}

#[test]
fn a_websocket_is_bytes_both_ways_from_the_first_one_on() {
    let echo = Upstream::start("echo");
    let eager = Scripted::start(|visit| {
        visit.request();
        // The first frame leaves in the same packet as the head.
        visit.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n\x01early");
        let ping = visit.exactly(4).unwrap();
        visit.send(ping);
        visit.finish();
        visit.until_closed();
    });
    let lb = router(
        &[("/", &[echo.address], ""), ("/eager", &[eager.address], "")],
        "",
    );
    let upgrade = |path: &str| {
        format!(
            "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
    };
    let mut client = RawClient::connect(lb.address("http"));
    let answer = client.send(upgrade("/ws")).response().unwrap();
    assert_eq!(
        (answer.status, answer.header("upgrade")),
        (101, Some("websocket"))
    );
    assert_eq!(
        answer.header("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    for frame in [&b"\x81\x02hi"[..], b"GET / HTTP/1.1\r\n\r\n", b"\n\0\r"] {
        assert_eq!(client.send(frame).bytes(frame.len()), frame);
    }
    assert_eq!(
        lb.metric("lb_http_requests_in_flight{service=\"s0\"}"),
        Some(1.0)
    );
    drop(client);
    wait_quiet(&lb, "s0");
    // How long it lasted is not a time that a client has waited for a response.
    assert_eq!(
        lb.metric("lb_http_requests_total{service=\"s0\",method=\"GET\",code=\"101\"}"),
        Some(1.0)
    );
    assert_eq!(
        lb.metric("lb_http_request_duration_seconds_count{service=\"s0\"}"),
        Some(0.0)
    );
    assert_eq!(
        lb.metric("lb_upgraded_connection_duration_seconds_count{service=\"s0\"}"),
        Some(1.0)
    );

    let mut client = RawClient::connect(lb.address("http"));
    assert_eq!(
        client.send(upgrade("/eager")).response().unwrap().status,
        101
    );
    assert_eq!(client.bytes(6), b"\x01early");
    assert_eq!(client.send("ping").bytes(4), b"ping");
    assert!(client.is_closed(), "the upstream's end is the client's");
    drop(client);
    wait_quiet(&lb, "s1");
}

#[test]
fn a_refused_upgrade_is_an_answer_like_any_other() {
    let upstream = Scripted::replying(OK);
    let lb = router(&[("/", &[upstream.address], "")], "[proxy]\nworkers = 1\n");
    let mut client = RawClient::connect(lb.address("http"));
    client.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert_eq!(client.response().unwrap().text(), "ok");
    assert_eq!(client.send(GET).response().unwrap().text(), "ok");
    assert_eq!((upstream.connections(), upstream.requests()), (1, 2));
}

#[test]
fn a_101_that_nobody_asked_for_is_a_failure_of_the_upstream() {
    let upstream = Scripted::replying(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    );
    let lb = router(&[("/", &[upstream.address], "")], "");
    let mut client = RawClient::connect(lb.address("http"));
    assert_eq!(client.send(GET).response().unwrap().status, 502);
    upstream.wait_closed(1);
    wait_quiet(&lb, "s0");
}

#[test]
fn interim_answers_come_before_the_final_one() {
    // At once with the final response, and a moment before it.
    for pause_ms in [0, 30] {
        let upstream = Scripted::start(move |visit| {
            while visit.request().is_some() {
                visit.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n");
                std::thread::sleep(Duration::from_millis(pause_ms));
                visit.send(OK);
            }
        });
        let lb = router(&[("/", &[upstream.address], "")], "");
        let mut client = RawClient::connect(lb.address("http"));
        for _ in 0..3 {
            client.send(GET);
            let hints = client.response().unwrap();
            assert_eq!(
                (hints.status, hints.header("link")),
                (103, Some("</a.css>"))
            );
            assert_eq!(client.response().unwrap().status, 102);
            let response = client.response().unwrap();
            assert_eq!((response.status, response.text().as_str()), (200, "ok"));
        }
        // HTTP/1.0 knows no interim responses.
        let mut old = RawClient::connect(lb.address("http"));
        assert_eq!(
            old.send("GET / HTTP/1.0\r\nHost: h\r\n\r\n")
                .response()
                .unwrap()
                .status,
            200
        );
    }
}

#[test]
fn an_answer_before_the_end_of_the_upload_reaches_the_client() {
    // 413 after the head, while megabytes are still coming; then it closes.
    let upstream = Scripted::start(|visit| {
        visit.head();
        visit.send(
            "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig",
        );
        visit.finish();
        std::thread::sleep(Duration::from_millis(50));
    });
    let lb = router(&[("/", &[upstream.address], "")], "");
    for _ in 0..5 {
        let mut client = RawClient::connect(lb.address("http"));
        client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 8000000\r\n\r\n");
        client.send(vec![b'x'; 8_000_000]);
        let response = client.response().expect("the early response");
        assert_eq!((response.status, response.text().as_str()), (413, "big"));
    }
    wait_quiet(&lb, "s0");
}

#[test]
fn answers_that_could_be_read_in_two_ways_are_not_passed_on() {
    let table = [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\nokayy",
            502,
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", 502),
        (
            "HTTP/1.1 200 OK\r\nX A: b\r\nContent-Length: 2\r\n\r\nok",
            502,
        ),
        ("SSH-2.0-OpenSSH_9.6\r\n\r\n", 502),
        ("HTTP/3.0 200 OK\r\n\r\n", 502),
        ("HTTP/1.1 2x0 OK\r\n\r\n", 502),
    ];
    for (reply, status) in table {
        let upstream = RawUpstream::start(reply, true);
        let lb = router(&[("/", &[upstream.address], "")], "");
        let mut client = RawClient::connect(lb.address("http"));
        let answer = client
            .send("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            .rest();
        let answer = String::from_utf8(answer).unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{reply:?} became {answer:?}"
        );
        wait_quiet(&lb, "s0");
    }
    // Both framings: chunked wins (RFC 9112 section 6.3), and the length must not go on with it.
    let upstream = RawUpstream::start(
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        true,
    );
    let lb = router(&[("/", &[upstream.address], "")], "");
    let mut client = RawClient::connect(lb.address("http"));
    let answer = client
        .send("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .rest();
    let answer = String::from_utf8(answer).unwrap().to_ascii_lowercase();
    assert!(answer.ends_with("\r\n\r\n2\r\nok\r\n0\r\n\r\n"), "{answer}");
    assert!(
        answer.contains("transfer-encoding: chunked") && !answer.contains("content-length"),
        "{answer}"
    );
}

#[test]
fn idle_clients_are_closed_in_time() {
    let upstream = Upstream::start("one");
    let lb = router(
        &[("/", &[upstream.address], "")],
        "[proxy]\nidle_timeout = \"300ms\"\n",
    );
    let mut client = RawClient::connect(lb.address("http"));
    assert_eq!(client.send(GET).response().unwrap().status, 200);
    let begun = Instant::now();
    assert!(client.is_closed());
    assert!(
        begun.elapsed() > Duration::from_millis(200) && begun.elapsed() < Duration::from_secs(5)
    );
    wait_until("nothing left open", || upstream.connections() >= 1);
}

/// RFC 9110 section 8.6: some servers respond with 411 otherwise.
#[test]
fn a_post_without_content_says_so() {
    let upstream = Scripted::replying(OK);
    let lb = router(&[("/", &[upstream.address], "")], "");
    for (method, more, wanted) in [
        ("POST", "", "content-length: 0\r\n"),
        ("PUT", "Content-Length: 0\r\n", "content-length: 0\r\n"),
        ("PATCH", "", "content-length: 0\r\n"),
        ("GET", "", ""),
        ("DELETE", "", ""),
    ] {
        let request = format!("{method} /{method} HTTP/1.1\r\nHost: h\r\n{more}\r\n");
        assert_eq!(
            exchange(lb.address("http"), request).unwrap().status,
            200,
            "{method}"
        );
        let received = upstream.received().to_ascii_lowercase();
        let head = received.rsplit(" http/1.1\r\n").next().unwrap();
        assert_eq!(
            head.matches("content-length").count(),
            usize::from(!wanted.is_empty()),
            "{method}: {head}"
        );
        assert!(head.contains(wanted), "{method}: {head}");
    }
}
