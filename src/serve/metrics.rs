//! From the configuration to what is counted, and to whom it is sent.

use std::path::Path;
use std::sync::Arc;

use crate::config::MetricsConfig;
use crate::metrics::Metrics;
use crate::metrics::fabio::lines::Form;
use crate::metrics::fabio::send::{Reporter, Sink};
use crate::metrics::fabio::{Bounds, FabioMetrics, Names};
use crate::metrics::process::hostname;

/// All counters of a process: `lb`'s own, and those under Fabio's names where they are wanted.
pub(super) fn build(config: &MetricsConfig) -> Metrics {
    if !config.is_on() {
        return Metrics::default();
    }
    let called = std::env::args_os().next().unwrap_or_default();
    let exec = Path::new(&called)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let names = Names {
        prefix: config.prefix.expand(&hostname(), &exec),
        subsystem: config.subsystem.clone(),
        bounds: Bounds::new(&config.buckets),
        path: config.fabio_names.then(|| config.path.clone()),
    };
    Metrics::with_fabio(FabioMetrics::new(names, config.is_sent()))
}

/// Starts sending to all who are configured; none: to nobody.
pub(super) fn report(
    config: &MetricsConfig,
    metrics: &Metrics,
) -> std::io::Result<Option<Reporter>> {
    let Some(fabio) = metrics.fabio().filter(|_| config.is_sent()) else {
        return Ok(None);
    };
    let servers = [
        (Form::Statsd, config.statsd.clone().map(Sink::Udp)),
        (Form::Dogstatsd, config.dogstatsd.clone().map(Sink::Udp)),
        (Form::Graphite, config.graphite.clone().map(Sink::Tcp)),
        (Form::Flat, config.stdout.is_flat().then_some(Sink::Stdout)),
        (
            Form::Label,
            config.stdout.is_labelled().then_some(Sink::Stdout),
        ),
    ];
    let sinks = servers
        .into_iter()
        .filter_map(|(form, sink)| Some((form, sink?)))
        .collect();
    Reporter::start(Arc::clone(fabio), sinks, config.interval).map(Some)
}
