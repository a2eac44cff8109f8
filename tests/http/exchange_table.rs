//! Requests by responses: what an instance gets, and what a client does, for each pair, held to a
//! record (`exchange_table.txt`). `LB_TEST_WRITE=1` writes it anew: then read what changed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::harness::{Scripted, router};
use crate::support::client::{RawClient, RawResponse};
use crate::support::lb::Lb;

/// Responses as an upstream writes them. `{close}`: it closes behind it.
const ANSWERS: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: x\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTrailer: X-End\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-End: yes\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nX-A: 1\r\nX-A: 2\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n\r\nuntil the end{close}",
    "HTTP/1.0 200 Fine\r\nContent-Length: 2\r\n\r\nok{close}",
    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok{close}",
    "HTTP/1.1 200 OK\r\nConnection: X-Private, keep-alive\r\nX-Private: 1\r\nKeep-Alive: 5\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nProxy-Authenticate: Basic\r\nProxy-Connection: close\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 7\r\n\r\n",
    "HTTP/1.1 301 Moved Permanently\r\nLocation: http://elsewhere/\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 404 Not Here At All\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 500 \r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 503\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\r\nX-Text: caf\u{e9} \t end \r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 200 OK\nContent-Length: 2\nX: y\n\nok",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokmore than was said",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok{close}",
    "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nok{close}",
    "HTTP/1.1 200 OK\r\n folded\r\nContent-Length: 2\r\n\r\nok{close}",
    "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort{close}",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel{close}",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n{close}",
    "SSH-2.0-OpenSSH_9.2\r\n{close}",
    "{close}",
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n{close}",
];

/// Requests; `{n}` names the response.
const REQUESTS: &[&str] = &[
    "GET /{n} HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /{n}?a=b&c=%20d HTTP/1.1\r\nhost:h:8080 \r\nAccept: */*\r\nX-Empty:\r\nX-Tab:\ta\t\r\n\r\n",
    "GET /x/../{n} HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /%7{n}?q HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /s/{n}?own=1 HTTP/1.1\r\nHost: strip.h\r\n\r\n",
    "GET /{n} HTTP/1.1\r\nHost: target.h\r\n\r\n",
    "GET /{n} HTTP/1.1\r\nHost: name.h\r\nX-Forwarded-Port: 1\r\n\r\n",
    "HEAD /{n} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    "POST /{n} HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Type: text/plain\r\n\r\nabc",
    "POST /{n} HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
    "PATCH /{n} HTTP/1.1\r\nHost: h\r\n\r\n",
    "PUT /{n} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "DELETE /{n} HTTP/1.1\r\nHost: h\r\nCookie: a=b\r\nCookie: c=d\r\n\r\n",
    "GET /{n} HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.2\r\nX-Real-Ip: 1\r\n\r\n",
    "GET /{n} HTTP/1.1\r\nHost: h\r\nX-Forwarded-Proto: https\r\n\r\n",
    "GET /{n} HTTP/1.1\r\nHost: h\r\nForwarded: for=192.0.2.1;proto=https\r\n\r\n",
    "GET /{n} HTTP/1.1\r\nHost: h\r\nX-Forwarded-Host: other\r\nX-Forwarded-Prefix: /p\r\n\r\n",
    "GET /{n} HTTP/1.1\r\nHost: h\r\nConnection: X-Gone, keep-alive\r\nX-Gone: 1\r\nKeep-Alive: 3\r\nTE: trailers\r\n\r\n",
    "GET /{n} HTTP/1.1\r\nHost: h\r\nProxy-Authorization: x\r\nProxy-Connection: keep-alive\r\nX-Client: forged\r\n\r\n",
    "GET /{n} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-Request-Id: forged\r\n\r\n",
    "GET /{n} HTTP/1.0\r\nHost: h\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET http://h/{n} HTTP/1.1\r\nHost: other\r\n\r\n",
    "GET /{n} HTTP/1.1\r\nHost: nobody\r\n\r\n",
    "GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /{n}\"<> HTTP/1.1\r\nHost: h\r\n\r\n",
    "BREW /{n} HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET /{n} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    "GET /{n} HTTP/1.1\r\nHost: denied.h\r\n\r\n",
    "GET /{n} HTTP/1.1\r\nHost: moved.h\r\n\r\n",
];

/// Rules for header fields, the last of them with names that we write anyway.
const RULES: [&str; 3] = [
    "forwarded_host = \"sent\"",
    "tls_header = \"X-Gone\"\nlocal_ip = \"192.0.2.9\"",
    "tls_header = \"X-Forwarded-Port\"\ntls_header_value = \"1\"",
];

/// Where the upstream puts what it got.
type Log = Arc<Mutex<Vec<String>>>;

/// The router, and what its upstream got.
struct Stand {
    lb: Lb,
    log: Log,
    upstream: Scripted,
}

impl Stand {
    fn new(rules: &str) -> Self {
        let log = Log::default();
        let seen = Arc::clone(&log);
        let upstream = Scripted::start(move |visit| {
            while let Some(head) = visit.head() {
                let length =
                    field(&head, "content-length").map_or(0, |length| length.parse().unwrap());
                let body = match field(&head, "transfer-encoding") {
                    // The one chunked body of this corpus, as hyper cuts it.
                    Some(_) => visit
                        .exactly("3\r\nabc\r\n0\r\n\r\n".len())
                        .unwrap_or_default(),
                    None => visit.exactly(length).unwrap_or_default(),
                };
                seen.lock().unwrap().push(normal_request(&head, &body));
                let path = head.split(' ').nth(1).unwrap_or("");
                let path = path.split('?').next().unwrap_or("");
                let digits: String = path.chars().filter(char::is_ascii_digit).collect();
                let number: usize = digits.parse().unwrap_or(0);
                let answer = ANSWERS[number % ANSWERS.len()];
                // Latin-1, as fields are allowed to be.
                let bytes =
                    |text: &str| text.chars().map(|letter| letter as u8).collect::<Vec<u8>>();
                match answer.strip_suffix("{close}") {
                    Some(answer) => {
                        visit.send(bytes(answer));
                        return;
                    }
                    None => visit.send(bytes(answer)),
                }
            }
        });
        let at = upstream.address;
        let routes: [(&str, &[_], &str); 6] = [
            ("h/", &[at], ""),
            ("strip.h/s", &[at], "strip=/s prepend=/p"),
            ("target.h/", &[at], "host=dst"),
            ("name.h/", &[at], "host=renamed"),
            ("denied.h/", &[at], "deny=ip:127.0.0.0/8"),
            ("moved.h/", &[at], "redirect=302,http://there$path"),
        ];
        let settings = format!(
            "[proxy]\nworkers = 1\nclient_ip_header = \"X-Client\"\ntrusted_proxies = [\"127.0.0.1\"]\nclient_address = \"peer\"\n{rules}\n\
             [retry]\nattempts = 1\n[health]\neject_after = 0\n"
        );
        Self {
            lb: router(&routes, &settings),
            log,
            upstream,
        }
    }

    /// What the upstream got, and what the client did, twice over one connection as far as it goes.
    fn talk(&self, request: &str, twice: bool) -> (Vec<String>, Vec<Option<Shown>>) {
        self.log.lock().unwrap().clear();
        let mut client = RawClient::connect(self.lb.address("http"));
        let head_only = request.starts_with("HEAD");
        let mut answers = Vec::new();
        for _ in 0..if twice && !head_only { 2 } else { 1 } {
            client.send(request);
            if head_only {
                answers.push(Some(Shown::of_head(&client.rest())));
                break;
            }
            loop {
                let answer = client.response();
                let interim = answer.as_ref().is_some_and(|answer| answer.status < 200);
                answers.push(answer.map(Shown::of));
                if !interim {
                    break;
                }
            }
        }
        (self.seen(), answers)
    }

    /// What the upstream got, and what a client of HTTP/2 did: over one connection, a request with
    /// each of these fields. None: no whole response.
    fn talk_h2(
        &self,
        method: &str,
        uri: &str,
        requests: &[&[(&str, &str)]],
    ) -> (Vec<String>, Vec<Option<Shown>>) {
        self.log.lock().unwrap().clear();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let answers = runtime.block_on(async {
            let io = TokioIo::new(
                tokio::net::TcpStream::connect(self.lb.address("http"))
                    .await
                    .unwrap(),
            );
            let (mut client, connection) =
                http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            let mut answers = Vec::new();
            for fields in requests {
                let request = Request::builder().method(method).uri(uri);
                let request = fields.iter().fold(request, |request, (name, value)| {
                    request.header(*name, *value)
                });
                client.ready().await.unwrap();
                let answer = client
                    .send_request(request.body(Empty::<Bytes>::new()).unwrap())
                    .await;
                answers.push(match answer {
                    Ok(answer) => Shown::of_stream(answer).await,
                    Err(_) => None,
                });
            }
            answers
        });
        (self.seen(), answers)
    }

    fn seen(&self) -> Vec<String> {
        // `host=dst` is the address of this way's own upstream.
        let port = self.upstream.address.port().to_string();
        self.log
            .lock()
            .unwrap()
            .iter()
            .map(|request| request.replace(&port, "its port"))
            .collect()
    }
}

fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// Names in lower case, in order of the alphabet; what differs between two routers by nature, put
/// in words.
fn normal_request(head: &str, body: &str) -> String {
    let mut lines = head.trim_end().lines();
    let first = lines.next().unwrap_or("");
    let mut fields: Vec<String> = lines
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let (name, value) = (name.to_ascii_lowercase(), value.trim());
            format!("{name}: {value}")
        })
        .collect();
    // Order matters among fields of one name alone, and a stable sort keeps it.
    fields.sort_by(|a, b| a.split(':').next().cmp(&b.split(':').next()));
    format!("{first}\n{}\n\n{body}", fields.join("\n"))
}

/// A response as it is compared.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
    trailers: Vec<(String, String)>,
}

impl Shown {
    fn of(answer: RawResponse) -> Self {
        let mut headers = answer.headers;
        for (name, value) in &mut headers {
            // Made here, unless it is the one that a response of this corpus has.
            if name == "date" && !value.contains("1994") {
                "now".clone_into(value);
            }
        }
        headers.sort_by(|a, b| a.0.cmp(&b.0));
        Self {
            status: answer.status,
            headers,
            body: String::from_utf8_lossy(&answer.body).into_owned(),
            trailers: answer.trailers,
        }
    }

    async fn of_stream(answer: Response<Incoming>) -> Option<Self> {
        let pairs = |map: &HeaderMap| {
            let pair = |(name, value): (&HeaderName, &HeaderValue)| {
                (
                    name.to_string(),
                    String::from_utf8_lossy(value.as_bytes()).into_owned(),
                )
            };
            map.iter().map(pair).collect::<Vec<_>>()
        };
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.ok()?;
        let trailers = body.trailers().map(pairs).unwrap_or_default();
        let (status, headers) = (parts.status.as_u16(), pairs(&parts.headers));
        let body = body.to_bytes().to_vec();
        Some(Self::of(RawResponse {
            status,
            headers,
            body,
            trailers,
        }))
    }

    fn of_head(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let status = text
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or(0);
        let head = text.split("\r\n\r\n").next().unwrap_or("");
        let headers = head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "));
        let headers =
            headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        let headers = headers.filter(|(name, _)| name != "trailer").collect();
        // Behind an interim response the final one: of that only that it has no body either.
        let body = text
            .split_once("\r\n\r\n")
            .map_or("", |(_, rest)| rest.rsplit("\r\n\r\n").next().unwrap_or(""));
        let body = body.to_owned();
        Self {
            body,
            ..Self::of(RawResponse {
                status,
                headers,
                ..RawResponse::default()
            })
        }
    }
}

/// Outcomes, and what had each of them: most pairs share theirs with many others.
#[derive(Default)]
struct Record {
    outcomes: BTreeMap<String, Vec<String>>,
}

impl Record {
    fn add(&mut self, outcome: String, what: String) {
        self.outcomes.entry(outcome).or_default().push(what);
    }

    fn text(&self, title: &str) -> String {
        let mut text = format!("# {title}\n");
        // In the order of what came first, not of what it says.
        let mut all: Vec<_> = self.outcomes.iter().collect();
        all.sort_by_key(|(_, whose)| whose[0].clone());
        for (outcome, whose) in all {
            let _ = write!(text, "\n[{}]\n{outcome}\n", whose.join(" "));
        }
        text
    }
}

impl Shown {
    /// One line for a client's side.
    fn line(this: Option<&Self>) -> String {
        let Some(this) = this else {
            return "nothing whole".to_owned();
        };
        let fields = |pairs: &[(String, String)]| {
            pairs
                .iter()
                .map(|(name, value)| format!("{name}: {value}"))
                .collect::<Vec<_>>()
                .join(" | ")
        };
        let trailers = if this.trailers.is_empty() {
            String::new()
        } else {
            format!(" +{}", fields(&this.trailers))
        };
        format!(
            "{} {{{}}} {:?}{trailers}",
            this.status,
            fields(&this.headers),
            this.body
        )
    }
}

fn lines(answers: &[Option<Shown>]) -> String {
    answers
        .iter()
        .map(|answer| Shown::line(answer.as_ref()))
        .collect::<Vec<_>>()
        .join("\n")
}

/// What each request of HTTP/1 comes to with each response.
fn table_of_h1(rules: &str, answers: &[&str]) -> (String, usize) {
    let stand = Stand::new(rules);
    let (mut upstream, mut client, mut carried) = (Record::default(), Record::default(), 0);
    for (at, request) in REQUESTS.iter().enumerate() {
        for (number, answer) in answers.iter().enumerate() {
            let request = request.replace("{n}", &number.to_string());
            // A second request on the same connection finds out where the first response ended.
            let (seen, got) = stand.talk(&request, !answer.ends_with("{close}"));
            carried += seen.len();
            let seen = seen.join("\n--\n").replace(&format!("/{number}"), "/{n}");
            upstream.add(seen, format!("{at:02}x{number:02}"));
            client.add(lines(&got), format!("{number:02}x{at:02}"));
        }
    }
    (
        upstream.text("what the instance got") + "\n" + &client.text("what the client got"),
        carried,
    )
}

/// The same for clients of HTTP/2, on one connection for each method and response.
fn table_of_h2() -> (String, usize) {
    let stand = Stand::new("");
    let (mut upstream, mut client, mut carried) = (Record::default(), Record::default(), 0);
    for method in ["GET", "HEAD", "DELETE", "POST"] {
        for (number, _) in ANSWERS.iter().enumerate() {
            let fields: &[_] = &[("te", "trailers"), ("cookie", "a=b"), ("cookie", "c=d")];
            let (seen, got) =
                stand.talk_h2(method, &format!("http://h/{number}?q"), &[fields, fields]);
            carried += seen.len();
            let seen = seen.join("\n--\n").replace(&format!("/{number}"), "/{n}");
            upstream.add(seen, format!("{method}x{number:02}"));
            client.add(lines(&got), format!("{number:02}x{method}"));
        }
    }
    (
        upstream.text("what the instance got") + "\n" + &client.text("what the client got"),
        carried,
    )
}

/// What becomes of the fields of HTTP/2: most pass line by line, and some of them decide about
/// others.
fn table_of_fields(rules: &str) -> String {
    let stand = Stand::new(rules);
    let mut upstream = Record::default();
    for method in ["GET", "POST"] {
        for (number, uri) in URIS.iter().enumerate() {
            let (seen, _) = stand.talk_h2(method, uri, &FIELDS);
            for (at, seen) in seen.into_iter().enumerate() {
                upstream.add(seen, format!("{method}x{number}x{at:02}"));
            }
        }
    }
    upstream.text("what the instance got")
}

const URIS: [&str; 7] = [
    "http://h/0",
    "http://h:8080/0?q=%20",
    "http://h/a/../0",
    "http://strip.h/s/0?own=1",
    "http://target.h/0",
    "http://name.h:81/0",
    "http://denied.h/0",
];

const FIELDS: [&[(&str, &str)]; 12] = [
    &[],
    &[
        ("accept", "*/*"),
        ("user-agent", "x"),
        ("cookie", "a=b"),
        ("x-empty", ""),
    ],
    &[("x-same", "1"), ("x-same", "2"), ("content-length", "0")],
    &[("cookie", "a=b"), ("cookie", "c=d")],
    &[("te", "trailers")],
    &[("x-forwarded-for", "192.0.2.1"), ("x-real-ip", "1")],
    &[("x-forwarded-proto", "https")],
    &[("forwarded", "for=192.0.2.1;proto=https")],
    &[("x-forwarded-host", "other"), ("x-forwarded-port", "1")],
    &[("x-forwarded-prefix", "/p")],
    &[("x-client", "forged"), ("x-gone", "1"), ("x-id", "forged")],
    &[("host", "h"), ("proxy-authorization", "x")],
];

/// Holds one table to its record.
fn hold(name: &str, text: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/http/exchange_table")
        .join(name);
    if std::env::var_os("LB_TEST_WRITE").is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let recorded = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = recorded
        .lines()
        .zip(text.lines())
        .position(|(there, here)| there != here);
    let at = differs.unwrap_or(recorded.lines().count().min(text.lines().count()));
    let shown = |text: &str| {
        text.lines()
            .skip(at.saturating_sub(3))
            .take(8)
            .collect::<Vec<_>>()
            .join("\n  ")
    };
    assert!(
        recorded == text,
        "{} differs from line {}: recorded\n  {}\nseen\n  {}\nLB_TEST_WRITE=1 writes it anew",
        path.display(),
        at + 1,
        shown(&recorded),
        shown(text)
    );
}

#[test]
fn every_request_comes_to_what_is_recorded() {
    let (text, carried) = table_of_h1("", ANSWERS);
    assert!(carried > 1_000, "{carried} requests reached the upstream");
    hold("h1.txt", &text);
}

#[test]
fn other_rules_for_header_fields_change_what_is_recorded_for_them() {
    for (number, rules) in RULES.into_iter().enumerate() {
        let (text, carried) = table_of_h1(rules, &ANSWERS[..2]);
        assert!(carried > 40, "{rules}: {carried}");
        hold(&format!("h1_rules_{number}.txt"), &text);
        hold(&format!("h2_fields_{number}.txt"), &table_of_fields(rules));
    }
}

#[test]
fn clients_of_http2_get_what_is_recorded() {
    let (text, carried) = table_of_h2();
    assert!(carried > 200, "{carried} requests reached the upstream");
    hold("h2.txt", &text);
}
