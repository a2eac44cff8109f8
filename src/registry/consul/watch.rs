//! The watch of one service: health answers in, snapshots out, on difference only.

use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tracing::warn;

use super::catalog::{Rejected, snapshot};
use super::error::ConsulError;
use super::guard::{Verdict, lacks_rights, sight, undisputed};
use super::list;
use super::poll::Poller;
use super::shared::{Closed, Shared};
use super::wire::HealthEntry;
use crate::catalog::{InstanceId, ServiceName, ServiceSnapshot};

/// Characters that may stand in a path as they are; a slash may not, though the agent's server decodes it again before
/// it judges the path (see [`is_readable`]).
pub(super) const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One service.
struct ServiceWatch {
    shared: Arc<Shared>,
    name: ServiceName,
    poller: Poller,
    known: Option<Arc<ServiceSnapshot>>,
    /// Kept although an answer lacks them, until that is confirmed. What was added meanwhile makes their share smaller,
    /// but not their loss more credible.
    kept: Vec<InstanceId>,
    rejected: Vec<Rejected>,
}

/// Watches until aborted, or until nobody takes updates any more.
pub(super) async fn run(shared: Arc<Shared>, name: ServiceName) {
    let poller = Poller::new(shared.clone(), path(&name), name.clone());
    let mut watch = ServiceWatch { shared, name, poller, known: None, kept: Vec::new(), rejected: Vec::new() };
    while watch.turn().await.is_ok() {}
}

impl ServiceWatch {
    async fn turn(&mut self) -> Result<(), Closed> {
        let entries = self.poller.next(decode).await;
        let Some(what) = self.doubt(&entries) else { return self.believe(&entries).await };
        // What is new should not wait until somebody has confirmed what is gone.
        self.take_undisputed(&entries).await?;
        match self.second_look().await {
            Ok(confirmed) => self.believe(&confirmed).await,
            Err(error @ ConsulError::Rights { .. }) => {
                self.poller.held(&error);
                self.shared.roll_call(|roll| roll.lacks_rights(&self.name)).await
            }
            Err(error) => {
                self.poller.unconfirmed(what, &error).await;
                Ok(())
            }
        }
    }

    /// What is hard to believe in this answer.
    fn doubt(&self, entries: &[HealthEntry]) -> Option<String> {
        let (fresh, _) = snapshot(&self.name, entries);
        let before = self.known.as_ref().map(|known| known.instances.as_slice());
        let lacks = |id: &&InstanceId| fresh.instances.binary_search_by(|new| new.id.cmp(id)).is_err();
        let missing = self.kept.iter().filter(lacks).count();
        if missing > 0 {
            return Some(format!("{}: the loss of {missing} known instances", self.name));
        }
        let percent = self.shared.config().confirm_percent;
        match self.shared.guard().judge(before.unwrap_or_default(), &fresh.instances, percent) {
            Verdict::ConfirmLoss { vanished, of } => {
                Some(format!("{}: the loss of {vanished} of {of} known instances", self.name))
            }
            Verdict::ConfirmEmpty => Some(format!("{}: the loss of every instance", self.name)),
            // The list names the service, so somebody is registered: nothing at first sight is as odd as nothing left.
            Verdict::Believe if entries.is_empty() && before.is_none() => {
                Some(format!("{}: no instance of a listed service", self.name))
            }
            Verdict::Believe => None,
        }
    }

    /// Reads from the leader; and emptiness is believed only when the list does not contradict it.
    async fn second_look(&mut self) -> Result<Vec<HealthEntry>, ConsulError> {
        let entries = self.poller.confirm(None, decode).await?;
        if entries.is_empty() {
            let list = self.poller.confirm(Some(list::PATH), list::decode).await?;
            if lacks_rights(sight(&list), true) {
                return Err(ConsulError::Rights { what: "the catalog (`consul` is not listed)".to_owned() });
            }
            if list.contains_key(&*self.name) {
                let what = format!("the instances of `{}`, which is listed", self.name);
                return Err(ConsulError::Rights { what });
            }
        }
        Ok(entries)
    }

    /// Takes all of the answer.
    async fn believe(&mut self, entries: &[HealthEntry]) -> Result<(), Closed> {
        let (fresh, rejected) = snapshot(&self.name, entries);
        self.shared.note_outputs(&self.name, entries);
        self.poller.believed();
        self.kept.clear();
        if rejected != self.rejected {
            for Rejected { id, reason } in &rejected {
                warn!(service = &*self.name, instance = %id, reason, "Consul: instance cannot be dialled and is left out");
                if !self.rejected.iter().any(|known| known.id == *id && known.reason == *reason) {
                    self.shared.tell_left_out(&self.name, id, reason);
                }
            }
            self.rejected = rejected;
        }
        self.publish(fresh).await?;
        self.shared.roll_call(|roll| roll.answered(&self.name)).await
    }

    /// Takes what the answer adds and changes. Nothing, while nothing is known.
    async fn take_undisputed(&mut self, entries: &[HealthEntry]) -> Result<(), Closed> {
        let Some(known) = &self.known else { return Ok(()) };
        self.shared.note_outputs(&self.name, entries);
        let (mut fresh, _) = snapshot(&self.name, entries);
        let lacks = |id: &&InstanceId| fresh.instances.binary_search_by(|new| new.id.cmp(id)).is_err();
        self.kept = known.instances.iter().map(|instance| &instance.id).filter(lacks).cloned().collect();
        fresh.instances = undisputed(&known.instances, &fresh.instances);
        self.publish(fresh).await
    }

    async fn publish(&mut self, fresh: ServiceSnapshot) -> Result<(), Closed> {
        if self.known.as_deref() != Some(&fresh) {
            let fresh = Arc::new(fresh);
            self.known = Some(fresh.clone());
            self.shared.publish(fresh).await?;
        }
        Ok(())
    }
}

/// Without `?passing`: registered but sick must stay visible, and has to be told from unknown.
pub(super) fn path(name: &str) -> String {
    format!("/v1/health/service/{}", utf8_percent_encode(name, PATH))
}

/// Whether the instances of a service of this name can be asked for. The agent's server (Go's `http.ServeMux`) cleans
/// the decoded path, and redirects to another one for `.`, `..` and empty segments; only the last may be empty. Consul
/// takes such names at registration nevertheless.
pub(super) fn is_readable(name: &str) -> bool {
    let name = name.strip_suffix('/').unwrap_or(name);
    name.split('/').all(|segment| !matches!(segment, "" | "." | ".."))
}

/// Reads the answer.
pub(super) fn decode(body: &[u8]) -> Result<Vec<HealthEntry>, serde_json::Error> {
    serde_json::from_slice(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_agents_server_would_redirect_are_told_from_all_others() {
        for good in ["web", "a.b", "...", ".a", "a..", "a/b", "a/", "a b", "%2e%2e", "ä?#", "-"] {
            assert!(is_readable(good), "{good}");
        }
        for bad in ["", ".", "..", "/", "//", "/a", "a//b", "a//", "a/./b", "a/..", "../a", "./"] {
            assert!(!is_readable(bad), "{bad}");
        }
    }

    #[test]
    fn names_are_encoded() {
        let cases =
            [("web-1.x_y~", "web-1.x_y~"), ("a/b", "a%2Fb"), ("a b?c#d%e", "a%20b%3Fc%23d%25e"), ("ä", "%C3%A4")];
        for (name, encoded) in cases {
            assert_eq!(path(name), format!("/v1/health/service/{encoded}"));
        }
    }
}
