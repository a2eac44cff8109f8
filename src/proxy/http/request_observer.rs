//! What an observer is told of one request. Without an observer it is two empty options, looked at
//! when the request ends.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use crate::metrics::observer::{TargetObserver, TrafficObserver};
use crate::proxy::listener::Listener;
use crate::table::Target;

/// The handles of one request.
#[derive(Debug)]
pub struct RequestObserver {
    /// Of the target it went to last.
    target: Option<Arc<dyn TargetObserver>>,
    call: Option<Call>,
}

#[derive(Debug)]
struct Call {
    observer: Arc<dyn TrafficObserver>,
    status: Option<usize>,
}

impl RequestObserver {
    /// Of a request that came to `listener`.
    #[must_use]
    pub fn new(listener: &Listener) -> Self {
        let observer = listener.observer.as_ref().filter(|_| listener.is_grpc());
        Self {
            target: None,
            call: observer.map(|observer| Call {
                observer: Arc::clone(observer),
                status: None,
            }),
        }
    }

    /// It is sent to `target`.
    pub fn goes_to(&mut self, target: &Target) {
        self.target.clone_from(&target.observer);
    }

    /// Header fields, or trailers, of its response.
    pub fn metadata(&mut self, fields: &HeaderMap) {
        let Some(call) = &mut self.call else { return };
        if let Some(status) = fields.get("grpc-status") {
            call.status = status.to_str().ok().and_then(|text| text.parse().ok());
        }
    }

    /// It is over. `status` is what the client got, 499 if it left before.
    pub fn end(&self, status: u16, took: Duration) {
        if let Some(call) = &self.call {
            const CANCELED: usize = 1;
            call.observer
                .call(call.status.or((status == 499).then_some(CANCELED)), took);
            if let Some(target) = &self.target {
                target.call(took);
            }
        } else if let Some(target) = &self.target {
            // A tunnel ends without a code.
            target.request((status != 101).then_some(status), took);
        }
    }
}
