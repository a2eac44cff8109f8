//! What a new table is about, in words for one line of the log: the first few services, and what
//! became of each. Pure.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::catalog::{Instance, InstanceId, ServiceSnapshot};

/// Most services that are named.
const NAMED_MAX: usize = 3;

/// A service as of some table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SeenService {
    pub(super) snapshot: Arc<ServiceSnapshot>,
    /// How many instances may serve.
    pub(super) serving: usize,
}

/// What happened since `before`; none when nothing did that the line could tell.
fn describe(before: Option<&SeenService>, now: &SeenService) -> Option<String> {
    if before == Some(now) {
        return None;
    }
    let (old, was_serving) = before.map_or((&[][..], 0), |before| {
        (&before.snapshot.instances[..], before.serving)
    });
    let (added, removed) = count_changes(old, &now.snapshot.instances);
    let serving = now.serving;
    Some(if added + removed > 0 {
        format!("instances +{added} -{removed}, serving {serving}")
    } else if was_serving != serving {
        format!("serving {was_serving} -> {serving}")
    } else if before.is_none() {
        "no instances".to_owned()
    } else {
        "tags, weights or checks changed".to_owned()
    })
}

/// How many instances came and left. Both lists are in the order of ids, as sources send them; one
/// that moved to another address is another.
fn count_changes(old: &[Instance], new: &[Instance]) -> (usize, usize) {
    let key = |instance: &&Instance| -> (InstanceId, _) {
        (instance.id.clone(), instance.endpoint.addr())
    };
    let (mut old, mut new) = (
        old.iter().map(|i| key(&i)).peekable(),
        new.iter().map(|i| key(&i)).peekable(),
    );
    let (mut added, mut removed) = (0, 0);
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return (added, removed),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.cmp(new),
        };
        if order.is_le() {
            old.next();
        }
        if order.is_ge() {
            new.next();
        }
        removed += usize::from(order.is_lt());
        added += usize::from(order.is_gt());
    }
}

/// The changes that go into one table.
#[derive(Debug, Default)]
pub(super) struct Changed {
    named: Vec<String>,
    more: usize,
}

impl Changed {
    /// A service was evaluated.
    pub(super) fn service(&mut self, name: &str, before: Option<&SeenService>, now: &SeenService) {
        if self.named.len() >= NAMED_MAX {
            self.more += usize::from(before != Some(now));
        } else if let Some(what) = describe(before, now) {
            self.note(name, &what);
        }
    }

    /// Something else happened to what has this name.
    pub(super) fn note(&mut self, name: &str, what: &str) {
        if self.named.len() < NAMED_MAX {
            self.named.push(format!("{name}: {what}"));
        } else {
            self.more += 1;
        }
    }
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.named.is_empty(), self.more) {
            (true, _) => f.write_str("settings"),
            (false, 0) => f.write_str(&self.named.join("; ")),
            (false, more) => write!(f, "{}; and {more} more", self.named.join("; ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Endpoint, Registration, Weights};

    fn seen(ports: &[(&str, u16)], serving: usize) -> SeenService {
        let instance = |&(id, port): &(&str, u16)| Instance {
            id: InstanceId {
                node: "n".into(),
                id: id.into(),
            },
            endpoint: Endpoint::Addr(([10, 0, 0, 1], port).into()),
            tags: Vec::new(),
            checks: Vec::new(),
            weights: Weights::default(),
            registration: Registration::default(),
        };
        let snapshot = ServiceSnapshot {
            name: "web".into(),
            datacenter: None,
            instances: ports.iter().map(instance).collect(),
        };
        SeenService {
            snapshot: Arc::new(snapshot),
            serving,
        }
    }

    #[test]
    fn what_happened_to_a_service() {
        let base = seen(&[("b", 1), ("d", 2)], 2);
        let mut tagged = (*base.snapshot).clone();
        tagged.instances[0].tags = vec!["x".into()];
        let tagged = SeenService {
            snapshot: Arc::new(tagged),
            serving: 2,
        };
        for (now, expected) in [
            (base.clone(), None),
            (seen(&[("b", 1), ("d", 2)], 1), Some("serving 2 -> 1")),
            (
                seen(&[("a", 3), ("b", 1), ("c", 4), ("d", 2), ("e", 5)], 2),
                Some("instances +3 -0, serving 2"),
            ),
            (seen(&[("c", 4)], 1), Some("instances +1 -2, serving 1")),
            (
                seen(&[("b", 9), ("d", 2)], 2),
                Some("instances +1 -1, serving 2"),
            ),
            (seen(&[], 0), Some("instances +0 -2, serving 0")),
            (tagged, Some("tags, weights or checks changed")),
        ] {
            assert_eq!(describe(Some(&base), &now).as_deref(), expected);
        }
        assert_eq!(
            describe(None, &base).as_deref(),
            Some("instances +2 -0, serving 2")
        );
        assert_eq!(
            describe(None, &seen(&[], 0)).as_deref(),
            Some("no instances")
        );
    }

    #[test]
    fn a_few_are_named_and_the_rest_counted() {
        let mut changed = Changed::default();
        assert_eq!(changed.to_string(), "settings");
        let one = seen(&[("a", 1)], 1);
        changed.service("quiet", Some(&one), &one);
        changed.note("old", "gone");
        for name in ["p", "q", "r", "s"] {
            changed.service(name, None, &one);
        }
        changed.service("quiet", Some(&one), &one);
        let expected =
            "old: gone; p: instances +1 -0, serving 1; q: instances +1 -0, serving 1; and 2 more";
        assert_eq!(changed.to_string(), expected);
    }
}
