//! Requests made to be understood in two ways, or not at all: refused or closed, and the upstream
//! sees nothing of them. The guard's own tests have the fine points; these prove the whole.

use std::time::{Duration, Instant};

use crate::harness::{OK, Scripted, router, wait_quiet};
use crate::support::client::RawClient;
use crate::support::wait::wait_until;

const REFUSALS: [&str; 9] = ["", "400", "408", "413", "414", "417", "431", "501", "505"];

/// One connection: what is sent, the rest to a second packet after a moment if given.
fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    let post = |fields: &str, body: &str| {
        format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n{body}").into_bytes()
    };
    let get = |fields: &str| format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n").into_bytes();
    let both = |coding: &str| {
        post(
            &format!("Content-Length: 4\r\n{coding}"),
            &format!("0\r\n\r\n{smuggled}"),
        )
    };
    let chunked = |body: &str| post("Transfer-Encoding: chunked", &format!("{body}{smuggled}"));
    vec![
        ("CL and TE", both("Transfer-Encoding: chunked")),
        (
            "TE with a blank before the colon",
            both("Transfer-Encoding : chunked"),
        ),
        ("TE folded", both("Transfer-Encoding:\r\n chunked")),
        ("TE with a tab", both("Transfer-Encoding:\tchunked")),
        ("TE in quotes", both("Transfer-Encoding: \"chunked\"")),
        (
            "TE twice",
            post(
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
                "0\r\n\r\n",
            ),
        ),
        ("TE identity", post("Transfer-Encoding: identity", smuggled)),
        (
            "TE chunked, identity",
            post("Transfer-Encoding: chunked, identity", smuggled),
        ),
        ("TE xchunked", post("Transfer-Encoding: xchunked", smuggled)),
        ("TE gzip", post("Transfer-Encoding: gzip", smuggled)),
        (
            "TE with vertical tab",
            both("Transfer-Encoding: \x0bchunked"),
        ),
        (
            "TE in HTTP/1.0",
            b"POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
        ),
        (
            "two CLs",
            post("Content-Length: 0\r\nContent-Length: 36", smuggled),
        ),
        ("CL list", post("Content-Length: 0, 36", smuggled)),
        ("CL with sign", post("Content-Length: +0", smuggled)),
        ("CL negative", post("Content-Length: -1", smuggled)),
        ("CL hexadecimal", post("Content-Length: 0x0", smuggled)),
        (
            "CL with blanks inside",
            post("Content-Length: 3 6", smuggled),
        ),
        (
            "CL beyond 64 bits",
            post("Content-Length: 18446744073709551616", smuggled),
        ),
        ("CL empty", post("Content-Length:", smuggled)),
        ("folded field", get("X-A: b\r\n\tc")),
        (
            "bare LF after the request line",
            b"GET / HTTP/1.1\nHost: h\r\n\r\n".to_vec(),
        ),
        (
            "bare LF in the fields",
            b"GET / HTTP/1.1\r\nHost: h\nX-A: b\r\n\r\n".to_vec(),
        ),
        (
            "bare LF at the end",
            b"GET / HTTP/1.1\r\nHost: h\r\n\n".to_vec(),
        ),
        ("bare CR in a value", get("X-A: b\rContent-Length: 5")),
        ("NUL in a value", get("X-A: b\0c")),
        ("NUL in a name", get("X\0A: b")),
        ("blank in a name", get("X A: b")),
        ("blank before a name", get(" X-A: b")),
        ("field without colon", get("X-A")),
        ("field without name", get(": b")),
        ("chunk size with sign", chunked("+1\r\na\r\n0\r\n\r\n")),
        ("chunk size with 0x", chunked("0x1\r\na\r\n0\r\n\r\n")),
        ("chunk size negative", chunked("-1\r\na\r\n0\r\n\r\n")),
        ("chunk size empty", chunked("\r\na\r\n0\r\n\r\n")),
        ("chunk size with a blank", chunked("1 \r\na\r\n0\r\n\r\n")),
        (
            "chunk size too large",
            chunked("ffffffffffffffff1\r\na\r\n0\r\n\r\n"),
        ),
        ("chunk size line with bare LF", chunked("1\na\r\n0\r\n\r\n")),
        ("chunk data too long", chunked("1\r\nab\r\n0\r\n\r\n")),
        ("chunk without CRLF behind it", chunked("1\r\na0\r\n\r\n")),
        (
            "endless chunk extension",
            chunked(&format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(5000))),
        ),
        ("no Host", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        (
            "two Hosts",
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_vec(),
        ),
        (
            "Host with a path",
            b"GET / HTTP/1.1\r\nHost: h/x\r\n\r\n".to_vec(),
        ),
        (
            "Host with user information",
            b"GET / HTTP/1.1\r\nHost: a@h\r\n\r\n".to_vec(),
        ),
        (
            "absolute target without host",
            b"GET http:/// HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
        ),
        (
            "absolute target with user information",
            b"GET http://a@h/ HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
        ),
        ("HTTP/0.9", b"GET /\r\n\r\n".to_vec()),
        ("HTTP/1.2", b"GET / HTTP/1.2\r\nHost: h\r\n\r\n".to_vec()),
        (
            "HTTP/2.0 in words",
            b"GET / HTTP/2.0\r\nHost: h\r\n\r\n".to_vec(),
        ),
        (
            "lower-case version",
            b"GET / http/1.1\r\nHost: h\r\n\r\n".to_vec(),
        ),
        ("two blanks", b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n".to_vec()),
        (
            "tab for a blank",
            b"GET\t/\tHTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
        ),
        (
            "blank in the target",
            b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
        ),
        (
            "NUL in the target",
            b"GET /\0 HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
        ),
        (
            "method with a bracket",
            b"G{T / HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
        ),
        ("garbage", b"\x80\x81\x82\r\n\r\n".to_vec()),
        (
            "TLS client hello",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        ),
        ("huge field", get(&format!("X-A: {}", "b".repeat(70_000)))),
        (
            "huge target",
            format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(70_000)).into_bytes(),
        ),
        ("too many fields", get(&"X-A: b\r\n".repeat(200))),
        ("megabytes of head", vec![b'a'; 3_000_000]),
        (
            "half a preface",
            b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec(),
        ),
    ]
}

#[test]
fn no_ambiguous_request_passes() {
    let upstream = Scripted::replying(OK);
    let lb = router(
        &[("/", &[upstream.address], "")],
        "[proxy]\nworkers = 1\nheader_timeout = \"300ms\"\nbody_timeout = \"300ms\"\n",
    );
    for (what, bytes) in corpus() {
        let mut client = RawClient::connect(lb.address("http"));
        let answer = String::from_utf8_lossy(&client.send(bytes).rest()).into_owned();
        let status = answer.split(' ').nth(1).unwrap_or("");
        assert!(REFUSALS.contains(&status), "{what}: {answer:?}");
        assert!(
            answer.matches("HTTP/1.1 ").count() <= 1,
            "{what}: {answer:?}"
        );
        assert_eq!(upstream.received(), "", "{what} reached the upstream");
    }
    // The same listener and worker still serve.
    let mut client = RawClient::connect(lb.address("http"));
    assert_eq!(
        client
            .send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            .response()
            .unwrap()
            .status,
        200
    );
    wait_quiet(&lb, "s0");
}

#[test]
fn refusals_carry_the_right_status() {
    let lb = router(&[("/", &[Scripted::replying(OK).address], "")], "");
    let table = [
        ("CL and TE", "400"),
        ("TE gzip", "501"),
        ("HTTP/1.2", "505"),
        ("huge field", "431"),
        ("huge target", "414"),
        ("too many fields", "431"),
        ("two Hosts", "400"),
        ("megabytes of head", "414"),
    ];
    let corpus = corpus();
    for (what, status) in table {
        let bytes = &corpus.iter().find(|(name, _)| *name == what).unwrap().1;
        // More than once: a RST that overtakes the response does so now and then.
        for _ in 0..5 {
            let mut client = RawClient::connect(lb.address("http"));
            let answer = String::from_utf8_lossy(&client.send(bytes).rest()).into_owned();
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")),
                "{what}: {answer:?}"
            );
        }
    }
}

#[test]
fn a_bad_request_behind_a_good_one_does_not_pass_either() {
    let upstream = Scripted::replying(OK);
    let lb = router(&[("/", &[upstream.address], "")], "");
    let good = "GET /good HTTP/1.1\r\nHost: h\r\n\r\n";
    let bad = "POST /bad HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let mut client = RawClient::connect(lb.address("http"));
    client.send(format!("{good}{bad}{good}")).rest();
    let mut client = RawClient::connect(lb.address("http"));
    assert_eq!(client.send(good).response().unwrap().status, 200);
    assert_eq!(client.send(bad).response().unwrap().status, 400);
    assert!(client.is_closed());
    assert!(
        !upstream.received().contains("/bad"),
        "{}",
        upstream.received()
    );
}

#[test]
fn a_body_that_turns_bad_never_looks_complete_upstream() {
    let upstream = Scripted::start(|visit| {
        visit.head();
        visit.until_closed();
    });
    let lb = router(&[("/", &[upstream.address], "")], "");
    let mut client = RawClient::connect(lb.address("http"));
    client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    wait_until("first chunk upstream", || {
        upstream.received().contains("hello")
    });
    client.send("0x5\r\nworld\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n");
    client.rest();
    upstream.wait_closed(1);
    let received = upstream.received();
    assert!(
        !received.contains("0\r\n\r\n") && !received.contains("smuggled"),
        "{received}"
    );
    wait_quiet(&lb, "s0");
}

#[test]
fn the_host_of_an_absolute_target_counts_and_reaches_the_upstream() {
    let upstream = Scripted::replying(OK);
    let lb = router(&[("inner.test/", &[upstream.address], "")], "");
    let mut client = RawClient::connect(lb.address("http"));
    client.send("GET http://inner.test/x HTTP/1.1\r\nHost: other.test\r\n\r\n");
    assert_eq!(client.response().unwrap().status, 200);
    let received = upstream.received().to_ascii_lowercase();
    assert!(
        received.starts_with("get /x http/1.1\r\n") && received.contains("host: inner.test\r\n"),
        "{received}"
    );
    assert!(!received.contains("other.test"), "{received}");
}

#[test]
fn slow_heads_end_at_their_deadline() {
    let upstream = Scripted::replying(OK);
    let lb = router(
        &[("/", &[upstream.address], "")],
        "[proxy]\nheader_timeout = \"400ms\"\n",
    );
    // Silence, a head that stops, and one that drips.
    for (what, first, drips) in [
        ("silent", "", false),
        ("stops", "GET / HTTP/1.1\r\nHo", false),
        ("drips", "G", true),
    ] {
        let mut client = RawClient::connect(lb.address("http"));
        let begun = Instant::now();
        client.send(first);
        if drips {
            let mut sender = client.clone_for_sending();
            std::thread::spawn(move || {
                for byte in
                    b"ET / HTTP/1.1\r\nX-Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                {
                    sender.send([*byte]);
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
        }
        let answer = String::from_utf8(client.rest()).unwrap();
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 408 "),
            "{what}: {answer}"
        );
        assert!(
            begun.elapsed() < Duration::from_secs(3),
            "{what}: {:?}",
            begun.elapsed()
        );
    }
    assert_eq!(upstream.connections(), 0);
}
