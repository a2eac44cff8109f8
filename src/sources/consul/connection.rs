//! The connections to Consul, which the sources that it is read by share.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::client::Client;
use super::error::{self, ConsulError};
use super::expiry;
use super::settings::Settings;
use super::shared::Shared;
use crate::catalog::source::CONSUL;
use crate::config::{Config, ConsulConfig};
use crate::metrics::Metrics;
use crate::sources::context::Context;
use crate::sources::source::{Reload, SourceError};

/// Made by the source that starts first, and ended with the last one.
#[derive(Clone, Default)]
pub struct Connection(Arc<Mutex<Weak<Shared>>>);

impl Connection {
    /// What all watches share. That Consul cannot be reached is not an error: it is tried until it
    /// can. Nor is a file that cannot be used: nothing is dialled until a reload finds it mended.
    ///
    /// # Errors
    /// There is no `[consul]`, or an address in it makes no sense.
    pub(super) fn open(
        &self,
        config: &Config,
        context: &Context,
    ) -> Result<Arc<Shared>, SourceError> {
        let mut present = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = present.upgrade() {
            return Ok(shared);
        }
        let consul = config
            .consul
            .as_ref()
            .ok_or_else(|| SourceError::new("section consul is missing: add [consul]"))?;
        let settings = Settings::load_or_wait(consul).map_err(in_section)?;
        let metrics = context.metrics.clone();
        report(&settings, &metrics);
        let client = Client::with_settings(settings, consul.max_connections, metrics.clone());
        init_errors(&metrics);
        let (routing, updates) = (config.routing.clone(), context.updates.clone());
        let shared = Shared::new(client, (consul.clone(), routing), metrics, updates);
        let shared = Arc::new(shared);
        *present = Arc::downgrade(&shared);
        Ok(shared)
    }
}

/// A new configuration: certificates, token, addresses and rules are used from the next request on,
/// and every watch reads at once with them. What is known stays meanwhile. `max_connections`,
/// `kv_path` and `no_route_kv_path` need a restart.
///
/// # Errors
/// An address makes no sense; or a file cannot be used, and those in force can. What was broken
/// before may be so again: that is not a reason to refuse the rest of a configuration.
pub(super) fn prepare(shared: &Arc<Shared>, next: &Config) -> Result<Reload, SourceError> {
    let Some(consul) = next.consul.clone() else {
        return Ok(Reload::Unchanged);
    };
    let settings = Settings::load_or_wait(&consul).map_err(in_section)?;
    if let Some(error) = &settings.broken
        && !shared.client.is_broken()
    {
        return Err(in_section(error.clone()));
    }
    let (shared, routing) = (Arc::clone(shared), next.routing.clone());
    Ok(Reload::Apply(Box::new(move || {
        report(&settings, shared.metrics());
        shared.client.reload(settings);
        // The paths need a restart: their watches run on as they are.
        let before = shared.config();
        let (kv_path, no_route_kv_path) = (before.kv_path.clone(), before.no_route_kv_path.clone());
        let consul = ConsulConfig {
            kv_path,
            no_route_kv_path,
            ..consul
        };
        shared.reload(consul, routing);
    })))
}

fn in_section(error: ConsulError) -> SourceError {
    SourceError::of("Consul (section consul)", error)
}

/// Says what is wrong with the files of `[consul]`, and sets the metrics of its certificates.
fn report(settings: &Settings, metrics: &Metrics) {
    expiry::report(&settings.certificates, metrics);
    if let Some(error) = &settings.broken {
        tracing::error!(%error, "Consul is not dialled until this file is mended");
    } else if !settings.problems.is_empty() {
        let problems = settings.problems.join("; ");
        tracing::warn!(
            problems,
            "certificates towards Consul: what cannot be used is left out"
        );
    }
    metrics
        .control()
        .certificate_errors
        .insert(CONSUL.to_owned(), settings.problems.len() as u64);
}

/// Shows every kind of error from the start: a series that appears with a count of 1 never rose for
/// an alert that watches the rise.
fn init_errors(metrics: &Metrics) {
    let mut control = metrics.control();
    for kind in error::KINDS {
        control.registry_errors.entry(kind).or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_kind_of_error_has_a_series_before_the_first_error() {
        let metrics = Metrics::default();
        *metrics
            .control()
            .registry_errors
            .entry("connect")
            .or_default() = 3;
        init_errors(&metrics);
        let errors = metrics.control().registry_errors.clone();
        assert_eq!(
            (errors["connect"], errors["token"], errors.len()),
            (3, 0, error::KINDS.len())
        );
    }
}
