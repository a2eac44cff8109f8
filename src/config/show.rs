//! The effective configuration as JSON, in the shape of the file, without secrets.

use serde_json::{Value, json};

use super::keys::TLS_CIPHERS;
use super::*;
use crate::table::Matcher;

const MASK: &str = "***";

impl Config {
    /// For `/api/config`: every key with its value in force; tokens as `***`, durations as text.
    #[must_use]
    pub fn to_masked_json(&self) -> Value {
        json!({
            "routes_file": self.routes_file,
            "consul": self.consul.as_ref().map(consul),
            "listener": self.listeners.iter().map(listener).collect::<Vec<_>>(),
            "certificates": self.certificates.iter().map(|(name, it)| (name.clone(), certificates(it)))
                .collect::<serde_json::Map<_, _>>(),
            "static": { "route": self.static_routes.iter().map(|route| json!({
                "service": route.service,
                "source": route.source,
                "targets": route.targets.iter().map(|url| without_password(url)).collect::<Vec<_>>(),
                "options": route.options,
            })).collect::<Vec<_>>() },
            "proxy": proxy(&self.proxy),
            "retry": {
                "attempts": self.proxy.retry_attempts,
                "budget_percent": self.proxy.retry_budget_percent,
                "budget_min": self.proxy.retry_budget_min,
            },
            "health": {
                "eject_after": self.health.eject_after,
                "eject_base": time(Duration::from_millis(self.health.eject_base_ms)),
                "eject_max": time(Duration::from_millis(self.health.eject_max_ms)),
                "eject_max_percent": self.health.eject_max_percent,
                "slow_start": time(Duration::from_millis(self.health.slow_start_ms)),
            },
            "dns": {
                "servers": self.dns.servers,
                "min_ttl": time(self.dns.min_ttl),
                "max_ttl": time(self.dns.max_ttl),
                "timeout": time(self.dns.timeout),
            },
            "admin": admin(&self.admin),
            "drain": { "grace": time(self.drain.grace), "timeout": time(self.drain.timeout) },
            "log": {
                "level": self.log.level,
                "format": match self.log.format { LogFormat::Text => "text", LogFormat::Json => "json" },
                "access": match self.log.access {
                    AccessLog::Off => "off",
                    AccessLog::Common => "common",
                    AccessLog::Combined => "combined",
                    AccessLog::Json => "json",
                },
            },
        })
    }
}

fn admin(config: &AdminConfig) -> Value {
    json!({
        "address": config.address,
        "certificates": config.certificates,
        "strict_sni": config.strict_sni,
        "tls_min": config.tls.min.as_str(),
        "tls_max": config.tls.max.as_str(),
        "tls_ciphers": ciphers(&config.tls),
        "path": config.path,
        "home": match config.home { AdminHome::Overview => "overview", AdminHome::Routes => "routes" },
        "title": config.title,
        "color": config.color,
        "link_sources": config.links.enabled,
        "link_new_tab": config.links.new_tab,
        "link_scheme": config.links.scheme,
        "link_host": config.links.host,
        "link_port": config.links.port,
    })
}

fn ciphers(limits: &TlsLimits) -> Vec<&'static str> {
    limits.ciphers.iter().filter_map(|number| cipher_name(*number)).collect()
}

fn time(duration: Duration) -> String {
    format_duration(duration)
}

/// `scheme://user:password@host` loses what stands before the `@`.
fn without_password(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, tail) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            match authority.rsplit_once('@') {
                Some((_, host)) => format!("{scheme}://{MASK}@{host}{tail}"),
                None => url.to_owned(),
            }
        }
        None => url.to_owned(),
    }
}

fn consul(config: &ConsulConfig) -> Value {
    let status = |status: &CheckStatus| match status {
        CheckStatus::Passing => "passing",
        CheckStatus::Warning => "warning",
        CheckStatus::Critical => "critical",
        CheckStatus::Maintenance => "maintenance",
    };
    json!({
        "address": config.addresses.iter().map(|url| without_password(url)).collect::<Vec<_>>().join(","),
        "ca_file": config.ca_file,
        "ca_pem": config.ca_pem,
        "ca_path": config.ca_path,
        "cert_file": config.cert_file,
        "cert_pem": config.cert_pem,
        "key_file": config.key_file,
        "key_pem": config.key_pem.as_ref().map(|_| MASK),
        "server_name": config.server_name,
        "skip_verify": config.skip_verify,
        "token": config.token.as_ref().map(|_| MASK),
        "token_file": config.token_file,
        "namespace": config.namespace,
        "partition": config.partition,
        "datacenter": config.datacenter,
        "tag_prefix": config.tag_prefix,
        "kv_path": config.kv_path,
        "accept_status": config.accept_status.iter().map(status).collect::<Vec<_>>(),
        "checks_required": if config.checks_required_all { "all" } else { "one" },
        "stale": config.stale,
        "max_stale": time(config.max_stale),
        "wait": time(config.wait),
        "resync": time(config.resync),
        "confirm_percent": config.confirm_percent,
        "check_grace": time(config.check_grace),
        "critical_hold": time(config.critical_hold),
        "max_connections": config.max_connections,
        "register": {
            "enabled": config.register.enabled,
            "aliases": config.register.aliases,
            "name": config.register.name,
            "address": config.register.address,
            "tags": config.register.tags,
            "check_interval": time(config.register.check_interval),
            "check_timeout": time(config.register.check_timeout),
            "check_skip_verify": config.register.check_skip_verify,
        },
    })
}

fn listener(config: &ListenerConfig) -> Value {
    json!({
        "address": config.address,
        "protocol": config.protocol.as_str(),
        "certificates": config.certificates,
        "proxy_protocol": config.proxy_protocol,
        "proxy_protocol_timeout": time(config.proxy_protocol_timeout),
        "strict_sni": config.strict_sni,
        "tls_min": config.tls.min.as_str(),
        "tls_max": config.tls.max.as_str(),
        "tls_ciphers": ciphers(&config.tls),
        "header_timeout": config.header_timeout.map(time),
        "idle_timeout": config.idle_timeout.map(time),
        "body_timeout": config.body_timeout.map(time),
        "ports": config.ports.to_string(),
        "refresh": time(config.refresh),
    })
}

fn cipher_name(number: u16) -> Option<&'static str> {
    TLS_CIPHERS.iter().find(|(_, known)| *known == number).map(|(name, _)| *name)
}

fn certificates(config: &CertificateConfig) -> Value {
    let (source, cert_file, key_file, path) = match &config.source {
        CertificateSource::File { cert_file, key_file } => ("file", Some(cert_file), Some(key_file), None),
        CertificateSource::Path { path } => ("path", None, None, Some(path)),
    };
    json!({
        "source": source,
        "cert_file": cert_file,
        "key_file": key_file,
        "path": path,
        "client_ca_file": config.client_ca_file,
        "client_auth": if config.client_auth_optional { "optional" } else { "required" },
    })
}

fn proxy(config: &ProxyConfig) -> Value {
    let header = |name: &Option<http::HeaderName>| name.as_ref().map(|name| name.as_str().to_owned());
    let matcher = match config.matcher {
        Matcher::Prefix => "prefix",
        Matcher::IPrefix => "iprefix",
        Matcher::Glob => "glob",
    };
    json!({
        "workers": config.workers,
        "strategy": config.strategy.to_string(),
        "matcher": matcher,
        "no_route_status": config.no_route_status,
        "no_route_page": config.no_route_page,
        "retry_after": time(config.retry_after),
        "local_ip": config.local_ip,
        "client_ip_header": header(&config.client_ip_header),
        "request_id_header": header(&config.request_id_header),
        "tls_header": header(&config.tls_header),
        "tls_header_value": config.tls_header_value,
        "sts_max_age": config.sts_max_age,
        "sts_subdomains": config.sts_subdomains,
        "sts_preload": config.sts_preload,
        "upstream_ca_file": config.upstream_ca_file,
        "header_timeout": time(config.header_timeout),
        "idle_timeout": time(config.idle_timeout),
        "body_timeout": time(config.body_timeout),
        "max_header_bytes": config.max_header_bytes,
        "max_headers": config.max_headers,
        "max_streams": config.max_streams,
        "max_connections": config.max_connections,
        "connect_timeout": time(config.connect_timeout),
        "response_timeout": time(config.response_timeout),
        "try_timeout": time(config.try_timeout),
        "upstream_idle_timeout": time(config.upstream_idle_timeout),
        "upstream_max_idle": config.upstream_max_idle,
        "keepalive": time(config.keepalive),
        "tcp_idle_timeout": time(config.tcp_idle_timeout),
        "removed_grace": time(config.removed_grace),
    })
}

#[cfg(test)]
mod tests {
    use super::super::build::key_count;
    use super::super::keys::{SECTIONS, Shape};
    use super::super::{Inputs, load};
    use super::*;

    fn sample() -> Config {
        let text = r#"
            [consul]
            address = "https://me:secret@127.0.0.1:8501"
            token = "secret"
            cert_pem = "public"
            key_pem = "secret"
            [[listener]]
            address = "127.0.0.1:1"
            protocol = "https"
            certificates = "main"
            [certificates.main]
            cert_file = "a.pem"
            [[static.route]]
            service = "a"
            source = "/"
            targets = ["http://h:1/"]
        "#;
        load(&Inputs { file: Some(("lb.toml".into(), text.to_owned())), ..Inputs::default() }).unwrap().config
    }

    #[test]
    fn every_key_is_shown() {
        let json = sample().to_masked_json();
        let mut seen = 0;
        for section in SECTIONS {
            let place = match section.shape {
                Shape::Top => json.clone(),
                Shape::Once => section.name.split('.').fold(json.clone(), |place, part| place[part].clone()),
                Shape::List if section.name == "listener" => json["listener"][0].clone(),
                Shape::List => json["static"]["route"][0].clone(),
                Shape::Named => json["certificates"]["main"].clone(),
            };
            for key in section.keys {
                assert!(place.get(key.name).is_some(), "{} is not shown", section.path(key));
                seen += 1;
            }
        }
        assert_eq!(seen, key_count());
    }

    #[test]
    fn secrets_are_not() {
        let text = sample().to_masked_json().to_string();
        assert!(!text.contains("secret"), "{text}");
        assert!(text.contains(r#""token":"***""#), "{text}");
        assert!(text.contains(r#""key_pem":"***""#) && text.contains(r#""cert_pem":"public""#), "{text}");
    }
}
