//! The server's side of a handshake.

use std::io;

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use crate::proxy::tls::store::{CertStore, ServerUse};

/// The handshake with a client. Where certificates are made on demand, the client waits for the one
/// it names; no other client does.
///
/// # Errors
/// What went wrong, on either side.
pub async fn accept<T>(store: &CertStore, used: &ServerUse, io: T) -> io::Result<TlsStream<T>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    if !store.is_on_demand() {
        let config = store.server_config(used).map_err(io::Error::other)?;
        return TlsAcceptor::from(config).accept(io).await;
    }
    let begun = LazyConfigAcceptor::new(Acceptor::default(), io).await?;
    // A client without a name is refused below, as one is whose certificate could not be had.
    let name = begun
        .client_hello()
        .server_name()
        .map(str::to_ascii_lowercase);
    if let Some(name) = name {
        store.provide(&name).await;
    }
    let config = store.server_config(used).map_err(io::Error::other)?;
    begun.into_stream(config).await
}
