//! What the holder of the lock does: orders what is due, a few at a time, and queries the CA when it
//! wants certificates to be renewed. Dropped with the lock, it ends whatever it has begun.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use instant_acme::{Account, CertificateIdentifier, Error};

use super::account;
use super::failure::{Failure, Kind};
use super::order::{self, Desk};
use super::record::{FailureRecord, OrderRecord};
use super::schedule::{self, Tries};
use super::shared::Shared;
use super::store::{Lock, Place, Shelf, Write};
use super::view::Standing;
use crate::system::unix_now;

/// Orders at a time.
const ORDERS_MAX: usize = 6;
/// Looks at renewal information at a time.
const LOOKS_MAX: usize = 2;
/// Longest time between two looks at what is due.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Between two looks at the renewal information of a certificate, where the CA does not say.
const RENEWAL_LOOK: i64 = 6 * 3600;
/// The same where it fails, or the CA has none.
const RENEWAL_LOOK_FAILED: i64 = 3600;

/// What the CA said about the renewal of a certificate.
#[derive(Clone, Debug)]
struct Suggestion {
    /// Of which certificate.
    id: String,
    at: Option<i64>,
    look_at: i64,
}

enum Done {
    Order(String, Result<String, Failure>),
    Renewal(String, String, Result<(i64, i64, i64), Failure>),
}

/// The holder of the lock.
pub(super) struct Owner<'a> {
    shared: &'a Shared,
    lock: &'a Lock,
    account: RefCell<Option<Account>>,
    /// Of the account.
    trouble: Option<Tries>,
    /// Names with an order under way.
    active: BTreeSet<String>,
    looking: BTreeSet<String>,
    tries: BTreeMap<String, Tries>,
    suggestions: BTreeMap<String, Suggestion>,
    jitter: BTreeMap<String, f64>,
    random: fastrand::Rng,
}

impl<'a> Owner<'a> {
    pub(super) fn new(shared: &'a Shared, lock: &'a Lock) -> Self {
        Self {
            shared,
            lock,
            account: RefCell::default(),
            trouble: None,
            active: BTreeSet::new(),
            looking: BTreeSet::new(),
            tries: BTreeMap::new(),
            suggestions: BTreeMap::new(),
            jitter: BTreeMap::new(),
            random: fastrand::Rng::new(),
        }
    }

    /// Until it is dropped.
    pub(super) async fn run(&mut self) {
        let shared = self.shared;
        let lock = self.lock;
        let note = |host: &str, record: &OrderRecord| shared.note_order(host, record);
        let desk = Desk {
            config: &shared.config,
            seal: &shared.seal,
            store: &shared.store,
            lock,
            note: &note,
        };
        let mut running: FuturesUnordered<LocalBoxFuture<'_, Done>> = FuturesUnordered::new();
        loop {
            let now = unix_now();
            let due = self.due(now);
            if let Some(account) = Box::pin(self.account(!due.is_empty(), now)).await {
                for (host, replaces) in due {
                    self.active.insert(host.clone());
                    let (desk, account) = (&desk, account.clone());
                    running.push(Box::pin(async move {
                        let result = checked_order(shared, desk, &account, &host, replaces).await;
                        Done::Order(host, result)
                    }));
                }
                for (host, id) in self.renewals(now) {
                    self.looking.insert(host.clone());
                    let account = account.clone();
                    running.push(Box::pin(async move {
                        let result = look(&account, &id).await;
                        Done::Renewal(host, id, result)
                    }));
                }
            }
            tokio::select! {
                Some(done) = running.next() => match done {
                    Done::Order(host, result) => self.ordered(host, result).await,
                    Done::Renewal(host, id, result) => self.looked(host, id, result),
                },
                () = shared.changed.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// The account; made or read when it is needed for the first time.
    async fn account(&mut self, is_needed: bool, now: i64) -> Option<Account> {
        if let Some(account) = &*self.account.borrow() {
            return Some(account.clone());
        }
        let must_wait = self.trouble.is_some_and(|tries| tries.retry_at > now);
        if must_wait || !(is_needed || self.has_certificates()) {
            return None;
        }
        let shared = self.shared;
        let opened = account::open(&shared.config, &shared.seal, &shared.store, self.lock);
        match Box::pin(opened).await {
            Ok(account) => {
                self.trouble = None;
                shared.account_trouble(None);
                *self.account.borrow_mut() = Some(account.clone());
                Some(account)
            }
            Err(failure) => {
                let random = self.random.f64();
                let next = schedule::after_failure(
                    self.trouble,
                    failure.kind,
                    failure.retry_at,
                    unix_now(),
                    random,
                );
                self.trouble = Some(next);
                shared.account_trouble(Some((&failure, next.retry_at)));
                None
            }
        }
    }

    fn has_certificates(&self) -> bool {
        let (wanted, view) = (self.shared.wanted(), self.shared.view.borrow());
        wanted
            .iter()
            .any(|host| matches!(view.standing(host), Standing::Good(_)))
    }

    /// Names to order for now, with what the CA calls the certificate that each one replaces.
    fn due(&mut self, now: i64) -> Vec<(String, Option<String>)> {
        let wanted = self.shared.wanted();
        let view = self.shared.view.borrow();
        if !view.is_complete {
            return Vec::new();
        }
        let room = ORDERS_MAX.saturating_sub(self.active.len());
        let mut due = Vec::new();
        for host in wanted.iter().filter(|host| !self.active.contains(*host)) {
            if due.len() >= room {
                break;
            }
            let kept = view.orders.get(host);
            let kept = kept.and_then(|order| order.failure.as_ref());
            let own = self.tries.get(host).map(|tries| tries.retry_at);
            let wait_until = own.max(kept.map(|failure| failure.retry_at));
            if wait_until.is_some_and(|at| at > now) {
                continue;
            }
            let replaces = match view.standing(host) {
                Standing::Missing => None,
                Standing::Locked(_) => continue,
                Standing::Good(stored) => {
                    let jitter = self
                        .jitter
                        .entry(host.clone())
                        .or_insert_with(|| self.random.f64());
                    let suggestion = self.suggestions.get(host);
                    let suggested = suggestion
                        .filter(|it| Some(&it.id) == stored.id.as_ref())
                        .and_then(|it| it.at);
                    if self.shared.renew_at(stored, suggested, *jitter) > now {
                        continue;
                    }
                    // Where it was refused once it is left out: the CA may not want it.
                    let has_renewals = suggestion.is_some_and(|it| it.at.is_some());
                    stored
                        .id
                        .clone()
                        .filter(|_| has_renewals && !self.tries.contains_key(host))
                }
            };
            due.push((host.clone(), replaces));
        }
        due
    }

    /// Certificates whose renewal information is to be looked at.
    fn renewals(&self, now: i64) -> Vec<(String, String)> {
        let wanted = self.shared.wanted();
        let view = self.shared.view.borrow();
        let room = LOOKS_MAX.saturating_sub(self.looking.len());
        let due = |host: &&String| {
            let Standing::Good(stored) = view.standing(host) else {
                return None;
            };
            let id = stored.id.clone()?;
            let known = self.suggestions.get(*host).filter(|it| it.id == id);
            let is_due = known.is_none_or(|it| it.look_at <= now);
            (is_due && !self.looking.contains(*host)).then(|| ((*host).clone(), id))
        };
        wanted
            .iter()
            .filter_map(|host| due(&host))
            .take(room)
            .collect()
    }

    fn looked(&mut self, host: String, id: String, result: Result<(i64, i64, i64), Failure>) {
        self.looking.remove(&host);
        let now = unix_now();
        let before = self.suggestions.get(&host).filter(|it| it.id == id);
        let suggestion = match result {
            Ok((start, end, look_at)) => Suggestion {
                id,
                at: Some(schedule::within(start, end, self.random.f64())),
                look_at: look_at.max(now + 1),
            },
            Err(failure) => {
                tracing::debug!(host, %failure, "no renewal information");
                Suggestion {
                    at: before.and_then(|it| it.at),
                    id,
                    look_at: failure.retry_at.unwrap_or(0).max(now + RENEWAL_LOOK_FAILED),
                }
            }
        };
        self.suggestions.insert(host, suggestion);
    }

    async fn ordered(&mut self, host: String, result: Result<String, Failure>) {
        self.active.remove(&host);
        let failure = match result {
            Ok(text) => {
                self.tries.remove(&host);
                self.jitter.remove(&host);
                return self.shared.take_issued(&host, text);
            }
            Err(failure) => failure,
        };
        let kept = self.shared.view.borrow().orders.get(&host).cloned();
        let kept = kept.and_then(|order| order.failure).map(|it| it.tries());
        let before = self.tries.get(&host).copied().or(kept);
        let random = self.random.f64();
        let next =
            schedule::after_failure(before, failure.kind, failure.retry_at, unix_now(), random);
        self.tries.insert(host.clone(), next);
        self.shared.take_failure(&host, &failure, next.retry_at);
        if failure.kind == Kind::Account {
            *self.account.borrow_mut() = None;
            if let Err(error) = account::forget(self.lock).await {
                tracing::warn!(%error, "the account that the CA does not know could not be removed");
            }
        }
        if failure.kind.ends_the_order() {
            let record = OrderRecord {
                failure: Some(FailureRecord {
                    kind: failure.kind,
                    reason: failure.reason,
                    count: next.count,
                    retry_at: next.retry_at,
                }),
                ..OrderRecord::default()
            };
            let place = Place::Of(Shelf::Orders, &host);
            let kept = self.lock.write(&[Write::put(place, record.text())]).await;
            match kept {
                Ok(()) => self.shared.note_order(&host, &record),
                Err(error) => tracing::warn!(host, %error, "the failure could not be kept"),
            }
        }
    }
}

/// Orders, unless the store has by now what makes it needless: what this lb has heard of the store
/// may be old.
async fn checked_order(
    shared: &Shared,
    desk: &Desk<'_>,
    account: &Account,
    host: &str,
    replaces: Option<String>,
) -> Result<String, Failure> {
    let place = Place::Of(Shelf::Certificates, host);
    if let Some(text) = shared.store.read(place).await? {
        shared.take_stored(host, text.clone());
        let view = shared.view.borrow();
        match view.standing(host) {
            Standing::Locked(reason) => {
                let reason = format!("its certificate in the store {reason}");
                return Err(Failure::new(Kind::Passphrase, reason));
            }
            // The CA's wish gives no reason to doubt a certificate that has just come.
            Standing::Good(stored) if replaces.is_none() && shared.is_fresh(stored) => {
                return Ok(String::from_utf8_lossy(&text).into_owned());
            }
            _ => {}
        }
    }
    Box::pin(order::run(desk, account, host, replaces)).await
}

/// When the CA wants this certificate renewed, from and to; and when to look again.
async fn look(account: &Account, id: &str) -> Result<(i64, i64, i64), Failure> {
    let (authority, serial) = id.split_once('.').unwrap_or((id, ""));
    let id = CertificateIdentifier {
        authority_key_identifier: authority.into(),
        serial: serial.into(),
    };
    match account.renewal_info(&id).await {
        Ok((info, after)) => {
            let window = info.suggested_window;
            let after = i64::try_from(after.as_secs()).unwrap_or(RENEWAL_LOOK);
            Ok((
                window.start.unix_timestamp(),
                window.end.unix_timestamp(),
                unix_now().saturating_add(after.clamp(1, 7 * 86_400)),
            ))
        }
        Err(Error::Unsupported(_)) => Err(Failure {
            retry_at: Some(unix_now() + RENEWAL_LOOK),
            ..Failure::new(Kind::Server, "the CA has no renewal information")
        }),
        Err(error) => Err(error.into()),
    }
}
