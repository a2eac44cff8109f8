//! The client against servers that misbehave, on real sockets.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::trust::Trust;
use super::*;

const LIMITS: Limits = Limits {
    time: Duration::from_secs(5),
    bytes: 64,
};

/// Serves one connection after the other: each gets the responses of its list, one for each
/// request, and is closed. The heads of the requests come through the channel.
fn server(connections: Vec<Vec<&'static str>>) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, heads) = channel();
    thread::spawn(move || {
        for responses in connections {
            let (mut stream, _) = listener.accept().unwrap();
            for response in responses {
                let Some(head) = request_head(&mut stream) else {
                    break;
                };
                sender.send(head).ok();
                stream.write_all(response.as_bytes()).unwrap();
            }
        }
    });
    (address, heads)
}

fn request_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}

fn client() -> Client {
    let trust = Trust {
        skip_verify: true,
        ..Trust::default()
    };
    Client::new(&trust.client_config().unwrap(), None).unwrap()
}

fn get(address: SocketAddr, path: &str) -> Request {
    Request::get(format!("http://{address}{path}").parse().unwrap())
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn credentials_and_headers_are_sent_and_stay_out_of_messages() {
    let (address, heads) = server(vec![vec![OK]]);
    let mut request = Request::get(format!("http://u:p@{address}/a?secret=1").parse().unwrap());
    let value = HeaderValue::from_static("t");
    request
        .headers
        .push((HeaderName::from_static("x-token"), value));
    let response = client().send(request, LIMITS).await.unwrap();
    assert_eq!(
        (response.status(), &response.body()[..]),
        (StatusCode::OK, &b"ok"[..])
    );
    let head = heads.recv().unwrap();
    assert!(head.starts_with("GET /a?secret=1 HTTP/1.1\r\n"), "{head}");
    for line in [
        format!("host: {address}\r\n"),
        "authorization: Basic dTpw\r\n".to_owned(),
        "user-agent: lb\r\n".to_owned(),
        "x-token: t\r\n".to_owned(),
    ] {
        assert!(head.contains(&line), "{line} {head}");
    }
    let closed = closed_port();
    let request = Request::get(format!("http://u:p@{closed}/a?secret=1").parse().unwrap());
    let error = client().send(request, LIMITS).await.unwrap_err();
    assert!(
        matches!(error, HttpError::Connect { refused: true, .. }),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("{closed}: cannot connect: ")),
        "{text}"
    );
    assert!(!text.contains("secret") && !text.contains("u:p"), "{text}");
}

fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

#[tokio::test]
async fn a_read_survives_a_kept_connection_that_was_closed_and_a_write_is_not_repeated() {
    // The second request of the first connection is read, and the connection closed.
    let (address, heads) = server(vec![vec![OK, ""], vec![OK]]);
    let client = client();
    for _ in 0..2 {
        client.send(get(address, "/"), LIMITS).await.unwrap();
    }
    assert_eq!(heads.try_iter().count(), 3, "the second one was sent twice");

    let (address, heads) = server(vec![vec![OK, ""], vec![OK]]);
    client.send(get(address, "/"), LIMITS).await.unwrap();
    let post = Request {
        method: Method::POST,
        body: Bytes::from_static(b"x"),
        ..get(address, "/")
    };
    let error = client.send(post, LIMITS).await.unwrap_err();
    assert!(matches!(error, HttpError::Exchange { .. }), "{error:?}");
    assert_eq!(heads.try_iter().count(), 2);
}

#[tokio::test]
async fn what_is_not_a_response_is_said() {
    let long = "HTTP/1.1 200 OK\r\nContent-Length: 65\r\n\r\n0123456789012345678901234567890123456789012345678901234567890123456789";
    let cases = [
        (long, "the response is longer than 64 bytes"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok",
            "end of file",
        ),
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "invalid HTTP"),
    ];
    for (response, words) in cases {
        let (address, _heads) = server(vec![vec![response]]);
        let error = client()
            .send(get(address, "/a?b"), LIMITS)
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(&format!("http://{address}/a: ")),
            "{error}"
        );
        assert!(error.contains(words), "{error}");
    }
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let limits = Limits {
        time: Duration::from_millis(50),
        ..LIMITS
    };
    let url = get(silent.local_addr().unwrap(), "/");
    let error = client().send(url, limits).await.unwrap_err();
    assert!(matches!(error, HttpError::Timeout { .. }), "{error:?}");
    assert!(
        error.to_string().ends_with("no response within 50ms"),
        "{error}"
    );
}

#[tokio::test]
async fn headers_follow_redirects_to_the_same_host_alone() {
    let (other, other_heads) = server(vec![vec![OK], vec![OK]]);
    for (trusts_redirects, token_arrives) in [(false, false), (true, true)] {
        let away = format!(
            "HTTP/1.1 307 Go\r\nLocation: http://{other}/b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        let here = "HTTP/1.1 302 Go\r\nLocation: a\r\nContent-Length: 0\r\n\r\n";
        let (address, heads) = server(vec![vec![here, away.leak()]]);
        let request = Request {
            headers: vec![(
                HeaderName::from_static("x-token"),
                HeaderValue::from_static("t"),
            )],
            trusts_redirects,
            ..get(address, "/")
        };
        client().send(request, LIMITS).await.unwrap();
        assert!(heads.iter().all(|head| head.contains("x-token")));
        let head = other_heads.recv().unwrap();
        assert_eq!(head.contains("x-token"), token_arrives, "{head}");
    }
}

/// Speaks TLS once with a certificate for `name`, and tells the name that the client sent.
fn tls_server(name: &str) -> (SocketAddr, String, Receiver<Option<String>>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    let chain = vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()];
    let private = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, names) = channel();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut tls = rustls::ServerConnection::new(Arc::new(config.clone())).unwrap();
            let mut stream = rustls::Stream::new(&mut tls, &mut stream);
            let mut head = [0; 1024];
            if stream.read(&mut head).is_ok() {
                stream.write_all(OK.as_bytes()).ok();
            }
            sender.send(tls.server_name().map(str::to_owned)).ok();
        }
    });
    (address, pem, names)
}

#[tokio::test]
async fn a_server_name_stands_in_for_the_host_of_the_url() {
    let (address, pem, names) = tls_server("vault.test");
    let trust = Trust {
        ca_pem: Some(&pem),
        ..Trust::default()
    };
    let tls = trust.client_config().unwrap();
    let request = Request::get(format!("https://{address}/").parse().unwrap());
    let named = Client::new(&tls, Some("vault.test".to_owned())).unwrap();
    let response = named.send(request.clone(), LIMITS).await.unwrap();
    assert_eq!(&response.body()[..], b"ok");
    assert_eq!(names.recv().unwrap().as_deref(), Some("vault.test"));

    let wrong = [
        (tls.clone(), None),
        (tls, Some("other.test".to_owned())),
        (
            Trust::default().client_config().unwrap(),
            Some("vault.test".to_owned()),
        ),
    ];
    for (tls, name) in wrong {
        let client = Client::new(&tls, name).unwrap();
        let error = client.send(request.clone(), LIMITS).await.unwrap_err();
        let HttpError::Tls { server, fault, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(
            (server, *fault),
            (&address.to_string(), TlsFault::Certificate)
        );
    }
    let error = Client::new(
        &Trust::default().client_config().unwrap(),
        Some("::1".to_owned()),
    );
    assert!(error.unwrap_err().to_string().contains("give a host name"));
}

#[tokio::test]
async fn a_server_without_tls_is_reported() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let plain = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut hello = [0; 64];
        let _ = stream.read(&mut hello).unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .unwrap();
    });
    let request = Request::get(format!("https://{plain}/").parse().unwrap());
    let error = client().send(request, LIMITS).await.unwrap_err();
    let HttpError::Tls { fault, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(*fault, TlsFault::NotTls);

    // One that is reached and ends the handshake.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let closing = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]).unwrap();
    });
    let request = Request::get(format!("https://{closing}/").parse().unwrap());
    let error = client().send(request, LIMITS).await.unwrap_err();
    let HttpError::Tls { fault, .. } = &error else {
        panic!("{error:?}");
    };
    assert_eq!(*fault, TlsFault::Other);
    let request = Request::get(format!("https://{}/", closed_port()).parse().unwrap());
    let error = client().send(request, LIMITS).await.unwrap_err();
    assert!(
        matches!(error, HttpError::Connect { refused: true, .. }),
        "{error:?}"
    );
}
