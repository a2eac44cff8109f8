//! What takes its time, and what fails at once, over HTTP/2, gRPC and TCP.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use http::{Method, Request};

use super::support::certs::Ca;
use super::support::client::{self, RawClient};
use super::support::lb::Lb;
use super::support::upstream::Upstream;
use super::tls::tls_upstream;
use super::wire::*;
use crate::support::loopback::free_port;

const SLOW: Duration = Duration::from_secs(4);

fn urls(scheme: &str, upstreams: &[Upstream]) -> Vec<String> {
    upstreams
        .iter()
        .map(|upstream| url(scheme, upstream.address))
        .collect()
}

#[test]
fn a_slow_request_is_asked_once_over_http2_and_grpc() {
    let upstreams = ["a", "b", "c"].map(Upstream::start);
    upstreams
        .iter()
        .for_each(|upstream| upstream.set_delay(SLOW));
    let text = listener("http", "")
        + &route("plain", "/plain", &urls("http", &upstreams), "")
        + &route("h2", "/h2", &urls("http", &upstreams), "proto=h2c")
        + &route(
            "grpc",
            "/greeter.Greeter/",
            &urls("http", &upstreams),
            "proto=grpc",
        );
    let lb = Lb::start(&config(&text));
    lb.wait_ready();
    block_on(async {
        let (client, _) = h2(lb.address("http")).await;
        let mut calls = Vec::new();
        for path in ["/plain", "/h2"] {
            for method in [
                Method::GET,
                Method::HEAD,
                Method::PUT,
                Method::DELETE,
                Method::OPTIONS,
                Method::POST,
            ] {
                calls.push(
                    Request::builder()
                        .method(method)
                        .uri(format!("http://h{path}"))
                        .body(full(""))
                        .unwrap(),
                );
            }
        }
        // The server of these tests sends data to HEAD over HTTP/2, which no client takes.
        calls.retain(|call| call.method() != Method::HEAD || call.uri().path() != "/h2");
        let call = Request::post("http://h/greeter.Greeter/echo")
            .header("content-type", "application/grpc");
        calls.push(
            call.header("te", "trailers")
                .body(full("\0\0\0\0\x01x"))
                .unwrap(),
        );
        let answers = calls.into_iter().map(|call| {
            let (mut client, what) = (client.clone(), format!("{} {}", call.method(), call.uri()));
            tokio::spawn(async move {
                let answer = tokio::time::timeout(SLOW + SLOW / 2, ask(&mut client, call)).await;
                assert_eq!(
                    answer
                        .unwrap_or_else(|_| panic!("{what}: no response"))
                        .0
                        .status,
                    200,
                    "{what}"
                );
            })
        });
        for answer in answers.collect::<Vec<_>>() {
            answer.await.unwrap();
        }
    });
    assert_eq!(upstreams.iter().map(Upstream::requests).sum::<u64>(), 12);
    for service in ["plain", "h2", "grpc"] {
        let retries =
            format!("lb_upstream_retries_total{{service=\"{service}\",reason=\"timeout\"}}");
        assert_eq!(lb.metric(&retries).unwrap_or(0.0), 0.0);
    }
}

#[test]
fn an_instance_whose_calls_are_unavailable_is_ejected() {
    for (strategy, rule, ejected) in [
        ("p2c", "", true),
        ("least", "", true),
        ("rr", "", true),
        ("rr", "error_status = \"off\"", false),
    ] {
        let upstreams = ["bad", "a", "b"].map(Upstream::start);
        upstreams[0].set_grpc_status(14);
        // Refused for the caller's own reasons: no failure.
        upstreams[1].set_grpc_status(5);
        let text = listener("grpc", "")
            + &route("greeter", "/", &urls("http", &upstreams), "proto=grpc")
            + &format!("[proxy]\nworkers = 1\nstrategy = \"{strategy}\"\n[health]\n{rule}\n");
        let lb = Lb::start(&config(&text));
        lb.wait_ready();
        block_on(async {
            let (mut client, _) = h2(lb.address("grpc")).await;
            for _ in 0..90 {
                let call = Request::post("http://h/greeter.Greeter/echo")
                    .header("content-type", "application/grpc");
                ask(
                    &mut client,
                    call.header("te", "trailers")
                        .body(full("\0\0\0\0\x01x"))
                        .unwrap(),
                )
                .await;
            }
        });
        let ejections = lb
            .metric("lb_upstream_ejections_total{service=\"greeter\"}")
            .unwrap_or(0.0);
        assert_eq!(
            ejections,
            if ejected { 1.0 } else { 0.0 },
            "{strategy} {rule}"
        );
        let bad = upstreams[0].requests();
        assert!(
            if ejected { bad <= 10 } else { bad == 30 },
            "{strategy} {rule}: {bad}"
        );
    }
}

#[test]
fn tcp_connections_avoid_the_next_owner_of_a_dead_instances_port() {
    let [a, b] = ["a", "b"].map(Upstream::start);
    let port = free_port();
    let text = format!("[[listener]]\naddress = \"127.0.0.1:{port}\"\nprotocol = \"tcp\"\n")
        + &route(
            "db",
            &format!(":{port}"),
            &[url("tcp", a.address), url("tcp", b.address)],
            "",
        )
        + "[proxy]\nstrategy = \"rr\"\n";
    let lb = Lb::start(&config(&text));
    lb.wait_ready();
    let ask = || {
        let mut client = RawClient::connect(lb.address("tcp"));
        let answer = client
            .send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            .response()
            .unwrap();
        (client, answer.header("x-instance").unwrap().to_owned())
    };
    let mut tunnels: Vec<_> = (0..8).map(|_| ask()).collect();
    let address = a.kill();
    let _wrong = Upstream::start_at("wrong", address);
    let lost: usize = tunnels
        .iter_mut()
        .filter(|(_, name)| name == "a")
        .map(|(client, _)| usize::from(!client.end().is_empty()))
        .sum();
    assert_eq!(lost, 4);
    for _ in 0..8 {
        assert_eq!(ask().1, "b");
    }
}

/// Passes connections on to `to`, once it is told to.
fn held_back(to: SocketAddr) -> (SocketAddr, mpsc::Sender<()>, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let ((go, told), (came, comes)) = (mpsc::channel(), mpsc::channel());
    std::thread::spawn(move || {
        let (near, _) = listener.accept().unwrap();
        came.send(()).unwrap();
        told.recv().unwrap();
        let far = TcpStream::connect(to).unwrap();
        let copy = |mut from: TcpStream, mut to: TcpStream| {
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            })
        };
        let both = [
            copy(near.try_clone().unwrap(), far.try_clone().unwrap()),
            copy(far, near),
        ];
        both.into_iter().for_each(|one| one.join().unwrap());
    });
    (address, go, comes)
}

/// The port may be another's by the time the connection stands.
#[test]
fn a_connection_made_while_its_instance_left_gets_no_request() {
    let ca = Ca::new("ca");
    let (slow, go, comes) = held_back(tls_upstream(&ca, "left.test", "http/1.1"));
    let stays = tls_upstream(&ca, "stays.test", "http/1.1");
    let folder = tempfile::tempdir().unwrap();
    let routes = folder.path().join("routes");
    let line = |name: &str, address: SocketAddr| {
        format!(
            "route add s h/ https://{address}/ opts \"proto=https tlsskipverify=true host={name}.test\"\n"
        )
    };
    std::fs::write(&routes, line("left", slow) + &line("stays", stays)).unwrap();
    let text = format!("routes_file = {routes:?}\n")
        + &listener("http", "")
        + "[proxy]\nstrategy = \"rr\"\nconnect_timeout = \"9s\"\n[retry]\nattempts = 1\n";
    let lb = Lb::start(&config(&text));
    lb.wait_ready();
    let address = lb.address("http");
    let clients =
        [(); 2].map(|()| std::thread::spawn(move || client::get(address, "h", "/").text()));
    comes.recv().unwrap();
    std::fs::write(&routes, line("stays", stays)).unwrap();
    lb.wait_admin("/api/routes", "one target", |text| {
        !text.contains(&slow.to_string())
    });
    go.send(()).unwrap();
    let answers = clients.map(|client| client.join().unwrap());
    assert_eq!(answers, ["stays.test HTTP/1.1", "stays.test HTTP/1.1"]);
}

#[test]
fn http2_instances_that_die_are_avoided() {
    let [a, b] = ["a", "b"].map(Upstream::start);
    let text = listener("grpc", "")
        + &route(
            "greeter",
            "/",
            &[url("http", a.address), url("http", b.address)],
            "proto=grpc",
        )
        + "[proxy]\nstrategy = \"rr\"\nworkers = 1\n";
    let lb = Lb::start(&config(&text));
    lb.wait_ready();
    block_on(async {
        let (mut client, _) = h2(lb.address("grpc")).await;
        let call = || {
            let call = Request::post("http://h/greeter.Greeter/echo")
                .header("content-type", "application/grpc");
            call.header("te", "trailers")
                .body(full("\0\0\0\0\x01x"))
                .unwrap()
        };
        for _ in 0..10 {
            ask(&mut client, call()).await;
        }
        let address = a.kill();
        let wrong = Upstream::start_at("wrong", address);
        for _ in 0..20 {
            let (parts, _, _) = ask(&mut client, call()).await;
            assert_ne!(
                parts.headers.get("x-instance").map(|name| name.as_bytes()),
                Some(&b"wrong"[..])
            );
        }
        assert_eq!(wrong.requests(), 0);
    });
}
