//! `proxy.cs`: the sources of certificates.

use std::collections::BTreeMap;

use super::super::compound::{self, Group};
use super::super::value;
use super::Translator;

const KEY: &str = "proxy.cs";

/// A source, as listeners see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Carried out; its name in `[certificates.NAME]`.
    Served(String),
    /// Not carried out yet; its type.
    Missing(String),
}

impl Translator<'_> {
    /// Reads all of them; those that are named in `used` are written.
    pub(super) fn certificates(&mut self, used: &dyn Fn(&str) -> bool) -> BTreeMap<String, Source> {
        let mut found = BTreeMap::new();
        let groups = compound::parse(self.settings.text(KEY)).unwrap_or_else(|error| {
            self.refuse(KEY, error.to_string());
            Vec::new()
        });
        for (at, group) in groups.iter().enumerate() {
            let Some((name, kind)) = self.checked(group) else { continue };
            let source = match &*kind {
                // Of two sources with one name Fabio takes the last.
                _ if groups[at + 1..].iter().any(|later| later.get("cs") == Some(&name)) => continue,
                "file" | "path" => {
                    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
                    let ours =
                        if name.chars().all(fits) && name.len() <= 100 { name.clone() } else { format!("source-{at}") };
                    if used(&name) {
                        self.write(&ours, &kind, group);
                    }
                    Source::Served(ours)
                }
                _ => Source::Missing(kind),
            };
            found.insert(name, source);
        }
        found
    }

    /// Name and type, if the source is one.
    fn checked(&mut self, group: &Group) -> Option<(String, String)> {
        let part = |name: &str| group.get(name).unwrap_or_default().to_owned();
        let (name, kind) = (part("cs"), part("type"));
        let known = ["file", "path", "http", "consul", "vault", "vault-pki"];
        let problem = if name.is_empty() {
            "a source has no cs=NAME".to_owned()
        } else if part("cert").is_empty() {
            format!("source {name} has no cert=")
        } else if kind.is_empty() {
            format!("source {name} has no type=")
        } else if !known.contains(&&*kind) {
            format!("source {name}: type={kind} is not one of {}", known.join(", "))
        } else if group.get("refresh").is_some_and(|text| value::span(text).is_none()) {
            format!("source {name}: refresh={} is not a duration", part("refresh"))
        } else if group.iter().any(|(key, text)| key == "hdr" && !text.contains(": ")) {
            format!("source {name}: hdr={} is not a header like Name: value", part("hdr"))
        } else {
            return Some((name, kind));
        };
        self.refuse(KEY, problem);
        None
    }

    fn write(&mut self, ours: &str, kind: &str, group: &Group) {
        let path = |name: &str| group.get(name).filter(|text| !text.is_empty()).map(|text| self.machine.absolute(text));
        let (cert, key, client_ca) = (path("cert").unwrap_or_default(), path("key"), path("clientca"));
        let place = self.document.named("certificates", ours);
        if kind == "path" {
            self.document.set_in(place, "source", "path", KEY);
            self.document.set_in(place, "path", cert, KEY);
        } else {
            self.document.set_in(place, "cert_file", cert, KEY);
            if let Some(key) = key {
                self.document.set_in(place, "key_file", key, KEY);
            }
        }
        if let Some(client_ca) = client_ca {
            self.document.set_in(place, "client_ca_file", client_ca, KEY);
        }
        if group.get("caupgcn").is_some_and(|text| !text.is_empty()) {
            self.warn(KEY, format!("source {ours}: caupgcn is not carried out yet"));
        }
    }
}
