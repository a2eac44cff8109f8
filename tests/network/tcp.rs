//! TCP: routes by port, half-closed connections, limits, PROXY protocol, and the end of an
//! instance.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::support::client::{RawClient, exchange};
use super::support::lb::Lb;
use super::support::upstream::{TcpEcho, Upstream};
use super::wire::*;
use crate::support::loopback::free_port;
use crate::support::wait::{PATIENCE, wait_until};

fn tcp_listener(port: u16, more: &str) -> String {
    format!("[[listener]]\naddress = \"127.0.0.1:{port}\"\nprotocol = \"tcp\"\n{more}\n")
}

fn in_front_of(targets: &[String], options: &str, listener: &str, proxy: &str) -> Lb {
    let port = free_port();
    let text = tcp_listener(port, listener)
        + &route("db", &format!(":{port}"), targets, options)
        + "[proxy]\nworkers = 1\n"
        + proxy;
    Lb::start(&config(&text))
}

fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

#[test]
fn the_port_chooses_the_service() {
    let (one, two) = (TcpEcho::start("one", ""), TcpEcho::start("two", ""));
    let ports = [free_port(), free_port(), free_port()];
    let text = ports.map(|port| tcp_listener(port, "")).concat()
        + &route(
            "one",
            &format!(":{}", ports[0]),
            &[url("tcp", one.address)],
            "",
        )
        + &route(
            "two",
            &format!(":{}", ports[1]),
            &[url("tcp", two.address)],
            "",
        );
    let lb = Lb::start(&config(&text));
    let addresses = lb.addresses("tcp", 3);
    for (address, greeting) in addresses.iter().zip(["one", "two", ""]) {
        let mut client = connect(*address);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&mut client), greeting.as_bytes());
    }
    let nowhere = format!("lb_no_route_total{{listener=\"{}\"}}", addresses[2]);
    assert_eq!(lb.metric(&nowhere), Some(1.0));
    assert_eq!(
        lb.metric("lb_tcp_connections_total{service=\"one\"}"),
        Some(1.0)
    );
    wait_until("no open connection", || {
        lb.metric("lb_tcp_connections_open{service=\"one\"}") == Some(0.0)
    });
}

#[test]
fn either_side_may_fall_silent_first() {
    let sockets = Sockets::start();
    let lb = in_front_of(&[url("tcp", sockets.address)], "", "", "");
    // The client ends first; the response follows.
    let mut client = connect(lb.address("tcp"));
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut upstream = sockets.accept();
    assert_eq!(read_to_end(&mut upstream), b"question");
    upstream.write_all(b"answer").unwrap();
    drop(upstream);
    assert_eq!(read_to_end(&mut client), b"answer");
    // The upstream ends first; the client goes on.
    let mut client = connect(lb.address("tcp"));
    let mut upstream = sockets.accept();
    upstream.write_all(b"greeting").unwrap();
    upstream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client), b"greeting");
    client.write_all(b"more").unwrap();
    drop(client);
    assert_eq!(read_to_end(&mut upstream), b"more");
}

#[test]
fn a_big_transfer_arrives_whole_both_ways() {
    const LENGTH: usize = 32 << 20;
    let echo = TcpEcho::start("", "");
    let lb = in_front_of(&[url("tcp", echo.address)], "", "", "");
    let data: Vec<u8> = (0..LENGTH)
        .map(|at| u8::try_from((at * 7 + at / 4096) % 251).unwrap())
        .collect();
    let mut client = connect(lb.address("tcp"));
    let mut sender = client.try_clone().unwrap();
    let sent = data.clone();
    let sending = std::thread::spawn(move || {
        sender.write_all(&sent).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let heard = read_to_end(&mut client);
    sending.join().unwrap();
    assert!(
        heard == data,
        "{} of {LENGTH} bytes, or other ones",
        heard.len()
    );
    for direction in ["in", "out"] {
        let sample = format!("lb_bytes_total{{service=\"db\",direction=\"{direction}\"}}");
        assert_eq!(lb.metric(&sample), Some(LENGTH as f64));
    }
}

#[test]
fn silence_on_both_sides_ends_and_a_word_from_either_prolongs() {
    let echo = TcpEcho::start("", "");
    let lb = in_front_of(
        &[url("tcp", echo.address)],
        "",
        "",
        "tcp_idle_timeout = \"500ms\"\n",
    );
    let mut client = RawClient::connect(lb.address("tcp"));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(900) {
        assert_eq!(client.send("x").bytes(1), b"x");
        std::thread::sleep(Duration::from_millis(100));
    }
    let silent = Instant::now();
    assert!(client.is_closed());
    let took = silent.elapsed();
    assert!(
        took > Duration::from_millis(300) && took < Duration::from_secs(5),
        "{took:?}"
    );
}

/// Limits of a listener come before those of `[proxy]`.
#[test]
fn a_listener_may_have_limits_of_its_own() {
    let echo = TcpEcho::start("", "");
    let upstream = Upstream::start("u");
    let port = free_port();
    let limits = "idle_timeout = \"300ms\"\nheader_timeout = \"300ms\"\nbody_timeout = \"300ms\"";
    let text = tcp_listener(port, "idle_timeout = \"300ms\"")
        + &listener("http", limits)
        + &listener("http", "")
        + &route("db", &format!(":{port}"), &[url("tcp", echo.address)], "")
        + &route("web", "/", &[url("http", upstream.address)], "")
        + "[proxy]\ntcp_idle_timeout = \"1h\"\nidle_timeout = \"1h\"\nheader_timeout = \"1h\"\nbody_timeout = \"1h\"\n";
    let lb = Lb::start(&config(&text));
    let web = lb.addresses("http", 2);
    let words = [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf",
    ];
    let mut ended = vec![RawClient::connect(lb.address("tcp"))];
    ended.extend(words.map(|_| RawClient::connect(web[0])));
    let mut stays: Vec<RawClient> = words
        .map(|_| RawClient::connect(web[1]))
        .into_iter()
        .collect();
    for (client, words) in ended[1..]
        .iter_mut()
        .chain(&mut stays)
        .zip(words.iter().cycle())
    {
        client.send(words);
    }
    let begun = Instant::now();
    for client in &mut ended {
        client.rest();
    }
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(stays[0].response().unwrap().status, 200);
    assert_eq!(stays[0].send(words[0]).response().unwrap().status, 200);
    assert_eq!(stays[1].send("\r\n").response().unwrap().status, 200);
    assert_eq!(
        stays[2].send("other").response().unwrap().text(),
        "halfother"
    );
}

#[test]
fn a_dead_instance_is_passed_over() {
    let dead = Upstream::start("dead").kill();
    let echo = TcpEcho::start("alive", "");
    let lb = in_front_of(
        &[url("tcp", dead), url("tcp", echo.address)],
        "strategy=rr",
        "",
        "",
    );
    for _ in 0..6 {
        assert_eq!(RawClient::connect(lb.address("tcp")).bytes(5), b"alive");
    }
    assert!(
        lb.metric("lb_upstream_retries_total{service=\"db\",reason=\"connect\"}")
            .unwrap()
            >= 1.0
    );
}

#[test]
fn clients_that_are_not_allowed_are_not_connected() {
    let sockets = Sockets::start();
    let lb = in_front_of(
        &[url("tcp", sockets.address)],
        "deny=ip:127.0.0.0/8",
        "",
        "",
    );
    assert!(RawClient::connect(lb.address("tcp")).is_closed());
    assert_eq!(
        lb.metric("lb_tcp_connections_total{service=\"db\"}")
            .unwrap_or(0.0),
        0.0
    );
}

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\x01\x02\x03\x7f\0\0\x01\x04\xd2\0\x50";

#[test]
fn a_proxy_header_is_taken_in_and_passed_on() {
    let sockets = Sockets::start();
    let lb = in_front_of(
        &[url("tcp", sockets.address)],
        "pxyproto=true",
        "proxy_protocol = true",
        "",
    );
    let port = lb.address("tcp").port();
    let v1 = b"PROXY TCP4 10.1.2.3 10.9.9.9 1234 80\r\n";
    // What was carried in is what is passed on; without it, what was seen.
    let (carried, seen) = (
        ("10.1.2.3", "10.9.9.9 1234 80".to_owned()),
        ("127.0.0.1", format!(" {port}")),
    );
    let v2 = ("10.1.2.3", "127.0.0.1 1234 80".to_owned());
    for (header, (source, end)) in [
        (&v1[..], carried),
        (V2, v2),
        (b"PROXY UNKNOWN\r\n", seen.clone()),
        (b"", seen),
    ] {
        let mut client = connect(lb.address("tcp"));
        // In two parts: a header need not come at once.
        let (first, second) = header.split_at(header.len() / 2);
        client.write_all(first).unwrap();
        client.write_all(second).unwrap();
        client.write_all(b"hello\n").unwrap();
        let mut upstream = sockets.accept();
        let line = String::from_utf8(read_until(&mut upstream, b"\r\n")).unwrap();
        assert!(line.starts_with(&format!("PROXY TCP4 {source} ")), "{line}");
        assert!(line.ends_with(&format!("{end}\r\n")), "{line}");
        assert_eq!(read_until(&mut upstream, b"\n"), b"hello\n");
    }
    let mut liar = RawClient::connect(lb.address("tcp"));
    assert_eq!(liar.send("PROXY TCP4 nonsense\r\n").rest(), b"");
}

#[test]
fn only_named_senders_may_carry_another_address() {
    let sockets = Sockets::start();
    let upstream = Upstream::start("u");
    const V1: &[u8] = b"PROXY TCP4 10.1.2.3 127.0.0.1 1234 80\r\n";
    // Alone it turns the PROXY protocol on; an empty list names no sender.
    for (senders, more, may) in [
        ("\"127.0.0.0/8\", \"2001:db8::/32\"", "", true),
        ("\"127.0.0.1\"", "proxy_protocol = true\n", true),
        ("\"10.0.0.0/8\"", "", false),
        ("\"10.0.0.0/8\"", "proxy_protocol = true\n", false),
        ("", "", false),
    ] {
        let keys = format!("{more}proxy_protocol_from = [{senders}]");
        let lb = in_front_of(
            &[url("tcp", sockets.address)],
            "pxyproto=v1",
            &keys,
            &(listener("http", &keys) + &route("web", "/", &[url("http", upstream.address)], "")),
        );
        let about = format!("{senders} {more}");
        for header in [V1, V2] {
            let mut client = connect(lb.address("tcp"));
            client.write_all(&[header, b"hello"].concat()).unwrap();
            if may {
                let mut heard = vec![0; V1.len() + 5];
                sockets.accept().read_exact(&mut heard).unwrap();
                let heard = String::from_utf8(heard).unwrap();
                assert!(
                    heard.starts_with("PROXY TCP4 10.1.2.3 "),
                    "{about}: {heard}"
                );
            } else {
                assert_eq!(read_to_end(&mut client), b"", "{about}");
            }
            let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
            let mut client = connect(lb.address("http"));
            client.write_all(&[header, request].concat()).unwrap();
            let answer = String::from_utf8(read_to_end(&mut client)).unwrap();
            assert_eq!(answer.contains("10.1.2.3"), may, "{about}: {answer}");
            assert_eq!(answer.is_empty(), !may, "{about}: {answer}");
        }
        // Without a header everything is served.
        let mut client = connect(lb.address("tcp"));
        client.write_all(b"hello").unwrap();
        let mut heard = [0; 21];
        sockets.accept().read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"PROXY TCP4 127.0.0.1 ", "{about}");
        let plain = exchange(lb.address("http"), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(plain.map(|response| response.status), Some(200), "{about}");
        for protocol in ["tcp", "http"] {
            let sample = format!(
                "lb_client_faults_total{{listener=\"{}\",fault=\"proxy_header\"}}",
                lb.address(protocol)
            );
            let faults = if may { 0.0 } else { 2.0 };
            assert_eq!(lb.metric(&sample), Some(faults), "{about} {sample}");
        }
    }
}

#[test]
fn a_target_may_ask_for_version_2() {
    let sockets = Sockets::start();
    let lb = in_front_of(
        &[url("tcp", sockets.address)],
        "pxyproto=v2",
        "proxy_protocol = true",
        "",
    );
    let mut client = connect(lb.address("tcp"));
    client
        .write_all(b"PROXY TCP4 10.1.2.3 127.0.0.1 1234 80\r\nhello")
        .unwrap();
    let mut heard = vec![0; V2.len() + 5];
    sockets.accept().read_exact(&mut heard).unwrap();
    assert_eq!(heard, [V2, b"hello"].concat());
}

#[test]
fn a_client_that_waits_for_a_greeting_gets_it_though_it_sends_no_header() {
    let echo = TcpEcho::start("220 ready", "");
    let lb = in_front_of(
        &[url("tcp", echo.address)],
        "",
        "proxy_protocol = true\nproxy_protocol_timeout = \"100ms\"",
        "",
    );
    assert_eq!(RawClient::connect(lb.address("tcp")).bytes(9), b"220 ready");
}

#[test]
fn http_listeners_show_the_carried_address() {
    let folder = tempfile::tempdir().unwrap();
    let ca = super::support::certs::Ca::new("ca");
    let files = ca.pair(&["a.test"]).write(folder.path(), "site");
    let upstream = Upstream::start("u");
    let text = listener("http", "proxy_protocol = true")
        + &listener("https", "proxy_protocol = true\ncertificates = \"main\"")
        + &format!(
            "[certificates.main]\ncert_file = {:?}\nkey_file = {:?}\n",
            files.cert, files.key
        )
        + &route("web", "/", &[url("http", upstream.address)], "");
    let lb = Lb::start(&config(&text));
    let forwarded = |answer: &str| {
        let body = answer.split_once("\r\n\r\n").expect("a body").1;
        let seen = json(body.as_bytes());
        let fields = seen["headers"].as_array().unwrap();
        fields
            .iter()
            .find(|field| field[0] == "x-forwarded-for")
            .map(|field| field[1].as_str().unwrap().to_owned())
    };
    let request = b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    for (header, shown) in [(V2, "10.1.2.3"), (b"", "127.0.0.1")] {
        let mut client = connect(lb.address("http"));
        client.write_all(&[header, request].concat()).unwrap();
        let answer = String::from_utf8(read_to_end(&mut client)).unwrap();
        assert_eq!(forwarded(&answer).as_deref(), Some(shown));
    }
    block_on(async {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(lb.address("https"))
            .await
            .unwrap();
        stream.write_all(V2).await.unwrap();
        let mut stream = super::tls::Trust::new(&ca)
            .shake_hands(stream, "a.test")
            .await
            .unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(forwarded(&answer).as_deref(), Some("10.1.2.3"));
    });
}

/// The rule for instances that left: connections to them end after the grace, those to others stay.
#[test]
fn connections_to_a_removed_instance_are_cut_after_the_grace() {
    let (stays, goes) = (TcpEcho::start("stays", ""), TcpEcho::start("goes", ""));
    let folder = tempfile::tempdir().unwrap();
    let routes = folder.path().join("routes.txt");
    let port = free_port();
    let line = |echo: &TcpEcho| format!("route add db :{port} tcp://{}\n", echo.address);
    std::fs::write(&routes, line(&stays) + &line(&goes)).unwrap();
    let text = format!("routes_file = {routes:?}\n")
        + &tcp_listener(port, "")
        + "[proxy]\nworkers = 1\nremoved_grace = \"500ms\"\nstrategy = \"rr\"\n";
    let lb = Lb::start(&config(&text));
    let (mut kept, mut cut) = (None, None);
    while kept.is_none() || cut.is_none() {
        let mut client = RawClient::connect(lb.address("tcp"));
        match &client.bytes(4)[..] {
            b"goes" => cut = Some(client),
            _ => {
                client.bytes(1);
                kept = Some(client);
            }
        }
    }
    std::fs::write(&routes, line(&stays)).unwrap();
    let (mut kept, mut cut) = (kept.unwrap(), cut.unwrap());
    assert!(cut.is_closed());
    assert_eq!(kept.send("still here").bytes(10), b"still here");
}

#[test]
fn a_drain_lets_connections_go_on_until_its_deadline() {
    let echo = TcpEcho::start("", "");
    let port = free_port();
    let text = tcp_listener(port, "")
        + &route("db", &format!(":{port}"), &[url("tcp", echo.address)], "")
        + "[drain]\ntimeout = \"700ms\"\n";
    let mut lb = Lb::start(&config(&text));
    let mut client = RawClient::connect(lb.address("tcp"));
    assert_eq!(client.send("x").bytes(1), b"x");
    let begun = Instant::now();
    lb.sigterm();
    wait_until("no new connections", || {
        TcpStream::connect(("127.0.0.1", port)).is_err()
    });
    assert_eq!(client.send("y").bytes(1), b"y");
    assert!(client.is_closed());
    assert!(
        begun.elapsed() >= Duration::from_millis(600),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(lb.exit_code(), Some(0));
}

/// The end of a connection at one side that failed, not finished, is felt at the other.
#[test]
fn a_reset_upstream_ends_the_client() {
    let sockets = Sockets::start();
    let lb = in_front_of(&[url("tcp", sockets.address)], "", "", "");
    let mut client = connect(lb.address("tcp"));
    client.write_all(b"x").unwrap();
    let upstream = sockets.accept();
    socket2::SockRef::from(&upstream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(upstream);
    let mut heard = Vec::new();
    let _ = client.read_to_end(&mut heard);
    assert_eq!(heard, b"");
}
