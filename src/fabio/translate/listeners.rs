//! `proxy.addr` and `ui.addr`: where to listen, and how.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::super::compound::{self, Group};
use super::super::document::{Place, Value};
use super::super::value;
use super::Translator;
use super::certificates::Source;
use crate::config::TLS_CIPHERS;

const KEY: &str = "proxy.addr";
/// Fabio's protocols; `lb` speaks all of them.
pub(super) const PROTOCOLS: &[&str] = &[
    "http",
    "https",
    "tcp",
    "grpc",
    "grpcs",
    "tcp+sni",
    "https+tcp+sni",
    "tcp-dynamic",
    "prometheus",
];
/// Protocols that may have certificates.
const WITH_CERTIFICATES: &[&str] = &[
    "https",
    "tcp",
    "tcp-dynamic",
    "grpcs",
    "prometheus",
    "https+tcp+sni",
];
/// How long an idle or slow client is borne when no timeout is set: Fabio has no limit.
const PATIENCE: Duration = Duration::from_secs(3600);
/// TLS 1.2 and 1.3 in the protocol's numbers.
const TLS12: u16 = 0x0303;
const TLS13: u16 = 0x0304;
/// Fabio opens whatever port a tag names.
const ALL_PORTS: &str = "1-65535";

/// One listener of Fabio.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) address: SocketAddr,
    pub(super) proto: String,
    pub(super) source: Option<String>,
    strict: bool,
    pub(super) proxy_protocol: bool,
    proxy_protocol_timeout: Duration,
    read: Duration,
    write: Duration,
    idle: Duration,
    refresh: Duration,
    /// `1.2` or `1.3`.
    tls_min: Option<&'static str>,
    tls_max: Option<&'static str>,
    ciphers: Vec<&'static str>,
}

impl Listener {
    /// Whether it speaks HTTP, to which the limits for requests belong.
    fn is_http(&self) -> bool {
        !matches!(&*self.proto, "tcp" | "tcp+sni" | "tcp-dynamic")
    }

    /// Keys of TLS and their values.
    pub(super) fn tls(&self) -> Vec<(&'static str, Value)> {
        let mut keys = vec![("strict_sni", Value::Bool(self.strict))];
        let versions = [("tls_min", self.tls_min), ("tls_max", self.tls_max)];
        keys.extend(
            versions
                .into_iter()
                .filter_map(|(key, version)| Some((key, Value::from(version?)))),
        );
        if !self.ciphers.is_empty() {
            let ciphers = self.ciphers.iter().map(|&suite| suite.to_owned()).collect();
            keys.push(("tls_ciphers", Value::List(ciphers)));
        }
        keys
    }

    /// How long a connection may be idle; zero: as long as it likes.
    fn idle(&self) -> Duration {
        if self.idle.is_zero() {
            self.read
        } else {
            self.idle
        }
    }
}

impl Translator<'_> {
    pub(super) fn listeners(&mut self) {
        let groups = compound::parse(self.settings.text(KEY)).unwrap_or_else(|error| {
            self.refuse(KEY, error.to_string());
            Vec::new()
        });
        let admin = self.admin_group();
        let names: Vec<String> = groups
            .iter()
            .chain(&admin)
            .filter_map(|group| group.get("cs").map(str::to_owned))
            .collect();
        let sources = self.certificates(&|name| names.iter().any(|used| used == name));
        let listeners: Vec<Listener> = groups
            .iter()
            .filter_map(|group| self.listener(group, KEY, &sources))
            .collect();
        if let Some(group) = admin {
            self.admin(&group, &sources);
        }
        if listeners.is_empty() && self.refusals.is_empty() {
            self.refuse(KEY, "no listener is left");
        }
        let (read, idle) = self.client_timeouts(&listeners);
        let write = self.settings.time("proxy.writetimeout");
        self.set_time("proxy.request_timeout", write, "proxy.writetimeout");
        for listener in &listeners {
            let place = self.write_listener(listener, &sources);
            if listener.is_http() {
                self.own_timeouts(place, listener, read, idle);
                if listener.write != write {
                    let time = listener.write.min(Duration::from_secs(86_400));
                    self.document
                        .set_in(place, "request_timeout", Value::Time(time), KEY);
                }
            }
        }
    }

    fn write_listener(&mut self, listener: &Listener, sources: &BTreeMap<String, Source>) -> Place {
        let place = self.document.next("listener");
        let dynamic = listener.proto == "tcp-dynamic";
        let port = if dynamic { 0 } else { listener.address.port() };
        self.document.set_in(
            place,
            "address",
            SocketAddr::new(listener.address.ip(), port).to_string(),
            KEY,
        );
        self.document
            .set_in(place, "protocol", &*listener.proto, KEY);
        if dynamic {
            self.document
                .set_in(place, "ports", ALL_PORTS, "Fabio opens any port");
            if !listener.refresh.is_zero() {
                let time = listener.refresh.clamp(Duration::from_millis(50), PATIENCE);
                self.document
                    .set_in(place, "refresh", Value::Time(time), KEY);
            }
        }
        if let Some(Source { name, .. }) =
            listener.source.as_ref().and_then(|name| sources.get(name))
        {
            self.document.set_in(place, "certificates", &**name, KEY);
        }
        for (key, value) in listener.tls() {
            self.document.set_in(place, key, value, KEY);
        }
        if listener.proxy_protocol {
            self.document
                .set_in(place, "proxy_protocol", Value::Bool(true), KEY);
            let time = listener
                .proxy_protocol_timeout
                .clamp(Duration::from_millis(1), Duration::from_secs(60));
            self.document
                .set_in(place, "proxy_protocol_timeout", Value::Time(time), KEY);
        }
        place
    }

    /// Limits of this listener that are not those of all: shorter ones, because those of all are
    /// the longest.
    fn own_timeouts(&mut self, place: Place, listener: &Listener, read: Duration, idle: Duration) {
        if listener.read != read {
            self.document
                .set_in(place, "header_timeout", Value::Time(listener.read), KEY);
            self.document
                .set_in(place, "body_timeout", Value::Time(listener.read), KEY);
        }
        if listener.idle() != idle {
            self.document
                .set_in(place, "idle_timeout", Value::Time(listener.idle()), KEY);
        }
    }

    /// The limits of all listeners: the longest of any. Zero: none.
    fn client_timeouts(&mut self, listeners: &[Listener]) -> (Duration, Duration) {
        let http = || listeners.iter().filter(|listener| listener.is_http());
        let longest = |times: &mut dyn Iterator<Item = Duration>| {
            let times: Vec<Duration> = times.collect();
            // None is longer than any.
            let none = times.contains(&Duration::ZERO);
            if none {
                Duration::ZERO
            } else {
                times.iter().max().copied().unwrap_or_default()
            }
        };
        let read = longest(&mut http().map(|listener| listener.read));
        let idle = longest(&mut http().map(|listener| listener.idle()));
        if read.is_zero() {
            // The limit for a request head stays ours: a client that sends none for long wants to
            // hold a connection.
            self.document.set(
                "proxy.body_timeout",
                Value::Time(PATIENCE),
                "Fabio waits for slow clients",
            );
        } else {
            self.set_time("proxy.header_timeout", read, "proxy.readtimeout");
            self.set_time("proxy.body_timeout", read, "proxy.readtimeout");
        }
        match idle.is_zero() {
            true => self.document.set(
                "proxy.idle_timeout",
                Value::Time(PATIENCE),
                "Fabio keeps idle connections",
            ),
            false => self.set_time("proxy.idle_timeout", idle, KEY),
        }
        (read, idle)
    }

    /// Reads one listener; what Fabio refuses is refused.
    pub(super) fn listener(
        &mut self,
        group: &Group,
        key: &str,
        sources: &BTreeMap<String, Source>,
    ) -> Option<Listener> {
        let before = self.refusals.len();
        let written = group.get("").or(group.get("addr")).unwrap_or_default();
        let socket = self.machine.socket(written);
        let name = if written.is_empty() {
            "a listener"
        } else {
            written
        };
        if let Err(error) = &socket {
            self.refuse(key, format!("{name}: {error}"));
        }
        let source = group.get("cs").map(str::to_owned);
        let default = if source.is_some() { "https" } else { "http" };
        let mut listener = Listener {
            address: socket.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0))),
            proto: group.get("proto").unwrap_or(default).to_owned(),
            strict: group.get("strictmatch") == Some("true"),
            proxy_protocol: group.get("pxyproto") == Some("true"),
            proxy_protocol_timeout: Duration::from_millis(250),
            read: self.settings.time("proxy.readtimeout"),
            write: self.settings.time("proxy.writetimeout"),
            idle: Duration::ZERO,
            refresh: Duration::ZERO,
            tls_min: None,
            tls_max: None,
            ciphers: Vec::new(),
            source,
        };
        for (option, text) in group.iter() {
            match option {
                "" | "addr" | "proto" | "cs" | "strictmatch" | "pxyproto" => {}
                "rt" | "wt" | "it" | "pxytimeout" | "refresh" => match value::duration(text) {
                    None => self.refuse(key, format!("{name}: {option}={text} is not a duration")),
                    Some(time) if option == "rt" => listener.read = time,
                    Some(time) if option == "it" => listener.idle = time,
                    Some(time) if option == "refresh" => listener.refresh = time,
                    Some(time) if option == "wt" => listener.write = time,
                    Some(time) if option == "pxytimeout" && !time.is_zero() => {
                        listener.proxy_protocol_timeout = time
                    }
                    Some(_) => {}
                },
                "tlsmin" => listener.tls_min = self.tls_version(key, name, option, text),
                "tlsmax" => listener.tls_max = self.tls_version(key, name, option, text),
                "tlsciphers" => listener.ciphers = self.ciphers(key, name, text),
                _ => self.warn(
                    key,
                    format!("{name}: {option} is not an option of a listener, in Fabio neither"),
                ),
            }
        }
        if !listener.is_http() && group.get("wt").is_some() && !listener.write.is_zero() {
            let text = "wt has no effect on TCP: a client that takes nothing is cut as idle (proxy.tcp_idle_timeout)";
            self.warn(key, format!("{name}: {text}"));
        }
        if let Some(problem) = mismatch(&listener, sources) {
            self.refuse(key, format!("{name}: {problem}"));
        }
        if listener.proto == "https+tcp+sni" && listener.source.is_none() {
            self.warn(
                key,
                format!("{name}: without cs= it is served as tcp+sni: there is no certificate to end TLS with"),
            );
            listener.proto = "tcp+sni".to_owned();
        }
        // Else the first certificate that is made would be shown for every name.
        let source = listener.source.as_ref().and_then(|name| sources.get(name));
        listener.strict |= source.is_some_and(|source| source.on_demand);
        (self.refusals.len() == before).then_some(listener)
    }

    fn tls_version(
        &mut self,
        key: &str,
        name: &str,
        option: &str,
        text: &str,
    ) -> Option<&'static str> {
        let number = match &*text.trim().to_ascii_lowercase() {
            "tls10" => Some(0x0301),
            "tls11" => Some(0x0302),
            "tls12" => Some(TLS12),
            "tls13" => Some(TLS13),
            other => value::integer(other).and_then(|number| u16::try_from(number).ok()),
        };
        match number {
            None => {
                self.refuse(
                    key,
                    format!("{name}: {option}={text} is not one of tls10, tls11, tls12, tls13"),
                );
                None
            }
            Some(0) => None,
            Some(TLS13..) => Some("1.3"),
            Some(TLS12) => Some("1.2"),
            Some(_) => {
                self.warn(
                    key,
                    format!(
                        "{name}: {option}={text} is taken as tls12: older versions are not spoken"
                    ),
                );
                Some("1.2")
            }
        }
    }

    /// The suites that are served of those named, and those of TLS 1.3, which Go has no setting
    /// for.
    fn ciphers(&mut self, key: &str, name: &str, text: &str) -> Vec<&'static str> {
        let named: Vec<&str> = text
            .split([',', ' '])
            .map(str::trim)
            .filter(|word| !word.is_empty())
            .collect();
        let is = |word: &str, suite: &str, number: u16| {
            word.eq_ignore_ascii_case(suite)
                || value::integer(word).is_some_and(|found| found == i64::from(number))
        };
        for word in &named {
            if !TLS_CIPHERS
                .iter()
                .any(|(suite, number)| is(word, suite, *number))
            {
                self.warn(
                    key,
                    format!("{name}: tlsciphers: {word} is left out: it is weak or unknown, and not served"),
                );
            }
        }
        let of_tls13 = |number: u16| number >> 8 == 0x13;
        let wanted = |(suite, number): &(&'static str, u16)| {
            (of_tls13(*number) || named.iter().any(|word| is(word, suite, *number)))
                .then_some(*suite)
        };
        if named.is_empty() {
            Vec::new()
        } else {
            TLS_CIPHERS.iter().filter_map(wanted).collect()
        }
    }
}

/// Protocol and certificates that do not go together.
fn mismatch(listener: &Listener, sources: &BTreeMap<String, Source>) -> Option<String> {
    let proto = &*listener.proto;
    match &listener.source {
        _ if !PROTOCOLS.contains(&proto) => Some(format!(
            "unknown protocol {proto:?}; proto is one of {}",
            PROTOCOLS.join(", ")
        )),
        Some(name) if !sources.contains_key(name) => {
            Some(format!("cs={name} is not a source in proxy.cs"))
        }
        Some(_) if !WITH_CERTIFICATES.contains(&proto) => Some(format!(
            "cs= needs a proto that has certificates: {}",
            WITH_CERTIFICATES.join(", ")
        )),
        None if matches!(proto, "https" | "grpcs") => {
            Some(format!("proto={proto} needs cs=, a source in proxy.cs"))
        }
        _ => None,
    }
}
