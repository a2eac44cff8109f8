//! How a request comes, and how it goes on: protocols of the client times those of the instance.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Request, Version};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::harness::runtime;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    client: Version,
    proto: &'static str,
}

/// All.
pub const WAYS: [Way; 5] = [
    Way::HTTP1,
    Way::of(Version::HTTP_11, "h2c"),
    Way::HTTP2,
    Way::of(Version::HTTP_2, "h2c"),
    Way::of(Version::HTTP_2, "grpc"),
];

/// What came back.
#[derive(Debug)]
pub struct Got {
    /// Its status.
    pub status: u16,
    /// Its fields.
    pub fields: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Got {
    /// The name of the upstream that responded.
    pub fn instance(&self) -> &str {
        let name = self.fields.get("x-instance");
        name.map_or("", |name| name.to_str().unwrap())
    }

    /// Its body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Way {
    /// HTTP/1.1 on both sides.
    pub const HTTP1: Self = Self::of(Version::HTTP_11, "http");
    /// HTTP/2 to the client alone.
    pub const HTTP2: Self = Self::of(Version::HTTP_2, "http");

    /// HTTP/1.1 to the client, and this to the instance.
    pub const fn of_proto(proto: &'static str) -> Self {
        Self::of(Version::HTTP_11, proto)
    }

    const fn of(client: Version, proto: &'static str) -> Self {
        Self { client, proto }
    }

    /// What `proto=` says of the instance.
    pub fn proto(self) -> &'static str {
        self.proto
    }

    /// Whether it is a call of gRPC.
    pub fn is_call(self) -> bool {
        self.proto == "grpc"
    }

    /// Sends a request, a GET if it has no body.
    pub fn ask(
        self,
        address: SocketAddr,
        host: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Got {
        let method = if body.is_empty() && !self.is_call() {
            "GET"
        } else {
            "POST"
        };
        let uri = match self.client {
            Version::HTTP_2 => format!("http://{host}{path}"),
            _ => path.to_owned(),
        };
        let mut request = Request::builder().method(method).uri(uri);
        if self.client != Version::HTTP_2 {
            request = request.header("host", host);
        }
        if self.is_call() {
            request = request
                .header("content-type", "application/grpc")
                .header("te", "trailers");
        }
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
        runtime().block_on(self.send(address, request.body(body).unwrap()))
    }

    async fn send(self, address: SocketAddr, request: Request<Full<Bytes>>) -> Got {
        let io = TokioIo::new(tokio::net::TcpStream::connect(address).await.unwrap());
        let response = if self.client == Version::HTTP_2 {
            let (mut client, connection) =
                http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            client.send_request(request).await.unwrap()
        } else {
            let (mut client, connection) = http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            client.send_request(request).await.unwrap()
        };
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Got {
            status: parts.status.as_u16(),
            fields: parts.headers,
            body,
        }
    }
}
