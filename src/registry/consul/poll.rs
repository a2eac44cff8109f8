//! One blocking query, repeated: paces reads, keeps the position, bounds staleness, and tries again after failures
//! until it has an answer that can be decoded. The rules are `blocking`'s; whether to believe the answer is the
//! caller's, who then says [`Poller::believed`] or [`Poller::held`].

use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::sleep;

use super::blocking::{Next, Position, TokenBucket, jittered_wait, resync_after, too_stale};
use super::client::{Answer, Block, Mode, Watching};
use super::error::ConsulError;
use super::shared::Shared;
use crate::catalog::ServiceName;
use crate::registry::backoff::{Backoff, CAP};

/// Reads of one watch: a burst that a deployment fits in, and a rate (1/s) that a flood is slowed down to.
const BUCKET: (u32, f64) = (10, 2.0);
/// First bound of the pause after a failed read.
const BACKOFF_BASE: Duration = Duration::from_millis(200);
/// Longest wait while an answer is not believed: rights that come back wake no query.
const HELD_WAIT: Duration = Duration::from_secs(5);
/// Limit for the read that confirms an answer: the next try follows with news of what else has changed meanwhile.
const CONFIRM_LIMIT: Duration = Duration::from_secs(3);
/// Limit for asking the leader instead of a server that lags.
const FRESH_LIMIT: Duration = Duration::from_secs(2);
/// Refusals in a row after which the list watch goes on with the next agent.
const REFUSALS_MAX: u32 = 3;

/// How an answer's body is read.
pub(super) type Decode<T> = fn(&[u8]) -> Result<T, serde_json::Error>;

/// A watch on one path.
pub(super) struct Poller {
    shared: Arc<Shared>,
    path: String,
    label: ServiceName,
    position: Position,
    bucket: TokenBucket,
    backoff: Backoff,
    /// Paces answers that could not be confirmed: the reads in between succeed, and end the other backoff.
    doubts: Backoff,
    generation: watch::Receiver<u64>,
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
    unpaced: bool,
    _watching: Watching,
}

impl Poller {
    /// `label`: the service for metrics and log; empty for the list.
    pub(super) fn new(shared: Arc<Shared>, path: String, label: ServiceName) -> Self {
        let now = Instant::now();
        let mut rng = fastrand::Rng::new();
        let resync_at = now + resync_after(shared.config().resync, rng.f64());
        Self {
            path,
            label,
            position: Position::default(),
            bucket: TokenBucket::new(BUCKET.0, BUCKET.1, now),
            backoff: Backoff::new(BACKOFF_BASE, CAP),
            doubts: Backoff::new(BACKOFF_BASE, HELD_WAIT),
            generation: shared.generation(),
            resync_at,
            rng,
            pause: Duration::ZERO,
            held: false,
            filtered: false,
            believed: None,
            judged: None,
            digest: foldhash::fast::RandomState::default(),
            unpaced: true,
            _watching: shared.client.watching(),
            shared,
        }
    }

    /// Waits for the next answer that is not, byte for byte, the one believed last. Most are, while nothing happens:
    /// a thousand watches that come back each minute should not cost a thousand decoded answers.
    pub(super) async fn next<T>(&mut self, decode: Decode<T>) -> T {
        loop {
            match self.attempt(decode).await {
                Ok(Some(value)) => return value,
                Ok(None) => {}
                Err(error) => self.failed(&error).await,
            }
        }
    }

    /// One read, for a caller who minds failures too, and then calls [`Poller::failed`]. None: it told nothing new.
    pub(super) async fn attempt<T>(&mut self, decode: Decode<T>) -> Result<Option<T>, ConsulError> {
        self.pace().await;
        self.read(decode).await
    }

    /// Reads the same path once more, from the leader, to confirm an answer.
    pub(super) async fn confirm<T>(&mut self, path: Option<&str>, decode: Decode<T>) -> Result<T, ConsulError> {
        let path = path.unwrap_or(&self.path);
        let answer = self.shared.client.ask_leader(path, CONFIRM_LIMIT).await?;
        self.filtered = answer.filtered;
        // What is believed next is not the answer under judgement: that one is to be judged again if it comes again.
        self.judged = None;
        decoded(path, &answer, decode)
    }

    /// Whether Consul left something out of the last answer, confirming ones included, because of ACLs.
    pub(super) fn filtered(&self) -> bool {
        self.filtered
    }

    /// The answer was believed.
    pub(super) fn believed(&mut self) {
        self.held = false;
        self.believed = self.judged;
        self.doubts.succeeded();
        self.shared.succeeded(&self.label);
    }

    /// The answer was not believed: says why, and looks more often until it is.
    pub(super) fn held(&mut self, error: &ConsulError) {
        self.held = true;
        self.believed = None;
        self.shared.failed(&self.label, error);
    }

    /// What the answer said could not be confirmed: waits a little, and makes the next read an unconditional one, so that
    /// the watch sees what else changes while there is nobody to confirm the loss.
    pub(super) async fn unconfirmed(&mut self, what: String, error: &ConsulError) {
        let error = ConsulError::Unconfirmed { what, reason: error.to_string() };
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
        if error.is_dial() {
            // The next dial is held back for all watches together: it must neither be delayed for each, nor be charged
            // to the reads that follow once there is a connection again.
            self.unpaced = true;
            return;
        }
        // When nobody takes updates any more, the next one that is sent tells.
        let _ = self.shared.roll_call(|roll| roll.failed(&self.label)).await;
        let backoff = self.backoff.failed(&mut self.rng);
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

    /// Rests, but no longer than until Consul answers again after it could not be reached: what made this watch fail
    /// so often may have gone with the agent that was replaced.
    async fn rest_until_recovery(&mut self, pause: Duration) {
        let mut recovered = self.shared.client.recovered();
        let again = tokio::select! {
            () = self.rest(pause) => false,
            Ok(()) = recovered.changed() => true,
        };
        if again {
            self.backoff.succeeded();
        }
    }

    /// Waits for the token bucket, but for the very first read and those after a reload.
    async fn pace(&mut self) {
        if std::mem::take(&mut self.unpaced) {
            return;
        }
        let now = Instant::now();
        let bucket = self.bucket.take(now).max(self.shared.take_budget(now));
        let pause = std::mem::take(&mut self.pause).max(bucket);
        self.rest(pause).await;
        if Instant::now() >= self.resync_at {
            self.forget();
            self.resync_at = Instant::now() + resync_after(self.shared.config().resync, self.rng.f64());
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
        self.unpaced = true;
    }

    /// One read. None: a reload ended it, or it told nothing new.
    async fn read<T>(&mut self, decode: Decode<T>) -> Result<Option<T>, ConsulError> {
        let config = self.shared.config();
        let mode = if config.stale { Mode::Stale } else { Mode::Default };
        let longest = if self.held { config.wait.min(HELD_WAIT) } else { config.wait };
        let wait = jittered_wait(longest, self.rng.f64());
        let block = self.position.index().map(|index| Block { index, wait });
        let answer = tokio::select! {
            answer = fetch(&self.shared, &self.path, mode, block) => answer?,
            _ = self.generation.changed() => {
                self.start_over();
                return Ok(None);
            }
        };
        let answer = self.bound_staleness(answer, mode, config.max_stale).await;
        self.filtered = answer.filtered;
        let digest = Some(self.digest.hash_one(&answer.body));
        let value = if digest == self.believed { None } else { Some(decoded(&self.path, &answer, decode)?) };
        self.judged = digest;
        self.backoff.succeeded();
        if let Next::After(pause) = self.position.advance(answer.index, answer.early) {
            self.pause = pause;
        }
        if value.is_none() {
            self.believed();
        }
        Ok(value)
    }

    /// An answer that is too old is replaced by the leader's, if there is a leader; else it is the best there is.
    async fn bound_staleness(&self, answer: Answer, mode: Mode, max_stale: Duration) -> Answer {
        let stale = mode == Mode::Stale && too_stale(answer.last_contact, answer.known_leader, max_stale);
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

/// Reads; unconditional reads only so many at once.
async fn fetch(shared: &Shared, path: &str, mode: Mode, block: Option<Block>) -> Result<Answer, ConsulError> {
    // The semaphore is never closed; without a permit there would merely be no bound.
    let _permit = if block.is_none() { shared.first_reads.acquire().await.ok() } else { None };
    shared.client.get(path, mode, block).await
}

fn decoded<T>(path: &str, answer: &Answer, decode: Decode<T>) -> Result<T, ConsulError> {
    decode(&answer.body).map_err(|error| ConsulError::Decode { path: path.to_owned(), reason: error.to_string() })
}
