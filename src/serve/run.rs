//! `lb run`: the balancer as a process, with its signals, its reloads and its exit.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::aside::{Aside, AsideError};
use super::files::{self, Watched};
use super::{Running, notify, start};
use crate::config::Config;
use crate::log;
use crate::system::signals::{Ending, Harmless};
use crate::system::vital;

/// Longest time for a reload.
const RELOAD_MAX: Duration = Duration::from_secs(30);
/// Longest time for a look at files, before it is said that it takes long.
const LOOK_MAX: Duration = Duration::from_secs(10);
/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How to come by the configuration again.
#[derive(Clone)]
pub struct RunOptions {
    /// Files that it is made from, beside those that it names: a change of them is a reload.
    pub files: Vec<PathBuf>,
    /// Reads it again. May block.
    pub read: Arc<dyn Fn() -> anyhow::Result<Config> + Send + Sync>,
    /// The log, whose level a reload may change.
    pub log: log::LogHandle,
}

impl fmt::Debug for RunOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunOptions").field("files", &self.files).finish_non_exhaustive()
    }
}

/// The signals of a process that serves, heard from the first moment: none ends it by surprise, not even while it reads
/// its configuration.
#[derive(Debug)]
pub struct Signals {
    runtime: Runtime,
    ending: Ending,
    hangup: Signal,
    harmless: Harmless,
    starting: Starting,
}

impl Signals {
    /// Listens from now on. Until [`run`] has everything started, a signal that ends the process does so at once.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen() -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let listening = || -> std::io::Result<_> {
            let _inside = runtime.enter();
            Ok((Ending::listen()?, signal(SignalKind::hangup())?, Harmless::listen()?))
        };
        let (ending, hangup, harmless) = listening().context("cannot listen to signals")?;
        Ok(Self { runtime, ending, hangup, harmless, starting: Starting::begin()? })
    }
}

/// A thread that ends the process at a signal, for as long as the main thread may hang on a file or a socket and has
/// nothing to end in order. Dropped: it does so no longer.
#[derive(Debug)]
struct Starting(#[allow(dead_code, reason = "held for its drop")] oneshot::Sender<()>);

impl Starting {
    fn begin() -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let (over, is_over) = oneshot::channel::<()>();
        std::thread::Builder::new().name("lb-starting".to_owned()).spawn(move || {
            runtime.block_on(async {
                let Ok(mut ending) = Ending::listen() else { return };
                tokio::select! {
                    biased;
                    _ = is_over => {}
                    () = ending.came() => {
                        tracing::info!("a signal ended lb before it was started");
                        log::flush();
                        std::process::exit(0);
                    }
                }
            });
        })?;
        Ok(Self(over))
    }
}

fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")
}

/// Runs with `config`, which came from `options`, until a signal ends it; reloads read `options` again.
///
/// # Errors
/// What kept it from starting.
pub fn run(config: Config, options: &RunOptions, signals: Signals) -> anyhow::Result<()> {
    let Signals { runtime, ending, hangup, harmless, starting } = signals;
    let running = start(&config, Vec::new())?;
    drop(starting);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), admin = %running.admin, "lb started");
    let outcome = runtime.block_on(attend(options, config, running, ending, hangup, harmless));
    // Not waited for: a thread of it may hang on a file.
    runtime.shutdown_background();
    outcome
}

/// Looks after what runs, until a signal; each of its tasks waits for none of the others.
async fn attend(
    options: &RunOptions,
    mut config: Config,
    running: Running,
    mut ending: Ending,
    mut hangup: Signal,
    mut harmless: Harmless,
) -> anyhow::Result<()> {
    let ignore = async {
        loop {
            let signal = harmless.came().await;
            tracing::debug!(signal, "a signal that means nothing to lb is ignored");
        }
    };
    let failed = tokio::select! {
        () = ending.came() => None,
        part = vital::failed() => Some(part),
        never = follow_files(options, &mut config, &running, &mut hangup) => never,
        never = follow_users(&running) => never,
        never = tell_watchdog(&running) => never,
        never = ignore => never,
    };
    if let Some(part) = failed {
        tracing::error!(part, "a part of lb has failed that has to run: it ends in order, to be started anew");
    }
    notify::stopping();
    running.drain(&config.drain, ending.came()).await;
    match failed {
        None => Ok(()),
        Some(part) => anyhow::bail!("{part} has failed; the log says where"),
    }
}

/// Reloads at SIGHUP, and when a file of the configuration changed.
async fn follow_files<T>(options: &RunOptions, config: &mut Config, running: &Running, hangup: &mut Signal) -> T {
    let mut every = ticks(LOOK_EVERY);
    let (files, looking) = (Aside::default(), Aside::default());
    let mut watched = Watched::default();
    let mut begun = false;
    let mut said = false;
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            _ = every.tick() => false,
        };
        if asked {
            tracing::info!("SIGHUP: reloading");
        }
        let paths = watched_files(options, config, running);
        // Before reading: what changes meanwhile is a change.
        let looked = tokio::select! {
            looked = looking.run(LOOK_MAX, move || files::look(&paths)) => looked,
            // Without a look: it may hang.
            _ = hangup.recv(), if !asked => {
                tracing::info!("SIGHUP: reloading");
                reload(options, config, running, &files).await;
                continue;
            }
        };
        let changed = match looked {
            Ok(look) => {
                said = false;
                if asked || !begun {
                    begun = true;
                    watched.note(look);
                    false
                } else {
                    watched.settled_change(look)
                }
            }
            Err(error) => {
                if !said {
                    said = true;
                    tracing::warn!(%error, "cannot look at the files of the configuration: changes are not seen");
                }
                false
            }
        };
        if changed {
            tracing::info!("a file of the configuration changed: reloading");
        }
        if asked || changed {
            reload(options, config, running, &files).await;
        }
    }
}

/// Reads files of users again.
async fn follow_users<T>(running: &Running) -> T {
    let (mut every, files) = (ticks(LOOK_EVERY), Aside::default());
    let mut said = false;
    loop {
        every.tick().await;
        let settings = running.settings.load_full();
        if !settings.auth.has_files() {
            continue;
        }
        match files.run(LOOK_MAX, move || settings.auth.refresh(std::time::Instant::now())).await {
            Ok(()) => said = false,
            Err(error) => {
                if !said {
                    said = true;
                    tracing::warn!(%error, "cannot look at the files of users: what is known of them stays");
                }
            }
        }
    }
}

async fn tell_watchdog<T>(running: &Running) -> T {
    let Some(period) = notify::watchdog() else { return std::future::pending().await };
    let mut every = ticks(period);
    loop {
        every.tick().await;
        if running.is_alive().await {
            notify::alive();
        }
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut every = tokio::time::interval(period);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    every
}

/// Everything a reload would read.
fn watched_files(options: &RunOptions, config: &Config, running: &Running) -> Vec<PathBuf> {
    let mut paths = running.certificates.paths(config);
    paths.extend(options.files.iter().cloned());
    paths.extend([&config.proxy.no_route_page, &config.proxy.upstream_ca_file].into_iter().flatten().cloned());
    if let Some(consul) = &config.consul {
        let files = [&consul.ca_file, &consul.ca_path, &consul.cert_file, &consul.key_file, &consul.token_file];
        paths.extend(files.into_iter().flatten().cloned());
    }
    paths
}

/// Takes over what changed; a bad new configuration is reported and the old one stays.
async fn reload(options: &RunOptions, config: &mut Config, running: &Running, files: &Aside) {
    let read = Arc::clone(&options.read);
    // On a thread of its own: a file on a network, or behind a URL, may keep its reader waiting.
    let next = files.run(RELOAD_MAX, move || read()).await;
    let next = next.unwrap_or_else(|error: AsideError| Err(anyhow::Error::new(error).context("reading it")));
    let next = match next {
        Ok(next) => next,
        Err(mistakes) => {
            running.metrics.control().reload_errors.config += 1;
            let mistakes = format!("{mistakes:#}");
            return tracing::error!(mistakes, "the new configuration is wrong; the old one stays");
        }
    };
    // A reload that hangs must not keep signals from being heard.
    let reloaded = tokio::time::timeout(RELOAD_MAX, running.reload(config, &next, files)).await;
    match reloaded.unwrap_or_else(|_| Err(anyhow::anyhow!("not done within {} s", RELOAD_MAX.as_secs()))) {
        Ok(restart) => {
            if next.log.level != config.log.level
                && let Err(error) = options.log.set_level(&next.log.level)
            {
                tracing::error!(%error, "log level not changed");
            }
            if restart.is_empty() {
                tracing::info!("reloaded");
            } else {
                tracing::warn!(keys = restart.join(", "), "reloaded; these keys need a restart");
            }
            *config = next;
        }
        Err(error) => {
            running.metrics.control().reload_errors.config += 1;
            tracing::error!(error = format!("{error:#}"), "not reloaded; the old configuration stays");
        }
    }
}
