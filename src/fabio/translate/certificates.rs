//! `proxy.cs`: the sources of certificates.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::compound::{self, Group};
use super::super::document::{Place, Value};
use super::super::value;
use super::Translator;

const KEY: &str = "proxy.cs";
/// How often sources are read where nothing else is said, and the shortest time that is not "once".
const REFRESH: Duration = Duration::from_secs(3);
const REFRESH_MIN: Duration = Duration::from_secs(1);
/// The longest that lb's key takes; longer is as good as once.
const REFRESH_MAX: Duration = Duration::from_secs(24 * 3600);
/// The least time before its end at which Fabio issues a certificate anew, and the longest that
/// lb's key takes.
const RENEW_BEFORE_MIN: Duration = Duration::from_secs(3600);
const RENEW_BEFORE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// A source, as listeners see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Source {
    /// Its name in `[certificates.NAME]`.
    pub(super) name: String,
    /// Certificates are made when a client first sends a server name.
    pub(super) on_demand: bool,
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
            let Some((name, kind)) = self.checked(group) else {
                continue;
            };
            // Of two sources with one name Fabio takes the last.
            if groups[at + 1..]
                .iter()
                .any(|later| later.get("cs") == Some(&name))
            {
                continue;
            }
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
            let ours = if name.chars().all(fits) && name.len() <= 100 {
                name.clone()
            } else {
                format!("source-{at}")
            };
            if used(&name) {
                self.write(&ours, &kind, group);
            }
            found.insert(
                name,
                Source {
                    name: ours,
                    on_demand: kind == "vault-pki",
                },
            );
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
            format!(
                "source {name}: type={kind} is not one of {}",
                known.join(", ")
            )
        } else if group
            .get("refresh")
            .is_some_and(|text| value::span(text).is_none())
        {
            format!(
                "source {name}: refresh={} is not a duration",
                part("refresh")
            )
        } else if group
            .iter()
            .any(|(key, text)| key == "hdr" && !text.contains(": "))
        {
            // What it is may be a secret.
            format!("source {name}: hdr= is not a header like Name: value")
        } else {
            return Some((name, kind));
        };
        self.refuse(KEY, problem);
        None
    }

    fn write(&mut self, ours: &str, kind: &str, group: &Group) {
        let part = |name: &str| {
            group
                .get(name)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        let place = self.document.named("certificates", ours);
        let (cert, client_ca, key) = keys_of(kind);
        let is_path = matches!(kind, "file" | "path");
        let mut given = vec![
            ("source", Some(kind.to_owned())),
            (cert, part("cert")),
            (client_ca, part("clientca")),
        ];
        given.extend(key.map(|key| (key, part("key"))));
        given.push((
            "client_ca_upgrade_cn",
            part("caupgcn").filter(|_| part("clientca").is_some()),
        ));
        for (key, text) in given {
            let Some(text) = text else { continue };
            let text = if is_path && key.ends_with("file") || key == "path" {
                self.machine.absolute(&text)
            } else {
                text
            };
            self.document.set_in(place, key, text, KEY);
        }
        self.write_times(place, kind, group);
        if kind == "http" {
            let headers: Vec<String> = group
                .iter()
                .filter(|(key, _)| *key == "hdr")
                .map(|(_, text)| text.to_owned())
                .collect();
            if !headers.is_empty() {
                self.document.set_in(
                    place,
                    "headers",
                    Value::List(headers),
                    "Fabio takes it and does not send it",
                );
            }
        }
        if matches!(kind, "vault" | "vault-pki") {
            self.write_token(place, ours, group);
        }
        let unused: &[&str] = match kind {
            "http" => &["vaultfetchtoken"],
            "vault" | "vault-pki" => &["hdr"],
            _ => &["hdr", "vaultfetchtoken"],
        };
        for option in unused.iter().filter(|option| part(option).is_some()) {
            self.warn(
                KEY,
                format!("source {ours}: {option} has no effect with type={kind}, in Fabio neither"),
            );
        }
    }

    /// Files are watched, and so are the keys of Consul; the others are read again and again.
    fn write_times(&mut self, place: Place, kind: &str, group: &Group) {
        let span = group.get("refresh").and_then(value::span);
        let refresh = span.map_or(REFRESH, |span| {
            Duration::from_nanos(u64::try_from(span).unwrap_or_default())
        });
        match kind {
            "http" | "vault" => {
                let refresh = if refresh.is_zero() {
                    refresh
                } else {
                    refresh.clamp(REFRESH_MIN, REFRESH_MAX)
                };
                self.document
                    .set_in(place, "refresh", Value::Time(refresh), KEY);
            }
            "vault-pki" => {
                let before = refresh.clamp(RENEW_BEFORE_MIN, RENEW_BEFORE_MAX);
                self.document
                    .set_in(place, "renew_before", Value::Time(before), KEY);
            }
            _ => {}
        }
    }

    fn write_token(&mut self, place: Place, ours: &str, group: &Group) {
        let Some(text) = group.get("vaultfetchtoken").filter(|text| !text.is_empty()) else {
            return;
        };
        match text.split_once(':') {
            Some(("file", path)) => {
                let path = self.machine.absolute(path);
                self.document.set_in(place, "token_file", path, KEY);
            }
            Some(("env", name)) => self.document.set_in(place, "token_env", name, KEY),
            // It may be the token itself, put there by mistake.
            _ => self.refuse(
                KEY,
                format!("source {ours}: vaultfetchtoken= is neither file:PATH nor env:NAME"),
            ),
        }
    }
}

/// The keys of `lb` that `cert`, `clientca` and `key` are.
fn keys_of(kind: &str) -> (&'static str, &'static str, Option<&'static str>) {
    match kind {
        "path" => ("path", "client_ca_file", None),
        "http" | "consul" => ("url", "client_ca_url", None),
        "vault" => ("kv_path", "client_ca_kv_path", None),
        "vault-pki" => ("issue_path", "client_ca_kv_path", None),
        _ => ("cert_file", "client_ca_file", Some("key_file")),
    }
}
