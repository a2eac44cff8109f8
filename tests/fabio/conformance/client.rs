//! Sends what a case says, and tells what came back.
//!
//! | `ask` | does |
//! |---|---|
//! | `GET HOST/PATH`, or another method | one request over HTTP/1.1, on a connection of its own |
//! | `HTTPS NAME HOST/PATH` | GET over TLS with this server name (`-`: none) |
//! | `H2 NAME HOST/PATH` | the same over HTTP/2 |
//! | `WS HOST/PATH` | a websocket handshake, then one frame there and back |
//! | `GRPC [HOST] /PATH` | one call |
//! | `GRPCS NAME [HOST] /PATH` | the same over TLS |
//! | `TCP TEXT` | sends the text, reads until the response that is wanted, or the end |
//! | `RAW TEXT` | sends exactly this (`\r`, `\n`, `\xNN` are written out), reads to the end |
//!
//! A header line `<N fields>` stands for so many.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::case::Step;
use super::setup::Setup;
use super::subject::Subject;
use crate::support::client::{RawClient, RawResponse, exchange};
use crate::support::wait::PATIENCE;

/// What came back; none when the connection ended without a response.
pub type Response = Option<RawResponse>;

/// Host of requests that name none.
const ANY_HOST: &str = "any.test";

/// One exchange.
pub fn once(setup: &Setup, subject: &Subject, step: &Step) -> Response {
    let step = &Step {
        body: step.body.as_ref().map(|body| setup.fill(body)),
        ..step.clone()
    };
    let address = subject.listener(step.on.as_deref());
    let ask = setup.fill(&step.ask).replace("<ip>", &subject.ip);
    let (verb, rest) = ask.split_once(' ').unwrap_or((&ask, ""));
    match verb {
        "HTTPS" | "H2" => {
            let (name, place) = rest.split_once(' ').expect("a server name and a place");
            let alpn = if verb == "H2" { "h2" } else { "http/1.1" };
            if verb == "H2" {
                over_h2(setup, address, name, place, step)
            } else {
                over_tls(setup, address, name, alpn, &head("GET", place, step))
            }
        }
        "WS" => websocket(address, rest, step),
        "GRPC" => grpc(setup, address, None, rest),
        "GRPCS" => {
            let (name, rest) = rest.split_once(' ').expect("a server name and a path");
            grpc(setup, address, Some(name), rest)
        }
        "TCP" => tcp(&subject.ip, address, &unescaped(rest), step),
        "RAW" => {
            let mut socket = connect(address)?;
            let _ = socket.write_all(&unescaped(rest));
            read_answer(&mut socket, false)
        }
        method => {
            let mut socket = connect(address)?;
            let _ = socket.write_all(head(method, rest, step).as_bytes());
            read_answer(&mut socket, method == "HEAD")
        }
    }
}

/// The same request again and again, on one connection unless the step says otherwise; the name of
/// the upstream that responded each time.
pub fn many(setup: &Setup, subject: &Subject, step: &Step, times: usize) -> Vec<String> {
    let address = subject.listener(step.on.as_deref());
    let ask = setup.fill(&step.ask);
    let (method, place) = ask.split_once(' ').expect("METHOD HOST/PATH");
    let request = head(method, place, step);
    let name = |answer: &RawResponse| answer.header("x-instance").unwrap_or("nobody").to_owned();
    if step.apart {
        return (0..times)
            .map(|_| name(&exchange(address, &request).expect("a response")))
            .collect();
    }
    let request = request.replace("Connection: close\r\n", "");
    let mut client = RawClient::connect(address);
    (0..times)
        .map(|_| {
            name(
                &client
                    .send(&request)
                    .response()
                    .expect("a response on a connection that is kept"),
            )
        })
        .collect()
}

fn connect(address: SocketAddr) -> Option<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    Some(socket)
}

/// The request that a step describes.
fn head(method: &str, place: &str, step: &Step) -> String {
    let at = place.find('/').unwrap_or(place.len());
    let (host, path) = place.split_at(at);
    let host = if host.is_empty() { ANY_HOST } else { host };
    let path = if path.is_empty() { "/" } else { path };
    let mut text = format!("{method} {path} HTTP/1.1\r\n");
    if !step.head.iter().any(|line| line.starts_with("Host:")) {
        text.push_str(&format!("Host: {host}\r\n"));
    }
    if !step.head.iter().any(|line| line.starts_with("Connection:")) {
        text.push_str("Connection: close\r\n");
    }
    for line in &step.head {
        match line
            .strip_prefix('<')
            .and_then(|line| line.strip_suffix(" fields>"))
        {
            Some(count) => {
                let count: usize = count.parse().expect("a number of fields");
                text.extend((0..count).map(|at| format!("X-Field-{at}: {at}\r\n")));
            }
            None => text.push_str(&format!("{line}\r\n")),
        }
    }
    let body = step.body.as_deref().unwrap_or("");
    if step.body.is_some()
        && !step
            .head
            .iter()
            .any(|line| line.starts_with("Transfer-Encoding"))
    {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body);
    text
}

/// The text as bytes.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let (byte, length) = match after.as_bytes()[0] {
            b'r' => (b'\r', 1),
            b'n' => (b'\n', 1),
            b'x' => (
                u8::from_str_radix(&after[1..3], 16).expect("two hexadecimal digits"),
                3,
            ),
            other => panic!("\\{} means nothing", char::from(other)),
        };
        bytes.push(byte);
        rest = &after[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

/// Reads one response. Interim ones are passed over.
fn read_answer(stream: &mut impl Read, bodiless: bool) -> Response {
    let mut bytes = Vec::new();
    // What came before a reset or the end counts.
    let _ = stream.read_to_end(&mut bytes);
    while bytes.starts_with(b"HTTP/1.1 1") && !bytes.starts_with(b"HTTP/1.1 101") {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        bytes.drain(..end);
    }
    if bodiless {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let headers = text
            .split("\r\n")
            .skip(1)
            .filter_map(|line| line.split_once(": "));
        let headers = headers
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let status = text.split(' ').nth(1)?.parse().ok()?;
        return Some(RawResponse {
            status,
            headers,
            body: bytes[end..].to_vec(),
            ..RawResponse::default()
        });
    }
    RawResponse::parse(&bytes)
}

fn tls_config(setup: &Setup, alpn: &str) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(setup.ca.pem.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    config
}

/// A name that is sent, or an address, which is not.
fn server_name(name: &str) -> ServerName<'static> {
    let name = if name == "-" { "127.0.0.1" } else { name };
    ServerName::try_from(name.to_owned()).unwrap()
}

fn over_tls(setup: &Setup, address: SocketAddr, name: &str, alpn: &str, request: &str) -> Response {
    let connection =
        ClientConnection::new(Arc::new(tls_config(setup, alpn)), server_name(name)).unwrap();
    let mut stream = StreamOwned::new(connection, connect(address)?);
    stream.write_all(request.as_bytes()).ok()?;
    read_answer(&mut stream, false)
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, future)
            .await
            .expect("done in time")
    })
}

fn over_h2(setup: &Setup, address: SocketAddr, name: &str, place: &str, step: &Step) -> Response {
    let config = tls_config(setup, "h2");
    block_on(async {
        let socket = tokio::net::TcpStream::connect(address).await.ok()?;
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(server_name(name), socket)
            .await
            .ok()?;
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let mut request = http::Request::get(format!("https://{place}"));
        for line in &step.head {
            let (name, value) = line.split_once(": ").unwrap();
            request = request.header(name, value);
        }
        let response = sender
            .send_request(request.body(Full::<Bytes>::default()).unwrap())
            .await
            .ok()?;
        Some(gathered(response).await)
    })
}

fn grpc(setup: &Setup, address: SocketAddr, tls: Option<&str>, rest: &str) -> Response {
    let (host, path) = rest.split_once(' ').unwrap_or(("", rest));
    block_on(async {
        let socket = tokio::net::TcpStream::connect(address).await.ok()?;
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let mut sender = if let Some(name) = tls {
            let connector = tokio_rustls::TlsConnector::from(Arc::new(tls_config(setup, "h2")));
            let stream = connector.connect(server_name(name), socket).await.ok()?;
            let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.ok()?;
            tokio::spawn(connection);
            sender
        } else {
            let (sender, connection) = builder.handshake(TokioIo::new(socket)).await.ok()?;
            tokio::spawn(connection);
            sender
        };
        let mut request = http::Request::post(format!("http://grpc.test{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if !host.is_empty() {
            request = request.header("dsthost", host);
        }
        // An empty message.
        let response = sender
            .send_request(
                request
                    .body(Full::new(Bytes::from_static(&[0; 5])))
                    .unwrap(),
            )
            .await
            .ok()?;
        Some(gathered(response).await)
    })
}

/// Trailers, and the fields of responses without a body, stand among the fields.
async fn gathered(response: http::Response<hyper::body::Incoming>) -> RawResponse {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map(|body| {
        (
            body.trailers().cloned().unwrap_or_default(),
            body.to_bytes(),
        )
    });
    let (trailers, body) = body.unwrap_or_default();
    let headers = parts
        .headers
        .iter()
        .chain(&trailers)
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    RawResponse {
        status: parts.status.as_u16(),
        headers,
        body: body.to_vec(),
        ..RawResponse::default()
    }
}

fn websocket(address: SocketAddr, place: &str, step: &Step) -> Response {
    let mut step = step.clone();
    if !step.head.iter().any(|line| line.starts_with("Upgrade:")) {
        step.head.push("Upgrade: websocket".to_owned());
    }
    step.head.push("Connection: Upgrade".to_owned());
    step.head.push("Sec-WebSocket-Version: 13".to_owned());
    step.head
        .push("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==".to_owned());
    let mut client = RawClient::connect(address);
    let mut answer = client.send(head("GET", place, &step)).response()?;
    if answer.status == 101 {
        answer.body = client.send("a frame").bytes(7);
    }
    Some(answer)
}

fn tcp(ip: &str, address: SocketAddr, sent: &[u8], step: &Step) -> Response {
    let mut socket = connect(address)?;
    let want = &step.want;
    let wanted = want.body.as_deref().unwrap_or("").len();
    let parts = |body: &[u8]| {
        let text = String::from_utf8_lossy(body).into_owned();
        !want.body_has.is_empty()
            && want
                .body_has
                .iter()
                .all(|part| text.contains(&part.replace("<ip>", ip)))
    };
    let ends = sent.strip_suffix(b" FIN");
    socket.write_all(ends.unwrap_or(sent)).ok()?;
    if ends.is_some() {
        socket.shutdown(std::net::Shutdown::Write).ok()?;
    }
    let mut body = Vec::new();
    let mut buffer = [0; 1024];
    while (wanted == 0 || body.len() < wanted) && !parts(&body) {
        match socket.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(count) => body.extend_from_slice(&buffer[..count]),
        }
    }
    (!body.is_empty()).then(|| RawResponse {
        status: 200,
        body,
        ..RawResponse::default()
    })
}
