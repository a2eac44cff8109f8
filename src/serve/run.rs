//! `lb run`: the balancer as a process, with its signals, its reloads and its exit.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::files::Watched;
use super::{Running, notify, start};
use crate::config::Config;
use crate::journal::{Draft, Kind};
use crate::log;

/// Longest time for a reload.
const RELOAD_MAX: Duration = Duration::from_secs(30);

/// How to come by the configuration again.
#[derive(Clone)]
pub struct RunOptions {
    /// Files that it is made from, beside those that it names: a change of them is a reload.
    pub files: Vec<PathBuf>,
    /// Reads it again. May block.
    pub read: Arc<dyn Fn() -> anyhow::Result<Config> + Send + Sync>,
}

impl fmt::Debug for RunOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunOptions").field("files", &self.files).finish_non_exhaustive()
    }
}

/// Runs with `config`, which came from `options`, until a signal ends it; reloads read `options` again.
///
/// # Errors
/// What kept it from starting.
pub fn run(config: Config, options: &RunOptions) -> anyhow::Result<()> {
    let logs = log::init(&config.log)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Before anything else: from here on no signal ends the process by surprise.
    let signals = runtime.block_on(async { Signals::new() })?;
    let running = start(&config, Vec::new())?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), admin = %running.admin, "lb started");
    runtime.block_on(attend(options, config, running, &logs, signals))
}

async fn attend(
    options: &RunOptions,
    mut config: Config,
    running: Running,
    logs: &log::LogHandle,
    Signals { mut end, mut hangup }: Signals,
) -> anyhow::Result<()> {
    let mut look = tokio::time::interval(Duration::from_secs(1));
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut alive = tokio::time::interval(notify::watchdog().unwrap_or(Duration::from_secs(3600)));
    let mut watched = Watched::new(&watched_files(options, &config, &running));
    loop {
        tokio::select! {
            () = end.came() => break,
            _ = hangup.recv() => {
                tracing::info!("SIGHUP: reloading");
                // Before reading: what changes meanwhile is a change.
                watched.note(&watched_files(options, &config, &running));
                reload(options, &mut config, &running, logs).await;
            }
            _ = look.tick() => {
                running.look_around();
                if watched.settled_change(&watched_files(options, &config, &running)) {
                    tracing::info!("a file of the configuration changed: reloading");
                    reload(options, &mut config, &running, logs).await;
                }
            }
            _ = alive.tick() => {
                if running.is_alive().await {
                    notify::alive();
                }
            }
        }
    }
    notify::stopping();
    running.drain(&config.drain, end.came()).await;
    Ok(())
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
async fn reload(options: &RunOptions, config: &mut Config, running: &Running, logs: &log::LogHandle) {
    let read = Arc::clone(&options.read);
    // On a thread of its own: a file on a network, or behind a URL, may keep its reader waiting.
    let next = match tokio::time::timeout(RELOAD_MAX, tokio::task::spawn_blocking(move || read())).await {
        Ok(Ok(read)) => read,
        Ok(Err(_)) => Err(anyhow::anyhow!("reading it failed in an unforeseen way")),
        Err(_) => Err(anyhow::anyhow!("not read within {} s", RELOAD_MAX.as_secs())),
    };
    let next = match next {
        Ok(next) => next,
        Err(mistakes) => {
            running.metrics.control().reload_errors.config += 1;
            let mistakes = format!("{mistakes:#}");
            tell(running, "refused", &format!("the new configuration is wrong; the old one stays: {mistakes}"));
            return tracing::error!(mistakes, "the new configuration is wrong; the old one stays");
        }
    };
    // A reload that hangs must not keep signals from being heard.
    let reloaded = tokio::time::timeout(RELOAD_MAX, running.reload(config, &next)).await;
    match reloaded.unwrap_or_else(|_| Err(anyhow::anyhow!("not done within {} s", RELOAD_MAX.as_secs()))) {
        Ok(restart) => {
            if next.log.level != config.log.level
                && let Err(error) = logs.set_level(&next.log.level)
            {
                tracing::error!(%error, "log level not changed");
            }
            if restart.is_empty() {
                tell(running, "reloaded", "");
                tracing::info!("reloaded");
            } else {
                tell(running, "reloaded", &format!("these keys need a restart: {}", restart.join(", ")));
                tracing::warn!(keys = restart.join(", "), "reloaded; these keys need a restart");
            }
            *config = next;
        }
        Err(error) => {
            running.metrics.control().reload_errors.config += 1;
            tell(running, "refused", &format!("not reloaded; the old configuration stays: {error:#}"));
            tracing::error!(error = format!("{error:#}"), "not reloaded; the old configuration stays");
        }
    }
}

/// An event about the configuration.
fn tell(running: &Running, to: &'static str, reason: &str) {
    let event = Draft { to: Some(to.into()), ..Draft::new(Kind::Config) };
    let event = if reason.is_empty() { event } else { event.because(reason) };
    running.metrics.journal().events().push(event);
}

struct Signals {
    end: EndSignals,
    hangup: Signal,
}

struct EndSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        let end =
            EndSignals { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? };
        Ok(Self { end, hangup: listen(SignalKind::hangup())? })
    }
}

impl EndSignals {
    async fn came(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
