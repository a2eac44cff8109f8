//! One namespace: which services are there, and a look at each that may have changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{sleep, sleep_until};

use super::api::Answer;
use super::error::NomadError;
use super::events::Hint;
use super::read::Seen;
use super::shared::{Closed, Shared};
use super::snapshot::name_of;
use super::stream;
use super::watched::Watched;
use super::wire::{ListedNamespace, ListedService};
use crate::catalog::ServiceName;
use crate::sources::backoff::Backoff;
use crate::sources::blocking::{Next, Position, came_early, client_deadline, jittered_wait};
use crate::sources::loss_guard::Verdict;
use crate::sources::task::SourceTask;

/// How long the server may hold the list: below the minute after which middleboxes forget.
const WAIT: Duration = Duration::from_secs(40);
/// Pause between two lists: changes are told by the event stream, so the list need not be read for
/// each of them.
const LIST_PAUSE: Duration = Duration::from_millis(50);
/// The same after a list that says nothing new.
const STUCK_PAUSE: Duration = Duration::from_millis(500);
/// Pauses after a list that could not be read.
const FAILURE_PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));
/// Without the event stream all services are looked at when the list moves, but no more often.
const LOOKS_APART: Duration = Duration::from_secs(1);
/// Hints that wait.
const HINTS_MAX: usize = 1024;

type List = Result<Answer<Vec<ListedNamespace>>, NomadError>;
type ListFuture = BoxFuture<'static, (List, bool)>;
type LookFuture = BoxFuture<'static, (String, u64, Result<Seen, NomadError>)>;

/// Follows a namespace.
pub(super) struct Namespace {
    shared: Arc<Shared>,
    name: Arc<str>,
    is_first: bool,
    /// What the list is called.
    watch: ServiceName,
    position: Position,
    backoff: Backoff,
    /// The list lacked services with instances, and is read again to confirm it.
    confirming: bool,
    is_listed: bool,
    is_synced: bool,
    /// The event stream tells of changes.
    is_live: bool,
    looked_at_all: Instant,
    /// By their names in Nomad; with the number of the watch, so that looks of an earlier one of
    /// the same name are told apart.
    services: BTreeMap<String, (u64, Watched)>,
    watches: u64,
    looks: FuturesUnordered<LookFuture>,
    rng: fastrand::Rng,
}

/// What the list of a namespace is called among the watches of the source.
pub(super) fn watch_of(namespace: &str) -> ServiceName {
    format!("namespace {namespace}").into()
}

/// Follows a namespace until aborted, or until nothing takes updates any more.
pub(super) async fn run(shared: Arc<Shared>, name: Arc<str>, is_first: bool) {
    let (sender, hints) = mpsc::channel(HINTS_MAX);
    let _stream = SourceTask::spawn(stream::run(shared.clone(), name.clone(), sender));
    let namespace = Namespace {
        watch: watch_of(&name),
        shared,
        name,
        is_first,
        position: Position::default(),
        backoff: Backoff::new(FAILURE_PAUSES.0, FAILURE_PAUSES.1),
        confirming: false,
        is_listed: false,
        is_synced: false,
        is_live: false,
        looked_at_all: Instant::now(),
        services: BTreeMap::new(),
        watches: 0,
        looks: FuturesUnordered::new(),
        rng: fastrand::Rng::new(),
    };
    // The only error is that nothing takes updates any more.
    let _ = namespace.follow(hints).await;
}

impl Namespace {
    async fn follow(mut self, mut hints: mpsc::Receiver<Hint>) -> Result<(), Closed> {
        let mut changes = self.shared.changes();
        let mut list = self.read_list(Duration::ZERO);
        loop {
            let due = self.services.values().filter_map(|(_, it)| it.due()).min();
            tokio::select! {
                (answer, early) = &mut list => {
                    let pause = self.listed(answer, early).await?;
                    list = self.read_list(pause);
                }
                Some(hint) = hints.recv() => {
                    if self.take_hint(hint) {
                        // A held query may outlive its token.
                        self.position.forget();
                        list = self.read_list(Duration::ZERO);
                    }
                }
                Some((service, watch, seen)) = self.looks.next() => {
                    self.looked(&service, watch, seen).await?;
                }
                () = until(due) => {}
                Ok(()) = changes.changed() => {
                    self.position.forget();
                    self.look_at_all(Instant::now());
                    list = self.read_list(Duration::ZERO);
                }
            }
            self.begin_looks(Instant::now());
        }
    }

    fn read_list(&mut self, pause: Duration) -> ListFuture {
        let (shared, namespace) = (self.shared.clone(), self.name.clone());
        let index = self.position.index();
        let wait = jittered_wait(WAIT, self.rng.f64());
        Box::pin(async move {
            sleep(pause).await;
            let begun = Instant::now();
            let (index, held) = (index.map(|it| it.to_string()), wait.as_millis());
            let held = format!("{held}ms");
            let mut query = vec![("namespace", &*namespace)];
            if let Some(index) = &index {
                query.extend([("index", index.as_str()), ("wait", held.as_str())]);
            }
            let limit = client_deadline(wait);
            let answer = shared.api().get("/v1/services", &query, limit).await;
            (answer, index.is_some() && came_early(begun.elapsed(), wait))
        })
    }

    /// Takes a list, and says how long to wait before the next one.
    async fn listed(&mut self, answer: List, early: bool) -> Result<Duration, Closed> {
        let now = Instant::now();
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.position.forget();
                self.shared.namespace_failed(&self.watch, &error).await?;
                return Ok(self.backoff.failed(&mut self.rng));
            }
        };
        self.backoff.succeeded();
        let before = self.position.index();
        let next = self.position.advance(answer.index, early);
        let has_moved = before != answer.index;
        let index = answer.index.unwrap_or(u64::MAX);
        let own = answer
            .body
            .into_iter()
            .filter(|it| *it.namespace == *self.name);
        let routed = self.routed(own.flat_map(|it| it.services));
        for (service, tags) in &routed {
            match self.services.get_mut(service) {
                None => self.watch(service, tags.clone(), 0, now),
                Some((_, watched)) if watched.tags != *tags => {
                    watched.tags.clone_from(tags);
                    watched.hint(0, now);
                }
                Some(_) => {}
            }
        }
        if has_moved && !self.is_live && self.is_listed {
            let due = now.max(self.looked_at_all + LOOKS_APART);
            self.look_at_all(due);
        }
        if !self.take_missing(&routed, index, now).await? {
            return Ok(Duration::ZERO);
        }
        self.is_listed = true;
        self.shared.succeeded(&self.watch);
        for (_, watched) in self.services.values().filter(|(_, it)| it.is_settled) {
            self.shared.is_fresh(&watched.name);
        }
        self.note_sync().await?;
        Ok(match next {
            Next::Now => LIST_PAUSE,
            Next::Stuck => STUCK_PAUSE,
            Next::After(pause) => pause,
        })
    }

    /// Those with a routing tag.
    fn routed(&self, listed: impl Iterator<Item = ListedService>) -> BTreeMap<String, Vec<String>> {
        let prefix = &self.shared.live().tag_prefix;
        let with_tags = listed.map(|it| (it.service_name, it.tags.unwrap_or_default()));
        with_tags
            .filter(|(_, tags)| is_routed(tags, prefix))
            .collect()
    }

    fn watch(&mut self, service: &str, tags: Vec<String>, index: u64, now: Instant) {
        self.watches += 1;
        let name = name_of(service, &self.name, self.is_first);
        let watched = Watched::new(name, tags, index, now);
        self.services
            .insert(service.to_owned(), (self.watches, watched));
    }

    /// Ends the watches of services that the list lacks; false when that has to be confirmed by
    /// another list first.
    async fn take_missing(
        &mut self,
        routed: &BTreeMap<String, Vec<String>>,
        index: u64,
        now: Instant,
    ) -> Result<bool, Closed> {
        let missing: Vec<String> = self
            .services
            .iter()
            .filter(|(name, (_, it))| !routed.contains_key(*name) && it.since_index <= index)
            .map(|(name, _)| name.clone())
            .collect();
        let names = missing.iter().filter_map(|it| self.services.get(it));
        let names: Vec<ServiceName> = names.map(|(_, it)| it.name.clone()).collect();
        let verdict = self.shared.guard().judge_missing(names.iter());
        let doubts = verdict != Verdict::Believe && !self.confirming;
        self.confirming = doubts;
        if doubts {
            self.position.forget();
            return Ok(false);
        }
        for (service, name) in missing.iter().zip(names) {
            self.services.remove(service);
            self.shared.gone(name, now).await?;
        }
        Ok(true)
    }

    /// Takes a hint. Returns whether the list is to be read at once.
    fn take_hint(&mut self, hint: Hint) -> bool {
        match hint {
            Hint::Live => {
                self.is_live = true;
                if self.is_listed {
                    self.look_at_all(Instant::now());
                }
                false
            }
            Hint::Lost => std::mem::replace(&mut self.is_live, false),
            Hint::Allocation { id, at } => {
                for (_, watched) in self.services.values_mut() {
                    watched.hint_allocation(&id, at);
                }
                false
            }
            Hint::Service {
                name,
                tags,
                index,
                at,
            } => {
                let prefix = &self.shared.live().tag_prefix;
                match self.services.get_mut(&name) {
                    Some((_, watched)) => watched.hint(index, at),
                    None => {
                        let tags = tags.filter(|tags| is_routed(tags, prefix));
                        if let (Some(tags), true) = (tags, self.is_listed) {
                            self.watch(&name, tags, index, at);
                        }
                    }
                }
                false
            }
        }
    }

    fn look_at_all(&mut self, due: Instant) {
        self.looked_at_all = due;
        for (_, watched) in self.services.values_mut() {
            watched.forget_facts(due);
        }
    }

    fn begin_looks(&mut self, now: Instant) {
        for (service, (watch, watched)) in &mut self.services {
            if watched.due().is_none_or(|due| due > now) {
                continue;
            }
            if !self.is_live {
                watched.forget_facts(now);
            }
            let look = watched.look(&self.name, service);
            let (shared, service, watch) = (self.shared.clone(), service.clone(), *watch);
            self.looks.push(Box::pin(async move {
                let seen = look.run(&shared).await;
                (service, watch, seen)
            }));
        }
    }

    async fn looked(
        &mut self,
        service: &str,
        watch: u64,
        seen: Result<Seen, NomadError>,
    ) -> Result<(), Closed> {
        let known = self.services.get_mut(service);
        let Some((_, watched)) = known.filter(|(number, _)| *number == watch) else {
            return Ok(());
        };
        let now = Instant::now();
        match seen {
            Err(error) => {
                watched.failed(now, &mut self.rng);
                self.shared.failed(&watched.name, &error);
            }
            Ok(seen) => {
                match &seen.trouble {
                    // Not a trouble: it went meanwhile, and the next look will show that.
                    Some(error) if !error.is_not_found() => {
                        self.shared.failed(&watched.name, error);
                    }
                    _ => self.shared.succeeded(&watched.name),
                }
                let taken = {
                    let guard = self.shared.guard();
                    watched.take(&self.name, seen, &guard, now)
                };
                for rejected in &taken.rejected {
                    self.shared.report_left_out(&watched.name, rejected);
                }
                self.shared.is_fresh(&watched.name);
                if let Some((snapshot, seen_at)) = taken.publish {
                    self.shared.publish(snapshot, seen_at).await?;
                }
            }
        }
        self.note_sync().await
    }

    /// Says once that all services of the first list are known.
    async fn note_sync(&mut self) -> Result<(), Closed> {
        let is_complete = self.is_listed && self.services.values().all(|(_, it)| it.is_settled);
        if self.is_synced || !is_complete {
            return Ok(());
        }
        self.is_synced = true;
        self.shared.namespace_read(&self.watch).await
    }
}

fn is_routed(tags: &[String], prefix: &str) -> bool {
    tags.iter().any(|tag| tag.trim().starts_with(prefix))
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
