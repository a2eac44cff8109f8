//! From [`Settings`] to [`Config`]: types, defaults, and the checks that need more than one key.

use std::collections::{BTreeMap, HashSet};

use super::keys::section;
use super::mistake::{Mistake, Place};
use super::overlay::ConsulEnvironment;
use super::raw::{Group, Settings};
use super::reader::Reader;
use super::*;
use crate::table::Matcher;

/// What cannot be read from settings.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Surroundings {
    /// Standard error is a terminal: `log.format = "auto"` means text.
    pub(crate) terminal: bool,
    /// What `CONSUL_*` says beyond keys.
    pub(crate) consul: ConsulEnvironment,
}

/// Builds the configuration; what is wrong goes to `mistakes`, what is odd to `warnings`.
pub(crate) fn build(
    settings: &Settings,
    around: Surroundings,
    mistakes: &mut Vec<Mistake>,
    warnings: &mut Vec<Mistake>,
) -> Config {
    let mut config = Config {
        consul: None,
        static_routes: Vec::new(),
        routes_file: one(settings, "", mistakes, |reader| reader.path("routes_file")),
        dns: one(settings, "dns", mistakes, dns),
        listeners: Vec::new(),
        certificates: BTreeMap::new(),
        proxy: proxy_and_retry(settings, mistakes),
        health: one(settings, "health", mistakes, health),
        admin: one(settings, "admin", mistakes, |reader| AdminConfig { address: reader.socket("address") }),
        drain: one(settings, "drain", mistakes, |reader| DrainConfig {
            grace: reader.time("grace"),
            timeout: reader.time("timeout"),
        }),
        log: one(settings, "log", mistakes, |reader| log(reader, around.terminal)),
    };
    let has_static = settings.lists.contains_key("static.route") || settings.once.contains_key("");
    let has_consul = settings.present.contains("consul") || settings.once.contains_key("consul") || around.consul.any;
    if has_consul || !has_static {
        config.consul = Some(one(settings, "consul", mistakes, |reader| consul(reader, around.consul, warnings)));
    }
    config.static_routes = each(settings, "static.route", mistakes, static_route);
    config.certificates = certificates(settings, mistakes, warnings);
    config.listeners = listeners(settings, &config, mistakes, warnings);
    config
}

/// `[proxy]` and `[retry]` together.
pub(crate) fn proxy_and_retry(settings: &Settings, mistakes: &mut Vec<Mistake>) -> ProxyConfig {
    let retry = one(settings, "retry", mistakes, |reader| {
        (reader.count("attempts"), reader.count("budget_percent"), reader.count("budget_min"))
    });
    one(settings, "proxy", mistakes, |reader| proxy(reader, retry))
}

/// Reads a section that stands once.
fn one<T>(
    settings: &Settings,
    name: &'static str,
    mistakes: &mut Vec<Mistake>,
    read: impl FnOnce(&mut Reader<'_>) -> T,
) -> T {
    let section = section(name).expect("names of sections in this crate are in the table");
    let absent = Group::new(Place::Absent);
    let group = settings.once.get(name).unwrap_or(&absent);
    read(&mut Reader::new(section, name.to_owned(), group, mistakes))
}

/// Reads every repetition of a `[[section]]`.
fn each<T>(
    settings: &Settings,
    name: &str,
    mistakes: &mut Vec<Mistake>,
    mut read: impl FnMut(&mut Reader<'_>) -> Option<T>,
) -> Vec<T> {
    let section = section(name).expect("names of sections in this crate are in the table");
    let groups = settings.lists.get(name).map(Vec::as_slice).unwrap_or_default();
    let numbered = groups.iter().enumerate();
    numbered
        .filter_map(|(at, group)| read(&mut Reader::new(section, format!("{name}.{at}"), group, mistakes)))
        .collect()
}

fn consul(reader: &mut Reader<'_>, env: ConsulEnvironment, warnings: &mut Vec<Mistake>) -> ConsulConfig {
    let config = ConsulConfig {
        addresses: Vec::new(),
        ca_file: reader.path("ca_file"),
        ca_path: reader.path("ca_path"),
        cert_file: reader.path("cert_file"),
        key_file: reader.path("key_file"),
        server_name: reader.text("server_name"),
        skip_verify: reader.bool("skip_verify"),
        token: reader.text("token"),
        token_file: reader.path("token_file"),
        namespace: reader.text("namespace"),
        partition: reader.text("partition"),
        datacenter: reader.text("datacenter"),
        tag_prefix: reader.text_or_empty("tag_prefix"),
        accept_status: reader
            .list("accept_status")
            .iter()
            .map(|word| if word == "warning" { CheckStatus::Warning } else { CheckStatus::Passing })
            .collect(),
        checks_required_all: reader.text("checks_required").as_deref() == Some("all"),
        stale: reader.bool("stale"),
        max_stale: reader.time("max_stale"),
        wait: reader.time("wait"),
        resync: reader.time("resync"),
        confirm_percent: reader.count("confirm_percent"),
        check_grace: reader.time("check_grace"),
        critical_hold: reader.time("critical_hold"),
        max_connections: reader.count("max_connections"),
    };
    for (name, value) in
        [("datacenter", &config.datacenter), ("namespace", &config.namespace), ("partition", &config.partition)]
    {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if value.as_deref().is_some_and(|value| !value.chars().all(fits)) {
            reader.wrong(name, "cannot be such a name", "use letters, digits, - and _");
        }
    }
    if let Some(name) = &config.server_name
        && rustls::pki_types::ServerName::try_from(name.as_str()).is_err()
    {
        reader.wrong("server_name", "is not a name a certificate can carry", "write it like server.dc1.consul");
    }
    if config.tag_prefix.is_empty() {
        reader.wrong("tag_prefix", "is empty, so that every tag would be a route", "write \"urlprefix-\"");
    }
    match (&config.cert_file, &config.key_file) {
        (Some(_), None) => reader.wrong("cert_file", "has no key beside it", "set consul.key_file too"),
        (None, Some(_)) => reader.wrong("key_file", "has no certificate beside it", "set consul.cert_file too"),
        _ => {}
    }
    if config.token.is_some() && config.token_file.is_some() {
        warnings.push(reader.about("token", "is not used, because a token file is set too", "remove one of them"));
    }
    let addresses = consul_addresses(reader, &config, env, warnings);
    let token = if config.token_file.is_some() { None } else { config.token };
    ConsulConfig { addresses, token, ..config }
}

/// The agents' URLs. A bare address gets its scheme from what else is configured.
fn consul_addresses(
    reader: &mut Reader<'_>,
    config: &ConsulConfig,
    env: ConsulEnvironment,
    warnings: &mut Vec<Mistake>,
) -> Vec<String> {
    let wants_tls = config.cert_file.is_some() || config.ca_file.is_some() || config.ca_path.is_some();
    // Consul's own tools take CONSUL_HTTP_SSL=true as the last word on their own address variable.
    let forced = env.ssl && matches!(reader.place("address"), Some(Place::Env(name)) if name == "CONSUL_HTTP_ADDR");
    let mut addresses = Vec::new();
    let written = reader.list("address").join(",");
    for text in written.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        let url = match text.split_once("://") {
            None if wants_tls || env.ssl => format!("https://{}", with_port(text)),
            None => format!("http://{}", with_port(text)),
            Some(("http", rest)) if forced => format!("https://{rest}"),
            Some(_) => text.to_owned(),
        };
        if let Some(problem) = address_problem(&url) {
            let advice = "write http://HOST:PORT, https://HOST:PORT or unix:///path/to/socket";
            reader.wrong("address", &problem, advice);
            continue;
        }
        if url.starts_with("http://") && config.cert_file.is_some() {
            let advice = "write https:// if the agent speaks TLS (its port is usually 8501)";
            warnings.push(reader.about("address", "is plain HTTP, so the client certificate is not used", advice));
        }
        if !addresses.contains(&url) {
            addresses.push(url.trim_end_matches('/').to_owned());
        }
    }
    if addresses.is_empty() && !reader.has("address") {
        addresses.push("http://127.0.0.1:8500".to_owned());
    } else if addresses.is_empty() {
        reader.wrong("address", "names no agent", "write http://HOST:PORT or https://HOST:PORT");
    }
    addresses
}

/// A bare host gets Consul's usual port.
fn with_port(text: &str) -> String {
    let has_port = text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port || text.contains('/') { text.to_owned() } else { format!("{text}:8500") }
}

fn address_problem(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    match scheme {
        "unix" if rest.starts_with('/') => None,
        "unix" => Some("has no absolute path to a socket".to_owned()),
        "http" | "https" => match url.parse::<http::Uri>() {
            Ok(uri) if uri.host().is_some_and(|host| !host.is_empty()) && uri.query().is_none() => None,
            _ => Some("is not a URL of an agent".to_owned()),
        },
        other => Some(format!("has the unknown scheme {other}://")),
    }
}

fn static_route(reader: &mut Reader<'_>) -> Option<StaticRoute> {
    let mut need = |name: &str, advice: &str| {
        let value = reader.text(name);
        if value.is_none() && !reader.has(name) {
            reader.wrong(name, "is missing", advice);
        }
        value
    };
    let service = need("service", "name the service, as in service = \"web\"");
    let source = need("source", "say where the route stands, as in source = \"www.example.com/api\"");
    let targets = reader.list("targets");
    if targets.is_empty() {
        reader.wrong("targets", "names no target", "write targets = [\"http://10.0.0.5:8080\"]");
    }
    let options = reader.text_or_empty("options");
    let route = StaticRoute { service: service?, source: source?, targets, options };
    if !route.targets.is_empty() {
        for error in crate::catalog::command::from_static(&route).err().into_iter().flatten() {
            // The text of the error says which of the keys it is about.
            let name = ["service", "source", "options"].into_iter().find(|name| {
                error.text
                    == *match *name {
                        "service" => &route.service,
                        "source" => &route.source,
                        _ => &route.options,
                    }
            });
            let problem = match name {
                Some(_) => format!("makes no route: {}", error.reason),
                None => format!("makes no route: {:?}: {}", error.text, error.reason),
            };
            reader.wrong(name.unwrap_or("targets"), &problem, "");
        }
    }
    Some(route)
}

fn certificates(
    settings: &Settings,
    mistakes: &mut Vec<Mistake>,
    warnings: &mut Vec<Mistake>,
) -> BTreeMap<String, CertificateConfig> {
    let mut found = BTreeMap::new();
    let section = section("certificates").expect("names of sections in this crate are in the table");
    for (name, group) in settings.named.get("certificates").into_iter().flatten() {
        let mut reader = Reader::new(section, format!("certificates.{name}"), group, mistakes);
        let source = match reader.text("source").as_deref() {
            Some("path") => {
                let path = reader.path("path");
                if path.is_none() {
                    reader.wrong("path", "is missing", "name the folder that holds the pairs");
                }
                CertificateSource::Path { path: path.unwrap_or_default() }
            }
            Some("file") | None => {
                let cert_file = reader.path("cert_file");
                if cert_file.is_none() {
                    let advice = "name the PEM file of the chain, or set source = \"path\"";
                    reader.wrong("cert_file", "is missing", advice);
                }
                let cert_file = cert_file.unwrap_or_default();
                CertificateSource::File {
                    key_file: reader.path("key_file").unwrap_or_else(|| cert_file.clone()),
                    cert_file,
                }
            }
            Some(_) => {
                reader.wrong("source", "is not supported yet", "use file or path");
                CertificateSource::Path { path: PathBuf::new() }
            }
        };
        let client_ca_file = reader.path("client_ca_file");
        if reader.has("client_auth") && client_ca_file.is_none() {
            let advice = "set client_ca_file to ask for client certificates";
            warnings.push(reader.about("client_auth", "has no effect without client_ca_file", advice));
        }
        let client_auth_optional = reader.text("client_auth").as_deref() == Some("optional");
        found.insert(name.clone(), CertificateConfig { source, client_ca_file, client_auth_optional });
    }
    found
}

fn listeners(
    settings: &Settings,
    config: &Config,
    mistakes: &mut Vec<Mistake>,
    warnings: &mut Vec<Mistake>,
) -> Vec<ListenerConfig> {
    let certificates = &config.certificates;
    let mut seen = HashSet::new();
    let mut listeners = each(settings, "listener", mistakes, |reader| {
        if !reader.has("address") {
            reader.wrong("address", "is missing", "say where to listen, as in address = \"0.0.0.0:9999\"");
        }
        let listener = listener(reader);
        check_certificates(reader, &listener, certificates, warnings);
        if listener.address.port() != 0 {
            if listener.address == config.admin.address {
                reader.wrong("address", "is the admin listener's too", "change one of them (admin.address)");
            }
            if !seen.insert(listener.address) {
                reader.wrong("address", "is another listener's too", "remove one of them or change its port");
            }
        }
        Some(listener)
    });
    if listeners.is_empty() {
        let section = section("listener").expect("names of sections in this crate are in the table");
        let absent = Group::new(Place::Absent);
        listeners.push(listener(&mut Reader::new(section, "listener.0".to_owned(), &absent, &mut Vec::new())));
        if listeners.iter().any(|listener| listener.address == config.admin.address) {
            mistakes.push(Mistake {
                key: "admin.address".to_owned(),
                value: Some(config.admin.address.to_string()),
                place: settings.once.get("admin").map_or(Place::Absent, |group| group.place.clone()),
                problem: "is the default listener's too".to_owned(),
                advice: "change it, or add a [[listener]]".to_owned(),
            });
        }
    }
    let used: HashSet<&String> = listeners.iter().filter_map(|listener| listener.certificates.as_ref()).collect();
    for (name, group) in
        settings.named.get("certificates").into_iter().flatten().filter(|(name, _)| !used.contains(name))
    {
        warnings.push(Mistake {
            key: format!("certificates.{name}"),
            value: None,
            place: group.place.clone(),
            problem: "is used by no listener".to_owned(),
            advice: format!("add certificates = \"{name}\" to a [[listener]]"),
        });
    }
    listeners
}

fn listener(reader: &mut Reader<'_>) -> ListenerConfig {
    let protocol = match reader.text("protocol").as_deref() {
        Some("https") => ListenerProtocol::Https,
        Some("tcp") => ListenerProtocol::Tcp,
        Some("grpc") => ListenerProtocol::Grpc,
        Some("grpcs") => ListenerProtocol::Grpcs,
        Some("http") | None => ListenerProtocol::Http,
        Some(_) => {
            reader.wrong("protocol", "is not supported yet", "use http, https, tcp, grpc or grpcs");
            ListenerProtocol::Tcp
        }
    };
    ListenerConfig {
        address: reader.socket("address"),
        protocol,
        certificates: reader.text("certificates"),
        proxy_protocol: reader.bool("proxy_protocol"),
        proxy_protocol_timeout: reader.time("proxy_protocol_timeout"),
        strict_sni: reader.bool("strict_sni"),
    }
}

fn check_certificates(
    reader: &mut Reader<'_>,
    listener: &ListenerConfig,
    known: &BTreeMap<String, CertificateConfig>,
    warnings: &mut Vec<Mistake>,
) {
    let tls = matches!(listener.protocol, ListenerProtocol::Https | ListenerProtocol::Grpcs);
    match &listener.certificates {
        Some(name) if !known.contains_key(name) => {
            let advice = match mistake::nearest(name, known.keys().map(String::as_str)) {
                Some(near) => format!("did you mean {near:?}?"),
                None => format!("add [certificates.{name}]"),
            };
            reader.wrong("certificates", "names certificates that are not configured", &advice);
        }
        None if tls => {
            let advice = match known.keys().next() {
                Some(name) => format!("add certificates = {name:?} to this listener"),
                None => {
                    "add [certificates.main] with cert_file and key_file, and certificates = \"main\" here".to_owned()
                }
            };
            reader.wrong("certificates", "is missing, and the protocol needs it", &advice);
        }
        Some(_) if matches!(listener.protocol, ListenerProtocol::Http | ListenerProtocol::Grpc) => {
            let advice = "set protocol = \"https\" or \"grpcs\" for TLS, or remove it";
            warnings.push(reader.about("certificates", "has no effect on a plain listener", advice));
        }
        _ => {}
    }
}

fn proxy(reader: &mut Reader<'_>, (attempts, budget_percent, budget_min): (u32, u32, u32)) -> ProxyConfig {
    let config = ProxyConfig {
        workers: reader.count("workers"),
        strategy: reader.strategy("strategy"),
        matcher: match reader.text("matcher").as_deref() {
            Some("iprefix") => Matcher::IPrefix,
            Some("glob") => Matcher::Glob,
            _ => Matcher::Prefix,
        },
        no_route_status: reader.count("no_route_status"),
        no_route_page: reader.path("no_route_page"),
        retry_after: reader.time("retry_after"),
        local_ip: reader.text("local_ip"),
        client_ip_header: reader.header("client_ip_header"),
        request_id_header: reader.header("request_id_header"),
        tls_header: reader.header("tls_header"),
        tls_header_value: reader.text_or_empty("tls_header_value"),
        sts_max_age: reader.count("sts_max_age"),
        sts_subdomains: reader.bool("sts_subdomains"),
        sts_preload: reader.bool("sts_preload"),
        upstream_ca_file: reader.path("upstream_ca_file"),
        header_timeout: reader.time("header_timeout"),
        idle_timeout: reader.time("idle_timeout"),
        body_timeout: reader.time("body_timeout"),
        max_header_bytes: reader.count("max_header_bytes"),
        max_headers: reader.count("max_headers"),
        max_streams: reader.count("max_streams"),
        max_connections: reader.count("max_connections"),
        connect_timeout: reader.time("connect_timeout"),
        response_timeout: reader.time("response_timeout"),
        try_timeout: reader.time("try_timeout"),
        upstream_idle_timeout: reader.time("upstream_idle_timeout"),
        upstream_max_idle: reader.count("upstream_max_idle"),
        keepalive: reader.time("keepalive"),
        tcp_idle_timeout: reader.time("tcp_idle_timeout"),
        removed_grace: reader.time("removed_grace"),
        retry_attempts: attempts,
        retry_budget_percent: budget_percent,
        retry_budget_min: budget_min,
    };
    if http::HeaderValue::from_str(&config.tls_header_value).is_err() {
        reader.wrong("tls_header_value", "cannot stand in a header", "use printable ASCII characters");
    }
    if config.local_ip.as_ref().is_some_and(|text| text.parse::<std::net::IpAddr>().is_err()) {
        reader.wrong("local_ip", "is not an IP address", "write it like \"10.0.0.1\"");
    }
    config
}

fn health(reader: &mut Reader<'_>) -> HealthConfig {
    let config = HealthConfig {
        eject_after: reader.count("eject_after"),
        eject_base_ms: reader.millis("eject_base"),
        eject_max_ms: reader.millis("eject_max"),
        eject_max_percent: reader.count("eject_max_percent"),
        slow_start_ms: reader.millis("slow_start"),
    };
    if config.eject_max_ms < config.eject_base_ms {
        reader.wrong("eject_max", "is shorter than eject_base", "make it at least as long");
    }
    config
}

fn dns(reader: &mut Reader<'_>) -> DnsConfig {
    let config = DnsConfig {
        servers: reader.sockets("servers"),
        min_ttl: reader.time("min_ttl"),
        max_ttl: reader.time("max_ttl"),
        timeout: reader.time("timeout"),
    };
    if config.max_ttl < config.min_ttl {
        reader.wrong("max_ttl", "is shorter than min_ttl", "make it at least as long");
    }
    config
}

fn log(reader: &mut Reader<'_>, terminal: bool) -> LogConfig {
    let level = reader.text("level").unwrap_or_else(|| "info".to_owned());
    if let Err(error) = level.parse::<tracing_subscriber::filter::targets::Targets>() {
        let problem = format!("is not a filter ({error})");
        reader.wrong("level", &problem, "write error, warn, info, debug or trace, or \"info,lb::registry=debug\"");
    }
    LogConfig {
        level,
        format: match reader.text("format").as_deref() {
            Some("text") => LogFormat::Text,
            Some("auto") if terminal => LogFormat::Text,
            _ => LogFormat::Json,
        },
        access: match reader.text("access").as_deref() {
            Some("common") => AccessLog::Common,
            Some("combined") => AccessLog::Combined,
            Some("json") => AccessLog::Json,
            _ => AccessLog::Off,
        },
    }
}

/// The number of keys there are: what tests of completeness compare with.
#[cfg(test)]
pub(crate) fn key_count() -> usize {
    super::keys::SECTIONS.iter().map(|section| section.keys.len()).sum()
}
