//! Registration of `lb` itself: put where it is wanted, put back where it was lost, taken away when
//! it is no longer wanted.
//!
//! ```text
//! wanted ──► keeper ──► what is registered
//!              ├─ every LOOK_EVERY: is it still there, and still ours?
//!              └─ every REPORT_EVERY: we live
//! ```
//! Each process marks its registrations. A process that starts under the same id takes the
//! registration over by registering; the one before sees another's mark, and neither writes over it
//! nor removes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use percent_encoding::utf8_percent_encode;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use super::client::Mode;
use super::error::ConsulError;
use super::shared::Shared;
use super::wire::SEGMENT;
use crate::config::RegisterConfig;
use crate::sources::backoff::Backoff;
use crate::sources::registration::{self, AdvertisedAddress, Announcement};
use crate::system::vital;

/// How often a registration is looked at. The agent has it in memory.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often a registration is reported alive.
const REPORT_EVERY: Duration = Duration::from_secs(10);
/// After how long without a report the agent calls us critical (`TTL`), and then removes the
/// registration.
const REPORT_LIMIT: &str = "15s";
const REMOVED_AFTER: &str = "1m";
/// Bounds of the pause after a request that failed.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// Where the mark stands in a registration.
const MARK: &str = "lb-process";

/// A registration that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registration {
    id: String,
    name: String,
    /// What the agent is sent, but for the mark.
    body: serde_json::Value,
}

impl Registration {
    /// The service `name` at this place, with the checks of `config`.
    #[must_use]
    pub(crate) fn new(name: &str, config: &RegisterConfig, at: &AdvertisedAddress) -> Self {
        let id = format!("{name}-{}-{}", at.hostname, at.address.port());
        let millis = |time: Duration| format!("{}ms", time.as_millis());
        let body = json!({
            "ID": id,
            "Name": name,
            "Address": at.address.ip(),
            "Port": at.address.port(),
            "Tags": config.tags,
            "Checks": [
                {
                    "CheckID": report_check(&id),
                    "Name": "lb reports that it lives",
                    "TTL": REPORT_LIMIT,
                    "DeregisterCriticalServiceAfter": REMOVED_AFTER,
                },
                {
                    "CheckID": format!("{id}-health"),
                    "Name": "lb answers /health",
                    "HTTP": format!("{}://{}/health", at.scheme, at.address),
                    "Interval": millis(config.check_interval),
                    "Timeout": millis(config.check_timeout),
                    "TLSSkipVerify": config.check_skip_verify,
                },
            ],
        });
        Self {
            id,
            name: name.to_owned(),
            body,
        }
    }
}

fn report_check(id: &str) -> String {
    format!("{id}-ttl")
}

/// Keeps registrations. Ends when dropped, and leaves what is registered to its checks.
#[derive(Debug)]
pub(crate) struct Registrar {
    wanted: watch::Sender<Arc<[Registration]>>,
    held: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Registrar {
    /// Starts to keep nothing. Must be called inside a Tokio runtime.
    pub(super) fn start(shared: Arc<Shared>) -> Self {
        let (wanted, watched) = watch::channel(Arc::from([]));
        let (count, held) = watch::channel(0);
        let keeper = Keeper {
            shared,
            mark: uuid::Uuid::new_v4().to_string(),
            held: BTreeMap::new(),
            count,
            backoff: Backoff::new(PAUSE.0, PAUSE.1),
            failing: None,
        };
        Self {
            wanted,
            held,
            task: tokio::spawn(vital::task("the registration", keeper.run(watched))),
        }
    }

    /// These are wanted from now on, and no others.
    pub(crate) fn set(&self, wanted: Vec<Registration>) {
        self.wanted.send_if_modified(|present| {
            let differs = **present != *wanted;
            if differs {
                *present = wanted.into();
            }
            differs
        });
    }

    /// Removes all of them; returns after `limit` at the latest, and whether nothing is left.
    pub(crate) async fn withdraw(&self, limit: Duration) -> bool {
        self.set(Vec::new());
        let mut held = self.held.clone();
        let empty = held.wait_for(|count| *count == 0);
        matches!(tokio::time::timeout(limit, empty).await, Ok(Ok(_)))
    }
}

impl registration::Registrar for Registrar {
    fn set(&self, wanted: &[Announcement]) {
        let wanted = wanted.iter();
        let wanted = wanted.map(|one| Registration::new(&one.name, &one.config, &one.at));
        self.set(wanted.collect());
    }

    fn withdraw(&self, limit: Duration) -> LocalBoxFuture<'_, bool> {
        Box::pin(self.withdraw(limit))
    }
}

impl Drop for Registrar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Keeper {
    shared: Arc<Shared>,
    mark: String,
    /// What was registered, by id.
    held: BTreeMap<String, Held>,
    /// How many those are: nothing is promised to be gone before it is.
    count: watch::Sender<usize>,
    backoff: Backoff,
    /// Kind of the failure that was logged last.
    failing: Option<&'static str>,
}

struct Held {
    registration: Registration,
    /// When the agent last heard that we live.
    reported: Instant,
    /// Another process has registered under this id since.
    lost_to_another: bool,
}

/// What an agent says of a registration.
#[derive(Deserialize)]
struct Found {
    #[serde(rename = "Meta")]
    meta: Option<BTreeMap<String, String>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Owner {
    Nobody,
    Us,
    Another,
}

impl Keeper {
    async fn run(mut self, mut wanted: watch::Receiver<Arc<[Registration]>>) {
        let mut recovered = self.shared.client.recovered();
        loop {
            let now: Arc<[Registration]> = wanted.borrow_and_update().clone();
            let outcome = self.turn(&now).await;
            if !now.is_empty() {
                let held = |wanted: &Registration| {
                    self.held
                        .get(&wanted.id)
                        .is_some_and(|held| !held.lost_to_another)
                };
                self.shared.metrics().control().registered =
                    Some(outcome.is_ok() && now.iter().all(held));
            }
            let pause = match outcome {
                Ok(()) => self.well(),
                Err(error) => self.failed(&error),
            };
            let idle = self.held.is_empty() && now.is_empty();
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                // An agent that is back may have forgotten everything.
                _ = recovered.changed() => {}
                () = tokio::time::sleep(pause), if !idle => {}
            }
        }
    }

    /// Goes through all that is wanted and all that is held. One that fails does not keep the
    /// others from their turn.
    async fn turn(&mut self, wanted: &[Registration]) -> Result<(), ConsulError> {
        let mut outcome = Ok(());
        let unwanted = |id: &&String| !wanted.iter().any(|registration| registration.id == **id);
        let unwanted: Vec<String> = self.held.keys().filter(unwanted).cloned().collect();
        for id in unwanted {
            match self.remove(&id).await {
                Ok(()) => {
                    self.held.remove(&id);
                    self.count.send_replace(self.held.len());
                }
                Err(error) => outcome = Err(error),
            }
        }
        for registration in wanted {
            if let Err(error) = self.keep(registration).await {
                outcome = Err(error);
            }
        }
        outcome
    }

    async fn keep(&mut self, registration: &Registration) -> Result<(), ConsulError> {
        let id = &registration.id;
        // Only a process that starts takes a registration over; one that lost it must not take it
        // back.
        let standing = self
            .held
            .get(id)
            .filter(|held| held.lost_to_another || held.registration == *registration);
        let Some(held) = standing else {
            self.register(registration).await?;
            info!(name = registration.name, id, "registered in Consul");
            return Ok(());
        };
        let (since, was_lost) = (held.reported.elapsed(), held.lost_to_another);
        match self.owner(id).await? {
            Owner::Nobody => {
                self.register(registration).await?;
                info!(
                    name = registration.name,
                    id, "registered in Consul again: the agent had forgotten it"
                );
            }
            Owner::Another => {
                if !was_lost {
                    info!(
                        name = registration.name,
                        id, "another process took the registration over"
                    );
                }
                self.note(id, |held| held.lost_to_another = true);
            }
            Owner::Us => {
                self.note(id, |held| held.lost_to_another = false);
                if since >= REPORT_EVERY {
                    self.report(id).await?;
                }
            }
        }
        Ok(())
    }

    async fn register(&mut self, registration: &Registration) -> Result<(), ConsulError> {
        let mut body = registration.body.clone();
        body["Meta"] = json!({ MARK: self.mark });
        let body = Bytes::from(body.to_string());
        self.shared
            .client
            .put(
                "/v1/agent/service/register",
                "replace-existing-checks=true",
                body,
            )
            .await?;
        let held = Held {
            registration: registration.clone(),
            reported: Instant::now(),
            lost_to_another: false,
        };
        self.held.insert(registration.id.clone(), held);
        self.count.send_replace(self.held.len());
        // At once, so that the checks of the agent are all that is left to wait for.
        self.report(&registration.id).await
    }

    async fn report(&mut self, id: &str) -> Result<(), ConsulError> {
        let path = format!("/v1/agent/check/pass/{}", encoded(&report_check(id)));
        self.shared.client.put(&path, "", Bytes::new()).await?;
        self.note(id, |held| held.reported = Instant::now());
        Ok(())
    }

    async fn remove(&self, id: &str) -> Result<(), ConsulError> {
        match self.owner(id).await? {
            Owner::Nobody => debug!(id, "the registration in Consul is gone already"),
            Owner::Another => info!(
                id,
                "the registration in Consul is another process's and stays"
            ),
            Owner::Us => {
                let path = format!("/v1/agent/service/deregister/{}", encoded(id));
                self.shared.client.put(&path, "", Bytes::new()).await?;
                info!(id, "removed the registration from Consul");
            }
        }
        Ok(())
    }

    async fn owner(&self, id: &str) -> Result<Owner, ConsulError> {
        let path = format!("/v1/agent/service/{}", encoded(id));
        let response = match self.shared.client.get(&path, Mode::Default, None).await {
            Ok(response) => response,
            Err(ConsulError::Status { code: 404, .. }) => return Ok(Owner::Nobody),
            Err(error) => return Err(error),
        };
        let found: Found =
            serde_json::from_slice(&response.body).map_err(|error| ConsulError::Decode {
                path,
                reason: error.to_string(),
            })?;
        let mark = found.meta.and_then(|mut meta| meta.remove(MARK));
        Ok(if mark.as_deref() == Some(&*self.mark) {
            Owner::Us
        } else {
            Owner::Another
        })
    }

    fn note(&mut self, id: &str, change: impl FnOnce(&mut Held)) {
        if let Some(held) = self.held.get_mut(id) {
            change(held);
        }
    }

    fn well(&mut self) -> Duration {
        self.backoff.succeeded();
        if self.failing.take().is_some() {
            info!("the registration in Consul is in order again");
        }
        LOOK_EVERY
    }

    fn failed(&mut self, error: &ConsulError) -> Duration {
        self.shared.count(error);
        let kind = error.kind();
        if self.failing.replace(kind) == Some(kind) {
            debug!(kind, %error, "Consul: registration still failing");
        } else {
            warn!(kind, %error, "Consul: cannot register lb itself, or not remove the registration; trying again");
        }
        self.backoff.failed(&mut fastrand::Rng::new())
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str, scheme: &'static str) -> AdvertisedAddress {
        AdvertisedAddress {
            address: address.parse().unwrap(),
            scheme,
            hostname: "box".to_owned(),
        }
    }

    #[test]
    fn a_registration_is_fabios() {
        let config = RegisterConfig {
            tags: vec!["a".to_owned()],
            check_interval: Duration::from_millis(1500),
            check_skip_verify: true,
            ..RegisterConfig::default()
        };
        let registration = Registration::new("fabio", &config, &at("10.0.0.1:9998", "http"));
        assert_eq!(
            (&*registration.id, &*registration.name),
            ("fabio-box-9998", "fabio")
        );
        let body = &registration.body;
        assert_eq!(
            (&body["Address"], &body["Port"]),
            (&json!("10.0.0.1"), &json!(9998))
        );
        assert_eq!(body["Tags"], json!(["a"]));
        assert_eq!(body["Checks"][0]["CheckID"], "fabio-box-9998-ttl");
        assert_eq!(body["Checks"][0]["TTL"], "15s");
        assert_eq!(body["Checks"][0]["DeregisterCriticalServiceAfter"], "1m");
        let http = &body["Checks"][1];
        assert_eq!(
            (&http["HTTP"], &http["Interval"]),
            (&json!("http://10.0.0.1:9998/health"), &json!("1500ms"))
        );
        assert_eq!(
            (&http["Timeout"], &http["TLSSkipVerify"]),
            (&json!("3000ms"), &json!(true))
        );
    }

    #[test]
    fn ipv6_has_brackets_in_the_url_alone() {
        let registration = Registration::new(
            "lb",
            &RegisterConfig::default(),
            &at("[fd00::1]:1", "https"),
        );
        assert_eq!(registration.body["Address"], "fd00::1");
        assert_eq!(
            registration.body["Checks"][1]["HTTP"],
            "https://[fd00::1]:1/health"
        );
    }

    #[test]
    fn ids_are_one_segment_of_a_path() {
        assert_eq!(encoded("a b/../c?d"), "a%20b%2F..%2Fc%3Fd");
    }
}
