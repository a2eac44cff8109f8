//! One client connection: what it speaks, and the two ways to serve it.
//!
//! ```text
//! accept ─► PROXY header? ─► TLS? ─► HTTP/2 preface or ALPN? ─┬─► h1
//!                                                             └─► h2
//! ```
//! Beside the protocol run the drain signal and a watchdog for clients that do not do their part:
//! that send a head too slowly, idle too long, stop in a body, or do not read.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::conn_context::ConnContext;
use super::downstream::{Downstream, downstream};
use super::end::End;
use super::h1::Client;
use super::h1_stream::H1Stream;
use super::h2;
use super::linger::lingering_close;
use super::parked::Parked;
use super::watchdog::{
    HEAD_TOO_SLOW, Refusal, TOO_SLOW, WatchdogAction, idle_or_draining, log_rejected, watchdog,
};
use crate::config::ListenerProtocol;
use crate::metrics::ClientFault;
use crate::proxy::drain::{LocalPhase, Phase};
use crate::proxy::http::clear;
use crate::proxy::http::client_io::{ClientIo, ClientStream, HangUp};
use crate::proxy::listener::Listener;
use crate::proxy::poll_when_woken::PollWhenWoken;
use crate::proxy::proxy_protocol::Addresses;
use crate::proxy::session::receive_proxy_header;
use crate::proxy::settings::Settings;
use crate::proxy::splice::Stream as _;
use crate::proxy::tls;
use crate::proxy::worker::Worker;

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Finds out what an accepted connection speaks. `phase` is its listener's. None: it left, or is
/// not understood.
pub async fn begin(
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    phase: Rc<LocalPhase>,
    stream: TcpStream,
    peer: SocketAddr,
) -> Option<Negotiated> {
    listener.accepted();
    let mut io = ClientIo::new(stream, worker.clock);
    let seen = Addresses {
        source: peer,
        destination: listener.config.address,
    };
    match receive_proxy_header(&listener, &mut io, seen).await {
        Ok(ends) => negotiate(worker, listener, phase, io, ends.source).await,
        Err(error) => {
            listener.client_fault(peer, ClientFault::ProxyHeader, &error);
            None
        }
    }
}

/// A client of which it is known what it speaks. Small, because it lives as long as the connection
/// does: whatever is needed to serve is boxed.
#[derive(Debug)]
pub struct Negotiated {
    context: ConnContext,
    /// None: it was taken by what serves the rest of the connection.
    io: Option<ClientStream>,
    h2: bool,
}

/// How a client begins where TLS is spoken.
enum Handshake {
    Done(Box<TlsStream<ClientIo>>),
    /// With a request in the clear.
    InTheClear(ClientIo),
    /// It was an ACME server, which has what it wanted.
    Validation,
}

/// Ends TLS, where it is to be ended, and finds out what the client speaks. None: it left, or is
/// not understood. What was peeked at is read again.
pub(crate) async fn negotiate(
    worker: Rc<Worker>,
    listener: Rc<Listener>,
    phase: Rc<LocalPhase>,
    mut io: ClientIo,
    peer: SocketAddr,
) -> Option<Negotiated> {
    let settings = worker.settings();
    let header_timeout = listener.limits(&settings.proxy).header;
    let activity = Rc::clone(io.activity());
    let Some(certificates) = &listener.certificates else {
        let speaks = tokio::time::timeout(header_timeout, speaks_h2(&mut io));
        // A client that has sent nothing by the end of the grace period can be closed safely.
        let speaks = tokio::select! {
            biased;
            speaks = speaks => speaks,
            () = idle_or_draining(&phase, &activity) => return None,
        };
        let h2 = match speaks {
            Ok(Ok(h2)) => h2,
            failed => {
                let refusal = match failed {
                    Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                        Some(Refusal::MALFORMED)
                    }
                    // Of a client that said nothing nothing is known, and the rest has left.
                    Err(_elapsed) if !io.peeked().is_empty() => Some(Refusal::HEAD_TOO_SLOW),
                    _ => None,
                };
                if let Some(refusal) = refusal {
                    let downstream = downstream(&listener, phase, peer, None, None, activity);
                    log_rejected(
                        &worker,
                        &downstream,
                        refusal,
                        &"the first line is not one of HTTP",
                    );
                }
                return None;
            }
        };
        let downstream = downstream(&listener, phase, peer, None, None, activity);
        return Some(Negotiated {
            context: ConnContext {
                worker,
                settings,
                downstream,
            },
            io: Some(ClientStream::Plain(io)),
            h2,
        });
    };
    let used = listener.server_use();
    // Boxed: connections without TLS do not need the room.
    let handshake = Box::pin(async {
        match clear::begins(&mut io).await? {
            true => Ok(Handshake::InTheClear(io)),
            false => {
                let accepted = tls::accept(certificates, &used, &settings.challenges, io).await?;
                Ok::<_, io::Error>(match accepted {
                    Some(stream) => Handshake::Done(Box::new(stream)),
                    None => Handshake::Validation,
                })
            }
        }
    });
    let handshake = tokio::time::timeout(header_timeout, handshake);
    let handshake = tokio::select! {
        biased;
        handshake = handshake => handshake,
        () = idle_or_draining(&phase, &activity) => return None,
    };
    match handshake {
        Ok(Ok(Handshake::InTheClear(io))) => {
            let response = clear::response(io.peeked());
            let downstream = downstream(&listener, phase, peer, None, None, activity);
            let refusal = Refusal {
                fault: ClientFault::Tls,
                ..Refusal::MALFORMED
            };
            log_rejected(
                &worker,
                &downstream,
                refusal,
                &"plain HTTP where TLS is spoken",
            );
            lingering_close(io, &response, &downstream.phase).await;
        }
        Ok(Ok(Handshake::Done(stream))) => {
            let tls = stream.get_ref().1;
            let h2 = tls.alpn_protocol() == Some(b"h2");
            let passes_some_on = listener.config.protocol == ListenerProtocol::HttpsTcpSni;
            let name = tls.server_name().filter(|_| passes_some_on).map(Box::from);
            let downstream = downstream(
                &listener,
                phase,
                peer,
                Some(tls::details(tls)),
                name,
                activity,
            );
            let context = ConnContext {
                worker,
                settings,
                downstream,
            };
            return Some(Negotiated {
                context,
                io: Some(ClientStream::Tls(stream)),
                h2,
            });
        }
        Ok(Ok(Handshake::Validation)) => {}
        Ok(Err(error)) => listener.client_fault(peer, ClientFault::Tls, &error),
        Err(elapsed) => listener.client_fault(peer, ClientFault::Tls, &elapsed),
    }
    None
}

/// Whether the client opens with the HTTP/2 preface (RFC 9113 section 3.4). What was read is read
/// again.
///
/// # Errors
/// Those of the socket; and a first line of another protocol, which would not understand a response
/// in HTTP.
async fn speaks_h2(io: &mut ClientIo) -> io::Result<bool> {
    loop {
        let seen = io.peeked();
        let length = seen.len().min(H2_PREFACE.len());
        if seen[..length] != H2_PREFACE[..length] {
            return if is_foreign(seen) {
                Err(io::ErrorKind::InvalidData.into())
            } else {
                Ok(false)
            };
        }
        if length == H2_PREFACE.len() {
            return Ok(true);
        }
        if !io.peek_more(H2_PREFACE.len()).await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Whether a whole first line is there that has the form of a request and names another protocol
/// than HTTP.
fn is_foreign(seen: &[u8]) -> bool {
    let Some(end) = memchr::memchr(b'\n', seen) else {
        return false;
    };
    let mut words = seen[..end].trim_ascii().split(|byte| *byte == b' ');
    let (Some(_), Some(_), Some(protocol), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return false;
    };
    !protocol.starts_with(b"HTTP/")
}

impl Negotiated {
    /// Serves it to its end.
    pub async fn drive(&mut self) {
        if self.h2 {
            let Some(io) = self.io.take() else { return };
            let ConnContext {
                worker,
                settings,
                downstream,
            } = &self.context;
            return Box::pin(h2::drive(
                Rc::clone(worker),
                settings,
                Rc::clone(downstream),
                io,
            ))
            .await;
        }
        let end = loop {
            // Boxed, so that it is there only while the connection is active.
            match Box::pin(active(&self.context, &mut self.io)).await {
                End::Park => {}
                end => break end,
            }
            let Some(io) = &self.io else { return };
            parks(&self.context);
            match Parked::new(&self.context, io).await {
                End::Park => {}
                end => break end,
            }
        };
        if let Some(io) = self.io.take() {
            Box::pin(ended(&self.context, io, end)).await;
        }
    }
}

fn parks(context: &ConnContext) {
    let downstream = &context.downstream;
    tracing::trace!(client = %downstream.client.ip(), port = downstream.port, "connection parked");
}

/// Does what is left to do with a connection of HTTP/1.
async fn ended(context: &ConnContext, io: ClientStream, end: End) {
    let ConnContext {
        worker, downstream, ..
    } = context;
    let last: &[u8] = match end {
        End::Abrupt | End::Park => return,
        // With nothing unread a plain socket closes with a FIN by itself; TLS has to send its
        // closing alert.
        End::Done if io.plain().is_some_and(is_silent) => return,
        End::Done => b"",
        End::Orderly(last) => last,
        End::Refuse(violation) => {
            let refusal = Refusal {
                status: violation.status,
                ..Refusal::MALFORMED
            };
            log_rejected(worker, downstream, refusal, &violation);
            violation.response()
        }
        End::Tunnel(tunnel) => return tunnel.run(worker, io).await,
    };
    if !downstream.watch.activity().resets_at_end() {
        lingering_close(io, last, &downstream.phase).await;
    }
}

/// Serves requests until the connection ends, or nothing is held for it.
async fn active(context: &ConnContext, io: &mut Option<ClientStream>) -> End {
    let ConnContext {
        worker,
        settings,
        downstream,
    } = context;
    let Some(stream) = io.take() else {
        return End::Abrupt;
    };
    let stream = Rc::new(RefCell::new(H1Stream::new(
        stream,
        &worker.scratch.buffers,
        downstream,
    )));
    let end = {
        let mut client = Client::new(worker, downstream, Rc::clone(&stream));
        let serving = pin!(client.serve());
        watched(worker, settings, downstream, serving, || {
            stream.borrow().hangs_up()
        })
        .await
    };
    *io = stream.borrow_mut().take_io();
    end
}

async fn watched(
    worker: &Rc<Worker>,
    settings: &Settings,
    downstream: &Rc<Downstream>,
    mut serving: std::pin::Pin<&mut impl Future<Output = End>>,
    hangs_up: impl Fn() -> HangUp,
) -> End {
    let limits = downstream.listener.limits(&settings.proxy);
    let mut watchdog = pin!(watchdog(worker, limits, &downstream.watch, hangs_up));
    let mut idle_or_draining = pin!(idle_or_draining(
        &downstream.phase,
        downstream.watch.activity()
    ));
    let mut cut = pin!(worker.phase.reached(Phase::Cut));
    let mut draining = false;
    let mut signals = pin!(PollWhenWoken::new(poll_fn(|cx| {
        if let Poll::Ready(verdict) = watchdog.as_mut().poll(cx) {
            return Poll::Ready(Signal::WatchdogAction(verdict));
        }
        if !draining && idle_or_draining.as_mut().poll(cx).is_ready() {
            draining = true;
            return Poll::Ready(Signal::LastCall);
        }
        cut.as_mut().poll(cx).map(|()| Signal::Cut)
    })));
    loop {
        let next = poll_fn(|cx| {
            if let Poll::Ready(end) = serving.as_mut().poll(cx) {
                return Poll::Ready(Err(end));
            }
            // The end of the client is seen by what reads, and wakes nothing else.
            signals
                .as_mut()
                .poll(downstream.watch.has_ended(), cx)
                .map(Ok)
        });
        match next.await {
            Err(end) => return end,
            Ok(Signal::WatchdogAction(WatchdogAction::HeadTooSlow)) => {
                log_rejected(worker, downstream, Refusal::HEAD_TOO_SLOW, &HEAD_TOO_SLOW);
                return End::Orderly(TOO_SLOW);
            }
            Ok(Signal::WatchdogAction(_) | Signal::Cut) => return End::Abrupt,
            // An in-flight response carries `Connection: close` itself.
            Ok(Signal::LastCall) if downstream.watch.is_idle() => return End::Orderly(b""),
            Ok(Signal::LastCall) => {}
        }
    }
}

/// What ends a connection beside its requests.
enum Signal {
    WatchdogAction(WatchdogAction),
    LastCall,
    Cut,
}

/// Whether the client has said nothing more.
fn is_silent(socket: &TcpStream) -> bool {
    match socket.try_read(&mut [0]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There are thousands of them. With 32 bytes more this is the task, and one of up to 408 takes
    /// 512 bytes of memory: the next larger one takes 768, because tasks are aligned.
    #[test]
    fn an_idle_connection_is_small() {
        fn size<A, F>(_: impl Fn(A) -> F) -> usize {
            size_of::<F>()
        }
        let task =
            size_of::<Negotiated>() + size(|greeted: &'static mut Negotiated| greeted.drive());
        assert!(task <= 376, "{task}");
        assert!(
            size_of::<Downstream>() <= 176,
            "{}",
            size_of::<Downstream>()
        );
    }

    #[test]
    fn only_a_whole_line_that_names_another_protocol_is_foreign() {
        let foreign: [&[u8]; 2] = [
            b"INVALID CONNECTION PREFACE\r\n\r\n",
            b"OPTIONS rtsp://a RTSP/1.0\n",
        ];
        let others: [&[u8]; 7] = [
            b"",
            b"GET / FTP",
            b"GET / HTTP/1.1\r\n",
            b"GET / HTTP/9\n",
            b"GET /\r\n",
            b"a b c d\r\n",
            b"\r\n",
        ];
        assert!(foreign.iter().all(|seen| is_foreign(seen)));
        assert!(!others.iter().any(|seen| is_foreign(seen)));
    }
}
