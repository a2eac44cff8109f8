//! The thread of a worker: the listeners it accepts for, its clock, and its end.
//!
//! ```text
//! thread lb-worker-N: current_thread runtime + LocalSet
//!   accept loop per listener ─► task per connection
//!   phase follower (drain)      tick, once a second: pool sweep, tunnels of vanished instances
//! ```

use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::accept::accept_loop;
use super::drain::{LocalPhase, Phase, PhaseReceiver};
use super::listener::Listener;
use super::worker::{Worker, WorkerContext};
use crate::system::vital;
use crate::table::clock::ms;

async fn tick(worker: Rc<Worker>) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let settings = worker.settings();
        let now_ms = worker.clock.now_ms();
        worker.budget.borrow_mut().set(
            settings.proxy.retry.budget_percent,
            settings.proxy.retry.budget_min,
        );
        worker
            .pool
            .sweep(now_ms, ms(settings.proxy.upstream_idle_timeout));
        worker
            .tunnels
            .cut_retired(now_ms, ms(settings.proxy.removed_grace));
    }
}

/// Handles `commands` until the worker drains, then waits for what still runs.
async fn run(
    worker: Rc<Worker>,
    first: Vec<ListenerCommand>,
    mut commands: mpsc::Receiver<ListenerCommand>,
    phase: PhaseReceiver,
) {
    let local_phase = Rc::clone(&worker.phase);
    let mut follower = tokio::task::spawn_local(vital::task(
        "the drain of a worker",
        local_phase.follow(phase),
    ));
    let tick = tokio::task::spawn_local(vital::task(
        "the clock of a worker",
        tick(Rc::clone(&worker)),
    ));
    let parking = tokio::task::spawn_local({
        let worker = Rc::clone(&worker);
        vital::task("the parking of a worker's connections", async move {
            worker.scratch.active.look_after(worker.clock).await;
        })
    });
    let mut accepting = Accepting::default();
    for command in first {
        accepting.handle(&worker, command);
    }
    let (mut more, mut follows) = (true, true);
    loop {
        tokio::select! {
            biased;
            () = worker.phase.reached(Phase::Draining) => break,
            command = commands.recv(), if more => match command {
                Some(command) => accepting.handle(&worker, command),
                None => more = false,
            },
            // Without it this worker would not hear that it has to end.
            ended = &mut follower, if follows => {
                follows = false;
                if let Some(panic) = ended.err().and_then(|error| error.try_into_panic().ok()) {
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
    // Sockets of commands that came too late: they must not take clients that would not be served.
    drop(commands);
    accepting.end().await;
    while worker.connections() > 0 && worker.phase.get() < Phase::Cut {
        tokio::select! {
            () = worker.connection_ends() => {}
            () = worker.phase.reached(Phase::Cut) => {}
        }
    }
    if worker.connections() > 0 {
        tracing::warn!(
            connections = worker.connections(),
            "drain deadline: closing remaining connections"
        );
    }
    tick.abort();
    parking.abort();
    follower.abort();
}

/// What a worker does with its listeners.
#[derive(Debug)]
pub enum ListenerCommand {
    /// Accept connections for this listener.
    Open(ListenerNumber, Listener, TcpListener),
    /// Accept no more for it; its connections end as in a drain, but without its deadline.
    Close(ListenerNumber),
}

/// What a listener is called in commands: never used twice.
pub type ListenerNumber = u64;

/// The accept loops of one worker.
#[derive(Default)]
struct Accepting {
    phases: HashMap<ListenerNumber, Rc<LocalPhase>>,
    loops: JoinSet<()>,
}

impl Accepting {
    fn handle(&mut self, worker: &Rc<Worker>, command: ListenerCommand) {
        // Those that ended meanwhile.
        while self.loops.try_join_next().is_some() {}
        match command {
            ListenerCommand::Open(number, listener, socket) => {
                let phase: Rc<LocalPhase> = Rc::default();
                self.phases.insert(number, Rc::clone(&phase));
                let accepting = accept_loop(Rc::clone(worker), Rc::new(listener), phase, socket);
                self.loops
                    .spawn_local(vital::task("an accept loop", accepting));
            }
            ListenerCommand::Close(number) => {
                if let Some(phase) = self.phases.remove(&number) {
                    phase.advance(Phase::Draining);
                }
            }
        }
    }

    async fn end(mut self) {
        for phase in self.phases.values() {
            phase.advance(Phase::Draining);
        }
        while self.loops.join_next().await.is_some() {}
    }
}

/// Starts worker `number` on a thread of its own with its `first` commands; further ones come
/// through `commands`. The thread ends when the worker has drained or was cut.
///
/// # Errors
/// The thread or its runtime cannot be made.
pub fn spawn(
    number: usize,
    context: WorkerContext,
    first: Vec<ListenerCommand>,
    commands: mpsc::Receiver<ListenerCommand>,
    seed: u64,
) -> io::Result<thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    thread::Builder::new()
        .name(format!("lb-worker-{number}"))
        .spawn(move || {
            let local = tokio::task::LocalSet::new();
            let phase = context.phase.clone();
            local.block_on(&runtime, async move {
                vital::task(
                    "a worker",
                    run(Worker::new(&context, seed), first, commands, phase),
                )
                .await;
            });
        })
}
