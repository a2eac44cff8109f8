//! The two sources that Consul is: its catalog, and the route commands in its KV store. They share
//! their connections, and the catalog's takes new configurations for both.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;

use super::connection::{Connection, prepare};
use super::healthy_count::HealthyCount;
use super::kv_editor::KeyEditor;
use super::probe::probe;
use super::register::Registrar;
use super::shared::Shared;
use super::{feed, list, overrides, page};
use crate::catalog::source::{CONSUL, OVERRIDES, SourceName};
use crate::config::{Config, ConsulConfig, Draft, Secret};
use crate::sources::context::Context;
use crate::sources::key_store::{CommandKeys, KeyStore};
use crate::sources::look::{Look, Pem};
use crate::sources::probe_step::ProbeStep;
use crate::sources::source::{Reload, RunningSource, Source, SourceError};
use crate::sources::task::SourceTask;
use crate::sources::{healthy_count, registration};

/// The source `consul`: the services of the catalog. It also finds the page for requests without a
/// route, and registers lb itself.
pub struct ConsulCatalog(Connection);

impl ConsulCatalog {
    /// Over connections that may be others' too.
    #[must_use]
    pub fn over(connection: Connection) -> Self {
        Self(connection)
    }
}

struct RunningCatalog {
    shared: Arc<Shared>,
    _tasks: Vec<SourceTask>,
}

impl Source for ConsulCatalog {
    fn name(&self) -> SourceName {
        CONSUL
    }

    fn is_on(&self, config: &Config) -> bool {
        config.consul.is_some()
    }

    fn start(
        &self,
        config: &Config,
        context: &Context,
    ) -> Result<Box<dyn RunningSource>, SourceError> {
        let shared = self.0.open(config, context)?;
        // The service watches are owned by the list's task and end with it.
        let mut tasks = vec![
            SourceTask::spawn(list::run(shared.clone(), context.named_services.clone())),
            SourceTask::spawn(feed::run(shared.clone())),
        ];
        let page_path = shared.config().no_route_kv_path.clone();
        tasks.extend(page_path.map(|path| {
            let found = context.no_route_page.clone();
            SourceTask::spawn(page::run(shared.clone(), path, found))
        }));
        Ok(Box::new(RunningCatalog {
            shared,
            _tasks: tasks,
        }))
    }

    fn restart_keys(&self, present: &Config, next: &Config) -> Vec<&'static str> {
        let (Some(old), Some(new)) = (&present.consul, &next.consul) else {
            let differs = present.consul.is_some() != next.consul.is_some();
            return differs.then_some("consul").into_iter().collect();
        };
        let mut keys = old.restart_keys(new);
        keys.extend(old.register.restart_keys(&new.register));
        keys.sort_unstable();
        keys
    }

    fn files(&self, config: &Config) -> Vec<PathBuf> {
        let consul = config.consul.iter();
        let files = consul.flat_map(|consul| {
            [
                &consul.ca_file,
                &consul.ca_path,
                &consul.cert_file,
                &consul.key_file,
                &consul.token_file,
            ]
        });
        files.flatten().cloned().collect()
    }

    fn looks<'a>(&self, config: &'a Config) -> Vec<Look<'a>> {
        config.consul.as_ref().map(looks).unwrap_or_default()
    }

    fn probe<'a>(&self, draft: &'a Draft) -> Option<LocalBoxFuture<'a, Vec<ProbeStep>>> {
        draft.config.consul.as_ref()?;
        let Some(consul) = draft.consul() else {
            let detail = "not dialled: the configuration of Consul is wrong";
            let step = ProbeStep::failed("config", detail, None);
            return Some(std::future::ready(vec![step]).boxed_local());
        };
        Some(probe(consul, &draft.config.routing.tag_prefix).boxed_local())
    }
}

fn looks(consul: &ConsulConfig) -> Vec<Look<'_>> {
    let pair = Look::ClientPair {
        cert: Pem::of(
            ("consul.cert_file", &consul.cert_file),
            ("consul.cert_pem", consul.cert_pem.as_deref()),
        ),
        key: Pem::of(
            ("consul.key_file", &consul.key_file),
            (
                "consul.key_pem",
                consul.key_pem.as_ref().map(Secret::reveal),
            ),
        ),
    };
    let ca_file = consul.ca_file.as_deref().map(Pem::File);
    let ca_pem = consul.ca_pem.as_deref().map(Pem::Text);
    let ca_path = consul.ca_path.as_deref();
    let token_file = consul.token_file.as_deref();
    [
        ca_file.map(|pem| Look::Authorities("consul.ca_file", pem)),
        ca_pem.map(|pem| Look::Authorities("consul.ca_pem", pem)),
        ca_path.map(|path| Look::AuthoritiesBelow("consul.ca_path", path)),
        Some(pair),
        token_file.map(|path| Look::Token("consul.token_file", path)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl RunningSource for RunningCatalog {
    fn prepare(&self, next: &Config) -> Result<Reload, SourceError> {
        prepare(&self.shared, next)
    }

    fn secrets(&self) -> Option<Box<dyn KeyStore>> {
        Some(Box::new(KeyEditor::new(self.shared.clone())))
    }

    fn registrar(&self) -> Option<Box<dyn registration::Registrar>> {
        Some(Box::new(Registrar::start(self.shared.clone())))
    }

    fn healthy_count(&self) -> Option<Box<dyn healthy_count::HealthyCount>> {
        Some(Box::new(HealthyCount::start(self.shared.clone())))
    }
}

/// The source `consul_kv`: route commands below `consul.kv_path`.
pub struct ConsulCommands(Connection);

impl ConsulCommands {
    /// Over connections that may be others' too.
    #[must_use]
    pub fn over(connection: Connection) -> Self {
        Self(connection)
    }
}

struct RunningCommands {
    shared: Arc<Shared>,
    path: String,
    _task: SourceTask,
}

impl Source for ConsulCommands {
    fn name(&self) -> SourceName {
        OVERRIDES
    }

    fn is_on(&self, config: &Config) -> bool {
        kv_path(config).is_some()
    }

    fn start(
        &self,
        config: &Config,
        context: &Context,
    ) -> Result<Box<dyn RunningSource>, SourceError> {
        let shared = self.0.open(config, context)?;
        let path = kv_path(config).unwrap_or_default().to_owned();
        Ok(Box::new(RunningCommands {
            _task: SourceTask::spawn(overrides::run(shared.clone(), path.clone())),
            shared,
            path,
        }))
    }

    /// Its key is one of `[consul]`, whose source tells of all of them.
    fn restart_keys(&self, _present: &Config, _next: &Config) -> Vec<&'static str> {
        Vec::new()
    }
}

fn kv_path(config: &Config) -> Option<&str> {
    config.consul.as_ref()?.kv_path.as_deref()
}

impl RunningSource for RunningCommands {
    fn command_keys(&self) -> Option<CommandKeys> {
        Some(CommandKeys {
            store: Box::new(KeyEditor::new(self.shared.clone())),
            prefix: self.path.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::config::{Inputs, load};
    use crate::metrics::Metrics;
    use crate::sources::update::Update;

    fn config(text: &str) -> Config {
        let file = Some(("lb.toml".into(), text.to_owned()));
        load(&Inputs {
            file,
            ..Inputs::default()
        })
        .unwrap()
        .config
    }

    fn context() -> (Context, mpsc::Receiver<Update>) {
        let (updates, received) = mpsc::channel(8);
        (Context::telling(updates, Metrics::default()), received)
    }

    #[tokio::test]
    async fn both_sources_share_their_connections_and_end_with_them() {
        let connection = Connection::default();
        let config = config("[consul]\naddress = \"127.0.0.1:1\"\nkv_path = \"lb/\"\n");
        let (context, _received) = context();
        let catalog = ConsulCatalog::over(connection.clone())
            .start(&config, &context)
            .unwrap();
        let commands = ConsulCommands::over(connection.clone())
            .start(&config, &context)
            .unwrap();
        let first = Arc::as_ptr(&connection.open(&config, &context).unwrap());
        let keys = commands.command_keys().unwrap();
        assert_eq!(keys.prefix, "lb/");
        drop(catalog);
        let still = Arc::as_ptr(&connection.open(&config, &context).unwrap());
        assert_eq!(first, still, "the commands go on with it");
    }

    #[tokio::test]
    async fn a_reload_is_judged_before_and_takes_rules_and_addresses() {
        let present = config("[consul]\naddress = \"127.0.0.1:1\"\nkv_path = \"lb/\"\n");
        let (connection, (context, _received)) = (Connection::default(), context());
        let running = ConsulCatalog::over(connection.clone())
            .start(&present, &context)
            .unwrap();
        let shared = connection.open(&present, &context).unwrap();

        let broken =
            config("[consul]\nca_file = \"/nonexistent/ca.pem\"\naddress = \"https://h:1\"\n");
        let error = running.prepare(&broken).unwrap_err();
        assert_eq!(error.to_string(), "Consul (section consul)");
        assert_eq!(shared.config().addresses, ["http://127.0.0.1:1"]);

        let next = "[consul]\naddress = \"127.0.0.1:2\"\nkv_path = \"other/\"\n[routing]\ntag_prefix = \"x-\"\n";
        let reload = running.prepare(&config(next)).unwrap();
        assert_eq!(shared.config().addresses, ["http://127.0.0.1:1"], "not yet");
        reload.apply();
        let now = shared.config();
        assert_eq!(now.addresses, ["http://127.0.0.1:2"]);
        assert_eq!(now.kv_path.as_deref(), Some("lb/"), "it needs a restart");
        assert_eq!(shared.routing().tag_prefix, "x-");

        let without = config("routes_file = \"r\"\n");
        assert!(matches!(running.prepare(&without), Ok(Reload::Unchanged)));
    }
}
