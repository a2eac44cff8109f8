//! A small web server of a test: HTTP/1.1, in clear or by TLS, with the responses that the test
//! names.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::certs::Pair;

/// How long a connection may be silent; it ends then.
const IDLE: Duration = Duration::from_secs(60);

/// A request that came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// With its query.
    pub target: String,
    /// As they came, one a line.
    pub head: String,
    pub body: Vec<u8>,
}

impl Asked {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Status and body.
pub type Answer = (u16, Vec<u8>);

type Handler = dyn Fn(&Asked) -> Answer + Send + Sync;

/// The server; its thread ends with the test's process.
pub struct WebServer {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Asked>>>,
}

impl WebServer {
    /// In clear.
    pub fn start(handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::listen(None, Arc::new(handler))
    }

    /// By TLS, with this pair.
    pub fn start_tls(
        pair: &Pair,
        handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let chain = vec![CertificateDer::from_pem_slice(pair.cert_pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = builder
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Self::listen(Some(Arc::new(config)), Arc::new(handler))
    }

    fn listen(tls: Option<Arc<ServerConfig>>, handler: Arc<Handler>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (tls, handler, seen) = (tls.clone(), Arc::clone(&handler), Arc::clone(&kept));
                std::thread::spawn(move || serve(socket, tls, &*handler, &seen));
            }
        });
        Self { address, seen }
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Asked> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(
    socket: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    handler: &Handler,
    seen: &Mutex<Vec<Asked>>,
) {
    socket.set_read_timeout(Some(IDLE)).ok();
    match tls {
        None => talk(socket, handler, seen),
        Some(config) => {
            let Ok(connection) = ServerConnection::new(config) else {
                return;
            };
            talk(StreamOwned::new(connection, socket), handler, seen);
        }
    }
}

fn talk(mut io: impl Read + Write, handler: &Handler, seen: &Mutex<Vec<Asked>>) {
    while let Some(asked) = read(&mut io) {
        let (status, body) = handler(&asked);
        seen.lock().unwrap().push(asked);
        let head = format!(
            "HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        if io
            .write_all(head.as_bytes())
            .and_then(|()| io.write_all(&body))
            .and_then(|()| io.flush())
            .is_err()
        {
            return;
        }
    }
}

fn read(io: &mut impl Read) -> Option<Asked> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if io.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let mut words = head.lines().next()?.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut asked = Asked {
        method,
        target,
        head,
        body: Vec::new(),
    };
    let length = asked
        .header("content-length")
        .and_then(|text| text.parse().ok())
        .unwrap_or(0);
    asked.body.resize(length, 0);
    io.read_exact(&mut asked.body).ok()?;
    Some(asked)
}
