//! One blocking query, repeated: paces reads, keeps the position, bounds staleness, and tries again
//! after failures until it has a response that can be decoded. The rules are `blocking`'s; whether
//! to believe the response is decided by the caller, which then calls [`Poller::believed`] or
//! [`Poller::held`].

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};

use super::client::{Block, ConsulResponse, Mode};
use super::error::ConsulError;
use super::notices::Subscription;
use super::pace::{Outcome, Pace};
use super::room::{Place, Purpose};
use super::shared::Shared;
use crate::catalog::ServiceName;
use crate::sources::backoff::{Backoff, CAP};
use crate::sources::blocking::{Next, Position, jittered_wait, resync_after, too_stale};

/// First bound of the pause after a failed read.
const BACKOFF_BASE: Duration = Duration::from_millis(200);
/// Longest pause of the list watch after a failed read, and longest wait of any watch while a
/// response is not believed: rights that come back wake no query, and all watches go on when the
/// first one can.
const SENTINEL: Duration = Duration::from_millis(700);
/// Added to that for each watch that cannot read: all of them together look 50 times a second at
/// most.
const SENTINEL_EACH: Duration = Duration::from_millis(20);
/// Longest pause between reads of which none could be confirmed.
const DOUBT_MAX: Duration = Duration::from_secs(5);
/// Longest wait of a read for which there is a reason: the server that responds may be a little
/// behind the one that reported the change.
const CERTAIN_WAIT: Duration = Duration::from_millis(200);
/// A service that changed is looked at again after these times, whatever is reported: it may have
/// changed twice before a watch that reports changes saw it once.
const LOOKS_AFTER_CHANGE: [Duration; 3] = [
    Duration::from_millis(150),
    Duration::from_secs(1),
    Duration::from_secs(4),
];
/// A blocked query that was held for less than this found a change that was there before it was
/// sent.
const HELD_MIN: Duration = Duration::from_millis(3);
/// Limit for the read that confirms a response: the next try follows with news of what else has
/// changed meanwhile.
const CONFIRM_LIMIT: Duration = Duration::from_secs(3);
/// Limit for a read from the leader in place of a server that lags.
const FRESH_LIMIT: Duration = Duration::from_secs(2);
/// Refusals in a row after which the list watch goes on with the next agent.
const REFUSALS_MAX: u32 = 3;

/// Time for a read that is under way when another watch reads again.
const RECOVERY_GRACE: Duration = Duration::from_millis(50);

/// How a response's body is read.
pub(super) type Decode<T> = fn(&[u8]) -> Result<T, serde_json::Error>;

/// A watch on one path.
pub(super) struct Poller {
    shared: Arc<Shared>,
    path: String,
    label: ServiceName,
    position: Position,
    pace: Pace,
    backoff: Backoff,
    /// Paces responses that could not be confirmed: the reads in between succeed, and end the other
    /// backoff.
    doubts: Backoff,
    generation: watch::Receiver<u64>,
    recovered: watch::Receiver<u64>,
    scarce: watch::Receiver<bool>,
    /// Where the watch waits for news of its service while blocking queries are scarce.
    notice: Option<Subscription>,
    resync_at: Instant,
    rng: fastrand::Rng,
    pause: Duration,
    held: bool,
    /// The last response says that Consul left something out of it.
    filtered: bool,
    /// Digest of the body that was believed last: the same again says nothing new.
    believed: Option<u64>,
    /// Digest of the body that the caller is judging.
    judged: Option<u64>,
    digest: foldhash::fast::RandomState,
    /// When the change that the present response shows could first be seen; see
    /// [`Poller::seen_at`].
    seen_at: Instant,
    /// When the last response was complete.
    responded_at: Instant,
    /// Looks at the service since it changed, while blocking queries are scarce.
    looks: usize,
    /// It has no series of its own in the metrics.
    unlisted: bool,
    _place: Option<Place>,
}

/// How the next read is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// It blocks for as long as the configuration says.
    Block,
    /// It blocks for a moment: something has changed.
    Soon {
        /// When that was first seen.
        seen_at: Instant,
    },
    /// It does not block: something may have changed.
    Look {
        /// When that was first seen; none: it is merely time for another look.
        seen_at: Option<Instant>,
    },
}

impl Poller {
    /// `label`: the service for metrics and log; empty for the list.
    pub(super) fn new(shared: Arc<Shared>, path: String, label: ServiceName) -> Self {
        let place = shared.client.watching(Purpose::Other);
        Self::with_place(shared, path, label, Some(place))
    }

    fn with_place(
        shared: Arc<Shared>,
        path: String,
        label: ServiceName,
        place: Option<Place>,
    ) -> Self {
        let now = Instant::now();
        let mut rng = fastrand::Rng::new();
        let resync_at = now + resync_after(shared.config().resync, rng.f64());
        Self {
            path,
            label,
            position: Position::default(),
            pace: Pace::new(now),
            backoff: Backoff::new(BACKOFF_BASE, CAP),
            doubts: Backoff::new(BACKOFF_BASE, DOUBT_MAX),
            generation: shared.generation(),
            recovered: shared.recovered(),
            scarce: shared.client.scarce(),
            notice: None,
            resync_at,
            rng,
            pause: Duration::ZERO,
            held: false,
            filtered: false,
            believed: None,
            judged: None,
            digest: foldhash::fast::RandomState::default(),
            seen_at: now,
            responded_at: now,
            looks: 0,
            unlisted: false,
            _place: place,
            shared,
        }
    }

    /// A watch of the instances of a service. While blocking queries are scarce, it reads when a
    /// change is reported. `since`: when the service was seen to be there.
    pub(super) fn of_service(
        shared: Arc<Shared>,
        path: String,
        name: ServiceName,
        since: Instant,
    ) -> Self {
        let place = shared.client.watching(Purpose::Service);
        let notice = shared.notices.subscribe(&name);
        let mut poller = Self::with_place(shared, path, name, Some(place));
        poller.notice = Some(notice);
        poller.responded_at = since;
        poller
    }

    /// A watch that serves other watches. `blocks`: it has a blocking query most of the time.
    pub(super) fn unlisted(shared: Arc<Shared>, path: String, blocks: bool) -> Self {
        let label = ServiceName::from(path.as_str());
        let place = blocks.then(|| shared.client.watching(Purpose::Feed));
        let mut poller = Self::with_place(shared, path, label, place);
        poller.unlisted = true;
        poller
    }

    /// When the change that the response under judgement shows could first be seen: when a blocked
    /// query returned, or a notice came. Where neither shows it, since the change fell between two
    /// reads, when the earlier one returned.
    pub(super) fn seen_at(&self) -> Instant {
        self.seen_at
    }

    /// Waits for the next response that is not, byte for byte, the one believed last. Most are,
    /// while nothing happens: a thousand watches that come back each minute should not cost a
    /// thousand decoded responses.
    pub(super) async fn next<T>(&mut self, decode: Decode<T>) -> T {
        loop {
            match self.attempt(decode).await {
                Ok(Some(value)) => return value,
                Ok(None) => {}
                Err(error) => self.failed(&error).await,
            }
        }
    }

    /// One read, for a caller that handles failures too, and then calls [`Poller::failed`]. None:
    /// it brought nothing new.
    pub(super) async fn attempt<T>(&mut self, decode: Decode<T>) -> Result<Option<T>, ConsulError> {
        self.pace().await;
        let turn = self.turn().await;
        self.read(turn, decode).await
    }

    /// As [`Poller::attempt`], without blocking.
    pub(super) async fn look<T>(&mut self, decode: Decode<T>) -> Result<Option<T>, ConsulError> {
        self.pace().await;
        self.read(Turn::Look { seen_at: None }, decode).await
    }

    /// Reads the same path once more, from the leader, to confirm a response.
    pub(super) async fn confirm<T>(
        &mut self,
        path: Option<&str>,
        decode: Decode<T>,
    ) -> Result<T, ConsulError> {
        let path = path.unwrap_or(&self.path);
        let response = self
            .shared
            .client
            .get_from_leader(path, CONFIRM_LIMIT)
            .await?;
        self.filtered = response.filtered;
        // What is believed next is not the response under judgement: that one is to be judged again
        // if it comes again.
        self.judged = None;
        decoded(path, &response, decode)
    }

    /// Whether Consul left something out of the last response, confirming ones included, because of
    /// ACLs.
    pub(super) fn filtered(&self) -> bool {
        self.filtered
    }

    /// The response was believed. `useful`: it brought something for us.
    pub(super) fn believed(&mut self, useful: bool) {
        self.held = false;
        self.believed = self.judged;
        self.doubts.succeeded();
        if useful {
            self.pace.judged(Outcome::Useful);
            self.looks = 0;
        }
        self.shared.succeeded(&self.label, !self.unlisted);
    }

    /// The response was not believed: says why, and looks more often until it is.
    pub(super) fn held(&mut self, error: &ConsulError) {
        self.held = true;
        self.believed = None;
        self.shared.failed(&self.label, error);
    }

    /// What the response said could not be confirmed: waits a little, and makes the next read an
    /// unconditional one, so that the watch sees what else changes while no server can confirm the
    /// loss.
    pub(super) async fn unconfirmed(&mut self, what: String, error: &ConsulError) {
        let error = ConsulError::Unconfirmed {
            what,
            reason: error.to_string(),
        };
        self.shared.failed(&self.label, &error);
        // When nothing takes updates any more, sending the next one fails.
        let _ = self
            .shared
            .update_sync(|sync| sync.failed(&self.label))
            .await;
        self.position.forget();
        let pause = self.doubts.failed(&mut self.rng);
        self.rest(pause).await;
    }

    /// Notes a failure and waits as long as it demands. A reload ends the wait.
    pub(super) async fn failed(&mut self, error: &ConsulError) {
        self.shared.failed(&self.label, error);
        self.forget();
        // Neither delayed for each watch nor charged to the reads that follow once there is a
        // connection again.
        self.pace.forget();
        if error.is_dial() {
            // The next dial is held back for all watches together.
            return;
        }
        // When nothing takes updates any more, sending the next one fails.
        let _ = self
            .shared
            .update_sync(|sync| sync.failed(&self.label))
            .await;
        let backoff = self.backoff.failed(&mut self.rng).min(self.sentinel());
        if let ConsulError::Status { agent, .. } = error
            && self.label.is_empty()
            && self.backoff.failures().is_multiple_of(REFUSALS_MAX)
        {
            self.shared.client.leave_agent(agent);
        }
        match error.retry_after() {
            // Not all at the very moment that was named.
            Some(after) => self.rest(after + backoff).await,
            None => self.rest_until_recovery(backoff).await,
        }
    }

    /// How often a watch that cannot read looks again: the list at least once a second, the others
    /// as often as all of them together may.
    fn sentinel(&self) -> Duration {
        if self.label.is_empty() {
            SENTINEL
        } else {
            SENTINEL + SENTINEL_EACH * self.shared.failing()
        }
    }

    /// Rests, but no longer than until Consul responds again, or another watch reads again: what
    /// made this watch fail so often may have gone with it.
    async fn rest_until_recovery(&mut self, pause: Duration) {
        let mut reachable = self.shared.client.recovered();
        let again = tokio::select! {
            () = sleep(pause) => false,
            Ok(()) = reachable.changed() => true,
            Ok(()) = self.recovered.changed() => true,
            _ = self.generation.changed() => {
                self.start_over();
                false
            }
        };
        if again {
            self.backoff.succeeded();
        }
    }

    /// Waits as [`Pace`] says, but for the very first read and those after a reload.
    async fn pace(&mut self) {
        let now = Instant::now();
        let budget = match self.pace.last() {
            // Changes of ours are never put off for what others change.
            None | Some(Outcome::Useful) => Duration::ZERO,
            Some(Outcome::Useless | Outcome::Stuck) => self.shared.take_budget(now),
        };
        let pause = std::mem::take(&mut self.pause)
            .max(self.pace.next(now))
            .max(budget);
        self.rest(pause).await;
        if Instant::now() >= self.resync_at {
            self.forget();
            self.resync_at =
                Instant::now() + resync_after(self.shared.config().resync, self.rng.f64());
        }
    }

    /// Waits until there is a reason to read. With room for a blocking query that is the reason.
    async fn turn(&mut self) -> Turn {
        loop {
            let Some(notice) = &self.notice else {
                return Turn::Block;
            };
            if !*self.scarce.borrow_and_update() || self.position.index().is_none() {
                // The read that follows sees all that was reported so far.
                notice.take();
                return Turn::Block;
            }
            if self.held {
                // It looks again often, and must not keep a connection meanwhile: there may be many
                // like it.
                let look_at = self.responded_at + self.sentinel();
                tokio::select! {
                    change = notice.changed() => return Turn::Look { seen_at: Some(change.seen_at) },
                    () = sleep_until(look_at.into()) => return Turn::Look { seen_at: None },
                    () = recovery(&mut self.recovered) => self.start_over(),
                    _ = self.scarce.changed() => {}
                    _ = self.generation.changed() => self.start_over(),
                }
                continue;
            }
            let look_after = LOOKS_AFTER_CHANGE
                .get(self.looks)
                .copied()
                .unwrap_or_else(|| self.shared.look_every());
            let look_at = self.responded_at + look_after.mul_f64(0.75 + self.rng.f64() / 2.0);
            tokio::select! {
                change = notice.changed() => {
                    let seen_at = change.seen_at;
                    return if change.certain { Turn::Soon { seen_at } } else { Turn::Look { seen_at: Some(seen_at) } };
                }
                () = sleep_until(look_at.into()) => {
                    self.looks += 1;
                    return Turn::Look { seen_at: None };
                }
                _ = self.scarce.changed() => {}
                _ = self.generation.changed() => self.start_over(),
            }
        }
    }

    async fn rest(&mut self, pause: Duration) {
        if pause.is_zero() {
            return;
        }
        tokio::select! {
            () = sleep(pause) => {}
            _ = self.generation.changed() => self.start_over(),
        }
    }

    /// The next read is unconditional, and its response is judged whatever it is.
    fn forget(&mut self) {
        self.position.forget();
        self.believed = None;
    }

    fn start_over(&mut self) {
        self.forget();
        self.backoff.succeeded();
        self.doubts.succeeded();
        self.pause = Duration::ZERO;
        self.pace.forget();
    }

    /// One read. None: a reload ended it, or it brought nothing new.
    async fn read<T>(&mut self, turn: Turn, decode: Decode<T>) -> Result<Option<T>, ConsulError> {
        let config = self.shared.config();
        let mode = if config.stale {
            Mode::Stale
        } else {
            Mode::Default
        };
        let longest = if self.held {
            config.wait.min(self.sentinel())
        } else {
            config.wait
        };
        let wait = match turn {
            Turn::Block => Some(jittered_wait(longest, self.rng.f64())),
            Turn::Soon { .. } => Some(CERTAIN_WAIT.min(longest)),
            Turn::Look { .. } => None,
        };
        let block = wait.and_then(|wait| self.position.index().map(|index| Block { index, wait }));
        let yields = block.is_some() && turn == Turn::Block;
        let fetched = tokio::select! {
            response = fetch(&self.shared, &self.path, mode, block) => Some(response?),
            _ = self.generation.changed() => None,
            // The connection is needed for those that report changes.
            Ok(_) = self.scarce.wait_for(|scarce| *scarce), if yields && self.notice.is_some() => return Ok(None),
            // What hid a response from this watch may have gone for all of them.
            () = recovery(&mut self.recovered), if self.held => None,
        };
        let Some(response) = fetched else {
            self.start_over();
            return Ok(None);
        };
        let now = Instant::now();
        self.seen_at = match turn {
            Turn::Soon { seen_at }
            | Turn::Look {
                seen_at: Some(seen_at),
            } => seen_at,
            Turn::Block if response.early && response.held > HELD_MIN => now,
            Turn::Block | Turn::Look { seen_at: None } => self.responded_at,
        };
        self.responded_at = now;
        self.pace.received(now, response.body.len());
        if self.label.is_empty() && (response.early || block.is_none()) {
            // Any instance that came, went or changed, though the list may read the same as before.
            self.shared.notices.list_woken();
        }
        let response = self.bound_staleness(response, mode, config.max_stale).await;
        self.filtered = response.filtered;
        let digest = Some(self.digest.hash_one(&response.body));
        let value = if digest == self.believed {
            None
        } else {
            Some(decoded(&self.path, &response, decode)?)
        };
        self.judged = digest;
        self.backoff.succeeded();
        match self.position.advance(response.index, response.early) {
            Next::After(pause) => self.pause = pause,
            Next::Stuck => self.pace.judged(Outcome::Stuck),
            Next::Now => {}
        }
        if value.is_none() {
            self.believed(false);
        }
        Ok(value)
    }

    /// A response that is too old is replaced by the leader's, if there is a leader; else it is the
    /// best there is.
    async fn bound_staleness(
        &self,
        response: ConsulResponse,
        mode: Mode,
        max_stale: Duration,
    ) -> ConsulResponse {
        let stale = mode == Mode::Stale
            && too_stale(response.last_contact, response.known_leader, max_stale);
        if !stale || self.shared.is_leaderless(Instant::now()) {
            return response;
        }
        match self
            .shared
            .client
            .get_from_leader(&self.path, FRESH_LIMIT)
            .await
        {
            Ok(fresh) => fresh,
            Err(error) => {
                self.shared.count(&error);
                self.shared.note_leaderless(Instant::now());
                response
            }
        }
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        if self.unlisted {
            self.shared.ended(&self.label);
        }
    }
}

/// Waits until another watch reads again, and for a moment more: what woke that one may have woken
/// this one too.
async fn recovery(recovered: &mut watch::Receiver<u64>) {
    if recovered.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
    sleep(RECOVERY_GRACE).await;
}

/// Reads; unconditional reads only so many at once.
async fn fetch(
    shared: &Shared,
    path: &str,
    mode: Mode,
    block: Option<Block>,
) -> Result<ConsulResponse, ConsulError> {
    // The semaphore is never closed; without a permit there would merely be no bound.
    let _permit = if block.is_none() {
        shared.first_reads.acquire().await.ok()
    } else {
        None
    };
    shared.client.get(path, mode, block).await
}

fn decoded<T>(path: &str, response: &ConsulResponse, decode: Decode<T>) -> Result<T, ConsulError> {
    decode(&response.body).map_err(|error| ConsulError::Decode {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}
