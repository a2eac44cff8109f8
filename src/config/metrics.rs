//! `[metrics]`: counting under Fabio's names, and where that goes.

use std::time::Duration;

use serde_json::{Value, json};

use super::declare::{Checked, section};
use super::key::{DAY, Kind};
use super::prefix_template::{PrefixTemplate, TEMPLATE_ADVICE, TemplateError};
use super::reader::Reader;
use super::typed::Typed;
use super::value::{Problem, SettingValue};
use super::words::words;

section! {
    /// Metrics under the names that Fabio gives, for dashboards made for it, and metrics that are
    /// sent. lb's own names, lb_*, are always at /metrics of the admin listener. While nothing here
    /// is switched on, nothing of this is counted.
    pub struct MetricsConfig is Once "metrics" [restart] {
        /// Fabio's names for Prometheus: PREFIX_requests, PREFIX_http_status, PREFIX_route and so
        /// on. They stand beside lb's own at /metrics and at `path` of the admin listener, and
        /// alone on listeners with protocol = "prometheus".
        fabio_names: bool = "false";

        /// Where they are.
        path: String = "/metrics";

        /// First part of all these names: text with {{.Hostname}} and {{.Exec}} (the program's
        /// name) in it; `clean` makes lower case, and _ of . and :. Names for Prometheus follow it
        /// behind a _, those in log lines behind a dot, those that are sent behind nothing, as in
        /// Fabio: end it in a dot for them.
        prefix: PrefixTemplate = "{{clean .Hostname}}.{{clean .Exec}}";

        /// Second part of the names for Prometheus.
        subsystem: String = unset "edge";

        /// Bounds of their histograms, in seconds.
        buckets: Vec<f64> = "0.005,0.01,0.025,0.05,0.1,0.25,0.5,1,2.5,5,10";

        /// HOST:PORT of a StatsD server to send to, by UDP.
        statsd: Option<String> = unset "127.0.0.1:8125";

        /// HOST:PORT of a DogStatsD server: with labels as tags.
        dogstatsd: Option<String> = unset "127.0.0.1:8125";

        /// HOST:PORT of a Graphite (Carbon) server, by TCP.
        graphite: Option<String> = unset "127.0.0.1:2003";

        /// Whether they are written to standard output too: as NAME:VALUE|TYPE with labels in the
        /// name (flat) or behind (label).
        stdout: StandardOutput = "off";

        /// How often they are sent and written.
        interval: Duration = "30s" in (100, DAY);
    }
}

words! {
    /// Lines on standard output.
    pub enum StandardOutput {
        /// None.
        Off = "off",
        /// With labels in their names.
        Flat = "flat",
        /// With labels behind.
        Label = "label",
        /// Both.
        Both = "flat,label",
    }
}

impl StandardOutput {
    /// Whether there are lines with labels in their names.
    #[must_use]
    pub fn is_flat(self) -> bool {
        matches!(self, Self::Flat | Self::Both)
    }

    /// Whether there are lines with labels behind.
    #[must_use]
    pub fn is_labelled(self) -> bool {
        matches!(self, Self::Label | Self::Both)
    }
}

impl SettingValue for PrefixTemplate {
    const KIND: Kind = Kind::Text;

    fn from_typed(value: Typed) -> Result<Self, Problem> {
        let text = match value {
            Typed::Text(text) => text,
            _ => String::new(),
        };
        text.parse().map_err(|error: TemplateError| Problem {
            problem: error.to_string(),
            advice: TEMPLATE_ADVICE.to_owned(),
        })
    }

    fn unset() -> Self {
        "".parse().unwrap_or_default()
    }

    fn show(&self) -> Value {
        json!(self.to_string())
    }
}

impl MetricsConfig {
    /// Whether durations are to be kept because a report sends them on.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        let sent = [&self.statsd, &self.dogstatsd, &self.graphite]
            .into_iter()
            .any(Option::is_some);
        sent || self.stdout != StandardOutput::Off
    }

    /// Whether anything is to be counted.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.fabio_names || self.is_sent()
    }
}

impl Checked for MetricsConfig {
    fn check(&mut self, reader: &mut Reader<'_>) {
        if !self.path.starts_with('/') || self.path.contains(['?', '#', ' ']) {
            reader.wrong("path", "is not a path", "write it like \"/metrics\"");
        }
        for (name, server) in [
            ("statsd", &self.statsd),
            ("dogstatsd", &self.dogstatsd),
            ("graphite", &self.graphite),
        ] {
            let port = |text: &str| {
                let (host, port) = text.rsplit_once(':')?;
                let port: u16 = port.parse().ok()?;
                (!host.is_empty() && port > 0).then_some(port)
            };
            if server.as_deref().is_some_and(|text| port(text).is_none()) {
                reader.wrong(
                    name,
                    "is not an address with a port",
                    "write HOST:PORT, as in \"127.0.0.1:8125\"",
                );
            }
        }
    }
}
