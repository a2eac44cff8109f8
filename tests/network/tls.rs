//! TLS on both sides: which certificate, which clients are let in, what a reload does, and how
//! upstreams are verified.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use lb::admin::client::{Access, RoutesFormat, routes};

use super::support::certs::{Ca, Pair};
use super::support::client;
use super::support::lb::Lb;
use super::support::upstream::{TcpEcho, Upstream};
use super::wire::*;
use crate::support::loopback::free_port;
use crate::support::wait::{PATIENCE, wait_until, wait_until_async};

/// A TLS client.
#[derive(Clone)]
pub struct Trust(ClientConfig);

impl Trust {
    /// One that trusts this CA and shows no certificate.
    pub fn new(ca: &Ca) -> Self {
        Self::with_identity(ca, None)
    }

    /// The same with the CA's text.
    pub fn with_pem(ca: &str) -> Self {
        let versions = &[&rustls::version::TLS13, &rustls::version::TLS12];
        Self::with_text(ca, None, versions)
    }

    pub fn with_identity(ca: &Ca, identity: Option<&Pair>) -> Self {
        let versions = &[&rustls::version::TLS13, &rustls::version::TLS12];
        Self::with(ca, identity, versions)
    }

    pub fn with(
        ca: &Ca,
        identity: Option<&Pair>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Self {
        Self::with_text(&ca.pem, identity, versions)
    }

    fn with_text(
        ca: &str,
        identity: Option<&Pair>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap();
        let builder = builder.with_root_certificates(roots);
        Self(match identity {
            Some(pair) => builder
                .with_client_auth_cert(chain(pair), key(pair))
                .unwrap(),
            None => builder.with_no_client_auth(),
        })
    }

    /// The same with these protocols inside.
    pub fn with_alpn(mut self, protocols: &[&str]) -> Self {
        self.0.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        self
    }

    /// Shakes hands; the name is sent and verified.
    pub async fn connect(
        &self,
        address: SocketAddr,
        name: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        self.shake_hands(TcpStream::connect(address).await?, name)
            .await
    }

    /// The same on a connection that is open.
    pub async fn shake_hands(
        &self,
        stream: TcpStream,
        name: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let connector = TlsConnector::from(Arc::new(self.0.clone()));
        connector
            .connect(ServerName::try_from(name.to_owned()).unwrap(), stream)
            .await
    }

    /// One exchange in HTTP/1.1; none when the connection ended before a response. In TLS 1.3 a
    /// client learns after its handshake that it is not let in.
    pub async fn get(&self, address: SocketAddr, name: &str) -> std::io::Result<String> {
        self.get_path(address, name, "/").await
    }

    /// The same for another path.
    pub async fn get_path(
        &self,
        address: SocketAddr,
        name: &str,
        path: &str,
    ) -> std::io::Result<String> {
        let mut stream = self.connect(address, name).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}

fn chain(pair: &Pair) -> Vec<CertificateDer<'static>> {
    vec![CertificateDer::from_pem_slice(pair.cert_pem.as_bytes()).unwrap()]
}

fn key(pair: &Pair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap()
}

pub fn shown<T>(stream: &TlsStream<T>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0]
        .clone()
        .into_owned()
}

pub fn file_source(files: &super::support::certs::PairFiles, more: &str) -> String {
    format!(
        "[certificates.main]\nsource = \"file\"\ncert_file = {:?}\nkey_file = {:?}\n{more}\n",
        files.cert, files.key
    )
}

#[test]
fn the_name_chooses_the_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new("ca");
    let (first, exact, wild) = (
        ca.pair(&["a.test"]),
        ca.pair(&["b.test"]),
        ca.pair(&["*.w.test"]),
    );
    for (name, pair) in [("1-first", &first), ("2-exact", &exact), ("3-wild", &wild)] {
        std::fs::write(
            folder.path().join(format!("{name}-cert.pem")),
            &pair.cert_pem,
        )
        .unwrap();
        std::fs::write(folder.path().join(format!("{name}-key.pem")), &pair.key_pem).unwrap();
    }
    let upstream = Upstream::start("u");
    let text = listener("https", "certificates = \"main\"")
        + &listener("https", "certificates = \"main\"\nstrict_sni = true")
        + &format!(
            "[certificates.main]\nsource = \"path\"\npath = {:?}\n",
            folder.path()
        )
        + &route("web", "/", &[url("http", upstream.address)], "");
    let lb = Lb::start(&config(&text));
    let addresses = lb.addresses("https", 2);
    block_on(async {
        let trust = Trust::new(&ca);
        for (name, wanted) in [
            ("a.test", &first),
            ("b.test", &exact),
            ("B.TEST", &exact),
            ("x.w.test", &wild),
        ] {
            for address in &addresses {
                let stream = trust.connect(*address, name).await.unwrap();
                assert_eq!(shown(&stream), chain(wanted)[0], "{name}");
            }
        }
        // No certificate for it: the first one, which this client does not take; and none at all
        // when strict.
        let error = trust
            .connect(addresses[0], "c.test")
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("not valid for name"), "{error}");
        let error = trust
            .connect(addresses[1], "c.test")
            .await
            .unwrap_err()
            .to_string();
        assert!(!error.contains("not valid for name"), "{error}");
    });
    let expiries = lb.admin("/metrics").1;
    let expiries = expiries
        .lines()
        .filter(|line| line.starts_with("lb_certificate_expiry_timestamp_seconds{source=\"main\""));
    assert_eq!(expiries.count(), 3);
}

#[test]
fn both_versions_serve_and_both_resume() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new("ca");
    let files = ca.pair(&["a.test"]).write(folder.path(), "site");
    let upstream = Upstream::start("u");
    let text = listener("https", "certificates = \"main\"")
        + &file_source(&files, "")
        + &route("web", "/", &[url("http", upstream.address)], "");
    let lb = Lb::start(&config(&text));
    block_on(async {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let trust = Trust::with(&ca, None, &[version]);
            let config = Arc::new(trust.0);
            for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
                let stream = TcpStream::connect(lb.address("https")).await.unwrap();
                let name = ServerName::try_from("a.test").unwrap();
                let mut stream = TlsConnector::from(Arc::clone(&config))
                    .connect(name, stream)
                    .await
                    .unwrap();
                stream
                    .write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
                    .await
                    .unwrap();
                let mut answer = Vec::new();
                stream
                    .read_to_end(&mut answer)
                    .await
                    .expect("an end that TLS announced");
                assert!(answer.starts_with(b"HTTP/1.1 200"));
                assert_eq!(
                    stream.get_ref().1.handshake_kind(),
                    Some(kind),
                    "{version:?}"
                );
            }
        }
        for (offered, chosen) in [
            (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
            (&["http/1.1"], Some(b"http/1.1")),
            (&[], None),
        ] {
            let stream = Trust::new(&ca)
                .with_alpn(offered)
                .connect(lb.address("https"), "a.test")
                .await
                .unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), chosen);
        }
    });
}

#[test]
fn client_certificates_are_demanded_or_welcome() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, clients, strangers) = (Ca::new("ca"), Ca::new("clients"), Ca::new("strangers"));
    let files = ca.pair(&["a.test"]).write(folder.path(), "site");
    let client_ca = clients.write(folder.path(), "clients");
    let upstream = Upstream::start("u");
    let (known, stranger) = (clients.pair(&["client"]), strangers.pair(&["client"]));
    for optional in [false, true] {
        let auth = if optional {
            "client_auth = \"optional\""
        } else {
            ""
        };
        let text = listener("https", "certificates = \"main\"")
            + &file_source(&files, &format!("client_ca_file = {client_ca:?}\n{auth}"))
            + &route("web", "/", &[url("http", upstream.address)], "");
        let lb = Lb::start(&config(&text));
        let address = lb.address("https");
        block_on(async {
            for versions in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
                let get = async |identity: Option<&Pair>| {
                    Trust::with(&ca, identity, versions)
                        .get(address, "a.test")
                        .await
                };
                assert!(get(Some(&known)).await.unwrap().starts_with("HTTP/1.1 200"));
                assert!(get(Some(&stranger)).await.is_err(), "of another CA");
                assert_eq!(get(None).await.is_ok(), optional, "without any");
            }
        });
    }
}

/// The whole life of a pair: replaced by file and by signal, under an open connection; then
/// spoiled.
#[test]
fn a_changed_pair_is_taken_over_and_a_bad_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new("ca");
    let pairs: Vec<Pair> = (0..3).map(|_| ca.pair(&["a.test"])).collect();
    let files = pairs[0].write(folder.path(), "site");
    let upstream = Upstream::start("u");
    let text = listener("https", "certificates = \"main\"")
        + &file_source(&files, "")
        + &route("web", "/", &[url("http", upstream.address)], "");
    let lb = Lb::start(&config(&text));
    let address = lb.address("https");
    let trust = Trust::new(&ca);
    let shows = |pair: &Pair| {
        block_on(async {
            shown(&trust.connect(address, "a.test").await.unwrap()) == chain(pair)[0]
        })
    };
    block_on(async {
        let stream = trust
            .clone()
            .with_alpn(&["h2"])
            .connect(address, "a.test")
            .await
            .unwrap();
        let (mut client, _) = h2_on(stream, 1 << 20).await;
        for (at, pair) in pairs.iter().enumerate() {
            if at > 0 {
                pair.write(folder.path(), "site");
                if at == 1 {
                    lb.sighup();
                }
                wait_until_async("its certificate", async || {
                    shown(&trust.connect(address, "a.test").await.unwrap()) == chain(pair)[0]
                })
                .await;
            }
            let (parts, _, _) = ask(&mut client, get("https://a.test/")).await;
            assert_eq!(parts.status, 200, "on the connection from before");
        }
    });
    let errors = "lb_reload_errors_total{kind=\"certificates\"}";
    let before = lb.metric(errors).unwrap();
    // A key that is another's, then no PEM at all.
    std::fs::write(&files.key, &pairs[0].key_pem).unwrap();
    lb.sighup();
    wait_until("a counted mismatch", || lb.metric(errors).unwrap() > before);
    lb.wait_for_line("the mismatch", |line| {
        line.contains("cannot be used together")
    });
    assert!(shows(&pairs[2]));
    let before = lb.metric(errors).unwrap();
    std::fs::write(&files.cert, "nonsense").unwrap();
    lb.sighup();
    wait_until("counted nonsense", || lb.metric(errors).unwrap() > before);
    assert!(shows(&pairs[2]));
}

/// An HTTP upstream behind TLS, with a certificate for this name alone. Responds with the name that
/// the client named in its handshake.
pub fn tls_upstream(ca: &Ca, name: &str, protocol: &'static str) -> SocketAddr {
    let pair = ca.pair(&[name]);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let mut config = builder
        .with_no_client_auth()
        .with_single_cert(chain(&pair), key(&pair))
        .unwrap();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async move {
            let socket = tokio::net::TcpListener::from_std(socket).unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(config));
            while let Ok((stream, _)) = socket.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let name = stream
                        .get_ref()
                        .1
                        .server_name()
                        .unwrap_or("none")
                        .to_owned();
                    let service =
                        service_fn(move |request: http::Request<hyper::body::Incoming>| {
                            let text = format!("{name} {:?}", request.version());
                            async {
                                Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(
                                    bytes::Bytes::from(text),
                                )))
                            }
                        });
                    let io = TokioIo::new(stream);
                    if protocol == "h2" {
                        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(io, service)
                            .await;
                    } else {
                        let _ = hyper::server::conn::http1::Builder::new()
                            .serve_connection(io, service)
                            .await;
                    }
                });
            }
        });
    });
    address
}

#[test]
fn upstreams_are_verified_by_the_name_of_the_route_unless_told_not_to() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let trusted = ca.write(folder.path(), "ca");
    let good = [url("https", tls_upstream(&ca, "svc.test", "http/1.1"))];
    let by_address = [url("https", tls_upstream(&ca, "127.0.0.1", "http/1.1"))];
    let untrusted = [url("https", tls_upstream(&other, "svc.test", "http/1.1"))];
    let http2 = [url("http", tls_upstream(&ca, "svc.test", "h2"))];
    let text = listener("http", "")
        + &route("a", "named/", &good, "proto=https host=svc.test")
        + &route("b", "misnamed/", &good, "proto=https host=other.test")
        + &route("c", "address/", &by_address, "proto=https")
        + &route("d", "untrusted/", &untrusted, "proto=https host=svc.test")
        + &route(
            "e",
            "skipped/",
            &untrusted,
            "proto=https host=any.test tlsskipverify=true",
        )
        + &route("f", "h2/", &http2, "proto=h2 host=svc.test")
        + &route("g", "grpcs/", &http2, "proto=grpcs grpcservername=svc.test")
        + &format!("[proxy]\nupstream_ca_file = {trusted:?}\n");
    let lb = Lb::start(&config(&text));
    for (host, status, body) in [
        ("named", 200, "svc.test HTTP/1.1"),
        ("misnamed", 502, ""),
        ("address", 200, "none HTTP/1.1"),
        ("untrusted", 502, ""),
        ("skipped", 200, "any.test HTTP/1.1"),
        ("h2", 200, "svc.test HTTP/2.0"),
        ("grpcs", 200, "svc.test HTTP/2.0"),
    ] {
        let answer = client::get(lb.address("http"), host, "/");
        assert_eq!(answer.status, status, "{host}: {}", answer.text());
        if status == 200 {
            assert_eq!(answer.text(), body, "{host}");
        }
    }
    assert_eq!(
        lb.metric("lb_upstream_connects_total{service=\"b\",result=\"tls\"}"),
        Some(1.0)
    );
}

#[test]
fn tcp_listeners_end_tls_and_keep_half_close() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new("ca");
    let files = ca.pair(&["a.test"]).write(folder.path(), "site");
    let echo = TcpEcho::start("hello ", " bye");
    let port = free_port();
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:{port}\"\nprotocol = \"tcp\"\ncertificates = \"main\"\n"
    ) + &file_source(&files, "")
        + &route("echo", &format!(":{port}"), &[url("tcp", echo.address)], "");
    let lb = Lb::start(&config(&text));
    block_on(async {
        let mut stream = Trust::new(&ca)
            .connect(lb.address("tcp"), "a.test")
            .await
            .unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), None);
        stream.write_all(b"text").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "hello text bye");
    });
}

/// Neither a port scan nor a client in clear nor one that stops in its handshake holds anything for
/// long.
#[test]
fn clients_without_tls_are_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new("ca");
    let files = ca.pair(&["a.test"]).write(folder.path(), "site");
    let text = listener("https", "certificates = \"main\"")
        + &file_source(&files, "")
        + &route(
            "web",
            "/",
            &[url("http", "127.0.0.1:1".parse().unwrap())],
            "",
        )
        + "[proxy]\nheader_timeout = \"300ms\"\n";
    let lb = Lb::start(&config(&text));
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"[..],
        b"",
        b"\x16\x03\x01",
    ] {
        let mut socket = std::net::TcpStream::connect(lb.address("https")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(bytes).unwrap();
        let answer = read_to_end(&mut socket);
        // Plain HTTP is told what is wrong, and gets nothing else.
        let told = bytes.starts_with(b"GET");
        assert_eq!(answer.starts_with(b"HTTP/1.1 400 "), told, "{answer:?}");
        assert!(told || !answer.starts_with(b"HTTP"), "{answer:?}");
    }
}

#[test]
fn the_admin_listener_speaks_tls_and_follows_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new("ca");
    let (first, second) = (ca.pair(&["lb.test"]), ca.pair(&["lb.test", "localhost"]));
    let files = first.write(folder.path(), "site");
    let upstream = Upstream::start("u");
    let admin = "[admin]\naddress = \"127.0.0.1:0\"\n";
    let text = config(
        &(file_source(&files, "")
            + &listener("http", "")
            + &route("web", "/", &[url("http", upstream.address)], "")),
    );
    assert!(text.contains(admin), "{text}");
    let lb = Lb::start(&text.replace(
        admin,
        &format!("{admin}certificates = \"main\"\ntls_min = \"1.3\"\n"),
    ));
    let address = lb.address("admin");
    block_on(async {
        let trust = Trust::new(&ca);
        let answer = trust.get(address, "lb.test").await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.contains("<title>lb</title>"),
            "{answer}"
        );
        let old = Trust::with(&ca, None, &[&rustls::version::TLS12]);
        old.connect(address, "lb.test").await.unwrap_err();
        assert_eq!(
            shown(&trust.connect(address, "lb.test").await.unwrap()),
            chain(&first)[0]
        );
        second.write(folder.path(), "site");
        lb.sighup();
        wait_until_async("the new certificate", async || {
            shown(&trust.connect(address, "lb.test").await.unwrap()) == chain(&second)[0]
        })
        .await;
        let mut access = Access {
            url: format!("https://{address}"),
            ..Access::default()
        };
        let error = routes(&access, RoutesFormat::Fabio)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("UnknownIssuer") && error.contains("--admin-ca"),
            "{error}"
        );
        access.ca = Some(ca.write(folder.path(), "ca"));
        let error = routes(&access, RoutesFormat::Fabio)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("not valid for name"),
            "the certificate is not for this address: {error}"
        );
        access.url = format!("https://localhost:{}", address.port());
        assert!(
            routes(&access, RoutesFormat::Fabio)
                .await
                .unwrap()
                .starts_with("route add web / ")
        );
        // A client that speaks plainly gets no response, and a silent one keeps no other waiting.
        let _silent = TcpStream::connect(address).await.unwrap();
        let mut plain = TcpStream::connect(address).await.unwrap();
        plain
            .write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer).await;
        assert!(
            !answer.starts_with(b"HTTP/"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    });
}

/// A browser that meets an error must not forget that it has to come by TLS.
#[test]
fn errors_of_the_proxy_keep_strict_transport_security() {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::new("ca");
    let files = ca.pair(&["site.test"]).write(folder.path(), "site");
    let upstream = Upstream::start("u");
    let target = [url("http", upstream.address)];
    let text = "[proxy]\nsts_max_age = 60\n".to_owned()
        + &listener("https", "certificates = \"main\"")
        + &listener("http", "")
        + &file_source(&files, "")
        + &route("web", "/", &target, "");
    let lb = Lb::start(&config(&text));
    let ask = || {
        block_on(Trust::new(&ca).get(lb.address("https"), "site.test"))
            .unwrap()
            .to_ascii_lowercase()
    };
    let field = "\r\nstrict-transport-security: max-age=60\r\n";
    let answer = ask();
    assert!(
        answer.starts_with("http/1.1 200 ") && answer.contains(field),
        "{answer}"
    );
    upstream.kill();
    let answer = ask();
    assert!(
        answer.starts_with("http/1.1 502 ") && answer.contains(field),
        "{answer}"
    );
    let plain = client::get(lb.address("http"), "site.test", "/");
    assert_eq!(
        (plain.status, plain.header("strict-transport-security")),
        (502, None)
    );
}
