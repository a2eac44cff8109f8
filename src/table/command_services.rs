//! The services that route commands name, kept in step with the commands that are in force.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::draft::{Admission, Draft};
use super::{CommandTarget, TargetState};
use crate::catalog::ServiceName;

/// Services by name, each with its targets; one that several commands add is one target.
#[derive(Debug, Default)]
pub struct CommandServices {
    by_name: BTreeMap<ServiceName, BTreeMap<u64, Used>>,
    /// Have no target any more.
    gone: BTreeSet<ServiceName>,
}

#[derive(Debug)]
struct Used {
    target: CommandTarget,
    commands: usize,
}

impl CommandServices {
    /// Names, in order.
    pub fn names(&self) -> impl Iterator<Item = &ServiceName> {
        self.by_name.keys()
    }

    /// Whether a command names the service.
    #[must_use]
    pub fn contains(&self, name: &ServiceName) -> bool {
        self.by_name.contains_key(name)
    }

    /// Targets of one service.
    pub fn targets(&self, name: &ServiceName) -> impl Iterator<Item = &CommandTarget> {
        self.by_name
            .get(name)
            .into_iter()
            .flat_map(|targets| targets.values().map(|used| &used.target))
    }

    /// Names that have left since the last call; some may be back.
    pub(super) fn take_gone(&mut self) -> BTreeSet<ServiceName> {
        std::mem::take(&mut self.gone)
    }

    pub(super) fn add(&mut self, draft: &Draft) {
        let excluded = match &draft.admission {
            Admission::Eligible { .. } => None,
            Admission::Excluded { reason } => Some(Arc::clone(reason)),
        };
        let target = CommandTarget {
            state: Arc::clone(&draft.state),
            excluded,
            options: Arc::clone(&draft.options),
        };
        let targets = self.by_name.entry(Arc::clone(&draft.service)).or_default();
        match targets.entry(draft.state.key) {
            // The newer one knows better why it may not serve.
            Entry::Occupied(mut used) => {
                used.get_mut().commands += 1;
                used.get_mut().target = target;
            }
            Entry::Vacant(place) => drop(place.insert(Used {
                target,
                commands: 1,
            })),
        }
    }

    pub(super) fn remove(&mut self, service: &ServiceName, state: &TargetState) {
        let Some(targets) = self.by_name.get_mut(service) else {
            return;
        };
        if let Entry::Occupied(mut used) = targets.entry(state.key) {
            used.get_mut().commands -= 1;
            if used.get().commands == 0 {
                used.remove();
            }
        }
        if targets.is_empty() {
            self.by_name.remove(service);
            self.gone.insert(Arc::clone(service));
        }
    }
}
