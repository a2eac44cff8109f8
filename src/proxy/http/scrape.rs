//! Answers of listeners with `protocol = "prometheus"`: metrics at one path, and the way there from all others.

use std::rc::Rc;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Method, Request, Response, StatusCode};

use crate::metrics::process::Process;
use crate::metrics::text;
use crate::proxy::http::body::ResponseBody;
use crate::proxy::http::exchange::own;
use crate::proxy::http::record::Finish;
use crate::proxy::http::server::connection::Downstream;
use crate::proxy::http::source::Source;
use crate::proxy::worker::Worker;

/// Where metrics are when nobody said so.
const PATH: &str = "/metrics";

/// Answers one request.
pub async fn answer(
    worker: &Rc<Worker>,
    downstream: &Rc<Downstream>,
    request: &Request<Source>,
) -> Response<ResponseBody> {
    let mut finish = Finish::open(worker, downstream, request.method().clone(), request.version(), None);
    let configured = worker.metrics.fabio().and_then(|fabio| fabio.names().path.as_deref());
    let path = configured.unwrap_or(PATH);
    let mut response = Response::new(Bytes::new());
    if request.uri().path() != path {
        *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
        if let Ok(path) = HeaderValue::from_str(path) {
            response.headers_mut().insert(LOCATION, path);
        }
    } else if !matches!(*request.method(), Method::GET | Method::HEAD) {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    } else {
        let metrics = worker.metrics.clone();
        // Many targets make a long text: not on the thread of the requests.
        match tokio::task::spawn_blocking(move || text::render_fabio(&metrics, &Process::read())).await {
            Ok(text) => *response.body_mut() = text.into(),
            Err(_) => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
        }
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(text::CONTENT_TYPE));
    }
    finish.answered_here(response.status().as_u16());
    own(response, finish)
}
