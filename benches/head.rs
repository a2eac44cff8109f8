//! The cost of message heads: what reading one and writing it anew for the other side takes.
//!
//! | head | is |
//! |---|---|
//! | `usual` | what a program sends, with four fields |
//! | `browser` | what a browser sends, with 20 fields, a cookie among them |
//! | `proxied` | `usual` behind another proxy: its forwarding fields make ours, so all go through a map |
//!
//! Bytes and lists are used again from one head to the next, as on a worker.
#![allow(missing_docs, reason = "criterion's macros make public items")]

#[path = "shared/exchange.rs"]
mod exchange;

use std::hint::black_box;
use std::sync::{Arc, LazyLock};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use exchange::{client, settings, target};
use http::Method;
use lb::config::ProxyConfig;
use lb::proxy::http::h1::request_head::{self, RequestHead};
use lb::proxy::http::h1::response_head::{self, ResponseHead};
use lb::proxy::http::h1::scan::Field;
use lb::proxy::http::h1::syntax::Limits;
use lb::proxy::http::h1::write_head::{
    ClientLines, Fate, Outbound, Telling, put_request, put_response,
};
use lb::proxy::http::head::{Content, Head};
use lb::proxy::http::path::{NormalPath, normalise};

const USUAL: &str = "GET /api/orders/17?full=1 HTTP/1.1\r\n\
    Host: shop.example.com\r\n\
    User-Agent: orders/2.4\r\n\
    Accept: application/json\r\n\
    Accept-Encoding: gzip\r\n\r\n";

const BROWSER: &str = "GET /catalog/shoes/running?colour=blue&page=3 HTTP/1.1\r\n\
    Host: www.shop.example.com\r\n\
    Connection: keep-alive\r\n\
    Cache-Control: max-age=0\r\n\
    sec-ch-ua: \"Browser\";v=\"140\", \"Engine\";v=\"140\", \"Other\";v=\"24\"\r\n\
    sec-ch-ua-mobile: ?0\r\n\
    sec-ch-ua-platform: \"Linux\"\r\n\
    DNT: 1\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) Engine/537.36 (like others) Browser/140.0.0.0 Safe/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Sec-Fetch-User: ?1\r\n\
    Sec-Fetch-Dest: document\r\n\
    Referer: https://www.shop.example.com/catalog/shoes\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Cookie: session=7b0c5a4f1e9d4c3e8a6f; consent=all; basket=3f2a91; theme=dark; seen=shoes%2Crunning%2Cblue\r\n\
    If-None-Match: W/\"5f3a-18c7e2b4d90\"\r\n\
    Priority: u=0, i\r\n\r\n";

const PROXIED: &str = "GET /api/orders/17?full=1 HTTP/1.1\r\n\
    Host: shop.example.com\r\n\
    User-Agent: orders/2.4\r\n\
    Accept: application/json\r\n\
    X-Forwarded-For: 203.0.113.7\r\n\
    X-Forwarded-Proto: https\r\n\r\n";

const SMALL_ANSWER: &str = "HTTP/1.1 200 OK\r\n\
    Content-Type: application/json\r\n\
    Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
    Content-Length: 64\r\n\r\n";

const PAGE_ANSWER: &str = "HTTP/1.1 200 OK\r\n\
    Server: shop\r\n\
    Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
    Content-Type: text/html; charset=utf-8\r\n\
    Transfer-Encoding: chunked\r\n\
    Connection: keep-alive\r\n\
    Vary: Accept-Encoding\r\n\
    ETag: W/\"5f3a-18c7e2b4d91\"\r\n\
    Cache-Control: private, max-age=0, must-revalidate\r\n\
    Content-Security-Policy: default-src 'self'; img-src 'self' data:; frame-ancestors 'none'\r\n\
    X-Content-Type-Options: nosniff\r\n\
    Referrer-Policy: strict-origin-when-cross-origin\r\n\
    Set-Cookie: session=7b0c5a4f1e9d4c3e8a6f; Path=/; HttpOnly; Secure; SameSite=Lax\r\n\r\n";

const REQUESTS: [(&str, &str); 3] = [("usual", USUAL), ("browser", BROWSER), ("proxied", PROXIED)];
const ANSWERS: [(&str, &str); 2] = [("small", SMALL_ANSWER), ("page", PAGE_ANSWER)];

/// As by default.
static LIMITS: LazyLock<Limits> = LazyLock::new(|| Limits::new(&ProxyConfig::default()));

fn request(text: &str, fields: &mut Vec<Field>) -> RequestHead {
    match request_head::parse(text.as_bytes(), *LIMITS, fields) {
        request_head::Parsed::Whole(head) => head,
        other => panic!("not carried: {other:?}"),
    }
}

fn answer(text: &str, fields: &mut Vec<Field>) -> ResponseHead {
    match response_head::parse(text.as_bytes(), &Method::GET, fields) {
        response_head::Parsed::Whole(head) => head,
        other => panic!("no response: {other:?}"),
    }
}

fn requests(c: &mut Criterion) {
    let settings = Arc::new(settings());
    let client = client();
    let lines = ClientLines::new(&settings, &client, http::Version::HTTP_11);
    let target = target();
    let mut fields = Vec::new();
    assert_eq!(
        (request(BROWSER, &mut fields).mapped, fields.len()),
        (false, 20)
    );
    assert!(request(PROXIED, &mut fields).mapped);

    let mut group = c.benchmark_group("head/request");
    for (name, text) in REQUESTS {
        group.bench_function(BenchmarkId::new("parse", name), |b| {
            b.iter(|| request(black_box(text), &mut fields).length);
        });
        let head = request(text, &mut fields);
        let head = Head::of_lines(text.as_bytes(), &head, &fields, Content::Whole(b""));
        let path: NormalPath<'_> = normalise(head.path(), false).expect("a usual path");
        let received = Outbound {
            head: &head,
            path: &path,
            id: None,
            granted: None,
        };
        let mut out = Vec::new();
        group.bench_function(BenchmarkId::new("rewrite", name), |b| {
            b.iter(|| {
                out.clear();
                put_request(
                    &mut out,
                    black_box(&received),
                    &settings,
                    &client,
                    &lines,
                    &target,
                )
                .expect("a target");
                out.len()
            });
        });
    }
    group.finish();
}

fn answers(c: &mut Criterion) {
    let settings = settings();
    let client = client();
    let telling = Telling {
        edits: None,
        cookie: None,
        client: &client,
        settings: &settings,
        date: "Sun, 06 Nov 1994 08:49:38 GMT",
        fate: Fate::Silent,
    };
    let mut fields = Vec::new();
    let mut group = c.benchmark_group("head/answer");
    for (name, text) in ANSWERS {
        group.bench_function(BenchmarkId::new("parse", name), |b| {
            b.iter(|| answer(black_box(text), &mut fields).length);
        });
        let head = answer(text, &mut fields);
        let mut out = Vec::new();
        group.bench_function(BenchmarkId::new("rewrite", name), |b| {
            b.iter(|| {
                out.clear();
                put_response(
                    &mut out,
                    black_box(text.as_bytes()),
                    &head,
                    &fields,
                    &telling,
                );
                out.len()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, requests, answers);
criterion_main!(benches);
