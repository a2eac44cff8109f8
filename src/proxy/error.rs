//! What can go wrong with a request, and what the client is told.
//!
//! One table from cause to status; the cause itself goes to the log, the client gets a short text.
//! A gRPC client gets the same news in its own terms (trailers-only response with `grpc-status`).

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, Response, StatusCode};

/// Why the proxy responded by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The request cannot be understood or is not allowed to mean two things.
    #[error("bad request: {0}")]
    BadRequest(&'static str),
    /// More header fields than `proxy.max_headers`.
    #[error("more header fields than proxy.max_headers")]
    TooManyHeaders,
    /// The client paused too long in the middle of its request's body.
    #[error("the client stopped sending its request")]
    ClientStalled,
    /// No route for host and path.
    #[error("no route")]
    NoRoute,
    /// The connection's TLS was for another host, and that of the request is passed on unopened to
    /// instances that end its TLS themselves.
    #[error("the host is not served on this connection")]
    Misdirected,
    /// The route exists, but no instance of it may serve.
    #[error("no healthy instance")]
    NoInstance,
    /// An access rule refuses the client.
    #[error("access denied")]
    AccessDenied,
    /// The route wants credentials that did not come or are not accepted.
    #[error("authorization failed")]
    Unauthorized,
    /// The credentials are good, and not enough for the route.
    #[error("the credentials are not enough for the route")]
    Forbidden,
    /// The route names an authentication scheme that is not configured.
    #[error("the route names an authentication scheme that is not configured")]
    AuthUnknown,
    /// Too many requests wait for their credentials to be verified.
    #[error("too many requests wait for their credentials to be verified")]
    AuthBusy,
    /// The service that decides about requests did not respond.
    #[error("no response from the service that authorizes requests")]
    AuthUnavailable,
    /// The keys that tokens are verified with are not there yet.
    #[error("there are no keys to verify tokens with")]
    AuthKeysMissing,
    /// More requests than `rate=` of the route lets pass.
    #[error("more requests than the rate of the route")]
    RateLimited {
        /// When the next may pass, in seconds.
        retry_after_s: u64,
    },
    /// As many requests at once as `inflight=` of the route lets pass.
    #[error("as many requests at once as the route takes")]
    RouteBusy,
    /// A body longer than `maxbody=` of the route.
    #[error("a body longer than the route takes")]
    BodyTooLarge,
    /// A protection of the route cannot be read, and without it requests must not pass.
    #[error("a protection of the route cannot be read: {0}")]
    PolicyUnusable(Arc<str>),
    /// No instance could be connected to.
    #[error("cannot connect to an upstream: {0}")]
    Connect(String),
    /// This process or machine has nothing left to connect with; the instances may be well.
    #[error(
        "cannot connect to an upstream, because descriptors, ports or memory are short on this side: {0}"
    )]
    Exhausted(String),
    /// Connecting took too long, everywhere.
    #[error("connecting to an upstream timed out")]
    ConnectTimeout,
    /// The upstream closed the connection before a response was complete enough to pass on.
    #[error("upstream failed before its response: {0}")]
    Upstream(String),
    /// The upstream speaks no HTTP, or shows a certificate that is not accepted.
    #[error("upstream cannot be used: {0}")]
    Unusable(String),
    /// No first byte in time.
    #[error("no response from the upstream in time")]
    ResponseTimeout,
    /// The request as a whole took longer than it may.
    #[error("the request took longer than proxy.request_timeout")]
    RequestTimeout,
    /// The client went away before the response was there (only logged).
    #[error("client closed the request")]
    ClientClosed,
}

/// What the responses to ordinary clients depend on.
#[derive(Clone, Debug)]
pub struct ErrorResponses {
    /// Status where there is no route.
    pub no_route: StatusCode,
    /// Page where there is no route.
    pub no_route_page: Bytes,
    /// When a client that got 503 may come back, in seconds.
    pub retry_after_s: u64,
    /// As Fabio responds for upstreams: without a text, and 500 for what cannot be used.
    pub bare: bool,
}

impl ProxyError {
    /// Status sent to the client; `no_route` is the configured one.
    #[must_use]
    pub fn status(&self, no_route: StatusCode) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::ClientStalled => StatusCode::REQUEST_TIMEOUT,
            Self::NoRoute => no_route,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::NoInstance
            | Self::AuthBusy
            | Self::AuthUnknown
            | Self::AuthKeysMissing
            | Self::RouteBusy
            | Self::PolicyUnusable(_)
            | Self::Exhausted(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::RateLimited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::AccessDenied | Self::Forbidden => StatusCode::FORBIDDEN,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Connect(_) | Self::Upstream(_) | Self::Unusable(_) | Self::AuthUnavailable => {
                StatusCode::BAD_GATEWAY
            }
            Self::ConnectTimeout | Self::ResponseTimeout | Self::RequestTimeout => {
                StatusCode::GATEWAY_TIMEOUT
            }
            // nginx's number for it; never on the wire.
            Self::ClientClosed => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        }
    }

    /// Short class for the access log.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad_request",
            Self::TooManyHeaders => "too_many_headers",
            Self::ClientStalled => "client_stalled",
            Self::NoRoute => "no_route",
            Self::Misdirected => "misdirected",
            Self::NoInstance => "no_instance",
            Self::AccessDenied => "access_denied",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::AuthKeysMissing => "auth_keys_missing",
            Self::AuthUnknown => "auth_unknown",
            Self::AuthBusy => "auth_busy",
            Self::AuthUnavailable => "auth_unavailable",
            Self::RateLimited { .. } => "rate_limited",
            Self::RouteBusy => "route_busy",
            Self::BodyTooLarge => "body_too_large",
            Self::PolicyUnusable(_) => "policy_unusable",
            Self::Connect(_) => "connect",
            Self::Exhausted(_) => "exhausted",
            Self::ConnectTimeout => "connect_timeout",
            Self::Upstream(_) => "upstream",
            Self::Unusable(_) => "unusable",
            Self::ResponseTimeout => "response_timeout",
            Self::RequestTimeout => "request_timeout",
            Self::ClientClosed => "client_closed",
        }
    }

    /// gRPC status code (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>).
    fn grpc_status(&self) -> (&'static str, &'static str) {
        match self {
            Self::BadRequest(_) => ("3", "bad request"),
            Self::TooManyHeaders => ("8", "too many header fields"),
            Self::ClientStalled => ("1", "the request did not come to its end"),
            Self::NoRoute => ("5", "no route"),
            Self::Misdirected => ("14", "the host is not served on this connection"),
            Self::NoInstance => ("14", "no healthy instance"),
            Self::AccessDenied => ("7", "access denied"),
            Self::Unauthorized => ("16", "authorization failed"),
            Self::AuthUnavailable => ("14", "authorization is not available"),
            Self::RateLimited { .. } => ("8", "too many requests"),
            Self::RouteBusy => ("14", "too many requests at once"),
            Self::BodyTooLarge => ("8", "the body is too large"),
            Self::PolicyUnusable(_) => ("14", "the route is closed"),
            Self::Forbidden => ("7", "the credentials are not enough"),
            Self::AuthKeysMissing => ("14", "authorization is not available"),
            Self::AuthUnknown => ("14", "authorization is not configured"),
            Self::AuthBusy => ("14", "authorization takes too long"),
            Self::Exhausted(_) => ("14", "the proxy is overloaded"),
            Self::Connect(_) | Self::ConnectTimeout | Self::Upstream(_) | Self::Unusable(_) => {
                ("14", "upstream unavailable")
            }
            Self::RequestTimeout => ("4", "the request took too long"),
            Self::ResponseTimeout => ("4", "no answer from the upstream in time"),
            Self::ClientClosed => ("1", "cancelled"),
        }
    }

    /// Short text for the client; causes with addresses stay in the log.
    fn text(&self) -> &'static str {
        match self {
            Self::BadRequest(reason) => reason,
            Self::TooManyHeaders => "too many header fields",
            Self::ClientStalled => "the request did not come to its end",
            Self::NoRoute => "",
            Self::Misdirected => "the host is not served on this connection",
            Self::NoInstance => "no healthy instance",
            Self::AccessDenied => "access denied",
            Self::Unauthorized => "authorization failed",
            Self::Forbidden => "the credentials are not enough",
            Self::AuthKeysMissing => "authorization is not available",
            Self::AuthUnknown => "authorization is not configured",
            Self::AuthBusy => "authorization takes too long",
            Self::AuthUnavailable => "authorization is not available",
            Self::RateLimited { .. } => "too many requests",
            Self::RouteBusy => "too many requests at once",
            Self::BodyTooLarge => "the body is too large",
            Self::PolicyUnusable(_) => "the route is closed",
            Self::Connect(_) => "cannot connect to the upstream",
            Self::Exhausted(_) => "the proxy is overloaded",
            Self::ConnectTimeout => "connecting to the upstream timed out",
            Self::Upstream(_) | Self::Unusable(_) => "the upstream failed before it answered",
            Self::ResponseTimeout => "the upstream did not answer in time",
            Self::RequestTimeout => "the request took too long",
            Self::ClientClosed => "",
        }
    }

    /// Whether it is about an upstream that the request was sent to, or was to be.
    fn is_of_upstream(&self) -> bool {
        matches!(
            self,
            Self::Connect(_)
                | Self::ConnectTimeout
                | Self::Upstream(_)
                | Self::Unusable(_)
                | Self::ResponseTimeout
        )
    }

    /// The response to an ordinary client.
    #[must_use]
    pub fn response(&self, answers: &ErrorResponses) -> Response<Bytes> {
        let bare = answers.bare && self.is_of_upstream();
        let mut response = Response::new(match self {
            Self::NoRoute => answers.no_route_page.clone(),
            _ if bare || self.text().is_empty() => Bytes::new(),
            _ => Bytes::from(format!("{}\n", self.text())),
        });
        *response.status_mut() = match self {
            Self::Unusable(_) if bare => StatusCode::INTERNAL_SERVER_ERROR,
            _ => self.status(answers.no_route),
        };
        let empty = response.body().is_empty();
        let headers = response.headers_mut();
        if !empty && *self == Self::NoRoute {
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("text/html; charset=utf-8"),
            );
        } else if !empty {
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
            headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        }
        if matches!(
            self,
            Self::NoInstance | Self::AuthBusy | Self::AuthKeysMissing | Self::Exhausted(_)
        ) {
            headers.insert(RETRY_AFTER, HeaderValue::from(answers.retry_after_s));
        }
        match self {
            Self::RateLimited { retry_after_s } => {
                headers.insert(RETRY_AFTER, HeaderValue::from(*retry_after_s));
            }
            Self::RouteBusy => {
                headers.insert(RETRY_AFTER, HeaderValue::from(1));
            }
            _ => {}
        }
        response
    }

    /// The response to a gRPC client: HTTP 200, the news in `grpc-status`.
    #[must_use]
    pub fn grpc_response(&self) -> Response<Bytes> {
        let (status, message) = self.grpc_status();
        let mut response = Response::new(Bytes::new());
        let headers: &mut HeaderMap = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static(status));
        headers.insert("grpc-message", HeaderValue::from_static(message));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::outcomes::PROXY_ERRORS;

    fn answers() -> ErrorResponses {
        ErrorResponses {
            no_route: StatusCode::NOT_FOUND,
            no_route_page: Bytes::new(),
            retry_after_s: 3,
            bare: false,
        }
    }

    #[test]
    fn statuses_are_those_of_the_compatibility_table() {
        let table = [
            (ProxyError::BadRequest("why"), 400, "3"),
            (ProxyError::TooManyHeaders, 431, "8"),
            (ProxyError::ClientStalled, 408, "1"),
            (ProxyError::NoRoute, 404, "5"),
            (ProxyError::Misdirected, 421, "14"),
            (ProxyError::NoInstance, 503, "14"),
            (ProxyError::AccessDenied, 403, "7"),
            (ProxyError::Unauthorized, 401, "16"),
            (ProxyError::AuthBusy, 503, "14"),
            (ProxyError::AuthUnknown, 503, "14"),
            (ProxyError::AuthUnavailable, 502, "14"),
            (ProxyError::RateLimited { retry_after_s: 2 }, 429, "8"),
            (ProxyError::RouteBusy, 503, "14"),
            (ProxyError::BodyTooLarge, 413, "8"),
            (ProxyError::PolicyUnusable("why".into()), 503, "14"),
            (ProxyError::Connect("refused".into()), 502, "14"),
            (ProxyError::Exhausted("no descriptor".into()), 503, "14"),
            (ProxyError::ConnectTimeout, 504, "14"),
            (ProxyError::RequestTimeout, 504, "4"),
            (ProxyError::Upstream("eof".into()), 502, "14"),
            (ProxyError::Unusable("no HTTP".into()), 502, "14"),
            (ProxyError::ResponseTimeout, 504, "4"),
            (ProxyError::ClientClosed, 499, "1"),
        ];
        for (error, status, grpc) in table {
            assert_eq!(
                error.status(StatusCode::NOT_FOUND).as_u16(),
                status,
                "{error}"
            );
            assert_eq!(
                error.grpc_response().headers()["grpc-status"],
                grpc,
                "{error}"
            );
            assert_eq!(error.grpc_response().status(), StatusCode::OK);
            // A client that went away gets no response.
            let counted = PROXY_ERRORS.contains(&error.class());
            assert_eq!(
                counted,
                !matches!(error, ProxyError::ClientClosed),
                "{error}"
            );
        }
    }

    #[test]
    fn a_503_says_when_to_come_back_and_a_404_shows_the_page() {
        let page = Bytes::from_static(b"<p>nothing here</p>");
        let answers = ErrorResponses {
            no_route: StatusCode::IM_A_TEAPOT,
            no_route_page: page.clone(),
            ..answers()
        };
        for error in [
            ProxyError::NoInstance,
            ProxyError::Exhausted("no port".into()),
        ] {
            assert_eq!(error.response(&answers).headers()[RETRY_AFTER], "3");
        }
        let response = ProxyError::NoRoute.response(&answers);
        assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
        assert_eq!(response.body(), &page);
        assert!(!response.headers().contains_key(RETRY_AFTER));
        assert_eq!(response.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
        let nothing = ProxyError::NoRoute.response(&ErrorResponses {
            no_route_page: Bytes::new(),
            ..answers
        });
        assert!(nothing.headers().is_empty());
    }

    #[test]
    fn without_a_text_there_is_no_content_type() {
        let bare = ErrorResponses {
            bare: true,
            ..answers()
        };
        for (error, status) in [
            (ProxyError::NoRoute, 404),
            (ProxyError::Connect("refused".into()), 502),
            (ProxyError::ResponseTimeout, 504),
            (ProxyError::Unusable("no HTTP".into()), 500),
        ] {
            let response = error.response(&bare);
            assert_eq!(response.status().as_u16(), status, "{error}");
            assert!(
                response.body().is_empty() && response.headers().is_empty(),
                "{response:?}"
            );
        }
        assert_eq!(
            ProxyError::AccessDenied.response(&bare).body(),
            "access denied\n"
        );
        let told = ProxyError::Unusable("no HTTP".into()).response(&answers());
        assert_eq!(
            (told.status(), told.body().is_empty()),
            (StatusCode::BAD_GATEWAY, false)
        );
    }

    #[test]
    fn causes_with_addresses_stay_inside() {
        let response = ProxyError::Connect("10.1.2.3:80 refused".into()).response(&answers());
        assert!(!String::from_utf8_lossy(response.body()).contains("10.1.2.3"));
    }
}
