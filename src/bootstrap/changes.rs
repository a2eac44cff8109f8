//! What a run has changed on nodes so far, so that a command that fails can say it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// Changes by node, in words. Cheap to clone; clones share the record.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes(Arc<Mutex<BTreeMap<String, Vec<&'static str>>>>);

impl Changes {
    /// Notes a change, before it is tried: what fails half-way has changed something as well.
    pub(super) fn note(&self, node: &str, what: &'static str) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_node = all.entry(node.to_owned()).or_default();
        if !of_node.contains(&what) {
            of_node.push(what);
        }
    }

    /// Whether nothing was changed.
    pub(super) fn is_empty(&self) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.is_empty()
    }

    /// All of it, nodes with the same changes together.
    pub(super) fn told(&self) -> String {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kinds: BTreeSet<&Vec<&str>> = all.values().collect();
        let lines = kinds.into_iter().map(|kind| {
            let nodes: Vec<&str> = all
                .iter()
                .filter(|(_, what)| *what == kind)
                .map(|(node, _)| node.as_str())
                .collect();
            format!("{} ({})", nodes.join(", "), kind.join(", "))
        });
        lines.collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_by_kind() {
        let changes = Changes::default();
        assert!(changes.is_empty());
        for (node, what) in [
            ("b", "files written"),
            ("a", "files written"),
            ("b", "files written"),
            ("c", "stopped"),
            ("c", "data removed"),
        ] {
            changes.clone().note(node, what);
        }
        assert!(!changes.is_empty());
        assert_eq!(
            changes.told(),
            "a, b (files written); c (stopped, data removed)"
        );
    }
}
