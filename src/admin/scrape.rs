//! The listener for scrapers: `/metrics` and nothing else, so that it may be open where the admin
//! listener must not be.

use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use rustls::ServerConfig;

use super::host::{self, Names};
use super::response::{AdminResponse, error, not_allowed};
use super::route_path::AdminPath;
use super::router::metrics;
use super::site::{Client, Site};
use super::{AdminState, transfer};
use crate::metrics::process::hostname;

const PATH: &str = "/metrics";

/// What a TLS handshake begins with; none: plain HTTP. Why it cannot begin.
pub type ScrapeTls = Arc<dyn Fn() -> Result<Option<Arc<ServerConfig>>, String> + Send + Sync>;

pub(super) struct ScrapeSite {
    pub(super) state: AdminState,
    /// Called for every connection, so that new certificates are shown at once.
    pub(super) tls: ScrapeTls,
}

impl ScrapeSite {
    async fn decided(&self, request: Request<Incoming>, client: &Client) -> AdminResponse {
        let (head, _) = request.into_parts();
        if head.uri.path() != PATH {
            return error(
                StatusCode::NOT_FOUND,
                "here is /metrics, and nothing else: the rest is on the admin listener",
            );
        }
        let machine = hostname();
        let names = Names {
            configured: &[],
            machine: &machine,
            handshake: client.handshake.as_deref(),
        };
        if let Err(refusal) = host::check(&head, AdminPath::Metrics, true, names) {
            return error(refusal.status, &refusal.why);
        }
        if head.method != Method::GET && head.method != Method::HEAD {
            let message = "nothing changes here: use GET or HEAD";
            return not_allowed("GET, HEAD", error(StatusCode::METHOD_NOT_ALLOWED, message));
        }
        metrics(&self.state).await
    }
}

impl Site for ScrapeSite {
    fn name(&self) -> &'static str {
        "metrics"
    }

    fn tls(&self) -> Result<Option<Arc<ServerConfig>>, String> {
        (self.tls)()
    }

    fn is_watching(&self, request: &Request<Incoming>) -> bool {
        request.uri().path() == PATH
    }

    fn respond<'a>(
        &'a self,
        request: Request<Incoming>,
        client: &'a Client,
    ) -> LocalBoxFuture<'a, AdminResponse> {
        Box::pin(async move {
            let takes_gzip = transfer::takes_gzip(request.headers());
            transfer::compressed(self.decided(request, client).await, takes_gzip).await
        })
    }
}
