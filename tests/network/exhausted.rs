//! What this side lacks (descriptors here) is not the fault of others: no instance is ejected,
//! clients get 503, and it is told.

use std::time::Duration;

use futures_util::future::join_all;

use super::support::client::{self, RawClient};
use super::support::lb::Lb;
use super::support::upstream::{TcpEcho, Upstream};
use super::wire::*;
use crate::support::wait::wait_until_async;

#[test]
fn the_limit_of_open_files_is_raised_and_bounds_the_clients() {
    let upstream = Upstream::start("u");
    let text = listener("http", "")
        + &route("web", "/", &[url("http", upstream.address)], "")
        + "[proxy]\nworkers = 1\nconnect_timeout = \"1m\"\n";
    let lb = Lb::start_limited(&config(&text), &["-Sn 64", "-Hn 512"]);
    lb.wait_ready();
    assert_eq!(lb.metric("process_max_fds"), Some(512.0));
    lb.wait_for_line("a word about the clients", |line| {
        line.contains("max_connections") && line.contains("WARN")
    });
    // Many more than there are descriptors: those that fit in are served, the others wait, and
    // no client is told an error.
    let mut clients: Vec<RawClient> = (0..400)
        .map(|_| RawClient::connect(lb.address("http")))
        .collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    for mut client in clients {
        assert_eq!(client.response().expect("a response").status, 200);
    }
    assert_eq!(
        lb.metric("lb_upstream_ejections_total{service=\"web\"}"),
        Some(0.0)
    );
}

#[test]
fn a_lack_of_descriptors_blames_no_instance() {
    let (one, other) = (Upstream::start("one"), Upstream::start("other"));
    let targets = [url("http", one.address), url("http", other.address)];
    let text = listener("http", "")
        + &route("web", "/", &targets, "")
        + &route("calls", "calls/", &targets, "proto=h2c")
        + "[proxy]\nworkers = 1\ntry_timeout = \"0s\"\n[log]\naccess = \"json\"\n";
    let lb = Lb::start_limited(&config(&text), &["-n 96"]);
    lb.wait_ready();
    let address = lb.address("http");
    [&one, &other]
        .iter()
        .for_each(|upstream| upstream.set_delay(Duration::from_secs(1)));
    // One client with many requests at once, for each of which an instance has to be dialled.
    let statuses = block_on(async {
        let (client, _driver) = h2(address).await;
        let asked = (0..150).map(|_| {
            let mut client = client.clone();
            async move { ask(&mut client, get("http://h/")).await.0.status.as_u16() }
        });
        join_all(asked).await
    });
    let served = statuses.iter().filter(|&&status| status == 200).count();
    assert!(served > 10, "{statuses:?}");
    assert!(
        statuses.iter().all(|status| [200, 503].contains(status)),
        "{statuses:?}"
    );
    assert!(served < statuses.len(), "it did not run out of descriptors");
    let metric = |name: &str| {
        lb.metric(&format!("{name},result=\"exhausted\"}}"))
            .unwrap_or(0.0)
    };
    assert!(metric("lb_upstream_connects_total{service=\"web\"") > 0.0);
    assert_eq!(
        lb.metric("lb_upstream_connects_total{service=\"web\",result=\"refused\"}"),
        Some(0.0)
    );
    assert_eq!(
        lb.metric("lb_upstream_ejections_total{service=\"web\"}"),
        Some(0.0)
    );
    lb.wait_for_line("a warning", |line| {
        line.contains("out of descriptors") && line.contains("WARN")
    });
    lb.wait_stdout("its reason in the access log", |line| {
        line.contains("\"exhausted\"") && line.contains("503")
    });
    // It goes on as if nothing had been.
    [&one, &other]
        .iter()
        .for_each(|upstream| upstream.set_delay(Duration::ZERO));
    for _ in 0..20 {
        assert_eq!(client::get(address, "h", "/").status, 200);
    }
}

/// The same for TCP, where there is no status to tell: instances stay, and connections that fit in
/// work.
#[test]
fn a_lack_of_descriptors_blames_no_instance_of_tcp() {
    let echo = TcpEcho::start("", "");
    let upstream = Upstream::start("u");
    let text = listener("tcp", "")
        + &listener("http", "")
        + &route("web", "/", &[url("http", upstream.address)], "")
        + "[proxy]\nworkers = 1\n[health]\neject_after = 1\n";
    let text = config(&text);
    // The route has to name the port, which is not known before.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let text = text.replacen("127.0.0.1:0", &format!("127.0.0.1:{port}"), 1)
        + &route(
            "echo",
            &format!(":{port}"),
            &[url("tcp", echo.address)],
            "proto=tcp",
        );
    let lb = Lb::start_limited(&text, &["-n 96"]);
    lb.wait_ready();
    upstream.set_delay(Duration::from_secs(1));
    block_on(async {
        let (client, _driver) = h2(lb.address("http")).await;
        let asked = (0..100).map(|_| {
            let mut client = client.clone();
            async move { ask(&mut client, get("http://h/")).await.0.status.as_u16() }
        });
        let connect = async {
            let sample = "lb_upstream_connects_total{service=\"web\",result=\"exhausted\"}";
            wait_until_async("a connect without descriptors", async || {
                lb.metric(sample).is_some_and(|count| count > 0.0)
            })
            .await;
            std::net::TcpStream::connect(lb.address("tcp")).unwrap()
        };
        futures_util::future::join(join_all(asked), connect).await
    });
    assert_eq!(
        lb.metric("lb_upstream_ejections_total{service=\"echo\"}")
            .unwrap_or(0.0),
        0.0
    );
    let mut client = RawClient::connect(lb.address("tcp"));
    assert_eq!(client.send("hello").bytes(5), b"hello");
}
