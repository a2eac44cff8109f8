//! From the configuration to what is counted, to what a scraper gets, and to where it is sent.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use prometheus::Registry;

use crate::config::MetricsConfig;
use crate::fabio::metrics::lines::Form;
use crate::fabio::metrics::send::{Reporter, Sink};
use crate::fabio::metrics::{Bounds, FabioMetrics, Names, collector};
use crate::metrics::process::{Process, hostname};
use crate::metrics::{Metrics, ScrapePage, collectors};

/// What counts, and what shows it.
pub(super) struct Counting {
    /// All counters of the process.
    pub(super) metrics: Metrics,
    /// What the admin listener shows: everything.
    pub(super) registry: Registry,
    /// Counts a second time, in Fabio's way, where that is wanted.
    fabio: Option<Arc<FabioMetrics>>,
}

/// All counters of a process: `lb`'s own, and those under Fabio's names where they are wanted. The
/// log, which begins before there are metrics, counts in `log_dropped`.
///
/// # Errors
/// Two families have the same name.
pub(super) fn build(
    config: &MetricsConfig,
    log_dropped: &Arc<AtomicU64>,
) -> prometheus::Result<Counting> {
    let fabio = config.is_on().then(|| Arc::new(fabio(config)));
    let scraped = fabio.as_ref().filter(|_| config.fabio_names);
    let page = ScrapePage {
        path: scraped.map(|_| config.path.clone()),
        registry: Registry::new(),
    };
    register(&page.registry, scraped)?;
    let mut metrics = Metrics::default()
        .with_log_dropped(log_dropped)
        .with_scrape_page(page);
    if let Some(fabio) = &fabio {
        metrics = metrics.with_observer(Arc::clone(fabio) as _);
    }
    let registry = collectors::registry(&metrics)?;
    register(&registry, scraped)?;
    Ok(Counting {
        metrics,
        registry,
        fabio,
    })
}

/// What both registries show.
fn register(registry: &Registry, fabio: Option<&Arc<FabioMetrics>>) -> prometheus::Result<()> {
    if let Some(fabio) = fabio {
        collector::register(registry, fabio)?;
    }
    collectors::register_process(registry, Process::read)
}

fn fabio(config: &MetricsConfig) -> FabioMetrics {
    let called = std::env::args_os().next().unwrap_or_default();
    let exec = Path::new(&called)
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let names = Names {
        prefix: config.prefix.expand(&hostname(), &exec),
        subsystem: config.subsystem.clone(),
        bounds: Bounds::new(&config.buckets),
    };
    FabioMetrics::new(names, config.is_sent())
}

impl Counting {
    /// Starts sending to all servers that are configured; none: nothing is sent.
    pub(super) fn report(&self, config: &MetricsConfig) -> std::io::Result<Option<Reporter>> {
        let Some(fabio) = self.fabio.as_ref().filter(|_| config.is_sent()) else {
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
}
