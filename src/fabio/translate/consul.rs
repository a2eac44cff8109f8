//! Where routes come from, and how Consul is read.

use std::time::Duration;

use super::super::document::Value;
use super::Translator;

impl Translator<'_> {
    pub(super) fn registry(&mut self) {
        let (strict, stale) = (
            "registry.consul.requireConsistent",
            "registry.consul.allowStale",
        );
        if self.settings.is_on(strict) && self.settings.is_on(stale) {
            self.refuse(stale, format!("it cannot be true together with {strict}"));
        }
        let key = "registry.backend";
        match &*self.word(key, &["consul", "file", "static", "custom"]) {
            "consul" => self.consul(),
            "file" => self.file(),
            "static" => self.fixed(),
            "custom" => self.custom(),
            _ => {}
        }
    }

    fn file(&mut self) {
        for (key, ours) in [
            ("registry.file.path", "routes_file"),
            ("registry.file.noroutehtmlpath", "proxy.no_route_page"),
        ] {
            self.set_path(ours, key);
        }
        if self.settings.text("registry.file.path").is_empty() {
            self.refuse(
                "registry.file.path",
                "registry.backend=file needs a file of routes",
            );
        }
    }

    /// Routes and page in the settings themselves. Without a route nothing is served, which Fabio
    /// starts with, too.
    fn fixed(&mut self) {
        let key = "registry.static.routes";
        let text = self.settings.text(key).trim();
        // An empty source is a source: without any, lb would use Consul.
        self.document
            .set("routes", if text.is_empty() { "# none" } else { text }, key);
        self.set_text("proxy.no_route_html", "registry.static.noroutehtml");
    }

    /// An endpoint that returns routes. The URL is put together as Fabio does it, down to a slash too
    /// many.
    fn custom(&mut self) {
        let text = |name: &str| self.settings.text(&format!("registry.custom.{name}"));
        let (scheme, host, path, query) = (
            text("scheme"),
            text("host"),
            text("path"),
            text("queryparams"),
        );
        let question = if query.is_empty() { "" } else { "?" };
        let url = format!("{scheme}://{host}/{path}{question}{query}");
        let from = "registry.custom.scheme, host, path, queryparams";
        match host {
            "" => self.refuse(
                "registry.custom.host",
                "registry.backend=custom needs a host to send requests to",
            ),
            _ => self.document.set("routes_http.url", url, from),
        }
        let key = "registry.custom.pollinterval";
        self.set_time("routes_http.refresh", self.settings.time(key), key);
        let key = "registry.custom.timeout";
        self.set_limit("routes_http.timeout", self.settings.time(key), key);
        let key = "registry.custom.checkTLSSkipVerify";
        self.document.set(
            "routes_http.skip_verify",
            Value::Bool(self.settings.is_on(key)),
            key,
        );
        self.set_text("proxy.no_route_html", "registry.custom.noroutehtml");
    }

    fn consul(&mut self) {
        self.agent();
        let prefix = self.settings.text("registry.consul.tagprefix");
        self.document
            .set("routing.tag_prefix", prefix, "registry.consul.tagprefix");
        self.set_text("consul.kv_path", "registry.consul.kvpath");
        self.set_text("consul.no_route_kv_path", "registry.consul.noroutehtmlpath");
        self.checks();

        let stale = "registry.consul.allowStale";
        let whence = format!("registry.consul.requireConsistent, {stale}");
        self.document.set(
            "consul.stale",
            Value::Bool(self.settings.is_on(stale)),
            &whence,
        );
        self.register();
    }

    fn register(&mut self) {
        let ours = |name: &str| format!("consul.register.{name}");
        let key = "registry.consul.register.enabled";
        self.document
            .set(&ours("enabled"), Value::Bool(self.settings.is_on(key)), key);
        self.document.set(
            &ours("aliases"),
            Value::Bool(true),
            "Fabio registers what routes name by register=",
        );
        let key = "registry.consul.register.name";
        self.document
            .set(&ours("name"), self.settings.text(key), key);
        let key = "registry.consul.register.addr";
        let text = self.settings.text(key);
        // Left alone, it is that of the admin listener.
        if self.settings.origin(key).is_some()
            && !text.is_empty()
            && text != self.settings.text("ui.addr")
        {
            match self.machine.advertised(text) {
                Ok(address) => self
                    .document
                    .set(&ours("address"), address.to_string(), key),
                Err(error) => self.refuse(key, error.to_string()),
            }
        }
        let key = "registry.consul.register.tags";
        self.document
            .set(&ours("tags"), Value::List(self.settings.list(key)), key);
        for (name, key) in [
            ("check_interval", "registry.consul.register.checkInterval"),
            ("check_timeout", "registry.consul.register.checkTimeout"),
        ] {
            self.set_time(&ours(name), self.settings.time(key), key);
        }
        let key = "registry.consul.register.checkTLSSkipVerify";
        self.document.set(
            &ours("check_skip_verify"),
            Value::Bool(self.settings.is_on(key)),
            key,
        );
    }

    fn agent(&mut self) {
        let key = "registry.consul.addr";
        let address = self.settings.text(key).to_ascii_lowercase();
        let (scheme, host) = address.split_once("://").unwrap_or(("http", &address));
        let host = if scheme == "unix" {
            host
        } else {
            host.split('/').next().unwrap_or_default()
        };
        // Without an address Consul's own variables decide, as in Fabio.
        if !host.is_empty() {
            self.document
                .set("consul.address", format!("{scheme}://{host}"), key);
        }
        if scheme == "https" || host.is_empty() {
            self.set_path("consul.key_file", "registry.consul.tls.keyfile");
            self.set_path("consul.cert_file", "registry.consul.tls.certfile");
            self.set_path("consul.ca_file", "registry.consul.tls.cafile");
            self.set_path("consul.ca_path", "registry.consul.tls.capath");
            let key = "registry.consul.tls.insecureskipverify";
            self.document.set(
                "consul.skip_verify",
                Value::Bool(self.settings.is_on(key)),
                key,
            );
        } else {
            for name in ["keyfile", "certfile", "cafile", "capath"] {
                let key = format!("registry.consul.tls.{name}");
                if !self.settings.text(&key).is_empty() {
                    self.warn(&key, "has no effect, as in Fabio: registry.consul.addr does not begin with https://");
                }
            }
        }
        self.set_text("consul.token", "registry.consul.token");
        self.set_text("consul.namespace", "registry.consul.namespace");
    }

    fn checks(&mut self) {
        let key = "registry.consul.service.status";
        let (taken, others): (Vec<String>, Vec<String>) = self
            .settings
            .list(key)
            .into_iter()
            .partition(|state| ["passing", "warning", "critical"].contains(&&**state));
        if taken.is_empty() {
            self.refuse(key, "none of passing, warning and critical is in the list, and no check has another state");
        } else {
            if !others.is_empty() {
                self.warn(
                    key,
                    format!("{}: no check has this state", others.join(", ")),
                );
            }
            self.document
                .set("routing.accept_status", Value::List(taken), key);
        }
        let key = "registry.consul.checksRequired";
        let required = match self.settings.text(key) {
            "all" => "all",
            "one" => "one",
            other => {
                let text = format!("{other:?} is neither one nor all; one is used, as in Fabio");
                self.warn(key, text);
                "one"
            }
        };
        self.document.set("routing.checks_required", required, key);
        self.document.set(
            "routing.require_check",
            Value::Bool(true),
            "Fabio gives no traffic to an instance without a check",
        );
        self.document.set(
            "routing.node_checks",
            "serf",
            "Fabio looks at serfHealth alone",
        );
        self.document.set(
            "routing.weights",
            Value::Bool(false),
            "Fabio does not look at Consul's weights",
        );
        let at_once = Value::Time(Duration::ZERO);
        self.document.set(
            "routing.critical_hold",
            at_once,
            "Fabio obeys a critical check at once",
        );
    }
}
