//! gRPC as frames of HTTP/2: what a proxy must keep is streams, their order in time, trailers, and
//! their end.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Frame;

use super::support::certs::Ca;
use super::support::lb::Lb;
use super::support::upstream::Upstream;
use super::wire::*;
use crate::support::wait::wait_until;

/// A message as gRPC frames it: a flag, a length, and bytes.
fn message(text: &str) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes.into()
}

fn call(path: &str, body: Body) -> Request<Body> {
    Request::post(format!("http://svc{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap()
}

fn status_fields() -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert("grpc-status", "0".parse().unwrap());
    fields
}

fn in_front_of(upstream: &Upstream) -> Lb {
    let text = listener("grpc", "")
        + &route(
            "greeter",
            "/greeter.Greeter/",
            &[url("http", upstream.address)],
            "proto=grpc",
        )
        + "[proxy]\nworkers = 1\n";
    Lb::start(&config(&text))
}

#[test]
fn both_sides_stream_at_the_same_time_and_trailers_follow() {
    let upstream = Upstream::start("u");
    let lb = in_front_of(&upstream);
    block_on(async {
        let (mut client, _) = h2(lb.address("grpc")).await;
        let (sender, body) = channel();
        sender.send(data(message("0"))).await.unwrap();
        client.ready().await.unwrap();
        let response = client
            .send_request(call("/greeter.Greeter/echo", body))
            .await
            .expect("a head");
        assert_eq!(response.status(), StatusCode::OK);
        let mut body = response.into_body();
        for n in 0..20 {
            // The response to each message comes before the next one is sent.
            let frame = body.frame().await.expect("a frame").expect("no error");
            assert_eq!(frame.into_data().unwrap(), message(&n.to_string()));
            if n < 19 {
                sender
                    .send(data(message(&(n + 1).to_string())))
                    .await
                    .unwrap();
            }
        }
        sender.send(Frame::trailers(status_fields())).await.unwrap();
        drop(sender);
        let trailers = body
            .collect()
            .await
            .unwrap()
            .trailers()
            .cloned()
            .expect("trailers");
        assert_eq!(trailers["grpc-status"], "0");
    });
}

#[test]
fn refusals_are_told_in_grpc() {
    let upstream = Upstream::start("u");
    let lb = in_front_of(&upstream);
    let gone = upstream.kill();
    block_on(async {
        let (mut client, _) = h2(lb.address("grpc")).await;
        let (parts, _, _) = ask(&mut client, call("/other.Service/Call", full(message("x")))).await;
        assert_eq!(
            (parts.status, &parts.headers["grpc-status"]),
            (StatusCode::OK, &"5".parse().unwrap())
        );
        assert_eq!(parts.headers["content-type"], "application/grpc");
        let (parts, _, _) = ask(
            &mut client,
            call("/greeter.Greeter/Call", full(message("x"))),
        )
        .await;
        assert_eq!(
            parts.headers["grpc-status"], "14",
            "nothing listens at {gone}"
        );
    });
}

/// A client whose deadline passed resets its stream; the server must hear of it.
#[test]
fn a_cancelled_call_is_cancelled_at_the_server() {
    let upstream = Upstream::start("u");
    let lb = in_front_of(&upstream);
    block_on(async {
        let (mut client, _) = h2(lb.address("grpc")).await;
        client.ready().await.unwrap();
        let response = client
            .send_request(call("/greeter.Greeter/sse", full(message("x"))))
            .await
            .expect("a head");
        let mut body = response.into_body();
        assert!(
            body.frame()
                .await
                .expect("a frame")
                .expect("no error")
                .is_data()
        );
        drop(body);
        wait_until("its end", || {
            lb.metric("lb_http_requests_in_flight{service=\"greeter\"}") == Some(0.0)
        });
        // The next call uses the same upstream connection: only the stream ended.
        let (parts, _, _) = ask(
            &mut client,
            call("/greeter.Greeter/Call", full(message("x"))),
        )
        .await;
        assert_eq!(parts.status, StatusCode::OK);
    });
    assert_eq!(upstream.connections(), 1);
}

/// The limit for the first byte is for requests that have none of their own.
#[test]
fn a_call_may_wait_longer_for_its_answer_than_a_request() {
    let upstream = Upstream::start("u");
    let text = listener("grpc", "")
        + &route(
            "greeter",
            "/",
            &[url("http", upstream.address)],
            "proto=grpc",
        )
        + "[proxy]\nresponse_timeout = \"200ms\"\n";
    let lb = Lb::start(&config(&text));
    upstream.set_delay(Duration::from_millis(700));
    block_on(async {
        let (mut client, _) = h2(lb.address("grpc")).await;
        let (parts, body, _) = ask(
            &mut client,
            call("/greeter.Greeter/echo", full(message("x"))),
        )
        .await;
        assert_eq!((parts.status, body), (StatusCode::OK, message("x")));
        let plain = Request::post("http://svc/echo").body(full("x")).unwrap();
        assert_eq!(
            ask(&mut client, plain).await.0.status,
            StatusCode::GATEWAY_TIMEOUT
        );
    });
}

#[test]
fn grpcs_listens_with_tls() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new("ca");
    let pair = ca.pair(&["svc"]).write(folder.path(), "site");
    let upstream = Upstream::start("u");
    let text = listener("grpcs", "certificates = \"main\"")
        + &format!(
            "[certificates.main]\ncert_file = {:?}\nkey_file = {:?}\n",
            pair.cert, pair.key
        )
        + &route(
            "greeter",
            "/greeter.Greeter/",
            &[url("http", upstream.address)],
            "proto=grpc",
        );
    let lb = Lb::start(&config(&text));
    block_on(async {
        let stream = super::tls::Trust::new(&ca)
            .with_alpn(&["h2"])
            .connect(lb.address("grpcs"), "svc")
            .await
            .unwrap();
        let (mut client, _) = h2_on(stream, 1 << 20).await;
        let (parts, body, _) = ask(
            &mut client,
            call("/greeter.Greeter/echo", full(message("hello"))),
        )
        .await;
        assert_eq!((parts.status, body), (StatusCode::OK, message("hello")));
    });
}
