//! `[metrics]`: a listener for scrapers; counting under Fabio's names, and where that goes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::admin::AdminConfig;
use super::certificates::CertificateConfig;
use super::declare::{Checked, section};
use super::key::{DAY, Kind};
use super::prefix_template::{PrefixTemplate, TEMPLATE_ADVICE, TemplateError};
use super::reader::Reader;
use super::tls::check_shown;
use super::typed::Typed;
use super::value::{Problem, SettingValue};
use super::words::words;

section! {
    /// A listener for scrapers, metrics under the names that Fabio gives, for dashboards made for
    /// it, and metrics that are sent. lb's own names, lb_*, are always at /metrics of the admin
    /// listener. While nothing here is switched on, nothing of this is counted.
    pub struct MetricsConfig is Once "metrics" {
        /// Where a listener for scrapers listens: it serves /metrics, as the admin listener does,
        /// and nothing else. Unset: there is none.
        address: Option<SocketAddr> = unset "10.0.0.5:9997" [restart];

        /// Which [certificates.NAME] it shows. Unset: plain HTTP.
        certificates: Option<String> = unset "main";

        /// CAs of its client certificates, or a folder of them (*.pem): a certificate is requested
        /// of every client. Unset: those of [certificates.NAME], if it has any.
        client_ca_file: Option<PathBuf> = unset "clients.pem";

        /// Fabio's names for Prometheus: PREFIX_requests, PREFIX_http_status, PREFIX_route and so
        /// on. They stand beside lb's own at /metrics and at `path` of the admin listener, and
        /// alone on listeners with protocol = "prometheus".
        fabio_names: bool = "false" [restart];

        /// Where they are.
        path: String = "/metrics" [restart];

        /// First part of all these names: text with {{.Hostname}} and {{.Exec}} (the program's
        /// name) in it; `clean` makes lower case, and _ of . and :. Names for Prometheus follow it
        /// behind a _, those in log lines behind a dot, those that are sent behind nothing, as in
        /// Fabio: end it in a dot for them.
        prefix: PrefixTemplate = "{{clean .Hostname}}.{{clean .Exec}}" [restart];

        /// Second part of the names for Prometheus.
        subsystem: String = unset "edge" [restart];

        /// Bounds of their histograms, in seconds.
        buckets: Vec<f64> = "0.005,0.01,0.025,0.05,0.1,0.25,0.5,1,2.5,5,10" [restart];

        /// HOST:PORT of a StatsD server to send to, by UDP.
        statsd: Option<String> = unset "127.0.0.1:8125" [restart];

        /// HOST:PORT of a DogStatsD server: with labels as tags.
        dogstatsd: Option<String> = unset "127.0.0.1:8125" [restart];

        /// HOST:PORT of a Graphite (Carbon) server, by TCP.
        graphite: Option<String> = unset "127.0.0.1:2003" [restart];

        /// Whether they are written to standard output too: as NAME:VALUE|TYPE with labels in the
        /// name (flat) or behind (label).
        stdout: StandardOutput = "off" [restart];

        /// How often they are sent and written.
        interval: Duration = "30s" in (100, DAY) [restart];
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

/// What only the configuration as a whole can tell of its listener.
pub(super) fn check(
    reader: &mut Reader<'_>,
    metrics: &MetricsConfig,
    admin: &AdminConfig,
    known: &BTreeMap<String, CertificateConfig>,
) {
    let is_same = |address: SocketAddr| address.port() != 0 && address == admin.address;
    if metrics.address.is_some_and(is_same) {
        reader.wrong(
            "address",
            "is the admin listener's too",
            "change one of them (admin.address)",
        );
    }
    check_shown(reader, metrics.certificates.as_ref(), known);
    if metrics.certificates.is_none() && metrics.client_ca_file.is_some() {
        reader.wrong(
            "client_ca_file",
            "needs certificates: over plain HTTP no client shows one",
            "add certificates = \"NAME\" of a [certificates.NAME]",
        );
    }
    for name in ["certificates", "client_ca_file"] {
        if metrics.address.is_none() && reader.has(name) {
            let advice = "say where to listen, as in metrics.address = \"10.0.0.5:9997\"";
            reader.warn(name, "has no effect without an address", advice);
        }
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
