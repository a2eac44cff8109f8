//! Responses of listeners with `protocol = "prometheus"`: metrics at one path, and the way there
//! from all others.

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method, Response, StatusCode};

use crate::metrics::process::Process;
use crate::metrics::text;
use crate::proxy::worker::Worker;

/// Where metrics are unless configured.
const PATH: &str = "/metrics";

/// The response to one request.
pub async fn response(worker: &Worker, method: &Method, asked: &str) -> Response<Bytes> {
    let configured = worker
        .metrics
        .fabio()
        .and_then(|fabio| fabio.names().path.as_deref());
    let path = configured.unwrap_or(PATH);
    let mut response = Response::new(Bytes::new());
    if asked != path {
        *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
        if let Ok(path) = HeaderValue::from_str(path) {
            response.headers_mut().insert(LOCATION, path);
        }
    } else if !matches!(*method, Method::GET | Method::HEAD) {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    } else {
        let metrics = worker.metrics.clone();
        // Many targets make a long text: not on the thread of the requests.
        match tokio::task::spawn_blocking(move || text::render_fabio(&metrics, &Process::read()))
            .await
        {
            Ok(text) => *response.body_mut() = text.into(),
            Err(_) => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
        }
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(text::CONTENT_TYPE));
    }
    response
}
