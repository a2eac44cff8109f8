//! Limits that several lb share (`[fleet]`): how many there are, as the catalog says, is told to the
//! workers.

use std::sync::Arc;

use tokio::task::JoinHandle;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::proxy::limit_share::LimitShare;
use crate::sources::healthy_count::HealthyCount;
use crate::system::vital;

/// Follows the number of lb until it is dropped.
pub(super) struct FleetLimits {
    counter: Box<dyn HealthyCount>,
    follow: JoinHandle<()>,
}

impl FleetLimits {
    /// Must be called within a `LocalSet`.
    pub(super) fn new(
        counter: Box<dyn HealthyCount>,
        config: &Config,
        share: Arc<LimitShare>,
        metrics: Metrics,
    ) -> Self {
        let mut count = counter.count();
        let follow = async move {
            loop {
                let found = *count.borrow_and_update();
                // Before the first count, and when limits are not shared any more.
                share.set(found.unwrap_or(1));
                metrics.control().fleet_size = found;
                if count.changed().await.is_err() {
                    return;
                }
            }
        };
        let follow = tokio::task::spawn_local(vital::task("shared limits", follow));
        let limits = Self { counter, follow };
        limits.reload(config);
        limits
    }

    /// Shares as this says from now on.
    pub(super) fn reload(&self, config: &Config) {
        self.counter.follow(config.fleet_service());
    }
}

impl Drop for FleetLimits {
    fn drop(&mut self) {
        self.follow.abort();
    }
}
