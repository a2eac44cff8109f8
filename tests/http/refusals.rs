//! Whatever is refused leaves a line in the access log and a count, in whichever way it came.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use crate::harness::{OK, Refusing, Scripted, router};
use crate::support::client::RawClient;
use crate::support::lb::Lb;
use crate::support::wait::wait_until;

const LOG: &str = "[log]\naccess = \"json\"\n";

/// Lines of the access log so far.
fn lines(lb: &Lb) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(lb.folder().join("stdout")).unwrap();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// Status and reason of each line, once there are so many.
fn logged(lb: &Lb, count: usize) -> Vec<(u64, String)> {
    wait_until("lines of the access log", || lines(lb).len() >= count);
    let told = |line: &serde_json::Value| {
        (
            line["status"].as_u64().unwrap(),
            line["error"].as_str().unwrap_or_default().to_owned(),
        )
    };
    lines(lb).iter().map(told).collect()
}

fn errors(lb: &Lb, service: &str, reason: &str) -> f64 {
    lb.metric(&format!(
        "lb_proxy_errors_total{{service=\"{service}\",reason=\"{reason}\"}}"
    ))
    .unwrap_or_default()
}

#[test]
fn bytes_that_are_no_request_are_logged_and_counted() {
    let upstream = Scripted::replying(OK);
    let long = format!(
        "GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n",
        "x".repeat(70_000)
    );
    let many = format!(
        "GET / HTTP/1.1\r\nHost: h\r\n{}\r\n",
        "X: y\r\n".repeat(200)
    );
    let target = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(70_000));
    let bad: &[(&str, u16)] = &[
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
            400,
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n",
            413,
        ),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n",
            501,
        ),
        ("GET / HTTP/3.0\r\nHost: h\r\n\r\n", 505),
        ("GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: h\n\n", 400),
        ("G@T / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("\u{16}\u{3}\u{1}nonsense\r\n\r\n", 400),
        ("OPTIONS rtsp://a RTSP/1.0\r\n\r\n", 400),
        (&long, 431),
        (&many, 431),
        (&target, 414),
    ];
    for more in ["", "request_timeout = \"60s\"\n"] {
        let lb = router(
            &[("h/", &[upstream.address], "")],
            &format!("[proxy]\n{more}{LOG}"),
        );
        for (at, (request, status)) in bad.iter().enumerate() {
            let mut client = RawClient::connect(lb.address("http"));
            let answer = client.send(request).response();
            assert!(
                answer.is_none_or(|answer| answer.status == *status),
                "{request:?}"
            );
            let told = logged(&lb, at + 1);
            assert_eq!(
                told[at..],
                [(u64::from(*status), "malformed".to_owned())],
                "{more}: {request:.60?}"
            );
        }
        let count = bad.len() as f64;
        assert_eq!(
            errors(&lb, "", "malformed"),
            count,
            "{}",
            lb.admin("/metrics").1
        );
        let faults = format!(
            "lb_client_faults_total{{listener=\"{}\",fault=\"malformed\"}}",
            lb.address("http")
        );
        assert_eq!(lb.metric(&faults), Some(count));
        // A good request before a bad one has its own.
        let mut client = RawClient::connect(lb.address("http"));
        assert_eq!(
            client
                .send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                .response()
                .unwrap()
                .status,
            200
        );
        assert_eq!(
            client
                .send("GET / HTTP/9.9\r\nHost: h\r\n\r\n")
                .response()
                .unwrap()
                .status,
            505
        );
        let told = logged(&lb, bad.len() + 2);
        assert_eq!(
            told[bad.len()..],
            [(200, String::new()), (505, "malformed".to_owned())]
        );
    }
}

#[test]
fn a_head_that_does_not_end_is_logged_and_counted() {
    for more in ["", "request_timeout = \"60s\"\n"] {
        let proxy = format!("[proxy]\n{more}header_timeout = \"300ms\"\n{LOG}");
        let lb = router(&[("/", &[Refusing::new().address], "")], &proxy);
        for (at, start) in ["GET / HTTP/1.1\r\nHost:", "PRI * HT"].iter().enumerate() {
            let mut client = RawClient::connect(lb.address("http"));
            client.send(start);
            client.rest();
            assert_eq!(
                logged(&lb, at + 1)[at..],
                [(408, "too_slow".to_owned())],
                "{more}: {start}"
            );
        }
        assert_eq!(errors(&lb, "", "too_slow"), 2.0);
        // Of a client that says nothing there is nothing to tell.
        let mut silent = RawClient::connect(lb.address("http"));
        assert!(silent.is_closed());
        assert_eq!(lines(&lb).len(), 2);
    }
}

#[test]
fn what_is_answered_here_is_counted_by_service_and_reason() {
    let silent = Scripted::start(|visit| visit.until_closed());
    let breaks = Scripted::start(|visit| drop(visit.request()));
    let refusing = Refusing::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users");
    std::fs::write(&file, "ann:secret\n").unwrap();
    let ok = Scripted::replying(OK);
    let routes = [
        ("/deny", &[ok.address][..], "deny=ip:127.0.0.1"),
        ("/auth", &[ok.address][..], "auth=main"),
        ("/unknown", &[ok.address][..], "auth=none"),
        ("/away", &[refusing.address][..], ""),
        ("/breaks", &[breaks.address][..], ""),
        ("/silent", &[silent.address][..], ""),
        ("/ok", &[ok.address][..], ""),
        ("/moved", &[ok.address][..], "redirect=301,http://there/"),
    ];
    let asked = [
        ("/none", 404, "", "no_route"),
        ("/%zz", 400, "", "bad_request"),
        ("/deny", 403, "s0", "access_denied"),
        ("/auth", 401, "s1", "unauthorized"),
        ("/unknown", 503, "s2", "auth_unknown"),
        ("/away", 502, "s3", "connect"),
        ("/breaks", 502, "s4", "upstream"),
        ("/silent", 504, "s5", "response_timeout"),
    ];
    for more in ["", "request_timeout = \"60s\"\n"] {
        let more = format!(
            "[proxy]\n{more}response_timeout = \"300ms\"\ntry_timeout = \"0s\"\n[retry]\nattempts = 1\n\
             [auth.main]\nfile = {file:?}\n{LOG}"
        );
        let lb = router(&routes, &more);
        for (path, status, service, reason) in asked {
            for _ in 0..2 {
                let answer = crate::support::client::get(lb.address("http"), "h", path);
                assert_eq!(answer.status, status, "{path}");
            }
            wait_until("the count", || errors(&lb, service, reason) == 2.0);
        }
        for path in ["/ok", "/moved"] {
            crate::support::client::get(lb.address("http"), "h", path);
        }
        let told = logged(&lb, 2 * asked.len() + 2);
        for (path, status, _, reason) in asked {
            let same = told
                .iter()
                .filter(|line| **line == (u64::from(status), reason.to_owned()))
                .count();
            assert_eq!(same, 2, "{path}: {told:?}");
        }
        // What is not refused is not an error.
        let text = lb.admin("/metrics").1;
        let series = text
            .lines()
            .filter(|line| line.starts_with("lb_proxy_errors_total{"))
            .count();
        assert_eq!(series, asked.len(), "{text}");
    }
}

/// HTTP/2 frames by hand.
struct H2 {
    client: std::net::TcpStream,
}

impl H2 {
    fn connect(lb: &Lb) -> Self {
        let mut client = std::net::TcpStream::connect(lb.address("http")).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        client
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .unwrap();
        let mut h2 = Self { client };
        h2.frame(4, 0, 0, &[]);
        h2
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let frame = [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat();
        self.client.write_all(&frame).unwrap();
    }

    /// Opens a stream with these fields (literals without names of the table), and ends it.
    fn open(&mut self, stream: u32, fields: &[(&str, &str)]) {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                block.extend_from_slice(text.as_bytes());
            }
        }
        self.frame(1, 5, stream, &block);
    }

    /// Reads until a frame of this kind comes; false at the end.
    fn until(&mut self, wanted: u8) -> bool {
        loop {
            let mut header = [0; 9];
            if self.client.read_exact(&mut header).is_err() {
                return false;
            }
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
            let mut payload = vec![0; length as usize];
            self.client.read_exact(&mut payload).unwrap();
            if header[3] == wanted {
                return true;
            }
        }
    }
}

const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

#[test]
fn refused_streams_of_http2_are_logged_and_counted() {
    let upstream = Scripted::replying(OK);
    let lb = router(&[("h/", &[upstream.address], "")], LOG);
    let method = (":method", "GET");
    let (scheme, authority, path) = ((":scheme", "http"), (":authority", "h"), (":path", "/"));
    let bad: &[&[(&str, &str)]] = &[
        &[method, scheme, authority],
        &[scheme, authority, path],
        &[method, method, scheme, authority, path],
        &[method, scheme, authority, path, ("connection", "close")],
        &[
            method,
            scheme,
            authority,
            path,
            ("transfer-encoding", "chunked"),
        ],
        &[method, scheme, authority, path, ("te", "gzip")],
        &[method, scheme, authority, ("x", "y"), path],
        &[method, scheme, authority, path, ("content-length", "x")],
    ];
    let mut h2 = H2::connect(&lb);
    for (at, fields) in bad.iter().enumerate() {
        h2.open(u32::try_from(at).unwrap() * 2 + 1, fields);
        assert!(h2.until(RST_STREAM), "{fields:?}");
        assert_eq!(
            logged(&lb, at + 1)[at..],
            [(400, "malformed".to_owned())],
            "{fields:?}"
        );
    }
    let last = lines(&lb).pop().unwrap();
    assert_eq!(last["proto"], "HTTP/2.0");
    // The connection lives, and what is good on it is logged as ever.
    h2.open(101, &[method, scheme, authority, path]);
    assert!(h2.until(1));
    assert_eq!(
        logged(&lb, bad.len() + 1)[bad.len()..],
        [(200, String::new())]
    );
    let count = bad.len() as f64;
    assert_eq!(errors(&lb, "", "malformed"), count);
    let faults = format!(
        "lb_client_faults_total{{listener=\"{}\",fault=\"malformed\"}}",
        lb.address("http")
    );
    assert_eq!(lb.metric(&faults), Some(count));
    // Broken connections: a stream with an even number, a field of no kind, a frame that is too
    // large.
    let usual = [method, scheme, authority, path];
    let breaks: [&dyn Fn(&mut H2); 3] = [
        &|h2| h2.open(202, &usual),
        &|h2| h2.open(1, &[method, scheme, authority, path, (":unknown", "x")]),
        &|h2| h2.frame(0, 0, 1, &[0; 40_000]),
    ];
    for (at, breaks) in breaks.into_iter().enumerate() {
        let mut h2 = H2::connect(&lb);
        breaks(&mut h2);
        assert!(h2.until(GOAWAY), "{at}");
        let before = bad.len() + 1 + at;
        assert_eq!(
            logged(&lb, before + 1)[before..],
            [(400, "malformed".to_owned())],
            "{at}"
        );
    }
    assert_eq!(errors(&lb, "", "malformed"), count + 3.0);
}

#[test]
fn streams_beyond_the_limit_and_headers_too_large_are_told_apart() {
    let upstream = Scripted::start(|visit| visit.until_closed());
    let proxy = format!("[proxy]\nmax_streams = 2\nmax_header_bytes = 1024\n{LOG}");
    let lb = router(&[("h/", &[upstream.address], "")], &proxy);
    let usual = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "h"),
        (":path", "/"),
    ];
    let mut h2 = H2::connect(&lb);
    let large = "x".repeat(120);
    let fields: Vec<(&str, &str)> = usual
        .iter()
        .copied()
        .chain((0..12).map(|_| ("x-large", &*large)))
        .collect();
    h2.open(1, &fields);
    assert!(h2.until(1), "it gets a 431");
    assert_eq!(logged(&lb, 1), [(431, "malformed".to_owned())]);
    for stream in [3, 5, 7] {
        h2.open(stream, &usual);
    }
    assert!(h2.until(RST_STREAM));
    wait_until("the refusal", || errors(&lb, "", "too_many_streams") == 1.0);
    assert!(logged(&lb, 2).contains(&(503, "too_many_streams".to_owned())));
}
