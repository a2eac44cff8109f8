//! `lb run`: the balancer as a process, with its signals, its reloads and its exit.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::files::Watched;
use super::{Running, notify, start};
use crate::config::{self, Config};
use crate::log;

/// What the command line said.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// `--config FILE`.
    pub config: Option<PathBuf>,
    /// `--KEY VALUE` for keys of the configuration.
    pub flags: Vec<(String, String)>,
}

/// Runs with `config`, which came from `options`, until a signal ends it; reloads read `options` again.
///
/// # Errors
/// What kept it from starting.
pub fn run(config: Config, options: &RunOptions) -> anyhow::Result<()> {
    let logs = log::init(&config.log)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let running = start(&config, Vec::new())?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), admin = %running.admin, "lb started");
    runtime.block_on(attend(options, config, running, &logs))
}

async fn attend(
    options: &RunOptions,
    mut config: Config,
    running: Running,
    logs: &log::LogHandle,
) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen to SIGHUP")?;
    let mut look = tokio::time::interval(Duration::from_secs(1));
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut alive = tokio::time::interval(notify::watchdog().unwrap_or(Duration::from_secs(3600)));
    let mut watched = Watched::new(&watched_files(options, &config, &running));
    loop {
        tokio::select! {
            () = signals.end() => break,
            _ = hangup.recv() => {
                tracing::info!("SIGHUP: reloading");
                reload(options, &mut config, &running, logs).await;
            }
            _ = look.tick() => {
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
    running.drain(&config.drain, signals.end()).await;
    Ok(())
}

/// Everything a reload would read.
fn watched_files(options: &RunOptions, config: &Config, running: &Running) -> Vec<PathBuf> {
    let mut paths = running.certificates.paths();
    paths.extend(options.config.clone());
    paths.extend([&config.proxy.no_route_page, &config.proxy.upstream_ca_file].into_iter().flatten().cloned());
    if let Some(consul) = &config.consul {
        let files = [&consul.ca_file, &consul.ca_path, &consul.cert_file, &consul.key_file, &consul.token_file];
        paths.extend(files.into_iter().flatten().cloned());
    }
    paths
}

/// Takes over what changed; a bad new configuration is reported and the old one stays.
async fn reload(options: &RunOptions, config: &mut Config, running: &Running, logs: &log::LogHandle) {
    let next = match config::read(options.config.as_deref(), options.flags.clone()) {
        Ok(loaded) => loaded.config,
        Err(mistakes) => return tracing::error!(%mistakes, "the new configuration is wrong; the old one stays"),
    };
    match running.reload(config, &next).await {
        Ok(restart) => {
            if next.log.level != config.log.level
                && let Err(error) = logs.set_level(&next.log.level)
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
        Err(error) => tracing::error!(error = format!("{error:#}"), "not reloaded; the old configuration stays"),
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen to signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
