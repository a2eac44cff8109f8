//! `lb demo`: everything on one machine. Sample services come, go and turn sick by themselves; the
//! router in front of them is the one of production, fed through the same channel (or through a
//! real Consul with `--consul`).
//!
//! ```text
//!  script ──Event──▶ stage ──▶ sample instances ◀───────── router ◀── traffic
//!                      │                                     ▲           │
//!                      └─▶ announce ──Update──▶ control ──▶ table        ▼
//!                             └─▶ Consul ──▶ watch ──┘        └───────▶ board ──▶ view
//! ```

mod agent;
mod announce;
mod board;
mod certificates;
mod sample;
mod screen;
mod script;
mod services;
mod stage;
mod traffic;
mod view;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use self::agent::Agent;
use self::announce::{Announcer, DemoSource};
use self::board::Board;
use self::screen::Screen;
use self::script::Script;
use self::services::SERVICES;
use self::stage::Stage;
use crate::config::{Config, ListenerConfig, ListenerProtocol};
use crate::serve::{self, Running};
use crate::sources::Source;
use crate::system::signals::{Ending, Harmless};
use crate::system::vital;
use crate::table::SharedTable;

/// Options of `lb demo`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DemoOptions {
    /// Register the samples in a real Consul, started for the occasion.
    pub consul: bool,
}

/// Ports tried first, as in the documents; taken ones are replaced by free ones.
const HTTP_PORT: u16 = 9999;
const ADMIN_PORT: u16 = 9998;
/// How often the script is looked at for changes.
const TICK: Duration = Duration::from_millis(50);

/// Runs the demo until Ctrl-C or SIGTERM.
///
/// # Errors
/// When something cannot be started (no `consul` on PATH, no free port), or the router ends by
/// itself.
pub fn run(options: DemoOptions) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(perform(options))
}

async fn perform(options: DemoOptions) -> anyhow::Result<()> {
    // Before anything is started, so that an early Ctrl-C cleans up as well.
    let mut ending = Ending::listen_with_terminal()?;
    let _harmless = Harmless::listen()?;
    let mut show = tokio::select! {
        show = Show::open(options) => show?,
        () = ending.came() => return Ok(()),
    };
    let outcome = tokio::select! {
        outcome = show.play() => outcome,
        part = vital::failed() => Err(anyhow::anyhow!("{part} has failed")),
        () = ending.came() => Ok(()),
    };
    show.close().await?;
    outcome
}

/// Everything that runs. Fields are dropped in order: the router before the agent it watches.
struct Show {
    screen: Screen,
    clients: tokio::task::JoinSet<()>,
    running: Running,
    stage: Stage,
    script: Script,
    board: Arc<Mutex<Board>>,
    begun: Instant,
    _agent: Option<Arc<Agent>>,
}

impl Show {
    async fn open(options: DemoOptions) -> anyhow::Result<Self> {
        let seed = fastrand::u64(..);
        let screen = Screen::on_stdout();
        let script = Script::new(seed, &SERVICES.map(|service| service.members));
        let board = Arc::new(Mutex::new(Board::new(Instant::now())));
        let (mut config, mut notes) = config(screen.is_live());
        let mut extra = Vec::new();
        let (announcer, agent) = if options.consul {
            screen::progress("starting consul, TLS only …");
            let agent = Arc::new(Agent::start().await?);
            config.consul = Some(agent.config());
            notes.push(format!(
                "consul  {}",
                agent.curl("/v1/health/service/shop")?
            ));
            notes.push(
                "        (\"table after\" includes the wait for Consul's next health check)"
                    .to_owned(),
            );
            (
                Announcer::Consul {
                    agent: Arc::clone(&agent),
                    registered: BTreeMap::new(),
                },
                Some(agent),
            )
        } else {
            let (updates, source) = DemoSource::new();
            extra.push(Box::new(source) as Box<dyn Source>);
            (Announcer::Direct(updates), None)
        };
        let stage = Stage::open(announcer, script.casts(), Arc::clone(&board), seed).await?;
        // It blocks while it starts, and the samples live on this thread.
        let running = tokio::task::spawn_blocking(move || serve::start(&config, extra)).await??;
        let opened = tokio::time::timeout(OPEN_LIMIT, running.opened()).await;
        anyhow::ensure!(
            opened.is_ok_and(|open| open),
            "the router did not open its listeners"
        );
        // With Consul the samples' checks start critical: the show begins when all of them are on
        // stage.
        tokio::time::timeout(OPEN_LIMIT, all_serve(&running.table))
            .await
            .context("not all samples became healthy")?;
        let http = http_address(&running)?;
        let begun = Instant::now();
        lock(&board).begin(intro(http, running.admin, notes), begun);
        let clients = traffic::start(http, &board, seed)?;
        Ok(Self {
            screen,
            clients,
            running,
            stage,
            script,
            board,
            begun,
            _agent: agent,
        })
    }

    /// Goes on for ever; dropped when a signal comes.
    async fn play(&mut self) -> anyhow::Result<()> {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            let now_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            while let Some(event) = self.script.advance(now_ms) {
                self.stage.act(event, &self.running.table).await?;
            }
            self.stage.tick().await?;
            if self.screen.is_due() {
                let frame = lock(&self.board).frame(&self.running.table.load(), Instant::now());
                self.screen
                    .draw(&frame)
                    .context("cannot write to standard output")?;
            }
        }
    }

    /// Ends the traffic, then the router, then the samples.
    async fn close(mut self) -> anyhow::Result<()> {
        self.clients.shutdown().await;
        let frame = lock(&self.board).frame(&self.running.table.load(), Instant::now());
        self.screen.close(&frame);
        let running = self.running;
        // The samples go on meanwhile, on this thread: requests that still come to them get a
        // response.
        tokio::task::spawn_blocking(move || running.stop()).await?;
        Ok(())
    }
}

/// How long the router may take to hear of the samples and open.
const OPEN_LIMIT: Duration = Duration::from_secs(15);

/// Waits until every sample of the first cast gets traffic.
async fn all_serve(table: &SharedTable) {
    let cast: u32 = SERVICES.iter().map(|service| service.members).sum();
    while table
        .load()
        .routes()
        .iter()
        .map(|route| route.targets.len())
        .sum::<usize>()
        < cast as usize
    {
        tokio::time::sleep(TICK).await;
    }
}

/// The configuration of the demo's router, and remarks on it.
fn config(live: bool) -> (Config, Vec<String>) {
    let mut config = Config::default();
    let mut notes = Vec::new();
    let (http, http_note) = address(HTTP_PORT);
    let (admin, admin_note) = address(ADMIN_PORT);
    notes.extend([http_note, admin_note].into_iter().flatten());
    config.consul = None;
    config.listeners = vec![ListenerConfig {
        address: http,
        protocol: ListenerProtocol::Http,
        ..ListenerConfig::default()
    }];
    config.admin.address = admin;
    config.drain.grace = Duration::ZERO;
    // A stream of events that a client left open must not hold up Ctrl-C.
    config.drain.timeout = Duration::from_secs(1);
    // Log lines would run through the picture.
    config.log.level = if live { "off" } else { "error" }.to_owned();
    (config, notes)
}

/// `127.0.0.1:port` if it is free, any port else, and a remark then.
fn address(port: u16) -> (SocketAddr, Option<String>) {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => (SocketAddr::from((Ipv4Addr::LOCALHOST, port)), None),
        Err(_) => {
            let note = format!("note    port {port} is taken: a free one is used instead");
            (SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Some(note))
        }
    }
}

fn http_address(running: &Running) -> anyhow::Result<SocketAddr> {
    let mut listeners = running.listeners.iter();
    listeners
        .find(|(name, _)| name == "http")
        .map(|(_, address)| *address)
        .context("the router opened no listener")
}

fn intro(http: SocketAddr, admin: SocketAddr, notes: Vec<String>) -> Vec<String> {
    let program = std::env::args_os().next().map_or_else(
        || "lb".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    );
    // The default needs no flag.
    let flag = if admin.port() == ADMIN_PORT {
        String::new()
    } else {
        format!(" --admin {admin}")
    };
    let mut lines = vec![
        format!("open    http://{http}/shop    another instance at each reload"),
        format!("        http://{admin}/        the router's own page"),
        format!("try     curl http://{http}/api/hello"),
        format!("        {program} explain http://{http}/shop{flag}"),
    ];
    // A small screen shows the first lines only.
    lines.extend(notes);
    lines.push(format!("        curl -N http://{http}/time/stream"));
    lines.push(format!("        curl http://{admin}/api/services"));
    lines
}

fn lock(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_replaced_and_said() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let (address_, note) = address(port);
        assert_eq!(address_.port(), 0);
        assert!(note.unwrap().contains(&port.to_string()));
        drop(taken);
        assert_eq!(
            address(port),
            (SocketAddr::from((Ipv4Addr::LOCALHOST, port)), None)
        );
    }

    #[test]
    fn the_admin_flag_is_shown_only_where_it_is_needed() {
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, HTTP_PORT));
        let explain = |port| {
            intro(
                http,
                SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                Vec::new(),
            )[3]
            .clone()
        };
        assert!(
            explain(ADMIN_PORT).ends_with(" explain http://127.0.0.1:9999/shop"),
            "{}",
            explain(ADMIN_PORT)
        );
        assert!(
            explain(1234).ends_with("/shop --admin 127.0.0.1:1234"),
            "{}",
            explain(1234)
        );
    }

    #[test]
    fn tags_are_routing_tags() {
        assert_eq!(SERVICES[1].tags(), ["urlprefix-/api strip=/api", "demo"]);
    }
}
