//! Routes with `cert=NAME`: which certificate an instance is shown, and what becomes of connections
//! when it changes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::support::certs::{Ca, Pair};
use super::support::client::{RawResponse, exchange};
use super::support::lb::Lb;
use super::wire::*;
use crate::support::wait::wait_until;

/// An instance that wants a certificate of this CA, and responds with the one that it was shown.
struct Instance {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Instance {
    fn start(own: &Pair, clients: &Ca) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(der(&clients.pem)).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let key = PrivateKeyDer::from_pem_slice(own.key_pem.as_bytes()).unwrap();
        let mut config = builder
            .with_client_cert_verifier(verifier.build().unwrap())
            .with_single_cert(vec![der(&own.cert_pem)], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((socket, _)) = listener.accept().await {
                    let (acceptor, counted) = (acceptor.clone(), Arc::clone(&counted));
                    tokio::spawn(serve(acceptor, socket, counted));
                }
            });
        });
        Self {
            address,
            connections,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

async fn serve(acceptor: TlsAcceptor, socket: tokio::net::TcpStream, counted: Arc<AtomicUsize>) {
    let Ok(stream) = acceptor.accept(socket).await else {
        return;
    };
    counted.fetch_add(1, SeqCst);
    let connection = stream.get_ref().1;
    let shown = connection.peer_certificates().unwrap()[0].to_vec();
    let is_h2 = connection.alpn_protocol() == Some(b"h2");
    let respond = service_fn(move |_: Request<Incoming>| {
        let shown = shown.clone();
        async move { Ok::<_, Infallible>(Response::new(full(shown))) }
    });
    let io = TokioIo::new(stream);
    if is_h2 {
        let server = http2::Builder::new(TokioExecutor::new());
        server.serve_connection(io, respond).await.ok();
    } else {
        http1::Builder::new()
            .serve_connection(io, respond)
            .await
            .ok();
    }
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

fn get(lb: &Lb, path: &str) -> RawResponse {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
    exchange(lb.address("http"), request).expect("a response")
}

/// The certificate that the instance of this path was shown.
fn shown(lb: &Lb, path: &str) -> Vec<u8> {
    let response = get(lb, path);
    assert_eq!(response.status, 200, "{path}: {}", response.text());
    response.body
}

fn source(folder: &Path, name: &str, pair: &Pair) -> String {
    let files = pair.write(folder, name);
    format!(
        "[certificates.{name}]\ncert_file = {:?}\nkey_file = {:?}\n",
        files.cert, files.key
    )
}

#[test]
fn each_route_shows_its_certificate_and_a_new_one_counts_for_new_connections() {
    let folder = tempfile::tempdir().unwrap();
    let (servers, clients) = (Ca::new("servers"), Ca::new("clients"));
    let servers_file = servers.write(folder.path(), "servers");
    let instance = Instance::start(&servers.pair(&["127.0.0.1"]), &clients);
    let (one, two) = (clients.pair(&["one"]), clients.pair(&["two"]));
    let to = |scheme: &str| [url(scheme, instance.address)];
    let text = listener("http", "")
        + &route("one", "/one", &to("https"), "proto=https cert=one")
        + &route("two", "/two", &to("https"), "proto=https cert=two")
        + &route("h2", "/h2", &to("h2"), "proto=h2 cert=two")
        + &route("grpcs", "/grpcs", &to("grpcs"), "proto=grpcs cert=one")
        + &route("bare", "/bare", &to("https"), "proto=https")
        + &route("typo", "/typo", &to("https"), "proto=https cert=oen")
        + &route("empty", "/empty", &to("https"), "proto=https cert=")
        + &format!("[proxy]\nworkers = 1\nupstream_ca_file = {servers_file:?}\n")
        + &source(folder.path(), "one", &one)
        + &source(folder.path(), "two", &two);
    let lb = Lb::start(&config(&text));
    lb.wait_ready();
    let (one_der, two_der) = (der(&one.cert_pem), der(&two.cert_pem));
    // Alternately: a connection of the one is never used for the other, though all lead to one
    // address.
    for _ in 0..3 {
        assert_eq!(shown(&lb, "/one"), one_der.as_ref());
        assert_eq!(shown(&lb, "/two"), two_der.as_ref());
        assert_eq!(shown(&lb, "/h2"), two_der.as_ref());
        assert_eq!(shown(&lb, "/grpcs"), one_der.as_ref());
    }
    assert_eq!(instance.connections(), 4, "each is used again");
    // Without a certificate the instance refuses; a name that is not there is not tried.
    assert_eq!(get(&lb, "/bare").status, 502);
    for path in ["/typo", "/empty"] {
        let response = get(&lb, path);
        assert_eq!(
            (response.status, response.text().as_str()),
            (503, "the route is closed\n")
        );
    }
    assert_eq!(instance.connections(), 4);
    lb.wait_admin("/api/services", "a remark", |text| {
        text.contains("there is no [certificates.oen]")
    });

    // Another certificate in the same files.
    let next = clients.pair(&["one"]);
    next.write(folder.path(), "one");
    let next_der = der(&next.cert_pem);
    wait_until("the new certificate", || {
        shown(&lb, "/one") == next_der.as_ref()
    });
    assert_eq!(shown(&lb, "/grpcs"), next_der.as_ref());
    assert_eq!(shown(&lb, "/two"), two_der.as_ref());
    // The other one's connection goes on being used.
    assert_eq!(instance.connections(), 6);
}
