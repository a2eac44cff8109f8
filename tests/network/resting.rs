//! Connections that gave up what they had for serving, because their client has been quiet for a
//! while. No client may notice.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::support::certs::Ca;
use super::support::client::RawClient;
use super::support::lb::Lb;
use super::support::upstream::Upstream;
use super::tls::Trust;
use super::wire::*;
use crate::support::wait::wait_until;

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

/// A balancer that tells of connections that rest.
fn telling(upstream: &Upstream, more: &str) -> Lb {
    let text =
        listener("http", "") + &route("web", "/", &[url("http", upstream.address)], "") + more;
    start(&text)
}

fn start(text: &str) -> Lb {
    let lb = Lb::start_with(
        &config(text),
        &[],
        &[("LB_LOG_LEVEL", "info,lb::proxy::http=trace")],
    );
    lb.wait_ready();
    lb
}

/// How often it told so.
fn rests(lb: &Lb) -> usize {
    lb.stderr().matches("connection parked").count()
}

fn wait_for_rests(lb: &Lb, count: usize) {
    wait_until("a connection that rests", || rests(lb) >= count);
}

/// A client that was served once, and whose connection parked.
fn rested(lb: &Lb) -> RawClient {
    let mut client = RawClient::connect(lb.address("http"));
    assert_eq!(client.send(GET).response().unwrap().status, 200);
    wait_for_rests(lb, 1);
    client
}

#[test]
fn a_connection_that_rests_is_served_on() {
    let upstream = Upstream::start("u");
    let lb = telling(&upstream, "");
    let mut client = rested(&lb);
    assert_eq!(client.send(GET).response().unwrap().status, 200);
    wait_for_rests(&lb, 2);
    // Two at once, and the beginning of a third: that one must not be left lying.
    client.send(GET.repeat(2) + &GET[..20]);
    assert_eq!(client.response().unwrap().status, 200);
    assert_eq!(client.response().unwrap().status, 200);
    assert_eq!(client.send(&GET[20..]).response().unwrap().status, 200);
    wait_for_rests(&lb, 3);
    // Byte by byte.
    for byte in GET.as_bytes() {
        client.send([*byte]);
    }
    assert_eq!(client.response().unwrap().status, 200);
    assert_eq!(upstream.requests(), 6);
}

#[test]
fn a_connection_that_rests_can_be_handed_over() {
    let upstream = Upstream::start("u");
    let lb = telling(&upstream, "");
    let mut client = rested(&lb);
    client.send(
        "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    );
    assert_eq!(client.response().unwrap().status, 200);
    assert_eq!(client.send(GET).response().unwrap().status, 200);
    assert_eq!(upstream.requests(), 3);
}

#[test]
fn a_client_that_goes_while_its_connection_rests_ends_it() {
    let upstream = Upstream::start("u");
    let lb = telling(&upstream, "");
    let mut client = rested(&lb);
    client.finish();
    assert!(client.is_closed());
}

#[test]
fn the_idle_limit_holds_for_a_connection_that_rests() {
    let upstream = Upstream::start("u");
    let lb = telling(&upstream, "[proxy]\nidle_timeout = \"3s\"\n");
    let mut client = RawClient::connect(lb.address("http"));
    assert_eq!(client.send(GET).response().unwrap().status, 200);
    let begun = Instant::now();
    wait_for_rests(&lb, 1);
    assert!(client.is_closed());
    // The clock of the test begins a little later than that of the connection.
    assert!(
        begun.elapsed() > Duration::from_millis(2900),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_drain_ends_connections_that_rest() {
    let upstream = Upstream::start("u");
    let mut lb = telling(&upstream, "");
    let mut client = rested(&lb);
    lb.sigterm();
    assert_eq!(client.end(), "end of file");
    assert_eq!(lb.exit_code(), Some(0));
}

/// Far more than may stay awake: most of them rest at once, and are served as before.
#[test]
fn a_crowd_rests_at_once() {
    let upstream = Upstream::start("u");
    let lb = telling(&upstream, "");
    let address = lb.address("http");
    let mut clients: Vec<RawClient> = (0..400).map(|_| RawClient::connect(address)).collect();
    for _ in 0..3 {
        for client in &mut clients {
            assert_eq!(client.send(GET).response().unwrap().status, 200);
        }
    }
    wait_for_rests(&lb, 144);
}

#[test]
fn inside_tls_nothing_that_was_decrypted_is_left_lying() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new("ca");
    let files = ca.pair(&["h"]).write(folder.path(), "h");
    let upstream = Upstream::start("u");
    let lb = start(
        &(listener("https", "certificates = \"main\"")
            + &format!(
                "[certificates.main]\nsource = \"file\"\ncert_file = {:?}\nkey_file = {:?}\n",
                files.cert, files.key
            )
            + &route("web", "/", &[url("http", upstream.address)], "")),
    );
    block_on(async {
        let mut client = tls_client(&ca, lb.address("https")).await;
        ask(&mut client, GET, 1).await;
        for round in 1..=2 {
            wait_for_rests(&lb, round);
            // In one record, three whole ones and the beginning of a fourth.
            ask(&mut client, &(GET.repeat(3) + &GET[..9]), 3).await;
            ask(&mut client, &GET[9..], 1).await;
        }
        wait_for_rests(&lb, 3);
        // The client's closing alert.
        client.shutdown().await.unwrap();
        client.read_to_end(&mut Vec::new()).await.unwrap();
    });
    assert_eq!(upstream.requests(), 9);
}

async fn tls_client(ca: &Ca, address: SocketAddr) -> TlsStream<TcpStream> {
    Trust::new(ca).connect(address, "h").await.unwrap()
}

/// Sends, and reads this many responses.
async fn ask(client: &mut TlsStream<TcpStream>, requests: &str, answers: usize) {
    client.write_all(requests.as_bytes()).await.unwrap();
    client.flush().await.unwrap();
    let mut read = Vec::new();
    while String::from_utf8_lossy(&read)
        .matches("x-instance: u")
        .count()
        < answers
    {
        assert_ne!(
            client.read_buf(&mut read).await.unwrap(),
            0,
            "{}",
            String::from_utf8_lossy(&read)
        );
    }
}
