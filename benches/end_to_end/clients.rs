//! Load of our own, for what wrk and h2load cannot do: bytes over TCP, a constant rate, handshakes,
//! idle connections; and HTTP/1.1 for moments too short for wrk.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_rustls::TlsConnector;

use crate::backend::BULK;
use crate::outcome::Outcome;

/// Runs this many loops until the time is over. Each call of `each` is one request.
pub(crate) fn run<F>(
    loops: usize,
    length: Duration,
    each: impl Fn(Arc<Tally>, Instant) -> F,
) -> Outcome
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let tally = Arc::new(Tally::default());
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            let until = Instant::now() + length;
            let running: Vec<_> = (0..loops)
                .map(|_| tokio::spawn(each(Arc::clone(&tally), until)))
                .collect();
            for one in running {
                // A request that hangs is a failed one.
                let done = tokio::time::timeout_at(until + Duration::from_secs(5), one).await;
                if !matches!(done, Ok(Ok(Ok(())))) {
                    tally.failed.fetch_add(1, Relaxed);
                }
            }
        });
    let count = |counter: &AtomicU64| counter.load(Relaxed);
    Outcome {
        good: count(&tally.good),
        by_proxy: count(&tally.by_proxy),
        failed: count(&tally.failed),
    }
}

/// What the loops have counted so far, as in [`Outcome`].
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) good: AtomicU64,
    pub(crate) by_proxy: AtomicU64,
    failed: AtomicU64,
}

pub(crate) async fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Keep-alive requests for `path` over this many connections.
pub(crate) fn http(port: u16, path: &str, loops: usize, length: Duration) -> Outcome {
    let request = Arc::new(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes());
    run(loops, length, move |tally, until| {
        let request = Arc::clone(&request);
        async move {
            let mut stream = connect(port).await?;
            let mut buffer = Vec::new();
            while Instant::now() < until {
                exchange(&mut stream, &request, &mut buffer).await?;
                tally.good.fetch_add(1, Relaxed);
            }
            Ok(())
        }
    })
}

/// Requests for `/64` at this many per second in all, over 16 connections.
pub(crate) fn rate(port: u16, per_second: u64, length: Duration) -> Outcome {
    const CONNECTIONS: u64 = 16;
    let started = AtomicU64::new(0);
    run(CONNECTIONS as usize, length, move |tally, until| {
        let gap = Duration::from_nanos(1_000_000_000 * CONNECTIONS / per_second);
        let offset =
            gap * u32::try_from(started.fetch_add(1, Relaxed)).unwrap() / CONNECTIONS as u32;
        async move {
            let mut stream = connect(port).await?;
            let mut buffer = Vec::new();
            tokio::time::sleep(offset).await;
            let mut tick = interval(gap);
            tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
            while Instant::now() < until {
                tick.tick().await;
                exchange(
                    &mut stream,
                    b"GET /64 HTTP/1.1\r\nHost: localhost\r\n\r\n",
                    &mut buffer,
                )
                .await?;
                tally.good.fetch_add(1, Relaxed);
            }
            Ok(())
        }
    })
}

/// Full TLS 1.3 handshakes without resumption, one request each, so many at a time.
pub(crate) fn handshakes(port: u16, ca: &[u8], at_once: usize, length: Duration) -> Outcome {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(ca.to_vec())).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    let connector = TlsConnector::from(Arc::new(config));
    run(at_once, length, move |tally, until| {
        let connector = connector.clone();
        async move {
            let mut buffer = Vec::new();
            while Instant::now() < until {
                let name = ServerName::try_from("localhost").unwrap();
                let mut stream = connector.connect(name, connect(port).await?).await?;
                let request = b"GET /64 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
                exchange(&mut stream, request, &mut buffer).await?;
                tally.good.fetch_add(1, Relaxed);
            }
            Ok(())
        }
    })
}

/// Messages of 64 bytes over TCP; the reply to each is as long, or 1 MiB.
pub(crate) fn tcp(port: u16, bulk: bool, length: Duration) -> Outcome {
    run(
        if bulk { 8 } else { 64 },
        length,
        move |tally, until| async move {
            let mut stream = connect(port).await?;
            let mut buffer = vec![0; if bulk { 262_144 } else { 64 }];
            while Instant::now() < until {
                stream
                    .write_all(&[if bulk { b'b' } else { b'p' }; 64])
                    .await?;
                let mut left = if bulk { BULK } else { 64 };
                while left > 0 {
                    let read = stream.read(&mut buffer).await?;
                    if read == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    left = left.saturating_sub(read);
                }
                tally.good.fetch_add(1, Relaxed);
            }
            Ok(())
        },
    )
}

/// Opens this many connections, sends one request on each, and calls `look` while all of them idle.
/// `good`: how many got a response.
pub(crate) fn idle(port: u16, count: usize, look: impl FnOnce()) -> Outcome {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async {
            let mut held = Vec::with_capacity(count);
            let mut buffer = Vec::new();
            let mut outcome = Outcome::default();
            for _ in 0..count {
                let one = async {
                    let mut stream = connect(port).await?;
                    exchange(
                        &mut stream,
                        b"GET /64 HTTP/1.1\r\nHost: localhost\r\n\r\n",
                        &mut buffer,
                    )
                    .await?;
                    io::Result::Ok(stream)
                };
                match one.await {
                    Ok(stream) => held.push(stream),
                    Err(_) => outcome.failed += 1,
                }
            }
            outcome.good = held.len() as u64;
            look();
            outcome
        })
}

/// One request and its response of known length; anything but a 200 is an error.
pub(crate) async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    request: &[u8],
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    exchange_for("200", stream, request, buffer).await
}

/// One request and its response of known length; anything but this status is an error.
pub(crate) async fn exchange_for<S: AsyncRead + AsyncWrite + Unpin>(
    status: &str,
    stream: &mut S,
    request: &[u8],
    buffer: &mut Vec<u8>,
) -> io::Result<()> {
    stream.write_all(request).await?;
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(head) = memchr::memmem::find(buffer, b"\r\n\r\n") else {
            continue;
        };
        let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        let field = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"));
        let length: Option<usize> = field.and_then(|value| value.trim().parse().ok());
        let (true, Some(length)) = (
            text.strip_prefix("http/1.1 ")
                .is_some_and(|rest| rest.starts_with(status)),
            length,
        ) else {
            return Err(io::Error::other(text));
        };
        while buffer.len() < head + 4 + length {
            if stream.read_buf(buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        return Ok(());
    }
}
