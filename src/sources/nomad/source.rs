//! The source that Nomad's own service discovery is.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;

use super::api::Api;
use super::namespace::{self, watch_of};
use super::probe::probe;
use super::shared::{Live, Shared};
use crate::catalog::source::{NOMAD, SourceName};
use crate::config::{Config, Draft, NomadConfig};
use crate::sources::context::Context;
use crate::sources::look::{Look, Pem};
use crate::sources::probe_step::ProbeStep;
use crate::sources::source::{Reload, RunningSource, Source, SourceError};
use crate::sources::task::SourceTask;

/// The source `nomad`.
#[derive(Debug)]
pub struct NomadServices;

struct Running {
    shared: Arc<Shared>,
    /// What needs a restart, as it was at the start.
    started_with: NomadConfig,
    _tasks: Vec<SourceTask>,
}

/// What of the configuration a running source can take over.
fn live(nomad: &NomadConfig, config: &Config) -> Result<Live, SourceError> {
    let api = Api::load(nomad).map_err(|error| SourceError::of("Nomad (section nomad)", error))?;
    Ok(Live {
        api: Arc::new(api),
        tag_prefix: tag_prefix(nomad, config).to_owned(),
    })
}

fn tag_prefix<'a>(nomad: &'a NomadConfig, config: &'a Config) -> &'a str {
    let own = nomad.tag_prefix.as_deref();
    own.unwrap_or(&config.routing.tag_prefix)
}

impl Source for NomadServices {
    fn name(&self) -> SourceName {
        NOMAD
    }

    fn is_on(&self, config: &Config) -> bool {
        config.nomad.is_some()
    }

    fn start(
        &self,
        config: &Config,
        context: &Context,
    ) -> Result<Box<dyn RunningSource>, SourceError> {
        let nomad = config.nomad.as_ref().ok_or_else(|| {
            SourceError::new("the section nomad is missing: write [nomad] into the configuration")
        })?;
        let sources = context.journal().sources();
        sources.expect(NOMAD, Some(nomad.address.clone()));
        let shared = Arc::new(Shared::new(
            live(nomad, config)?,
            nomad.namespaces.iter().map(|name| watch_of(name)),
            context.metrics.clone(),
            context.updates.clone(),
        ));
        let patience = shared.clone();
        let mut tasks = vec![SourceTask::spawn(async move {
            patience.end_patience().await;
        })];
        tasks.extend(nomad.namespaces.iter().enumerate().map(|(at, name)| {
            let name = Arc::from(name.as_str());
            SourceTask::spawn(namespace::run(shared.clone(), name, at == 0))
        }));
        Ok(Box::new(Running {
            shared,
            started_with: nomad.clone(),
            _tasks: tasks,
        }))
    }

    fn restart_keys(&self, present: &Config, next: &Config) -> Vec<&'static str> {
        match (&present.nomad, &next.nomad) {
            (Some(present), Some(next)) => present.restart_keys(next),
            (None, None) => Vec::new(),
            _ => vec!["nomad"],
        }
    }

    fn files(&self, config: &Config) -> Vec<PathBuf> {
        let nomad = config.nomad.iter();
        let files = nomad.flat_map(|nomad| {
            [
                &nomad.ca_file,
                &nomad.cert_file,
                &nomad.key_file,
                &nomad.token_file,
            ]
        });
        files.flatten().cloned().collect()
    }

    fn looks<'a>(&self, config: &'a Config) -> Vec<Look<'a>> {
        let Some(nomad) = &config.nomad else {
            return Vec::new();
        };
        let pair = Look::ClientPair {
            cert: Pem::of(("nomad.cert_file", &nomad.cert_file), ("", None)),
            key: Pem::of(("nomad.key_file", &nomad.key_file), ("", None)),
        };
        let ca = nomad.ca_file.as_deref().map(Pem::File);
        let token = nomad.token_file.as_deref();
        [
            ca.map(|pem| Look::Authorities("nomad.ca_file", pem)),
            Some(pair),
            token.map(|path| Look::Token("nomad.token_file", path)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn probe<'a>(&self, draft: &'a Draft) -> Option<LocalBoxFuture<'a, Vec<ProbeStep>>> {
        let nomad = draft.config.nomad.as_ref()?;
        if !draft.is_whole("nomad") {
            let detail = "not dialled: the configuration of Nomad is wrong";
            let step = ProbeStep::failed("config", detail, None);
            return Some(std::future::ready(vec![step]).boxed_local());
        }
        Some(probe(nomad, tag_prefix(nomad, &draft.config)).boxed_local())
    }
}

impl RunningSource for Running {
    fn prepare(&self, next: &Config) -> Result<Reload, SourceError> {
        let Some(nomad) = &next.nomad else {
            return Ok(Reload::Unchanged);
        };
        // The rest needs a restart, and is as it was until then.
        let nomad = NomadConfig {
            address: self.started_with.address.clone(),
            region: self.started_with.region.clone(),
            namespaces: self.started_with.namespaces.clone(),
            ..nomad.clone()
        };
        let (live, shared) = (live(&nomad, next)?, self.shared.clone());
        Ok(Reload::Apply(Box::new(move || shared.reload(live))))
    }
}
