//! What responses are made of.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;
use serde_json::json;

use super::body::AdminBody;
use super::html::content_security_policy;
use super::query::Query;

pub(super) type AdminResponse = Response<AdminBody>;

pub(super) const JSON: &str = "application/json; charset=utf-8";

pub(super) const PLAIN: &str = "text/plain; charset=utf-8";

pub(super) fn not_allowed(methods: &'static str, mut answer: AdminResponse) -> AdminResponse {
    answer
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(methods));
    answer
}

/// An HTML page. `render` gets the nonce that its script and style sheet must carry to be allowed
/// by the Content-Security-Policy of this response.
pub(super) fn with_html(render: impl FnOnce(&str) -> String) -> AdminResponse {
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let mut answer = with_body(StatusCode::OK, "text/html; charset=utf-8", render(&nonce));
    if let Ok(policy) = HeaderValue::try_from(content_security_policy(&nonce)) {
        answer
            .headers_mut()
            .insert("content-security-policy", policy);
    }
    answer
}

/// Work that grows with the cluster is done beside the control thread, so that a scrape does not
/// delay a change.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

pub(super) fn error(status: StatusCode, message: &str) -> AdminResponse {
    json_response(status, &json!({ "error": message }), &Query::default())
}

pub(super) fn json_response(
    status: StatusCode,
    value: &impl Serialize,
    query: &Query,
) -> AdminResponse {
    let mut body = Vec::new();
    let written = if query.has("pretty") {
        let four_blanks = serde_json::ser::PrettyFormatter::with_indent(b"    ");
        value.serialize(&mut serde_json::Serializer::with_formatter(
            &mut body,
            four_blanks,
        ))
    } else {
        serde_json::to_writer(&mut body, value)
    };
    if let Err(cause) = written {
        tracing::error!(%cause, "an admin response cannot be written as JSON");
        return with_body(
            StatusCode::INTERNAL_SERVER_ERROR,
            PLAIN,
            "the response cannot be written as JSON\n",
        );
    }
    body.push(b'\n');
    with_body(status, JSON, body)
}

pub(super) fn with_body(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> AdminResponse {
    let mut answer = Response::new(AdminBody::Whole(Full::new(body.into())));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    secured(answer)
}

/// The fields that keep browsers from treating a response as something else.
pub(super) fn secured(mut answer: AdminResponse) -> AdminResponse {
    let headers = answer.headers_mut();
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    headers.insert("x-frame-options", HeaderValue::from_static("DENY"));
    headers.insert("referrer-policy", HeaderValue::from_static("no-referrer"));
    answer
}
