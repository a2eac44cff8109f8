//! The whole table in order, for the API, and as text in Fabio's route language.

use std::cmp::Reverse;
use std::fmt::Write;
use std::sync::Arc;

use super::{Route, RouteTable, Target};
use crate::catalog::matchers::Matchers;

impl RouteTable {
    /// All routes in Fabio's order: hosts ascending, then paths descending.
    #[must_use]
    pub fn routes(&self) -> Vec<&Arc<Route>> {
        let mut routes: Vec<&Arc<Route>> = Vec::with_capacity(self.len);
        routes.extend(self.tcp.values());
        self.hosts.for_each(&mut |route| routes.push(route));
        routes.sort_unstable_by(|a, b| {
            a.key
                .host
                .cmp(&b.key.host)
                .then_with(|| b.key.path.cmp(&a.key.path))
                .then_with(|| Matchers::rank(a.matchers.as_deref(), b.matchers.as_deref()))
        });
        routes
    }

    /// The table as `route add` lines: hosts descending, the empty one last; only fixed weights are
    /// shown, and targets without share left out.
    #[must_use]
    pub fn to_fabio_commands(&self) -> String {
        let mut routes = self.routes();
        // A stable sort keeps the order of paths.
        routes.sort_by(|a, b| b.key.host.cmp(&a.key.host));
        let mut text = String::new();
        for route in routes {
            for target in route
                .listed_targets()
                .into_iter()
                .filter(|target| target.share > 0.0)
            {
                push_command(&mut text, route, target);
            }
        }
        text
    }
}

impl Route {
    /// The targets in Fabio's order: those of the catalog first, the last of their lines (sorted as
    /// text) at the beginning; those of route commands follow as they were given.
    #[must_use]
    pub fn listed_targets(&self) -> Vec<&Target> {
        let mut targets: Vec<&Target> = self.targets.iter().collect();
        targets.sort_by_cached_key(|target| {
            let line = target
                .url
                .is_none()
                .then(|| format!("{} {}", target.service.name(), target.destination()));
            Reverse(line)
        });
        targets
    }
}

/// One line of the route language. (Writing to a `String` cannot fail.)
fn push_command(text: &mut String, route: &Route, target: &Target) {
    let _ = write!(
        text,
        "route add {} {}{} {}",
        target.service.name(),
        route.key.host,
        route.key.path,
        target.destination()
    );
    if let Some(weight) = target.fixed.filter(|weight| *weight > 0.0) {
        let _ = write!(text, " weight {weight:.4}");
    }
    if !target.tags.is_empty() {
        let _ = write!(text, " tags \"{}\"", target.tags.join(","));
    }
    let opts = target.options.fabio_opts();
    if !opts.is_empty() {
        let _ = write!(text, " opts \"{opts}\"");
    }
    text.push('\n');
}

impl Target {
    /// The options as in a tag, without `weight`: `strip=/x proto=https`.
    #[must_use]
    pub fn options_text(&self) -> String {
        let words = self
            .options
            .raw
            .iter()
            .filter(|(key, _)| &**key != "weight")
            .map(|(key, value)| {
                if value.is_empty() {
                    key.to_string()
                } else {
                    format!("{key}={value}")
                }
            });
        words.collect::<Vec<_>>().join(" ")
    }
}
