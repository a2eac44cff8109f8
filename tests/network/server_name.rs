//! TLS by its server name: passed on as it came (`tcp+sni`), or ended here where no TCP route has
//! it (`https+tcp+sni`).

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::support::certs::Ca;
use super::support::client::RawClient;
use super::support::lb::Lb;
use super::support::upstream::Upstream;
use super::tls::{Trust, shown, tls_upstream};
use super::wire::*;
use crate::support::wait::{PATIENCE, wait_until, wait_until_async};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_nodelay(true).unwrap();
    socket
}

/// A ClientHello in one record, as rustls sends it.
fn hello(name: &str) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = config
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let mut connection =
        rustls::ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap())
            .unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

/// One of TLS 1.1, which rustls would not send.
fn old_hello(name: &str) -> Vec<u8> {
    let with_length = |content: &[u8]| {
        [
            &u16::try_from(content.len()).unwrap().to_be_bytes(),
            content,
        ]
        .concat()
    };
    let names = with_length(&[&[0][..], &with_length(name.as_bytes())].concat());
    let extensions = with_length(&[&[0, 0][..], &with_length(&names)].concat());
    // Version, random, no session, two cipher suites, no compression.
    let body = [
        &[3, 2][..],
        &[7; 32],
        &[0, 0, 4, 0xc0, 0x14, 0, 0x35, 1, 0],
        &extensions,
    ]
    .concat();
    [
        &[0x16, 3, 1][..],
        &with_length(&[&[1, 0][..], &with_length(&body)].concat()),
    ]
    .concat()
}

/// A ClientHello in records of so many bytes.
fn in_records(hello: &[u8], length: usize) -> Vec<u8> {
    let record = |payload: &[u8]| {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&hello[..3], &length, payload].concat()
    };
    hello[5..].chunks(length).flat_map(record).collect()
}

/// The response of an HTTPS server behind the balancer to a client that trusts its certificate.
async fn ask_through(trust: &Trust, address: SocketAddr, name: &str) -> std::io::Result<String> {
    let mut stream = trust.connect(address, name).await?;
    stream.write_all(REQUEST).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.rsplit("\r\n").next().unwrap_or_default().to_owned())
}

#[test]
fn the_name_chooses_the_service_whose_own_tls_the_client_meets() {
    let ca = Ca::new("upstreams");
    let exact = [url("tcp", tls_upstream(&ca, "a.test", "http/1.1"))];
    // Not wrapped in TLS a second time.
    let secure = [url("https", tls_upstream(&ca, "s.test", "http/1.1"))];
    let wild = [url("tcp", tls_upstream(&ca, "*.w.test", "http/1.1"))];
    let any = Upstream::start("any host");
    let text = listener("tcp+sni", "")
        + &route("exact", "a.test/", &exact, "")
        + &route("secure", "s.test/", &secure, "proto=https")
        + &route("wild", "*.w.test/", &wild, "")
        + &route("any", "/", &[url("http", any.address)], "");
    let lb = Lb::start(&config(&text));
    let address = lb.address("tcp+sni");
    let trust = Trust::new(&ca);
    block_on(async {
        for name in ["a.test", "A.TEST", "s.test", "x.w.test"] {
            let answer = ask_through(&trust, address, name).await.unwrap();
            assert_eq!(answer, format!("{} HTTP/1.1", name.to_lowercase()));
        }
        // Unknown; no name at all (an address is none); under no glob.
        for name in ["b.test", "127.0.0.1", "w.test"] {
            let error = trust.connect(address, name).await.unwrap_err();
            assert!(!error.to_string().contains("certificate"), "{error}");
        }
    });
    assert_eq!(
        lb.metric(&format!("lb_no_route_total{{listener=\"{address}\"}}")),
        Some(3.0)
    );
    assert_eq!(
        lb.metric("lb_tcp_connections_total{service=\"exact\"}"),
        Some(2.0)
    );
    assert_eq!(any.connections(), 0, "a route of any host takes no TLS");
}

#[test]
fn a_hello_arrives_as_it_was_sent_however_it_was_cut() {
    let sockets = Sockets::start();
    let text = listener("tcp+sni", "") + &route("a", "a.test/", &[url("tcp", sockets.address)], "");
    let lb = Lb::start(&config(&text));
    let whole = hello("a.test");
    let more = b"\x14\x03\x03\0\x01\x01 and whatever follows";
    for (sent, segment) in [
        (whole.clone(), 1),
        (in_records(&whole, 1), 7),
        (in_records(&whole, 3), usize::MAX),
        (in_records(&whole, 100), 1),
        ([&whole[..], more].concat(), usize::MAX),
        (old_hello("a.test"), 1),
    ] {
        let mut client = connect(lb.address("tcp+sni"));
        for segment in sent.chunks(segment.min(sent.len())) {
            client.write_all(segment).unwrap();
        }
        let mut upstream = sockets.accept();
        let mut heard = vec![0; sent.len()];
        upstream.read_exact(&mut heard).unwrap();
        assert!(
            heard == sent,
            "{} bytes in segments of {segment}",
            sent.len()
        );
        // And it is a connection like any other from there on.
        upstream.write_all(b"answer").unwrap();
        drop(upstream);
        assert_eq!(read_to_end(&mut client), b"answer");
    }
}

#[test]
fn what_is_no_hello_is_closed_and_counted() {
    let sockets = Sockets::start();
    let text = listener("tcp+sni", "") + &route("a", "a.test/", &[url("tcp", sockets.address)], "");
    let lb = Lb::start(&config(&text));
    let address = lb.address("tcp+sni");
    // 40 KB that claim to be the beginning of a ClientHello of 64 KB, in records.
    let endless = {
        let hello = [&[0x16, 3, 1, 0, 0, 1, 0, 0xff, 0xf0][..], &[0; 40 << 10]].concat();
        in_records(&hello, 8 << 10)
    };
    let mut spoiled = hello("a.test");
    spoiled[40..].fill(0xff);
    let bad: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        b"SSH-2.0-x\r\n",
        &[0; 100],
        &[0x16; 100],
        &endless,
        &spoiled,
    ];
    for bytes in bad {
        let mut client = RawClient::connect(address);
        let mut sender = client.clone_for_sending();
        // It may be closed while this goes on.
        let bytes = bytes.to_vec();
        let sending = std::thread::spawn(move || {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                sender.send(bytes);
            }))
        });
        assert!(client.is_closed());
        drop(sending.join());
    }
    // Half a hello, then the end.
    let mut client = connect(address);
    client.write_all(&hello("a.test")[..50]).unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut client), b"");
    let faults = format!("lb_client_faults_total{{listener=\"{address}\",fault=\"tls\"}}");
    wait_until("counted faults", || lb.metric(&faults) == Some(7.0));
    // No other client noticed.
    let mut client = connect(address);
    client.write_all(&hello("a.test")).unwrap();
    sockets.accept();
}

#[test]
fn a_client_that_takes_too_long_for_its_hello_is_closed() {
    let sockets = Sockets::start();
    let text = listener("tcp+sni", "header_timeout = \"400ms\"")
        + &route("a", "a.test/", &[url("tcp", sockets.address)], "")
        + "[proxy]\nheader_timeout = \"1h\"\n";
    let lb = Lb::start(&config(&text));
    let address = lb.address("tcp+sni");
    let (mut silent, mut dripping) = (RawClient::connect(address), connect(address));
    let begun = Instant::now();
    for byte in hello("a.test") {
        if dripping.write_all(&[byte]).is_err() || begun.elapsed() > PATIENCE {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let took = begun.elapsed();
    assert!(
        took > Duration::from_millis(350) && took < Duration::from_secs(5),
        "{took:?}"
    );
    assert!(silent.is_closed());
    let faults = format!("lb_client_faults_total{{listener=\"{address}\",fault=\"too_slow\"}}");
    wait_until("counted faults", || lb.metric(&faults) == Some(2.0));
}

#[test]
fn a_proxy_header_is_taken_in_and_passed_on_before_the_hello() {
    let sockets = Sockets::start();
    let text = listener("tcp+sni", "proxy_protocol = true")
        + &route(
            "a",
            "a.test/",
            &[url("tcp", sockets.address)],
            "pxyproto=true",
        );
    let lb = Lb::start(&config(&text));
    let (address, hello) = (lb.address("tcp+sni"), hello("a.test"));
    let carried = b"PROXY TCP4 10.1.2.3 127.0.0.1 1234 80\r\n";
    for (header, source, port) in [
        (&carried[..], "10.1.2.3 ", 80),
        (b"", "127.0.0.1 ", address.port()),
    ] {
        let mut client = connect(address);
        client.write_all(&[header, &hello].concat()).unwrap();
        let mut upstream = sockets.accept();
        let line = String::from_utf8(read_until(&mut upstream, b"\r\n")).unwrap();
        assert!(line.starts_with(&format!("PROXY TCP4 {source}")), "{line}");
        assert!(line.ends_with(&format!(" {port}\r\n")), "{line}");
        let mut heard = vec![0; hello.len()];
        upstream.read_exact(&mut heard).unwrap();
        assert!(heard == hello);
    }
}

#[test]
fn names_without_a_tcp_route_are_served_as_https() {
    let folder = tempfile::tempdir().unwrap();
    let (own, theirs) = (Ca::new("own"), Ca::new("theirs"));
    let files = own
        .pair(&["web.test", "api.t.test", "nowhere.test"])
        .write(folder.path(), "site");
    let web = Upstream::start("web");
    let passed = [url("tcp", tls_upstream(&theirs, "db.test", "http/1.1"))];
    let wild = [url("tcp", tls_upstream(&theirs, "*.t.test", "http/1.1"))];
    let http = [url("http", web.address)];
    let text = listener("https+tcp+sni", "certificates = \"main\"\nproxy_protocol = true")
        + &format!("[certificates.main]\ncert_file = {:?}\nkey_file = {:?}\n", files.cert, files.key)
        + &route("db", "db.test/", &passed, "proto=tcp")
        + &route("wild", "*.t.test/", &wild, "proto=tcp")
        + &route("web", "web.test/", &http, "")
        // More specific than the glob: the name is one of the web, also for paths that it does not
        // route.
        + &route("web", "api.t.test/v1", &http, "");
    let lb = Lb::start(&config(&text));
    let address = lb.address("https+tcp+sni");
    block_on(async {
        let (mine, trust) = (Trust::new(&own), Trust::new(&theirs));
        for name in ["db.test", "x.t.test"] {
            assert_eq!(
                ask_through(&trust, address, name).await.unwrap(),
                format!("{name} HTTP/1.1")
            );
        }
        for (name, path, status) in [
            ("web.test", "/", 200),
            ("api.t.test", "/v1", 200),
            ("api.t.test", "/", 200),
            ("nowhere.test", "/", 404),
        ] {
            for alpn in ["h2", "http/1.1"] {
                let stream = mine
                    .clone()
                    .with_alpn(&[alpn])
                    .connect(address, name)
                    .await
                    .unwrap();
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn.as_bytes()));
                if alpn == "h2" && path != "/" {
                    let (mut client, _) = h2_on(stream, 1 << 20).await;
                    let (parts, _, _) =
                        ask(&mut client, get(&format!("https://{name}{path}"))).await;
                    assert_eq!(parts.status, status, "{name}{path}");
                }
            }
        }
        // The response of the web side, with the address that a PROXY header carries.
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream
            .write_all(b"PROXY TCP4 10.1.2.3 127.0.0.1 1234 80\r\n")
            .await
            .unwrap();
        let mut stream = mine.shake_hands(stream, "web.test").await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains("10.1.2.3"),
            "{answer}"
        );
        // No name: the first certificate, which is not one for this client.
        let error = mine
            .connect(address, "127.0.0.1")
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("not valid for name"), "{error}");
    });
    // What is not TLS gets an alert, and plain HTTP a response in its own words, as on an https
    // listener.
    let answer = RawClient::connect(address)
        .send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .response()
        .unwrap();
    assert_eq!(answer.status, 400);
    let answer = RawClient::connect(address)
        .send("SSH-2.0-client\r\n")
        .rest();
    assert_eq!(answer.first(), Some(&0x15), "{answer:?}");
}

#[test]
fn openssl_is_passed_through_in_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new("upstreams");
    let trusted = ca.write(folder.path(), "ca");
    let text = listener("tcp+sni", "")
        + &route(
            "a",
            "a.test/",
            &[url("tcp", tls_upstream(&ca, "a.test", "http/1.1"))],
            "",
        );
    let lb = Lb::start(&config(&text));
    for version in ["-tls1_2", "-tls1_3"] {
        let output = std::process::Command::new("openssl")
            .args([
                "s_client",
                "-brief",
                "-verify_return_error",
                version,
                "-servername",
                "a.test",
                "-verify_hostname",
            ])
            .args([
                "a.test",
                "-CAfile",
                trusted.to_str().unwrap(),
                "-connect",
                &lb.address("tcp+sni").to_string(),
            ])
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.contains("Verification: OK"),
            "{version}: {said}"
        );
    }
}

#[test]
fn limits_of_a_listener_hold_in_its_handshakes() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new("own");
    let files = ca.pair(&["a.test"]).write(folder.path(), "site");
    let web = Upstream::start("web");
    let one = "tls_max = \"1.2\"\ntls_ciphers = [\"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\"]";
    let text = listener("https", &format!("certificates = \"main\"\n{one}"))
        + &listener("https", "certificates = \"main\"\ntls_min = \"1.3\"")
        + &format!(
            "[certificates.main]\ncert_file = {:?}\nkey_file = {:?}\n",
            files.cert, files.key
        )
        + &route("web", "/", &[url("http", web.address)], "");
    let lb = Lb::start(&config(&text));
    let addresses = lb.addresses("https", 2);
    block_on(async {
        let (v12, v13) = (&rustls::version::TLS12, &rustls::version::TLS13);
        for (version, at, suite) in [
            (
                v12,
                0,
                Some(rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
            ),
            (v13, 0, None),
            (v12, 1, None),
            (v13, 1, Some(rustls::CipherSuite::TLS13_AES_256_GCM_SHA384)),
        ] {
            let stream = Trust::with(&ca, None, &[version])
                .connect(addresses[at], "a.test")
                .await;
            let chosen = stream
                .ok()
                .and_then(|stream| stream.get_ref().1.negotiated_cipher_suite());
            assert_eq!(
                chosen.map(|chosen| chosen.suite()),
                suite,
                "{version:?} at {at}"
            );
        }
    });
}

/// Tunnels go on until the deadline of the drain; a hello that is not finished holds nothing up.
#[test]
fn a_drain_lets_tunnels_go_on_and_waits_for_no_hello() {
    let sockets = Sockets::start();
    let text = listener("tcp+sni", "")
        + &route("a", "a.test/", &[url("tcp", sockets.address)], "")
        + "[proxy]\nheader_timeout = \"1h\"\n[drain]\ntimeout = \"1h\"\n";
    let mut lb = Lb::start(&config(&text));
    let address = lb.address("tcp+sni");
    let (mut half, mut client) = (connect(address), connect(address));
    half.write_all(&hello("a.test")[..20]).unwrap();
    client.write_all(&hello("a.test")).unwrap();
    let mut upstream = sockets.accept();
    lb.sigterm();
    assert_eq!(read_to_end(&mut half), b"");
    wait_until("no new connections", || {
        TcpStream::connect(address).is_err()
    });
    upstream.write_all(b"still here").unwrap();
    let mut heard = [0; 10];
    client.read_exact(&mut heard).unwrap();
    assert!(lb.is_running());
    drop((client, upstream));
    assert_eq!(lb.exit_code(), Some(0));
}

/// The `shown` certificate changes with the route, live.
#[test]
fn a_name_that_gets_a_tcp_route_is_passed_on_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let (own, theirs) = (Ca::new("own"), Ca::new("theirs"));
    let files = own.pair(&["a.test"]).write(folder.path(), "site");
    let routes = folder.path().join("routes.txt");
    let web = Upstream::start("web");
    std::fs::write(
        &routes,
        format!("route add web a.test/ http://{}/\n", web.address),
    )
    .unwrap();
    let text = format!("routes_file = {routes:?}\n")
        + &listener("https+tcp+sni", "certificates = \"main\"")
        + &format!(
            "[certificates.main]\ncert_file = {:?}\nkey_file = {:?}\n",
            files.cert, files.key
        );
    let lb = Lb::start(&config(&text));
    let address = lb.address("https+tcp+sni");
    let upstream = tls_upstream(&theirs, "a.test", "http/1.1");
    block_on(async {
        let (mine, trust) = (Trust::new(&own), Trust::new(&theirs));
        let before = mine.connect(address, "a.test").await.unwrap();
        std::fs::write(&routes, format!("route add db a.test/ tcp://{upstream}\n")).unwrap();
        wait_until_async("the upstream's certificate", async || {
            trust.connect(address, "a.test").await.is_ok()
        })
        .await;
        let after = trust.connect(address, "a.test").await.unwrap();
        assert_ne!(shown(&before), shown(&after));
    });
}
