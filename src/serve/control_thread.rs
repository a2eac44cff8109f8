//! The control thread: sources, name resolution, the control loop and the admin listener, on one
//! runtime of its own, so that neither a busy Consul nor a scrape ever takes a turn from a request.

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use prometheus::Registry;
use tokio::sync::{mpsc, oneshot, watch};

use super::explain::Explainer;
use super::fleet::FleetLimits;
use super::metrics_listener::MetricsSocket;
use super::overrides::KvOverrides;
use super::registration::SelfRegistration;
use super::sticky_key;
use super::workers::{Follower, Opener};
use crate::admin::{self, AdminState, CertificateList, OverrideStore, TlsSettings};
use crate::catalog::source::NOMAD;
use crate::config::{AdminConfig, Config, ListenerConfig};
use crate::control::{Control, ControlHandle, ControlSettings};
use crate::journal::events::timestamp;
use crate::journal::sources::Reminder;
use crate::journal::{Draft, Journal, Kind};
use crate::metrics::Metrics;
use crate::proxy::no_route_page::LivePage;
use crate::proxy::worker::WorkerContext;
use crate::sources::dns::Dns;
use crate::sources::task::SourceTask;
use crate::sources::{self, Context, Page, Reload, RunningSource, Source, resolve};
use crate::system::vital;
use crate::table::SharedTable;
use crate::table::clock::Clock;
use crate::table::sticky::StickyKey;

/// Updates that may wait between a source and the control loop.
const UPDATES_MAX: usize = 1024;
/// A source that has not synced after this long no longer keeps the others' routes from being
/// served.
const SYNC_PATIENCE: Duration = Duration::from_secs(10);

/// How often the log says again that a source cannot be read.
const REMIND_EVERY: Duration = Duration::from_secs(180);

/// What the thread starts with.
pub(super) struct Start {
    pub(super) config: Config,
    /// Sources that may be on.
    pub(super) sources: Vec<Box<dyn Source>>,
    pub(super) admin: TcpListener,
    pub(super) admin_tls: TlsSettings,
    pub(super) certificates: CertificateList,
    /// The listener for scrapers, where there is one.
    pub(super) scraped: Option<MetricsSocket>,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    /// What the admin listener shows as metrics.
    pub(super) registry: Registry,
    pub(super) table: SharedTable,
    /// The key of cookies that keep clients with instances, where a file has it.
    pub(super) sticky_key: Option<StickyKey>,
    pub(super) live_page: LivePage,
    /// What a worker needs: the one that explains is made of it.
    pub(super) context: WorkerContext,
    pub(super) open: Opener,
    pub(super) follower: Follower,
}

enum Command {
    Reload(Box<Reloaded>, oneshot::Sender<()>),
    Withdraw(oneshot::Sender<()>),
    Stop,
}

/// What a reload brings.
pub(super) struct Reloaded {
    pub(super) config: Config,
    /// As the sources have prepared it.
    pub(super) sources: Vec<Reload>,
    /// See [`Start::sticky_key`].
    pub(super) sticky_key: Option<StickyKey>,
}

/// The running thread.
pub(super) struct ControlThread {
    commands: mpsc::Sender<Command>,
    sources: Arc<[Arc<dyn RunningSource>]>,
}

impl std::fmt::Debug for ControlThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlThread").finish_non_exhaustive()
    }
}

impl ControlThread {
    /// The sources that run.
    pub(super) fn sources(&self) -> Arc<[Arc<dyn RunningSource>]> {
        Arc::clone(&self.sources)
    }

    /// Has the sources and the control loop to take over a configuration.
    pub(super) async fn reload(
        &self,
        next: Reloaded,
        answer: oneshot::Sender<()>,
    ) -> anyhow::Result<()> {
        let command = Command::Reload(Box::new(next), answer);
        self.commands
            .send(command)
            .await
            .ok()
            .context("the control thread has ended")
    }

    /// Removes what is registered of this process, if anything; takes a few seconds at most.
    pub(super) async fn withdraw(&self) {
        let (done, waiting) = oneshot::channel();
        if self.commands.send(Command::Withdraw(done)).await.is_ok() {
            waiting.await.ok();
        }
    }

    /// Ends the thread; does not wait for it.
    pub(super) fn stop(&self) {
        // A full queue means that the thread is busy with a reload, and the process ends anyway.
        self.commands.try_send(Command::Stop).ok();
    }
}

pub(super) fn spawn(start: Start) -> anyhow::Result<(ControlThread, ControlHandle)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime of the control thread")?;
    let (commands, received) = mpsc::channel(4);
    let names = sources::list::names(&start.sources, &start.config);
    let (control, handle) = Control::new(
        control_settings(&start.config, start.sticky_key.clone()),
        &names,
        start.clock,
        start.metrics.clone(),
        start.table.clone(),
    );
    let thread_handle = handle.clone();
    let (started, starting) = std::sync::mpsc::channel();
    thread::Builder::new()
        .name("lb-control".to_owned())
        .spawn(move || {
            let local = tokio::task::LocalSet::new();
            let work = async move {
                match Parts::start(start, control, thread_handle) {
                    Ok(parts) => {
                        started.send(Ok(Arc::clone(&parts.sources))).ok();
                        parts.handle(received).await;
                    }
                    Err(error) => {
                        started.send(Err(error)).ok();
                    }
                }
            };
            local.block_on(&runtime, vital::task("the control thread", work));
        })?;
    let sources = starting
        .recv()
        .context("the control thread died while starting")??;
    Ok((ControlThread { commands, sources }, handle))
}

fn control_settings(config: &Config, sticky_key: Option<StickyKey>) -> ControlSettings {
    ControlSettings {
        tag_prefix: config.routing.tag_prefix.clone(),
        tag_prefixes: config
            .nomad
            .as_ref()
            .and_then(|nomad| nomad.tag_prefix.clone())
            .map(|prefix| (NOMAD, prefix))
            .into_iter()
            .collect(),
        rules: config.routing.rules(),
        matcher: config.proxy.matcher,
        strategy: config.proxy.strategy.clone(),
        fall_through: config.proxy.fall_through,
        host_patterns: config.proxy.host_patterns,
        datacenter: config.datacenter().map(str::to_owned),
        eject_after: config.health.eject_after,
        auth: config.auth.keys().cloned().collect(),
        allowed: config.tags.allowed.clone(),
        policies: config
            .policies
            .iter()
            .map(|(name, policy)| (name.as_str().into(), Arc::clone(&policy.policies)))
            .collect(),
        sticky_key,
        certificates: config.certificates.keys().cloned().collect(),
    }
}

/// What lives on the thread.
struct Parts {
    handle: ControlHandle,
    config_json: watch::Sender<Arc<str>>,
    admin: watch::Sender<Arc<AdminConfig>>,
    listeners: watch::Sender<Arc<[ListenerConfig]>>,
    sources: Arc<[Arc<dyn RunningSource>]>,
    registration: Option<SelfRegistration>,
    fleet: Option<FleetLimits>,
    /// Held for its drop.
    _resolver: SourceTask,
}

impl Parts {
    fn start(start: Start, control: Control, handle: ControlHandle) -> anyhow::Result<Self> {
        let Start {
            config,
            sources,
            admin,
            admin_tls,
            certificates,
            scraped,
            clock,
            metrics,
            registry,
            table,
            sticky_key: _,
            live_page,
            context: worker,
            open,
            follower,
        } = start;
        let (updates, unresolved) = mpsc::channel(UPDATES_MAX);
        let (resolved, control_updates) = mpsc::channel(UPDATES_MAX);
        let dns = Arc::new(Dns::new(&config.dns));
        let resolver = resolve::spawn(
            Arc::clone(&dns),
            &config.dns,
            metrics.clone(),
            unresolved,
            resolved,
        );
        let (no_route_page, page) = watch::channel(None);
        let context = Context {
            updates,
            dns,
            metrics: metrics.clone(),
            no_route_page,
            named_services: control.named_services(),
            now: Instant::now,
        };
        let sources: Arc<[_]> = sources::list::start(&sources, &config, &context)?.into();
        tokio::task::spawn_local(vital::task(
            "the page without a route",
            keep_page(page, live_page),
        ));
        tokio::task::spawn_local(vital::task(
            "the control loop",
            control.run(control_updates),
        ));

        let config_json = watch::Sender::new(masked(&config));
        let settings = watch::Sender::new(Arc::new(config.admin.clone()));
        let listeners = watch::Sender::new(Arc::from(config.listeners.as_slice()));
        admin.set_nonblocking(true).context("admin listener")?;
        let address = admin.local_addr().context("admin listener")?;
        let scheme = scheme(&config.admin);
        let registrar = sources.iter().find_map(|source| source.registrar());
        let registration = registrar
            .zip(config.register())
            .map(|(registrar, register)| {
                SelfRegistration::new(
                    registrar,
                    table.clone(),
                    address,
                    (register.clone(), scheme),
                    metrics.clone(),
                )
            });
        let counter = sources.iter().find_map(|source| source.healthy_count());
        let fleet = counter.map(|counter| {
            let share = Arc::clone(&worker.settings.load().limit_share);
            FleetLimits::new(counter, &config, share, metrics.clone())
        });
        let opened = registration.as_ref().map(SelfRegistration::starter);
        let secrets = sources.iter().find_map(|source| source.secrets());
        tokio::task::spawn_local(vital::task(
            "the key of cookies",
            sticky_key::keep(handle.clone(), secrets),
        ));
        let journal = metrics.journal().clone();
        tokio::task::spawn_local(vital::task("the reminders", remind(journal.clone())));
        let open = open_when_synced(
            handle.clone(),
            table.clone(),
            open,
            opened,
            follower,
            journal,
        );
        tokio::task::spawn_local(vital::task("what opens listeners", open));
        let command_keys = sources.iter().find_map(|source| source.command_keys());
        let state = AdminState {
            table,
            clock,
            metrics,
            registry,
            control: Rc::new(handle.clone()),
            settings: settings.subscribe(),
            tls: admin_tls,
            certificates,
            overrides: command_keys
                .map(|keys| Rc::new(KvOverrides::new(keys)) as Rc<dyn OverrideStore>),
            config_json: config_json.subscribe(),
            data_path: Rc::new(Explainer::new(&worker, listeners.subscribe())),
        };
        if let Some(MetricsSocket {
            listener,
            address,
            tls,
        }) = scraped
        {
            listener.set_nonblocking(true).context("metrics listener")?;
            let listener =
                tokio::net::TcpListener::from_std(listener).context("metrics listener")?;
            admin::serve_metrics(listener, state.clone(), tls);
            tracing::info!(target: "lb::serve", listener = "metrics", %address, "listening");
        }
        admin::serve(
            tokio::net::TcpListener::from_std(admin).context("admin listener")?,
            state,
        );
        tracing::info!(target: "lb::serve", listener = "admin", %address, "listening");
        Ok(Self {
            handle,
            config_json,
            admin: settings,
            listeners,
            sources,
            registration,
            fleet,
            _resolver: resolver,
        })
    }

    async fn handle(self, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Reload(next, answer) => {
                    self.reload(*next).await;
                    answer.send(()).ok();
                }
                Command::Withdraw(done) => {
                    if let Some(registration) = &self.registration {
                        registration.withdraw().await;
                    }
                    done.send(()).ok();
                }
                Command::Stop => return,
            }
        }
    }

    async fn reload(&self, next: Reloaded) {
        let Reloaded {
            config,
            sources,
            sticky_key,
        } = next;
        sources.into_iter().for_each(Reload::apply);
        if let (Some(registration), Some(register)) = (&self.registration, config.register()) {
            registration.reload(register, scheme(&config.admin));
        }
        if let Some(fleet) = &self.fleet {
            fleet.reload(&config);
        }
        let settings = control_settings(&config, sticky_key);
        self.handle.update_settings(settings).await;
        self.admin.send_replace(Arc::new(config.admin.clone()));
        self.listeners
            .send_replace(Arc::from(config.listeners.as_slice()));
        self.config_json.send_replace(masked(&config));
    }
}

/// What is spoken on the admin listener.
fn scheme(config: &AdminConfig) -> &'static str {
    if config.certificates.is_some() {
        "https"
    } else {
        "http"
    }
}

fn masked(config: &Config) -> Arc<str> {
    Arc::from(config.to_masked_json().to_string())
}

/// Hands every page that is found on to the workers, which send it.
async fn keep_page(mut found: watch::Receiver<Page>, live: LivePage) {
    while found.changed().await.is_ok() {
        live.set(found.borrow_and_update().clone());
    }
}

/// Opens the listeners once everything is known; or, when a source keeps silent, once there is
/// anything to serve.
async fn open_when_synced(
    handle: ControlHandle,
    table: SharedTable,
    open: Opener,
    opened: Option<impl FnOnce()>,
    follower: Follower,
    journal: Journal,
) {
    let patience = async {
        tokio::time::sleep(SYNC_PATIENCE).await;
        let waited_for = handle.readiness().waiting_for;
        let trouble = |name: &String| {
            journal
                .sources()
                .get(name)
                .and_then(|source| source.trouble())
        };
        let waiting_for: Vec<String> = waited_for
            .iter()
            .map(|name| trouble(name).unwrap_or(name.clone()))
            .collect();
        let waiting_for = waiting_for.join("; ");
        tracing::warn!(%waiting_for, "still not synced; clients are served as soon as any route is known");
        while table.load().is_empty() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let known = async {
        handle.synced().await;
        // Else a client could lose its instance to a start.
        handle.has_sticky_key().await;
    };
    tokio::select! {
        () = known => {}
        () = patience => {}
    }
    if let Err(error) = open() {
        tracing::error!(error = format!("{error:#}"), "cannot open the listeners");
        // No client can be served, and nothing here will change that: the process ends, so that the
        // supervisor notices.
        crate::log::flush();
        std::process::exit(1);
    }
    let serving = Draft::new(Kind::Process).states("starting", "serving");
    journal.events().push(serving.because("clients are served"));
    follower.follow().await;
    super::notify::ready();
    if let Some(opened) = opened {
        opened();
    }
    follower.run().await;
}

/// Says again, while a source fails, that it does.
async fn remind(journal: Journal) {
    let mut every = tokio::time::interval(Duration::from_secs(5));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        for Reminder { status, lasting } in
            journal.sources().reminders(REMIND_EVERY, Instant::now())
        {
            tracing::warn!(
                source = status.name,
                since = status.failing_since.and_then(timestamp),
                for_s = lasting.as_secs(),
                watches = status.watches,
                failing = status.failing_watches,
                error = status.last_error,
                "source still cannot be read; what is known stays in force"
            );
        }
    }
}
