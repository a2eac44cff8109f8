//! What an exchange counts under Fabio's names. Without them it is two empty options, looked at
//! when it ends.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use crate::metrics::fabio::{FabioMetrics, RouteSeries};
use crate::proxy::listener::Listener;
use crate::table::Target;

/// The handles of one request.
#[derive(Debug)]
pub struct FabioObserver {
    /// Of the target it went to last.
    series: Option<Arc<RouteSeries>>,
    call: Option<Call>,
}

#[derive(Debug)]
struct Call {
    metrics: Arc<FabioMetrics>,
    status: Option<usize>,
}

impl FabioObserver {
    /// Of a request that came to `listener`.
    #[must_use]
    pub fn new(listener: &Listener) -> Self {
        let metrics = listener.fabio.as_ref().filter(|_| listener.is_grpc());
        Self {
            series: None,
            call: metrics.map(|metrics| Call {
                metrics: Arc::clone(metrics),
                status: None,
            }),
        }
    }

    /// It is sent to `target`.
    pub fn goes_to(&mut self, target: &Target) {
        self.series.clone_from(&target.series);
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
            call.metrics
                .record_call(call.status.or((status == 499).then_some(CANCELED)), took);
            if let Some(series) = &self.series {
                series.record_call(took);
            }
        } else if let Some(series) = &self.series {
            // A tunnel has no code in Fabio.
            series.record_request((status != 101).then_some(status), took);
        }
    }
}
