//! Responses of listeners with `protocol = "prometheus"`: metrics at one path, compressed where the
//! client accepts that, and the way there from all others.

use std::io::{self, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{ALLOW, CONTENT_ENCODING, CONTENT_TYPE, LOCATION, VARY};
use http::{HeaderValue, Method, Response, StatusCode};

use super::compression;
use super::head::Head;
use crate::config::Coding;
use crate::metrics::exposition;
use crate::proxy::worker::Worker;

/// Where metrics are when nothing else is configured.
const PATH: &str = "/metrics";

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
enum ScrapeError {
    #[error(transparent)]
    Encode(#[from] prometheus::Error),
    #[error("cannot compress the text: {0}")]
    Compress(#[from] io::Error),
    #[error("the thread that writes the text ended early: {0}")]
    Thread(#[from] tokio::task::JoinError),
}

/// The response to one request.
pub async fn response(worker: &Worker, head: &Head<'_>) -> Response<Bytes> {
    let path = worker.metrics.scrape_page().path.as_deref();
    let path = path.unwrap_or(PATH);
    let mut response = Response::new(Bytes::new());
    if head.path() != path {
        *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
        if let Ok(path) = HeaderValue::from_str(path) {
            response.headers_mut().insert(LOCATION, path);
        }
        return response;
    }
    if !matches!(*head.method, Method::GET | Method::HEAD) {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let gzip = compression::preferred(head.fields.map(), &[Coding::Gzip]).is_some();
    match body(worker, gzip).await {
        Ok(body) => *response.body_mut() = body,
        Err(error) => {
            tracing::error!(%error, "no metrics for a scrape");
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            return response;
        }
    }
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static(exposition::CONTENT_TYPE),
    );
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    if gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

async fn body(worker: &Worker, gzip: bool) -> Result<Bytes, ScrapeError> {
    let page = Arc::clone(worker.metrics.scrape_page());
    // Many targets make a long text: not on the thread of the requests.
    let written = tokio::task::spawn_blocking(move || {
        let text = exposition::encode(&page.registry)?;
        if !gzip {
            return Ok(Bytes::from(text));
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes())?;
        Ok(Bytes::from(encoder.finish()?))
    });
    written.await?
}
