//! The server's side of a handshake.

use std::io;

use rustls::server::{Acceptor, ClientHello};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use crate::proxy::challenges::{ACME_TLS, Challenges};
use crate::proxy::tls::store::{CertStore, ServerUse};

/// The handshake with a client. Where certificates are made on demand, the client waits for the one
/// it names; no other client does. An ACME server that validates a name gets its response here, whatever
/// the listener demands of clients; nothing is left of such a connection.
///
/// # Errors
/// What went wrong, on either side.
pub async fn accept<T>(
    store: &CertStore,
    used: &ServerUse,
    challenges: &Challenges,
    io: T,
) -> io::Result<Option<TlsStream<T>>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    if !store.is_on_demand() && challenges.is_empty() {
        let config = store.server_config(used).map_err(io::Error::other)?;
        return TlsAcceptor::from(config).accept(io).await.map(Some);
    }
    let begun = LazyConfigAcceptor::new(Acceptor::default(), io).await?;
    if is_validation(&begun.client_hello())
        && let Some(name) = begun.client_hello().server_name().map(str::to_owned)
        && let Some(config) = Box::pin(challenges.handshake(&name)).await
    {
        // The handshake was all that it wants.
        begun.into_stream(config).await?.shutdown().await.ok();
        return Ok(None);
    }
    // A client without a name is refused below, as one is whose certificate could not be had.
    let name = begun
        .client_hello()
        .server_name()
        .map(str::to_ascii_lowercase);
    if let Some(name) = name {
        store.provide(&name).await;
    }
    let config = store.server_config(used).map_err(io::Error::other)?;
    begun.into_stream(config).await.map(Some)
}

/// RFC 8737 section 4: nothing but `acme-tls/1` is offered.
fn is_validation(hello: &ClientHello<'_>) -> bool {
    let mut names = hello.alpn().into_iter().flatten();
    names.next() == Some(ACME_TLS) && names.next().is_none()
}
