//! `lb run`: the balancer as a process, with its signals, its reloads and its exit.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::aside::{Aside, AsideError, Look};
use super::files::{self, Watched};
use super::{Running, certificates, notify, start_when_read};
use crate::config::Config;
use crate::journal::{Draft, Kind};
use crate::log;
use crate::sources;
use crate::system::signals::{Ending, Harmless};
use crate::system::vital;

/// Longest time for a reload.
const RELOAD_MAX: Duration = Duration::from_secs(30);
/// How long a configuration that takes something away is given to become another one, and how often
/// that may happen.
const SECOND_LOOK: Duration = Duration::from_secs(1);
const LOOKS_MAX: usize = 6;
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
        f.debug_struct("RunOptions")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// The signals of a process that serves, heard from the first moment: none ends it by surprise, not
/// even while it reads its configuration.
#[derive(Debug)]
pub struct Signals {
    runtime: Runtime,
    ending: Ending,
    hangup: Signal,
    harmless: Harmless,
    starting: Starting,
}

impl Signals {
    /// Listens from now on. Until [`run`] has everything started, a signal that ends the process
    /// does so at once.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn listen() -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let listening = || -> std::io::Result<_> {
            let _inside = runtime.enter();
            Ok((
                Ending::listen()?,
                signal(SignalKind::hangup())?,
                Harmless::listen()?,
            ))
        };
        let (ending, hangup, harmless) = listening().context("cannot listen to signals")?;
        Ok(Self {
            runtime,
            ending,
            hangup,
            harmless,
            starting: Starting::begin()?,
        })
    }
}

/// A thread that ends the process at a signal, for as long as the main thread may hang on a file or
/// a socket and has nothing to end in order. Dropped: it does so no longer.
#[derive(Debug)]
struct Starting(#[allow(dead_code, reason = "held for its drop")] oneshot::Sender<()>);

impl Starting {
    fn begin() -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let (over, is_over) = oneshot::channel::<()>();
        std::thread::Builder::new()
            .name("lb-starting".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let Ok(mut ending) = Ending::listen() else {
                        return;
                    };
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
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")
}

/// Runs with `config`, which came from `options`, until a signal ends it; reloads read `options`
/// again.
///
/// # Errors
/// What kept it from starting.
pub fn run(config: Config, options: &RunOptions, signals: Signals) -> anyhow::Result<()> {
    let Signals {
        runtime,
        ending,
        hangup,
        harmless,
        starting,
    } = signals;
    // Before anything is read: what changes meanwhile is a change.
    let watched = Watched::new(files::look(&watched_files(options, &config)));
    let running = start_when_read(&config, Vec::new(), || drop(starting))?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), admin = %running.admin, "lb started");
    if config.proxy.trusted_proxies.hold_a_whole_family() {
        tracing::info!(
            trusted_proxies = %config.proxy.trusted_proxies,
            "every sender is trusted: X-Forwarded-*, Forwarded and X-Real-Ip are passed on as they come; \
             name your own proxies in proxy.trusted_proxies to believe them alone"
        );
    }
    let outcome = runtime.block_on(attend(
        options,
        config,
        running,
        watched,
        (ending, hangup, harmless),
    ));
    // Not waited for: a thread of it may hang on a file.
    runtime.shutdown_background();
    outcome
}

/// Looks after what runs, until a signal; each of its tasks waits for none of the others.
async fn attend(
    options: &RunOptions,
    mut config: Config,
    running: Running,
    watched: Watched,
    (mut ending, mut hangup, mut harmless): (Ending, Signal, Harmless),
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
        never = follow_files(options, &mut config, &running, watched, &mut hangup) => never,
        never = follow_users(&running) => never,
        never = tell_watchdog(&running) => never,
        never = ignore => never,
    };
    if let Some(part) = failed {
        tracing::error!(
            part,
            "a part of lb has failed that has to run: it ends in order, to be started anew"
        );
    }
    notify::stopping();
    running.drain(&config.drain, ending.came()).await;
    match failed {
        None => Ok(()),
        Some(part) => anyhow::bail!("{part} has failed; the log says where"),
    }
}

/// Reloads at SIGHUP, and when a file of the configuration changed.
async fn follow_files<T>(
    options: &RunOptions,
    config: &mut Config,
    running: &Running,
    mut watched: Watched,
    hangup: &mut Signal,
) -> T {
    let mut every = ticks(LOOK_EVERY);
    let files = Aside::default();
    let mut look = Look::new(
        LOOK_MAX,
        "cannot look at the files of the configuration: changes are not seen",
    );
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            _ = every.tick() => false,
        };
        if asked {
            tracing::info!("SIGHUP: reloading");
        } else {
            running.look_for_neighbours();
        }
        let paths = watched_files(options, config);
        // Before reading: what changes meanwhile is a change.
        let looked = tokio::select! {
            looked = look.run(move || files::look(&paths)) => looked,
            // Without a look: it may hang.
            _ = hangup.recv(), if !asked => {
                tracing::info!("SIGHUP: reloading");
                reload(options, config, running, &mut watched, &files).await;
                continue;
            }
        };
        let changed = match looked {
            Some(look) if asked => {
                watched.note(look);
                false
            }
            Some(look) => watched.settled_change(look),
            None => false,
        };
        if changed {
            tracing::info!("a file of the configuration changed: reloading");
        }
        if asked || changed {
            reload(options, config, running, &mut watched, &files).await;
        }
    }
}

/// Reads files of users and of keys again, and fetches keys in time.
async fn follow_users<T>(running: &Running) -> T {
    let mut every = ticks(LOOK_EVERY);
    let mut look = Look::new(
        LOOK_MAX,
        "cannot look at the files of users: what is known of them stays",
    );
    loop {
        every.tick().await;
        let settings = running.settings.load_full();
        settings.auth.fetch_due(std::time::Instant::now());
        running.metrics.control().auth_keys = settings
            .auth
            .keys()
            .map(|(name, report)| (name.to_owned(), (report.read_at_s, report.errors)))
            .collect();
        if !settings.auth.has_files() {
            continue;
        }
        look.run(move || settings.auth.refresh(std::time::Instant::now()))
            .await;
    }
}

async fn tell_watchdog<T>(running: &Running) -> T {
    let Some(period) = notify::watchdog() else {
        return std::future::pending().await;
    };
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
fn watched_files(options: &RunOptions, config: &Config) -> Vec<PathBuf> {
    let mut paths = certificates::paths(config);
    paths.extend(options.files.iter().cloned());
    paths.extend(
        [
            &config.proxy.no_route_page,
            &config.proxy.upstream_ca_file,
            &config.proxy.sticky_key_file,
        ]
        .into_iter()
        .flatten()
        .cloned(),
    );
    let pages = config.error_pages().flat_map(|pages| pages.files());
    paths.extend(pages.map(|path| path.to_path_buf()));
    paths.extend(sources::list::files(config));
    paths
}

/// The configuration once its files are whole, and the files that were not empty then. They are
/// taken for whole when they have been left alone for a moment; a configuration that takes
/// something away, and a file that is empty all of a sudden, count only when a second look finds
/// the same: an editor or a template may have truncated a file that it is about to write. Blocks as
/// long as the files do, and for some seconds in the latter case.
fn read_whole(
    options: &RunOptions,
    present: &Config,
    full: &BTreeSet<PathBuf>,
) -> anyhow::Result<(Config, BTreeSet<PathBuf>)> {
    let paths = watched_files(options, present);
    let mut before = None;
    for _ in 0..LOOKS_MAX {
        if !files::quiet(&paths, &options.files) {
            break;
        }
        let next = (options.read)()?;
        let look = files::look(&watched_files(options, &next));
        let is_odd = files::has_emptied(&look, full) || takes_away(present, &next);
        if !is_odd || before.as_ref() == Some(&next) {
            return Ok((next, files::full(&look)));
        }
        if before.is_none() {
            tracing::info!(
                "the new configuration takes something away, or a file is empty: looking at it again"
            );
        }
        before = Some(next);
        std::thread::sleep(SECOND_LOOK);
    }
    anyhow::bail!("its files keep changing")
}

/// Whether a listener, a source of routes, a route, a pair of certificates or a scheme of
/// authentication is there no more.
fn takes_away(present: &Config, next: &Config) -> bool {
    let listeners: HashSet<_> = next
        .listeners
        .iter()
        .map(|it| (it.address, it.protocol.as_str()))
        .collect();
    present
        .listeners
        .iter()
        .any(|it| !listeners.contains(&(it.address, it.protocol.as_str())))
        || sources::list::takes_away(present, next)
        || present
            .certificates
            .keys()
            .any(|name| !next.certificates.contains_key(name))
        || present
            .auth
            .keys()
            .any(|name| !next.auth.contains_key(name))
}

/// Takes over what changed; a bad new configuration is reported and the old one stays.
async fn reload(
    options: &RunOptions,
    config: &mut Config,
    running: &Running,
    watched: &mut Watched,
    files: &Aside,
) {
    let (reading, present, full) = (options.clone(), config.clone(), watched.full().clone());
    // On a thread of its own: a file on a network, or behind a URL, may keep its reader waiting.
    let next = files
        .run(RELOAD_MAX, move || read_whole(&reading, &present, &full))
        .await;
    let next = next
        .unwrap_or_else(|error: AsideError| Err(anyhow::Error::new(error).context("reading it")));
    let (next, full) = match next {
        Ok(next) => next,
        Err(mistakes) => {
            running.metrics.control().reload_errors.config += 1;
            let mistakes = format!("{mistakes:#}");
            tell(
                running,
                "refused",
                &format!("the new configuration is wrong; the old one stays: {mistakes}"),
            );
            return tracing::error!(
                mistakes,
                "the new configuration is wrong; the old one stays"
            );
        }
    };
    // A reload that hangs must not keep signals from being heard.
    let reloaded = tokio::time::timeout(RELOAD_MAX, running.reload(config, &next, files)).await;
    match reloaded.unwrap_or_else(|_| {
        Err(anyhow::anyhow!(
            "not done within {} s",
            RELOAD_MAX.as_secs()
        ))
    }) {
        Ok(restart) => {
            if next.log.level != config.log.level
                && let Err(error) = options.log.set_level(&next.log.level)
            {
                tracing::error!(%error, "log level not changed");
            }
            if restart.is_empty() {
                tell(running, "reloaded", "");
                tracing::info!("reloaded");
            } else {
                tell(
                    running,
                    "reloaded",
                    &format!("these keys need a restart: {}", restart.join(", ")),
                );
                tracing::warn!(
                    keys = restart.join(", "),
                    "reloaded; these keys need a restart"
                );
            }
            *config = next;
            watched.note_taken_over(full);
        }
        Err(error) => {
            running.metrics.control().reload_errors.config += 1;
            tell(
                running,
                "refused",
                &format!("not reloaded; the old configuration stays: {error:#}"),
            );
            tracing::error!(
                error = format!("{error:#}"),
                "not reloaded; the old configuration stays"
            );
        }
    }
}

/// An event about the configuration.
fn tell(running: &Running, to: &'static str, reason: &str) {
    let event = Draft::new(Kind::Config).to(to);
    let event = if reason.is_empty() {
        event
    } else {
        event.because(reason)
    };
    running.metrics.journal().events().push(event);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Inputs, load};

    fn config(text: &str) -> Config {
        let inputs = Inputs {
            file: Some(("lb.toml".into(), text.to_owned())),
            ..Inputs::default()
        };
        load(&inputs)
            .unwrap_or_else(|mistakes| panic!("{mistakes}"))
            .config
    }

    const ROUTE: &str =
        "[[static.route]]\nservice = \"a\"\nsource = \"/\"\ntargets = [\"http://h:1\"]\n";
    const OTHER: &str =
        "[[static.route]]\nservice = \"a\"\nsource = \"/b\"\ntargets = [\"http://h:1\"]\n";
    const LISTENER: &str = "[[listener]]\naddress = \"127.0.0.1:81\"\n";

    #[test]
    fn what_takes_something_away_is_told_from_what_adds_or_changes() {
        let auth = "[auth.a]\nfile = \"users\"\n";
        let whole = [ROUTE, OTHER, LISTENER, "[consul]\n", auth].concat();
        let present = config(&whole);
        assert!(!takes_away(&present, &present));
        assert!(!takes_away(&config(&[ROUTE, LISTENER].concat()), &present));
        assert!(
            !takes_away(&present, &config(&whole.replace("h:1", "h:2"))),
            "another target"
        );
        for cut in ["", ROUTE, OTHER, LISTENER, "[consul]\n", auth] {
            let rest = if cut.is_empty() {
                String::new()
            } else {
                whole.replace(cut, "")
            };
            assert!(takes_away(&present, &config(&rest)), "{cut}");
        }
        assert!(takes_away(&present, &config(&whole.replace(":81", ":82"))));
        let with_file = config(
            &("routes_file = \"r\"\nroutes = \"route add a / http://h:1\"\n".to_owned() + LISTENER),
        );
        assert!(takes_away(
            &with_file,
            &config(&("routes_file = \"r\"\n".to_owned() + LISTENER))
        ));
    }
}
