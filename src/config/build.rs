//! From [`Settings`] to [`Config`]: types, defaults, and the checks that need more than one key.

use super::keys::{SOURCE_SWITCHES, section};
use super::mistake::{Mistake, Place};
use super::overlay::ConsulEnvironment;
use super::raw::{Group, Settings};
use super::reader::{Reader, each};
use super::*;
use crate::table::{ErrorStatus, Matcher};

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
    let given = |section| settings.present.contains(section) || settings.once.contains_key(section);
    let routes_http = one(settings, "routes_http", mistakes, |reader| {
        routes_http::routes_http(reader, warnings)
    });
    let has_other_source = SOURCE_SWITCHES.iter().any(|path| settings.has(path));
    let has_consul =
        given("consul") || given("consul.register") || around.consul.any || !has_other_source;
    let certificates = sources::certificates(settings, has_consul, mistakes, warnings);
    // What `VAULT_*` say concerns only those who use it here.
    let mut of_vault = Vec::new();
    let vault = one(settings, "vault", &mut of_vault, sources::vault);
    if settings.present.contains("vault") || certificates.values().any(|it| it.source.uses_vault())
    {
        mistakes.append(&mut of_vault);
    }
    let mut config = Config {
        consul: None,
        static_routes: Vec::new(),
        routes_file: one(settings, "", mistakes, |reader| reader.path("routes_file")),
        routes: one(settings, "", mistakes, |reader| {
            reader.text_or_empty("routes")
        }),
        take_over: one(settings, "", mistakes, |reader| reader.bool("take_over")),
        routes_http,
        routing: one(settings, "routing", mistakes, routing::routing),
        dns: one(settings, "dns", mistakes, dns),
        listeners: Vec::new(),
        certificates: BTreeMap::new(),
        auth: auth::schemes(settings, mistakes),
        vault,
        proxy: proxy_and_retry(settings, mistakes, warnings),
        compression: one(
            settings,
            "proxy.compression",
            mistakes,
            compression::compression,
        ),
        health: one(settings, "health", mistakes, health),
        admin: one(settings, "admin", mistakes, |reader| {
            admin::admin(reader, &certificates)
        }),
        metrics: one(settings, "metrics", mistakes, metrics::metrics),
        drain: one(settings, "drain", mistakes, |reader| DrainConfig {
            grace: reader.time("grace"),
            timeout: reader.time("timeout"),
        }),
        log: one(settings, "log", mistakes, |reader| {
            log(reader, around.terminal)
        }),
    };
    if has_consul {
        let register = one(settings, "consul.register", mistakes, agents::register);
        let consul =
            |reader: &mut Reader<'_>| agents::consul(reader, around.consul, register, warnings);
        config.consul = Some(one(settings, "consul", mistakes, consul));
    }
    one(settings, "admin", mistakes, |reader| {
        admin::check(reader, &config, warnings)
    });
    config.static_routes = each(settings, "static.route", mistakes, static_route);
    config.certificates = certificates;
    config.listeners = listeners::listeners(settings, &config, mistakes, warnings);
    config
}

/// `[proxy]` and `[retry]` together.
pub(crate) fn proxy_and_retry(
    settings: &Settings,
    mistakes: &mut Vec<Mistake>,
    warnings: &mut Vec<Mistake>,
) -> ProxyConfig {
    let retry = one(settings, "retry", mistakes, |reader| {
        (
            reader.count("attempts"),
            reader.count("budget_percent"),
            reader.count("budget_min"),
        )
    });
    one(settings, "proxy", mistakes, |reader| {
        proxy(reader, warnings, retry)
    })
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

fn static_route(reader: &mut Reader<'_>) -> Option<StaticRoute> {
    let mut need = |name: &str, advice: &str| {
        let value = reader.text(name);
        if value.is_none() && !reader.has(name) {
            reader.wrong(name, "is missing", advice);
        }
        value
    };
    let service = need("service", "name the service, as in service = \"web\"");
    let source = need(
        "source",
        "say where the route stands, as in source = \"www.example.com/api\"",
    );
    let targets = reader.list("targets");
    if targets.is_empty() {
        reader.wrong(
            "targets",
            "names no target",
            "write targets = [\"http://10.0.0.5:8080\"]",
        );
    }
    let options = reader.text_or_empty("options");
    let route = StaticRoute {
        service: service?,
        source: source?,
        targets,
        options,
    };
    if !route.targets.is_empty() {
        for (name, problem) in static_routes::problems(&route) {
            reader.wrong(name, &format!("makes no route: {problem}"), "");
        }
    }
    Some(route)
}

fn proxy(
    reader: &mut Reader<'_>,
    warnings: &mut Vec<Mistake>,
    (attempts, budget_percent, budget_min): (u32, u32, u32),
) -> ProxyConfig {
    if reader.has("direct") {
        warnings.push(reader.about(
            "direct",
            "has no effect any more",
            "take it out: there is one way for all requests",
        ));
    }
    let _ = reader.bool("direct");
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
        no_route_html: reader.text_or_empty("no_route_html"),
        retry_after: reader.time("retry_after"),
        bare_errors: reader.text("upstream_errors").as_deref() == Some("bare"),
        fall_through: reader.bool("fall_through"),
        host_patterns: reader.bool("host_patterns"),
        merge_slashes: reader.bool("merge_slashes"),
        forwarded_host_sent: reader.text("forwarded_host").as_deref() == Some("sent"),
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
        response_idle_timeout: reader.time("response_idle_timeout"),
        request_timeout: reader.time("request_timeout"),
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
        reader.wrong(
            "tls_header_value",
            "cannot stand in a header",
            "use printable ASCII characters",
        );
    }
    if config
        .local_ip
        .as_ref()
        .is_some_and(|text| text.parse::<std::net::IpAddr>().is_err())
    {
        reader.wrong(
            "local_ip",
            "is not an IP address",
            "write it like \"10.0.0.1\"",
        );
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
        error_status: match reader.text("error_status").as_deref() {
            Some("off") => ErrorStatus::Off,
            Some("5xx") => ErrorStatus::All,
            _ => ErrorStatus::Gateway,
        },
        frozen_after_ms: reader.millis("frozen_after"),
    };
    if config.eject_max_ms < config.eject_base_ms {
        reader.wrong(
            "eject_max",
            "is shorter than eject_base",
            "make it at least as long",
        );
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
        reader.wrong(
            "max_ttl",
            "is shorter than min_ttl",
            "make it at least as long",
        );
    }
    config
}

fn log(reader: &mut Reader<'_>, terminal: bool) -> LogConfig {
    let level = reader.text("level").unwrap_or_else(|| "info".to_owned());
    if let Some((problem, advice)) = level::problem(&level) {
        reader.wrong("level", &problem, &advice);
    }
    LogConfig {
        level,
        format: match reader.text("format").as_deref() {
            Some("text") => LogFormat::Text,
            Some("auto") if terminal => LogFormat::Text,
            _ => LogFormat::Json,
        },
        access: access(reader),
        access_tcp: reader.bool("access_tcp"),
    }
}

fn access(reader: &mut Reader<'_>) -> AccessLog {
    match reader.text("access").as_deref() {
        None | Some("off") => AccessLog::Off,
        Some("common") => AccessLog::Common,
        Some("combined") => AccessLog::Combined,
        Some("json") => AccessLog::Json,
        Some(text) => match AccessFormat::parse(text) {
            Ok(format) => AccessLog::Custom(format.into()),
            Err(error) => {
                let word = mistake::nearest(text, ["off", "common", "combined", "json"]);
                let advice = word
                    .map(|near| format!("did you mean {near}?"))
                    .unwrap_or_else(|| error.advice());
                reader.wrong("access", &error.to_string(), &advice);
                AccessLog::Off
            }
        },
    }
}

/// The number of keys there are: what tests of completeness compare with.
#[cfg(test)]
pub(crate) fn key_count() -> usize {
    super::keys::SECTIONS
        .iter()
        .map(|section| section.keys.len())
        .sum()
}
