//! Policies of the configuration, over every protocol that clients speak: cross-origin requests,
//! rewritten paths, error pages, two authentication schemes, tokens of rates.

use std::net::SocketAddr;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::harness::{OK, Refusing, Scripted, router, runtime};
use crate::routing::fake_consul;
use crate::support::client::RawClient;
use crate::support::lb::Lb;
use crate::support::upstream::Upstream;
use crate::support::wait::wait_until;
use crate::support::web::WebServer;

/// How clients speak.
const PROTOCOLS: [Protocol; 3] = [Protocol::Http11, Protocol::Http10, Protocol::Http2];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http11,
    Http10,
    Http2,
}

/// A response, whatever it came by. Fields in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Told {
    status: u16,
    fields: Vec<(String, String)>,
    body: String,
}

impl Told {
    fn field(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|(known, _)| known == name);
        let value = found.next().map(|(_, value)| &**value);
        assert!(found.next().is_none(), "{name} twice: {self:?}");
        value
    }

    /// Those whose names begin with this, in one line.
    fn fields(&self, start: &str) -> String {
        let found = self
            .fields
            .iter()
            .filter(|(name, _)| name.starts_with(start));
        let lines: Vec<String> = found
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        lines.join("; ")
    }
}

type Fields<'a> = &'a [(&'a str, &'a str)];

impl Protocol {
    fn ask(self, lb: &Lb, method: &str, path: &str, fields: Fields<'_>) -> Told {
        let address = lb.address("http");
        match self {
            Self::Http2 => runtime().block_on(ask_h2(address, method, path, fields)),
            Self::Http11 => ask_h1(address, "1.1", method, path, fields),
            Self::Http10 => ask_h1(address, "1.0", method, path, fields),
        }
    }

    fn get(self, lb: &Lb, path: &str, fields: Fields<'_>) -> Told {
        self.ask(lb, "GET", path, fields)
    }
}

fn ask_h1(
    address: SocketAddr,
    version: &str,
    method: &str,
    path: &str,
    fields: Fields<'_>,
) -> Told {
    let lines: String = fields
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let mut client = RawClient::connect(address);
    client.send(format!(
        "{method} {path} HTTP/{version}\r\nHost: x\r\nConnection: close\r\n{lines}\r\n"
    ));
    if method == "HEAD" {
        let head = String::from_utf8(client.rest()).unwrap();
        let (head, body) = head.split_once("\r\n\r\n").unwrap();
        let mut lines = head.lines();
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let field = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_ascii_lowercase(), value.to_owned())
        };
        return told(status, lines.map(field).collect(), body.as_bytes());
    }
    let response = client.response().expect("a response");
    let body = response.body.clone();
    told(response.status, response.headers, &body)
}

async fn ask_h2(address: SocketAddr, method: &str, path: &str, fields: Fields<'_>) -> Told {
    let io = TokioIo::new(tokio::net::TcpStream::connect(address).await.unwrap());
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(format!("http://x{path}"));
    let request = fields.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    client.ready().await.unwrap();
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let (parts, body) = client.send_request(request).await.unwrap().into_parts();
    let fields = parts.headers.iter();
    let fields = fields.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    let fields = fields.collect();
    let body = body.collect().await.unwrap().to_bytes();
    told(parts.status.as_u16(), fields, &body)
}

fn told(status: u16, mut fields: Vec<(String, String)>, body: &[u8]) -> Told {
    fields.sort();
    let body = String::from_utf8(body.to_vec()).unwrap();
    Told {
        status,
        fields,
        body,
    }
}

/// The path that came last.
fn last_path(upstream: &Scripted) -> String {
    let received = upstream.received();
    let end = received.rfind(" HTTP/1.1\r\n").expect("a request");
    received[..end].rsplit(' ').next().unwrap().to_owned()
}

/// A file of users, all with the password `pw`.
fn users(folder: &Path, file: &str, names: &[&str]) -> String {
    // The password `pw` in SHA-1, as htpasswd writes it.
    let lines: String = names
        .iter()
        .map(|name| format!("{name}:{{SHA}}GpHWL3ymc5liWkNopqtdSjuqYHM=\n"))
        .collect();
    let path = folder.join(file);
    std::fs::write(&path, lines).unwrap();
    format!("{path:?}")
}

const CORS: &str = "[policy.api]\ncors = { origins = [\"https://a.test\", \"https://*.b.test\"], \
    methods = [\"GET\", \"PUT\"], headers = [\"X-Token\"], expose = [\"X-Total\"], credentials = true, max_age = \"10m\" }\n\
    [policy.open]\nrate = \"1/h\"\nby = \"route\"\ncors = { origins = [\"*\"] }\n\
    [policy.shut]\ncors = { origins = [\"*\"] }\ndeny = [\"127.0.0.0/8\"]\n";

#[test]
fn preflights_are_answered_before_everything_but_access_rules() {
    let folder = tempfile::tempdir().unwrap();
    let users = users(folder.path(), "users", &["ann"]);
    let upstream = Scripted::replying(OK);
    let lb = router(
        &[
            (
                "/",
                &[upstream.address],
                "policy=api auth=main rate=1/h by=route",
            ),
            ("/open", &[upstream.address], "policy=open"),
            ("/shut", &[upstream.address], "policy=shut"),
            ("/plain", &[upstream.address], ""),
        ],
        &format!("{CORS}[auth.main]\nfile = {users}\n"),
    );
    const ALLOWED: &str = "access-control-allow-credentials: true; access-control-allow-headers: X-Token; \
        access-control-allow-methods: GET, PUT; access-control-allow-origin: https://a.test; \
        access-control-max-age: 600";
    for protocol in PROTOCOLS {
        let asks = |origin, path| {
            let fields = [("origin", origin), ("access-control-request-method", "PUT")];
            protocol.ask(&lb, "OPTIONS", path, &fields)
        };
        let told = asks("https://a.test", "/");
        assert_eq!((told.status, &*told.body), (204, ""), "{protocol:?}");
        assert_eq!(told.fields("access-control-"), ALLOWED, "{protocol:?}");
        assert_eq!(told.field("vary"), Some("Origin"));
        // Neither costs a token.
        for _ in 0..3 {
            assert_eq!(asks("https://x.b.test", "/x").status, 204);
            assert_eq!(asks("https://x.test", "/open").status, 204);
        }
        let told = asks("https://evil.test", "/");
        assert_eq!(told.status, 204);
        assert_eq!(told.fields("access-control-"), "", "{protocol:?}");
        assert_eq!(told.field("vary"), Some("Origin"));
        let told = asks("https://x.test", "/open");
        assert_eq!(
            told.fields("access-control-"),
            "access-control-allow-origin: *"
        );
        let told = asks("https://a.test", "/shut");
        assert_eq!(told.status, 403);
        assert_eq!(
            told.fields("access-control-"),
            "access-control-allow-origin: *"
        );
    }
    assert_eq!(upstream.requests(), 0);
    // An OPTIONS that is not a preflight is a request like any other.
    for protocol in PROTOCOLS {
        assert_eq!(protocol.ask(&lb, "OPTIONS", "/plain", &[]).status, 200);
        let fields = [
            ("origin", "https://a.test"),
            ("access-control-request-method", "PUT"),
        ];
        assert_eq!(protocol.ask(&lb, "OPTIONS", "/plain", &fields).status, 200);
        let told = protocol.ask(&lb, "OPTIONS", "/", &fields[..1]);
        assert!([401, 429].contains(&told.status), "{told:?}");
    }
    let explained = lb.admin(
        "/api/explain?url=http://x/&method=OPTIONS&header=origin:https://a.test&header=access-control-request-method:PUT",
    );
    assert!(
        explained.1.contains("204") && explained.1.contains("preflight"),
        "{}",
        explained.1
    );
}

#[test]
fn responses_tell_which_origins_may_read_them() {
    let upstream = Scripted::replying(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nAccess-Control-Allow-Origin: https://instance.test\r\n\
         Access-Control-Allow-Origin: *\r\naccess-control-expose-headers: X-Own\r\nVary: Accept\r\n\r\nok",
    );
    let refusing = Refusing::new();
    let lb = router(
        &[
            ("/", &[upstream.address], "policy=api"),
            ("/open", &[upstream.address], "policy=open rate=1/h"),
            ("/dead", &[refusing.address], "policy=api"),
            (
                "/away",
                &[upstream.address],
                "policy=api redirect=302,https://y.test/",
            ),
        ],
        CORS,
    );
    const ALLOWED: &str = "access-control-allow-credentials: true; access-control-allow-origin: https://X.b.test; \
        access-control-expose-headers: X-Total";
    for protocol in PROTOCOLS {
        for (path, status) in [("/", 200), ("/dead", 502), ("/away", 302)] {
            let told = protocol.get(&lb, path, &[("origin", "https://X.b.test")]);
            assert_eq!(
                (told.status, &*told.fields("access-control-")),
                (status, ALLOWED),
                "{protocol:?}"
            );
            for origin in [
                "https://evil.test",
                "null",
                "https://a.test, https://a.test",
            ] {
                let told = protocol.get(&lb, path, &[("origin", origin)]);
                assert_eq!(told.fields("access-control-"), "", "{origin}");
                assert!(told.fields("vary").contains("Origin"));
            }
            let twice = [("origin", "https://a.test"), ("origin", "https://a.test")];
            assert_eq!(
                protocol.get(&lb, path, &twice).fields("access-control-"),
                ""
            );
            let told = protocol.get(&lb, path, &[]);
            assert_eq!(
                (told.status, &*told.fields("access-control-")),
                (status, "")
            );
        }
    }
    assert_eq!(
        Protocol::Http11.get(&lb, "/", &[]).fields("vary"),
        "vary: Accept; vary: Origin"
    );
    let _ = Protocol::Http11.get(&lb, "/open", &[]);
    for protocol in PROTOCOLS {
        let told = protocol.get(&lb, "/open", &[("origin", "https://any.test")]);
        assert_eq!(told.status, 429);
        assert_eq!(
            told.fields("access-control-"),
            "access-control-allow-origin: *"
        );
    }
}

#[test]
fn paths_are_rewritten_and_lead_nowhere_else() {
    let upstream = Scripted::replying(OK);
    let policies = "[policy.files]\nrewrite = [{ from = \"^/files(.*)$\", to = \"/data/$1\" }]\n\
        [policy.more]\nrewrite = [{ from = \"^/v(\\\\d+)/\", to = \"/api/${1}/\" }, { from = \"/old/\", to = \"/new/\" }]\n\
        [policy.strip]\nrewrite = [{ from = \"^/a/\", to = \"/b/\" }]\n";
    let lb = router(
        &[
            ("/files", &[upstream.address], "policy=files"),
            ("/v", &[upstream.address], "policy=more"),
            (
                "/a",
                &[upstream.address],
                "policy=strip strip=/b prepend=/c",
            ),
        ],
        policies,
    );
    for protocol in PROTOCOLS {
        for (path, expected) in [
            ("/files/a?q=/files&x=%2e%2e", "/data/a?q=/files&x=%2e%2e"),
            ("/files?q", "/data/?q"),
            ("/files/a%2Fb%20c", "/data/a%2Fb%20c"),
            ("/f%69les/x", "/data/x"),
            ("/files/x/../y", "/data/y"),
            ("/files/%2e%2e/files/y", "/data/y"),
            ("/v2/old/x/old/y", "/api/2/new/x/new/y"),
            ("/va/x", "/va/x"),
            ("/a/x?y", "/c/x?y"),
        ] {
            let told = protocol.get(&lb, path, &[]);
            assert_eq!(told.status, 200, "{protocol:?} {path}");
            // Two slashes are data, but not two that are made here.
            let came = last_path(&upstream).replace("//", "/");
            assert_eq!(came, expected, "{protocol:?} {path}");
        }
        let before = upstream.requests();
        for path in [
            "/files../secret",
            "/files..%2fsecret",
            "/files%2e%2e/secret",
            "/files.%2E/x",
            "/files./x/y",
            "/files..",
        ] {
            let told = protocol.get(&lb, path, &[]);
            assert_eq!(
                told.status,
                400,
                "{protocol:?} {path}: {}",
                last_path(&upstream)
            );
        }
        assert_eq!(upstream.requests(), before);
    }
    let explained = lb.admin("/api/explain?url=http://x/files/x?y").1;
    assert!(explained.contains("/data//x?y"), "{explained}");
}

#[test]
fn pages_take_the_place_of_failed_responses() {
    let folder = tempfile::tempdir().unwrap();
    for (file, content) in [
        ("404.html", "<p>nothing here"),
        ("sorry.txt", "sorry"),
        ("no.json", "{}"),
    ] {
        std::fs::write(folder.path().join(file), content).unwrap();
    }
    let upstream = Scripted::start(|visit| {
        while let Some(request) = visit.request() {
            let path = request.split(' ').nth(1).unwrap();
            let is_head = request.starts_with("HEAD");
            let fields = "ETag: \"x\"\r\nLast-Modified: Tue, 01 Dec 2026 00:00:00 GMT\r\nContent-Encoding: gzip\r\n\
                Accept-Ranges: bytes\r\nContent-Type: application/x\r\nX-Kept: 1\r\nSet-Cookie: a=b\r\n";
            let (status, rest) = match path.rsplit('/').next().unwrap() {
                "404" => ("404 Gone Fishing", "Content-Length: 5\r\n\r\nhello"),
                "410" => (
                    "410 Gone",
                    "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
                ),
                "500" => ("500 Error", "Content-Length: 0\r\n\r\n"),
                "503" => ("503 Error", "Content-Length: 2\r\n\r\nno"),
                "200" => ("200 OK", "Content-Length: 2\r\n\r\nok"),
                "long" => ("500 Error", "Content-Length: 100000000\r\n\r\nbegun"),
                "never" => ("500 Error", "Content-Length: 10\r\n\r\nbegun"),
                "close" => ("500 Error", "Connection: close\r\n\r\nuntil the end"),
                other => panic!("{other}"),
            };
            let rest = match is_head {
                true => rest.split_inclusive("\r\n\r\n").next().unwrap(),
                false => rest,
            };
            visit.send(format!("HTTP/1.1 {status}\r\n{fields}{rest}"));
            if path.ends_with("close") {
                return visit.finish();
            }
        }
    });
    let refusing = Refusing::new();
    let path = |file: &str| format!("{:?}", folder.path().join(file));
    let more = format!(
        "[policy.kind]\nresponse_headers = {{ set = {{ X-Policy = \"1\" }} }}\n\
         error_pages = {{ \"404\" = {}, \"4xx\" = {}, \"5xx\" = {} }}\n\
         [policy.limited]\nrate = \"1/h\"\nby = \"route\"\nerror_pages = {{ \"429\" = {} }}\n\
         [proxy.compression]\ncontent_types = \".*\"\n",
        path("404.html"),
        path("no.json"),
        path("sorry.txt"),
        path("sorry.txt"),
    );
    let lb = router(
        &[
            ("/", &[upstream.address], "policy=kind"),
            ("/dead", &[refusing.address], "policy=kind"),
            (
                "/shut",
                &[upstream.address],
                "policy=kind deny=ip:127.0.0.1",
            ),
            (
                "/limited",
                &[upstream.address],
                "policy=limited strip=/limited",
            ),
            ("/plain", &[upstream.address], ""),
        ],
        &more,
    );
    let cases = [
        ("/404", 404, "<p>nothing here", "text/html; charset=utf-8"),
        ("/410", 410, "{}", "application/json"),
        ("/500", 500, "sorry", "text/plain; charset=utf-8"),
        ("/503", 503, "sorry", "text/plain; charset=utf-8"),
        ("/long", 500, "sorry", "text/plain; charset=utf-8"),
        ("/never", 500, "sorry", "text/plain; charset=utf-8"),
        ("/close", 500, "sorry", "text/plain; charset=utf-8"),
        ("/dead/x", 502, "sorry", "text/plain; charset=utf-8"),
        ("/shut/x", 403, "{}", "application/json"),
    ];
    for protocol in PROTOCOLS {
        for (path, status, content, kind) in cases {
            for (method, fields) in [
                ("GET", &[][..]),
                (
                    "GET",
                    &[("accept-encoding", "gzip"), ("range", "bytes=0-1")],
                ),
                ("HEAD", &[]),
            ] {
                let told = protocol.ask(&lb, method, path, fields);
                let what = format!("{protocol:?} {method} {path}: {told:?}");
                let body = if method == "HEAD" { "" } else { content };
                assert_eq!((told.status, &*told.body), (status, body), "{what}");
                assert_eq!(told.field("content-type"), Some(kind), "{what}");
                let length = content.len().to_string();
                assert_eq!(told.field("content-length"), Some(&*length), "{what}");
                assert_eq!(told.field("x-policy"), Some("1"), "{what}");
                for gone in [
                    "etag",
                    "last-modified",
                    "content-encoding",
                    "accept-ranges",
                    "transfer-encoding",
                    "content-range",
                ] {
                    assert_eq!(told.field(gone), None, "{what}");
                }
                let of_instance = !path.ends_with("/x");
                assert_eq!(told.field("x-kept").is_some(), of_instance, "{what}");
            }
        }
        let told = protocol.get(&lb, "/200", &[]);
        assert_eq!((told.status, &*told.body), (200, "ok"));
        assert_eq!(told.field("etag"), Some("\"x\""));
        // Calls of gRPC have no pages.
        let told = protocol.get(&lb, "/404", &[("content-type", "application/grpc")]);
        assert_eq!(
            told.field("content-type"),
            Some("application/x"),
            "{told:?}"
        );
    }
    let _ = Protocol::Http11.get(&lb, "/limited/200", &[]);
    for protocol in PROTOCOLS {
        let told = protocol.get(&lb, "/limited/200", &[]);
        assert_eq!((told.status, &*told.body), (429, "sorry"));
        assert!(told.field("retry-after").is_some());
    }

    // One connection of a client serves on, whatever became of the instance's.
    let mut client = RawClient::connect(lb.address("http"));
    for (path, status, content, _) in cases {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        let response = client.response().expect("a response");
        assert_eq!(
            (response.status, &*response.text()),
            (status, content),
            "{path}"
        );
    }
    // What is short is read to its end, and the instance's connection used again.
    let before = upstream.connections();
    for _ in 0..20 {
        client.send("GET /404 HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(client.response().expect("a response").status, 404);
    }
    assert!(
        upstream.connections() <= before + 1,
        "{before} {}",
        upstream.connections()
    );

    // A file that changes is taken over by itself; one that is gone costs nothing.
    std::fs::write(folder.path().join("404.html"), "<p>still nothing").unwrap();
    wait_until("the new page", || {
        Protocol::Http11.get(&lb, "/404", &[]).body == "<p>still nothing"
    });
    std::fs::remove_file(folder.path().join("404.html")).unwrap();
    lb.wait_for_line("the missing file", |line| line.contains("404.html"));
    assert_eq!(
        Protocol::Http2.get(&lb, "/404", &[]).body,
        "<p>still nothing"
    );
}

#[test]
fn the_schemes_of_a_tag_and_of_its_policy_both_hold() {
    let folder = tempfile::tempdir().unwrap();
    let of_policy = users(folder.path(), "policy", &["ann", "bob"]);
    let of_tag = users(folder.path(), "tag", &["ann", "eve"]);
    let upstream = Scripted::replying(OK);
    let more = format!(
        "[policy.shared]\nauth = \"outer\"\n[auth.outer]\nfile = {of_policy}\nrealm = \"outer\"\n\
         [auth.inner]\nfile = {of_tag}\nrealm = \"inner\"\n"
    );
    let lb = router(
        &[
            ("/both", &[upstream.address], "policy=shared auth=inner"),
            ("/policy", &[upstream.address], "policy=shared"),
            ("/same", &[upstream.address], "policy=shared auth=outer"),
            ("/unknown", &[upstream.address], "policy=shared auth=none"),
        ],
        &more,
    );
    for protocol in PROTOCOLS {
        for (path, user, status, realm) in [
            ("/both", "", 401, "outer"),
            ("/both", "ann", 200, ""),
            ("/both", "bob", 401, "inner"),
            ("/both", "eve", 401, "outer"),
            ("/policy", "bob", 200, ""),
            ("/policy", "eve", 401, "outer"),
            ("/same", "bob", 200, ""),
            ("/unknown", "ann", 503, ""),
            ("/unknown", "eve", 401, "outer"),
        ] {
            let credentials = format!("Basic {}", STANDARD.encode(format!("{user}:pw")));
            let fields = [("authorization", &*credentials)];
            let told = protocol.get(&lb, path, if user.is_empty() { &[] } else { &fields });
            let what = format!("{protocol:?} {path} {user}: {told:?}");
            assert_eq!(told.status, status, "{what}");
            let challenge = told.field("www-authenticate").unwrap_or_default();
            assert!(challenge.contains(realm), "{what}");
        }
    }
}

#[test]
fn a_request_takes_one_token_however_often_it_is_decided_about() {
    let upstream = Scripted::replying(OK);
    let lb = router(
        &[("/", &[upstream.address], "rate=1/h burst=3 by=route")],
        "",
    );
    // Its body comes later than its head: it is decided about again when all of it is there.
    let post = || {
        let mut client = RawClient::connect(lb.address("http"));
        client.send(
            "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
        );
        let first = client.response().expect("a response").status;
        if first != 100 {
            return first;
        }
        client.send("body");
        client.response().expect("a response").status
    };
    assert_eq!([post(), post(), post(), post()], [200, 200, 200, 429]);
    let limited = "lb_rate_limited_total{service=\"s0\"}";
    assert_eq!(lb.metric(limited), Some(1.0));
}

#[test]
fn a_request_that_goes_elsewhere_after_a_change_takes_no_second_token() {
    for protocol in [Protocol::Http11, Protocol::Http2] {
        let good = Scripted::replying(OK);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("routes");
        let line = |address: SocketAddr| {
            let options = "rate=1/h burst=1 by=route retries=0";
            format!("route add s / http://{address}/ opts \"{options}\"\n")
        };
        // It takes the request, and ends without a word once it is not in the table any more.
        let (send, receive) = std::sync::mpsc::channel::<()>();
        let receive = std::sync::Mutex::new(receive);
        let leaving = Scripted::start(move |visit| {
            if visit.request().is_some() {
                let _ = receive.lock().unwrap().recv();
                visit.finish();
            }
        });
        std::fs::write(&file, line(leaving.address)).unwrap();
        let lb = Lb::start(&format!(
            "routes_file = {file:?}\n[admin]\naddress = \"127.0.0.1:0\"\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\n"
        ));
        lb.wait_ready();
        let told = std::thread::scope(|scope| {
            let told = scope.spawn(|| protocol.get(&lb, "/", &[]));
            wait_until("the request", || leaving.requests() == 1);
            std::fs::write(&file, line(good.address)).unwrap();
            let there = good.address.to_string();
            lb.wait_admin("/api/routes", "the change", |body| body.contains(&there));
            send.send(()).unwrap();
            told.join().unwrap()
        });
        assert_eq!((told.status, good.requests()), (200, 1), "{protocol:?}");
        assert_eq!(protocol.get(&lb, "/", &[]).status, 429);
    }
}

/// Where routes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Static,
    Text,
    File,
    Tags,
    Keys,
}

/// Each option, on a route of its own: place, options, and what a GET of it shows.
const OPTIONS: [(&str, &str, u16); 17] = [
    ("/closed", "inflight=x", 503),
    ("/maxbody", "maxbody=1", 200),
    ("/set", "sethdr=X-A:a%20b%3a delhdr=X-B", 200),
    ("/told", "setresphdr=X-C:c%20d delresphdr=Content-Type", 200),
    ("/policy", "policy=p", 200),
    ("/nothing", "policy=none", 503),
    ("/auth", "auth=main", 401),
    ("/both", "auth=main policy=p", 401),
    ("/method", "method=POST", 404),
    ("/header", "header=X-Q:a%20b*", 200),
    ("/other", "header=X-Q:c", 404),
    ("/query", "query=v:1%2B1", 200),
    ("/exact", "path=exact priority=3", 404),
    ("/shut", "deny=ip:127.0.0.0/8", 403),
    ("/retries", "retries=0 timeout=5s", 200),
    ("/cut", "strip=/cut prepend=/to", 200),
    ("/rate", "rate=1/h burst=1 by=header:X-B", 200),
];

#[test]
fn every_source_of_routes_carries_out_every_option() {
    let folder = tempfile::tempdir().unwrap();
    let users = users(folder.path(), "users", &["ann"]);
    let upstream = Upstream::start("u");
    for source in [
        Source::Static,
        Source::Text,
        Source::File,
        Source::Tags,
        Source::Keys,
    ] {
        let fake = fake_consul();
        let lines: String = OPTIONS
            .iter()
            .map(|(place, options, _)| {
                format!(
                    "route add s {place} http://{}/ opts \"{options}\"\n",
                    upstream.address
                )
            })
            .collect();
        let consul = format!("[consul]\naddress = \"{}\"\n", fake.url());
        // The limit of what tags may carry is one of tags alone.
        let none = "[tags]\nallow = []\n";
        let more = match source {
            Source::Static => {
                let route = |(place, options, _): &(&str, &str, u16)| {
                    format!(
                        "[[static.route]]\nservice = \"s\"\nsource = \"{place}\"\n\
                         targets = [\"http://{}\"]\noptions = \"{options}\"\n",
                        upstream.address
                    )
                };
                // What cannot be read there is a mistake of the configuration.
                let routes = OPTIONS.iter().filter(|(place, ..)| *place != "/closed");
                none.to_owned() + &routes.map(route).collect::<String>()
            }
            Source::Text => format!("routes = \'\'\'\n{lines}\'\'\'\n{none}"),
            Source::File => {
                let file = folder.path().join("routes");
                std::fs::write(&file, &lines).unwrap();
                format!("routes_file = {file:?}\n{none}")
            }
            Source::Tags => {
                let tag = |(place, options, _): &(&str, &str, u16)| {
                    format!("urlprefix-{place} {options}")
                };
                fake.set_tags("s", &OPTIONS.iter().map(tag).collect::<Vec<_>>());
                fake.set("s", &[upstream.address.port()]);
                consul
            }
            Source::Keys => {
                fake.set_key("lb/routes", &lines);
                format!("{consul}kv_path = \"lb/routes\"\n{none}")
            }
        };
        let policies = format!(
            "[auth.main]\nfile = {users}\n[policy.p]\nresponse_headers = {{ set = {{ X-P = \"1\" }} }}\n\
             rewrite = [{{ from = \"^/policy\", to = \"/rewritten\" }}]\n"
        );
        let lb = router(&[], &(more + &policies));
        let fields = [("x-q", "a bcd"), ("x-b", "1")];
        for protocol in PROTOCOLS {
            for (place, options, status) in OPTIONS {
                if (source, place) == (Source::Static, "/closed") {
                    continue;
                }
                let told = protocol.get(&lb, &format!("{place}/x?v=1%2b1"), &fields);
                let again = place == "/rate" && protocol != PROTOCOLS[0];
                let status = if again { 429 } else { status };
                let what = format!("{source:?} {protocol:?} {options}: {told:?}");
                assert_eq!(told.status, status, "{what}");
                if status != 200 {
                    continue;
                }
                let body: serde_json::Value = serde_json::from_str(&told.body).expect(&what);
                let (path, fields) = (body["path"].to_string(), body["headers"].to_string());
                match place {
                    "/set" => assert!(fields.contains("a b:") && !fields.contains("x-b"), "{what}"),
                    "/told" => {
                        assert_eq!(told.field("x-c"), Some("c d"), "{what}");
                        assert_eq!(told.field("content-type"), None, "{what}");
                    }
                    "/policy" => {
                        assert_eq!(told.field("x-p"), Some("1"), "{what}");
                        assert!(path.contains("/rewritten/x"), "{what}");
                    }
                    "/cut" => assert!(path.contains("/to/x"), "{what}"),
                    _ => {}
                }
            }
            let post = protocol.ask(&lb, "POST", "/method/x", &[]);
            assert_eq!(post.status, 200, "{source:?} {protocol:?}");
            assert_eq!(protocol.get(&lb, "/exact", &[]).status, 200, "{source:?}");
        }
        let mut client = RawClient::connect(lb.address("http"));
        client.send("POST /maxbody HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab");
        assert_eq!(
            client.response().expect("a response").status,
            413,
            "{source:?}"
        );
        let explained = lb.admin("/api/explain?url=http://x/both").1;
        assert!(
            explained.contains("policy=p") && explained.contains("auth=main"),
            "{explained}"
        );
    }
}

#[test]
fn a_tag_with_an_option_that_may_not_stand_there_is_told_everywhere() {
    let upstream = Upstream::start("u");
    let fake = fake_consul();
    let tags = ["urlprefix-/good strip=/x", "urlprefix-/bad sethdr=A:1"];
    fake.set_tags("s", &tags.map(str::to_owned));
    fake.set("s", &[upstream.address.port()]);
    let lb = router(
        &[],
        &format!(
            "[consul]\naddress = \"{}\"\n[tags]\nallow = [\"strip\"]\n",
            fake.url()
        ),
    );
    assert_eq!(Protocol::Http11.get(&lb, "/good", &[]).status, 200);
    assert_eq!(Protocol::Http11.get(&lb, "/bad", &[]).status, 404);
    let reason = "option `sethdr` is not one that tags may carry";
    lb.wait_for_line("the reason", |line| line.contains(reason));
    for place in ["/api/services", "/api/explain?url=http://x/bad", "/"] {
        let told = lb.admin(place).1;
        assert!(
            told.contains(reason) || told.contains("option &#96;sethdr"),
            "{place}: {told}"
        );
    }
    assert_eq!(
        lb.metric("lb_registry_rejected_tags{service=\"s\"}"),
        Some(1.0)
    );
}

#[test]
fn responses_made_while_no_instance_may_serve_follow_the_route() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("sorry.html");
    std::fs::write(&page, "<p>back soon").unwrap();
    let fake = fake_consul();
    fake.set_tags("s", &["urlprefix-/s policy=p".to_owned()]);
    fake.set("s", &[9]);
    fake.set_critical("s");
    let lb = router(
        &[],
        &format!(
            "[consul]\naddress = \"{}\"\n[policy.p]\nerror_pages = {{ \"5xx\" = {page:?} }}\n\
             cors = {{ origins = [\"*\"] }}\n",
            fake.url()
        ),
    );
    for protocol in PROTOCOLS {
        let told = protocol.get(&lb, "/s", &[("origin", "https://a.test")]);
        assert_eq!(
            (told.status, &*told.body),
            (503, "<p>back soon"),
            "{protocol:?}"
        );
        assert_eq!(told.field("access-control-allow-origin"), Some("*"));
        assert!(told.field("retry-after").is_some());
        let told = protocol.get(&lb, "/s", &[("content-type", "application/grpc")]);
        assert_eq!((told.status, told.field("grpc-status")), (200, Some("14")));
    }
}

#[test]
fn a_service_that_decides_is_called_once_for_a_request_whose_body_comes_late() {
    let upstream = Scripted::replying(OK);
    let service = WebServer::start(|_| (200, Vec::new()));
    let lb = router(
        &[("/", &[upstream.address], "auth=sso")],
        &format!(
            "[auth.sso]\ntype = \"external\"\nendpoint = \"http://{}/\"\n",
            service.address
        ),
    );
    let mut client = RawClient::connect(lb.address("http"));
    for number in 1..=3 {
        client.send(
            "POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n",
        );
        assert_eq!(client.response().expect("a response").status, 100);
        client.send("body");
        assert_eq!(client.response().expect("a response").status, 200);
        assert_eq!(service.seen().len(), number);
    }
}

#[test]
fn instances_that_speak_http2_meet_the_same_policies() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("sorry.html");
    std::fs::write(&page, "<p>sorry").unwrap();
    let upstream = Upstream::start("u");
    let lb = router(
        &[("/", &[upstream.address], "proto=h2c policy=p")],
        &format!(
            "[policy.p]\nerror_pages = {{ \"503\" = {page:?} }}\ncors = {{ origins = [\"*\"] }}\n\
             rewrite = [{{ from = \"^/old/\", to = \"/new/\" }}]\n[proxy]\nworkers = 1\n"
        ),
    );
    for protocol in PROTOCOLS {
        upstream.set_status(503);
        for (method, body) in [("GET", "<p>sorry"), ("HEAD", ""), ("GET", "<p>sorry")] {
            let told = protocol.ask(&lb, method, "/old/x?y", &[("origin", "https://a.test")]);
            assert_eq!(
                (told.status, &*told.body),
                (503, body),
                "{protocol:?} {method}"
            );
            assert_eq!(
                told.field("content-length"),
                Some("8"),
                "{protocol:?} {method}"
            );
            assert_eq!(told.field("access-control-allow-origin"), Some("*"));
        }
        upstream.set_status(200);
        let told = protocol.get(&lb, "/old/x?y", &[]);
        assert_eq!(told.status, 200);
        assert!(told.body.contains("/new/x?y"), "{told:?}");
    }
    // A stream that is given up costs the others nothing.
    assert_eq!(upstream.connections(), 1);
}
