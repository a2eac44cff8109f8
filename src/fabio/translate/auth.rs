//! `proxy.auth`: the authentication schemes.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::compound::{self, Group};
use super::super::document::Value;
use super::super::value;
use super::Translator;

const KEY: &str = "proxy.auth";
/// Longest interval our key takes.
const REFRESH_MAX: Duration = Duration::from_secs(86_400);

impl Translator<'_> {
    /// Fabio refuses schemes that make no sense; so the same settings are refused here.
    pub(super) fn authentication(&mut self) {
        let groups = match compound::parse(self.settings.text(KEY)) {
            Ok(groups) => groups,
            Err(error) => return self.refuse(KEY, error.to_string()),
        };
        // Of several schemes of one name the last one counts.
        let mut seen = BTreeSet::new();
        let last: Vec<&Group> = groups
            .iter()
            .rev()
            .filter(|group| seen.insert(group.get("name").unwrap_or_default()))
            .collect();
        for group in last.into_iter().rev() {
            self.scheme(group);
        }
    }

    fn scheme(&mut self, group: &Group) {
        let part = |name: &str| group.get(name).unwrap_or_default();
        let name = part("name");
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let refresh = match part("refresh") {
            "" => Some(Duration::ZERO),
            // Fabio takes anything shorter, also what is below zero, for a second.
            text => value::span(text).map(|nanos| {
                let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(0));
                time.clamp(Duration::from_secs(1), REFRESH_MAX)
            }),
        };
        let problem = match (name, part("type"), part("file"), refresh) {
            ("", ..) => "a scheme has no name=".to_owned(),
            (_, "", ..) => format!("scheme {name} has no type="),
            (_, "external", ..) if part("endpoint").is_empty() => {
                format!("scheme {name} has no endpoint=")
            }
            (_, "basic", "", _) => format!("scheme {name} has no file="),
            (_, "basic", _, None) => format!(
                "scheme {name}: refresh={} is not a duration",
                part("refresh")
            ),
            (_, "basic" | "external", ..) if name.len() > 100 || !name.chars().all(fits) => {
                format!(
                    "scheme {name}: lb's names of schemes hold letters, digits, _ and - alone; rename it, and auth= in the tags"
                )
            }
            (_, "basic", file, Some(refresh)) => {
                return self.write_scheme(name, file, part("realm"), refresh);
            }
            (_, "external", ..) => return self.write_external(name, group),
            (_, other, ..) => format!("scheme {name}: type={other} is not known"),
        };
        self.refuse(KEY, problem);
    }

    /// A kind of scheme that Fabio has after 1.7.2.
    fn write_external(&mut self, name: &str, group: &Group) {
        let list = |key: &str| {
            value::list(group.get(key).unwrap_or_default())
                .map(str::to_owned)
                .collect()
        };
        let place = self.document.named("auth", name);
        self.document.set_in(place, "type", "external", KEY);
        self.document.set_in(
            place,
            "endpoint",
            group.get("endpoint").unwrap_or_default(),
            KEY,
        );
        self.document.set_in(
            place,
            "set_headers",
            Value::List(list("set-auth-headers")),
            KEY,
        );
        self.document.set_in(
            place,
            "append_headers",
            Value::List(list("append-auth-headers")),
            KEY,
        );
    }

    fn write_scheme(&mut self, name: &str, file: &str, realm: &str, refresh: Duration) {
        let place = self.document.named("auth", name);
        self.document
            .set_in(place, "file", self.machine.absolute(file), KEY);
        if !realm.is_empty() {
            self.document.set_in(place, "realm", realm, KEY);
        }
        self.document
            .set_in(place, "refresh", Value::Time(refresh), KEY);
    }
}
