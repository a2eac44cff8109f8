//! What is wrong with the watches of a source at present, so that the log shows changes: one line
//! when its server cannot be read any more, one when every watch can read again. A thousand watches that
//! lose one agent make one line. Pure: time is an argument, the caller writes the lines.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::catalog::ServiceName;

/// Present failures of all watches.
#[derive(Debug, Default)]
pub(super) struct Outage {
    kinds: HashMap<ServiceName, &'static str>,
    /// When the first of them began; none while all is well.
    since: Option<Instant>,
    /// What was logged since then.
    logged: HashSet<&'static str>,
}

impl Outage {
    /// A watch failed in this way. Returns whether that is worth a line: a fault of its own that
    /// was not logged in this outage. A lost connection that cannot be made again is one fault,
    /// whatever the kinds of its errors.
    pub(super) fn failed(&mut self, label: &ServiceName, kind: &'static str, now: Instant) -> bool {
        self.since.get_or_insert(now);
        self.kinds.insert(label.clone(), kind);
        self.logged.insert(fault(kind))
    }

    /// Watches that fail at present.
    pub(super) fn failing(&self) -> usize {
        self.kinds.len()
    }

    /// Whether this watch fails at present.
    pub(super) fn is_failing(&self, label: &ServiceName) -> bool {
        self.kinds.contains_key(label)
    }

    /// A watch reads again, or is gone. Returns how long it took until this was true of all that
    /// failed, if it is now.
    pub(super) fn ended(&mut self, label: &ServiceName, now: Instant) -> Option<Duration> {
        self.kinds.remove(label)?;
        if !self.kinds.is_empty() {
            return None;
        }
        self.logged.clear();
        self.since
            .take()
            .map(|since| now.saturating_duration_since(since))
    }
}

/// Kinds that say the same to an operator.
fn fault(kind: &'static str) -> &'static str {
    match kind {
        "transport" | "connect" | "timeout" | "resolve" => "unreachable",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_logged_once_and_ends_with_the_last_watch() {
        let mut trouble = Outage::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let (list, web) = (ServiceName::from(""), ServiceName::from("web"));
        assert_eq!(trouble.ended(&web, start), None, "nothing was wrong");
        assert!(trouble.failed(&web, "transport", start));
        assert!(!trouble.failed(&list, "transport", after(1)));
        // Reconnecting fails in another way: neither a recovery nor news.
        assert!(!trouble.failed(&web, "connect", after(1)));
        assert!(!trouble.failed(&list, "timeout", after(2)));
        // The agent is back and does not want us: that is news, once.
        assert!(trouble.failed(&list, "tls", after(3)));
        assert!(!trouble.failed(&web, "tls", after(3)));
        assert!(!trouble.failed(&web, "connect", after(4)));
        assert_eq!(trouble.ended(&list, after(5)), None);
        assert_eq!(trouble.ended(&list, after(5)), None);
        assert_eq!(trouble.ended(&web, after(7)), Some(Duration::from_secs(7)));
        assert!(
            trouble.failed(&web, "connect", after(9)),
            "the next outage is logged again"
        );
        assert_eq!(trouble.ended(&web, after(10)), Some(Duration::from_secs(1)));
    }
}
