//! Which handle of the observer each target of a route has: found when the route is compiled,
//! removed when the table without the target is live.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Route;
use crate::metrics::observer::{TargetLabels, TrafficObserver};

/// Keeps the handles of targets in step with the table. Does nothing without an observer.
#[derive(Debug)]
pub(super) struct TargetObservers {
    observer: Option<Arc<dyn TrafficObserver>>,
    /// By id of the route.
    present: HashMap<u64, HashSet<TargetLabels>, foldhash::fast::FixedState>,
    /// Gone, but still in the table that is live.
    leaving: HashSet<TargetLabels>,
}

impl TargetObservers {
    pub(super) fn new(observer: Option<&Arc<dyn TrafficObserver>>) -> Self {
        Self {
            observer: observer.cloned(),
            present: HashMap::default(),
            leaving: HashSet::new(),
        }
    }

    /// Gives each target of the route that was compiled anew its handle; none: there is no such
    /// route any more.
    pub(super) fn attach(&mut self, id: u64, route: Option<&mut Route>) {
        let Some(observer) = &self.observer else {
            return;
        };
        let mut labels = HashSet::new();
        if let Some(route) = route {
            let (host, path): (Arc<str>, Arc<str>) = (
                route.key.host.as_str().into(),
                route.key.path.as_str().into(),
            );
            for target in &mut route.targets {
                let own = TargetLabels {
                    service: Arc::clone(target.service.name()),
                    host: Arc::clone(&host),
                    path: Arc::clone(&path),
                    target: target.destination().into(),
                };
                self.leaving.remove(&own);
                target.observer = Some(observer.target(own.clone()));
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
        if let Some(observer) = &self.observer
            && !self.leaving.is_empty()
        {
            observer.remove_targets(&std::mem::take(&mut self.leaving));
        }
    }
}
