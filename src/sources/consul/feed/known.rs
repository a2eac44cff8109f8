//! What the watches of the feed share, and which services they report.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Semaphore;

use crate::catalog::ServiceName;
use crate::sources::consul::shared::Shared;

/// What the watches of the feed share.
pub(super) struct Feed {
    pub(super) shared: Arc<Shared>,
    /// Connections for watches of single nodes.
    pub(super) node_room: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// Whether each watch of the feed has a response, and no failure since.
    responded: BTreeMap<String, bool>,
    /// Services on each node.
    pub(super) on_node: HashMap<String, BTreeSet<ServiceName>>,
}

impl Feed {
    /// With connections for so many watches of single nodes.
    pub(super) fn new(shared: Arc<Shared>, node_room: usize) -> Self {
        Self {
            shared,
            node_room: Arc::new(Semaphore::new(node_room)),
            state: Mutex::default(),
        }
    }

    /// Notes whether the watch of this path sees what it is for.
    pub(super) fn set_responded(&self, path: &str, responded: bool) {
        let mut state = self.state();
        state.responded.insert(path.to_owned(), responded);
        self.report_complete(&state);
    }

    /// The node is gone, and so is its watch.
    pub(super) fn forget_node(&self, path: &str, node: &str) {
        let mut state = self.state();
        state.responded.remove(path);
        state.on_node.remove(node);
        self.report_complete(&state);
    }

    fn report_complete(&self, state: &State) {
        self.shared
            .set_complete(state.responded.values().all(|responded| *responded));
    }

    pub(super) fn set_services(&self, node: &str, services: BTreeSet<ServiceName>) {
        self.state().on_node.insert(node.to_owned(), services);
    }

    /// These services changed, and so may have all those on these nodes.
    pub(super) fn report(
        &self,
        mut services: BTreeSet<ServiceName>,
        nodes: &BTreeSet<String>,
        seen_at: Instant,
    ) {
        let state = self.state();
        for node in nodes {
            match state.on_node.get(node) {
                Some(on_node) => services.extend(on_node.iter().cloned()),
                None => return self.shared.notices.report_all(seen_at),
            }
        }
        self.shared.notices.report(services.iter(), seen_at);
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A panic leaves the maps whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
