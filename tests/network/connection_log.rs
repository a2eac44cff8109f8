//! TCP connections have their line in the access log, whatever ended them; and calls of gRPC tell
//! their own status.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Frame;

use super::support::certs::Ca;
use super::support::client::RawClient;
use super::support::lb::Lb;
use super::support::upstream::{TcpEcho, Upstream};
use super::tls::{Trust, tls_upstream};
use super::wire::*;
use crate::support::loopback::free_port;
use crate::support::wait::{PATIENCE, wait_until};

fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn tcp(port: u16, more: &str) -> String {
    format!("[[listener]]\naddress = \"127.0.0.1:{port}\"\nprotocol = \"tcp\"\n{more}\n")
}

/// The next line about this listener, as JSON.
fn line(lb: &Lb, listener: SocketAddr, end: &str) -> serde_json::Value {
    let line = lb.wait_stdout(&format!("line with the end {end}"), |line| {
        line.contains(&format!("\"listener\":\"{listener}\""))
            && line.contains(&format!("\"end\":\"{end}\""))
    });
    serde_json::from_str(&line).unwrap()
}

#[test]
fn every_end_of_a_connection_has_its_line() {
    let (echo, sockets) = (TcpEcho::start("", ""), Sockets::start());
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let gone = closed.local_addr().unwrap();
    drop(closed);
    let ports: Vec<u16> = (0..5).map(|_| free_port()).collect();
    let text = tcp(ports[0], "idle_timeout = \"400ms\"")
        + &ports[1..]
            .iter()
            .map(|port| tcp(*port, ""))
            .collect::<String>()
        + &route(
            "echo",
            &format!(":{}", ports[0]),
            &[url("tcp", echo.address)],
            "",
        )
        + &route(
            "held",
            &format!(":{}", ports[1]),
            &[url("tcp", sockets.address)],
            "",
        )
        + &route("gone", &format!(":{}", ports[2]), &[url("tcp", gone)], "")
        + &route(
            "shut",
            &format!(":{}", ports[3]),
            &[url("tcp", echo.address)],
            "deny=ip:127.0.0.1",
        )
        + "[proxy]\nworkers = 1\n[retry]\nattempts = 1\n[drain]\ntimeout = \"300ms\"\n[log]\naccess = \"json\"\n";
    let mut lb = Lb::start(&config(&text));
    let at = lb.addresses("tcp", 5);

    let mut client = connect(at[0]);
    client.write_all(b"hello").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client), b"");
    let told = line(&lb, at[0], "client_closed");
    for (key, value) in [
        ("remote", "127.0.0.1".into()),
        ("proto", "TCP".into()),
        ("service", "echo".into()),
        ("upstream", echo.address.to_string().into()),
        ("bytes_in", 5.into()),
        ("bytes_out", 5.into()),
        ("attempts", 1.into()),
        ("status", 200.into()),
        ("route", format!(":{}", ports[0]).into()),
    ] {
        let value: serde_json::Value = value;
        assert_eq!(told[key], value, "{key}: {told}");
    }
    assert!(
        told["duration_ms"].as_f64().unwrap() >= 0.0
            && told["instance"].is_string()
            && told.get("uri").is_none()
    );

    let mut idle = connect(at[0]);
    assert_eq!(read_to_end(&mut idle), b"");
    assert!(
        line(&lb, at[0], "idle_timeout")["duration_ms"]
            .as_f64()
            .unwrap()
            >= 300.0
    );

    let mut client = connect(at[1]);
    let mut upstream = sockets.accept();
    upstream.write_all(b"bye").unwrap();
    drop(upstream);
    assert_eq!(read_to_end(&mut client), b"bye");
    drop(client);
    assert_eq!(line(&lb, at[1], "instance_closed")["bytes_out"], 3);

    let mut client = connect(at[1]);
    client.write_all(b"x").unwrap();
    let mut upstream = sockets.accept();
    // Only then it is certain that the connection is carried.
    upstream.read_exact(&mut [0]).unwrap();
    socket2::SockRef::from(&upstream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(upstream);
    let _ = client.read_to_end(&mut Vec::new());
    line(&lb, at[1], "instance_reset");

    let client = connect(at[1]);
    let _upstream = sockets.accept();
    socket2::SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    line(&lb, at[1], "client_reset");

    for (listener, end, status, service) in [
        (at[2], "connect_failed", 502, "gone"),
        (at[3], "access_denied", 403, "shut"),
        (at[4], "no_route", 404, ""),
    ] {
        assert!(RawClient::connect(listener).is_closed());
        let told = line(&lb, listener, end);
        assert_eq!(
            (&told["status"], &told["error"]),
            (&status.into(), &end.into()),
            "{told}"
        );
        assert_eq!(
            told["service"].as_str().unwrap_or_default(),
            service,
            "{told}"
        );
    }

    let _client = connect(at[1]);
    let _upstream = sockets.accept();
    lb.sigterm();
    assert_eq!(lb.exit_code(), Some(0));
    line(&lb, at[1], "drain");
}

#[test]
fn passed_on_tls_is_told_with_its_name_and_http_is_not_told_twice() {
    let folder = tempfile::tempdir().unwrap();
    let (own, theirs) = (Ca::new("own"), Ca::new("theirs"));
    let files = own.pair(&["web.test"]).write(folder.path(), "site");
    let web = Upstream::start("web");
    let text = listener("tcp+sni", "")
        + &listener("https+tcp+sni", "certificates = \"main\"")
        + &format!(
            "[certificates.main]\ncert_file = {:?}\nkey_file = {:?}\n",
            files.cert, files.key
        )
        + &route(
            "db",
            "db.test/",
            &[url("tcp", tls_upstream(&theirs, "db.test", "http/1.1"))],
            "proto=tcp",
        )
        + &route("web", "web.test/", &[url("http", web.address)], "")
        + "[log]\naccess = \"json\"\n";
    let lb = Lb::start(&config(&text));
    for kind in ["tcp+sni", "https+tcp+sni"] {
        let address = lb.address(kind);
        block_on(async {
            let stream = Trust::new(&theirs)
                .connect(address, "db.test")
                .await
                .unwrap();
            drop(stream);
        });
        let told = lb.wait_stdout("a line", |line| {
            line.contains(&format!("\"listener\":\"{address}\""))
        });
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert_eq!(
            (&told["server_name"], &told["service"]),
            (&"db.test".into(), &"db".into()),
            "{told}"
        );
        assert!(
            told["bytes_in"].as_u64().unwrap() > 100 && told["bytes_out"].as_u64().unwrap() > 100,
            "{told}"
        );
    }
    // No ClientHello; a name without a route.
    let sni = lb.address("tcp+sni");
    assert!(RawClient::connect(sni).send("SSH-2.0-x\r\n").is_closed());
    assert_eq!(line(&lb, sni, "tls")["status"], 400);
    block_on(async {
        Trust::new(&theirs)
            .connect(sni, "none.test")
            .await
            .unwrap_err()
    });
    assert_eq!(line(&lb, sni, "no_route")["server_name"], "none.test");
    // A request on the other listener is one line, and no connection's.
    block_on(async {
        let stream = Trust::new(&own)
            .with_alpn(&["h2"])
            .connect(lb.address("https+tcp+sni"), "web.test")
            .await
            .unwrap();
        let (mut client, _) = h2_on(stream, 1 << 20).await;
        ask(&mut client, get("https://web.test/")).await;
    });
    lb.wait_stdout("the request", |line| line.contains("\"host\":\"web.test\""));
    let text = std::fs::read_to_string(lb.folder().join("stdout")).unwrap();
    assert_eq!(
        text.lines()
            .filter(|line| line.contains("\"server_name\":\"web.test\""))
            .count(),
        0,
        "{text}"
    );
}

#[test]
fn the_other_forms_tell_of_connections_too_unless_they_shall_not() {
    let echo = TcpEcho::start("", "");
    for (log, wanted) in [
        ("access = \"common\"", Some(" service=db ")),
        (
            "access = \"combined\"",
            Some(" end=client_closed\" 200 1 \"-\" \"-\""),
        ),
        (
            "access = '$remote_host $listener_addr $upstream_service $request_body_size $response_body_size $connection_end'",
            Some(" db 1 1 client_closed"),
        ),
        ("access = \"common\"\naccess_tcp = false", None),
    ] {
        let port = free_port();
        let web = Upstream::start("web");
        let text = tcp(port, "")
            + &listener("http", "")
            + &route("db", &format!(":{port}"), &[url("tcp", echo.address)], "")
            + &route("web", "/", &[url("http", web.address)], "")
            + &format!("[log]\n{log}\n");
        let lb = Lb::start(&config(&text));
        lb.wait_ready();
        let mut client = connect(lb.address("tcp"));
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        drop(client);
        match wanted {
            Some(wanted) => drop(lb.wait_stdout(wanted, |line| line.contains(wanted))),
            None => {
                wait_until("its end", || {
                    lb.metric("lb_tcp_connections_open{service=\"db\"}") == Some(0.0)
                });
                super::support::client::get(lb.address("http"), "h", "/last");
                lb.wait_stdout("the request", |line| line.contains("/last"));
                let text = std::fs::read_to_string(lb.folder().join("stdout")).unwrap();
                assert_eq!(text.lines().count(), 1, "{text}");
            }
        }
    }
}

/// What a gRPC server does with a call, by the last part of its path.
async fn serve_call(
    request: Request<hyper::body::Incoming>,
) -> Result<Response<Body>, std::io::Error> {
    let last = request
        .uri()
        .path()
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    let response = Response::builder().header("content-type", "application/grpc");
    let trailers = |status: &str| {
        let mut fields = HeaderMap::new();
        fields.insert("grpc-status", status.parse().unwrap());
        Frame::trailers(fields)
    };
    let frames = |frames: Vec<Frame<Bytes>>| {
        let frames =
            futures_util::stream::iter(frames.into_iter().map(Ok::<_, std::convert::Infallible>));
        http_body_util::StreamBody::new(frames).boxed_unsync()
    };
    Ok(match &*last {
        "trailers-only" => response.header("grpc-status", "14").body(full("")).unwrap(),
        "missing" => response.body(frames(vec![data("m")])).unwrap(),
        "strange" => response
            .body(frames(vec![data("m"), trailers("4711")]))
            .unwrap(),
        "unavailable" => response.status(503).body(full("")).unwrap(),
        "hang" => {
            std::future::pending::<()>().await;
            unreachable!()
        }
        "breaks" => return Err(std::io::Error::other("no")),
        status => response
            .body(frames(vec![data("m"), trailers(status)]))
            .unwrap(),
    })
}

fn grpc_server() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let (socket, _) = listener.accept().await.unwrap();
                    let io = hyper_util::rt::TokioIo::new(socket);
                    let service = hyper::service::service_fn(serve_call);
                    let executor = hyper_util::rt::TokioExecutor::new();
                    tokio::spawn(
                        hyper::server::conn::http2::Builder::new(executor)
                            .serve_connection(io, service),
                    );
                }
            });
    });
    address
}

#[test]
fn calls_of_grpc_are_counted_and_logged_by_their_own_status() {
    let server = grpc_server();
    for kind in ["grpc", "http"] {
        let text = listener(kind, "")
            + &route("greeter", "svc/", &[url("http", server)], "proto=grpc")
            + &route(
                "shut",
                "shut/",
                &[url("http", server)],
                "proto=grpc deny=ip:127.0.0.1",
            )
            + "[proxy]\nworkers = 1\n[log]\naccess = \"json\"\n";
        let lb = Lb::start(&config(&text));
        lb.wait_ready();
        let call = |host: &str, method: &str| {
            Request::post(format!("http://{host}/S/{method}"))
                .header("content-type", "application/grpc+proto")
                .header("te", "trailers")
                .body(full("m"))
                .unwrap()
        };
        let table = [
            ("svc", "0", "greeter", "0"),
            ("svc", "14", "greeter", "14"),
            ("svc", "trailers-only", "greeter", "14"),
            ("svc", "missing", "greeter", "2"),
            ("svc", "strange", "greeter", "other"),
            ("svc", "unavailable", "greeter", "14"),
            ("svc", "breaks", "greeter", "14"),
            ("shut", "0", "shut", "7"),
            ("none", "0", "", "5"),
        ];
        block_on(async {
            let (mut client, _) = h2(lb.address(kind)).await;
            for (host, method, ..) in table {
                client.ready().await.unwrap();
                let answer = client.send_request(call(host, method)).await.unwrap();
                let _ = answer.into_body().collect().await;
            }
            // A client that gives up.
            client.ready().await.unwrap();
            let waiting = client.send_request(call("svc", "hang"));
            assert!(
                tokio::time::timeout(Duration::from_millis(300), waiting)
                    .await
                    .is_err()
            );
        });
        let mut wanted = std::collections::BTreeMap::from([(("greeter", "1"), 1.0)]);
        for (_, _, service, status) in table {
            *wanted.entry((service, status)).or_insert(0.0) += 1.0;
        }
        for ((service, status), count) in wanted {
            let sample =
                format!("lb_grpc_requests_total{{service=\"{service}\",status=\"{status}\"}}");
            wait_until(&sample, || lb.metric(&sample) == Some(count));
        }
        for (path, status) in [
            ("/S/0", 0),
            ("/S/trailers-only", 14),
            ("/S/missing", 2),
            ("/S/strange", 4711),
            ("/S/hang", 1),
        ] {
            lb.wait_stdout(path, |line| {
                line.contains(&format!("\"uri\":\"{path}\""))
                    && line.contains(&format!("\"grpc_status\":{status}"))
            });
        }
        // A plain request is not a call.
        block_on(async {
            let (mut client, _) = h2(lb.address(kind)).await;
            ask(&mut client, get("http://none/plain")).await;
        });
        let plain = lb.wait_stdout("the plain one", |line| line.contains("/plain"));
        assert!(!plain.contains("grpc_status"), "{plain}");
    }
}
