//! The admin listener and its pages.

use std::collections::BTreeMap;

use super::super::compound::{self, Group};
use super::super::document::Value;
use super::super::value;
use super::Translator;
use super::certificates::Source;
use super::listeners::Listener;
use crate::config::ADMIN_COLORS;
use crate::config::is_host;

const ADDRESS: &str = "ui.addr";

impl Translator<'_> {
    /// The one listener that `ui.addr` is.
    pub(super) fn admin_group(&mut self) -> Option<Group> {
        let text = match self.settings.text(ADDRESS) {
            "" => ":9998",
            text => text,
        };
        match compound::parse(text).as_deref() {
            Ok([group]) => return Some(group.clone()),
            Ok(_) => self.refuse(ADDRESS, "it must be one listener"),
            Err(error) => self.refuse(ADDRESS, error.to_string()),
        }
        None
    }

    pub(super) fn admin(&mut self, group: &Group, sources: &BTreeMap<String, Source>) {
        if let Some(listener) = self.listener(group, ADDRESS, sources) {
            self.admin_listener(group, &listener, sources);
        }
        self.document
            .set("admin.home", "routes", "Fabio leads there from everywhere");
        self.access();
        self.set_text("admin.path", "ui.path");
        self.set_text("admin.title", "ui.title");
        self.color();
        self.links();
    }

    fn admin_listener(
        &mut self,
        group: &Group,
        listener: &Listener,
        sources: &BTreeMap<String, Source>,
    ) {
        self.document
            .set("admin.address", listener.address.to_string(), ADDRESS);
        if !matches!(&*listener.proto, "http" | "https") {
            self.refuse(
                ADDRESS,
                format!(
                    "proto={} is not spoken by the admin listener, which is http or https",
                    listener.proto
                ),
            );
        }
        // A source that does not exist was refused where the listener was read.
        match listener.source.as_ref().and_then(|name| sources.get(name)) {
            None => {}
            Some(source) if source.on_demand => {
                self.refuse(
                    ADDRESS,
                    "the admin listener cannot use certificates of type=vault-pki",
                );
            }
            Some(source) => {
                self.document
                    .set("admin.certificates", &*source.name, ADDRESS);
                for (key, value) in listener.tls() {
                    self.document.set(&format!("admin.{key}"), value, ADDRESS);
                }
            }
        }
        let left_out = ["rt", "it"]
            .into_iter()
            .filter(|option| group.get(option).is_some());
        let left_out: Vec<&str> = left_out
            .chain(listener.proxy_protocol.then_some("pxyproto"))
            .collect();
        if !left_out.is_empty() {
            let text = format!(
                "{}: the admin listener has limits of its own, and no PROXY protocol",
                left_out.join(", ")
            );
            self.warn(ADDRESS, text);
        }
    }

    /// Fabio lets every client change routes unless it is configured not to; here that has to be
    /// set.
    fn access(&mut self) {
        let key = "ui.access";
        let changes = self.word(key, &["ro", "rw"]) == "rw";
        if !changes || self.settings.text("registry.backend") != "consul" {
            return;
        }
        match self.settings.origin(key) {
            Some(_) => self.document.set("admin.writable", Value::Bool(true), key),
            None => self.warn(
                key,
                "routes cannot be changed by /api/manual: that takes rw, and lb wants it to be set",
            ),
        }
    }

    fn color(&mut self) {
        let key = "ui.color";
        // Of a name like `blue darken-2` the first word is a colour of ours.
        match self.settings.text(key).split_whitespace().next() {
            None => {}
            Some(color) if ADMIN_COLORS.contains(&color) => {
                self.document.set("admin.color", color, key)
            }
            Some(color) => self.warn(
                key,
                format!("{color:?} is none of {}", ADMIN_COLORS.join(", ")),
            ),
        }
    }

    fn links(&mut self) {
        let key = |name: &str| format!("ui.routingtable.source.{name}");
        for (ours, key) in [
            ("admin.link_sources", key("linkenabled")),
            ("admin.link_new_tab", key("newtab")),
        ] {
            self.document
                .set(ours, Value::Bool(self.settings.is_on(&key)), &key);
        }
        self.link_part("admin.link_scheme", &key("scheme"), |text| {
            matches!(text, "http" | "https")
        });
        self.link_part("admin.link_host", &key("host"), is_host);
        let key = key("port");
        match self.settings.text(&key) {
            "" => {}
            text => match value::integer(text) {
                Some(port @ 1..=65535) => {
                    self.document
                        .set("admin.link_port", Value::Count(port.unsigned_abs()), &key)
                }
                _ => self.warn(&key, format!("{text:?} is left out: it is not a port")),
            },
        }
    }

    /// What cannot stand in a link is not a reason to refuse the start.
    fn link_part(&mut self, ours: &str, key: &str, fits: impl Fn(&str) -> bool) {
        match self.settings.text(key) {
            "" => {}
            text if fits(text) => self.document.set(ours, text, key),
            text => self.warn(
                key,
                format!("{text:?} is left out: it does not fit into a link"),
            ),
        }
    }
}
