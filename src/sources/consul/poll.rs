//! One blocking query, repeated: paces reads, keeps the position, bounds staleness, and tries again
//! after failures until it has an answer that can be decoded. The rules are `blocking`'s; whether
//! to believe the answer is the caller's, who then says [`Poller::believed`] or [`Poller::held`].

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};

use super::blocking::{Next, Position, jittered_wait, resync_after, too_stale};
use super::client::{Answer, Block, Mode};
use super::error::ConsulError;
use super::notices::Subscription;
use super::pace::{Outcome, Pace};
use super::room::{Place, Purpose};
use super::shared::Shared;
use crate::catalog::ServiceName;
use crate::sources::backoff::{Backoff, CAP};

/// First bound of the pause after a failed read.
const BACKOFF_BASE: Duration = Duration::from_millis(200);
/// Longest pause of the list watch after a failed read, and longest wait of any watch while an
/// answer is not believed: rights that come back wake no query, and all watches go on when the
/// first one can.
const SENTINEL: Duration = Duration::from_millis(700);
/// Added to that for each watch that cannot read: all of them together look 50 times a second at
/// most.
const SENTINEL_EACH: Duration = Duration::from_millis(20);
/// Longest pause between reads of which none could be confirmed.
const DOUBT_MAX: Duration = Duration::from_secs(5);
/// Longest wait of a read for which there is a reason: the server that answers may be a little
/// behind the one that told of the change.
const CERTAIN_WAIT: Duration = Duration::from_millis(200);
/// A service that changed is looked at again after these times, whatever is told: it may have
/// changed twice before a watch that tells of changes saw it once.
const LOOKS_AFTER_CHANGE: [Duration; 3] = [
    Duration::from_millis(150),
    Duration::from_secs(1),
    Duration::from_secs(4),
];
/// A blocked query that was held for less than this found a change that was there before it was
/// sent.
const HELD_MIN: Duration = Duration::from_millis(3);
/// Limit for the read that confirms an answer: the next try follows with news of what else has
/// changed meanwhile.
const CONFIRM_LIMIT: Duration = Duration::from_secs(3);
/// Limit for asking the leader instead of a server that lags.
const FRESH_LIMIT: Duration = Duration::from_secs(2);
/// Refusals in a row after which the list watch goes on with the next agent.
const REFUSALS_MAX: u32 = 3;

/// Time for a read that is under way when another watch reads again.
const RECOVERY_GRACE: Duration = Duration::from_millis(50);

/// How an answer's body is read.
pub(super) type Decode<T> = fn(&[u8]) -> Result<T, serde_json::Error>;

/// A watch on one path.
pub(super) struct Poller {
    shared: Arc<Shared>,
    path: String,
    label: ServiceName,
    position: Position,
    pace: Pace,
    backoff: Backoff,
    /// Paces answers that could not be confirmed: the reads in between succeed, and end the other
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
    /// The last answer says that Consul left something out of it.
    filtered: bool,
    /// Digest of the body that was believed last: the same again says nothing new.
    believed: Option<u64>,
    /// Digest of the body that the caller is judging.
    judged: Option<u64>,
    digest: foldhash::fast::RandomState,
    /// When the change that the present answer shows could first be seen; see [`Poller::seen_at`].
    seen_at: Instant,
    /// When the last answer was complete.
    answered_at: Instant,
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
            answered_at: now,
            looks: 0,
            unlisted: false,
            _place: place,
            shared,
        }
    }

    /// A watch of the instances of a service. While blocking queries are scarce, it reads when it
    /// is told to. `since`: when the service was seen to be there.
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
        poller.answered_at = since;
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

    /// When the change that the answer under judgement shows could first be seen: when a blocked
    /// query was answered, or a notice came. Where neither tells, since the change fell between two
    /// reads, when the earlier one was answered.
    pub(super) fn seen_at(&self) -> Instant {
        self.seen_at
    }

    /// Waits for the next answer that is not, byte for byte, the one believed last. Most are, while
    /// nothing happens: a thousand watches that come back each minute should not cost a thousand
    /// decoded answers.
    pub(super) async fn next<T>(&mut self, decode: Decode<T>) -> T {
        loop {
            match self.attempt(decode).await {
                Ok(Some(value)) => return value,
                Ok(None) => {}
                Err(error) => self.failed(&error).await,
            }
        }
    }

    /// One read, for a caller who minds failures too, and then calls [`Poller::failed`]. None: it
    /// told nothing new.
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

    /// Reads the same path once more, from the leader, to confirm an answer.
    pub(super) async fn confirm<T>(
        &mut self,
        path: Option<&str>,
        decode: Decode<T>,
    ) -> Result<T, ConsulError> {
        let path = path.unwrap_or(&self.path);
        let answer = self.shared.client.ask_leader(path, CONFIRM_LIMIT).await?;
        self.filtered = answer.filtered;
        // What is believed next is not the answer under judgement: that one is to be judged again
        // if it comes again.
        self.judged = None;
        decoded(path, &answer, decode)
    }

    /// Whether Consul left something out of the last answer, confirming ones included, because of
    /// ACLs.
    pub(super) fn filtered(&self) -> bool {
        self.filtered
    }

    /// The answer was believed. `useful`: it brought something for us.
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

    /// The answer was not believed: says why, and looks more often until it is.
    pub(super) fn held(&mut self, error: &ConsulError) {
        self.held = true;
        self.believed = None;
        self.shared.failed(&self.label, error);
    }

    /// What the answer said could not be confirmed: waits a little, and makes the next read an
    /// unconditional one, so that the watch sees what else changes while there is nobody to confirm
    /// the loss.
    pub(super) async fn unconfirmed(&mut self, what: String, error: &ConsulError) {
        let error = ConsulError::Unconfirmed {
            what,
            reason: error.to_string(),
        };
        self.shared.failed(&self.label, &error);
        // When nobody takes updates any more, the next one that is sent tells.
        let _ = self.shared.roll_call(|roll| roll.failed(&self.label)).await;
        self.position.forget();
        let pause = self.doubts.failed(&mut self.rng);
        self.rest(pause).await;
    }

    /// Notes a failure and waits as long as it asks for. A reload ends the wait.
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
        // When nobody takes updates any more, the next one that is sent tells.
        let _ = self.shared.roll_call(|roll| roll.failed(&self.label)).await;
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

    /// Rests, but no longer than until Consul answers again, or another watch reads again: what
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
                // The read that follows sees all that was told so far.
                notice.take();
                return Turn::Block;
            }
            if self.held {
                // It looks again often, and must not keep a connection meanwhile: there may be many
                // like it.
                let look_at = self.answered_at + self.sentinel();
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
            let look_at = self.answered_at + look_after.mul_f64(0.75 + self.rng.f64() / 2.0);
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

    /// The next read is unconditional, and its answer is judged whatever it is.
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

    /// One read. None: a reload ended it, or it told nothing new.
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
            answer = fetch(&self.shared, &self.path, mode, block) => Some(answer?),
            _ = self.generation.changed() => None,
            // The connection is needed for those that tell of changes.
            Ok(_) = self.scarce.wait_for(|scarce| *scarce), if yields && self.notice.is_some() => return Ok(None),
            // What hid an answer from this watch may have gone for all of them.
            () = recovery(&mut self.recovered), if self.held => None,
        };
        let Some(answer) = fetched else {
            self.start_over();
            return Ok(None);
        };
        let now = Instant::now();
        self.seen_at = match turn {
            Turn::Soon { seen_at }
            | Turn::Look {
                seen_at: Some(seen_at),
            } => seen_at,
            Turn::Block if answer.early && answer.held > HELD_MIN => now,
            Turn::Block | Turn::Look { seen_at: None } => self.answered_at,
        };
        self.answered_at = now;
        self.pace.received(now, answer.body.len());
        if self.label.is_empty() && (answer.early || block.is_none()) {
            // Any instance that came, went or changed, though the list may read the same as before.
            self.shared.notices.list_woken();
        }
        let answer = self.bound_staleness(answer, mode, config.max_stale).await;
        self.filtered = answer.filtered;
        let digest = Some(self.digest.hash_one(&answer.body));
        let value = if digest == self.believed {
            None
        } else {
            Some(decoded(&self.path, &answer, decode)?)
        };
        self.judged = digest;
        self.backoff.succeeded();
        match self.position.advance(answer.index, answer.early) {
            Next::After(pause) => self.pause = pause,
            Next::Stuck => self.pace.judged(Outcome::Stuck),
            Next::Now => {}
        }
        if value.is_none() {
            self.believed(false);
        }
        Ok(value)
    }

    /// An answer that is too old is replaced by the leader's, if there is a leader; else it is the
    /// best there is.
    async fn bound_staleness(&self, answer: Answer, mode: Mode, max_stale: Duration) -> Answer {
        let stale =
            mode == Mode::Stale && too_stale(answer.last_contact, answer.known_leader, max_stale);
        if !stale || self.shared.is_leaderless(Instant::now()) {
            return answer;
        }
        match self.shared.client.ask_leader(&self.path, FRESH_LIMIT).await {
            Ok(fresh) => fresh,
            Err(error) => {
                self.shared.count(&error);
                self.shared.note_leaderless(Instant::now());
                answer
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
) -> Result<Answer, ConsulError> {
    // The semaphore is never closed; without a permit there would merely be no bound.
    let _permit = if block.is_none() {
        shared.first_reads.acquire().await.ok()
    } else {
        None
    };
    shared.client.get(path, mode, block).await
}

fn decoded<T>(path: &str, answer: &Answer, decode: Decode<T>) -> Result<T, ConsulError> {
    decode(&answer.body).map_err(|error| ConsulError::Decode {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}
