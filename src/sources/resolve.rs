//! The stage between the sources and the control loop that turns names into addresses.
//!
//! ```text
//! sources ──Update (names)──▶ resolve ──Update (addresses only)──▶ control
//!                               │  ▲
//!                               ▼  │ responses, again after each TTL
//!                               DNS
//! ```
//!
//! What holds no name passes through at once. What does is a *slot* (one service of a source, or
//! the command list of a source): it is sent when each of its names was looked up once, or after
//! `PATIENCE` with what is known by then, and again whenever a response changes it. A newer update
//! of a slot takes the place of the one that waits, so the order per slot holds, and a slow name
//! delays nothing but its own slot. `Synced` of a source waits for the source's slots. What to
//! believe of a response is decided in `names`, the lookup itself is left to `dns`. What has no
//! address keeps its place, as an end that cannot be dialled and says why. When the system's own
//! files about names change, all names in use are looked up again at once.

mod expand;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::{self, Instant};

use super::dns::{Dns, DnsResponse, Question, Resolve, ResolveError};
use super::task::SourceTask;
use super::update::Update;
use crate::catalog::source::SourceName;
use crate::config::DnsConfig;
use crate::metrics::Metrics;
use expand::Content;
use names::{Names, News, SlotKey};

/// Name of DNS among the sources.
const SOURCE: SourceName = "dns";
/// How long a slot waits for the first responses to its names.
const PATIENCE: Duration = Duration::from_secs(1);
/// Most queries at a time.
const LOOKUPS_MAX: usize = 64;
/// How often the system's files about names are looked at while names are in use.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Limit of one question, in timeouts of one query: servers, tries, search list and SRV targets add
/// up.
const LOOKUP_TIMEOUTS_MAX: u32 = 8;

type Lookup = BoxFuture<'static, (Question, Result<DnsResponse, ResolveError>)>;

/// A slot with names.
#[derive(Debug)]
struct Slot {
    /// As it came.
    content: Content,
    questions: BTreeSet<Question>,
    /// As it was sent last.
    sent: Option<Content>,
    /// When the last change of it, or of an address of its names, could first be seen.
    seen_at: std::time::Instant,
    /// Until when it waits for its names; none when it was sent.
    waits_until: Option<Instant>,
}

/// Starts the stage with DNS behind it. It ends with its input or its output.
pub(crate) fn spawn(
    dns: Arc<Dns>,
    config: &DnsConfig,
    metrics: Metrics,
    input: mpsc::Receiver<Update>,
    output: mpsc::Sender<Update>,
) -> SourceTask {
    spawn_with(dns, config, metrics, input, output)
}

/// Starts the stage with `resolver` behind it; of `config` only bounds and timeout are used.
pub(crate) fn spawn_with(
    resolver: Arc<impl Resolve>,
    config: &DnsConfig,
    metrics: Metrics,
    input: mpsc::Receiver<Update>,
    output: mpsc::Sender<Update>,
) -> SourceTask {
    let stage = Stage {
        resolver,
        lookup_timeout: config.timeout.saturating_mul(LOOKUP_TIMEOUTS_MAX),
        names: Names::new(config.min_ttl, config.max_ttl),
        slots: BTreeMap::new(),
        lookups: FuturesUnordered::new(),
        unsynced: Vec::new(),
        metrics,
        output,
    };
    SourceTask::spawn(async move {
        // An error is the end of the output: nothing is left that takes updates.
        let _ = stage.run(input).await;
    })
}

struct Stage<R> {
    resolver: Arc<R>,
    lookup_timeout: Duration,
    names: Names,
    slots: BTreeMap<SlotKey, Slot>,
    lookups: FuturesUnordered<Lookup>,
    /// Sources that are synced but for names that wait.
    unsynced: Vec<SourceName>,
    metrics: Metrics,
    output: mpsc::Sender<Update>,
}

type Sent = Result<(), mpsc::error::SendError<Update>>;

impl<R: Resolve> Stage<R> {
    async fn run(mut self, mut input: mpsc::Receiver<Update>) -> Sent {
        let resolver = Arc::clone(&self.resolver);
        let changed = |before| Box::pin(changed(Arc::clone(&resolver), before));
        let mut change = None;
        loop {
            // Before the first lookup: what it finds is of this state of the files, or a later one.
            if change.is_none() && !self.slots.is_empty() {
                let before = time::timeout(self.lookup_timeout, resolver.generation()).await;
                change = Some(changed(before.unwrap_or(0)));
            }
            self.start_lookups();
            let wake = self.next_wake();
            tokio::select! {
                update = input.recv() => match update {
                    Some(update) => self.accept(update).await?,
                    None => return Ok(()),
                },
                Some((question, result)) = self.lookups.next() => self.record_lookup(&question, result).await?,
                () = sleep_until(wake) => self.give_up_waiting().await?,
                generation = of(&mut change), if !self.slots.is_empty() => {
                    change = Some(changed(generation));
                    // Those under way may go to servers that are gone.
                    self.lookups.clear();
                    self.names.requery_all(Instant::now());
                }
                () = self.output.closed() => return Ok(()),
            }
        }
    }

    fn start_lookups(&mut self) {
        let now = Instant::now();
        while self.lookups.len() < LOOKUPS_MAX {
            let Some(question) = self.names.take_due(now) else {
                return;
            };
            let (resolver, limit) = (Arc::clone(&self.resolver), self.lookup_timeout);
            self.lookups.push(Box::pin(async move {
                let result = time::timeout(limit, resolver.resolve(&question)).await;
                let timeout = || ResolveError::Failed(format!("no response within {limit:?}"));
                (question, result.unwrap_or_else(|_| Err(timeout())))
            }));
        }
    }

    /// When something is to be done without any event; queries beyond the limit wait for a response
    /// instead.
    fn next_wake(&self) -> Option<Instant> {
        let due = self
            .names
            .next_due()
            .filter(|_| self.lookups.len() < LOOKUPS_MAX);
        self.slots
            .values()
            .filter_map(|slot| slot.waits_until)
            .chain(due)
            .min()
    }

    async fn accept(&mut self, update: Update) -> Sent {
        let (key, content, seen_at) = match &update {
            Update::Synced { source } => {
                self.unsynced.push(source);
                return self.send_synced().await;
            }
            Update::Gone {
                source, service, ..
            } => {
                self.forget(&(source, Some(Arc::clone(service))));
                self.output.send(update).await?;
                return self.send_synced().await;
            }
            Update::Service {
                source,
                snapshot,
                seen_at,
            } => (
                (*source, Some(Arc::clone(&snapshot.name))),
                Content::Service(Arc::clone(snapshot)),
                *seen_at,
            ),
            Update::Commands {
                source,
                commands,
                errors,
                seen_at,
            } => (
                (*source, None),
                Content::Commands(commands.clone(), Arc::clone(errors)),
                *seen_at,
            ),
        };
        let questions = expand::questions(&content);
        if questions.is_empty() {
            self.forget(&key);
            self.output.send(update).await?;
            return self.send_synced().await;
        }
        // Shown before the first error: a series that begins with it never rises.
        self.metrics
            .control()
            .registry_errors
            .entry("dns")
            .or_default();
        let now = Instant::now();
        let before = self.slots.remove(&key);
        let used = before
            .as_ref()
            .map(|slot| slot.questions.clone())
            .unwrap_or_default();
        self.metrics.journal().sources().synced(SOURCE);
        self.set_used(&key, &used, &questions);
        let waits_until = before
            .as_ref()
            .and_then(|slot| slot.waits_until)
            .unwrap_or(now + PATIENCE);
        let sent = before.and_then(|slot| slot.sent);
        self.slots.insert(
            key.clone(),
            Slot {
                content,
                questions,
                sent,
                seen_at,
                waits_until: Some(waits_until),
            },
        );
        self.send_if_ready(&key).await
    }

    fn forget(&mut self, key: &SlotKey) {
        if let Some(slot) = self.slots.remove(key) {
            self.set_used(key, &slot.questions, &BTreeSet::new());
        }
    }

    async fn record_lookup(
        &mut self,
        question: &Question,
        result: Result<DnsResponse, ResolveError>,
    ) -> Sent {
        self.note(question, &result);
        let outcome = self.names.record(question, result, Instant::now());
        if let Some(news) = outcome.news {
            log(question, &news);
        }
        if outcome.changed {
            let users: Vec<SlotKey> = self.names.users(question).cloned().collect();
            for key in users {
                if let Some(slot) = self.slots.get_mut(&key) {
                    slot.seen_at = std::time::Instant::now();
                }
                self.send_if_ready(&key).await?;
            }
        }
        Ok(())
    }

    /// Counts the response, and notes how DNS is. Names that are not in use any more cause no
    /// trouble.
    fn note(&self, question: &Question, result: &Result<DnsResponse, ResolveError>) {
        let (journal, watch) = (self.metrics.journal(), label(question));
        match result {
            _ if self.names.users(question).next().is_none() => {}
            Ok(_) => journal.source_read(SOURCE, &watch),
            Err(error) => {
                journal.source_failed(SOURCE, &watch, &format!("name {}: {error}", question.name))
            }
        }
        if result.is_err() {
            *self
                .metrics
                .control()
                .registry_errors
                .entry("dns")
                .or_default() += 1;
        }
    }

    /// Notes that `key`, which used the names of `before`, uses those of `after` now.
    fn set_used(&mut self, key: &SlotKey, before: &BTreeSet<Question>, after: &BTreeSet<Question>) {
        self.names.set_used(key, before, after, Instant::now());
        for question in before
            .difference(after)
            .filter(|question| self.names.users(question).next().is_none())
        {
            self.metrics
                .journal()
                .source_watch_ended(SOURCE, &label(question));
        }
    }

    /// Sends slots that have waited long enough with what is known.
    async fn give_up_waiting(&mut self) -> Sent {
        let now = Instant::now();
        let late = |slot: &Slot| slot.waits_until.is_some_and(|until| until <= now);
        let keys: Vec<SlotKey> = self
            .slots
            .iter()
            .filter(|(_, slot)| late(slot))
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            self.send(&key).await?;
        }
        Ok(())
    }

    /// Sends a slot if it differs from what was sent, unless it still waits for a name.
    async fn send_if_ready(&mut self, key: &SlotKey) -> Sent {
        let Some(slot) = self.slots.get(key) else {
            return Ok(());
        };
        let settled = slot
            .questions
            .iter()
            .all(|question| self.names.is_settled(question));
        if slot.waits_until.is_some() && !settled {
            Ok(())
        } else {
            self.send(key).await
        }
    }

    async fn send(&mut self, key: &SlotKey) -> Sent {
        let Some(slot) = self.slots.get_mut(key) else {
            return Ok(());
        };
        slot.waits_until = None;
        let content = expand::expand(&slot.content, &self.names);
        if slot.sent.as_ref() != Some(&content) {
            slot.sent = Some(content.clone());
            self.output
                .send(content.into_update(key.0, slot.seen_at))
                .await?;
        }
        self.send_synced().await
    }

    /// Sends `Synced` for the sources whose slots wait for nothing any more.
    async fn send_synced(&mut self) -> Sent {
        let waits = |source: SourceName| {
            self.slots
                .iter()
                .any(|(key, slot)| key.0 == source && slot.waits_until.is_some())
        };
        let (still, ready): (Vec<_>, Vec<_>) =
            self.unsynced.iter().partition(|source| waits(source));
        self.unsynced = still;
        for source in ready {
            self.output.send(Update::Synced { source }).await?;
        }
        Ok(())
    }
}

impl Content {
    fn into_update(self, source: SourceName, seen_at: std::time::Instant) -> Update {
        match self {
            Self::Service(snapshot) => Update::Service {
                source,
                snapshot,
                seen_at,
            },
            Self::Commands(commands, errors) => Update::Commands {
                source,
                commands,
                errors,
                seen_at,
            },
        }
    }
}

/// Waits until the system's files about names are of another generation than this, and gives it.
async fn changed(resolver: Arc<impl Resolve>, before: u64) -> u64 {
    loop {
        time::sleep(LOOK_EVERY).await;
        let now = resolver.generation().await;
        if now != before {
            return now;
        }
    }
}

async fn of(change: &mut Option<Pin<Box<impl Future<Output = u64>>>>) -> u64 {
    match change {
        Some(change) => change.as_mut().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => time::sleep_until(wake).await,
        None => std::future::pending().await,
    }
}

/// What a name is called among the watches of DNS.
fn label(question: &Question) -> String {
    format!(
        "{}{}",
        question.name,
        if question.srv { " SRV" } else { "" }
    )
}

fn log(question: &Question, news: &News) {
    let (name, srv) = (&*question.name, question.srv);
    match news {
        News::Failing { reason, kept: 0 } => {
            tracing::warn!(
                name,
                srv,
                reason,
                "name cannot be resolved; its targets get no traffic"
            );
        }
        News::Failing { reason, kept } => {
            tracing::warn!(
                name,
                srv,
                reason,
                kept,
                "name cannot be resolved; known addresses stay"
            );
        }
        News::Gone => tracing::warn!(
            name,
            srv,
            "name does not exist any more; its targets get no traffic"
        ),
        News::Recovered => tracing::info!(name, srv, "name resolves again"),
    }
}

#[cfg(test)]
mod tests;
