//! Writes to a real agent, fast: one connection for all of them.

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::support::consul::ConsulAgent;

/// The node of all that is registered: one that no agent looks after.
pub const NODE: &str = "elsewhere";
/// Operations of one transaction: what Consul takes.
const OPERATIONS_MAX: usize = 64;

/// Writes to the catalog over one connection.
pub struct Api<'a> {
    runtime: &'a Runtime,
    sender: RefCell<SendRequest<Full<Bytes>>>,
    host: String,
}

impl<'a> Api<'a> {
    /// Connects: over TLS with the client certificate of the agent's CA, or over plain HTTP, as the
    /// agent does.
    pub fn connect(runtime: &'a Runtime, agent: &ConsulAgent) -> Self {
        let ip: IpAddr = agent.ip.parse().expect("an address");
        if !agent.is_tls() {
            let sender = runtime.block_on(async {
                let socket = TcpStream::connect((ip, 8500)).await.expect("the agent");
                socket.set_nodelay(true).expect("nodelay");
                let (sender, connection) = handshake(TokioIo::new(socket)).await.expect("HTTP");
                tokio::spawn(connection);
                sender
            });
            return Self {
                runtime,
                sender: RefCell::new(sender),
                host: format!("{ip}:8500"),
            };
        }
        let path = |file: &str| agent.certificates().path(file);
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(path("ca.pem")).expect("CA"))
            .expect("CA");
        let chain = vec![CertificateDer::from_pem_file(path("client.pem")).expect("certificate")];
        let key = PrivateKeyDer::from_pem_file(path("client-key.pem")).expect("key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .expect("certificate and key");
        let sender = runtime.block_on(async {
            let socket = TcpStream::connect((ip, 8501)).await.expect("the agent");
            socket.set_nodelay(true).expect("nodelay");
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let stream = connector
                .connect(ServerName::from(ip), socket)
                .await
                .expect("TLS");
            let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP");
            tokio::spawn(connection);
            sender
        });
        Self {
            runtime,
            sender: RefCell::new(sender),
            host: format!("{ip}:8501"),
        }
    }

    /// Writes; panics unless it is taken.
    pub fn put(&self, path: &str, body: &Value) {
        self.send(Method::PUT, path, body.to_string());
    }

    /// Sets a key of the KV store.
    pub fn put_key(&self, key: &str, value: String) {
        self.send(Method::PUT, &format!("/v1/kv/{key}"), value);
    }

    /// Reads; returns the body.
    pub fn get(&self, path: &str) -> Bytes {
        self.send(Method::GET, path, String::new())
    }

    /// Sets services, checks and nodes, as many in a transaction as Consul takes.
    pub fn transact(&self, operations: &[Value]) {
        for chunk in operations.chunks(OPERATIONS_MAX) {
            self.put("/v1/txn", &json!(chunk));
        }
    }

    fn send(&self, method: Method, path: &str, body: String) -> Bytes {
        let what = format!("{method} {path}");
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host);
        let request = request.body(Full::from(body)).expect("a request");
        let (status, body) = self.runtime.block_on(async {
            let ready =
                std::future::poll_fn(|context| self.sender.borrow_mut().poll_ready(context));
            ready.await.expect("an open connection");
            let answer = self.sender.borrow_mut().send_request(request);
            let answer = answer.await.expect("a response");
            (
                answer.status(),
                answer
                    .into_body()
                    .collect()
                    .await
                    .expect("a body")
                    .to_bytes(),
            )
        });
        assert!(
            status.is_success(),
            "{what}: {status} {}",
            String::from_utf8_lossy(&body)
        );
        body
    }
}

/// A check of one instance, as the catalog holds it.
pub fn check(id: &str, service: &str, status: &str) -> Value {
    json!({"Node": NODE, "CheckID": format!("check:{id}"), "Name": "alive", "Status": status, "ServiceID": id,
        "ServiceName": service})
}
