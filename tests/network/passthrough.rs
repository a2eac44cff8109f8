//! Routes of TCP are not routes for requests: what is meant for a port that expects other bytes
//! never gets a request, on whichever listener it comes.

use http::{Method, Request, StatusCode, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::support::certs::Ca;
use super::support::client::RawClient;
use super::support::lb::Lb;
use super::support::upstream::Upstream;
use super::tls::Trust;
use super::wire::*;

/// Status of one request in HTTP/1.1 over TLS.
async fn ask_h1(
    trust: &Trust,
    address: std::net::SocketAddr,
    name: &str,
    target: &str,
    host: &str,
) -> u16 {
    let mut stream = trust
        .clone()
        .with_alpn(&["http/1.1"])
        .connect(address, name)
        .await
        .unwrap();
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nCookie: secret\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Without the closing alert, which some responses lack, there is an error behind them.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer)
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn a_request_meets_routes_of_its_own_kind_on_every_listener() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new("own");
    let hosts = [
        "http.test",
        "h2c.test",
        "grpc.test",
        "moved.test",
        "tcp.test",
        "x.tcp.test",
        "both.test",
        "none.test",
    ];
    let files = ca
        .pair(&[&hosts[..], &["front.test"]].concat())
        .write(folder.path(), "site");
    let (web, bytes) = (Upstream::start("web"), Upstream::start("bytes"));
    let (http, tcp) = ([url("http", web.address)], [url("tcp", bytes.address)]);
    let certificates = format!(
        "[certificates.main]\ncert_file = {:?}\nkey_file = {:?}\n",
        files.cert, files.key
    );
    let text = listener("http", "")
        + &listener("grpc", "")
        + &listener("https", "certificates = \"main\"")
        + &listener("grpcs", "certificates = \"main\"")
        + &listener("https+tcp+sni", "certificates = \"main\"")
        + &certificates
        + &route("front", "front.test/", &http, "")
        + &route("http", "http.test/", &http, "")
        + &route("h2c", "h2c.test/", &http, "proto=h2c")
        + &route("grpc", "grpc.test/", &http, "proto=grpc")
        + &route("moved", "moved.test/", &http, "redirect=302,http://there.test/")
        + &route("tcp", "tcp.test/", &tcp, "proto=tcp")
        + &route("wild", "*.tcp.test/", &tcp, "proto=tcp")
        + &route("port", ":7", &tcp, "proto=tcp")
        // While a tag changes, instances of both kinds stand at one place.
        + &route("old", "both.test/", &tcp, "proto=tcp")
        + &route("new", "both.test/", &http, "")
        + "[proxy]\nworkers = 1\nstrategy = \"rr\"\n";
    let lb = Lb::start(&config(&text));
    lb.wait_ready();
    let trust = Trust::new(&ca);
    let wanted = |host: &str, passes_on: bool| match host {
        "moved.test" => 302,
        "tcp.test" | "x.tcp.test" if passes_on => 421,
        "tcp.test" | "x.tcp.test" | "none.test" => 404,
        _ => 200,
    };
    for kind in ["http", "https", "https+tcp+sni", "grpc", "grpcs"] {
        let address = lb.address(kind);
        let tls = !matches!(kind, "http" | "grpc");
        for host in hosts {
            let status = wanted(host, kind == "https+tcp+sni");
            let (port, upper) = (format!("{host}:{}", address.port()), host.to_uppercase());
            // As Host, and in the absolute form beside another one.
            let forms = [
                ("/", host.to_owned()),
                ("/", port),
                ("/", upper),
                (&*format!("http://{host}/"), "http.test".to_owned()),
            ]
            .map(|(target, host)| (target.to_owned(), host));
            for (target, field) in &forms {
                // Twice: the second may take the turn of an instance of the other kind.
                for _ in 0..2 {
                    let got = if tls {
                        block_on(ask_h1(&trust, address, "front.test", target, field))
                    } else {
                        let request = format!(
                            "GET {target} HTTP/1.1\r\nHost: {field}\r\nCookie: secret\r\n\r\n"
                        );
                        RawClient::connect(address)
                            .send(request)
                            .response()
                            .unwrap()
                            .status
                    };
                    // The host of a port is another one, unless it is passed on, or the table has
                    // it.
                    let other_port = field.contains(':') && status != 421;
                    let status = if other_port { 404 } else { status };
                    assert_eq!(got, status, "{kind} {target} {field}");
                }
            }
            block_on(async {
                let mut client = if tls {
                    let stream = trust
                        .clone()
                        .with_alpn(&["h2"])
                        .connect(address, "front.test")
                        .await
                        .unwrap();
                    h2_on(stream, 1 << 20).await.0
                } else {
                    h2(address).await.0
                };
                for _ in 0..2 {
                    let request = Request::builder()
                        .method(Method::GET)
                        .uri(format!("http://{host}/"));
                    let request = request
                        .version(Version::HTTP_2)
                        .header("cookie", "secret")
                        .body(full(""))
                        .unwrap();
                    let (parts, _, _) = ask(&mut client, request).await;
                    assert_eq!(parts.status.as_u16(), status, "{kind} HTTP/2 {host}");
                }
                // A call of gRPC is told in its terms.
                if status == 404 {
                    let call = Request::post(format!("http://{host}/S/M"))
                        .header("content-type", "application/grpc")
                        .body(full(""))
                        .unwrap();
                    let (parts, _, _) = ask(&mut client, call).await;
                    assert_eq!(
                        (parts.status, &parts.headers["grpc-status"]),
                        (StatusCode::OK, &"5".parse().unwrap())
                    );
                }
            });
        }
    }
    assert_eq!(
        bytes.connections(),
        0,
        "no request, and no connection for one, went to an instance of TCP"
    );
    let (status, told) = lb.admin("/api/explain?url=http://tcp.test/");
    assert!(
        status == 200 && told.contains("no route") && !told.contains(&bytes.address.to_string()),
        "{told}"
    );
}

/// The response sends the client to a connection of its own, and there its host is passed on. What
/// is ours stays on this one.
#[test]
fn a_connection_for_another_host_is_told_so_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new("own");
    let files = ca
        .pair(&["web.test", "other.test", "*.t.test"])
        .write(folder.path(), "site");
    let (web, bytes) = (Upstream::start("web"), Upstream::start("bytes"));
    let http = [url("http", web.address)];
    let text = listener("https+tcp+sni", "certificates = \"main\"")
        + &format!("[certificates.main]\ncert_file = {:?}\nkey_file = {:?}\n", files.cert, files.key)
        + &route("web", "web.test/", &http, "")
        + &route("other", "other.test/", &http, "")
        + &route("wild", "*.t.test/", &[url("tcp", bytes.address)], "proto=tcp")
        // Less specific: it must not take what is passed on.
        + &route("rest", "/", &http, "")
        + "[log]\naccess = \"json\"\n";
    let lb = Lb::start(&config(&text));
    lb.wait_ready();
    let address = lb.address("https+tcp+sni");
    block_on(async {
        let stream = Trust::new(&ca)
            .with_alpn(&["h2"])
            .connect(address, "web.test")
            .await
            .unwrap();
        let (mut client, _) = h2_on(stream, 1 << 20).await;
        let asked = [
            ("web.test", 200),
            ("a.t.test", 421),
            ("other.test", 200),
            ("A.T.test:443", 421),
            ("any.test", 200),
        ];
        for (host, status) in asked {
            let (parts, _, _) = ask(&mut client, get(&format!("https://{host}/"))).await;
            assert_eq!(parts.status.as_u16(), status, "{host}");
        }
        // HTTP/1.1, several on one connection.
        let mut stream = Trust::new(&ca)
            .with_alpn(&["http/1.1"])
            .connect(address, "web.test")
            .await
            .unwrap();
        for (host, status) in asked {
            stream
                .write_all(format!("HEAD / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())
                .await
                .unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let head = String::from_utf8_lossy(&head);
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status} ")),
                "{host}: {head}"
            );
        }
    });
    assert_eq!(bytes.connections(), 0);
    lb.wait_stdout("a record", |line| {
        line.contains("\"status\":421") && line.contains("\"error\":\"misdirected\"")
    });
}
