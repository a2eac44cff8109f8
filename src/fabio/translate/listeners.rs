//! `proxy.addr` and `ui.addr`: where to listen, and how.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::super::compound::{self, Group};
use super::super::document::Value;
use super::super::value;
use super::Translator;
use super::certificates::Source;

const KEY: &str = "proxy.addr";
/// Fabio's protocols, and whether `lb` speaks them.
pub(super) const PROTOCOLS: &[(&str, bool)] = &[
    ("http", true),
    ("https", true),
    ("tcp", true),
    ("grpc", true),
    ("grpcs", true),
    ("tcp+sni", false),
    ("https+tcp+sni", false),
    ("tcp-dynamic", false),
    ("prometheus", false),
];
/// Protocols that may have certificates.
const WITH_CERTIFICATES: &[&str] = &["https", "tcp", "tcp-dynamic", "grpcs", "prometheus", "https+tcp+sni"];
/// How long an idle or slow client is borne when no timeout is set: Fabio has no limit.
const PATIENCE: Duration = Duration::from_secs(3600);
/// TLS 1.2 and 1.3 in the protocol's numbers.
const TLS12: u16 = 0x0303;
const TLS13: u16 = 0x0304;

/// One listener of Fabio.
#[derive(Debug)]
struct Listener {
    address: SocketAddr,
    proto: String,
    source: Option<String>,
    strict: bool,
    proxy_protocol: bool,
    proxy_protocol_timeout: Duration,
    read: Duration,
    idle: Duration,
}

impl Translator<'_> {
    pub(super) fn listeners(&mut self) {
        let groups = compound::parse(self.settings.text(KEY)).unwrap_or_else(|error| {
            self.refuse(KEY, error.to_string());
            Vec::new()
        });
        let admin = self.admin();
        let names: Vec<String> = groups.iter().filter_map(|group| group.get("cs").map(str::to_owned)).collect();
        let sources = self.certificates(&|name| names.iter().any(|used| used == name));
        let listeners: Vec<Listener> = groups.iter().filter_map(|group| self.listener(group, KEY, &sources)).collect();
        if let Some(group) = admin {
            self.admin_address(&group, &sources);
        }
        let mut served: Vec<&Listener> = Vec::new();
        for listener in &listeners {
            if let Some(missing) = missing(listener, &sources) {
                self.warn(KEY, format!("{}: left out, {missing} is not carried out yet", listener.address));
                continue;
            }
            self.write_listener(listener, &sources);
            served.push(listener);
        }
        if served.is_empty() && self.refusals.is_empty() {
            self.refuse(KEY, "no listener is left");
        }
        self.client_timeouts(&served);
    }

    fn write_listener(&mut self, listener: &Listener, sources: &BTreeMap<String, Source>) {
        let place = self.document.next("listener");
        self.document.set_in(place, "address", listener.address.to_string(), KEY);
        self.document.set_in(place, "protocol", &*listener.proto, KEY);
        if let Some(Source::Served(name)) = listener.source.as_ref().and_then(|name| sources.get(name)) {
            self.document.set_in(place, "certificates", &**name, KEY);
        }
        self.document.set_in(place, "strict_sni", Value::Bool(listener.strict), KEY);
        if listener.proxy_protocol {
            self.document.set_in(place, "proxy_protocol", Value::Bool(true), KEY);
            let time = listener.proxy_protocol_timeout.clamp(Duration::from_millis(1), Duration::from_secs(60));
            self.document.set_in(place, "proxy_protocol_timeout", Value::Time(time), KEY);
        }
    }

    /// Ours are for all listeners together.
    fn client_timeouts(&mut self, listeners: &[&Listener]) {
        let http = || listeners.iter().filter(|listener| listener.proto != "tcp");
        let longest = |times: &mut dyn Iterator<Item = Duration>| {
            let times: Vec<Duration> = times.collect();
            // None is longer than any.
            let none = times.is_empty() || times.contains(&Duration::ZERO);
            let longest = times.iter().max().copied().unwrap_or_default();
            (if none { Duration::ZERO } else { longest }, times.iter().any(|time| *time != times[0]))
        };
        let (read, reads_differ) = longest(&mut http().map(|listener| listener.read));
        let idle_of = |listener: &&&Listener| if listener.idle.is_zero() { listener.read } else { listener.idle };
        let (idle, idles_differ) = longest(&mut http().map(|listener| idle_of(&listener)));
        if reads_differ || idles_differ {
            self.warn(KEY, "rt and it are the same for all listeners here; the longest of them are used");
        }
        if read.is_zero() {
            // The limit for a request head stays ours: a client that sends none for long wants to hold a connection.
            self.document.set("proxy.body_timeout", Value::Time(PATIENCE), "Fabio waits for slow clients");
        } else {
            self.set_time("proxy.header_timeout", read, "proxy.readtimeout");
            self.set_time("proxy.body_timeout", read, "proxy.readtimeout");
        }
        match idle.is_zero() {
            true => self.document.set("proxy.idle_timeout", Value::Time(PATIENCE), "Fabio keeps idle connections"),
            false => self.set_time("proxy.idle_timeout", idle, KEY),
        }
    }

    /// The admin listener, which is one.
    fn admin(&mut self) -> Option<Group> {
        let key = "ui.addr";
        let text = match self.settings.text(key) {
            "" => ":9998",
            text => text,
        };
        match compound::parse(text).as_deref() {
            Ok([group]) => return Some(group.clone()),
            Ok(_) => self.refuse(key, "it must be one listener"),
            Err(error) => self.refuse(key, error.to_string()),
        }
        None
    }

    fn admin_address(&mut self, group: &Group, sources: &BTreeMap<String, Source>) {
        let key = "ui.addr";
        let Some(listener) = self.listener(group, key, sources) else { return };
        if listener.source.is_some() {
            self.warn(key, "TLS is not carried out yet: the admin listener speaks plain HTTP");
        }
        self.document.set("admin.address", listener.address.to_string(), key);
    }

    /// Reads one listener; what Fabio refuses is refused.
    fn listener(&mut self, group: &Group, key: &str, sources: &BTreeMap<String, Source>) -> Option<Listener> {
        let before = self.refusals.len();
        let written = group.get("").or(group.get("addr")).unwrap_or_default();
        let socket = self.machine.socket(written);
        let name = if written.is_empty() { "a listener" } else { written };
        if let Err(error) = &socket {
            self.refuse(key, format!("{name}: {error}"));
        }
        let source = group.get("cs").map(str::to_owned);
        let default = if source.is_some() { "https" } else { "http" };
        let mut listener = Listener {
            address: socket.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0))),
            proto: group.get("proto").filter(|text| !text.is_empty()).unwrap_or(default).to_owned(),
            strict: group.get("strictmatch") == Some("true"),
            proxy_protocol: group.get("pxyproto") == Some("true"),
            proxy_protocol_timeout: Duration::from_millis(250),
            read: self.settings.time("proxy.readtimeout"),
            idle: Duration::ZERO,
            source,
        };
        for (option, text) in group.iter() {
            match option {
                "" | "addr" | "proto" | "cs" | "strictmatch" | "pxyproto" => {}
                "rt" | "wt" | "it" | "pxytimeout" | "refresh" => match value::duration(text) {
                    None => self.refuse(key, format!("{name}: {option}={text} is not a duration")),
                    Some(time) if option == "rt" => listener.read = time,
                    Some(time) if option == "it" => listener.idle = time,
                    Some(time) if option == "wt" && !time.is_zero() => {
                        self.warn(key, format!("{name}: wt is not carried out yet: a limit for whole answers"));
                    }
                    Some(time) if option == "pxytimeout" && !time.is_zero() => listener.proxy_protocol_timeout = time,
                    Some(_) => {}
                },
                "tlsmin" | "tlsmax" => self.tls_version(key, name, option, text),
                "tlsciphers" => {
                    self.warn(key, format!("{name}: tlsciphers is not carried out yet; the suites are those of TLS 1.3 and the forward secret ones of TLS 1.2"));
                }
                _ => self.warn(key, format!("{name}: {option} is no option of a listener, in Fabio neither")),
            }
        }
        if let Some(problem) = mismatch(&listener, sources) {
            self.refuse(key, format!("{name}: {problem}"));
        }
        // Else the first certificate that is made would be shown for every name.
        listener.strict |= listener.source.as_ref().and_then(|name| sources.get(name))
            == Some(&Source::Missing("vault-pki".to_owned()));
        (self.refusals.len() == before).then_some(listener)
    }

    fn tls_version(&mut self, key: &str, name: &str, option: &str, text: &str) {
        let number = match &*text.trim().to_ascii_lowercase() {
            "tls10" => Some(0x0301),
            "tls11" => Some(0x0302),
            "tls12" => Some(TLS12),
            "tls13" => Some(TLS13),
            other => value::integer(other).and_then(|number| u16::try_from(number).ok()),
        };
        match (option, number) {
            (_, None) => self.refuse(key, format!("{name}: {option}={text} is not one of tls10, tls11, tls12, tls13")),
            ("tlsmin", Some(0 | TLS12)) | ("tlsmax", Some(0 | TLS13)) => {}
            ("tlsmin", Some(..TLS12)) => {
                self.warn(key, format!("{name}: tlsmin={text} is taken as tls12: older versions are not spoken"));
            }
            _ => self.warn(key, format!("{name}: {option}={text} is not carried out yet: TLS 1.2 and 1.3 are offered")),
        }
    }
}

/// Protocol and certificates that do not go together.
fn mismatch(listener: &Listener, sources: &BTreeMap<String, Source>) -> Option<String> {
    let proto = &*listener.proto;
    match &listener.source {
        _ if PROTOCOLS.iter().all(|(known, _)| *known != proto) => {
            let known: Vec<&str> = PROTOCOLS.iter().map(|(known, _)| *known).collect();
            Some(format!("proto={proto} is not one of {}", known.join(", ")))
        }
        Some(name) if !sources.contains_key(name) => Some(format!("cs={name} is not a source in proxy.cs")),
        Some(_) if !WITH_CERTIFICATES.contains(&proto) => {
            Some(format!("cs= needs a proto that has certificates: {}", WITH_CERTIFICATES.join(", ")))
        }
        None if matches!(proto, "https" | "grpcs") => Some(format!("proto={proto} needs cs=, a source in proxy.cs")),
        _ => None,
    }
}

/// What keeps a listener from being served.
fn missing(listener: &Listener, sources: &BTreeMap<String, Source>) -> Option<String> {
    if PROTOCOLS.contains(&(&*listener.proto, false)) {
        return Some(format!("proto={}", listener.proto));
    }
    match listener.source.as_ref().and_then(|name| sources.get(name)) {
        Some(Source::Missing(kind)) => Some(format!("type={kind} of its certificates")),
        _ => None,
    }
}
