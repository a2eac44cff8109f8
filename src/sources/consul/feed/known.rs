//! What the watches of the feed share, and whom they tell.

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
    /// Whether each watch of the feed has an answer, and no failure since.
    answered: BTreeMap<String, bool>,
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
    pub(super) fn set_answered(&self, path: &str, answered: bool) {
        let mut state = self.state();
        state.answered.insert(path.to_owned(), answered);
        self.tell_complete(&state);
    }

    /// The node is gone, and so is its watch.
    pub(super) fn forget_node(&self, path: &str, node: &str) {
        let mut state = self.state();
        state.answered.remove(path);
        state.on_node.remove(node);
        self.tell_complete(&state);
    }

    fn tell_complete(&self, state: &State) {
        self.shared
            .set_complete(state.answered.values().all(|answered| *answered));
    }

    pub(super) fn set_services(&self, node: &str, services: BTreeSet<ServiceName>) {
        self.state().on_node.insert(node.to_owned(), services);
    }

    /// These services changed, and so may have all those on these nodes.
    pub(super) fn tell(
        &self,
        mut services: BTreeSet<ServiceName>,
        nodes: &BTreeSet<String>,
        seen_at: Instant,
    ) {
        let state = self.state();
        for node in nodes {
            match state.on_node.get(node) {
                Some(on_node) => services.extend(on_node.iter().cloned()),
                None => return self.shared.notices.tell_all(seen_at),
            }
        }
        self.shared.notices.tell(services.iter(), seen_at);
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A panic leaves the maps whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
