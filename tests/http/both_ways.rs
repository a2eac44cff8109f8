//! The direct exchange beside hyper's way: the same requests and the same answers through both, and nobody on either side
//! may tell which one it was.

use std::sync::{Arc, Mutex};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::stand::{Scripted, router};
use crate::support::client::{RawClient, RawResponse};
use crate::support::lb::Lb;

/// Answers as an upstream writes them. `{close}`: it closes behind it.
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

/// Requests; `{n}` names the answer.
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
const RULES: [&str; 4] = [
    "forwarded_host = \"sent\"",
    "tls_header = \"X-Gone\"\nlocal_ip = \"192.0.2.9\"",
    "tls_header = \"X-Forwarded-Port\"\ntls_header_value = \"1\"",
    "request_id_header = \"X-Client\"",
];

/// Where the upstream puts what it got.
type Log = Arc<Mutex<Vec<String>>>;

/// One of both: the router, and what its upstream got.
struct Way {
    lb: Lb,
    log: Log,
    upstream: Scripted,
}

impl Way {
    fn new(direct: bool, rules: &str) -> Self {
        let log = Log::default();
        let seen = Arc::clone(&log);
        let upstream = Scripted::start(move |visit| {
            while let Some(head) = visit.head() {
                let length = field(&head, "content-length").map_or(0, |length| length.parse().unwrap());
                let body = match field(&head, "transfer-encoding") {
                    // The one chunked body of this corpus, as hyper cuts it.
                    Some(_) => visit.exactly("3\r\nabc\r\n0\r\n\r\n".len()).unwrap_or_default(),
                    None => visit.exactly(length).unwrap_or_default(),
                };
                seen.lock().unwrap().push(normal_request(&head, &body));
                let path = head.split(' ').nth(1).unwrap_or("");
                let path = path.split('?').next().unwrap_or("");
                let digits: String = path.chars().filter(char::is_ascii_digit).collect();
                let number: usize = digits.parse().unwrap_or(0);
                let answer = ANSWERS[number % ANSWERS.len()];
                // Latin-1, as fields are allowed to be.
                let bytes = |text: &str| text.chars().map(|letter| letter as u8).collect::<Vec<u8>>();
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
            "[proxy]\nworkers = 1\ndirect = {direct}\nclient_ip_header = \"X-Client\"\n{rules}\n\
             [retry]\nattempts = 1\n[health]\neject_after = 0\n"
        );
        Self { lb: router(&routes, &settings), log, upstream }
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

    /// What the upstream got, and what a client of HTTP/2 did: over one connection, a request with each of these fields. None:
    /// no whole answer.
    fn talk_h2(&self, method: &str, uri: &str, requests: &[&[(&str, &str)]]) -> (Vec<String>, Vec<Option<Shown>>) {
        self.log.lock().unwrap().clear();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answers = runtime.block_on(async {
            let io = TokioIo::new(tokio::net::TcpStream::connect(self.lb.address("http")).await.unwrap());
            let (mut client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            let mut answers = Vec::new();
            for fields in requests {
                let request = Request::builder().method(method).uri(uri);
                let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
                client.ready().await.unwrap();
                let answer = client.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await;
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
        self.log.lock().unwrap().iter().map(|request| request.replace(&port, "its port")).collect()
    }
}

fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
}

/// Names in lower case, in order of the alphabet; what differs between two routers by nature, put in words.
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

/// An answer as it is compared.
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
            // Made here, unless it is the one that an answer of this corpus has.
            if name == "date" && !value.contains("1994") {
                "now".clone_into(value);
            }
        }
        // Of an answer without a body hyper takes away the length and the names of trailers that it would have had.
        headers.retain(|(name, _)| !(answer.status == 304 && name == "content-length"));
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
                (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            };
            map.iter().map(pair).collect::<Vec<_>>()
        };
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.ok()?;
        let trailers = body.trailers().map(pairs).unwrap_or_default();
        let (status, headers) = (parts.status.as_u16(), pairs(&parts.headers));
        let body = body.to_bytes().to_vec();
        Some(Self::of(RawResponse { status, headers, body, trailers }))
    }

    fn of_head(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let head = text.split("\r\n\r\n").next().unwrap_or("");
        let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        let headers = headers.filter(|(name, _)| name != "trailer").collect();
        // Behind an interim answer the final one: of that only that it has no body either.
        let body = text.split_once("\r\n\r\n").map_or("", |(_, rest)| rest.rsplit("\r\n\r\n").next().unwrap_or(""));
        let body = body.to_owned();
        Self { body, ..Self::of(RawResponse { status, headers, ..RawResponse::default() }) }
    }
}

#[test]
fn nobody_can_tell_which_way_it_went() {
    let carried = compare("", ANSWERS);
    assert!(carried > 1_000, "{carried} requests reached the upstream");
}

#[test]
fn nor_with_other_rules_for_header_fields() {
    for rules in RULES.into_iter().chain(["fall_through = true"]) {
        assert!(compare(rules, &ANSWERS[..2]) > 40);
    }
}

/// Requests without a body of clients that speak HTTP/2 take the direct way to the upstream, too.
#[test]
fn nor_can_a_client_of_http2() {
    let (direct, library) = (Way::new(true, ""), Way::new(false, ""));
    let mut differences = Vec::new();
    let mut carried = 0;
    for method in ["GET", "HEAD", "DELETE", "POST"] {
        for (number, answer) in ANSWERS.iter().enumerate() {
            // See `compare`.
            if method == "HEAD" && (answer.matches("Content-Length").count() > 1 || answer.contains("Length: x")) {
                continue;
            }
            let uri = format!("http://h/{number}?q");
            let fields: &[_] = &[("te", "trailers"), ("cookie", "a=b"), ("cookie", "c=d")];
            let twice = [fields, fields];
            let (here, there) = (direct.talk_h2(method, &uri, &twice), library.talk_h2(method, &uri, &twice));
            if here != there {
                differences.push(format!("{method} answered by {answer:?}:\n  direct {here:?}\n  hyper  {there:?}\n"));
            }
            carried += here.0.len();
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.concat());
    assert!(carried > 200, "{carried} requests reached the upstream");
}

/// Most of them pass line by line, and some of their fields decide about others.
#[test]
fn nor_by_the_fields_of_http2() {
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
        &[("accept", "*/*"), ("user-agent", "x"), ("cookie", "a=b"), ("x-empty", "")],
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
    for rules in RULES.into_iter().chain([""]) {
        let (direct, library) = (Way::new(true, rules), Way::new(false, rules));
        let mut carried = 0;
        for method in ["GET", "POST"] {
            for uri in URIS {
                let (here, there) = (direct.talk_h2(method, uri, &FIELDS), library.talk_h2(method, uri, &FIELDS));
                assert_eq!(here, there, "{rules} {method} {uri}");
                carried += here.0.len();
            }
        }
        assert!(carried > 80, "{carried} requests reached the upstream");
    }
}

/// How many requests reached the upstream.
fn compare(rules: &str, answers: &[&str]) -> usize {
    let (direct, library) = (Way::new(true, rules), Way::new(false, rules));
    let mut carried = 0;
    let mut differences = Vec::new();
    for request in REQUESTS {
        for (number, answer) in answers.iter().enumerate() {
            let request = request.replace("{n}", &number.to_string());
            // Of a length that frames nothing hyper takes any; here it is an answer that cannot be trusted.
            if request.starts_with("HEAD")
                && (answer.matches("Content-Length").count() > 1 || answer.contains("Length: x"))
            {
                continue;
            }
            // A second request on the same connection finds out whether both agree where the first answer ended.
            let twice = !answer.ends_with("{close}");
            let mut here = direct.talk(&request, twice);
            let there = library.talk(&request, twice);
            if !request.contains("TE: trailers") {
                // hyper leaves them out for whoever did not ask for them; passing them on is as good.
                here.1.iter_mut().flatten().for_each(|answer| answer.trailers.clear());
            }
            if here != there {
                differences
                    .push(format!("{request:?} answered by {answer:?}:\n  direct {here:?}\n  hyper  {there:?}\n"));
            }
            carried += here.0.len();
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.concat());
    carried
}
