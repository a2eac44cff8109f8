//! The control thread: sources, name resolution, the control loop and the admin listener, on one
//! runtime of its own, so that neither a busy Consul nor a scrape ever takes a turn from a request.

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot, watch};

use super::explain::Explainer;
use super::overrides::KvOverrides;
use super::registration::SelfRegistration;
use super::workers::{Follower, Opener};
use crate::admin::{self, AdminState, OverrideStore, TlsSettings};
use crate::catalog::eligibility::Rules;
use crate::catalog::source::{CONSUL, OVERRIDES, SourceName};
use crate::config::{AdminConfig, Config, ListenerConfig};
use crate::control::{Control, ControlHandle, ControlSettings};
use crate::journal::events::timestamp;
use crate::journal::sources::Reminder;
use crate::journal::{Draft, Journal, Kind};
use crate::metrics::Metrics;
use crate::proxy::no_route_page::LivePage;
use crate::proxy::worker::WorkerContext;
use crate::registry::consul::{self, ConsulSource};
use crate::registry::static_routes::{self, StaticRoutes};
use crate::registry::task::SourceTask;
use crate::registry::{Update, file, resolve, routes_http};
use crate::system::vital;
use crate::table::SharedTable;
use crate::table::clock::Clock;

/// A source that runs elsewhere: its name, and where its updates come from.
pub type ExtraSource = (SourceName, mpsc::Receiver<Update>);

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
    pub(super) extra: Vec<ExtraSource>,
    pub(super) admin: TcpListener,
    pub(super) admin_tls: TlsSettings,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) table: SharedTable,
    pub(super) live_page: LivePage,
    /// What a worker needs: the one that explains is made of it.
    pub(super) context: WorkerContext,
    pub(super) open: Opener,
    pub(super) follower: Follower,
}

enum Command {
    Reload(
        Box<Config>,
        Option<Box<consul::Prepared>>,
        oneshot::Sender<anyhow::Result<()>>,
    ),
    Withdraw(oneshot::Sender<()>),
    Stop,
}

#[derive(Debug)]
pub(super) struct ControlThread {
    commands: mpsc::Sender<Command>,
}

impl ControlThread {
    /// Has the sources and the control loop take over `config`; `consul` is its part of that name,
    /// with its files read.
    pub(super) async fn reload(
        &self,
        config: Config,
        consul: Option<consul::Prepared>,
        answer: oneshot::Sender<anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let command = Command::Reload(Box::new(config), consul.map(Box::new), answer);
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
        .context("control runtime")?;
    let (commands, received) = mpsc::channel(4);
    let names = source_names(&start.config, &start.extra);
    let (control, handle) = Control::new(
        control_settings(&start.config),
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
                        started.send(Ok(())).ok();
                        parts.handle(received).await;
                    }
                    Err(error) => {
                        started.send(Err(error)).ok();
                    }
                }
            };
            local.block_on(&runtime, vital::task("the control thread", work));
        })?;
    starting
        .recv()
        .context("the control thread died while starting")??;
    Ok((ControlThread { commands }, handle))
}

fn source_names(config: &Config, extra: &[ExtraSource]) -> Vec<SourceName> {
    let overrides = config
        .consul
        .as_ref()
        .is_some_and(|consul| consul.kv_path.is_some());
    let own = [
        (config.consul.is_some(), CONSUL),
        (overrides, OVERRIDES),
        (config.has_static_source(), "static"),
        (config.routes_file.is_some(), "routes_file"),
        (config.routes_http.is_some(), routes_http::SOURCE),
    ];
    let own = own
        .into_iter()
        .filter_map(|(present, name)| present.then_some(name));
    own.chain(extra.iter().map(|(name, _)| *name)).collect()
}

fn control_settings(config: &Config) -> ControlSettings {
    let consul = config.consul.clone().unwrap_or_default();
    ControlSettings {
        tag_prefix: consul.tag_prefix,
        rules: Rules {
            accept_status: consul.accept_status,
            checks_required_all: consul.checks_required_all,
            require_check: consul.require_check,
            node_checks_all: consul.node_checks_all,
            weights: consul.weights,
            check_grace: consul.check_grace,
            critical_hold: consul.critical_hold,
        },
        matcher: config.proxy.matcher,
        strategy: config.proxy.strategy.clone(),
        fall_through: config.proxy.fall_through,
        host_patterns: config.proxy.host_patterns,
        datacenter: consul.datacenter,
        eject_after: config.health.eject_after,
        auth: config.auth.keys().cloned().collect(),
    }
}

/// What lives on the thread.
struct Parts {
    handle: ControlHandle,
    config_json: watch::Sender<Arc<str>>,
    admin: watch::Sender<Arc<AdminConfig>>,
    listeners: watch::Sender<Arc<[ListenerConfig]>>,
    consul: Option<ConsulSource>,
    registration: Option<SelfRegistration>,
    static_routes: Option<StaticRoutes>,
    /// Held for their drop.
    _tasks: Vec<SourceTask>,
}

impl Parts {
    fn start(start: Start, control: Control, handle: ControlHandle) -> anyhow::Result<Self> {
        let Start {
            config,
            extra,
            admin,
            admin_tls,
            clock,
            metrics,
            table,
            live_page,
            context,
            open,
            follower,
        } = start;
        let (updates, unresolved) = mpsc::channel(UPDATES_MAX);
        let (resolved, control_updates) = mpsc::channel(UPDATES_MAX);
        let mut tasks = vec![resolve::spawn(
            &config.dns,
            metrics.clone(),
            unresolved,
            resolved,
        )];
        let consul = match &config.consul {
            Some(consul) => Some(
                consul::spawn(consul.clone(), metrics.clone(), updates.clone())
                    .context("Consul (section consul)")?,
            ),
            None => None,
        };
        if let Some(source) = &consul {
            tokio::task::spawn_local(vital::task(
                "the page without a route",
                keep_page(source.no_route_page(), live_page),
            ));
        }
        let static_routes = if config.has_static_source() {
            let (routes, text) = (&config.static_routes, &config.routes);
            Some(static_routes::spawn(routes, text, updates.clone()).map_err(static_error)?)
        } else {
            None
        };
        if let Some(path) = &config.routes_file {
            tasks.push(file::spawn(path.clone(), metrics.clone(), updates.clone()));
        }
        if let Some(endpoint) = &config.routes_http {
            tasks.push(routes_http::spawn(
                endpoint,
                metrics.clone(),
                updates.clone(),
            ));
        }
        for (_, received) in extra {
            tokio::task::spawn_local(vital::task(
                "a source of routes",
                pass_on(received, updates.clone()),
            ));
        }
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
        let registration = consul
            .as_ref()
            .zip(config.consul.as_ref())
            .map(|(source, config)| {
                SelfRegistration::new(
                    source.registrar(),
                    table.clone(),
                    address,
                    (config.register.clone(), scheme),
                    metrics.clone(),
                )
            });
        let opened = registration.as_ref().map(SelfRegistration::starter);
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
        let kv_path = config
            .consul
            .as_ref()
            .and_then(|consul| consul.kv_path.clone());
        let state = AdminState {
            table,
            clock,
            metrics,
            control: Rc::new(handle.clone()),
            settings: settings.subscribe(),
            tls: admin_tls,
            overrides: consul.as_ref().zip(kv_path).map(|(source, prefix)| {
                Rc::new(KvOverrides::new(source.key_editor(), prefix)) as Rc<dyn OverrideStore>
            }),
            config_json: config_json.subscribe(),
            data_path: Rc::new(Explainer::new(&context, listeners.subscribe())),
        };
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
            consul,
            registration,
            static_routes,
            _tasks: tasks,
        })
    }

    async fn handle(self, mut commands: mpsc::Receiver<Command>) {
        while let Some(command) = commands.recv().await {
            match command {
                Command::Reload(config, consul, answer) => {
                    answer
                        .send(self.reload(&config, consul.map(|it| *it)).await)
                        .ok();
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

    async fn reload(
        &self,
        config: &Config,
        consul: Option<consul::Prepared>,
    ) -> anyhow::Result<()> {
        // What can fail comes first, so that a refused configuration changed nothing.
        if let (Some(source), Some(consul)) = (&self.consul, consul) {
            source
                .take_over(consul)
                .context("Consul (section consul)")?;
        }
        if let Some(source) = &self.static_routes {
            source
                .replace(&config.static_routes, &config.routes)
                .map_err(static_error)?;
        }
        if let (Some(registration), Some(consul)) = (&self.registration, &config.consul) {
            registration.reload(&consul.register, scheme(&config.admin));
        }
        self.handle.update_settings(control_settings(config)).await;
        self.admin.send_replace(Arc::new(config.admin.clone()));
        self.listeners
            .send_replace(Arc::from(config.listeners.as_slice()));
        self.config_json.send_replace(masked(config));
        Ok(())
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

fn static_error(errors: Vec<crate::catalog::command::CommandError>) -> anyhow::Error {
    let lines: Vec<String> = errors
        .iter()
        .map(|error| format!("static.route: `{}`: {}", error.text, error.reason))
        .collect();
    anyhow::anyhow!(lines.join("; "))
}

fn masked(config: &Config) -> Arc<str> {
    Arc::from(config.to_masked_json().to_string())
}

async fn pass_on(mut from: mpsc::Receiver<Update>, to: mpsc::Sender<Update>) {
    while let Some(update) = from.recv().await {
        if to.send(update).await.is_err() {
            return;
        }
    }
}

/// Hands every page that is found on to the workers.
async fn keep_page(mut found: watch::Receiver<consul::Page>, live: LivePage) {
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
    tokio::select! {
        () = handle.synced() => {}
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
