//! Which counters under Fabio's names a route's targets have: found when the route is compiled,
//! removed when the table without the target is live.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Route;
use crate::metrics::fabio::{FabioMetrics, RouteLabels};

/// Keeps the handles of targets in step with the table. Does nothing unless such counters are
/// configured.
#[derive(Debug)]
pub(super) struct SeriesOfRoutes {
    metrics: Option<Arc<FabioMetrics>>,
    /// By id of the route.
    present: HashMap<u64, HashSet<RouteLabels>, foldhash::fast::FixedState>,
    /// Gone, but still in the table that is live.
    leaving: HashSet<RouteLabels>,
}

impl SeriesOfRoutes {
    pub(super) fn new(metrics: Option<&Arc<FabioMetrics>>) -> Self {
        Self {
            metrics: metrics.cloned(),
            present: HashMap::default(),
            leaving: HashSet::new(),
        }
    }

    /// Gives each target of the route that was compiled anew its handle; none: there is no such
    /// route any more.
    pub(super) fn attach(&mut self, id: u64, route: Option<&mut Route>) {
        let Some(metrics) = &self.metrics else { return };
        let mut labels = HashSet::new();
        if let Some(route) = route {
            let (host, path): (Arc<str>, Arc<str>) = (
                route.key.host.as_str().into(),
                route.key.path.as_str().into(),
            );
            for target in &mut route.targets {
                let own = RouteLabels {
                    service: Arc::clone(target.service.name()),
                    host: Arc::clone(&host),
                    path: Arc::clone(&path),
                    target: target.destination().into(),
                };
                self.leaving.remove(&own);
                target.series = Some(metrics.series.route(own.clone()));
                labels.insert(own);
            }
        }
        let old = self.present.remove(&id).unwrap_or_default();
        self.leaving
            .extend(old.into_iter().filter(|old| !labels.contains(old)));
        if !labels.is_empty() {
            self.present.insert(id, labels);
        }
    }

    /// Removes the handles of targets that left. To be called when the table without them is live,
    /// else a request would still count on them.
    pub(super) fn retire(&mut self) {
        if let Some(metrics) = &self.metrics
            && !self.leaving.is_empty()
        {
            metrics
                .series
                .remove_routes(&std::mem::take(&mut self.leaving));
        }
    }
}
