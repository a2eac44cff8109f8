//! Tells of the instances: straight into the control loop's channel, as a source of its own, or
//! through Consul.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use tokio::sync::mpsc;

use super::agent::Agent;
use super::services::{Registration, SampleService};
use crate::catalog::source::SourceName;
use crate::catalog::{
    Check, CheckScope, CheckStatus, Endpoint, Instance, InstanceId, ServiceSnapshot, Weights,
};
use crate::config::Config;
use crate::sources::task::SourceTask;
use crate::sources::{Context, RunningSource, Source, SourceError, Update};

const SOURCE: SourceName = "demo";

/// Updates that may wait for the control loop.
const UPDATES_MAX: usize = 64;

/// The demo as a source: passes on what the announcer tells.
pub(super) struct DemoSource(Mutex<Option<mpsc::Receiver<Update>>>);

impl DemoSource {
    /// The source, and where the announcer tells it what there is.
    pub(super) fn new() -> (mpsc::Sender<Update>, Self) {
        let (updates, received) = mpsc::channel(UPDATES_MAX);
        (updates, Self(Mutex::new(Some(received))))
    }
}

impl Source for DemoSource {
    fn name(&self) -> SourceName {
        SOURCE
    }

    fn is_on(&self, _config: &Config) -> bool {
        true
    }

    fn start(
        &self,
        _config: &Config,
        context: &Context,
    ) -> Result<Box<dyn RunningSource>, SourceError> {
        let mut received = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let received = received
            .take()
            .ok_or_else(|| SourceError::new("the demo was started already"))?;
        let work = pass_on(received, context.updates.clone());
        Ok(Box::new(RunningDemo(SourceTask::spawn(work))))
    }

    fn restart_keys(&self, _present: &Config, _next: &Config) -> Vec<&'static str> {
        Vec::new()
    }
}

struct RunningDemo(#[allow(dead_code, reason = "held for its drop")] SourceTask);

impl RunningSource for RunningDemo {}

async fn pass_on(mut from: mpsc::Receiver<Update>, to: mpsc::Sender<Update>) {
    while let Some(update) = from.recv().await {
        if to.send(update).await.is_err() {
            return;
        }
    }
}

/// Where registrations go.
pub(super) enum Announcer {
    /// The control loop.
    Direct(mpsc::Sender<Update>),
    /// A Consul agent, with what is registered there.
    Consul {
        agent: Arc<Agent>,
        /// Port by instance.
        registered: BTreeMap<String, u16>,
    },
}

impl Announcer {
    /// Tells the present state of one service.
    pub(super) async fn announce(
        &mut self,
        service: &SampleService,
        registrations: &[Registration],
    ) -> anyhow::Result<()> {
        match self {
            Self::Direct(updates) => {
                let snapshot = Arc::new(snapshot(service, registrations));
                updates
                    .send(Update::Service {
                        source: SOURCE,
                        snapshot,
                        seen_at: std::time::Instant::now(),
                    })
                    .await
                    .context("the router has ended")
            }
            Self::Consul { agent, registered } => {
                for registration in registrations {
                    // Registering again resets the check: only what is new or has moved.
                    if registered.get(&registration.id) != Some(&registration.port) {
                        agent.register(service, registration).await?;
                        registered.insert(registration.id.clone(), registration.port);
                    }
                }
                Ok(())
            }
        }
    }

    /// Deregisters one instance. (Directly, its absence from the next announcement says it all.)
    pub(super) async fn withdraw(&mut self, id: &str) -> anyhow::Result<()> {
        if let Self::Consul { agent, registered } = self {
            agent.deregister(id).await?;
            registered.remove(id);
        }
        Ok(())
    }

    /// Says that everything has been announced once.
    pub(super) async fn complete(&mut self) -> anyhow::Result<()> {
        if let Self::Direct(updates) = self {
            updates
                .send(Update::Synced { source: SOURCE })
                .await
                .context("the router has ended")?;
        }
        Ok(())
    }
}

fn snapshot(service: &SampleService, registrations: &[Registration]) -> ServiceSnapshot {
    let mut instances: Vec<Instance> = registrations
        .iter()
        .map(|one| instance(service, one))
        .collect();
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    ServiceSnapshot {
        name: Arc::from(service.name),
        datacenter: None,
        instances,
    }
}

fn instance(service: &SampleService, registration: &Registration) -> Instance {
    let status = if registration.passing {
        CheckStatus::Passing
    } else {
        CheckStatus::Critical
    };
    let check = |id: String, scope, status| Check {
        id: Arc::from(id),
        scope,
        status,
    };
    Instance {
        id: InstanceId {
            node: Arc::from(SOURCE),
            id: Arc::from(registration.id.as_str()),
        },
        endpoint: Endpoint::Addr(SocketAddr::from((Ipv4Addr::LOCALHOST, registration.port))),
        tags: service.tags().into_iter().map(Arc::from).collect(),
        checks: vec![
            check("serfHealth".into(), CheckScope::Node, CheckStatus::Passing),
            check(
                format!("service:{}", registration.id),
                CheckScope::Service,
                status,
            ),
        ],
        weights: Weights::default(),
        registration: crate::catalog::Registration::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::services::SERVICES;
    use super::*;
    use crate::metrics::Metrics;

    #[tokio::test]
    async fn the_demo_is_a_source_that_runs_once() {
        let (announced, source) = DemoSource::new();
        let (updates, mut received) = mpsc::channel(1);
        let (config, context) = (
            Config::default(),
            Context::telling(updates, Metrics::default()),
        );
        assert!(source.is_on(&config));
        let running = source.start(&config, &context).unwrap();
        announced
            .send(Update::Synced { source: SOURCE })
            .await
            .unwrap();
        let update = received.recv().await;
        assert!(
            matches!(update, Some(Update::Synced { source: "demo" })),
            "{update:?}"
        );
        assert!(source.start(&config, &context).is_err());
        drop(running);
        announced.closed().await;
    }

    #[test]
    fn a_snapshot_looks_like_consuls() {
        let registration = |id: &str, port, passing| Registration {
            id: id.into(),
            port,
            passing,
        };
        let snapshot = snapshot(
            &SERVICES[0],
            &[
                registration("shop-2", 8002, false),
                registration("shop-10", 8010, true),
            ],
        );
        let ids: Vec<String> = snapshot
            .instances
            .iter()
            .map(|instance| instance.id.to_string())
            .collect();
        assert_eq!(
            ids,
            ["demo/shop-10", "demo/shop-2"],
            "by id, as the contract has it"
        );
        let sick = &snapshot.instances[1];
        assert_eq!(
            sick.endpoint,
            Endpoint::Addr("127.0.0.1:8002".parse().unwrap())
        );
        assert_eq!(&*sick.tags[0], "urlprefix-/shop strip=/shop");
        let states: Vec<_> = sick
            .checks
            .iter()
            .map(|check| (check.scope, check.status))
            .collect();
        assert_eq!(
            states,
            [
                (CheckScope::Node, CheckStatus::Passing),
                (CheckScope::Service, CheckStatus::Critical)
            ]
        );
        assert!(sick.checks.is_sorted_by_key(|check| check.id.clone()));
    }
}
