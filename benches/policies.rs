//! The cost of policies for one request, each by itself.
//!
//! | benchmark | is |
//! |---|---|
//! | `rate/one` | a token of the bucket of one client |
//! | `rate/many` | the same of 100,000 clients in turn |
//! | `fields/request` | the head of a usual request with two fields set and one taken away |
//! | `fields/request-none` | the same without, to compare with |
//! | `fields/response` | the head of a small response with two fields set and one taken away |
//! | `fields/response-none` | the same without |
//! | `cors` | the fields of a response to a cross-origin request |
//! | `rewrite` | a path by one rule |
//! | `error_page` | which page stands for a status |
#![allow(missing_docs, reason = "criterion's macros make public items")]

#[path = "shared/exchange.rs"]
mod exchange;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use exchange::{client, settings, target_with};
use http::{HeaderMap, HeaderValue, Method, Version};
use lb::catalog::cors::{Cors, CorsRules};
use lb::catalog::error_pages::ErrorPages;
use lb::catalog::option_text::{Context, parse_options};
use lb::catalog::path_rewrite::PathRewrite;
use lb::proxy::http::h1::request_head;
use lb::proxy::http::h1::response_head;
use lb::proxy::http::h1::syntax::Limits;
use lb::proxy::http::h1::write_head::{
    ClientLines, Fate, Outbound, Telling, put_request, put_response,
};
use lb::proxy::http::head::{Content, Head};
use lb::proxy::http::path::normalise;
use lb::table::Target;
use lb::table::limits::{Pass, RouteLimits};

const REQUEST: &str = "GET /api/orders/17?full=1 HTTP/1.1\r\n\
    Host: shop.example.com\r\n\
    User-Agent: orders/2.4\r\n\
    Accept: application/json\r\n\
    Accept-Encoding: gzip\r\n\r\n";

const RESPONSE: &str = "HTTP/1.1 200 OK\r\n\
    Content-Type: application/json\r\n\
    Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
    Content-Length: 64\r\n\r\n";

const CLIENTS: u64 = 100_000;

fn target(options: &str) -> Target {
    let parsed = parse_options(options, Context::Tag).expect("good options");
    target_with(parsed.options)
}

fn rates(c: &mut Criterion) {
    let mut group = c.benchmark_group("policies/rate");
    for (name, keys) in [("one", 1), ("many", CLIENTS)] {
        let limits = RouteLimits::default();
        let (mut now_ns, mut key) = (1_000_000_000, 0);
        group.bench_function(name, |b| {
            b.iter(|| {
                now_ns += 1_000;
                key = (key + 1) % keys;
                let pass = limits.take_token(black_box(key), now_ns, 1_000, 1_000);
                assert_eq!(pass, Pass::Yes);
            });
        });
    }
    group.finish();
}

fn fields(c: &mut Criterion) {
    let settings = Arc::new(settings());
    let client = client();
    let lines = ClientLines::new(&settings, &client, Version::HTTP_11);
    let limits = Limits::new(&settings.proxy);
    let edited = target(
        "sethdr=X-Team:shop sethdr=X-Role:reader delhdr=X-Debug \
         setresphdr=X-Frame-Options:DENY setresphdr=X-Team:shop delresphdr=Server",
    );
    let plain = target("");
    let mut group = c.benchmark_group("policies/fields");

    let mut fields = Vec::new();
    let request_head::Parsed::Whole(head) =
        request_head::parse(REQUEST.as_bytes(), limits, &mut fields)
    else {
        panic!("a whole head");
    };
    let mut out = Vec::new();
    for (name, target) in [("request", &edited), ("request-none", &plain)] {
        group.bench_function(name, |b| {
            b.iter(|| {
                // Each request makes its own map of fields.
                let head = Head::of_lines(REQUEST.as_bytes(), &head, &fields, Content::Whole(b""));
                let path = normalise(head.path(), false).expect("a usual path");
                let outbound = Outbound {
                    head: &head,
                    path: &path,
                    id: None,
                    granted: None,
                };
                out.clear();
                put_request(&mut out, &outbound, &settings, &client, &lines, target)
                    .expect("a target");
                out.len()
            });
        });
    }

    let mut fields = Vec::new();
    let response_head::Parsed::Whole(head) =
        response_head::parse(RESPONSE.as_bytes(), &Method::GET, &mut fields)
    else {
        panic!("a whole head");
    };
    for (name, target) in [("response", &edited), ("response-none", &plain)] {
        let policies = target.options.policies.as_deref();
        let telling = Telling {
            edits: policies.and_then(|policies| policies.response_edits(None, false)),
            client: &client,
            settings: &settings,
            date: "",
            fate: Fate::Silent,
            cookie: None,
        };
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                let bytes = black_box(RESPONSE.as_bytes());
                put_response(&mut out, bytes, &head, &fields, &telling);
                out.len()
            });
        });
    }
    group.finish();
}

fn others(c: &mut Criterion) {
    let mut group = c.benchmark_group("policies");
    let cors = Cors::new(&CorsRules {
        origins: vec!["https://*.example.com".to_owned()],
        expose: vec!["X-Total".to_owned()],
        credentials: true,
        ..CorsRules::default()
    });
    let cors = cors.expect("good rules");
    let mut fields = HeaderMap::new();
    fields.insert("content-type", HeaderValue::from_static("text/plain"));
    group.bench_function("cors", |b| {
        b.iter(|| {
            cors.put(
                black_box(Some(b"https://shop.example.com")),
                false,
                &mut fields,
            )
        });
    });

    let mut rewrite = PathRewrite::default();
    rewrite
        .add("^/old/([^/]+)/(.*)$", "/new/$2/$1")
        .expect("a good rule");
    group.bench_function("rewrite", |b| {
        b.iter(|| rewrite.apply(black_box("/old/shoes/running/17")));
    });

    let mut pages = ErrorPages::default();
    for status in ["404", "410", "5xx"] {
        pages.put(status, "page.html".into()).expect("a status");
    }
    group.bench_function("error_page", |b| {
        b.iter(|| pages.file(black_box(503)).is_some());
    });
    group.finish();
}

criterion_group!(benches, rates, fields, others);
criterion_main!(benches);
