//! Acts the script out: starts and stops instances, and announces them the way a
//! scheduler would.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::announce::Announcer;
use super::board::{Board, Seen, seen_by_router};
use super::sample::{Sample, Shared};
use super::script::{Cast, Change, Event};
use super::services::{Registration, SERVICES};
use crate::table::SharedTable;

/// When a crash shows in the check, where no real check runs.
const CHECK_DELAY: Duration = Duration::from_secs(1);
/// How long the table is watched for an event to show.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(20);
/// How often it is looked at meanwhile.
const FOLLOW_STEP: Duration = Duration::from_millis(1);

/// All instances, and where their registrations go.
pub(super) struct Stage {
    announcer: Announcer,
    actors: Vec<BTreeMap<u32, Actor>>,
    board: Arc<Mutex<Board>>,
    rng: fastrand::Rng,
    overdue: Vec<(Instant, usize, u32)>,
}

struct Actor {
    shared: Arc<Shared>,
    port: u16,
    passing: bool,
    sample: Option<Sample>,
}

impl Stage {
    /// Starts and registers the first instances.
    pub(super) async fn open(
        announcer: Announcer,
        casts: &[Cast],
        board: Arc<Mutex<Board>>,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let actors = casts.iter().map(|_| BTreeMap::new()).collect();
        let mut stage = Self {
            announcer,
            actors,
            board,
            rng: fastrand::Rng::with_seed(seed),
            overdue: Vec::new(),
        };
        for (service, cast) in casts.iter().enumerate() {
            for member in &cast.members {
                stage.start(service, member.number).await?;
            }
            stage.announce(service).await?;
        }
        stage.announcer.complete().await?;
        Ok(stage)
    }

    /// Acts one event out.
    pub(super) async fn act(&mut self, event: Event, table: &SharedTable) -> anyhow::Result<()> {
        let Event {
            service,
            number,
            change,
        } = event;
        let name = instance_name(service, number);
        let noted = lock(&self.board).note(describe(&name, change), Instant::now());
        let begun = Instant::now();
        match change {
            Change::Joined => self.start(service, number).await?,
            Change::Left => self.stop(service, number).await?,
            Change::Sickened => self.set_check(service, number, false),
            Change::Recovered => self.set_check(service, number, true),
            Change::Crashed => self.crash(service, number),
            Change::Restarted => self.restart(service, number).await?,
        }
        // A crash is not announced: the check has to find it.
        if change != Change::Crashed {
            self.announce(service).await?;
        }
        let serving = matches!(
            change,
            Change::Joined | Change::Recovered | Change::Restarted
        );
        tokio::spawn(follow(
            Arc::clone(&self.board),
            table.clone(),
            (service, name, serving),
            noted,
            begun,
        ));
        Ok(())
    }

    /// Does what was due later; call often.
    pub(super) async fn tick(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.overdue)
            .into_iter()
            .partition(|(at, ..)| *at <= now);
        self.overdue = later;
        for (_, service, number) in due {
            if self.actors[service]
                .get(&number)
                .is_some_and(|actor| actor.sample.is_none())
            {
                self.set_passing(service, number, false);
                self.announce(service).await?;
            }
        }
        Ok(())
    }

    async fn start(&mut self, service: usize, number: u32) -> anyhow::Result<()> {
        let sample = &SERVICES[service];
        let latency_ms = sample.latency_ms.start..sample.latency_ms.end;
        let shared = Arc::new(Shared {
            name: instance_name(service, number),
            kind: sample.kind,
            latency: Duration::from_millis(self.rng.u64(latency_ms)),
            sick: Default::default(),
            served: AtomicU64::new(0),
        });
        let sample = Sample::start(Arc::clone(&shared), 0)
            .await
            .context("cannot start a sample instance")?;
        lock(&self.board).add(service, Arc::clone(&shared));
        let actor = Actor {
            shared,
            port: sample.address.port(),
            passing: true,
            sample: Some(sample),
        };
        self.actors[service].insert(number, actor);
        Ok(())
    }

    async fn stop(&mut self, service: usize, number: u32) -> anyhow::Result<()> {
        let Some(actor) = self.actors[service].remove(&number) else {
            return Ok(());
        };
        self.announcer.withdraw(&actor.shared.name).await?;
        lock(&self.board).remove(&actor.shared.name, Instant::now());
        if let Some(sample) = actor.sample {
            sample.leave();
        }
        Ok(())
    }

    fn set_check(&mut self, service: usize, number: u32, passing: bool) {
        let Some(actor) = self.actors[service].get(&number) else {
            return;
        };
        actor.shared.sick.store(!passing, Relaxed);
        lock(&self.board).set_condition(&actor.shared.name, if passing { "" } else { "sick" });
        self.set_passing(service, number, passing);
    }

    fn crash(&mut self, service: usize, number: u32) {
        let Some(actor) = self.actors[service].get_mut(&number) else {
            return;
        };
        actor.sample = None;
        lock(&self.board).set_condition(&actor.shared.name, "crashed");
        self.overdue
            .push((Instant::now() + CHECK_DELAY, service, number));
    }

    async fn restart(&mut self, service: usize, number: u32) -> anyhow::Result<()> {
        let Some(actor) = self.actors[service].get_mut(&number) else {
            return Ok(());
        };
        let sample = Sample::start(Arc::clone(&actor.shared), actor.port).await?;
        actor.port = sample.address.port();
        actor.sample = Some(sample);
        lock(&self.board).set_condition(&actor.shared.name, "");
        self.set_passing(service, number, true);
        Ok(())
    }

    fn set_passing(&mut self, service: usize, number: u32, passing: bool) {
        if let Some(actor) = self.actors[service].get_mut(&number) {
            actor.passing = passing;
        }
    }

    async fn announce(&mut self, service: usize) -> anyhow::Result<()> {
        let registrations = self.actors[service].values().map(|actor| Registration {
            id: actor.shared.name.clone(),
            port: actor.port,
            passing: actor.passing,
        });
        let registrations: Vec<Registration> = registrations.collect();
        self.announcer
            .announce(&SERVICES[service], &registrations)
            .await
    }
}

/// Watches the table until it shows the event, and notes how long that took.
async fn follow(
    board: Arc<Mutex<Board>>,
    table: SharedTable,
    (service, name, serving): (usize, String, bool),
    noted: u64,
    begun: Instant,
) {
    while begun.elapsed() < FOLLOW_TIMEOUT {
        let seen = seen_by_router(&table.load(), SERVICES[service].route);
        if matches!(seen.get(&name), Some(Seen::Target { .. })) == serving {
            lock(&board).followed(noted, begun.elapsed());
            return;
        }
        tokio::time::sleep(FOLLOW_STEP).await;
    }
}

fn describe(name: &str, change: Change) -> String {
    match change {
        Change::Joined => format!("{name} joins: started and registered"),
        Change::Left => format!("{name} leaves: deregistered, then stopped at once"),
        Change::Sickened => format!("{name} turns sick: its health check fails"),
        Change::Recovered => format!("{name} is well again"),
        Change::Crashed => format!("{name} crashes: connections reset, its check notices later"),
        Change::Restarted => format!("{name} is back"),
    }
}

fn instance_name(service: usize, number: u32) -> String {
    format!("{}-{number}", SERVICES[service].name)
}

fn lock(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}
