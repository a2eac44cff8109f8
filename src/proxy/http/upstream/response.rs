//! What an instance sends back, whichever protocol it speaks: the head, and the body behind it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use hyper::body::Frame;

use super::h1::H1Response;
use super::h1_body::{H1ResponseBody, Opened};
use super::quiet::quiet_max;
use crate::proxy::http::h1::response_head::Framing;
use crate::proxy::http::h1::spelling::Spelling;
use crate::proxy::http::h2::stream_body::StreamBody;
use crate::proxy::http::response_body::UpstreamBody;
use crate::proxy::pool::StreamGuard;
use crate::proxy::worker::Worker;
use crate::table::{InFlight, TargetState};

/// The response of an instance. Not boxed in HTTP/1: it lies where it is used, and a box would be
/// the only one of a request.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "see above")]
pub enum UpstreamResponse {
    /// In HTTP/1: its bytes, and the connection they come on.
    H1(H1Response),
    /// On a stream of HTTP/2.
    H2(Box<H2Response>),
}

/// A response in HTTP/2.
#[derive(Debug)]
pub struct H2Response {
    /// Its head and body.
    pub response: Response<StreamBody>,
    /// What was taken of the body already.
    pub first: Option<Frame<Bytes>>,
    /// Its place on the shared connection.
    pub stream: StreamGuard,
    /// The instance's load counter.
    pub in_flight: InFlight,
    /// From the moment a connection was there to the head.
    pub took: Duration,
}

/// A response as a head with a map of fields, and a body.
#[derive(Debug)]
pub struct Streamed {
    /// Its head and body.
    pub response: Response<UpstreamBody>,
    /// What was taken of the body already.
    pub first: Option<Frame<Bytes>>,
    /// Its place on a shared connection, if it comes on one.
    pub stream: Option<StreamGuard>,
    /// The instance's load counter.
    pub in_flight: InFlight,
    /// From the moment a connection was there to the head.
    pub took: Duration,
}

impl UpstreamResponse {
    /// Its status.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::H1(response) => response.head.status,
            Self::H2(response) => response.response.status().as_u16(),
        }
    }

    /// From the moment a connection was there to the head.
    #[must_use]
    pub fn took(&self) -> Duration {
        match self {
            Self::H1(response) => response.took,
            Self::H2(response) => response.took,
        }
    }

    /// Whether all of it is known to be here.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let Self::H1(response) = self else {
            return false;
        };
        let there = response.buffer.filled().len() - response.head.length;
        match response.head.framing {
            Framing::Empty => true,
            Framing::Length(length) => there as u64 >= length,
            Framing::Chunked | Framing::UntilClose => false,
        }
    }

    /// The value of a field of its head, as it came.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        match self {
            Self::H1(response) => {
                let bytes = response.buffer.filled();
                let named = |name_of: &[u8]| name_of.eq_ignore_ascii_case(name.as_bytes());
                response
                    .fields
                    .iter()
                    .find(|field| named(field.name.of(bytes)))
                    .map(|field| field.value.of(bytes))
            }
            Self::H2(response) => response
                .response
                .headers()
                .get(name)
                .map(http::HeaderValue::as_bytes),
        }
    }

    /// How its head was spelled, if it came in HTTP/1.
    #[must_use]
    pub fn spelling(&self) -> Option<Spelling> {
        let Self::H1(response) = self else {
            return None;
        };
        Some(Spelling::of(
            response.buffer.filled(),
            &response.head,
            &response.fields,
        ))
    }

    /// The same with a map of its fields, to be edited.
    #[must_use]
    pub fn into_streamed(self, worker: &Rc<Worker>, target: &Arc<TargetState>) -> Streamed {
        let limit = worker.settings().proxy.response_idle_timeout;
        let quiet_max = quiet_max(limit, self.field("content-type"));
        match self {
            Self::H1(response) => {
                let Opened {
                    response,
                    in_flight,
                    took,
                } = H1ResponseBody::open(worker, target, response);
                let response = response.map(|body| UpstreamBody::h1(body, quiet_max));
                Streamed {
                    response,
                    first: None,
                    stream: None,
                    in_flight,
                    took,
                }
            }
            Self::H2(response) => {
                let H2Response {
                    response,
                    first,
                    stream,
                    in_flight,
                    took,
                } = *response;
                let response = response.map(|body| UpstreamBody::stream(body, quiet_max));
                Streamed {
                    response,
                    first,
                    stream: Some(stream),
                    in_flight,
                    took,
                }
            }
        }
    }
}
