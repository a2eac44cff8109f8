//! Few connections for many requests.
//!
//! ```text
//! acquire ── permit (room in all connections together; first come, first served)
//!         └─ a connection with room ── else dial one, one dial at a time
//! ```
//! Because only one dial runs at a time and each request that waited for it looks again before
//! dialling, a thousand watches that start together open exactly as many connections as their
//! streams need. A failed dial fails every request that waited for it, and the next one is held
//! back by one backoff shared by all.
//!
//! How many requests fit is known once an agent has chosen the protocol: `max_connections` over
//! HTTP/1.1, [`STREAMS_MAX`] times that over HTTP/2. Until then the scheme of the address is the
//! guess. An agent that closes new HTTP/1.1 connections grants fewer (`grant`).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::sleep;
use tracing::warn;

use super::dial::{CloseReason, Connection, STREAMS_MAX, StreamLimit, dial};
use super::error::ConsulError;
use super::grant::Grant;
use super::room::Room;
use super::settings::{Agent, Reader, Settings};
use crate::metrics::Metrics;
use crate::sources::backoff::Backoff;

/// Bounds of the pause between dials that fail. The upper one is small because a single dial serves
/// every watch, and because an agent that was restarted must be found again within about a second.
const DIAL_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// The connections to Consul.
pub(super) struct Pool {
    state: Mutex<State>,
    dialer: tokio::sync::Mutex<Dialer>,
    rooms: [Arc<Semaphore>; 2],
    /// Permits of the first room that are to be thrown away when they come back.
    surplus: AtomicUsize,
    room: Arc<Room>,
    multiplexed: AtomicBool,
    /// A dial failed, and no response came since.
    unreachable: AtomicBool,
    /// Moves when that ends.
    recovered: watch::Sender<u64>,
    max_connections: usize,
    metrics: Metrics,
}

/// Consul closes a connection that it does not grant as soon as it has accepted it. One that breaks
/// later breaks for another reason.
const FRESH: Duration = Duration::from_secs(1);
/// Pause of a request that finds as many connections open as the agent grants, and none of them
/// free.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// Idle HTTP/1.1 connections are closed after this long: what an agent grants is shared by all
/// programs of a host.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// Looks for a connection with room before a request gives up: others may be faster each time.
const DIALS_MAX: usize = 20;

/// What is open. Connections of an older generation finish what they carry and are not used again.
struct State {
    settings: Arc<Settings>,
    generation: u64,
    agent: usize,
    http2: Vec<Multiplexed>,
    /// The one used last is the last.
    idle: Vec<Single>,
    http1_open: usize,
    grant: Grant,
    /// Fresh connections that were closed before they were used.
    closed_unused: Vec<Agent>,
    /// No dial before this, since the agent closed the only connection.
    not_before: Option<Instant>,
    refusals: Backoff,
    failed: Option<(Instant, ConsulError)>,
}

/// Paces dials.
struct Dialer {
    backoff: Backoff,
    not_before: Option<Instant>,
}

#[derive(Clone)]
struct Multiplexed {
    sender: http2::SendRequest<Full<Bytes>>,
    streams: Arc<AtomicUsize>,
    stream_limit: StreamLimit,
    link: Link,
}

struct Single {
    sender: http1::SendRequest<Full<Bytes>>,
    link: Link,
    since: Instant,
}

/// What both kinds of connection know of themselves.
#[derive(Clone)]
struct Link {
    agent: Agent,
    settings: Arc<Settings>,
    generation: u64,
    close_reason: CloseReason,
    /// A response came on it.
    proven: Arc<AtomicBool>,
    opened_at: Instant,
    /// Its end was counted.
    lost: Arc<AtomicBool>,
}

impl Link {
    /// Whether it may be one that the agent does not grant: just opened, and without a response so
    /// far.
    fn is_fresh(&self) -> bool {
        !self.proven.load(Relaxed) && self.opened_at.elapsed() < FRESH
    }
}

/// The right to send one request. Dropping it gives the room back; an HTTP/1.1 connection that was
/// not handed back by [`Lease::finish`] is closed.
pub(super) struct Lease<'a> {
    pool: &'a Pool,
    link: Link,
    wire: Wire,
    room: Option<OwnedSemaphorePermit>,
}

enum Wire {
    Http1(Option<http1::SendRequest<Full<Bytes>>>),
    Http2(http2::SendRequest<Full<Bytes>>, Arc<AtomicUsize>),
}

impl Pool {
    pub(super) fn new(settings: Settings, max_connections: usize, metrics: Metrics) -> Self {
        let max_connections = max_connections.max(1);
        let guess = settings.agents.first().is_some_and(Agent::is_tls);
        let slots = if guess {
            max_connections * STREAMS_MAX
        } else {
            max_connections
        };
        let state = State {
            settings: Arc::new(settings),
            generation: 0,
            agent: 0,
            http2: Vec::new(),
            idle: Vec::new(),
            http1_open: 0,
            grant: Grant::new(max_connections),
            closed_unused: Vec::new(),
            not_before: None,
            refusals: Backoff::new(DIAL_BACKOFF.0, DIAL_BACKOFF.1),
            failed: None,
        };
        Self {
            state: Mutex::new(state),
            dialer: tokio::sync::Mutex::new(Dialer {
                backoff: Backoff::new(DIAL_BACKOFF.0, DIAL_BACKOFF.1),
                not_before: None,
            }),
            rooms: [max_connections, max_connections * STREAMS_MAX]
                .map(|room| Arc::new(Semaphore::new(room))),
            surplus: AtomicUsize::new(0),
            room: Room::new(slots),
            multiplexed: AtomicBool::new(guess),
            unreachable: AtomicBool::new(false),
            recovered: watch::Sender::new(0),
            max_connections,
            metrics,
        }
    }

    /// How these connections are shared.
    pub(super) fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// Uses these settings for every request from now on; what is under way finishes on the old
    /// ones.
    pub(super) fn reload(&self, settings: Settings) {
        let mut state = self.state();
        state.settings = Arc::new(settings);
        state.agent = 0;
        state.renew();
    }

    /// Whether the present settings cannot be used to dial.
    pub(super) fn is_broken(&self) -> bool {
        self.state().settings.broken.is_some()
    }

    /// Which reader these connections belong to at present.
    pub(super) fn reader(&self) -> Reader {
        self.state().settings.reader()
    }

    /// Goes on with the next agent, where there is one, unless another request did since this lease
    /// was taken: many requests fail together when an agent freezes, and the second must not lead
    /// back to it.
    pub(super) fn leave(&self, lease: &Lease<'_>) {
        self.leave_if(|state| state.generation == lease.link.generation);
    }

    /// The same for an agent of this name, as in errors.
    pub(super) fn leave_agent(&self, name: &str) {
        self.leave_if(|state| state.settings.agents[state.agent].name == name);
    }

    fn leave_if(&self, is_present: impl FnOnce(&State) -> bool) {
        let mut state = self.state();
        if state.settings.agents.len() > 1 && is_present(&state) {
            state.agent = (state.agent + 1) % state.settings.agents.len();
            state.renew();
        }
    }

    /// A response came. Only a response shows that an agent is back: one that takes connections
    /// just to end them must not make every watch start over with each.
    pub(super) fn responded(&self, lease: &Lease<'_>) {
        if self.unreachable.load(Relaxed) && self.unreachable.swap(false, Relaxed) {
            self.recovered.send_modify(|times| *times += 1);
        }
        if lease.is_multiplexed() {
            return;
        }
        lease.link.proven.store(true, Relaxed);
        let mut state = self.state();
        state.refusals.succeeded();
        let more = state.grant.grow(Instant::now());
        drop(state);
        if more > 0 {
            self.add_room(more);
        }
    }

    /// Whether this lease failed because the agent grants no more connections: it was closed before
    /// a response came on it, while others are open. Then fewer are used from now on, and the
    /// request may be sent again.
    pub(super) fn is_refusal(&self, lease: &Lease<'_>, error: &ConsulError) -> bool {
        let refused =
            !lease.is_multiplexed() && lease.link.is_fresh() && error.is_refused_connection();
        let others = {
            let state = self.state();
            if lease.link.generation != state.generation {
                return false;
            }
            state.http1_open.saturating_sub(1)
        };
        refused && self.refused(&lease.link.agent, others)
    }

    /// A fresh connection was closed while `others` are open. Returns whether there are any.
    fn refused(&self, agent: &Agent, others: usize) -> bool {
        *self
            .metrics
            .control()
            .registry_errors
            .entry("refused")
            .or_default() += 1;
        let mut state = self.state();
        if others == 0 {
            state.not_before =
                Some(Instant::now() + state.refusals.failed(&mut fastrand::Rng::new()));
            return false;
        }
        let before = state.grant.limit();
        let is_news = state.grant.refused(others, Instant::now());
        let now = state.grant.limit();
        drop(state);
        if is_news {
            warn!(
                agent = agent.name,
                connections = now,
                "Consul: the agent closes new connections; fewer are used. It grants 200 to all programs of a host \
                 together: raise limits.http_max_conns_per_client there, or use HTTPS, which needs few"
            );
        }
        self.remove_room(before.saturating_sub(now));
        true
    }

    /// Counts a connection that broke, once for all requests that it carried.
    pub(super) fn lost(&self, lease: &Lease<'_>, error: &ConsulError) {
        if matches!(error, ConsulError::Transport { .. }) && !lease.link.lost.swap(true, Relaxed) {
            *self
                .metrics
                .control()
                .registry_errors
                .entry(error.kind())
                .or_default() += 1;
        }
    }

    fn add_room(&self, more: usize) {
        let kept = self
            .surplus
            .fetch_update(Relaxed, Relaxed, |surplus| {
                Some(surplus.saturating_sub(more))
            })
            .unwrap_or(0);
        self.rooms[0].add_permits(more.saturating_sub(kept));
        self.slots_changed();
    }

    fn remove_room(&self, fewer: usize) {
        let gone = self.rooms[0].forget_permits(fewer);
        self.surplus.fetch_add(fewer - gone, Relaxed);
        self.slots_changed();
    }

    fn slots_changed(&self) {
        let limit = self.state().grant.limit();
        let multiplexed = self.multiplexed.load(Relaxed);
        self.room.set_slots(if multiplexed {
            self.max_connections * STREAMS_MAX
        } else {
            limit
        });
    }

    /// Changes with the first response after dials that failed.
    pub(super) fn recovered(&self) -> watch::Receiver<u64> {
        self.recovered.subscribe()
    }

    /// Waits for room and for a connection.
    ///
    /// # Errors
    /// Of the dial; all requests that waited for it get the same error.
    pub(super) async fn acquire(&self) -> Result<Lease<'_>, ConsulError> {
        let began = Instant::now();
        'room: loop {
            let multiplexed = self.multiplexed.load(Relaxed);
            let Ok(room) = self.rooms[usize::from(multiplexed)]
                .clone()
                .acquire_owned()
                .await
            else {
                return Err(ConsulError::Connect {
                    agent: "pool".to_owned(),
                    reason: "closed".to_owned(),
                });
            };
            for _ in 0..DIALS_MAX {
                // When a dial shows another protocol than was guessed, the room is another one too.
                if self.multiplexed.load(Relaxed) != multiplexed {
                    continue 'room;
                }
                if let Some((wire, link)) = self.take() {
                    return Ok(Lease {
                        pool: self,
                        link,
                        wire,
                        room: Some(room),
                    });
                }
                if !multiplexed && self.is_full() {
                    self.give_back(room);
                    sleep(FULL_PAUSE).await;
                    continue 'room;
                }
                self.open_one(began, multiplexed).await?;
            }
            let agent = self.state().settings.agents[0].name.clone();
            let reason = "closed as soon as it was open, again and again".to_owned();
            return Err(ConsulError::Transport {
                agent,
                reason,
                alert: None,
            });
        }
    }

    /// Dials, unless another request did while this one waited for its turn.
    async fn open_one(&self, began: Instant, multiplexed: bool) -> Result<(), ConsulError> {
        let mut dialer = self.dialer.lock().await;
        if self.multiplexed.load(Relaxed) != multiplexed
            || self.state().has_room(self.max_connections)
        {
            return Ok(());
        }
        if !multiplexed && self.is_full() {
            return Ok(());
        }
        if let Some(error) = self.state().failed_since(began) {
            return Err(error);
        }
        self.dial(&mut dialer).await
    }

    fn take(&self) -> Option<(Wire, Link)> {
        let mut state = self.state();
        let taken = state.take(self.max_connections);
        let closed = std::mem::take(&mut state.closed_unused);
        let others = state.http1_open;
        drop(state);
        for agent in closed {
            self.refused(&agent, others);
        }
        taken
    }

    /// Whether as many HTTP/1.1 connections are open as the agent grants.
    fn is_full(&self) -> bool {
        let state = self.state();
        state.http1_open >= state.grant.limit()
    }

    /// Gives room back, or throws it away where there is too much.
    fn give_back(&self, permit: OwnedSemaphorePermit) {
        if self
            .surplus
            .fetch_update(Relaxed, Relaxed, |surplus| surplus.checked_sub(1))
            .is_ok()
        {
            permit.forget();
        }
    }

    /// Tries the agents in turn, beginning with the present one, and adds the connection to what is
    /// open.
    async fn dial(&self, dialer: &mut Dialer) -> Result<(), ConsulError> {
        let not_before = dialer.not_before.max(self.state().not_before);
        if let Some(pause) = not_before.and_then(|at| at.checked_duration_since(Instant::now())) {
            sleep(pause).await;
        }
        let (settings, generation, first) = {
            let state = self.state();
            (state.settings.clone(), state.generation, state.agent)
        };
        let mut last = None;
        for offset in 0..settings.agents.len() {
            let number = (first + offset) % settings.agents.len();
            let agent = &settings.agents[number];
            match dial(&settings, agent).await {
                Ok(connection) => {
                    dialer.backoff.succeeded();
                    dialer.not_before = None;
                    let mut state = self.state();
                    // Made with settings that a reload has replaced meanwhile: dropped, the caller
                    // dials again.
                    if state.generation == generation {
                        state.agent = number;
                        let multiplexed = state.add(connection, agent.clone());
                        drop(state);
                        if self.multiplexed.swap(multiplexed, Relaxed) != multiplexed {
                            self.slots_changed();
                        }
                    }
                    return Ok(());
                }
                Err(error) => {
                    let error = error.of_dial();
                    *self
                        .metrics
                        .control()
                        .registry_errors
                        .entry(error.kind())
                        .or_default() += 1;
                    last = Some(error);
                }
            }
        }
        dialer.not_before = Some(Instant::now() + dialer.backoff.failed(&mut fastrand::Rng::new()));
        let error = last.unwrap_or_else(|| ConsulError::Connect {
            agent: "consul.address".to_owned(),
            reason: "no agent configured".to_owned(),
        });
        self.unreachable.store(true, Relaxed);
        self.state().failed = Some((Instant::now(), error.clone()));
        Err(error)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn renew(&mut self) {
        self.generation += 1;
        self.http2.clear();
        self.http1_open -= self.idle.len();
        self.idle.clear();
    }

    /// A connection with room; the fullest comes first, so that a quiet one can be closed by the
    /// agent.
    fn take(&mut self, max_connections: usize) -> Option<(Wire, Link)> {
        self.http2.retain(|open| !open.sender.is_closed());
        for open in &self.http2 {
            if open.has_room() {
                open.streams.fetch_add(1, Relaxed);
                return Some((
                    Wire::Http2(open.sender.clone(), open.streams.clone()),
                    open.link.clone(),
                ));
            }
        }
        // An agent that grants fewer streams than expected: more on the last connection wait inside
        // it, which is better than more connections.
        if self.http2.len() >= max_connections {
            let open = self
                .http2
                .iter()
                .min_by_key(|open| open.streams.load(Relaxed))?;
            open.streams.fetch_add(1, Relaxed);
            return Some((
                Wire::Http2(open.sender.clone(), open.streams.clone()),
                open.link.clone(),
            ));
        }
        while let Some(single) = self.idle.pop() {
            if single.sender.is_ready() {
                return Some((Wire::Http1(Some(single.sender)), single.link));
            }
            self.http1_open -= 1;
            if single.link.is_fresh() && single.link.generation == self.generation {
                self.closed_unused.push(single.link.agent);
            }
        }
        None
    }

    /// Whether [`State::take`] would find something.
    fn has_room(&mut self, max_connections: usize) -> bool {
        self.http2.retain(|open| !open.sender.is_closed());
        self.http2.len() >= max_connections
            || self.http2.iter().any(Multiplexed::has_room)
            || self.idle.iter().any(|single| single.sender.is_ready())
    }

    /// Returns whether it carries many requests at once.
    fn add(&mut self, connection: Connection, agent: Agent) -> bool {
        self.failed = None;
        let (settings, generation) = (self.settings.clone(), self.generation);
        let link = |close_reason| Link {
            agent,
            settings,
            generation,
            close_reason,
            proven: Arc::default(),
            opened_at: Instant::now(),
            lost: Arc::default(),
        };
        match connection {
            Connection::Http2(sender, stream_limit, close_reason) => {
                self.http2.push(Multiplexed {
                    sender,
                    streams: Arc::default(),
                    stream_limit,
                    link: link(close_reason),
                });
                true
            }
            Connection::Http1(sender, close_reason) => {
                self.idle.push(Single {
                    sender,
                    link: link(close_reason),
                    since: Instant::now(),
                });
                self.http1_open += 1;
                false
            }
        }
    }

    /// Closes what was not used for long.
    fn close_idle(&mut self, now: Instant) {
        let old = self
            .idle
            .iter()
            .take_while(|single| now.saturating_duration_since(single.since) > IDLE_MAX)
            .count();
        self.idle.drain(..old);
        self.http1_open -= old;
    }

    fn failed_since(&self, began: Instant) -> Option<ConsulError> {
        self.failed
            .as_ref()
            .filter(|(at, _)| *at >= began)
            .map(|(_, error)| error.clone())
    }
}

impl Multiplexed {
    fn has_room(&self) -> bool {
        self.streams.load(Relaxed) < self.stream_limit.load(Relaxed)
    }
}

impl Lease<'_> {
    /// The agent at the other end.
    pub(super) fn agent(&self) -> &Agent {
        &self.link.agent
    }

    /// The settings that the connection was made with.
    pub(super) fn settings(&self) -> &Settings {
        &self.link.settings
    }

    /// Whether the request target must be absolute (HTTP/2) or just a path.
    pub(super) fn is_multiplexed(&self) -> bool {
        matches!(self.wire, Wire::Http2(..))
    }

    /// Why the connection ended, when that is known.
    pub(super) fn close_reason(&self) -> Option<Arc<hyper::Error>> {
        self.link.close_reason.get().cloned()
    }

    /// Sends the request and waits for the head of the response.
    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        match &mut self.wire {
            Wire::Http2(sender, _) => sender.send_request(request).await,
            Wire::Http1(Some(sender)) => sender.send_request(request).await,
            // The sender leaves a lease only in `finish`, which consumes it.
            Wire::Http1(None) => unreachable!("a lease without connection was used"),
        }
    }

    /// The response was read to its end: an HTTP/1.1 connection may carry the next request.
    pub(super) async fn finish(mut self) {
        let Wire::Http1(sender) = &mut self.wire else {
            return;
        };
        let Some(open) = sender else { return };
        let usable = open.ready().await.is_ok();
        // Only now: a lease that is dropped in between still counts its connection.
        let Some(open) = sender.take() else { return };
        let mut state = self.pool.state();
        let now = Instant::now();
        state.close_idle(now);
        if usable
            && self.link.generation == state.generation
            && state.http1_open <= state.grant.limit()
        {
            state.idle.push(Single {
                sender: open,
                link: self.link.clone(),
                since: now,
            });
        } else {
            state.http1_open -= 1;
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        match &self.wire {
            Wire::Http2(_, streams) => {
                streams.fetch_sub(1, Relaxed);
            }
            Wire::Http1(Some(_)) => self.pool.state().http1_open -= 1,
            Wire::Http1(None) => {}
        }
        if !self.is_multiplexed()
            && let Some(permit) = self.room.take()
        {
            self.pool.give_back(permit);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::ConsulConfig;

    fn pool(addresses: Vec<String>) -> Pool {
        let settings = Settings::load(&ConsulConfig {
            addresses: addresses.into(),
            ..ConsulConfig::default()
        })
        .unwrap();
        Pool::new(settings, 4, Metrics::default())
    }

    #[tokio::test]
    async fn requests_that_fail_together_leave_an_agent_once() {
        let agents = [
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        ];
        let names = agents
            .each_ref()
            .map(|agent| format!("http://{}", agent.local_addr().unwrap()));
        let pool = pool(names.to_vec());
        let (one, other) = (pool.acquire().await.unwrap(), pool.acquire().await.unwrap());
        pool.leave(&one);
        pool.leave(&other);
        let next = pool.acquire().await.unwrap();
        assert_eq!(
            [one.agent(), other.agent(), next.agent()].map(|agent| &agent.name),
            [&names[0], &names[0], &names[1]]
        );
        // The second does not help either: back to the first, where the old leases have no more
        // effect.
        pool.leave(&next);
        pool.leave(&one);
        assert_eq!(pool.acquire().await.unwrap().agent().name, names[0]);
    }

    #[test]
    fn an_agent_that_refuses_is_left_only_while_it_is_the_present_one() {
        let pool = pool(vec!["http://a:1".into(), "http://b:1".into()]);
        pool.leave_agent("http://a:1");
        pool.leave_agent("http://a:1");
        assert_eq!(pool.state().agent, 1);
    }
}
