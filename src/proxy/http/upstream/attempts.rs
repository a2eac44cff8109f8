//! Where a request is sent: to one instance, and to others while there is no response.
//!
//! When it is sent to another instance:
//! - the connection could not be made: always, nothing was sent;
//! - it ended before any byte of a response: if the request was provably not sent, or is idempotent
//!   and has no body; of the latter also when it ended between the head of a response and its body,
//!   if the head told that body's length;
//! - it is frozen (`health.frozen_after`, see [`silence`](crate::table::silence)): a GET or HEAD
//!   without body is sent elsewhere *too*, and the first response wins. Slowness alone is not a
//!   reason: what takes 7 s is done once;
//! - no first byte within `proxy.try_timeout`, where that is set: likewise.
//!
//! All but the first kind draw on the retry budget, and are refused when it is spent (but for the
//! one retry that follows a pooled connection found closed, and one of what was provably not sent or
//! looked at, which does not count as an attempt); for frozen instances the budget is the share of recent
//! requests alone. None happens after anything of a response was passed on.
//!
//! How an attempt is made is left to [`Transport`].

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use http::Version;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::error::AttemptError;
use crate::metrics::service::RetryReason;
use crate::proxy::connect::ConnectError;
use crate::proxy::error::ProxyError;
use crate::proxy::http::pick::pick;
use crate::proxy::http::record::RequestRecord;
use crate::proxy::http::request_body::UploadProgress;
use crate::proxy::pool::PoolKey;
use crate::proxy::settings::Settings;
use crate::proxy::worker::Worker;
use crate::table::balancer::PickContext;
use crate::table::clock::ms;
use crate::table::{Route, Target};

/// Keys of targets that need not be tried again.
type Tried = SmallVec<[u64; 4]>;

/// What an attempt makes of the request, and comes back with.
pub type Attempted<A, B> = Result<A, AttemptError<B>>;

/// How a request is sent to one instance.
pub trait Transport<'a> {
    /// The request's body. Its default is what may be sent again, as often as wanted.
    type Body: Default;
    /// The head of a response, and what comes with it.
    type Response;

    /// Sends the request to `target` and waits for the head of the response, with no deadline but
    /// that of the connect. Dropping the future leaves nothing behind.
    fn attempt(
        &'a self,
        target: &'a Target,
        body: Self::Body,
        fresh_only: bool,
    ) -> LocalBoxFuture<'a, Attempted<Self::Response, Self::Body>>;

    /// Whether the options of `target` let the request pass as those of the first one did.
    fn is_eligible(&self, target: &Target) -> bool;

    /// From the moment a connection was there to the head of the response.
    fn latency(answer: &Self::Response) -> Duration;

    /// Whether the response counts as a failure of its instance.
    fn failed(&self, answer: &Self::Response) -> bool;

    /// Notes for the access log what is sent to `target`.
    fn note_attempt(&self, _target: &Target, _finish: &mut RequestRecord) {}
}

/// An attempt that is out.
pub struct InFlightAttempt<'a, A: Transport<'a>> {
    /// The target that gets the request.
    pub target: &'a Target,
    /// When it was sent.
    pub started: Instant,
    /// What comes of it.
    pub future: LocalBoxFuture<'a, Attempted<A::Response, A::Body>>,
}

/// Where the attempt loop begins.
pub enum Start<'a, A: Transport<'a>> {
    /// The request was not sent yet.
    New(&'a Target, A::Body),
    /// It was sent to the first target, which has not responded yet.
    Asked(InFlightAttempt<'a, A>),
    /// The attempt at the first target failed.
    Failed(&'a Target, AttemptError<A::Body>),
}

/// One request on its way to a response, and what its attempts need.
#[derive(Clone, Copy)]
pub struct AttemptLoop<'a> {
    /// This worker.
    pub worker: &'a Rc<Worker>,
    /// Limits, header rules and health rules.
    pub settings: &'a Settings,
    /// Where it may go.
    pub route: &'a Arc<Route>,
    /// For routes that go by a hash.
    pub hash: u64,
    /// The version that the client speaks.
    pub version: Version,
    /// Idempotent and without a body: a second one does no harm when the first is lost.
    pub repeatable: bool,
    /// GET or HEAD without a body: it may be sent twice at the same time.
    pub doublable: bool,
    /// Most attempts, the first one included.
    pub attempts_max: u32,
}

impl<'a> AttemptLoop<'a> {
    /// A target for the request that is none of `tried`.
    #[must_use]
    fn pick(&self, tried: &[u64]) -> Option<&'a Target> {
        let (now_ms, slow_start_ms) = (
            self.worker.clock.now_ms(),
            self.settings.health.slow_start_ms,
        );
        let context = PickContext {
            now_ms,
            tried,
            hash: self.hash,
            slow_start_ms,
        };
        pick(self.worker, self.route, context, self.doublable)
    }

    /// Sends it to the first target, and to others as the rules above allow, until there is the
    /// head of a response.
    ///
    /// # Errors
    /// The last failure when no more may be tried, or time is up.
    pub async fn run<A: Transport<'a>>(
        &self,
        attempts: &'a A,
        first: Start<'a, A>,
        mut deadlines: Deadlines,
        upload: &UploadProgress,
        finish: &mut RequestRecord,
    ) -> Result<(&'a Target, A::Response), ProxyError> {
        let mut state = AttemptState::new(self.attempts_max.max(1));
        let mut begun = None;
        let first = match first {
            Start::New(target, body) => {
                let target = self.away_from_loss(attempts, target);
                begun = Some((target, body));
                target
            }
            Start::Asked(running) => {
                let target = running.target;
                state.left -= 1;
                state.running.push(running);
                target
            }
            Start::Failed(target, error) => {
                if let Some(broken) = upload.client_failure() {
                    return Err(broken);
                }
                state.left -= 1;
                begun = Some(
                    self.after_failure(attempts, &mut state, target, target, error)?
                        .ok_or(ProxyError::NoInstance)?,
                );
                target
            }
        };
        let sleep = tokio::time::sleep_until(deadlines.next());
        tokio::pin!(sleep);
        loop {
            if let Some((target, body)) = begun.take() {
                state.left -= 1;
                let running = self.start(attempts, target, body, state.fresh_only, finish);
                state.running.push(running);
            }
            tokio::select! {
                biased;
                (at, outcome) = first_done(&mut state.running) => {
                    let ended = state.running.swap_remove(at);
                    match outcome {
                        Ok(answer) => {
                            self.record_winner(&ended, &state.running, A::latency(&answer), attempts.failed(&answer));
                            attempts.note_attempt(ended.target, finish);
                            return Ok((ended.target, answer));
                        }
                        Err(error) => {
                            if let Some(broken) = upload.client_failure() {
                                return Err(broken);
                            }
                            begun = self.after_failure(attempts, &mut state, first, ended.target, error)?;
                        }
                    }
                }
                () = sleep.as_mut() => {
                    let now = Instant::now();
                    if deadlines.try_passed(now) {
                        self.send_to_another_too(attempts, &mut state, first, finish, |attempt_loop| {
                            attempt_loop.may_retry(RetryReason::Timeout)
                        });
                    }
                    if deadlines.look_passed(now)
                        && self.are_frozen(&state.running)
                        && !self.send_to_another_too(attempts, &mut state, first, finish, Self::may_send_beside)
                    {
                        // Nothing pays for a second try of this one; those to come shall go
                        // elsewhere all the same.
                        for attempt in &state.running {
                            self.worker.note_frozen(self.route, attempt.target);
                        }
                    }
                    // In HTTP/1 the connection's watchdog sees to that; here other streams may be
                    // well.
                    if self.version == Version::HTTP_2
                        && deadlines.client_stalled(now, upload, self.worker.clock.now_ms())
                    {
                        return Err(ProxyError::ClientStalled);
                    }
                    if deadlines.end.is_some_and(|end| end <= now) {
                        // While it still sends, the client has taken that time.
                        for attempt in state.running.iter().filter(|_| upload.done.get()) {
                            self.worker.note_no_response(self.route, attempt.target);
                        }
                        return Err(ProxyError::RequestTimeout);
                    }
                    if deadlines.response_passed(now, upload, self.worker.clock.now_ms()) {
                        // A limit of the route's own says how long clients wait, and not what is
                        // long for an instance.
                        let blamed = !deadlines.of_route;
                        for attempt in state.running.iter().filter(|_| blamed) {
                            self.worker.note_no_response(self.route, attempt.target);
                        }
                        return Err(ProxyError::ResponseTimeout);
                    }
                    sleep.as_mut().reset(deadlines.next());
                }
            }
        }
    }

    /// What comes after the failure of one attempt: another, the wait for those that are out
    /// (none), or the end.
    fn after_failure<A: Transport<'a>>(
        &self,
        attempts: &'a A,
        state: &mut AttemptState<'a, A>,
        first: &'a Target,
        failed: &'a Target,
        error: AttemptError<A::Body>,
    ) -> Result<Option<(&'a Target, A::Body)>, ProxyError> {
        self.record_failure(failed, error.blames_instance());
        if let Some(lack) = error.exhaustion() {
            self.worker.note_exhaustion(lack);
        }
        // Ports are short towards one address, not towards all.
        if error.blames_instance() || error.exhaustion().is_some() {
            state.tried.push(failed.state.key);
        }
        if let AttemptError::Closed { .. } = &error {
            self.worker.pool.look_for_loss(
                &PoolKey::of(failed, &self.settings.client_certificates),
                &failed.state,
                self.worker.clock.now_ms(),
            );
        }
        let gone = matches!(
            &error,
            AttemptError::Connect {
                source: ConnectError::Gone,
                ..
            }
        );
        // At most once, because the next connection is a fresh one: no flood that the budget would
        // have to stop, but what a server does that closes idle connections just then.
        let stale = !state.fresh_only && matches!(error, AttemptError::Closed { reused: true, .. });
        state.fresh_only |= stale;
        let reason = error.retry_reason();
        let (unsent, refused) = match &error {
            AttemptError::Closed { reused, unsent, .. } => {
                (unsent.is_some(), unsent.is_some() && !reused)
            }
            _ => (false, false),
        };
        let (proxy_error, again) = settle(error, self.repeatable);
        if !state.running.is_empty() {
            // Another attempt is still out; its response is as good.
            return Ok(None);
        }
        let Some(again) = again else {
            return Err(proxy_error);
        };
        if gone {
            // That was not an attempt: nothing was sent to it. Without others it may have been
            // restarted in place.
            state.left += 1;
            return Ok(Some((
                self.pick_beside(attempts, first, failed, &state.tried)
                    .unwrap_or(failed),
                again,
            )));
        }
        if unsent && !std::mem::replace(&mut state.resent, true) {
            // Nor was that one: an upstream that ends its connection in order may say so when a
            // request is already on its way there.
            state.left += 1;
        } else if state.left == 0 || !(stale || self.may_retry(reason)) {
            return Err(proxy_error);
        }
        // What an instance did not look at may be sent to it again, if there is no other.
        let other = self.pick_another(attempts, first, &mut state.tried);
        let Some(target) = other.or(refused.then_some(failed)) else {
            return Err(proxy_error);
        };
        target.service.record_retry(reason);
        Ok(Some((target, again)))
    }

    /// Sends it to another instance beside those that have it, if there is one and `may` says so.
    /// Returns whether it did.
    fn send_to_another_too<A: Transport<'a>>(
        &self,
        attempts: &'a A,
        state: &mut AttemptState<'a, A>,
        first: &'a Target,
        finish: &mut RequestRecord,
        may: impl FnOnce(&Self) -> bool,
    ) -> bool {
        let mut asked = state.tried.clone();
        asked.extend(state.running.iter().map(|attempt| attempt.target.state.key));
        if state.left > 0
            && let Some(target) = self.pick_another(attempts, first, &mut asked)
            && may(self)
        {
            state.left -= 1;
            target.service.record_retry(RetryReason::Timeout);
            let running = self.start(attempts, target, A::Body::default(), false, finish);
            state.running.push(running);
            return true;
        }
        false
    }

    /// Whether all instances that have it are frozen.
    fn are_frozen<A: Transport<'a>>(&self, running: &[InFlightAttempt<'a, A>]) -> bool {
        let (now_ms, limit_ms) = (
            self.worker.clock.now_ms(),
            self.settings.health.frozen_after_ms,
        );
        let is_frozen = |attempt: &InFlightAttempt<'a, A>| {
            let since_ms = self.worker.clock.at(attempt.started.into_std());
            attempt.target.state.look_for_frost(
                now_ms,
                since_ms,
                limit_ms,
                self.route,
                &self.worker.probe,
            )
        };
        !running.is_empty() && running.iter().all(is_frozen)
    }

    fn may_send_beside(&self) -> bool {
        self.worker
            .budget
            .borrow_mut()
            .try_of_share(self.worker.clock.now_ms())
    }

    /// `target`, or another one while its connections were lost just now.
    fn away_from_loss<A: Transport<'a>>(&self, attempts: &'a A, target: &'a Target) -> &'a Target {
        if self.route.targets.len() < 2 {
            return target;
        }
        let now_ms = self.worker.clock.now_ms();
        let key = PoolKey::of(target, &self.settings.client_certificates);
        self.worker.pool.drop_closed(&key, now_ms);
        if !target.state.is_lost(now_ms) {
            return target;
        }
        self.pick_beside(attempts, target, target, &Tried::new())
            .unwrap_or(target)
    }

    /// Another target than `this`, if there is one that nothing speaks against.
    fn pick_beside<A: Transport<'a>>(
        &self,
        attempts: &'a A,
        first: &Target,
        this: &Target,
        tried: &Tried,
    ) -> Option<&'a Target> {
        let now_ms = self.worker.clock.now_ms();
        let mut tried = tried.clone();
        tried.push(this.state.key);
        let found = self.pick_another(attempts, first, &mut tried);
        found.filter(|target| !target.state.is_ejected(now_ms) && !target.state.is_lost(now_ms))
    }

    /// A target to try after `first`: one whose own options let the request pass, as those of
    /// `first` did.
    fn pick_another<A: Transport<'a>>(
        &self,
        attempts: &'a A,
        first: &Target,
        tried: &mut Tried,
    ) -> Option<&'a Target> {
        loop {
            let target = self.pick(tried)?;
            if Arc::ptr_eq(&target.options, &first.options) || attempts.is_eligible(target) {
                return Some(target);
            }
            tried.push(target.state.key);
        }
    }

    fn start<A: Transport<'a>>(
        &self,
        attempts: &'a A,
        target: &'a Target,
        body: A::Body,
        fresh_only: bool,
        finish: &mut RequestRecord,
    ) -> InFlightAttempt<'a, A> {
        finish.attempt_started(target);
        attempts.note_attempt(target, finish);
        InFlightAttempt {
            target,
            started: Instant::now(),
            future: attempts.attempt(target, body, fresh_only),
        }
    }

    fn may_retry(&self, reason: RetryReason) -> bool {
        reason == RetryReason::Connect
            || self
                .worker
                .budget
                .borrow_mut()
                .try_retry(self.worker.clock.now_ms())
    }

    /// Notes which instance responded, and which ones had a head start and did not.
    fn record_winner<A: Transport<'a>>(
        &self,
        winner: &InFlightAttempt<'a, A>,
        losers: &[InFlightAttempt<'a, A>],
        took: Duration,
        failed: bool,
    ) {
        self.note_response(winner.target, took, self.worker.clock.now_ms(), failed);
        for loser in losers.iter().filter(|loser| loser.started < winner.started) {
            if loser.target.state.is_frozen() {
                self.worker.note_frozen(self.route, loser.target);
            } else {
                self.record_failure(loser.target, true);
            }
        }
    }

    /// Notes that `target` responded at `now_ms` of the process clock; `failed`: with what counts
    /// as its failure.
    pub fn note_response(&self, target: &Target, took: Duration, now_ms: u64, failed: bool) {
        let latency_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if failed {
            self.worker
                .note_bad_response(self.route, target, latency_us, now_ms);
        } else {
            target.state.record_success(now_ms, latency_us);
        }
    }

    fn record_failure(&self, target: &Target, guilty: bool) {
        if guilty {
            self.worker.note_failure(self.route, target);
        }
    }
}

/// What happened so far.
struct AttemptState<'a, A: Transport<'a>> {
    running: SmallVec<[InFlightAttempt<'a, A>; 2]>,
    tried: Tried,
    fresh_only: bool,
    /// What was not sent, or not looked at, was sent again, at no cost to the budget.
    resent: bool,
    left: u32,
}

impl<'a, A: Transport<'a>> AttemptState<'a, A> {
    fn new(left: u32) -> Self {
        Self {
            running: SmallVec::new(),
            tried: Tried::new(),
            fresh_only: false,
            resent: false,
            left,
        }
    }
}

/// Waits for the first attempt that ends, whichever. Cancel safe.
async fn first_done<'a, A: Transport<'a>>(
    running: &mut [InFlightAttempt<'a, A>],
) -> (usize, Attempted<A::Response, A::Body>) {
    std::future::poll_fn(|cx| {
        for (at, attempt) in running.iter_mut().enumerate() {
            if let Poll::Ready(outcome) = Pin::new(&mut attempt.future).poll(cx) {
                return Poll::Ready((at, outcome));
            }
        }
        Poll::Pending
    })
    .await
}

/// A late request looks at its instance no more often than this.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(10);

/// Longer than a process lives.
const NEVER: Duration = Duration::from_secs(30 * 365 * 86_400);

/// When something has to happen although nothing does.
#[derive(Debug)]
pub struct Deadlines {
    started: Instant,
    try_every: Option<Duration>,
    next_try: Option<Instant>,
    /// When to look whether an instance that has the request is frozen, and how often at most.
    next_look: Option<Instant>,
    look_every: Duration,
    response: Instant,
    /// The request as a whole.
    end: Option<Instant>,
    response_timeout_ms: u64,
    body_timeout: Duration,
    /// The time for a response is that of the route.
    of_route: bool,
}

impl Deadlines {
    /// gRPC has no limit here: calls bring their own (`grpc-timeout`) and end their stream when it
    /// passes, and a server that streams may have nothing to say, not even a head, for hours. A
    /// dead one is found by HTTP/2's pings.
    #[must_use]
    pub fn new(settings: &Settings, body_timeout: Duration, doublable: bool, grpc: bool) -> Self {
        Self::from(Instant::now(), settings, body_timeout, doublable, grpc)
    }

    /// The same for a request that begins at `now`.
    #[must_use]
    pub fn from(
        now: Instant,
        settings: &Settings,
        body_timeout: Duration,
        doublable: bool,
        grpc: bool,
    ) -> Self {
        let limit = settings.proxy.try_timeout;
        let try_every = (doublable && !limit.is_zero()).then_some(limit);
        let silent_max = Duration::from_millis(settings.health.frozen_after_ms);
        let response_timeout = if grpc {
            NEVER
        } else {
            settings.proxy.response_timeout
        };
        Self {
            started: now,
            try_every,
            next_try: try_every.map(|limit| now + limit),
            next_look: (doublable && !silent_max.is_zero()).then(|| now + silent_max / 2),
            look_every: (silent_max / 8).max(LOOK_EVERY_MIN),
            response: now + response_timeout,
            end: None,
            response_timeout_ms: ms(response_timeout),
            body_timeout,
            of_route: false,
        }
    }

    /// The time for a response, all attempts together, is this one.
    #[must_use]
    pub fn with_response(self, timeout: Option<Duration>) -> Self {
        match timeout {
            None => self,
            Some(timeout) => Self {
                response: self.started + timeout,
                response_timeout_ms: ms(timeout),
                of_route: true,
                ..self
            },
        }
    }

    /// The request as a whole has to be over by then.
    #[must_use]
    pub fn with_end(self, end: Option<Instant>) -> Self {
        Self { end, ..self }
    }

    /// When to look next.
    #[must_use]
    pub fn next(&self) -> Instant {
        let times = [self.next_try, self.next_look, self.end, Some(self.response)];
        times.into_iter().flatten().min().unwrap_or(self.response)
    }

    fn try_passed(&mut self, now: Instant) -> bool {
        let passed = self.next_try.is_some_and(|at| at <= now);
        if passed {
            self.next_try = self.try_every.map(|limit| now + limit);
        }
        passed
    }

    /// The longer it waits, the less often: thousands of long polls cost little.
    fn look_passed(&mut self, now: Instant) -> bool {
        let passed = self.next_look.is_some_and(|at| at <= now);
        if passed {
            self.next_look = Some(
                now + self
                    .look_every
                    .max(now.saturating_duration_since(self.started) / 8),
            );
        }
        passed
    }

    /// Whether the client has paused in the middle of its upload for longer than it may.
    fn client_stalled(&self, now: Instant, upload: &UploadProgress, now_ms: u64) -> bool {
        let quiet = match upload.last_ms.get() {
            0 => now.saturating_duration_since(self.started),
            last_ms => Duration::from_millis(now_ms.saturating_sub(last_ms)),
        };
        !upload.done.get() && upload.waits_for_client.get() && quiet >= self.body_timeout
    }

    /// The time for a response counts from the last byte of the upload that the upstream took: a
    /// client that still sends is not waiting yet (a client that stalls is ended by
    /// `proxy.body_timeout`, on its own connection).
    fn response_passed(&mut self, now: Instant, upload: &UploadProgress, now_ms: u64) -> bool {
        if self.response > now {
            return false;
        }
        if !upload.done.get() && upload.waits_for_client.get() {
            self.response = now
                + self
                    .body_timeout
                    .min(Duration::from_millis(self.response_timeout_ms));
            return false;
        }
        let waited_ms = now_ms.saturating_sub(upload.last_ms.get());
        if upload.last_ms.get() > 0 && waited_ms < self.response_timeout_ms {
            self.response = now + Duration::from_millis(self.response_timeout_ms - waited_ms);
            return false;
        }
        true
    }
}

/// What a failed attempt means for the request: the error if nothing better comes, and the body to
/// try again with.
fn settle<B: Default>(error: AttemptError<B>, repeatable: bool) -> (ProxyError, Option<B>) {
    match error {
        AttemptError::Connect {
            source: ConnectError::Timeout(_),
            body,
        } => (ProxyError::ConnectTimeout, Some(body)),
        AttemptError::Connect { source, body } if source.is_exhaustion() => {
            (ProxyError::Exhausted(source.to_string()), Some(body))
        }
        AttemptError::Connect { source, body } if source.is_refusal_of_ours() => {
            (ProxyError::Unusable(source.to_string()), Some(body))
        }
        AttemptError::Connect { source, body } => {
            (ProxyError::Connect(source.to_string()), Some(body))
        }
        AttemptError::Closed { source, unsent, .. } => {
            let again = unsent.or_else(|| repeatable.then(B::default));
            (ProxyError::Upstream(source.to_string()), again)
        }
        AttemptError::Protocol(source) => (
            ProxyError::Unusable(source.to_string()),
            repeatable.then(B::default),
        ),
        AttemptError::Request(reason) => (ProxyError::Upstream(reason), None),
    }
}
