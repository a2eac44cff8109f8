//! Signed tokens (RFC 7519) in `Authorization: Bearer`: a request with one that a known key signed,
//! and that claims what is required, may pass.
//!
//! ```text
//! token ─► verified before? ─► header ─► key ─► signature ─► claims ─► fields for the instance
//!             │ yes: passes                │ unknown: fetched anew, at most every 10 s
//! ```
//! Keys come from a URL or a file. What is known of them goes on being used while that is away.
//! They are fetched by a task of their own: no request is what a fetch hangs on, and one that ends
//! early ends none.

mod cache;
mod known;
mod turns;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use http::header::{CACHE_CONTROL, HeaderMap, HeaderValue};
use http::{StatusCode, Uri};
use tokio::sync::watch;

use self::cache::Verdict;
use self::known::{Demands, Known, bearer};
use self::turns::{Turn, Turns, Wish, max_age};
use crate::config::{JwtAuth, JwtKeys};
use crate::http_client::{self, Client, Limits, Request};
use crate::jwt::{Fault, KeySet, Rules};
use crate::proxy::auth::admission::Admission;
use crate::proxy::auth::error::AuthError;
use crate::proxy::tls::UpstreamTls;
use crate::proxy::tls::upstream::Inside;

/// Largest set of keys, in bytes.
const KEYS_BYTES_MAX: usize = 1 << 20;
/// Most requests that wait for keys at once.
const WAITING_MAX: usize = 1024;

/// A scheme of `[auth.NAME]` that takes tokens.
#[derive(Debug)]
pub(super) struct Jwt {
    name: String,
    config: JwtAuth,
    demands: Demands,
    known: ArcSwap<Known>,
    source: Source,
    report: Mutex<KeysReport>,
    waiting: AtomicUsize,
}

/// How its keys are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeysReport {
    /// When they were read the last time; seconds since 1970.
    pub read_at_s: Option<u64>,
    /// How often they could not be.
    pub errors: u64,
    told: Option<String>,
}

#[derive(Debug)]
enum Source {
    /// Looked at every second or so: its time stamp and length.
    File(Mutex<Option<(SystemTime, u64)>>),
    Url(Box<Provider>),
}

#[derive(Debug)]
struct Provider {
    url: Uri,
    client: Client,
    turns: Mutex<Turns>,
    /// Changes at the end of each request.
    ended: watch::Sender<u64>,
}

impl Jwt {
    /// Reads a file of keys; keys of a URL are fetched when [`Self::fetch_due`] is called, or a
    /// request wants them. `starts`: the process starts, and a file that cannot be read lets no
    /// request in until it can.
    ///
    /// # Errors
    /// Unless `starts`: the file cannot be read or holds no keys.
    pub(super) fn new(
        name: &str,
        config: &JwtAuth,
        tls: &UpstreamTls,
        starts: bool,
    ) -> Result<Self, AuthError> {
        let source = match &config.keys {
            JwtKeys::File(_) => Source::File(Mutex::new(None)),
            JwtKeys::Url { url, ca_file } => {
                let provider = Provider::new(name, url.reveal(), ca_file.as_deref(), tls, starts)?;
                Source::Url(Box::new(provider))
            }
        };
        let algorithms = config.algorithms.iter();
        let jwt = Self {
            name: name.to_owned(),
            demands: Demands {
                rules: Rules {
                    issuer: config.issuer.clone(),
                    audiences: config.audiences.clone(),
                    required: config.require.clone(),
                    exp_required: config.exp_required,
                },
                algorithms: algorithms
                    .filter_map(|algorithm| algorithm.as_str().parse().ok())
                    .collect(),
                claims_to_headers: config.claims_to_headers.clone(),
                forward_token: config.forward_token,
            },
            config: config.clone(),
            known: ArcSwap::default(),
            source,
            report: Mutex::default(),
            waiting: AtomicUsize::new(0),
        };
        match (jwt.read_file(true), &config.keys) {
            (Err(problem), JwtKeys::File(path)) if !starts => Err(AuthError::Keys {
                name: name.to_owned(),
                path: path.clone(),
                problem,
            }),
            _ => Ok(jwt),
        }
    }

    /// Whether it was made from these settings.
    pub(super) fn is_of(&self, config: &JwtAuth) -> bool {
        self.config == *config
    }

    /// Whether there is a file to look at.
    pub(super) fn has_file(&self) -> bool {
        matches!(self.source, Source::File(_))
    }

    /// How its keys are.
    pub(super) fn report(&self) -> KeysReport {
        let report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.clone()
    }

    /// Reads its file again if it changed, or `always`. Blocks as long as the file does.
    ///
    /// # Errors
    /// It cannot be read or holds no keys; what is known stays.
    pub(super) fn read_file(&self, always: bool) -> Result<(), String> {
        let (Source::File(looked), JwtKeys::File(path)) = (&self.source, &self.config.keys) else {
            return Ok(());
        };
        let mut looked = looked.lock().unwrap_or_else(PoisonError::into_inner);
        let look = std::fs::metadata(path)
            .and_then(|metadata| Ok((metadata.modified()?, metadata.len())))
            .ok();
        if !always && look.is_some() && look == *looked {
            return Ok(());
        }
        let read = read_bounded(path).and_then(|text| self.take_over(text));
        // One that could not be read is read again at the next look.
        *looked = look.filter(|_| read.is_ok());
        if let Err(problem) = &read {
            self.note_failure(problem);
        }
        read
    }

    /// Begins to fetch keys of a URL whose time has come. Must be called within a runtime.
    pub(super) fn fetch_due(self: &Arc<Self>, now: Instant) {
        if let Source::Url(provider) = &self.source
            && provider.turn(Wish::Due, now) == Turn::Start
        {
            self.fetch();
        }
    }

    /// Decides whether a request with these fields may pass. Cancel safe.
    pub(super) async fn admit(self: &Arc<Self>, headers: &HeaderMap) -> Admission {
        let Some(token) = bearer(headers) else {
            return Admission::Refused(self.challenge(None));
        };
        let mut known = self.known.load_full();
        let mut waited = false;
        loop {
            let verdict = match known.keys.is_empty() {
                true => None,
                false => Some(known.judge(token, &self.demands, now_s())),
            };
            let wish = match verdict {
                None => Wish::Missing,
                Some(Err(Fault::UnknownKey)) => Wish::Unknown,
                Some(verdict) => return self.admission(verdict),
            };
            if waited {
                return match verdict {
                    None => Admission::KeysMissing,
                    Some(verdict) => self.admission(verdict),
                };
            }
            waited = true;
            // Subscribed to before the look: what ends in between is not missed.
            if self.wait_for_keys(wish, &known).await.is_err() {
                return Admission::Busy;
            }
            known = self.known.load_full();
        }
    }

    fn admission(&self, verdict: Result<Verdict, Fault>) -> Admission {
        match verdict {
            Ok(Verdict::Passes(granted)) => Admission::Granted(granted),
            Ok(Verdict::Insufficient) => {
                Admission::Forbidden(self.challenge(Some(Fault::Insufficient)))
            }
            Err(fault) => Admission::Refused(self.challenge(Some(fault))),
        }
    }

    /// The value of `WWW-Authenticate` (RFC 6750 section 3). A request without a token is told no
    /// error.
    fn challenge(&self, fault: Option<Fault>) -> HeaderValue {
        let quotable = |c: &char| c.is_ascii_graphic() && !matches!(c, '"' | '\\');
        let realm: String = self.name.chars().filter(quotable).collect();
        let text = match fault {
            None => format!("Bearer realm=\"{realm}\""),
            Some(fault) => {
                let error = match fault {
                    Fault::Insufficient => "insufficient_scope",
                    _ => "invalid_token",
                };
                format!(
                    "Bearer realm=\"{realm}\", error=\"{error}\", error_description=\"{fault}\""
                )
            }
        };
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("Bearer"))
    }

    /// Waits until the keys were fetched anew, if they are going to be. An error: too many wait.
    async fn wait_for_keys(self: &Arc<Self>, wish: Wish, known: &Arc<Known>) -> Result<(), ()> {
        let Source::Url(provider) = &self.source else {
            return Ok(());
        };
        let mut ended = provider.ended.subscribe();
        if !Arc::ptr_eq(known, &self.known.load()) {
            return Ok(());
        }
        match provider.turn(wish, Instant::now()) {
            Turn::Start => self.fetch(),
            Turn::Join => {}
            Turn::Refuse => return Ok(()),
        }
        let Some(_place) = Place::take(&self.waiting) else {
            return Err(());
        };
        // The request has a limit of its own, this one is for a runtime that ended under it.
        let limit = self.config.timeout + Duration::from_secs(1);
        let _ = tokio::time::timeout(limit, ended.changed()).await;
        Ok(())
    }

    /// Fetches the keys, in a task of its own.
    fn fetch(self: &Arc<Self>) {
        let ending = Ending(Some(Arc::clone(self)));
        let jwt = Arc::clone(self);
        tokio::spawn(async move {
            let mut ending = ending;
            let fetched = jwt.fetch_once().await;
            ending.end(fetched);
        });
    }

    async fn fetch_once(&self) -> Result<Option<Duration>, String> {
        let Source::Url(provider) = &self.source else {
            return Ok(None);
        };
        let limits = Limits {
            time: self.config.timeout,
            bytes: KEYS_BYTES_MAX,
        };
        let request = Request::get(provider.url.clone());
        let response = provider.client.send(request, limits).await;
        let response = response.map_err(|error| error.to_string())?;
        if response.status() != StatusCode::OK {
            return Err(format!("its response has status {}", response.status()));
        }
        let age = http_client::header(response.headers(), CACHE_CONTROL).and_then(max_age);
        self.take_over(response.into_body().to_vec())?;
        Ok(age)
    }

    /// Uses these keys from now on. The same ones as before keep what was verified with them.
    fn take_over(&self, text: Vec<u8>) -> Result<(), String> {
        let symmetric = self.has_file();
        let symmetric = symmetric && self.config.algorithms.iter().any(|it| it.is_symmetric());
        let keys = KeySet::parse(&text, symmetric).map_err(|error| error.to_string())?;
        let known = self.known.load();
        if known.text != text {
            let (count, left_out) = (keys.len(), keys.left_out);
            tracing::info!(
                scheme = self.name,
                keys = count,
                left_out,
                "keys of tokens taken over"
            );
            self.known.store(Arc::new(Known::new(keys, text)));
        }
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.read_at_s = u64::try_from(now_s()).ok();
        if report.told.take().is_some() {
            tracing::info!(scheme = self.name, "keys of tokens can be read again");
        }
        Ok(())
    }

    /// Counts a failure; says it when it is another one than before.
    fn note_failure(&self, problem: &str) {
        let empty = self.known.load().keys.is_empty();
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.errors += 1;
        if report.told.as_deref() == Some(problem) {
            return;
        }
        report.told = Some(problem.to_owned());
        let scheme = &self.name;
        match empty {
            true => {
                tracing::error!(scheme, error = %problem, "there are no keys for tokens: requests get 503 until there are");
            }
            false => {
                tracing::warn!(scheme, error = %problem, "keys of tokens cannot be read; the known ones stay in use");
            }
        }
    }
}

impl Provider {
    fn new(
        name: &str,
        url: &str,
        ca_file: Option<&Path>,
        tls: &UpstreamTls,
        starts: bool,
    ) -> Result<Self, AuthError> {
        let url = url.parse().map_err(|_| AuthError::Endpoint {
            name: name.to_owned(),
        })?;
        let own = match ca_file.map(|path| UpstreamTls::new(Some(path))) {
            None => None,
            Some(Ok(own)) => Some(own),
            Some(Err(error)) if starts => {
                tracing::error!(scheme = name, %error, "the CAs of jwks_url cannot be read: no keys are fetched over TLS until a reload");
                UpstreamTls::trusting_none().ok()
            }
            Some(Err(error)) => {
                return Err(AuthError::Authorities {
                    name: name.to_owned(),
                    problem: error.to_string(),
                });
            }
        };
        let config = own.as_ref().unwrap_or(tls).config(false, Inside::Http1);
        let client = Client::new(config, None).map_err(|source| AuthError::Client {
            name: name.to_owned(),
            source,
        })?;
        Ok(Self {
            url,
            client,
            turns: Mutex::new(Turns::new(Instant::now())),
            ended: watch::Sender::new(0),
        })
    }

    fn turn(&self, wish: Wish, now: Instant) -> Turn {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.decide(wish, now)
    }
}

/// Ends a request for keys, also where its task is dropped.
struct Ending(Option<Arc<Jwt>>);

impl Ending {
    fn end(&mut self, fetched: Result<Option<Duration>, String>) {
        let Some(jwt) = self.0.take() else { return };
        if let Err(problem) = &fetched {
            jwt.note_failure(problem);
        }
        let Source::Url(provider) = &jwt.source else {
            return;
        };
        let now = Instant::now();
        let mut turns = provider
            .turns
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match fetched {
            Ok(age) => turns.succeed(age, now),
            Err(_) => turns.fail(now),
        }
        drop(turns);
        provider.ended.send_modify(|ended| *ended += 1);
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.end(Err("the request for them was given up".to_owned()));
    }
}

/// One of those that wait.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Relaxed) < WAITING_MAX).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let said = |error: std::io::Error| error.to_string();
    let length = std::fs::metadata(path).map_err(said)?.len();
    if length > KEYS_BYTES_MAX as u64 {
        return Err(format!("it is larger than {} MiB", KEYS_BYTES_MAX >> 20));
    }
    std::fs::read(path).map_err(said)
}

/// Seconds since 1970.
fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}
