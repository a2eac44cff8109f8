//! The watch of one service: health responses in, snapshots out, on difference only.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use percent_encoding::utf8_percent_encode;
use tracing::warn;

use super::catalog::{Rejected, retain_own, snapshot};
use super::error::ConsulError;
use super::poll::Poller;
use super::rights::{self, Absence, Evidence, Rights};
use super::shared::{Closed, Shared};
use super::visibility::sight;
use super::wire::{HealthEntry, SEGMENT, SERVICES, decode_services};
use crate::catalog::{Instance, InstanceId, Registration, ServiceName, ServiceSnapshot};
use crate::sources::loss_guard::{Verdict, undisputed};

/// How long instances are kept that Consul shows no longer, when nothing tells whether the token
/// may see them.
const UNPROVEN_MAX: Duration = Duration::from_secs(30);
/// Most nodes that are looked up for one response.
const NODES_MAX: usize = 8;

struct ServiceWatch {
    shared: Arc<Shared>,
    name: ServiceName,
    poller: Poller,
    known: Option<Arc<ServiceSnapshot>>,
    /// Kept although a response lacks them, until that is confirmed. What was added meanwhile makes
    /// their share smaller, but not their loss more credible.
    kept: Vec<InstanceId>,
    rejected: Vec<Rejected>,
    /// Since when Consul shows no instance, and nothing tells whether that is true.
    unproven_since: Option<Instant>,
}

/// Watches until aborted, or until nothing takes updates any more. `since`: when the service was
/// seen to be there.
pub(super) async fn run(shared: Arc<Shared>, name: ServiceName, since: Instant) {
    let poller = Poller::of_service(shared.clone(), path(&name), name.clone(), since);
    let mut watch = ServiceWatch {
        shared,
        name,
        poller,
        known: None,
        kept: Vec::new(),
        rejected: Vec::new(),
        unproven_since: None,
    };
    while watch.turn().await.is_ok() {}
}

/// What a second look shows.
enum Look {
    /// These are the instances; none of those that are missing is hidden but the ones on these
    /// nodes.
    Believed(Vec<HealthEntry>, BTreeSet<Arc<str>>),
    /// The token may not see what is missing.
    Hidden(ConsulError),
    /// What is missing may be gone or hidden.
    Unproven(ConsulError),
}

impl ServiceWatch {
    async fn turn(&mut self) -> Result<(), Closed> {
        let mut entries = match self.poller.attempt(decode).await {
            Ok(Some(entries)) => entries,
            Ok(None) => return Ok(()),
            Err(error) => return self.failed(&error).await,
        };
        retain_own(&self.name, &mut entries);
        let Some(what) = self.doubt(&entries) else {
            return self.believe(&entries, &BTreeSet::new()).await;
        };
        // What is new should not wait until the leader has confirmed what is gone.
        self.take_undisputed(&entries).await?;
        match self.second_look().await {
            Ok(Look::Believed(confirmed, hidden)) => self.believe(&confirmed, &hidden).await,
            Ok(Look::Hidden(error)) => {
                self.unproven_since = None;
                self.mark_kept(&error, true).await?;
                self.poller.held(&error);
                self.shared
                    .update_sync(|sync| sync.lacks_rights(&self.name))
                    .await
            }
            Ok(Look::Unproven(error)) => {
                self.mark_kept(&error, false).await?;
                self.poller.held(&error);
                self.shared
                    .update_sync(|sync| sync.lacks_rights(&self.name))
                    .await
            }
            Err(error) => {
                self.unproven_since = None;
                self.mark_kept(&error, false).await?;
                self.poller.unconfirmed(what, &error).await;
                Ok(())
            }
        }
    }

    /// A read failed. One that is refused shows that nothing is known of the instances any more.
    async fn failed(&mut self, error: &ConsulError) -> Result<(), Closed> {
        if error.kind() == "token"
            && let Some(known) = &self.known
        {
            self.kept = known
                .instances
                .iter()
                .map(|instance| instance.id.clone())
                .collect();
            self.mark_kept(error, true).await?;
        }
        self.poller.failed(error).await;
        Ok(())
    }

    /// What is hard to believe in this response.
    fn doubt(&self, entries: &[HealthEntry]) -> Option<String> {
        let (fresh, _) = snapshot(&self.name, entries);
        let before = self.known.as_ref().map(|known| known.instances.as_slice());
        let lacks = |id: &&InstanceId| {
            fresh
                .instances
                .binary_search_by(|new| new.id.cmp(id))
                .is_err()
        };
        let missing = self.kept.iter().filter(lacks).count();
        if missing > 0 {
            return Some(format!(
                "{}: the loss of {missing} known instances",
                self.name
            ));
        }
        let percent = self.shared.config().confirm_percent;
        match self
            .shared
            .guard()
            .judge(before.unwrap_or_default(), &fresh.instances, percent)
        {
            Verdict::ConfirmLoss { vanished, of } => Some(format!(
                "{}: the loss of {vanished} of {of} known instances",
                self.name
            )),
            Verdict::ConfirmEmpty => Some(format!("{}: the loss of every instance", self.name)),
            // The list names the service, so it has registrations: nothing at first sight is as odd
            // as nothing left.
            Verdict::Believe if entries.is_empty() && before.is_none() => {
                Some(format!("{}: no instance of a listed service", self.name))
            }
            // What is missing may be what was left out.
            Verdict::Believe
                if self.poller.filtered() && !self.missing(&fresh.instances).is_empty() =>
            {
                Some(format!(
                    "{}: the loss of known instances, in a response that is not whole",
                    self.name
                ))
            }
            Verdict::Believe => None,
        }
    }

    /// Known instances that are not among these.
    fn missing(&self, fresh: &[Instance]) -> Vec<&Instance> {
        let known = self
            .known
            .as_ref()
            .map_or(&[][..], |known| &known.instances);
        known
            .iter()
            .filter(|old| fresh.binary_search_by(|new| new.id.cmp(&old.id)).is_err())
            .collect()
    }

    /// Reads from the leader, and finds out whether the token may see what is missing.
    async fn second_look(&mut self) -> Result<Look, ConsulError> {
        let mut entries = self.poller.confirm(None, decode).await?;
        retain_own(&self.name, &mut entries);
        let health_filtered = Some(self.poller.filtered());
        if !entries.is_empty() {
            let hidden = self.hidden_nodes(&entries).await?;
            return Ok(Look::Believed(entries, hidden));
        }
        let list = self.poller.confirm(Some(SERVICES), decode_services).await?;
        if list.contains_key(&*self.name) {
            let what = format!("the instances of `{}`, which is listed", self.name);
            return Ok(Look::Hidden(ConsulError::Rights { what }));
        }
        let sight = sight(&list);
        let seen_whole = self.shared.note_sight(sight);
        let evidence = Evidence {
            sight,
            seen_whole,
            list_filtered: self.poller.filtered(),
            health_filtered,
        };
        match rights::absence(&self.shared, &self.name, evidence).await? {
            Absence::Gone => Ok(Look::Believed(entries, BTreeSet::new())),
            Absence::Hidden(what) => Ok(Look::Hidden(ConsulError::Rights { what })),
            Absence::Unknown(what) => {
                let since = *self.unproven_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= UNPROVEN_MAX {
                    warn!(
                        service = &*self.name,
                        after = ?UNPROVEN_MAX,
                        "Consul shows no instance any more, and does not say whether the token may see them: believed"
                    );
                    return Ok(Look::Believed(entries, BTreeSet::new()));
                }
                let reason = "Consul does not say whether the token may see them".to_owned();
                Ok(Look::Unproven(ConsulError::Unconfirmed { what, reason }))
            }
        }
    }

    /// Nodes of missing instances that the token may not read, so that their instances are left out
    /// of every response.
    async fn hidden_nodes(
        &self,
        entries: &[HealthEntry],
    ) -> Result<BTreeSet<Arc<str>>, ConsulError> {
        let (fresh, _) = snapshot(&self.name, entries);
        let missing = self.missing(&fresh.instances);
        let is_visible = |node: &str| {
            fresh
                .instances
                .iter()
                .any(|instance| *instance.id.node == *node)
        };
        let nodes: BTreeSet<&Arc<str>> = missing.iter().map(|instance| &instance.id.node).collect();
        let mut hidden = BTreeSet::new();
        for node in nodes
            .into_iter()
            .filter(|node| !is_visible(node))
            .take(NODES_MAX)
        {
            if rights::to_node(&self.shared, node).await? == Rights::Denied {
                hidden.insert(Arc::clone(node));
            }
        }
        Ok(hidden)
    }

    /// Takes all of the response, and keeps what is on nodes that may not be read.
    async fn believe(
        &mut self,
        entries: &[HealthEntry],
        hidden: &BTreeSet<Arc<str>>,
    ) -> Result<(), Closed> {
        let (mut fresh, rejected) = snapshot(&self.name, entries);
        self.unproven_since = None;
        self.shared.note_outputs(&self.name, entries);
        if rejected != self.rejected {
            for Rejected { id, reason } in &rejected {
                warn!(service = &*self.name, instance = %id, reason, "Consul: instance cannot be dialled and is left out");
                if !self
                    .rejected
                    .iter()
                    .any(|known| known.id == *id && known.reason == *reason)
                {
                    self.shared.report_left_out(&self.name, id, reason);
                }
            }
            self.rejected = rejected;
        }
        let kept: Vec<Instance> = self
            .missing(&fresh.instances)
            .into_iter()
            .filter(|old| hidden.contains(&old.id.node))
            .cloned()
            .collect();
        self.kept = kept.iter().map(|instance| instance.id.clone()).collect();
        let useful = self.known.as_deref() != Some(&fresh);
        if self.kept.is_empty() {
            self.poller.believed(useful);
        } else {
            let names: Vec<&str> = hidden.iter().map(|node| &**node).collect();
            let error = ConsulError::Rights {
                what: format!("the nodes {}", names.join(", ")),
            };
            fresh.instances = undisputed(&kept, &fresh.instances);
            mark(
                &mut fresh.instances,
                &self.kept,
                &error.to_string().into(),
                true,
            );
            self.poller.held(&error);
        }
        self.publish(fresh).await?;
        self.shared
            .update_sync(|sync| sync.responded(&self.name))
            .await
    }

    /// Takes what the response adds and changes. Nothing, while nothing is known.
    async fn take_undisputed(&mut self, entries: &[HealthEntry]) -> Result<(), Closed> {
        let Some(known) = &self.known else {
            return Ok(());
        };
        self.shared.note_outputs(&self.name, entries);
        let (mut fresh, _) = snapshot(&self.name, entries);
        self.kept = self
            .missing(&fresh.instances)
            .into_iter()
            .map(|old| old.id.clone())
            .collect();
        fresh.instances = undisputed(&known.instances, &fresh.instances);
        self.publish(fresh).await
    }

    /// Passes on that what is kept is not confirmed, and why.
    async fn mark_kept(&mut self, error: &ConsulError, rights_lost: bool) -> Result<(), Closed> {
        let Some(known) = &self.known else {
            return Ok(());
        };
        let mut marked = ServiceSnapshot::clone(known);
        mark(
            &mut marked.instances,
            &self.kept,
            &error.to_string().into(),
            rights_lost,
        );
        self.publish(marked).await
    }

    async fn publish(&mut self, fresh: ServiceSnapshot) -> Result<(), Closed> {
        if self.known.as_deref() != Some(&fresh) {
            let fresh = Arc::new(fresh);
            self.known = Some(fresh.clone());
            self.shared.publish(fresh, self.poller.seen_at()).await?;
        }
        Ok(())
    }
}

/// Marks these instances as not confirmed. What is not a target stays that.
fn mark(instances: &mut [Instance], kept: &[InstanceId], reason: &Arc<str>, rights_lost: bool) {
    for instance in instances
        .iter_mut()
        .filter(|instance| kept.contains(&instance.id))
    {
        if !matches!(instance.registration, Registration::NotATarget { .. }) {
            instance.registration = Registration::Unconfirmed {
                reason: Arc::clone(reason),
                rights_lost,
            };
        }
    }
}

/// Without `?passing`: registered but sick must stay visible, and has to differ from unknown.
pub(super) fn path(name: &str) -> String {
    format!("/v1/health/service/{}", utf8_percent_encode(name, SEGMENT))
}

/// Whether the instances of a service of this name can be read. The agent's server (Go's
/// `http.ServeMux`) cleans the decoded path, and redirects to another one for `.`, `..` and empty
/// segments; only the last may be empty. Consul takes such names at registration nevertheless.
pub(super) fn is_readable(name: &str) -> bool {
    let name = name.strip_suffix('/').unwrap_or(name);
    name.split('/')
        .all(|segment| !matches!(segment, "" | "." | ".."))
}

pub(super) fn decode(body: &[u8]) -> Result<Vec<HealthEntry>, serde_json::Error> {
    serde_json::from_slice(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_agents_server_would_redirect_are_recognized() {
        for good in [
            "web", "a.b", "...", ".a", "a..", "a/b", "a/", "a b", "%2e%2e", "ä?#", "-",
        ] {
            assert!(is_readable(good), "{good}");
        }
        for bad in [
            "", ".", "..", "/", "//", "/a", "a//b", "a//", "a/./b", "a/..", "../a", "./",
        ] {
            assert!(!is_readable(bad), "{bad}");
        }
    }

    #[test]
    fn names_are_encoded() {
        let cases = [
            ("web-1.x_y~", "web-1.x_y~"),
            ("a/b", "a%2Fb"),
            ("a b?c#d%e", "a%20b%3Fc%23d%25e"),
            ("ä", "%C3%A4"),
        ];
        for (name, encoded) in cases {
            assert_eq!(path(name), format!("/v1/health/service/{encoded}"));
        }
    }
}
