//! TLS that is passed on by its server name (SNI) and not ended here: `tcp+sni`, and the TCP side
//! of `https+tcp+sni`.
//!
//! ```text
//! accept ─► PROXY header? ─► ClientHello (peeked at) ─► name ─► route ─┬─► bytes both ways, the peeked ones first
//!                                                                      ├─► https, with the peeked ones read again
//!                                                                      └─► closed: no name, no route, no TLS
//! ```
//! rustls reads the ClientHello, however it is cut into segments and records; it needs no key for
//! that. What a client may send before its name is known is bounded in bytes and in time.

mod legacy_client_hello;

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rustls::server::Acceptor;
use rustls::{Error, PeerIncompatible};
use tokio::net::TcpStream;

use crate::config::ListenerProtocol;
use crate::metrics::ClientFault;
use crate::proxy::drain::LocalPhase;
use crate::proxy::http::client_io::ClientIo;
use crate::proxy::http::server::connection::{Negotiated, negotiate};
use crate::proxy::http::server::watchdog::idle_or_draining;
use crate::proxy::listener::Listener;
use crate::proxy::passage::{Ended, Passage};
use crate::proxy::proxy_protocol::Addresses;
use crate::proxy::session::{Carried, proxy_tcp, receive_proxy_header};
use crate::proxy::worker::Worker;

/// Most bytes before the end of a ClientHello. Post-quantum key shares make one of 2 KB; the rest
/// is room for clients that cut theirs into many small records.
const HELLO_BYTES_MAX: usize = 32 << 10;

/// Serves one accepted connection of a `tcp+sni` or `https+tcp+sni` listener to its end. `phase` is
/// the listener's. Some: its TLS was ended here, and it is left to be served.
pub async fn serve(
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    phase: Rc<LocalPhase>,
    stream: TcpStream,
    peer: SocketAddr,
) -> Option<Negotiated> {
    let local = stream.local_addr().unwrap_or(listener.config.address);
    let ends_tls = listener.config.protocol == ListenerProtocol::HttpsTcpSni;
    // What is not passed on there is a connection of HTTP, and has lines of its own.
    let mut passage = if ends_tls {
        Passage::none()
    } else {
        Passage::new(&worker, &listener, peer)
    };
    let mut io = ClientIo::new(stream, worker.clock);
    let ends = match receive_proxy_header(
        &listener,
        &mut io,
        Addresses {
            source: peer,
            destination: local,
        },
    )
    .await
    {
        Ok(ends) => ends,
        Err(error) => {
            passage.ends(Ended::ProxyHeader);
            listener.client_fault(peer, ClientFault::ProxyHeader, &error);
            return None;
        }
    };
    let peer = ends.source;
    passage.comes_from(peer);
    let limit = listener.limits(&worker.settings().proxy).header;
    let activity = Rc::clone(io.activity());
    let name = tokio::select! {
        biased;
        name = read_within(limit, &mut io) => name,
        // A client that has not sent its whole ClientHello by the end of the grace period can be
        // closed safely.
        () = idle_or_draining(&phase, &activity) => return None,
    };
    let name = match name {
        Ok(name) => name,
        // That side knows how to tell the client what is wrong.
        Err(HelloError::Tls(_)) if ends_tls => None,
        Err(error) => {
            if !ends_tls {
                listener.accepted();
                listener.failed();
            }
            passage.ends(Ended::Tls);
            listener.client_fault(peer, error.fault(), &error);
            return None;
        }
    };
    passage.set_server_name(name.as_deref());
    let route = name.as_deref().and_then(|name| {
        worker
            .table
            .borrow_mut()
            .load()
            .lookup_server_name(name)
            .cloned()
    });
    match route {
        Some(route) if !ends_tls || route.is_passed_through() => {
            listener.accepted();
            if ends_tls {
                passage = Passage::new(&worker, &listener, peer);
                passage.set_server_name(name.as_deref());
            }
            proxy_tcp(
                &worker,
                &listener,
                &route,
                io,
                Carried { ends, is_tls: true },
                &mut passage,
            )
            .await;
        }
        _ if ends_tls => return negotiate(worker, listener, phase, io, peer).await,
        _ => {
            listener.accepted();
            passage.ends(Ended::NoRoute);
            // Fabio counts clients without a server name apart from those with an unknown one.
            if name.is_some() {
                listener.no_route();
            } else {
                listener.metrics.no_route.fetch_add(1, Relaxed);
                listener.failed();
            }
            tracing::debug!(%peer, name = name.as_deref().unwrap_or(""), "no route for this server name");
        }
    }
    None
}

/// Why there is no server name to go by.
#[derive(Debug, thiserror::Error)]
enum HelloError {
    /// Not TLS, or a hello that says nonsense.
    #[error("no ClientHello: {0}")]
    Tls(Error),
    #[error("the ClientHello did not end within {0} bytes")]
    TooLong(usize),
    #[error("the ClientHello did not end within {} ms", .0.as_millis())]
    TooSlow(Duration),
    #[error("no ClientHello: {0}")]
    Io(#[from] io::Error),
}

impl HelloError {
    fn fault(&self) -> ClientFault {
        match self {
            Self::TooSlow(_) => ClientFault::TooSlow,
            Self::Tls(_) | Self::TooLong(_) | Self::Io(_) => ClientFault::Tls,
        }
    }
}

async fn read_within(limit: Duration, io: &mut ClientIo) -> Result<Option<String>, HelloError> {
    tokio::time::timeout(limit, read(io))
        .await
        .unwrap_or(Err(HelloError::TooSlow(limit)))
}

/// Peeks until the ClientHello is whole; its server name in lower case, if it has one.
async fn read(io: &mut ClientIo) -> Result<Option<String>, HelloError> {
    let mut hello = HelloReader::default();
    loop {
        if let Some(Hello { server_name }) = hello.read(io.peeked()).map_err(HelloError::Tls)? {
            return Ok(server_name);
        }
        if io.peeked().len() >= HELLO_BYTES_MAX {
            return Err(HelloError::TooLong(HELLO_BYTES_MAX));
        }
        if !io.peek_more(HELLO_BYTES_MAX).await? {
            return Err(HelloError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// What a whole ClientHello says.
struct Hello {
    /// None: it names no server, or an IP address, which is not a server name (RFC 6066 section 3).
    server_name: Option<String>,
}

/// Reads a ClientHello that comes bit by bit.
#[derive(Default)]
struct HelloReader {
    acceptor: Acceptor,
    /// Bytes given to it.
    given: usize,
}

impl HelloReader {
    /// `seen` is everything so far, each time a little more. None: not whole yet.
    fn read(&mut self, seen: &[u8]) -> Result<Option<Hello>, Error> {
        let mut rest = seen.get(self.given..).unwrap_or_default();
        while !rest.is_empty() {
            let taken = self
                .acceptor
                .read_tls(&mut rest)
                .map_err(|error| Error::General(error.to_string()))?;
            if taken == 0 {
                break;
            }
            self.given += taken;
            match self.acceptor.accept() {
                Ok(Some(accepted)) => {
                    let server_name = accepted
                        .client_hello()
                        .server_name()
                        .map(str::to_ascii_lowercase);
                    return Ok(Some(Hello { server_name }));
                }
                Ok(None) => {}
                // Older than what rustls serves, but read as a whole.
                Err((
                    Error::PeerIncompatible(PeerIncompatible::SignatureAlgorithmsExtensionRequired),
                    _alert,
                )) => {
                    return Ok(Some(Hello {
                        server_name: legacy_client_hello::server_name(seen),
                    }));
                }
                Err((error, _alert)) => return Err(error),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    /// A ClientHello as rustls sends it, in one record.
    pub(super) fn hello(name: &str) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = name.to_owned().try_into().unwrap();
        let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        connection.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same in records whose payloads have these lengths, in turns.
    pub(super) fn in_records(hello: &[u8], lengths: &[usize]) -> Vec<u8> {
        let (head, mut rest) = hello.split_at(5);
        let mut cut = Vec::new();
        for length in lengths.iter().cycle() {
            let (payload, more) = rest.split_at((*length).clamp(1, 16 << 10).min(rest.len()));
            cut.extend_from_slice(&head[..3]);
            cut.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_be_bytes());
            cut.extend_from_slice(payload);
            rest = more;
            if rest.is_empty() {
                break;
            }
        }
        cut
    }

    /// Its name once it is whole; none before that.
    fn fed(bytes: &[u8], step: usize) -> Result<Option<(usize, Option<String>)>, Error> {
        let mut reader = HelloReader::default();
        let mut seen = 0;
        while seen < bytes.len() {
            seen = (seen + step.max(1)).min(bytes.len());
            if let Some(hello) = reader.read(&bytes[..seen])? {
                return Ok(Some((seen, hello.server_name)));
            }
        }
        Ok(None)
    }

    #[test]
    fn the_name_is_found_in_lower_case_and_an_address_is_none() {
        for (name, found) in [
            ("A.Test", Some("a.test")),
            ("x_y.test", Some("x_y.test")),
            ("127.0.0.1", None),
        ] {
            let bytes = hello(name);
            let (seen, server_name) = fed(&bytes, bytes.len()).unwrap().unwrap();
            assert_eq!((seen, server_name.as_deref()), (bytes.len(), found));
        }
    }

    #[test]
    fn hellos_from_before_tls_1_2_have_their_name_too() {
        for name in [Some("a.test"), None] {
            let whole = legacy_client_hello::tests::old(name);
            for bytes in [
                whole.clone(),
                in_records(&whole, &[1]),
                in_records(&whole, &[20, 3]),
            ] {
                let found = fed(&bytes, 1).unwrap();
                assert_eq!(found.unwrap(), (bytes.len(), name.map(str::to_owned)));
            }
        }
    }

    #[test]
    fn what_is_no_tls_is_refused_at_once() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x03\x01\0\x05hello",
            b"SSH-2.0-x\r\n",
            &[0; 64],
            &[0x16; 64],
        ] {
            assert!(fed(bytes, 1).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn bytes_behind_it_do_not_hide_it() {
        let mut bytes = hello("a.test");
        let whole = bytes.len();
        // A change of cipher spec, as TLS 1.3 sends it for middleboxes, in the same segment.
        bytes.extend_from_slice(b"\x14\x03\x03\0\x01\x01");
        assert_eq!(
            fed(&bytes, bytes.len()).unwrap().unwrap().1.as_deref(),
            Some("a.test")
        );
        assert_eq!(fed(&bytes, 1).unwrap().unwrap().0, whole);
    }

    #[test]
    fn many_small_records_cost_little() {
        // The worst that fits: one byte of a hello that never ends in each record.
        let endless = [
            &[0x16, 3, 1, 0, 0, 1, 0, 0xff, 0xf0][..],
            &vec![0; HELLO_BYTES_MAX / 6],
        ]
        .concat();
        let records = in_records(&endless, &[1]);
        let begun = std::time::Instant::now();
        assert!(fed(&records, 1).unwrap().is_none());
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{:?}",
            begun.elapsed()
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_cut_into_records_and_segments_is_read(
            lengths in prop::collection::vec(1usize..600, 1..5), step in 1usize..700,
        ) {
            let bytes = in_records(&hello("a.test"), &lengths);
            let (_, name) = fed(&bytes, step).unwrap().expect("a whole hello");
            prop_assert_eq!(name.as_deref(), Some("a.test"));
            // Not one byte too early.
            prop_assert!(fed(&bytes[..bytes.len() - 1], step).unwrap().is_none());
        }

        #[test]
        fn garbage_never_panics(
            bytes in prop::collection::vec(any::<u8>(), 0..300), at in any::<prop::sample::Index>(), step in 1usize..50,
        ) {
            let _ = fed(&bytes, step);
            let mut spoiled = hello("a.test");
            let at = at.index(spoiled.len());
            for (old, new) in spoiled[at..].iter_mut().zip(&bytes) {
                *old = *new;
            }
            let _ = fed(&spoiled, step);
        }
    }
}
