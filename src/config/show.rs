//! The effective configuration as JSON, in the shape of the file, without secrets.

use serde_json::{Value, json};

use super::keys::TLS_CIPHERS;
use super::*;
use crate::catalog::CheckStatus;
use crate::table::{ErrorStatus, Matcher};

const MASK: &str = "***";

impl Config {
    /// For `/api/config`: every key with its value in force; tokens as `***`, durations as text.
    #[must_use]
    pub fn to_masked_json(&self) -> Value {
        json!({
            "routes_file": self.routes_file,
            "routes": self.routes,
            "take_over": self.take_over,
            "routes_http": self.routes_http.as_ref().map(routes_http),
            "routing": routing(&self.routing),
            "consul": self.consul.as_ref().map(consul),
            "listener": self.listeners.iter().map(listener).collect::<Vec<_>>(),
            "certificates": self.certificates.iter().map(|(name, it)| (name.clone(), certificates(it)))
                .collect::<serde_json::Map<_, _>>(),
            "auth": self.auth.iter().map(|(name, it)| (name.clone(), auth(it))).collect::<serde_json::Map<_, _>>(),
            "vault": vault(&self.vault),
            "static": { "route": self.static_routes.iter().map(|route| json!({
                "service": route.service,
                "source": route.source,
                "targets": route.targets.iter().map(|url| without_password(url)).collect::<Vec<_>>(),
                "options": route.options,
            })).collect::<Vec<_>>() },
            "proxy": proxy(&self.proxy, &self.compression),
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
                "error_status": match self.health.error_status {
                    ErrorStatus::Off => "off",
                    ErrorStatus::Gateway => "gateway",
                    ErrorStatus::All => "5xx",
                },
                "frozen_after": time(Duration::from_millis(self.health.frozen_after_ms)),
            },
            "dns": {
                "servers": self.dns.servers,
                "min_ttl": time(self.dns.min_ttl),
                "max_ttl": time(self.dns.max_ttl),
                "timeout": time(self.dns.timeout),
            },
            "admin": admin(&self.admin),
            "metrics": metrics(&self.metrics),
            "drain": { "grace": time(self.drain.grace), "timeout": time(self.drain.timeout) },
            "log": {
                "level": self.log.level,
                "format": match self.log.format { LogFormat::Text => "text", LogFormat::Json => "json" },
                "access": match &self.log.access {
                    AccessLog::Off => "off",
                    AccessLog::Common => "common",
                    AccessLog::Combined => "combined",
                    AccessLog::Json => "json",
                    AccessLog::Custom(format) => format.as_str(),
                },
                "access_tcp": self.log.access_tcp,
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
        "writable": config.writable,
        "hosts": config.hosts,
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
    limits
        .ciphers
        .iter()
        .filter_map(|number| cipher_name(*number))
        .collect()
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

fn routing(RoutingConfig { tag_prefix, rules }: &RoutingConfig) -> Value {
    let status = |status: &CheckStatus| match status {
        CheckStatus::Passing => "passing",
        CheckStatus::Warning => "warning",
        CheckStatus::Critical => "critical",
        CheckStatus::Maintenance => "maintenance",
    };
    json!({
        "tag_prefix": tag_prefix,
        "accept_status": rules.accept_status.iter().map(status).collect::<Vec<_>>(),
        "checks_required": if rules.checks_required_all { "all" } else { "one" },
        "require_check": rules.require_check,
        "node_checks": if rules.node_checks_all { "all" } else { "serf" },
        "weights": rules.weights,
        "check_grace": time(rules.check_grace),
        "critical_hold": time(rules.critical_hold),
    })
}

fn consul(config: &ConsulConfig) -> Value {
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
        "http_auth": config.http_auth.as_ref().map(|_| MASK),
        "token": config.token.as_ref().map(|_| MASK),
        "token_file": config.token_file,
        "namespace": config.namespace,
        "partition": config.partition,
        "datacenter": config.datacenter,
        "kv_path": config.kv_path,
        "no_route_kv_path": config.no_route_kv_path,
        "stale": config.stale,
        "max_stale": time(config.max_stale),
        "wait": time(config.wait),
        "resync": time(config.resync),
        "confirm_percent": config.confirm_percent,
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

fn metrics(config: &MetricsConfig) -> Value {
    json!({
        "fabio_names": config.fabio_names,
        "path": config.path,
        "prefix": config.prefix.to_string(),
        "subsystem": config.subsystem,
        "buckets": config.buckets,
        "statsd": config.statsd,
        "dogstatsd": config.dogstatsd,
        "graphite": config.graphite,
        "stdout": match (config.stdout_flat, config.stdout_label) {
            (false, false) => "off",
            (true, false) => "flat",
            (false, true) => "label",
            (true, true) => "flat,label",
        },
        "interval": time(config.interval),
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
        "request_timeout": config.request_timeout.map(time),
        "ports": config.ports.to_string(),
        "refresh": time(config.refresh),
    })
}

fn cipher_name(number: u16) -> Option<&'static str> {
    TLS_CIPHERS
        .iter()
        .find(|(_, known)| *known == number)
        .map(|(name, _)| *name)
}

fn certificates(config: &CertificateConfig) -> Value {
    let mut shown = json!({
        "source": config.source.as_str(),
        "client_ca_file": config.client_ca_file,
        "client_ca_upgrade_cn": config.client_ca_upgrade_cn,
        "client_auth": if config.client_auth_optional { "optional" } else { "required" },
    });
    for key in super::keys::section("certificates")
        .into_iter()
        .flat_map(|section| section.keys)
    {
        if shown.get(key.name).is_none() {
            shown[key.name] = Value::Null;
        }
    }
    match &config.source {
        CertificateSource::File {
            cert_file,
            key_file,
        } => {
            shown["cert_file"] = json!(cert_file);
            shown["key_file"] = json!(key_file);
        }
        CertificateSource::Path { path } => shown["path"] = json!(path),
        CertificateSource::Http {
            url,
            client_ca_url,
            headers,
            refresh,
        } => {
            shown["url"] = json!(without_secrets(url));
            shown["client_ca_url"] = json!(client_ca_url.as_ref().map(without_secrets));
            shown["headers"] = hidden(headers);
            shown["refresh"] = json!(time(*refresh));
        }
        CertificateSource::Consul {
            keys,
            client_ca,
            token: place,
        } => {
            let own = |keys: &ConsulKeys| match keys {
                ConsulKeys::Own(path) => (Value::Null, json!(path)),
                ConsulKeys::At {
                    address,
                    path,
                    token,
                } => {
                    let token = token
                        .as_ref()
                        .map_or(String::new(), |_| format!("?token={MASK}"));
                    (json!(format!("{address}/v1/kv/{path}{token}")), Value::Null)
                }
            };
            (shown["url"], shown["kv_path"]) = own(keys);
            if let Some(keys) = client_ca {
                (shown["client_ca_url"], shown["client_ca_kv_path"]) = own(keys);
            }
            token(&mut shown, place);
        }
        CertificateSource::Vault {
            kv_path,
            client_ca_kv_path,
            refresh,
            token: place,
        } => {
            shown["kv_path"] = json!(kv_path);
            shown["client_ca_kv_path"] = json!(client_ca_kv_path);
            shown["refresh"] = json!(time(*refresh));
            token(&mut shown, place);
        }
        CertificateSource::VaultPki {
            issue_path,
            names,
            renew_before,
            client_ca_kv_path,
            refresh,
            token: place,
        } => {
            shown["issue_path"] = json!(issue_path);
            shown["names"] = json!(names);
            shown["renew_before"] = json!(time(*renew_before));
            shown["client_ca_kv_path"] = json!(client_ca_kv_path);
            shown["refresh"] = json!(time(*refresh));
            token(&mut shown, place);
        }
    }
    shown
}

fn vault(config: &VaultConfig) -> Value {
    let mut shown = json!({
        "address": config.address,
        "ca_file": config.ca_file,
        "ca_path": config.ca_path,
        "ca_pem": config.ca_pem,
        "cert_file": config.cert_file,
        "key_file": config.key_file,
        "server_name": config.server_name,
        "skip_verify": config.skip_verify,
        "namespace": config.namespace,
        "token": null,
        "token_file": null,
        "timeout": time(config.timeout),
    });
    token(&mut shown, &config.token);
    shown
}

fn token(shown: &mut Value, place: &TokenPlace) {
    match place {
        TokenPlace::Nowhere => {}
        TokenPlace::Text(_) => shown["token"] = json!(MASK),
        TokenPlace::File(path) => shown["token_file"] = json!(path),
        TokenPlace::Env(name) => shown["token_env"] = json!(name),
    }
}

/// A URL whose password and query, which may be a token, are masked.
fn without_secrets(url: &Secret) -> String {
    let text = without_password(url.reveal());
    match text.split_once('?') {
        Some((place, _)) => format!("{place}?{MASK}"),
        None => text,
    }
}

/// Headers without what they say.
fn hidden(headers: &[(http::HeaderName, http::HeaderValue)]) -> Value {
    headers
        .iter()
        .map(|(name, _)| format!("{name}: {MASK}"))
        .collect()
}

fn routes_http(config: &RoutesHttpConfig) -> Value {
    json!({
        "url": without_secrets(&config.url),
        "headers": hidden(&config.headers),
        "refresh": time(config.refresh),
        "timeout": time(config.timeout),
        "ca_file": config.ca_file,
        "skip_verify": config.skip_verify,
    })
}

fn auth(config: &AuthConfig) -> Value {
    let mut shown = json!({
        "type": "basic", "file": null, "realm": null, "refresh": null,
        "endpoint": null, "set_headers": null, "append_headers": null, "timeout": null,
    });
    match &config.kind {
        AuthKind::Basic {
            file,
            realm,
            refresh,
        } => {
            shown["file"] = json!(file);
            shown["realm"] = json!(realm);
            shown["refresh"] = json!(time(*refresh));
        }
        AuthKind::External(external) => {
            let names = |names: &[http::HeaderName]| {
                names.iter().map(|name| name.as_str().to_owned()).collect()
            };
            shown["type"] = json!("external");
            shown["endpoint"] = json!(without_secrets(&external.endpoint));
            shown["set_headers"] = names(&external.set_headers);
            shown["append_headers"] = names(&external.append_headers);
            shown["timeout"] = json!(time(external.timeout));
        }
    }
    shown
}

fn proxy(config: &ProxyConfig, compression: &CompressionConfig) -> Value {
    let header =
        |name: &Option<http::HeaderName>| name.as_ref().map(|name| name.as_str().to_owned());
    let matcher = match config.matcher {
        Matcher::Prefix => "prefix",
        Matcher::IPrefix => "iprefix",
        Matcher::Glob => "glob",
    };
    let mut shown = json!({
        "workers": config.workers,
        "strategy": config.strategy.to_string(),
        "matcher": matcher,
        "no_route_status": config.no_route_status,
        "no_route_page": config.no_route_page,
        "no_route_html": config.no_route_html,
        "retry_after": time(config.retry_after),
        "fall_through": config.fall_through,
        "host_patterns": config.host_patterns,
        "merge_slashes": config.merge_slashes,
        "upstream_errors": if config.bare_errors { "bare" } else { "told" },
        "forwarded_host": if config.forwarded_host_sent { "sent" } else { "received" },
        "local_ip": config.local_ip,
        "client_ip_header": header(&config.client_ip_header),
        "request_id_header": header(&config.request_id_header),
        "tls_header": header(&config.tls_header),
        "tls_header_value": config.tls_header_value,
        "sts_max_age": config.sts_max_age,
        "sts_subdomains": config.sts_subdomains,
        "sts_preload": config.sts_preload,
        "upstream_ca_file": config.upstream_ca_file,
        "compression": {
            "content_types": compression.content_types.as_ref().map(ContentTypes::as_str),
            "algorithms": compression.algorithms.iter().map(|coding| coding.as_str()).collect::<Vec<_>>(),
            "min_bytes": compression.min_bytes,
            "max_memory_mib": compression.max_memory_mib,
        },
    });
    let limits = json!({
        "header_timeout": time(config.header_timeout),
        "idle_timeout": time(config.idle_timeout),
        "body_timeout": time(config.body_timeout),
        "max_header_bytes": config.max_header_bytes,
        "max_headers": config.max_headers,
        "max_streams": config.max_streams,
        "max_connections": config.max_connections,
        "connect_timeout": time(config.connect_timeout),
        "response_timeout": time(config.response_timeout),
        "response_idle_timeout": time(config.response_idle_timeout),
        "request_timeout": time(config.request_timeout),
        "try_timeout": time(config.try_timeout),
        "upstream_idle_timeout": time(config.upstream_idle_timeout),
        "upstream_max_idle": config.upstream_max_idle,
        "keepalive": time(config.keepalive),
        "tcp_idle_timeout": time(config.tcp_idle_timeout),
        "removed_grace": time(config.removed_grace),
    });
    if let (Some(shown), Value::Object(limits)) = (shown.as_object_mut(), limits) {
        shown.extend(limits);
    }
    shown
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
            address = "https://127.0.0.1:8501"
            http_auth = "me:secret"
            token = "secret"
            cert_pem = "public"
            key_pem = "secret"
            [[listener]]
            address = "127.0.0.1:1"
            protocol = "https"
            certificates = "main"
            [certificates.main]
            cert_file = "a.pem"
            [auth.main]
            file = "users"
            [certificates.web]
            source = "http"
            url = "https://me:secret@h/list?key=secret"
            headers = ["x-key: secret"]
            [certificates.kv]
            source = "consul"
            url = "https://h/v1/kv/certs?token=secret"
            token = "secret"
            [vault]
            token = "secret"
            [routes_http]
            url = "https://me:secret@h/routes?key=secret"
            headers = ["x-key: secret"]
            [[static.route]]
            service = "a"
            source = "/"
            targets = ["http://h:1/"]
        "#;
        load(&Inputs {
            file: Some(("lb.toml".into(), text.to_owned())),
            ..Inputs::default()
        })
        .unwrap()
        .config
    }

    #[test]
    fn every_key_is_shown() {
        let json = sample().to_masked_json();
        let mut seen = 0;
        for section in SECTIONS {
            let place = match section.shape {
                Shape::Top => json.clone(),
                Shape::Once => section
                    .name
                    .split('.')
                    .fold(json.clone(), |place, part| place[part].clone()),
                Shape::List if section.name == "listener" => json["listener"][0].clone(),
                Shape::List => json["static"]["route"][0].clone(),
                Shape::Named => json[section.name]["main"].clone(),
            };
            for key in section.keys {
                let has_effect = section.path(key) != "proxy.direct";
                assert_eq!(
                    place.get(key.name).is_some(),
                    has_effect,
                    "{} is not shown",
                    section.path(key)
                );
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
        assert!(
            text.contains(r#""key_pem":"***""#) && text.contains(r#""cert_pem":"public""#),
            "{text}"
        );
    }
}
