//! The composition root: builds all parts, owns the order of start, reload and stop.
//!
//! ```text
//! start:  bind every socket (none listens yet) ─► control thread: sources, table, admin
//!            └─ when every source has synced ─► open the sockets, start the workers ─► ready
//! stop:   not ready, registration removed ─► grace ─► workers drain ─► deadline cuts ─► control thread ends
//! ```
//! Sockets listen only once there is a table: a client never meets a balancer that knows nothing
//! yet, and a predecessor on the same ports keeps serving until then.

mod aside;
mod certificates;
mod control_thread;
mod descriptors;
mod explain;
mod files;
mod fleet;
mod metrics;
mod metrics_listener;
mod neighbours;
mod notify;
mod overrides;
mod registration;
mod run;
mod settings;
mod shadow;
mod sticky_key;
mod workers;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use crate::config::{Config, DrainConfig, format_duration};
use crate::control::ControlHandle;
use crate::fabio::metrics::send::Reporter;
use crate::journal::{Draft, Kind};
use crate::log::AccessLogWriter;
use crate::metrics::Metrics;
use crate::proxy::drain::{Phase, PhaseSender};
use crate::proxy::listener::{self, Sharing};
use crate::proxy::no_route_page::LivePage;
use crate::proxy::settings::SharedSettings;
use crate::proxy::sharing;
use crate::sources::{self, Reload, Source, SourceError};
use crate::table::SharedTable;
use crate::table::clock::Clock;

use aside::Aside;
use control_thread::Reloaded;
use metrics_listener::{MetricsSocket, MetricsTls};
use neighbours::Neighbours;

pub use run::{RunOptions, Signals, run};
pub use shadow::shadow;

/// Longest time for the files that a reload reads.
const READ_MAX: Duration = Duration::from_secs(25);
/// Longest wait for the registration's end: more than it takes where the agent does not respond.
const WITHDRAW_MAX: Duration = Duration::from_secs(10);

/// A balancer at work on threads of its own.
#[derive(Debug)]
pub struct Running {
    /// Listeners: protocol and real address.
    pub listeners: Vec<(String, SocketAddr)>,
    /// Address of the admin listener.
    pub admin: SocketAddr,
    /// The table.
    pub table: SharedTable,
    /// The counters.
    pub metrics: Metrics,
    control: ControlHandle,
    settings: SharedSettings,
    /// Limit of open files, as it was raised.
    descriptors: Option<u64>,
    live_page: LivePage,
    certificates: Arc<certificates::Certificates>,
    phase: PhaseSender,
    thread: control_thread::ControlThread,
    workers: workers::Workers,
    follower: workers::Follower,
    neighbours: Neighbours,
    metrics_tls: Arc<MetricsTls>,
    access_writer: AccessLogWriter,
    /// Sends metrics until it is dropped.
    _reporter: Option<Reporter>,
}

/// Starts everything, with the sources of the configuration and those of `extra`. Returns as soon as
/// all sockets are bound and all threads run; [`Running::opened`] tells when clients are served.
///
/// # Errors
/// A socket that cannot be bound, a certificate or CA that cannot be used, a thread that cannot be
/// made.
pub fn start(config: &Config, extra: Vec<Box<dyn Source>>) -> anyhow::Result<Running> {
    start_when_read(config, extra, || {})
}

/// The same; `read` is called once all files are read and nothing serves yet: from there on there is
/// something to end in order.
fn start_when_read(
    config: &Config,
    extra: Vec<Box<dyn Source>>,
    read: impl FnOnce(),
) -> anyhow::Result<Running> {
    // A second call in one process (tests) finds a provider there already.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .ok();
    let clock = Clock::start();
    let counting = metrics::build(&config.metrics, crate::log::dropped())
        .context("cannot set up the metrics")?;
    let metrics = counting.metrics.clone();
    let started = format!(
        "version {}, process {}",
        env!("CARGO_PKG_VERSION"),
        std::process::id()
    );
    metrics.journal().events().push(
        Draft::new(Kind::Process)
            .states("new", "starting")
            .because(&started),
    );
    let (access, access_writer) =
        AccessLogWriter::start(config.log.access.clone(), metrics.access_log_dropped())
            .context("cannot start the access log")?;
    let access = access.with_connections(config.log.access_tcp);
    let table = SharedTable::default();
    let phase = PhaseSender::new(Phase::Serving);
    let certificates = Arc::new(certificates::Certificates::load(config, &metrics, &table)?);
    let live_page = LivePage::default();
    let workers = workers::count(config);
    let limit = descriptors::raise_limit(workers * config.listeners.len());
    let clients_max = descriptors::clients_max(config, workers, limit);
    descriptors::tell(config.proxy.max_connections, clients_max, workers, limit);
    let stores = certificates.stores();
    let beside = settings::Beside {
        live: &live_page,
        stores: &stores,
        challenges: certificates.challenges(config),
        clients_max,
        metrics: &metrics,
    };
    let first_settings = settings::build(config, None, beside)?;
    let shared_settings: SharedSettings = Arc::new(ArcSwap::from_pointee(first_settings));

    let workers = workers::Workers::bind(config, &certificates.stores(), &metrics)?;
    certificates::check_admin(&config.admin, &certificates.stores())?;
    // Shared with a predecessor on the same address where the listeners are, so that it can be
    // relieved.
    let sharing = workers.sharing(config.admin.address);
    let admin =
        bind_alone(config.admin.address, sharing).context("admin listener (key admin.address)")?;
    let admin_address = admin.local_addr().context("admin listener")?;
    workers.note("admin", admin_address);
    let metrics_tls = Arc::new(MetricsTls::load(
        &config.metrics,
        &certificates.stores(),
        &metrics,
    )?);
    let scraped = match config.metrics.address {
        None => None,
        Some(address) => {
            let sharing = workers.sharing(address);
            let listener =
                bind_alone(address, sharing).context("metrics listener (key metrics.address)")?;
            let address = listener.local_addr().context("metrics listener")?;
            workers.note("metrics", address);
            Some(MetricsSocket {
                listener,
                address,
                tls: metrics_tls.settings(&certificates),
            })
        }
    };
    let mut beside = vec![("admin", admin_address, sharing::inode_of(&admin))];
    beside.extend(scraped.iter().map(|it| ("metrics", it.address, it.inode())));
    let neighbours = Neighbours::new(beside, metrics.clone());

    let context = crate::proxy::worker::WorkerContext {
        table: table.clone(),
        settings: Arc::clone(&shared_settings),
        metrics: metrics.clone(),
        access,
        clock,
        probe: crate::table::Probe::default(),
        phase: phase.subscribe(),
    };
    let listeners = workers.addresses();
    let follower = workers.follower(table.clone(), metrics.clone(), phase.subscribe());
    let mut all_sources = sources::list();
    all_sources.extend(extra);
    read();
    let (thread, control) = control_thread::spawn(control_thread::Start {
        config: config.clone(),
        sources: all_sources,
        admin,
        admin_tls: certificates.for_admin(),
        certificates: certificates.list(),
        scraped,
        clock,
        metrics: metrics.clone(),
        registry: counting.registry.clone(),
        table: table.clone(),
        sticky_key: sticky_key::read_at_start(&config.proxy),
        live_page: live_page.clone(),
        context: context.clone(),
        open: workers.opener(context),
        follower: follower.clone(),
    })?;
    let reporter = counting
        .report(&config.metrics)
        .context("cannot start sending metrics")?;
    Ok(Running {
        listeners,
        admin: admin_address,
        table,
        metrics,
        control,
        settings: shared_settings,
        descriptors: limit,
        live_page,
        certificates,
        phase,
        thread,
        workers,
        follower,
        neighbours,
        metrics_tls,
        access_writer,
        _reporter: reporter,
    })
}

/// One socket, for the control thread.
fn bind_alone(address: SocketAddr, sharing: Sharing) -> anyhow::Result<TcpListener> {
    listener::bind(address, 1, sharing)?
        .open()?
        .pop()
        .context("the system gave no listening socket")
}

impl Running {
    /// Looks for other processes on the same addresses.
    fn look_for_neighbours(&self) {
        self.neighbours.look(&self.workers);
    }

    /// Waits until clients are served; false when that can not happen any more.
    pub async fn opened(&self) -> bool {
        self.workers.opened().await
    }

    /// Takes over everything of `next` that can change while sockets are open. Returns the keys
    /// that need a restart.
    ///
    /// # Errors
    /// What is wrong with the new configuration; the old one then stays in force, whole.
    async fn reload(
        &self,
        present: &Config,
        next: &Config,
        files: &Aside,
    ) -> anyhow::Result<Vec<String>> {
        // What can fail comes first, so that a refused configuration changed nothing. Files are
        // read beside this thread, which has signals to hear.
        let (settings, live_page) = (self.settings.load_full(), self.live_page.clone());
        let (certificates, config) = (Arc::clone(&self.certificates), next.clone());
        let (metrics, running) = (self.metrics.clone(), self.thread.sources());
        let metrics_tls = Arc::clone(&self.metrics_tls);
        let clients_max = descriptors::clients_max(next, self.workers.count(), self.descriptors);
        let prepared = files.run(READ_MAX, move || -> anyhow::Result<_> {
            let stores = certificates.prepare(&config)?;
            let beside = settings::Beside {
                live: &live_page,
                stores: &stores,
                challenges: certificates.challenges(&config),
                clients_max,
                metrics: &metrics,
            };
            let built = settings::build(&config, Some(&settings), beside)?;
            certificates::check_admin(&config.admin, &stores)?;
            let trust = metrics_tls.prepare(&config.metrics, &stores)?;
            let sources: Result<Vec<Reload>, SourceError> = running
                .iter()
                .map(|source| source.prepare(&config))
                .collect();
            let sticky_key = sticky_key::read(&config.proxy)?;
            Ok((Arc::new(built), stores, trust, sources?, sticky_key))
        });
        let (built, stores, trust, sources, sticky_key) = prepared
            .await
            .context("cannot read the files that the configuration names")??;
        let listeners = self.workers.prepare(next, &stores, &self.metrics)?;
        let (answer, answered) = oneshot::channel();
        let reloaded = Reloaded {
            config: next.clone(),
            sources,
            sticky_key,
        };
        self.thread.reload(reloaded, answer).await?;
        answered.await.context("the control thread has ended")?;
        self.settings.store(Arc::clone(&built));
        let metrics_tls = Arc::clone(&self.metrics_tls);
        let (certificates, config) = (Arc::clone(&self.certificates), next.clone());
        let taken_over = files.run(READ_MAX, move || {
            built.auth.read_again();
            certificates.commit(stores, &config);
            metrics_tls.commit(trust);
        });
        // The rest is in force already: files that hang are read when they can be.
        if let Err(error) = taken_over.await {
            tracing::warn!(%error, "the files of certificates or users are read later");
        }
        self.workers.commit(listeners).await?;
        self.follower.reloaded().await;
        let mut restart = present.differs_only_in_reloadable(next);
        let of_sources = sources::list::restart_keys(present, next);
        restart.extend(of_sources.into_iter().map(str::to_owned));
        Ok(restart)
    }

    /// The orderly end: not ready, grace, drain. `hurry` completes when there is no time for that
    /// any more.
    pub async fn drain(self, config: &DrainConfig, hurry: impl Future<Output = ()>) {
        self.control.set_draining();
        let reason = format!(
            "grace {}, timeout {}",
            format_duration(config.grace),
            format_duration(config.timeout)
        );
        let event = Draft::new(Kind::Process)
            .states("serving", "draining")
            .because(&reason);
        self.metrics.journal().events().push(event);
        tracing::info!(
            grace = format_duration(config.grace),
            timeout = format_duration(config.timeout),
            "draining"
        );
        let orderly = async {
            // First of all, so that Consul sends no client here any more while traffic is still
            // served.
            tokio::time::timeout(WITHDRAW_MAX, self.thread.withdraw())
                .await
                .ok();
            tokio::time::sleep(config.grace).await;
            self.phase.send_replace(Phase::Draining);
            if tokio::time::timeout(config.timeout, self.workers.ended())
                .await
                .is_err()
            {
                tracing::warn!(timeout = ?config.timeout, "drain timeout: closing remaining connections");
            }
        };
        tokio::select! {
            () = orderly => {}
            () = hurry => tracing::warn!("second signal: closing remaining connections"),
        }
        self.phase.send_replace(Phase::Cut);
        // Workers notice within a loop turn; a thread that does not must not hold the exit up.
        tokio::time::timeout(Duration::from_secs(1), self.workers.ended())
            .await
            .ok();
        self.thread.stop();
        self.access_writer.finish(Duration::from_secs(1));
        tracing::info!("drained");
    }

    /// Ends everything at once.
    pub fn stop(self) {
        self.control.set_draining();
        self.phase.send_replace(Phase::Cut);
        self.thread.stop();
        self.access_writer.finish(Duration::from_secs(1));
    }

    /// Whether the control thread responds.
    pub async fn is_alive(&self) -> bool {
        tokio::time::timeout(Duration::from_secs(5), self.control.is_alive())
            .await
            .unwrap_or(false)
    }
}
