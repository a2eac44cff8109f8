//! The watch of the list of services: starts a service watch for every name that carries a routing tag, and ends it
//! when the name has left the list.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::sleep;
use tracing::warn;

use super::error::ConsulError;
use super::guard::{Sight, Verdict, lacks_rights, routed, sight};
use super::poll::Poller;
use super::roll::Roll;
use super::settings::Reader;
use super::shared::{Closed, Shared};
use super::watch;
use super::wire::ServiceList;
use crate::catalog::ServiceName;
use crate::system::vital;

/// What it reads.
pub(super) const PATH: &str = "/v1/catalog/services";

/// How long the services of the first list have to answer before those that did not are excused.
const FIRST_ANSWERS: Duration = Duration::from_secs(5);

/// The list watch, owner of all others.
struct ListWatch {
    shared: Arc<Shared>,
    poller: Poller,
    watches: HashMap<ServiceName, Running>,
    /// `consul` was listed for this reader.
    seen_whole: bool,
    reader: Reader,
    /// Names that cannot be read, as reported.
    unreadable: BTreeSet<ServiceName>,
    /// Ends the time for first answers.
    patience: Option<Running>,
    /// Tags of the routed services, as listed last.
    tags: HashMap<ServiceName, Vec<String>>,
}

/// A running watch; ends with its handle.
struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Watches until aborted, or until nobody takes updates any more.
pub(super) async fn run(shared: Arc<Shared>) {
    let poller = Poller::new(shared.clone(), PATH.to_owned(), ServiceName::from(""));
    let reader = shared.client.reader();
    let mut list = ListWatch {
        shared,
        poller,
        watches: HashMap::new(),
        seen_whole: false,
        reader,
        unreadable: BTreeSet::new(),
        patience: None,
        tags: HashMap::new(),
    };
    while list.turn().await.is_ok() {}
}

impl ListWatch {
    async fn turn(&mut self) -> Result<(), Closed> {
        let list = self.poller.next(decode).await;
        let seen_at = self.poller.seen_at();
        let Some(names) = self.names(&list) else { return Ok(()) };
        self.tell(&names, &list, seen_at);
        // Before anything is taken away, which may need a second look: what is new should not wait for that.
        self.shared.listed(names.iter().cloned()).await?;
        let mut useful = self.start(&names, seen_at);
        self.patience.get_or_insert_with(|| Running(tokio::spawn(end_patience(self.shared.clone()))));
        if let Some(names) = self.confirmed(names).await {
            useful |= self.end_all_but(&names, seen_at).await?;
            useful |= self.start(&names, seen_at);
            self.poller.believed(useful);
        }
        Ok(())
    }

    /// Tells the watches of services whose tags differ from those of the list before. Their instances may have changed
    /// without that.
    fn tell(&mut self, names: &BTreeSet<ServiceName>, list: &ServiceList, seen_at: Instant) {
        let tags = |name: &ServiceName| list.get(&**name).and_then(|tags| tags.clone()).unwrap_or_default();
        let now: HashMap<_, _> = names.iter().map(|name| (name.clone(), tags(name))).collect();
        let differs = |name: &&ServiceName| self.tags.get(*name).is_some_and(|before| Some(before) != now.get(*name));
        self.shared.notices.tell(names.iter().filter(differs), seen_at);
        self.tags = now;
    }

    /// The routed names, unless the token lacks the rights to see them.
    fn names(&mut self, list: &ServiceList) -> Option<BTreeSet<ServiceName>> {
        let reader = self.shared.client.reader();
        if reader != self.reader {
            // Another token may be one for some services only. A reload that brought the same one changes nothing.
            self.reader = reader;
            self.seen_whole = false;
        }
        let sight = sight(list);
        if lacks_rights(sight, self.seen_whole) {
            let what = "the catalog (`consul`, which every cluster has, is not listed)".to_owned();
            self.poller.held(&ConsulError::Rights { what });
            return None;
        }
        self.seen_whole |= sight == Sight::Whole;
        let names = routed(list, &self.shared.config().tag_prefix);
        let (names, unreadable) = names.into_iter().partition(|name| watch::is_readable(name));
        self.report(unreadable);
        Some(names)
    }

    /// Says once which services are left out.
    fn report(&mut self, unreadable: BTreeSet<ServiceName>) {
        for name in unreadable.difference(&self.unreadable) {
            let error = ConsulError::Name { name: name.to_string() };
            self.shared.count(&error);
            warn!(%error, "Consul: service left out");
        }
        self.unreadable = unreadable;
    }

    /// The names, once more from the leader when services with instances are missing; none when they are not believed.
    async fn confirmed(&mut self, names: BTreeSet<ServiceName>) -> Option<BTreeSet<ServiceName>> {
        let missing: Vec<_> = self.watches.keys().filter(|name| !names.contains(*name)).cloned().collect();
        if self.shared.guard().judge_missing(missing.iter()) == Verdict::Believe {
            return Some(names);
        }
        match self.poller.confirm(None, decode).await {
            Ok(list) => self.names(&list),
            Err(error) => {
                let what = format!("{} of {} services leaving the list", missing.len(), self.watches.len());
                self.poller.unconfirmed(what, &error).await;
                None
            }
        }
    }

    /// Starts the watches that do not run: new names, and any that ended against the rules.
    /// Returns whether there was one.
    fn start(&mut self, names: &BTreeSet<ServiceName>, since: Instant) -> bool {
        let mut started = false;
        for name in names {
            if self.watches.get(name).is_none_or(|running| running.0.is_finished()) {
                let (shared, watched) = (self.shared.clone(), name.clone());
                let watch = move || watch::run(shared.clone(), watched.clone(), since);
                let task = tokio::spawn(vital::again("the watch of a service", watch));
                self.watches.insert(name.clone(), Running(task));
                started = true;
            }
        }
        started
    }

    /// Returns whether there was one to end.
    async fn end_all_but(&mut self, names: &BTreeSet<ServiceName>, seen_at: Instant) -> Result<bool, Closed> {
        let missing: Vec<_> = self.watches.keys().filter(|name| !names.contains(*name)).cloned().collect();
        let some = !missing.is_empty();
        for name in missing {
            if let Some(mut running) = self.watches.remove(&name) {
                // Waited for, else its last update could overtake the news that the service is gone.
                running.0.abort();
                let _ = (&mut running.0).await;
            }
            self.shared.gone(name, seen_at).await?;
        }
        Ok(some)
    }
}

async fn end_patience(shared: Arc<Shared>) {
    sleep(FIRST_ANSWERS).await;
    // When nobody takes updates any more, the next one that is sent tells.
    let _ = shared.roll_call(Roll::overdue).await;
}

/// Reads the answer.
pub(super) fn decode(body: &[u8]) -> Result<ServiceList, serde_json::Error> {
    serde_json::from_slice(body)
}
