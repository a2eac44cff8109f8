//! Consul's HTTP API: one request with its parameters, its deadline, and the headers of its
//! response.
//!
//! Connections are `pool`'s, what to do after a response or a failure is `poll`'s.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, RETRY_AFTER};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use rustls::AlertDescription;
use tokio::sync::watch;
use tokio::time::timeout;

use super::error::{ConsulError, alert, chain};
use super::pool::{Lease, Pool};
use super::room::{Place, Purpose};
use super::settings::{Reader, Settings};
use crate::config::ConsulConfig;
use crate::metrics::Metrics;
use crate::sources::blocking::{came_early, client_deadline, retry_after, turn_wait};

/// Largest response that is read. A service of 100,000 instances stays below it.
const BODY_MAX: usize = 128 << 20;
/// How much of the body of an error is kept for messages.
const ERROR_TEXT_MAX: usize = 200;
/// Limit for a read that does not block, in stale mode: the agent has the response in memory, or
/// gets it from one server.
const STALE_TIMEOUT: Duration = Duration::from_secs(10);
/// The same in default mode: agents need up to 20 s to find out that the leader froze.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(25);
/// Limit for a write.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections in a row that the agent may close before it responded to anything, until the read
/// fails: each time fewer are opened.
const REFUSALS_MAX: usize = 16;

/// Where the KV store begins.
pub(super) const KEYS: &str = "/v1/kv/";

/// A client of one Consul cluster. Shared by all watches.
pub(crate) struct Client {
    pool: Pool,
}

/// Consistency of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Any server may respond.
    Stale,
    /// The leader responds.
    Default,
    /// The leader responds once a quorum has confirmed that it is the leader: for what must not be
    /// older than what was written before.
    Consistent,
}

/// Blocks until the index is passed or the wait is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Index of the last response.
    pub index: u64,
    /// Longest wait; cut short where watches take turns.
    pub wait: Duration,
}

/// One request to the agent, before it has a connection.
struct Outgoing<'a> {
    method: Method,
    /// Percent-encoded; it may end in a `?` with parameters of its own.
    path: &'a str,
    /// More parameters, but those of the scope, without `?`.
    query: String,
    body: Bytes,
}

/// A 200.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConsulResponse {
    /// `X-Consul-Index`.
    pub index: Option<u64>,
    /// `X-Consul-KnownLeader`.
    pub known_leader: Option<bool>,
    /// `X-Consul-LastContact`.
    pub last_contact: Option<Duration>,
    /// `X-Consul-Results-Filtered-By-ACLs: true`: the token may not see all that belongs to the
    /// response. Sent by Consul 1.11 and later, and only for requests with a token.
    pub filtered: bool,
    /// It blocked, and came before its wait was over: something woke it.
    pub early: bool,
    /// How long the request was held before the head of the response came.
    pub held: Duration,
    /// JSON.
    pub body: Bytes,
}

/// Why there is no response.
struct Failure {
    error: ConsulError,
    /// The agent closed a fresh connection because it grants no more; fewer are used from now on.
    refused: bool,
}

impl Client {
    /// Reads certificates and token; dials nothing yet.
    ///
    /// # Errors
    /// A file or an address that cannot be used.
    pub(crate) fn new(config: &ConsulConfig) -> Result<Self, ConsulError> {
        Ok(Self::with_settings(
            Settings::load(config)?,
            config.max_connections,
            Metrics::default(),
        ))
    }

    /// The same with settings that were read before. Connections that fail are counted in
    /// `metrics`, each once, however many requests waited for it.
    pub(super) fn with_settings(
        settings: Settings,
        max_connections: usize,
        metrics: Metrics,
    ) -> Self {
        Self {
            pool: Pool::new(settings, max_connections, metrics),
        }
    }

    /// Uses these settings for new requests; those under way finish on the old connections.
    pub(super) fn reload(&self, settings: Settings) {
        self.pool.reload(settings);
    }

    /// Whether the present settings cannot be used to dial.
    pub(super) fn is_broken(&self) -> bool {
        self.pool.is_broken()
    }

    /// Which reader these connections belong to at present.
    pub(super) fn reader(&self) -> Reader {
        self.pool.reader()
    }

    /// Goes on with the next configured agent, if this is the present one.
    pub(super) fn leave_agent(&self, name: &str) {
        self.pool.leave_agent(name);
    }

    /// Changes with the first response after no agent could be reached.
    pub(super) fn recovered(&self) -> watch::Receiver<u64> {
        self.pool.recovered()
    }

    /// Counts a watch for as long as its place is kept.
    pub(super) fn watching(&self, purpose: Purpose) -> Place {
        self.pool.room().enter(purpose)
    }

    /// Whether there are too few connections for a blocking query per service.
    pub(super) fn scarce(&self) -> watch::Receiver<bool> {
        self.pool.room().scarce()
    }

    /// Requests that fit at once.
    pub(super) fn slots(&self) -> usize {
        self.pool.room().slots()
    }

    /// Reads `path` (percent-encoded already; what is common to all requests is added to its
    /// query). Keys that do not exist are an empty list.
    ///
    /// Cancel safe: dropping the future ends the request and gives its room back.
    ///
    /// # Errors
    /// Anything but a 200 that was read to its end within the deadline.
    pub(crate) async fn get(
        &self,
        path: &str,
        mode: Mode,
        block: Option<Block>,
    ) -> Result<ConsulResponse, ConsulError> {
        self.read(path, mode, block, None).await
    }

    /// Reads from the leader, and gives up after `limit` (from when the request could be sent): for
    /// a second opinion, which is not worth the 20 s that agents wait for a leader that froze.
    ///
    /// Cancel safe, as [`Client::get`].
    ///
    /// # Errors
    /// As [`Client::get`].
    pub(super) async fn get_from_leader(
        &self,
        path: &str,
        limit: Duration,
    ) -> Result<ConsulResponse, ConsulError> {
        self.read(path, Mode::Default, None, Some(limit)).await
    }

    async fn read(
        &self,
        path: &str,
        mode: Mode,
        block: Option<Block>,
        limit: Option<Duration>,
    ) -> Result<ConsulResponse, ConsulError> {
        let mut refusals = 0;
        loop {
            let lease = self.pool.acquire().await?;
            match self.read_on(lease, path, mode, block, limit).await {
                Err(failure) if failure.refused && refusals < REFUSALS_MAX => refusals += 1,
                result => return result.map_err(|failure| failure.error),
            }
        }
    }

    async fn read_on(
        &self,
        lease: Lease<'_>,
        path: &str,
        mode: Mode,
        block: Option<Block>,
        limit: Option<Duration>,
    ) -> Result<ConsulResponse, Failure> {
        // Only now is it known how many requests fit at once.
        let block = block.map(|block| Block {
            wait: self.turn(block.wait),
            ..block
        });
        let deadline = limit.unwrap_or(match (block, mode) {
            (Some(block), _) => client_deadline(block.wait),
            (None, Mode::Stale) => STALE_TIMEOUT,
            (None, Mode::Default | Mode::Consistent) => DEFAULT_TIMEOUT,
        });
        let consistency = match mode {
            Mode::Stale => "stale",
            Mode::Default => "",
            Mode::Consistent => "consistent",
        };
        let query = match block {
            Some(Block { index, wait }) => {
                format!("{consistency}&index={index}&wait={}ms", wait.as_millis())
            }
            None => consistency.to_owned(),
        };
        let outgoing = Outgoing {
            method: Method::GET,
            path,
            query,
            body: Bytes::new(),
        };
        let sent_at = Instant::now();
        // A short limit shows nothing about this agent: it may be the leader that does not respond.
        let mut response = self
            .send(lease, outgoing, deadline, limit.is_none())
            .await?;
        response.early = block.is_some_and(|block| came_early(sent_at.elapsed(), block.wait));
        Ok(response)
    }

    /// Writes: sends `body` to `path` (as for [`Client::get`]) with these parameters.
    ///
    /// Cancel safe, as [`Client::get`]; whether a write that was cut short has taken place is not
    /// known.
    ///
    /// # Errors
    /// Anything but a 200 that was read to its end within the deadline.
    pub(crate) async fn put(
        &self,
        path: &str,
        query: &str,
        body: Bytes,
    ) -> Result<ConsulResponse, ConsulError> {
        let lease = self.pool.acquire().await?;
        let outgoing = Outgoing {
            method: Method::PUT,
            path,
            query: query.to_owned(),
            body,
        };
        self.send(lease, outgoing, WRITE_TIMEOUT, true)
            .await
            .map_err(|failure| failure.error)
    }

    /// `blames`: whether silence until the deadline means that the agent froze.
    async fn send(
        &self,
        mut lease: Lease<'_>,
        outgoing: Outgoing<'_>,
        deadline: Duration,
        blames: bool,
    ) -> Result<ConsulResponse, Failure> {
        let name = format!("{} {}", outgoing.method, outgoing.path);
        let may_lack = outgoing.method == Method::GET && outgoing.path.starts_with(KEYS);
        let request = request(&lease, outgoing).map_err(|error| Failure {
            error,
            refused: false,
        })?;
        let Ok(result) = timeout(deadline, exchange(&mut lease, &name, may_lack, request)).await
        else {
            if !lease.is_multiplexed() && blames {
                // Nothing else would notice that this agent froze; HTTP/2 has its pings.
                self.pool.leave(&lease);
            }
            let what = format!("{}: {name}", lease.agent().name);
            return Err(Failure {
                error: ConsulError::Timeout {
                    what,
                    after: deadline,
                },
                refused: false,
            });
        };
        let response = match result {
            Ok(response) => response,
            Err(error) => {
                let refused = self.pool.is_refusal(&lease, &error);
                if !refused {
                    self.pool.lost(&lease, &error);
                }
                return Err(Failure { error, refused });
            }
        };
        self.pool.responded(&lease);
        lease.finish().await;
        Ok(response)
    }

    fn turn(&self, wait: Duration) -> Duration {
        let room = self.pool.room();
        turn_wait(wait, room.blocking(), room.slots())
    }
}

/// Builds the request. The token goes into its header only, never into the target, which may be
/// logged.
fn request(lease: &Lease<'_>, outgoing: Outgoing<'_>) -> Result<Request<Full<Bytes>>, ConsulError> {
    let settings = lease.settings();
    let (scheme, authority) = lease.agent().authority();
    let joint = if outgoing.path.contains('?') {
        '&'
    } else {
        '?'
    };
    let target = format!(
        "{}{}{joint}{}{}",
        lease.agent().prefix,
        outgoing.path,
        outgoing.query,
        settings.scope
    );
    let target = if lease.is_multiplexed() {
        format!("{scheme}://{authority}{target}")
    } else {
        target
    };
    let mut request = Request::builder().method(outgoing.method).uri(target);
    if !lease.is_multiplexed() {
        request = request.header(HOST, authority);
    }
    if let Some(auth) = &settings.auth {
        request = request.header(AUTHORIZATION, auth.clone());
    }
    if let Some(token) = &settings.token {
        request = request.header("x-consul-token", token.clone());
    }
    request
        .body(Full::new(outgoing.body))
        .map_err(|error| ConsulError::Value {
            key: "address",
            value: lease.agent().name.clone(),
            reason: error.to_string(),
        })
}

/// Sends, and reads the whole response. `may_lack`: that nothing is there is a good response, too.
async fn exchange(
    lease: &mut Lease<'_>,
    name: &str,
    may_lack: bool,
    request: Request<Full<Bytes>>,
) -> Result<ConsulResponse, ConsulError> {
    let sent = Instant::now();
    let response = match lease.send(request).await {
        Ok(response) => response,
        Err(error) => return Err(lost(lease, chain(&error), alert(&error)).await),
    };
    let held = sent.elapsed();
    let (parts, body) = response.into_parts();
    let body = match Limited::new(body, BODY_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            let (reason, alert) = (chain(&*error), alert(&*error));
            drop(error);
            return Err(lost(lease, reason, alert).await);
        }
    };
    let index = number(&parts.headers, "x-consul-index");
    let body = match parts.status {
        StatusCode::OK => body,
        // Consul's response where there are no keys. A 404 of another server has no index.
        StatusCode::NOT_FOUND if may_lack && index.is_some() => Bytes::from_static(b"[]"),
        status => return Err(refused(lease, name, status, &parts.headers, &body)),
    };
    Ok(ConsulResponse {
        index,
        known_leader: text(&parts.headers, "x-consul-knownleader")
            .and_then(|text| text.parse().ok()),
        last_contact: number(&parts.headers, "x-consul-lastcontact").map(Duration::from_millis),
        filtered: text(&parts.headers, "x-consul-results-filtered-by-acls") == Some("true"),
        early: false,
        held,
        body,
    })
}

/// The connection broke: its own end says more than the request's, yet is noted a moment later by
/// its task.
async fn lost(lease: &Lease<'_>, reason: String, alert: Option<AlertDescription>) -> ConsulError {
    tokio::task::yield_now().await;
    let agent = lease.agent().name.clone();
    match lease.close_reason() {
        Some(close_reason) => ConsulError::Transport {
            agent,
            reason: chain(&*close_reason),
            alert: self::alert(&*close_reason),
        },
        None => ConsulError::Transport {
            agent,
            reason,
            alert,
        },
    }
}

fn refused(
    lease: &Lease<'_>,
    name: &str,
    status: StatusCode,
    headers: &HeaderMap,
    body: &Bytes,
) -> ConsulError {
    let text_lossy = String::from_utf8_lossy(body);
    let text: String = text_lossy
        .trim()
        .chars()
        .take(ERROR_TEXT_MAX)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let wait = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(retry_after);
    ConsulError::Status {
        agent: lease.agent().name.clone(),
        request: name.to_owned(),
        code: status.as_u16(),
        text,
        retry_after: wait,
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &'static str) -> Option<&'a str> {
    headers.get(HeaderName::from_static(name))?.to_str().ok()
}

fn number(headers: &HeaderMap, name: &'static str) -> Option<u64> {
    text(headers, name)?.trim().parse().ok()
}
