//! One way for every request: what a body, a setting or an odd request before it once decided about
//! no longer does. Tables of client protocol by instance protocol by case.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Bytes;
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::harness::{OK, Scripted, router, runtime, wait_quiet};
use crate::support::client::RawClient;
use crate::support::upstream::Upstream;
use crate::support::wait::wait_until;

/// How a client sends a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sends {
    Length,
    Chunks,
    /// In HTTP/2, whose frames need no length.
    Stream,
    /// In HTTP/2, with a length all the same.
    StreamWithLength,
}

const ALL: [Sends; 4] = [
    Sends::Length,
    Sends::Chunks,
    Sends::Stream,
    Sends::StreamWithLength,
];

impl Sends {
    /// Status and body of the response to a request with this body, sent in these pieces.
    fn ask(
        self,
        at: SocketAddr,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        pieces: &[&str],
    ) -> (u16, String) {
        let whole = pieces.concat();
        if matches!(self, Self::Stream | Self::StreamWithLength) {
            let with_length = self == Self::StreamWithLength;
            return runtime().block_on(ask_h2(
                at,
                method,
                path,
                fields,
                pieces,
                with_length.then_some(whole.len()),
            ));
        }
        let fields: String = fields
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let mut client = RawClient::connect(at);
        if self == Self::Length {
            client.send(format!(
                "{method} {path} HTTP/1.1\r\nHost: h\r\n{fields}Content-Length: {}\r\n\r\n",
                whole.len()
            ));
            for piece in pieces {
                client.send(piece);
            }
        } else {
            client.send(format!(
                "{method} {path} HTTP/1.1\r\nHost: h\r\n{fields}Transfer-Encoding: chunked\r\n\r\n"
            ));
            for piece in pieces {
                client.send(format!("{:x};a=b\r\n{piece}\r\n", piece.len()));
            }
            client.send("0\r\n\r\n");
        }
        let response = client.response().expect("a response");
        (response.status, response.text())
    }
}

async fn ask_h2(
    at: SocketAddr,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    pieces: &[&str],
    length: Option<usize>,
) -> (u16, String) {
    let io = TokioIo::new(tokio::net::TcpStream::connect(at).await.unwrap());
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let frames: Vec<_> = pieces
        .iter()
        .map(|piece| Ok::<_, std::io::Error>(Frame::data(Bytes::from((*piece).to_owned()))))
        .collect();
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://h{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    if let Some(length) = length {
        request = request.header("content-length", length);
    }
    client.ready().await.unwrap();
    let response = client
        .send_request(request.body(body).unwrap())
        .await
        .unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

/// RFC 9112 section 6.3: a body is one whatever the method, and however it is framed.
#[test]
fn bodies_arrive_whatever_they_came_by() {
    let (plain, h2c) = (Upstream::start("plain"), Upstream::start("h2c"));
    let lb = router(
        &[
            ("/", &[plain.address], ""),
            ("/h2", &[h2c.address], "proto=h2c"),
        ],
        "",
    );
    let long = "0123456789abcdef".repeat(20_000);
    for sends in ALL {
        for prefix in ["", "/h2"] {
            for method in ["POST", "GET", "DELETE", "OPTIONS", "PUT"] {
                for pieces in [
                    &["hello"][..],
                    &["hel", "l", "o"],
                    &[&long],
                    &[&long, "end"],
                ] {
                    let (status, text) = sends.ask(
                        lb.address("http"),
                        method,
                        &format!("{prefix}/x"),
                        &[],
                        pieces,
                    );
                    let what = format!("{sends:?} {method} {prefix} {}", pieces.concat().len());
                    assert_eq!(status, 200, "{what}");
                    let seen: serde_json::Value = serde_json::from_str(&text).unwrap();
                    assert_eq!(
                        (
                            seen["method"].as_str().unwrap(),
                            seen["body"].as_str().unwrap().len()
                        ),
                        (method, pieces.concat().len()),
                        "{what}"
                    );
                    assert_eq!(seen["body"].as_str().unwrap(), pieces.concat(), "{what}");
                }
            }
        }
    }
    wait_quiet(&lb, "s0");
}

/// The echo begins before the upload has ended, and goes on beside it.
#[test]
fn uploads_and_responses_run_beside_each_other() {
    let (plain, h2c) = (Upstream::start("plain"), Upstream::start("h2c"));
    let lb = router(
        &[
            ("/", &[plain.address], ""),
            ("/h2", &[h2c.address], "proto=h2c"),
        ],
        "",
    );
    let piece = "x".repeat(100_000);
    let pieces = vec![&*piece; 40];
    for sends in ALL {
        for prefix in ["", "/h2"] {
            if matches!(sends, Sends::Length | Sends::Chunks) {
                // This client reads only when it has sent all: what is echoed has to fit into
                // buffers on the way.
                let (status, text) = sends.ask(
                    lb.address("http"),
                    "POST",
                    &format!("{prefix}/echo"),
                    &[],
                    &pieces[..5],
                );
                assert_eq!((status, text.len()), (200, 500_000), "{sends:?} {prefix}");
            } else {
                let (status, text) = sends.ask(
                    lb.address("http"),
                    "POST",
                    &format!("{prefix}/echo"),
                    &[],
                    &pieces,
                );
                assert_eq!((status, text.len()), (200, 4_000_000), "{sends:?} {prefix}");
            }
        }
    }
}

#[test]
fn requests_of_every_kind_share_one_connection_to_the_instance() {
    let upstream = Scripted::start(|visit| {
        while let Some(head) = visit.head() {
            if head.contains("chunked") {
                while !visit.received_ends_with("0\r\n\r\n") {
                    if visit.more().is_none() {
                        return;
                    }
                }
                while visit.received_contains("\r\n") {
                    visit.exactly(1);
                }
            }
            visit.send(OK);
        }
    });
    let lb = router(&[("/", &[upstream.address], "")], "[proxy]\nworkers = 1\n");
    let (mut one, mut other) = (
        RawClient::connect(lb.address("http")),
        RawClient::connect(lb.address("http")),
    );
    for round in 0..5 {
        assert_eq!(
            one.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                .response()
                .unwrap()
                .status,
            200,
            "{round}"
        );
        other.send(
            "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        );
        assert_eq!(other.response().unwrap().status, 200, "{round}");
    }
    assert_eq!(upstream.connections(), 1);
}

/// A client's connection goes on behind every kind of response that is made here, and so does the
/// instance's.
#[test]
fn an_odd_request_costs_no_connection() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    std::fs::write(&users, "ann:secret\n").unwrap();
    let upstream = Scripted::replying(OK);
    let to = &[upstream.address][..];
    let routes = [
        ("h/", to, ""),
        ("moved.test/", to, "redirect=302,http://to.test$path"),
        ("auth.test/", to, "auth=main"),
        ("denied.test/", to, "deny=ip:127.0.0.0/8"),
    ];
    let settings = format!(
        "[proxy]\nworkers = 1\nrequest_timeout = \"20s\"\n[proxy.compression]\ncontent_types = \"^text/\"\n\
         [log]\naccess = \"$remote_host $upstream_addr $header.User-Agent\"\n[auth.main]\nfile = {users:?}\n"
    );
    let lb = router(&routes, &settings);
    let mut client = RawClient::connect(lb.address("http"));
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", 200),
        ("GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n", 404),
        ("GET /a HTTP/1.1\r\nHost: moved.test\r\n\r\n", 302),
        ("GET / HTTP/1.1\r\nHost: auth.test\r\n\r\n", 401),
        ("GET / HTTP/1.1\r\nHost: denied.test\r\n\r\n", 403),
        ("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", 200),
        (
            "POST / HTTP/1.1\r\nHost: nobody.test\r\nContent-Length: 5\r\n\r\nhello",
            404,
        ),
        ("GET http://h/b HTTP/1.1\r\nHost: h\r\n\r\n", 200),
        ("BREW / HTTP/1.1\r\nHost: h\r\n\r\n", 200),
        ("GET /<> HTTP/1.1\r\nHost: h\r\nTE: trailers\r\n\r\n", 200),
        (
            "GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n",
            200,
        ),
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", 200),
    ] {
        assert_eq!(
            client.send(request).response().unwrap().status,
            status,
            "{request}"
        );
    }
    assert_eq!(upstream.connections(), 1);
}

/// RFC 9110 section 6.5.1.
#[test]
fn trailers_that_would_decide_something_are_dropped() {
    const FORBIDDEN: [&str; 8] = [
        "Content-Length: 5",
        "Host: evil",
        "Connection: close",
        "Transfer-Encoding: chunked",
        "X-Forwarded-For: 192.0.2.1",
        "X_Forwarded_For: 192.0.2.1",
        "Authorization: Basic x",
        "Set-Cookie: a=b",
    ];
    let section = FORBIDDEN.join("\r\n") + "\r\nX-Sum: 7\r\n\r\n";
    let answer =
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n{section}");
    let upstream = Scripted::start(move |visit| {
        while visit.head().is_some() {
            while !visit.received_ends_with("\r\n\r\n") {
                if visit.more().is_none() {
                    return;
                }
            }
            while visit.received_contains("\r\n") {
                visit.exactly(1);
            }
            visit.send(&answer);
        }
    });
    let echo = Upstream::start("h2c");
    let lb = router(
        &[
            ("/", &[upstream.address], ""),
            ("/h2", &[echo.address], "proto=h2c"),
        ],
        "",
    );
    let request = |path: &str| {
        format!(
            "PUT {path} HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n{section}"
        )
    };
    // Both sides in HTTP/1: the instance gets the harmless one, and so does the client.
    let response = RawClient::connect(lb.address("http"))
        .send(request("/"))
        .response()
        .unwrap();
    assert_eq!(
        (response.text().as_str(), &response.trailers[..]),
        ("ok", &[("x-sum".to_owned(), "7".to_owned())][..])
    );
    let received = upstream.received().to_ascii_lowercase();
    let behind = received.split("\r\n0\r\n").nth(1).unwrap();
    assert_eq!(behind, "x-sum: 7\r\n\r\n");
    // HTTP/2 towards the instance, which sends them back.
    let response = RawClient::connect(lb.address("http"))
        .send(request("/h2/echo"))
        .response()
        .unwrap();
    assert_eq!(
        (response.text().as_str(), &response.trailers[..]),
        ("hi", &[("x-sum".to_owned(), "7".to_owned())][..])
    );
    // HTTP/2 towards the client.
    let trailers = runtime().block_on(async {
        let io = TokioIo::new(
            tokio::net::TcpStream::connect(lb.address("http"))
                .await
                .unwrap(),
        );
        let (mut client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let mut fields = HeaderMap::new();
        for name in [
            "content-length",
            "x-forwarded-for",
            "authorization",
            "set-cookie",
            "x-sum",
        ] {
            fields.insert(name, HeaderValue::from_static("7"));
        }
        let frames = [
            Ok::<_, std::io::Error>(Frame::data(Bytes::from("hi"))),
            Ok(Frame::trailers(fields)),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let request = Request::put("http://h/h2/echo")
            .header("te", "trailers")
            .body(body)
            .unwrap();
        let response = client.send_request(request).await.unwrap();
        response
            .into_body()
            .collect()
            .await
            .unwrap()
            .trailers()
            .cloned()
            .unwrap()
    });
    assert_eq!(
        trailers
            .keys()
            .map(|name| name.as_str())
            .collect::<Vec<_>>(),
        ["x-sum"]
    );
}

/// RFC 4559: what is let in is the connection.
#[test]
fn a_connection_that_was_authenticated_stays_its_clients() {
    let number = AtomicUsize::new(0);
    let upstream = Scripted::start(move |visit| {
        let name = number.fetch_add(1, SeqCst);
        let mut user = "nobody";
        while let Some(head) = visit.request() {
            if head.contains("Authorization: NTLM three") {
                user = "alice";
            }
            let body = format!("{user}@{name}");
            let status = if user == "nobody" && head.contains(" /secret ") {
                "401 Unauthorized\r\nWWW-Authenticate: Negotiate\r\nWWW-Authenticate: NTLM"
            } else {
                "200 OK"
            };
            visit.send(format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            ));
        }
    });
    for other in ["", "[proxy.compression]\ncontent_types = \"^text/\"\n"] {
        let lb = router(
            &[("/", &[upstream.address], "")],
            &format!("[proxy]\nworkers = 1\n{other}"),
        );
        let ask = |client: &mut RawClient, path: &str, more: &str| {
            client.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n{more}\r\n"));
            let response = client.response().unwrap();
            (response.status, response.text())
        };
        let (mut alice, mut bob) = (
            RawClient::connect(lb.address("http")),
            RawClient::connect(lb.address("http")),
        );
        let (status, first) = ask(&mut alice, "/secret", "");
        assert_eq!(status, 401);
        let (status, seen) = ask(&mut alice, "/secret", "Authorization: NTLM three\r\n");
        assert_eq!(
            (status, seen.as_str()),
            (200, &*first.replace("nobody", "alice")),
            "the same connection"
        );
        for _ in 0..3 {
            let (status, seen) = ask(&mut bob, "/", "");
            assert!(status == 200 && seen.starts_with("nobody@"), "{seen}");
            assert_eq!(
                ask(&mut alice, "/secret", ""),
                (200, first.replace("nobody", "alice"))
            );
        }
        drop(alice);
        let (status, seen) = ask(&mut bob, "/", "");
        assert!(status == 200 && seen.starts_with("nobody@"), "{seen}");
    }
}

#[test]
fn a_connection_that_its_instance_is_about_to_close_is_not_used() {
    let upstream = Scripted::replying(
        "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1, max=100\r\nContent-Length: 2\r\n\r\nok",
    );
    let lb = router(&[("/", &[upstream.address], "")], "[proxy]\nworkers = 1\n");
    let mut client = RawClient::connect(lb.address("http"));
    for _ in 0..3 {
        assert_eq!(
            client
                .send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
                .response()
                .unwrap()
                .status,
            200
        );
    }
    assert_eq!(upstream.connections(), 1);
    // It is told when the connection ends, and that is what is waited for here.
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(
        client
            .send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            .response()
            .unwrap()
            .status,
        200
    );
    assert_eq!(upstream.connections(), 2);
}

/// What was decided before a body had come may not hold any more.
#[test]
fn an_instance_that_leaves_while_its_request_comes_gets_it_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("routes.txt");
    let (old, new) = (
        Scripted::replying(OK),
        Scripted::start(|visit| {
            while let Some(request) = visit.request() {
                assert!(request.ends_with("0123456789"), "{request}");
                visit.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnew");
            }
        }),
    );
    std::fs::write(&file, format!("route add s / http://{}/\n", old.address)).unwrap();
    let lb = router(
        &[],
        &format!("routes_file = {file:?}\n[proxy]\nworkers = 1\n"),
    );
    wait_until("the first table", || {
        lb.admin("/api/routes").1.contains(&old.address.to_string())
    });
    let mut client = RawClient::connect(lb.address("http"));
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n01234");
    std::fs::write(&file, format!("route add s / http://{}/\n", new.address)).unwrap();
    wait_until("the second table", || {
        lb.admin("/api/routes").1.contains(&new.address.to_string())
    });
    let before = old.requests();
    assert_eq!(client.send("56789").response().unwrap().text(), "new");
    assert_eq!(old.requests(), before);
}

/// What lifts a limit is the route's word, or the call's own deadline: a Content-Type is any
/// client's.
#[test]
fn a_content_type_alone_lifts_no_limit() {
    let upstream = Scripted::start(|visit| visit.until_closed());
    let lb = router(
        &[("/", &[upstream.address], "")],
        "[proxy]\nresponse_timeout = \"300ms\"\n",
    );
    let grpc = ("content-type", "application/grpc");
    for sends in ALL {
        let begun = Instant::now();
        sends.ask(lb.address("http"), "POST", "/", &[grpc], &["x"]);
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{sends:?}: {:?}",
            begun.elapsed()
        );
        let begun = Instant::now();
        sends.ask(
            lb.address("http"),
            "POST",
            "/",
            &[grpc, ("grpc-timeout", "900m")],
            &["x"],
        );
        let took = begun.elapsed();
        assert!(
            took > Duration::from_millis(800) && took < Duration::from_secs(5),
            "{sends:?}: {took:?}"
        );
    }
}

/// RFC 9113 section 8.7: what a server says it has not looked at can be sent again, body and all.
#[test]
fn what_an_instance_has_not_looked_at_is_sent_again() {
    let refused = Arc::new(AtomicUsize::new(0));
    let address = refusing_h2(&refused);
    let lb = router(&[("/", &[address], "proto=h2c")], "[proxy]\nworkers = 1\n");
    let long = "y".repeat(40_000);
    for sends in ALL {
        for pieces in [&["hello"][..], &["hel", "lo"], &[&long]] {
            for _ in 0..4 {
                let (status, text) = sends.ask(lb.address("http"), "POST", "/", &[], pieces);
                assert_eq!(
                    (status, text.len()),
                    (200, pieces.concat().len()),
                    "{sends:?}"
                );
            }
        }
    }
    assert!(refused.load(SeqCst) >= 20, "{}", refused.load(SeqCst));
}

/// An instance that refuses every other request, and says farewell to each connection after seven.
fn refusing_h2(refused: &Arc<AtomicUsize>) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let (address, refused) = (listener.local_addr().unwrap(), Arc::clone(refused));
    std::thread::spawn(move || {
        runtime().block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((socket, _)) = listener.accept().await {
                let refused = Arc::clone(&refused);
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(socket).await.unwrap();
                    let mut seen = 0;
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        seen += 1;
                        if seen % 2 == 0 {
                            refused.fetch_add(1, SeqCst);
                            respond.send_reset(h2::Reason::REFUSED_STREAM);
                            continue;
                        }
                        assert_eq!(request.method(), Method::POST);
                        if seen == 7 {
                            connection.graceful_shutdown();
                        }
                        tokio::spawn(async move {
                            let mut body = request.into_body();
                            let mut stream =
                                respond.send_response(Response::new(()), false).unwrap();
                            let mut all = Vec::new();
                            while let Some(Ok(data)) = body.data().await {
                                let _ = body.flow_control().release_capacity(data.len());
                                all.extend_from_slice(&data);
                            }
                            let _ = stream.send_data(Bytes::from(all), true);
                        });
                    }
                });
            }
        });
    });
    address
}

/// Names of fields and the reason phrase arrive as they were spelled, whatever has to be done to a
/// message.
#[test]
fn spelling_stays_whatever_is_done_to_a_message() {
    let upstream = Scripted::start(|visit| {
        while let Some(head) = visit.head() {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let (status, more) = match path {
                "/named" => ("200 Alles Gut", "Connection: X-Gone\r\nX-Gone: 1\r\n"),
                "/page" => ("200 Alles Gut", "Content-Type: text/html\r\n"),
                "/switch" => ("101 Alles Gut", "Connection: Upgrade\r\nUpgrade: echo\r\n"),
                _ => ("200 Alles Gut", "Content-Type: image/png\r\n"),
            };
            let framing = if path == "/switch" {
                ""
            } else {
                "Transfer-Encoding: chunked\r\n"
            };
            let body = if path == "/switch" {
                ""
            } else {
                "4\r\nbody\r\n0\r\n\r\n"
            };
            visit.send(format!(
                "HTTP/1.1 {status}\r\nX-CamelCase: 1\r\nETag: \"e\"\r\n{more}{framing}\r\n{body}"
            ));
        }
    });
    let compression =
        "[proxy]\nworkers = 1\n[proxy.compression]\ncontent_types = \"^text/\"\nmin_bytes = 1\n";
    let lb = router(&[("/", &[upstream.address], "")], compression);
    for path in ["/plain", "/named", "/page", "/switch"] {
        for version in ["HTTP/1.1", "HTTP/1.0"] {
            for fields in [
                "",
                "X-Forwarded-For: 192.0.2.1\r\n",
                "Connection: X-Hop\r\nX-Hop: 1\r\n",
            ] {
                let switch = path == "/switch";
                if switch && (version == "HTTP/1.0" || fields.starts_with("Connection")) {
                    continue;
                }
                let upgrade = if switch {
                    "Connection: Upgrade\r\nUpgrade: echo\r\n"
                } else {
                    ""
                };
                let mut client = RawClient::connect(lb.address("http"));
                client.send(format!(
                    "GET {path} {version}\r\nHost: h\r\nX-MyField: 1\r\nAccept-Encoding: gzip\r\n{fields}{upgrade}\r\n"
                ));
                let head = String::from_utf8(client.until(b"\r\n\r\n")).unwrap();
                let what = format!("{path} {version} {fields:?}");
                assert!(
                    head.lines().next().unwrap().ends_with("Alles Gut"),
                    "{what}: {head}"
                );
                assert!(head.contains("\r\nX-CamelCase: 1\r\n"), "{what}: {head}");
                // A tag is weak once the body is another.
                assert!(head.contains("\r\nETag: "), "{what}: {head}");
            }
        }
    }
    let received = upstream.received();
    assert_eq!(
        received.matches("\r\nX-MyField: 1\r\n").count(),
        received.matches("GET /").count(),
        "{received}"
    );
}

/// Requests that come in one piece are told apart, whatever the body of each: nothing of one is
/// read as another.
#[test]
fn pipelined_bodies_of_every_kind_are_told_apart() {
    let upstream = Scripted::start(|visit| {
        while let Some(head) = visit.head() {
            let small = head.to_lowercase();
            if small.contains("transfer-encoding: chunked") {
                let Some(_) = visit.chunks() else { return };
            } else if let Some((_, length)) = small.split_once("content-length: ") {
                let length = length
                    .lines()
                    .next()
                    .and_then(|length| length.parse().ok())
                    .expect("a length");
                let Some(_) = visit.exactly(length) else {
                    return;
                };
            }
            let path = head.split(' ').nth(1).unwrap().to_owned();
            visit.send(format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}",
                path.len()
            ));
        }
    });
    let lb = router(&[("/", &[upstream.address], "")], "[proxy]\nworkers = 1\n");
    let long = "x".repeat(70_000);
    let kinds = 4;
    for order in 0..kinds * kinds * kinds {
        let mut client = RawClient::connect(lb.address("http"));
        let order = [
            order % kinds,
            order / kinds % kinds,
            order / kinds / kinds,
            0,
        ];
        let mut all = String::new();
        for (at, kind) in order.iter().enumerate() {
            let path = format!("/{at}{kind}");
            all += &match kind {
                0 => format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"),
                1 => format!("PUT {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc"),
                2 => format!(
                    "PUT {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{long}",
                    long.len()
                ),
                // The body holds what would be a request of its own.
                _ => format!(
                    "PUT {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
                     1f\r\nGET /evil HTTP/1.1\r\nHost: h\r\n\r\n\r\n3\r\n{path}\r\n0\r\n\r\n"
                ),
            };
        }
        let mut sends = client.clone_for_sending();
        let sent = std::thread::spawn(move || sends.send(all).finish());
        for (at, kind) in order.iter().enumerate() {
            let response = client
                .response()
                .unwrap_or_else(|| panic!("no response {at} of {order:?}"));
            assert_eq!(
                (response.status, response.text()),
                (200, format!("/{at}{kind}")),
                "{order:?}"
            );
        }
        sent.join().unwrap();
        assert!(client.is_closed(), "{order:?}");
    }
}

/// A client that breaks off inside its body is told so, or its log line, whatever connection its
/// request went to; and nothing of it is held against the instance.
#[test]
fn a_broken_upload_is_its_clients_fault() {
    let upstream = Scripted::start(|visit| {
        while let Some(head) = visit.head() {
            if head.starts_with("PUT") {
                visit.until_closed();
                return;
            }
            visit.send(OK);
        }
    });
    let config = "[proxy]\nworkers = 1\n[health]\neject_after = 1\n[log]\naccess = \"json\"\n";
    let lb = router(&[("/", &[upstream.address], "")], config);
    let cases = [
        ("Transfer-Encoding: chunked", "5\r\nhel", 499),
        ("Transfer-Encoding: chunked", "", 499),
        ("Transfer-Encoding: chunked", "hello", 400),
        ("Transfer-Encoding: chunked", "5\r\nhelloo", 400),
        (
            "Transfer-Encoding: chunked",
            "5\r\nhello\r\n0\r\nno field\r\n\r\n",
            400,
        ),
        ("Content-Length: 100000", "", 499),
        ("Content-Length: 100000", "some", 499),
    ];
    for warm in [false, true] {
        for (number, (framing, body, status)) in cases.iter().enumerate() {
            if warm {
                let mut client = RawClient::connect(lb.address("http"));
                assert_eq!(
                    client
                        .send("GET /warm HTTP/1.1\r\nHost: h\r\n\r\n")
                        .response()
                        .unwrap()
                        .status,
                    200
                );
            }
            let path = format!("/{warm}/{number}");
            let mut client = RawClient::connect(lb.address("http"));
            client
                .send(format!(
                    "PUT {path} HTTP/1.1\r\nHost: h\r\n{framing}\r\n\r\n{body}"
                ))
                .finish();
            let line = lb.wait_stdout("record", |line| {
                line.contains(&format!("\"uri\":\"{path}\""))
            });
            let record: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(record["status"], *status, "{line}");
            assert_eq!(record["attempts"], 1, "{line}");
        }
    }
    // With one failure it would be out.
    let mut client = RawClient::connect(lb.address("http"));
    assert_eq!(
        client
            .send("GET /after HTTP/1.1\r\nHost: h\r\n\r\n")
            .response()
            .unwrap()
            .status,
        200
    );
    assert!(
        lb.metric("lb_retries_total{service=\"s0\",reason=\"closed\"}")
            .is_none_or(|count| count == 0.0)
    );
}
