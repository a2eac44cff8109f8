//! Where things listen during a run: the doors of a proxy, and the ports of the backend behind it.

use std::net::{Ipv4Addr, TcpListener};

/// A listener that every proxy has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Door {
    /// HTTP/1.1 in the clear.
    Http,
    /// TLS with a P-256 certificate, HTTP/1.1 and HTTP/2.
    TlsEcdsa,
    /// TLS with an RSA-2048 certificate.
    TlsRsa,
    /// HTTP/2 in the clear, for gRPC.
    Grpc,
    /// Bytes.
    Tcp,
}

/// Ports of one proxy on 127.0.0.1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doors {
    pub(crate) http: u16,
    pub(crate) ecdsa: u16,
    pub(crate) rsa: u16,
    pub(crate) grpc: u16,
    pub(crate) tcp: u16,
    pub(crate) admin: u16,
}

/// Ports of the backend on 127.0.0.1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backends {
    pub(crate) http: u16,
    pub(crate) grpc: u16,
    pub(crate) tcp: u16,
}

impl Doors {
    /// Six ports that are free now.
    pub(crate) fn free() -> Self {
        // All are held until the last one is known, so that no two are the same.
        let held: Vec<_> = (0..6)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
            .collect();
        let port = |i: usize| held[i].local_addr().unwrap().port();
        Self {
            http: port(0),
            ecdsa: port(1),
            rsa: port(2),
            grpc: port(3),
            tcp: port(4),
            admin: port(5),
        }
    }

    pub(crate) fn port(&self, door: Door) -> u16 {
        match door {
            Door::Http => self.http,
            Door::TlsEcdsa => self.ecdsa,
            Door::TlsRsa => self.rsa,
            Door::Grpc => self.grpc,
            Door::Tcp => self.tcp,
        }
    }
}
