//! What the rest of the process may request from the control loop.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::{ControlSettings, Readiness, RejectedPlace, ServiceStatus};
use crate::table::explain::Asked;
use crate::table::sticky::StickyKey;

/// Requests that may wait at the control loop; more wait at their senders.
pub(super) const REQUESTS_MAX: usize = 64;

/// A request to the control loop.
#[derive(Debug)]
pub(super) enum ControlRequest {
    /// The state of all services.
    Services(oneshot::Sender<Vec<ServiceStatus>>),
    /// What makes no route, and would match this if it did.
    Rejected(Asked, oneshot::Sender<Vec<RejectedPlace>>),
    /// Count targets by state anew: ejection changes without the loop's doing.
    RefreshTargets(oneshot::Sender<()>),
    /// The configuration was read again.
    Settings(Box<ControlSettings>, oneshot::Sender<()>),
    /// The key of cookies that keep clients with instances, for where no file names it.
    StickyKey(StickyKey, oneshot::Sender<()>),
}

/// The control loop, seen from outside. Cheap to clone; usable from any thread and runtime.
#[derive(Clone, Debug)]
pub struct ControlHandle {
    pub(super) requests: mpsc::Sender<ControlRequest>,
    pub(super) readiness: Arc<watch::Sender<Readiness>>,
    /// Whether a route wants a key for its cookies, and none is there.
    pub(super) lacks_sticky_key: Arc<watch::Sender<bool>>,
}

impl ControlHandle {
    /// The state of all services, by name; empty when the control loop has ended.
    pub async fn services(&self) -> Vec<ServiceStatus> {
        self.request(ControlRequest::Services)
            .await
            .unwrap_or_default()
    }

    /// Tags and route commands that make no route, and would match this if they did.
    pub async fn rejected(&self, asked: Asked) -> Vec<RejectedPlace> {
        self.request(|answer| ControlRequest::Rejected(asked, answer))
            .await
            .unwrap_or_default()
    }

    /// Brings `lb_table_targets` up to date, ejected instances included. To be called before
    /// metrics are written.
    pub async fn refresh_targets(&self) {
        self.request(ControlRequest::RefreshTargets).await;
    }

    /// Whether the control loop still responds. Waits for it as long as it takes.
    pub async fn is_alive(&self) -> bool {
        self.request(ControlRequest::RefreshTargets).await.is_some()
    }

    /// Puts new settings into force; returns when the table that follows them is live.
    pub async fn update_settings(&self, settings: ControlSettings) {
        self.request(|answer| ControlRequest::Settings(Box::new(settings), answer))
            .await;
    }

    /// Completes when a route wants cookies that keep clients with instances, and there is no key
    /// for them. Cancel safe.
    pub async fn lacks_sticky_key(&self) {
        let mut lacks = self.lacks_sticky_key.subscribe();
        let _ = lacks.wait_for(|lacks| *lacks).await;
    }

    /// Completes when no route lacks such a key. Cancel safe.
    pub async fn has_sticky_key(&self) {
        let mut lacks = self.lacks_sticky_key.subscribe();
        let _ = lacks.wait_for(|lacks| !*lacks).await;
    }

    /// Has such cookies made with this key, unless the settings have one; returns when the table
    /// that follows it is live.
    pub async fn set_sticky_key(&self, key: StickyKey) {
        self.request(|answer| ControlRequest::StickyKey(key, answer))
            .await;
    }

    /// Whether traffic may be sent here, and if not, why.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        self.readiness.borrow().clone()
    }

    /// Readiness as it changes.
    #[must_use]
    pub fn watch_readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    /// From here on `/ready` says 503; traffic is still served.
    pub fn set_draining(&self) {
        self.readiness
            .send_modify(|readiness| readiness.draining = true);
    }

    /// Returns when every expected source has synced and the table with all they sent is live.
    /// Cancel safe.
    pub async fn synced(&self) {
        let mut readiness = self.readiness.subscribe();
        // The sender lives in this handle, so the wait can only end by its condition.
        let _ = readiness
            .wait_for(|readiness| readiness.waiting_for.is_empty())
            .await;
    }

    async fn request<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> ControlRequest,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.requests.send(request(answer)).await.ok()?;
        answered.await.ok()
    }
}
