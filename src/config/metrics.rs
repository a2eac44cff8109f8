//! `[metrics]`: counting under Fabio's names, and where that goes.

use std::time::Duration;

use super::prefix_template::{PrefixTemplate, TEMPLATE_ADVICE, TemplateError};
use super::reader::Reader;

/// Which metrics there are beside `lb`'s own, and who gets them.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsConfig {
    /// Prometheus may ask for Fabio's names (`fabio_names`).
    pub fabio_names: bool,
    /// Where (`path`).
    pub path: String,
    /// First part of names (`prefix`).
    pub prefix: PrefixTemplate,
    /// Second part of Prometheus's names; may be empty (`subsystem`).
    pub subsystem: String,
    /// Bounds of histograms in seconds, ascending (`buckets`).
    pub buckets: Vec<f64>,
    /// `HOST:PORT` of a StatsD server (`statsd`).
    pub statsd: Option<String>,
    /// `HOST:PORT` of a DogStatsD server (`dogstatsd`).
    pub dogstatsd: Option<String>,
    /// `HOST:PORT` of a Graphite server (`graphite`).
    pub graphite: Option<String>,
    /// Lines with labels in their names, on standard output (`stdout`).
    pub stdout_flat: bool,
    /// Lines with labels behind, on standard output (`stdout`).
    pub stdout_label: bool,
    /// How often they are sent and written (`interval`).
    pub interval: Duration,
}

impl MetricsConfig {
    /// Whether durations are to be kept for somebody who sends them on.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        let sent = [&self.statsd, &self.dogstatsd, &self.graphite]
            .into_iter()
            .any(Option::is_some);
        sent || self.stdout_flat || self.stdout_label
    }

    /// Whether anything is to be counted.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.fabio_names || self.is_sent()
    }
}

/// Reads the section.
pub(super) fn metrics(reader: &mut Reader<'_>) -> MetricsConfig {
    let path = reader.text_or_empty("path");
    if !path.starts_with('/') || path.contains(['?', '#', ' ']) {
        reader.wrong("path", "is not a path", "write it like \"/metrics\"");
    }
    let prefix = match reader.text_or_empty("prefix").parse() {
        Ok(prefix) => prefix,
        Err(error) => {
            let error: TemplateError = error;
            reader.wrong("prefix", &error.to_string(), TEMPLATE_ADVICE);
            PrefixTemplate::default()
        }
    };
    let mut server = |name: &str| {
        let text = reader.text(name)?;
        let port = text
            .rsplit_once(':')
            .filter(|(host, _)| !host.is_empty())
            .and_then(|(_, port)| port.parse().ok());
        if port.is_none_or(|port: u16| port == 0) {
            reader.wrong(
                name,
                "is not an address with a port",
                "write HOST:PORT, as in \"127.0.0.1:8125\"",
            );
        }
        Some(text)
    };
    let (statsd, dogstatsd, graphite) = (server("statsd"), server("dogstatsd"), server("graphite"));
    let stdout = reader.text_or_empty("stdout");
    MetricsConfig {
        fabio_names: reader.bool("fabio_names"),
        path,
        prefix,
        subsystem: reader.text_or_empty("subsystem"),
        buckets: reader.numbers("buckets"),
        statsd,
        dogstatsd,
        graphite,
        stdout_flat: stdout.contains("flat"),
        stdout_label: stdout.contains("label"),
        interval: reader.time("interval"),
    }
}
