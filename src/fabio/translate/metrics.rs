//! `metrics.*`: where metrics go, and what they are called.

use std::time::Duration;

use super::super::document::Value;
use super::super::value;
use super::Translator;
use crate::config::PrefixTemplate;

const TARGET: &str = "metrics.target";
const TARGETS: &[&str] = &[
    "stdout",
    "flat",
    "label",
    "statsd_raw",
    "dogstatsd",
    "graphite",
    "circonus",
    "prometheus",
];
/// What dashboards know the program as, whatever ours is called.
const EXEC: &str = "fabio";
/// How long a change may wait to be written where that does no harm.
const AT_ONCE: Duration = Duration::from_millis(250);
/// In old versions the word meant the template.
const OLD_DEFAULT: &str = "default";
/// One of these has to be there for Circonus.
const CIRCONUS: [&str; 2] = ["metrics.circonus.apikey", "metrics.circonus.submissionurl"];

impl Translator<'_> {
    pub(super) fn metrics(&mut self) {
        let targets = self.settings.list(TARGET);
        let (mut flat, mut label, mut any, mut sent) = (false, false, false, false);
        for target in targets
            .iter()
            .map(|target| target.trim())
            .filter(|target| !target.is_empty())
        {
            any = true;
            sent |= matches!(target, "statsd_raw" | "dogstatsd" | "graphite");
            match target {
                "prometheus" => self
                    .document
                    .set("metrics.fabio_names", Value::Bool(true), TARGET),
                "statsd_raw" => {
                    self.metrics_server("metrics.statsd", "metrics.statsd.addr", target)
                }
                "dogstatsd" => {
                    self.metrics_server("metrics.dogstatsd", "metrics.dogstatsd.addr", target)
                }
                "graphite" => {
                    self.metrics_server("metrics.graphite", "metrics.graphite.addr", target)
                }
                "stdout" | "flat" => flat = true,
                "label" => label = true,
                "circonus"
                    if CIRCONUS
                        .iter()
                        .all(|key| self.settings.text(key).is_empty()) =>
                {
                    let text = format!("circonus needs {}", CIRCONUS.join(" or "));
                    self.refuse(TARGET, text);
                }
                "circonus" => {
                    let text = "circonus is left out on purpose: let an agent of Circonus read Prometheus's form";
                    self.warn(TARGET, text);
                }
                "statsd" => {
                    self.refuse(TARGET, "\"statsd\" is gone, in Fabio too; write statsd_raw")
                }
                other => self.refuse(
                    TARGET,
                    format!("{other:?} is not one of {}", TARGETS.join(", ")),
                ),
            }
        }
        let stdout = match (flat, label) {
            (false, false) => "off",
            (true, false) => "flat",
            (false, true) => "label",
            (true, true) => "flat,label",
        };
        self.document.set("metrics.stdout", stdout, TARGET);
        let key = "metrics.prefix";
        if let (false, Err(error)) = (any, self.prefix().parse::<PrefixTemplate>()) {
            self.refuse(key, error.to_string());
        }
        if any {
            self.metrics_names();
            let key = "metrics.interval";
            match self.settings.time(key) {
                // Lines come in the order of the report then, but as soon as Fabio's.
                _ if (flat || label) && !sent => {
                    self.document
                        .set(key, Value::Time(AT_ONCE), "Fabio writes at every change");
                }
                // Nothing is sent at this interval.
                _ if !sent => {}
                time if time.is_zero() => {
                    self.refuse(key, "0s is not an interval; write at least 100ms")
                }
                time => self.set_time(key, time, key),
            }
        }
    }

    fn metrics_server(&mut self, ours: &str, key: &str, target: &str) {
        match self.settings.text(key) {
            "" => self.warn(
                key,
                format!("it is empty, so that metrics.target={target} goes nowhere"),
            ),
            address if address.starts_with(':') => {
                // Go takes a missing host for this machine.
                let address = format!("127.0.0.1{address}");
                self.document.set(ours, address, key);
            }
            address => {
                let address = address.to_owned();
                self.document.set(ours, address, key);
            }
        }
    }

    fn prefix(&self) -> &str {
        match self.settings.text("metrics.prefix") {
            OLD_DEFAULT => "{{clean .Hostname}}.{{clean .Exec}}",
            text => text,
        }
    }

    fn metrics_names(&mut self) {
        let key = "metrics.prefix";
        let text = self.prefix();
        match text.parse::<PrefixTemplate>() {
            Ok(template) => self
                .document
                .set(key, template.with_exec(EXEC).to_string(), key),
            // The loader says what is wrong with it.
            Err(_) => self.document.set(key, text.to_owned(), key),
        }
        self.document.set(
            "metrics.path",
            self.settings.text("metrics.prometheus.path"),
            "metrics.prometheus.path",
        );
        self.set_text("metrics.subsystem", "metrics.prometheus.subsystem");
        let key = "metrics.prometheus.buckets";
        // What is not a number was refused before; none at all means Go's defaults, which are
        // Fabio's too.
        let numbers = value::numbers(self.settings.text(key)).filter(|numbers| !numbers.is_empty());
        if let Some(numbers) = numbers {
            let texts = numbers.iter().map(ToString::to_string).collect();
            self.document
                .set("metrics.buckets", Value::List(texts), key);
        }
    }
}
