//! `lb run`: the balancer as a process, with its signals, its reloads and its exit.

use std::collections::HashSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::files::{self, Watched};
use super::{Running, certificates, notify, start};
use crate::config::Config;
use crate::log;

/// Longest time for a reload.
const RELOAD_MAX: Duration = Duration::from_secs(30);
/// How long a configuration that takes something away is given to become another one, and how often that may happen.
const SECOND_LOOK: Duration = Duration::from_secs(1);
const LOOKS_MAX: usize = 6;

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
    // Before anything is read: what changes meanwhile is a change.
    let watched = Watched::new(&watched_files(options, &config));
    let running = start(&config, Vec::new())?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), admin = %running.admin, "lb started");
    runtime.block_on(attend(options, config, running, watched, &logs, signals))
}

async fn attend(
    options: &RunOptions,
    mut config: Config,
    running: Running,
    mut watched: Watched,
    logs: &log::LogHandle,
    Signals { mut end, mut hangup }: Signals,
) -> anyhow::Result<()> {
    let mut look = tokio::time::interval(Duration::from_secs(1));
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut alive = tokio::time::interval(notify::watchdog().unwrap_or(Duration::from_secs(3600)));
    loop {
        tokio::select! {
            () = end.came() => break,
            _ = hangup.recv() => {
                tracing::info!("SIGHUP: reloading");
                // Before reading: what changes meanwhile is a change.
                watched.note(&watched_files(options, &config));
            }
            _ = look.tick() => {
                running.look_around();
                if !watched.settled_change(&watched_files(options, &config)) {
                    continue;
                }
                tracing::info!("a file of the configuration changed: reloading");
            }
            _ = alive.tick() => {
                if running.is_alive().await {
                    notify::alive();
                }
                continue;
            }
        }
        let paths = watched_files(options, &config);
        let read = tokio::select! {
            () = end.came() => break,
            read = read_whole(options, &config, &watched, &paths) => read,
        };
        if reload(read, &mut config, &running, logs).await {
            watched.note_taken_over(&watched_files(options, &config));
        }
    }
    notify::stopping();
    running.drain(&config.drain, end.came()).await;
    Ok(())
}

/// Everything a reload would read.
fn watched_files(options: &RunOptions, config: &Config) -> Vec<PathBuf> {
    let mut paths = certificates::paths(config);
    paths.extend(options.files.iter().cloned());
    paths.extend([&config.proxy.no_route_page, &config.proxy.upstream_ca_file].into_iter().flatten().cloned());
    if let Some(consul) = &config.consul {
        let files = [&consul.ca_file, &consul.ca_path, &consul.cert_file, &consul.key_file, &consul.token_file];
        paths.extend(files.into_iter().flatten().cloned());
    }
    paths
}

/// The configuration once its files are whole. They are taken for that when they have been left alone for a moment; one that
/// takes something away, and a file that is empty all of a sudden, count only when a second look finds the same: an editor
/// or a template may have truncated a file that it is about to write.
async fn read_whole(
    options: &RunOptions,
    present: &Config,
    watched: &Watched,
    paths: &[PathBuf],
) -> anyhow::Result<Config> {
    let mut before = None;
    for _ in 0..LOOKS_MAX {
        if !files::quiet(paths, &options.files).await {
            break;
        }
        let next = read(options).await?;
        let is_odd = watched.has_emptied(paths) || takes_away(present, &next);
        if !is_odd || before.as_ref() == Some(&next) {
            return Ok(next);
        }
        if before.is_none() {
            tracing::info!("the new configuration takes something away, or a file is empty: looking at it again");
        }
        before = Some(next);
        tokio::time::sleep(SECOND_LOOK).await;
    }
    Err(anyhow::anyhow!("its files keep changing"))
}

async fn read(options: &RunOptions) -> anyhow::Result<Config> {
    let read = Arc::clone(&options.read);
    // On a thread of its own: a file on a network, or behind a URL, may keep its reader waiting.
    match tokio::time::timeout(RELOAD_MAX, tokio::task::spawn_blocking(move || read())).await {
        Ok(Ok(read)) => read,
        Ok(Err(_)) => Err(anyhow::anyhow!("reading it failed in an unforeseen way")),
        Err(_) => Err(anyhow::anyhow!("not read within {} s", RELOAD_MAX.as_secs())),
    }
}

/// Whether a listener, a source of routes, a route, a pair of certificates or a scheme of authentication is there no more.
fn takes_away(present: &Config, next: &Config) -> bool {
    let listeners: HashSet<_> = next.listeners.iter().map(|it| (it.address, it.protocol.as_str())).collect();
    let routes: HashSet<_> = next.static_routes.iter().map(|it| (&it.service, &it.source)).collect();
    let sources = |config: &Config| {
        [
            config.consul.is_some(),
            config.routes_file.is_some(),
            !config.routes.trim().is_empty(),
            config.routes_http.is_some(),
        ]
    };
    let lost = |(had, has): (bool, bool)| had && !has;
    present.listeners.iter().any(|it| !listeners.contains(&(it.address, it.protocol.as_str())))
        || present.static_routes.iter().any(|it| !routes.contains(&(&it.service, &it.source)))
        || sources(present).into_iter().zip(sources(next)).any(lost)
        || present.certificates.keys().any(|name| !next.certificates.contains_key(name))
        || present.auth.keys().any(|name| !next.auth.contains_key(name))
}

/// Takes over what changed, and tells whether it did; a bad new configuration is reported and the old one stays.
async fn reload(read: anyhow::Result<Config>, config: &mut Config, running: &Running, logs: &log::LogHandle) -> bool {
    let next = match read {
        Ok(next) => next,
        Err(mistakes) => {
            running.metrics.control().reload_errors.config += 1;
            let mistakes = format!("{mistakes:#}");
            tracing::error!(mistakes, "the new configuration is wrong; the old one stays");
            return false;
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
                tracing::info!("reloaded");
            } else {
                tracing::warn!(keys = restart.join(", "), "reloaded; these keys need a restart");
            }
            *config = next;
            true
        }
        Err(error) => {
            running.metrics.control().reload_errors.config += 1;
            tracing::error!(error = format!("{error:#}"), "not reloaded; the old configuration stays");
            false
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Inputs, load};

    fn config(text: &str) -> Config {
        let inputs = Inputs { file: Some(("lb.toml".into(), text.to_owned())), ..Inputs::default() };
        load(&inputs).unwrap_or_else(|mistakes| panic!("{mistakes}")).config
    }

    const ROUTE: &str = "[[static.route]]\nservice = \"a\"\nsource = \"/\"\ntargets = [\"http://h:1\"]\n";
    const OTHER: &str = "[[static.route]]\nservice = \"a\"\nsource = \"/b\"\ntargets = [\"http://h:1\"]\n";
    const LISTENER: &str = "[[listener]]\naddress = \"127.0.0.1:81\"\n";

    #[test]
    fn what_takes_something_away_is_told_from_what_adds_or_changes() {
        let auth = "[auth.a]\nfile = \"users\"\n";
        let whole = [ROUTE, OTHER, LISTENER, "[consul]\n", auth].concat();
        let present = config(&whole);
        assert!(!takes_away(&present, &present));
        assert!(!takes_away(&config(&[ROUTE, LISTENER].concat()), &present));
        assert!(!takes_away(&present, &config(&whole.replace("h:1", "h:2"))), "another target");
        for cut in ["", ROUTE, OTHER, LISTENER, "[consul]\n", auth] {
            let rest = if cut.is_empty() { String::new() } else { whole.replace(cut, "") };
            assert!(takes_away(&present, &config(&rest)), "{cut}");
        }
        assert!(takes_away(&present, &config(&whole.replace(":81", ":82"))));
        let with_file = config(&("routes_file = \"r\"\nroutes = \"route add a / http://h:1\"\n".to_owned() + LISTENER));
        assert!(takes_away(&with_file, &config(&("routes_file = \"r\"\n".to_owned() + LISTENER))));
    }
}
