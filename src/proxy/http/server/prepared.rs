//! A response of an instance in the form in which clients get it frame by frame.

use http::header::{CONTENT_LENGTH, SET_COOKIE};
use http::{HeaderValue, Method, Response, StatusCode, Version};
use hyper::body::Body as _;

use crate::proxy::http::decide::Incoming;
use crate::proxy::http::headers;
use crate::proxy::http::record::RequestRecord;
use crate::proxy::http::response_body::ResponseBody;
use crate::proxy::http::upstream::response::Streamed;
use crate::table::Target;

/// A response of an instance in the form in which the client gets it frame by frame; its record
/// ends with its body. `cookie`: one that it sets beside its own.
pub(crate) fn prepared(
    incoming: &Incoming<'_>,
    streamed: Streamed,
    (target, cookie): (&Target, Option<HeaderValue>),
    mut finish: Box<RequestRecord>,
) -> Response<ResponseBody> {
    let (head, settings) = (incoming.head, incoming.settings);
    let Streamed {
        mut response,
        first,
        stream,
        in_flight,
        took,
    } = streamed;
    let status = response.status();
    finish.set_response(target, status.as_u16(), in_flight, stream, took);
    finish.metadata(response.headers());
    headers::prepare_response(
        response.headers_mut(),
        &incoming.downstream.client,
        &settings.header_rules,
        false,
    );
    if let Some(edits) = finish.response_edits() {
        edits.apply(response.headers_mut());
    }
    if let Some(cookie) = cookie {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    if status == StatusCode::NO_CONTENT {
        // RFC 9110 section 8.6; from HTTP/1 it does not come so far.
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    let empty = first.is_none() && response.body().is_end_stream();
    // To HEAD and with 304, the head is that of what would be compressed.
    let stands_for_more = *head.method == Method::HEAD || status == StatusCode::NOT_MODIFIED;
    let compressible = !head.grpc && (!empty || stands_for_more);
    let compressing = settings
        .compression
        .as_ref()
        .filter(|_| compressible)
        .and_then(|rules| {
            rules.prepare(
                head.fields.map(),
                status,
                response.headers_mut(),
                &incoming.worker.compressing,
            )
        });
    let (mut parts, body) = response.into_parts();
    // The version depends on the client's connection, not on the instance.
    parts.version = Version::HTTP_11;
    if empty {
        finish.complete();
        return Response::from_parts(
            parts,
            ResponseBody::Upstream {
                first,
                body,
                finish,
            },
        );
    }
    let body = match compressing {
        Some(compressing) => ResponseBody::Compressed {
            body: compressing.body(first, body),
            finish,
        },
        None => ResponseBody::Upstream {
            first,
            body,
            finish,
        },
    };
    Response::from_parts(parts, body)
}
