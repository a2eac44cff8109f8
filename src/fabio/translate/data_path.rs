//! Routing, headers, limits, the end of the process, the logs.

use std::time::Duration;

use super::super::document::Value;
use super::Translator;
use crate::config::{AccessFormat, AccessFormatError, ContentTypes};

/// What Fabio does without a key for it, where `lb` does something else by default.
const AS_FABIO: &[(&str, Expected, &str)] = &[
    (
        "proxy.fall_through",
        Expected::On,
        "Fabio knows no route without instances",
    ),
    (
        "proxy.merge_slashes",
        Expected::On,
        "Fabio sends cleaned paths",
    ),
    (
        "proxy.forwarded_host",
        Expected::Text("sent"),
        "Fabio names the host after host=",
    ),
    (
        "proxy.trusted_proxies",
        Expected::List(&["0.0.0.0/0", "::/0"]),
        "Fabio believes every sender",
    ),
    (
        "proxy.client_address",
        Expected::Text("peer"),
        "Fabio's access rules look at the sender and at every hop",
    ),
    (
        "proxy.upstream_errors",
        Expected::Text("bare"),
        "Fabio's errors have no text",
    ),
    (
        "proxy.max_headers",
        Expected::Count(1024),
        "Fabio does not count header fields",
    ),
    (
        "proxy.tcp_idle_timeout",
        Expected::Seconds(0),
        "Fabio lets quiet connections be",
    ),
    (
        "proxy.response_idle_timeout",
        Expected::Seconds(0),
        "Fabio lets quiet responses be",
    ),
    (
        "proxy.max_header_bytes",
        Expected::Count(1 << 20),
        "Fabio takes request heads up to 1 MiB",
    ),
    (
        "health.error_status",
        Expected::Text("off"),
        "Fabio sends a target its share whatever it responds",
    ),
    (
        "health.frozen_after",
        Expected::Seconds(0),
        "Fabio sends a request to one target, however slow it is",
    ),
    (
        "log.format",
        Expected::Text("text"),
        "Fabio writes its log for people",
    ),
    (
        "log.access_tcp",
        Expected::Off,
        "Fabio's access log knows requests alone",
    ),
];

/// Fabio's common form, in fields.
const COMMON: &str =
    "$remote_host - - [$time_common] \"$request\" $response_status $response_body_size";

#[derive(Clone, Copy)]
enum Expected {
    On,
    Off,
    Seconds(u64),
    Count(u64),
    Text(&'static str),
    List(&'static [&'static str]),
}

impl Translator<'_> {
    pub(super) fn data_path(&mut self) {
        for (ours, like, why) in AS_FABIO {
            let value = match *like {
                Expected::Seconds(seconds) => Value::Time(Duration::from_secs(seconds)),
                Expected::Count(number) => Value::Count(number),
                Expected::On => Value::Bool(true),
                Expected::Off => Value::Bool(false),
                Expected::Text(text) => Value::from(text),
                Expected::List(items) => {
                    Value::List(items.iter().map(|item| (*item).to_owned()).collect())
                }
            };
            self.document.set(ours, value, why);
        }
        self.routing();
        self.headers();
        self.connections();
        self.compression();
        self.logs();
        self.set_time(
            "drain.grace",
            self.settings.time("proxy.deregistergraceperiod"),
            "proxy.deregistergraceperiod",
        );
        self.set_time(
            "drain.timeout",
            self.settings.time("proxy.shutdownwait"),
            "proxy.shutdownwait",
        );
    }

    fn routing(&mut self) {
        let strategy = self.word("proxy.strategy", &["rnd", "rr"]);
        self.document
            .set("proxy.strategy", strategy, "proxy.strategy");
        let matcher = self.word("proxy.matcher", &["prefix", "iprefix", "glob"]);
        self.document.set("proxy.matcher", matcher, "proxy.matcher");
        let key = "glob.matching.disabled";
        if self.settings.is_on(key) {
            self.document
                .set("proxy.host_patterns", Value::Bool(false), key);
        }
        let key = "proxy.noroutestatus";
        match self.settings.number(key) {
            status @ 200..=999 => self.document.set(
                "proxy.no_route_status",
                Value::Count(status.unsigned_abs()),
                key,
            ),
            100..=199 => self.warn(key, "a status below 200 ends no request; 404 is used"),
            other => self.refuse(key, format!("{other} is not between 100 and 999")),
        }
    }

    fn headers(&mut self) {
        let text = self.settings.text("proxy.localip");
        match self.machine.expand(text) {
            Ok(text) if text.is_empty() => {}
            Ok(text) if text.parse::<std::net::IpAddr>().is_ok() => {
                self.document
                    .set("proxy.local_ip", text, "proxy.localip: by= in Forwarded");
            }
            Ok(text) => self.warn(
                "proxy.localip",
                format!("{text:?} is not an IP address; Forwarded gets no by="),
            ),
            Err(error) => self.refuse("proxy.localip", error.to_string()),
        }
        for (key, ours) in [
            ("proxy.header.clientip", "proxy.client_ip_header"),
            ("proxy.header.requestid", "proxy.request_id_header"),
            ("proxy.header.tls", "proxy.tls_header"),
        ] {
            let name = self.settings.text(key);
            let forwarding =
                ["x-forwarded-for", "x-real-ip"].contains(&&*name.to_ascii_lowercase());
            if name.is_empty() {
                continue;
            } else if name.parse::<http::HeaderName>().is_err() {
                self.refuse(key, format!("{name:?} is not the name of a header"));
            } else if key == "proxy.header.clientip" && forwarding {
                self.warn(
                    key,
                    format!("{name} is set in any case, as in Fabio, and not overwritten"),
                );
            } else {
                self.document.set(ours, name, key);
            }
        }
        if !self.settings.text("proxy.header.tls").is_empty() {
            let value = self.settings.text("proxy.header.tls.value");
            self.document
                .set("proxy.tls_header_value", value, "proxy.header.tls.value");
        }
        let key = "proxy.header.sts.maxage";
        let age = u64::try_from(self.settings.number(key))
            .unwrap_or(0)
            .min(10_000_000_000);
        self.document
            .set("proxy.sts_max_age", Value::Count(age), key);
        for (key, ours) in [
            ("proxy.header.sts.subdomains", "proxy.sts_subdomains"),
            ("proxy.header.sts.preload", "proxy.sts_preload"),
        ] {
            self.document
                .set(ours, Value::Bool(self.settings.is_on(key)), key);
        }
    }

    fn connections(&mut self) {
        let time = |key| self.settings.time(key);
        let (dial, head) = (
            time("proxy.dialtimeout"),
            time("proxy.responseheadertimeout"),
        );
        let idle = time("proxy.idleconntimeout");
        self.set_limit("proxy.connect_timeout", dial, "proxy.dialtimeout");
        self.set_limit(
            "proxy.response_timeout",
            head,
            "proxy.responseheadertimeout",
        );
        self.set_limit("proxy.upstream_idle_timeout", idle, "proxy.idleconntimeout");
        // Go takes 0 for 15 seconds.
        let keepalive = match self.settings.text("proxy.keepalivetimeout") {
            text if text.starts_with('-') => Duration::ZERO,
            _ => Some(time("proxy.keepalivetimeout"))
                .filter(|time| !time.is_zero())
                .unwrap_or(Duration::from_secs(15)),
        };
        self.set_time("proxy.keepalive", keepalive, "proxy.keepalivetimeout");
        // Go takes 0 for 2, and a negative number for none.
        let most = match self.settings.number("proxy.maxconn") {
            0 => 2,
            number => u64::try_from(number).unwrap_or(0).min(1_000_000),
        };
        self.document.set(
            "proxy.upstream_max_idle",
            Value::Count(most),
            "proxy.maxconn",
        );
        let threads = u64::try_from(self.settings.number("runtime.gomaxprocs"))
            .unwrap_or(0)
            .min(1024);
        self.document
            .set("proxy.workers", Value::Count(threads), "runtime.gomaxprocs");
    }

    fn compression(&mut self) {
        let key = "proxy.gzip.contenttype";
        let pattern = self.settings.text(key).to_owned();
        if pattern.is_empty() {
            return;
        }
        if let Err(error) = ContentTypes::new(&pattern) {
            let reason = error.to_string();
            let reason = reason
                .lines()
                .next_back()
                .unwrap_or_default()
                .trim_start_matches("error: ")
                .to_owned();
            return self.refuse(
                key,
                format!("{pattern:?} is not a regular expression ({reason})"),
            );
        }
        self.document
            .set("proxy.compression.content_types", pattern, key);
        self.document.set(
            "proxy.compression.algorithms",
            Value::List(vec!["gzip".to_owned()]),
            "Fabio knows gzip alone",
        );
        self.document.set(
            "proxy.compression.min_bytes",
            Value::Count(0),
            "Fabio compresses whatever its length",
        );
    }

    fn logs(&mut self) {
        let key = "log.level";
        let level = match &*self.settings.text(key).to_ascii_uppercase() {
            "TRACE" => "trace",
            "DEBUG" => "debug",
            "INFO" => "info",
            "WARN" => "warn",
            "ERROR" | "FATAL" => "error",
            _ => {
                let text = format!(
                    "{:?} is not a level; INFO is used, as Fabio does",
                    self.settings.text(key)
                );
                self.warn(key, text);
                "info"
            }
        };
        self.document.set("log.level", level, key);

        let key = "log.access.format";
        let format = self.settings.text(key).to_owned();
        if format.trim().is_empty() {
            self.refuse(key, "the format is empty");
        }
        if self.word("log.access.target", &["", "stdout"]) == "stdout" {
            let ours = match &*format {
                // Ours of that name show what is not known as `-`.
                "common" => COMMON.to_owned(),
                "combined" => format!("{COMMON} \"$header.Referer\" \"$header.User-Agent\""),
                _ => format,
            };
            match AccessFormat::parse(&ours) {
                Ok(_) => {
                    self.document
                        .set("log.access", ours, "log.access.target, log.access.format")
                }
                Err(AccessFormatError::NoField) => {
                    self.warn(
                        key,
                        "holds no field, so every line would be the same; common is written",
                    );
                    self.document.set("log.access", COMMON, "log.access.target");
                }
                Err(error) => self.refuse(key, format!("{error}; {}", error.advice())),
            }
        }
    }
}
