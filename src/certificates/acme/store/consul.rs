//! Keys of Consul's KV store. The lock is a session with a TTL; each write is one transaction that
//! looks at the lock first.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::place::{Place, Shelf, Texts, Write, failed, host_of, part_of};
use crate::certificates::acme::failure::{Failure, Kind};
use crate::config::ConsulConfig;
use crate::sources::blocking::{Next, Position, TokenBucket, jittered_wait};
use crate::sources::consul::ConsulError;
use crate::sources::consul::client::{Block, Client, Mode};
use crate::sources::consul::keys;

/// Consul ends a session between one and two of these after its last renewal.
const TTL: Duration = Duration::from_secs(10);
/// How long nothing can take the lock after its session was lost: what its holder still sends out
/// then has arrived.
const LOCK_DELAY: &str = "15s";
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// Limit for what a lock hangs on.
const LIMIT: Duration = Duration::from_secs(5);
/// Reads of one watch: a burst, and a rate (1/s).
const BUCKET: (u32, f64) = (20, 5.0);

pub(in super::super) struct Kv {
    config: ConsulConfig,
    path: String,
    client: RefCell<Option<Rc<Client>>>,
}

/// The lock.
pub(in super::super) struct Held {
    client: Rc<Client>,
    path: String,
    session: String,
    /// When the last renewal that succeeded was sent.
    renewed: Cell<Instant>,
    given_back: Cell<bool>,
}

/// Where a watch is.
#[derive(Debug)]
pub(in super::super) struct WatchPosition {
    position: Position,
    bucket: TokenBucket,
    pause: Duration,
}

impl Default for WatchPosition {
    fn default() -> Self {
        Self {
            position: Position::default(),
            bucket: TokenBucket::new(BUCKET.0, BUCKET.1, Instant::now()),
            pause: Duration::ZERO,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LockKey {
    session: Option<String>,
}

impl Kv {
    pub(super) fn new(config: ConsulConfig, path: String) -> Self {
        Self {
            config,
            path,
            client: RefCell::default(),
        }
    }

    fn client(&self) -> Result<Rc<Client>, Failure> {
        if let Some(client) = &*self.client.borrow() {
            return Ok(Rc::clone(client));
        }
        let made = Rc::new(Client::new(&self.config).map_err(|error| away(&error))?);
        *self.client.borrow_mut() = Some(Rc::clone(&made));
        Ok(made)
    }

    fn note(&self, error: &ConsulError) -> Failure {
        if matches!(error.kind(), "token" | "tls" | "config") {
            // A file may hold another token or certificate by now.
            *self.client.borrow_mut() = None;
        }
        away(error)
    }

    fn shelf(&self, shelf: Shelf) -> String {
        format!("{}/{}/", self.path, shelf.as_str())
    }

    pub(super) async fn next(
        &self,
        shelf: Shelf,
        at: &mut WatchPosition,
    ) -> Result<Texts, Failure> {
        sleep(at.pause + at.bucket.take(Instant::now())).await;
        at.pause = Duration::ZERO;
        let prefix = self.shelf(shelf);
        let block = at.position.index().map(|index| Block {
            index,
            wait: jittered_wait(self.config.wait, fastrand::f64()),
        });
        let client = self.client()?;
        let path = keys::path(&prefix);
        match Box::pin(client.get(&path, Mode::Default, block)).await {
            Ok(response) => {
                let texts = decode(&response.body, &prefix)?;
                at.pause = match at.position.advance(response.index, response.early) {
                    Next::Now => Duration::ZERO,
                    Next::Stuck => Duration::from_millis(500),
                    Next::After(pause) => pause,
                };
                Ok(texts)
            }
            Err(error) => {
                at.position.forget();
                Err(self.note(&error))
            }
        }
    }

    pub(super) async fn list(&self, shelf: Shelf) -> Result<Texts, Failure> {
        let prefix = self.shelf(shelf);
        decode(&self.get(&keys::path(&prefix)).await?, &prefix)
    }

    pub(super) async fn read(&self, place: Place<'_>) -> Result<Option<Bytes>, Failure> {
        let key = key_of(&self.path, place);
        let body = self.get(&keys::of(&key)).await?;
        let found = keys::values(&body).map_err(|error| failed(format!("{key}: {error}")))?;
        match found.into_iter().next() {
            None => Ok(None),
            Some((_, value)) => value
                .map(|value| Some(Bytes::from(value)))
                .map_err(|error| failed(format!("{key}: {error}"))),
        }
    }

    async fn get(&self, path: &str) -> Result<Bytes, Failure> {
        let response = within(self.client()?.get(path, Mode::Consistent, None)).await;
        match response {
            Ok(response) => Ok(response.body),
            Err(Some(error)) => Err(self.note(&error)),
            Err(None) => Err(late()),
        }
    }

    /// Tries once. None: another lb has it, or had it a moment ago.
    pub(super) async fn lock(&self) -> Result<Option<Held>, Failure> {
        let key = format!("{}/lock", self.path);
        if session_of(&self.get(&keys::of(&key)).await?).is_some() {
            return Ok(None);
        }
        let client = self.client()?;
        let sent = Instant::now();
        let session = json!({
            "Name": "lb: certificates by ACME",
            "TTL": format!("{}s", TTL.as_secs()),
            "LockDelay": LOCK_DELAY,
            "Behavior": "release",
            // Its end is that of its TTL, and does not hang on what is checked of the node.
            "NodeChecks": [],
            "Checks": [],
        });
        let made = put(&client, "/v1/session/create", "", session.to_string()).await;
        let made = made.map_err(|error| self.noted(error))?;
        let session = serde_json::from_slice::<Value>(&made)
            .ok()
            .and_then(|made| Some(made.get("ID")?.as_str()?.to_owned()))
            .ok_or_else(|| failed("Consul made no session"))?;
        let held = Held {
            client: Rc::clone(&client),
            path: self.path.clone(),
            session,
            renewed: Cell::new(sent),
            given_back: Cell::new(false),
        };
        let query = format!("acquire={}", held.session);
        let machine = rustix::system::uname();
        let machine = machine.nodename().to_string_lossy().into_owned();
        let taken = put(&client, &keys::of(&key), &query, machine).await;
        match taken.map_err(|error| self.noted(error))?.trim_ascii() {
            b"true" => Ok(Some(held)),
            _ => {
                held.release().await;
                Ok(None)
            }
        }
    }

    fn noted(&self, error: Option<ConsulError>) -> Failure {
        error.map_or_else(late, |error| self.note(&error))
    }
}

impl Held {
    pub(super) async fn lost(&self) -> Failure {
        loop {
            sleep(RENEW_EVERY).await;
            if let Err(lost) = self.renew().await {
                return lost;
            }
        }
    }

    /// An error: the lock is lost, or nothing is known of it for too long.
    async fn renew(&self) -> Result<(), Failure> {
        let sent = Instant::now();
        let path = format!("/v1/session/renew/{}", self.session);
        match put(&self.client, &path, "", String::new()).await {
            Ok(_) => {}
            Err(Some(ConsulError::Status { code: 404, .. })) => {
                return Err(lost("its session has ended"));
            }
            Err(_) => return self.check(),
        }
        // The session lives; that it has the lock is another matter.
        let path = keys::of(&format!("{}/lock", self.path));
        let read = within(self.client.get(&path, Mode::Default, None)).await;
        match read {
            Ok(response) if session_of(&response.body).as_deref() != Some(&self.session) => {
                Err(lost("another lb has it"))
            }
            Ok(_) => {
                self.renewed.set(sent);
                Ok(())
            }
            Err(_) => self.check(),
        }
    }

    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.renewed.get().elapsed() < TTL {
            Ok(())
        } else {
            Err(lost("Consul did not confirm it in time"))
        }
    }

    pub(super) async fn write(&self, writes: &[Write<'_>]) -> Result<(), Failure> {
        self.check()?;
        let mut operations = vec![json!({ "KV": {
            "Verb": "check-session",
            "Key": format!("{}/lock", self.path),
            "Session": self.session,
        } })];
        for write in writes {
            let key = key_of(&self.path, write.place);
            operations.push(match &write.text {
                Some(text) => json!({ "KV": {
                    "Verb": "set", "Key": key, "Value": BASE64_STANDARD.encode(text),
                } }),
                None => json!({ "KV": { "Verb": "delete", "Key": key } }),
            });
        }
        let body = Value::Array(operations).to_string();
        match put(&self.client, "/v1/txn", "", body).await {
            Ok(_) => Ok(()),
            Err(Some(ConsulError::Status { code: 409, .. })) => Err(lost("another lb has it")),
            Err(Some(error)) => Err(away(&error)),
            Err(None) => Err(late()),
        }
    }

    pub(super) async fn release(self) {
        self.given_back.set(true);
        give_back(&self.client, &self.path, &self.session).await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.given_back.get() {
            return;
        }
        let Ok(_runtime) = Handle::try_current() else {
            return;
        };
        let client = Rc::clone(&self.client);
        let (path, session) = (self.path.clone(), self.session.clone());
        tokio::task::spawn_local(async move { give_back(&client, &path, &session).await });
    }
}

/// A lock that is given back can be taken at once; one whose session just ends cannot for a while.
async fn give_back(client: &Client, path: &str, session: &str) {
    let key = keys::of(&format!("{path}/lock"));
    put(client, &key, &format!("release={session}"), String::new())
        .await
        .ok();
    put(
        client,
        &format!("/v1/session/destroy/{session}"),
        "",
        String::new(),
    )
    .await
    .ok();
}

/// None: it took too long.
async fn within<T>(
    request: impl Future<Output = Result<T, ConsulError>>,
) -> Result<T, Option<ConsulError>> {
    match timeout(LIMIT, Box::pin(request)).await {
        Ok(response) => response.map_err(Some),
        Err(_elapsed) => Err(None),
    }
}

async fn put(
    client: &Client,
    path: &str,
    query: &str,
    body: String,
) -> Result<Bytes, Option<ConsulError>> {
    let response = within(client.put(path, query, Bytes::from(body))).await?;
    Ok(response.body)
}

fn away(error: &ConsulError) -> Failure {
    failed(format!("consul: {error}"))
}

fn late() -> Failure {
    failed(format!("consul: no response within {} s", LIMIT.as_secs()))
}

fn lost(why: &str) -> Failure {
    Failure::new(Kind::Lock, format!("the lock is lost: {why}"))
}

fn session_of(body: &[u8]) -> Option<String> {
    let found: Vec<LockKey> = serde_json::from_slice(body).ok()?;
    found.into_iter().next()?.session
}

fn key_of(path: &str, place: Place<'_>) -> String {
    match place {
        Place::Account => format!("{path}/account"),
        Place::Of(shelf, host) => format!("{path}/{}/{}", shelf.as_str(), part_of(host)),
    }
}

/// A value that is not base64 is as good as one that makes no sense.
fn decode(body: &[u8], prefix: &str) -> Result<Texts, Failure> {
    let entries = keys::values(body).map_err(|error| failed(format!("{prefix}: {error}")))?;
    let text = |(key, value): keys::KeyValue| {
        let part = key.strip_prefix(prefix)?;
        (!part.is_empty() && !part.contains('/'))
            .then(|| (host_of(part), Bytes::from(value.unwrap_or_default())))
    };
    Ok(entries.into_iter().filter_map(text).collect())
}
