//! What failing health checks say of themselves, for reasons.
//!
//! Kept beside the snapshots and not in them: an output changes with every run of its check, which
//! must not cause a new table.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::text::{TEXT_MAX, bounded};

/// A check of an instance: name of the node, id of the instance, id of the check.
pub type CheckKey = (Arc<str>, Arc<str>, Arc<str>);

/// Those of one service.
type OfService = HashMap<CheckKey, Arc<str>>;

/// The outputs of all checks that do not pass, by service.
#[derive(Debug, Default)]
pub struct Outputs(Mutex<HashMap<Arc<str>, OfService>>);

impl Outputs {
    /// Replaces what is known of a service.
    pub fn set(&self, service: &Arc<str>, outputs: impl IntoIterator<Item = (CheckKey, String)>) {
        let outputs: OfService = outputs
            .into_iter()
            .map(|(key, text)| (key, bounded(&text, TEXT_MAX).into()))
            .collect();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if outputs.is_empty() {
            all.remove(service);
        } else {
            all.insert(Arc::clone(service), outputs);
        }
    }

    /// What the check said last, bounded and escaped.
    #[must_use]
    pub fn get(&self, service: &str, key: &CheckKey) -> Option<Arc<str>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(service)?.get(key).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_replaced_whole_and_safe_to_show() {
        let outputs = Outputs::default();
        let key = |check: &str| -> CheckKey { ("n".into(), "i".into(), check.into()) };
        let web: Arc<str> = "web".into();
        outputs.set(
            &web,
            [
                (key("a"), "refused\u{1b}[2J".to_owned()),
                (key("b"), "x".repeat(500)),
            ],
        );
        assert_eq!(
            outputs.get("web", &key("a")).as_deref(),
            Some("refused\\u{1b}[2J")
        );
        assert_eq!(
            outputs.get("web", &key("b")).unwrap().chars().count(),
            TEXT_MAX + 1
        );
        assert_eq!(outputs.get("other", &key("a")), None);
        outputs.set(&web, [(key("c"), "y".to_owned())]);
        assert_eq!(outputs.get("web", &key("a")), None);
        outputs.set(&web, []);
        assert!(outputs.0.lock().unwrap().is_empty());
    }
}
