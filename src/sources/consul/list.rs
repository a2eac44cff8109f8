//! The watch of the list of services: starts a service watch for every name that carries a routing
//! tag, or stands in such a tag of another (`fallback=`, `mirror=`), and ends it when that is so no
//! more.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch as watch_channel;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tracing::warn;

use super::error::ConsulError;
use super::poll::Poller;
use super::rights::{self, Absence, Evidence};
use super::shared::{Closed, Shared};
use super::visibility::{routed, sight};
use super::watch;
use super::wire::{SERVICES, ServiceList, decode_services};
use crate::catalog::ServiceName;
use crate::catalog::other_services::named_in;
use crate::journal::few;
use crate::sources::initial_sync::InitialSync;
use crate::sources::loss_guard::Verdict;
use crate::system::vital;

/// How long the services of the first list have to respond before those that did not are excused.
const FIRST_RESPONSES: Duration = Duration::from_secs(5);

/// Most services that an error names.
const SHOWN_MAX: usize = 3;

/// Most services that are followed because others name them.
const NAMED_MAX: usize = 1000;

/// The list watch, owner of all others.
struct ListWatch {
    shared: Arc<Shared>,
    poller: Poller,
    watches: HashMap<ServiceName, Running>,
    /// Names that cannot be read, as reported.
    unreadable: BTreeSet<ServiceName>,
    /// Ends the time for first responses.
    patience: Option<Running>,
    /// Tags of the routed services, as listed last.
    tags: HashMap<ServiceName, Vec<String>>,
    /// Services that tags and route commands of all sources name beside their own.
    named: Named,
    /// Those to watch, by the last list.
    routed: BTreeSet<ServiceName>,
    /// All names of that list.
    listed: BTreeSet<ServiceName>,
    /// There were more of [`Self::named`] than are followed.
    told_of_named: bool,
}

/// Services by name.
type Named = watch_channel::Receiver<Arc<BTreeSet<ServiceName>>>;

/// A running watch; ends with its handle.
struct Running(JoinHandle<()>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Watches until aborted, or until nothing takes updates any more.
pub(super) async fn run(shared: Arc<Shared>, named: Named) {
    let poller = Poller::new(shared.clone(), SERVICES.to_owned(), ServiceName::from(""));
    let mut list = ListWatch {
        shared,
        poller,
        watches: HashMap::new(),
        unreadable: BTreeSet::new(),
        patience: None,
        tags: HashMap::new(),
        named,
        routed: BTreeSet::new(),
        listed: BTreeSet::new(),
        told_of_named: false,
    };
    while list.turn().await.is_ok() {}
}

impl ListWatch {
    async fn turn(&mut self) -> Result<(), Closed> {
        let list = tokio::select! {
            list = self.poller.next(decode_services) => list,
            // A read that is given up is made again.
            () = changed(&mut self.named) => return self.follow_named().await,
        };
        let seen_at = self.poller.seen_at();
        let Some(names) = self.names(&list).await else {
            return Ok(());
        };
        self.report_changes(&names, &list, seen_at);
        // Before anything is taken away, which may need a second look: what is new should not wait
        // for that.
        self.shared.listed(names.iter().cloned()).await?;
        let mut useful = self.start(&names, seen_at);
        self.patience
            .get_or_insert_with(|| Running(tokio::spawn(end_patience(self.shared.clone()))));
        if let Some((names, hidden)) = self.confirmed(names).await {
            useful |= self.end_all_but(&names, seen_at).await?;
            useful |= self.start(&names, seen_at);
            match hidden {
                Some(error) => self.poller.held(&error),
                None => self.poller.believed(useful),
            }
        }
        Ok(())
    }

    /// Tells the watches of services whose tags differ from those of the list before. Their
    /// instances may have changed without that.
    fn report_changes(
        &mut self,
        names: &BTreeSet<ServiceName>,
        list: &ServiceList,
        seen_at: Instant,
    ) {
        let tags = |name: &ServiceName| {
            list.get(&**name)
                .and_then(|tags| tags.clone())
                .unwrap_or_default()
        };
        let now: HashMap<_, _> = names
            .iter()
            .map(|name| (name.clone(), tags(name)))
            .collect();
        let differs = |name: &&ServiceName| {
            self.tags
                .get(*name)
                .is_some_and(|before| Some(before) != now.get(*name))
        };
        self.shared
            .notices
            .report(names.iter().filter(differs), seen_at);
        self.tags = now;
    }

    /// The routed names, unless the list cannot be what there is for this token.
    async fn names(&mut self, list: &ServiceList) -> Option<BTreeSet<ServiceName>> {
        let sight = sight(list);
        let seen_whole = self.shared.note_sight(sight);
        match rights::accept_list(&self.shared, sight, seen_whole, !self.watches.is_empty()).await {
            Ok(()) => {}
            Err(error @ ConsulError::Rights { .. }) => {
                self.poller.held(&error);
                return None;
            }
            Err(error) => {
                self.poller
                    .unconfirmed("what the list of services lacks".to_owned(), &error)
                    .await;
                return None;
            }
        }
        let tag_prefix = &self.shared.routing().tag_prefix;
        self.routed = routed(list, tag_prefix);
        let tags = list.values().flatten().flatten().map(String::as_str);
        let named: BTreeSet<ServiceName> = named_in(tags, tag_prefix).take(NAMED_MAX).collect();
        self.listed = list.keys().map(|name| name.as_str().into()).collect();
        // What has a tag of its own is there already.
        let named = named.into_iter().filter(|name| self.listed.contains(name));
        self.routed.extend(named);
        Some(self.watched())
    }

    /// Those to watch, by the last list and what tags of all sources name.
    fn watched(&mut self) -> BTreeSet<ServiceName> {
        let named = Arc::clone(&self.named.borrow_and_update());
        if named.len() > NAMED_MAX && !std::mem::replace(&mut self.told_of_named, true) {
            warn!(
                most = NAMED_MAX,
                "Consul: more services are named in fallback= and mirror= than are followed"
            );
        }
        let named = named.iter().take(NAMED_MAX);
        let named = named.filter(|name| self.listed.contains(*name)).cloned();
        let names = self.routed.iter().cloned().chain(named);
        let (names, unreadable) = names.partition(|name: &ServiceName| watch::is_readable(name));
        self.report(unreadable);
        names
    }

    /// Tags or commands of any source name other services now.
    async fn follow_named(&mut self) -> Result<(), Closed> {
        if self.listed.is_empty() {
            return Ok(());
        }
        let (names, seen_at) = (self.watched(), Instant::now());
        self.shared.listed(names.iter().cloned()).await?;
        self.start(&names, seen_at);
        // What the list lacks may be hidden: that is for a list to decide.
        let kept = self
            .watches
            .keys()
            .filter(|name| !self.listed.contains(*name));
        let names = names.iter().chain(kept).cloned().collect();
        self.end_all_but(&names, seen_at).await?;
        Ok(())
    }

    /// Says once which services are left out.
    fn report(&mut self, unreadable: BTreeSet<ServiceName>) {
        for name in unreadable.difference(&self.unreadable) {
            let error = ConsulError::Name {
                name: name.to_string(),
            };
            self.shared.count(&error);
            warn!(%error, "Consul: service left out");
        }
        self.unreadable = unreadable;
    }

    /// The names, once more from the leader when services with instances are missing, with those
    /// that are merely hidden from the token, and the error that says so; none when they are not
    /// believed.
    async fn confirmed(
        &mut self,
        names: BTreeSet<ServiceName>,
    ) -> Option<(BTreeSet<ServiceName>, Option<ConsulError>)> {
        let missing: Vec<_> = self
            .watches
            .keys()
            .filter(|name| !names.contains(*name))
            .cloned()
            .collect();
        if self.shared.guard().judge_missing(missing.iter()) == Verdict::Believe {
            return Some((names, None));
        }
        match self.poller.confirm(None, decode_services).await {
            Ok(list) => {
                let mut names = self.names(&list).await?;
                let hidden = self.keep_hidden(&list, &mut names).await?;
                Some((names, hidden))
            }
            Err(error) => {
                let what = format!(
                    "{} of {} services leaving the list",
                    missing.len(),
                    self.watches.len()
                );
                self.poller.unconfirmed(what, &error).await;
                None
            }
        }
    }

    /// Adds to `names` what is missing in the list but not known to be gone, and says what the
    /// token may not read; none when the leader could not be reached.
    async fn keep_hidden(
        &mut self,
        list: &ServiceList,
        names: &mut BTreeSet<ServiceName>,
    ) -> Option<Option<ConsulError>> {
        let sight = sight(list);
        let seen_whole = self.shared.note_sight(sight);
        let evidence = Evidence {
            sight,
            seen_whole,
            list_filtered: self.poller.filtered(),
            health_filtered: None,
        };
        // What is listed without a routing tag is not routed any more.
        let missing = self
            .watches
            .keys()
            .filter(|name| !names.contains(*name) && !list.contains_key(&***name));
        let missing: Vec<ServiceName> = missing.cloned().collect();
        let (mut hidden, mut unproven) = (Vec::new(), Vec::new());
        for name in missing {
            if self.shared.guard().judge_missing([&name].into_iter()) == Verdict::Believe {
                continue;
            }
            match rights::absence(&self.shared, &name, evidence).await {
                Ok(Absence::Gone) => {}
                Ok(Absence::Hidden(what)) => {
                    hidden.push(what);
                    names.insert(name);
                }
                Ok(Absence::Unknown(what)) => {
                    unproven.push(what);
                    names.insert(name);
                }
                Err(error) => {
                    self.poller
                        .unconfirmed(format!("{name}, which leaves the list"), &error)
                        .await;
                    return None;
                }
            }
        }
        hidden.dedup();
        Some(match (hidden.is_empty(), unproven.is_empty()) {
            (false, _) => Some(ConsulError::Rights {
                what: few(&hidden, SHOWN_MAX),
            }),
            (true, false) => {
                let reason = "Consul does not say whether the token may see them".to_owned();
                Some(ConsulError::Unconfirmed {
                    what: few(&unproven, SHOWN_MAX),
                    reason,
                })
            }
            (true, true) => None,
        })
    }

    /// Starts the watches that do not run: new names, and any that ended against the rules.
    /// Returns whether there was one.
    fn start(&mut self, names: &BTreeSet<ServiceName>, since: Instant) -> bool {
        let mut started = false;
        for name in names {
            if self
                .watches
                .get(name)
                .is_none_or(|running| running.0.is_finished())
            {
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
    async fn end_all_but(
        &mut self,
        names: &BTreeSet<ServiceName>,
        seen_at: Instant,
    ) -> Result<bool, Closed> {
        let missing: Vec<_> = self
            .watches
            .keys()
            .filter(|name| !names.contains(*name))
            .cloned()
            .collect();
        let some = !missing.is_empty();
        for name in missing {
            if let Some(mut running) = self.watches.remove(&name) {
                // Waited for, else its last update could overtake the news that the service is
                // gone.
                running.0.abort();
                let _ = (&mut running.0).await;
            }
            self.shared.gone(name, seen_at).await?;
        }
        Ok(some)
    }
}

/// Without a sender: never.
async fn changed(named: &mut Named) {
    if named.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn end_patience(shared: Arc<Shared>) {
    sleep(FIRST_RESPONSES).await;
    // When nothing takes updates any more, sending the next one fails.
    let _ = shared.update_sync(InitialSync::overdue).await;
}
