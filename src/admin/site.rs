//! What a listener of the control thread serves: the admin listener everything, the one for
//! scrapers metrics alone.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use http::Request;
use hyper::body::Incoming;
use rustls::ServerConfig;

use super::response::AdminResponse;

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    /// The name that the TLS handshake was made for.
    pub(super) handshake: Option<String>,
}

pub(super) trait Site {
    /// What the log calls the listener.
    fn name(&self) -> &'static str;

    /// What the next handshake begins with; none: plain HTTP. Why it cannot begin.
    fn tls(&self) -> Result<Option<Arc<ServerConfig>>, String>;

    /// Whether a request is one of those by which others watch lb: there is always room for some of
    /// them.
    fn is_watching(&self, request: &Request<Incoming>) -> bool;

    fn respond<'a>(
        &'a self,
        request: Request<Incoming>,
        client: &'a Client,
    ) -> LocalBoxFuture<'a, AdminResponse>;
}
