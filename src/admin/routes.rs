//! `/api/routes`: the table in Fabio's JSON shape. (As route commands, the table writes itself.)

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::table::{Route, Target};

/// One target of one route, with Fabio's field names.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct RouteRow {
    pub(super) service: String,
    pub(super) host: String,
    pub(super) path: String,
    pub(super) src: String,
    pub(super) dst: String,
    pub(super) opts: String,
    pub(super) cmd: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) tags: Vec<String>,
    /// Effective share, 0 to 1.
    #[serde(serialize_with = "short")]
    pub(super) weight: f64,
    /// Kept for old readers of the format: always 0, as in Fabio.
    pub(super) rate1: u8,
    /// The same.
    pub(super) pct99: u8,
}

/// Go writes 1, not 1.0.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature is serde's"
)]
fn short<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    match *number {
        whole @ (0.0 | 1.0) => serializer.serialize_u8(whole as u8),
        part => serializer.serialize_f64(part),
    }
}

/// All targets in Fabio's order.
pub(super) fn list<'a>(routes: impl IntoIterator<Item = &'a Arc<Route>>) -> Vec<RouteRow> {
    let rows = |route: &'a Arc<Route>| {
        route
            .listed_targets()
            .into_iter()
            .map(|target| row(route, target))
    };
    routes.into_iter().flat_map(rows).collect()
}

/// As [`list`], with one row, without a destination, for each service of a route that has no
/// target: what Fabio's readers do not expect, and people look for.
pub(super) fn list_with_empty<'a>(
    routes: impl IntoIterator<Item = &'a Arc<Route>>,
) -> Vec<RouteRow> {
    let mut rows = Vec::new();
    for route in routes {
        rows.extend(route.targets.iter().map(|target| row(route, target)));
        if route.targets.is_empty() {
            let services: BTreeSet<&str> = route
                .excluded
                .iter()
                .map(|out| out.service.as_ref())
                .collect();
            rows.extend(
                services
                    .into_iter()
                    .map(|service| empty_row(route, service)),
            );
        }
    }
    rows
}

/// What a filter looks at.
pub(super) fn searched(row: &RouteRow) -> String {
    format!(
        "{} {} {} {} {}",
        row.src,
        row.service,
        row.dst,
        row.opts,
        row.tags.join(" ")
    )
}

fn empty_row(route: &Route, service: &str) -> RouteRow {
    RouteRow {
        service: service.to_owned(),
        host: route.key.host.clone(),
        path: route.key.path.clone(),
        src: format!("{}{}", route.key.host, route.key.path),
        dst: String::new(),
        opts: String::new(),
        cmd: "route add",
        tags: Vec::new(),
        weight: 0.0,
        rate1: 0,
        pct99: 0,
    }
}

fn row(route: &Route, target: &Target) -> RouteRow {
    RouteRow {
        service: target.service.name().to_string(),
        host: route.key.host.clone(),
        path: route.key.path.clone(),
        src: format!("{}{}", route.key.host, route.key.path),
        dst: target.destination(),
        opts: target.options.fabio_opts(),
        cmd: "route add",
        tags: target.tags.iter().map(ToString::to_string).collect(),
        weight: target.share,
        rate1: 0,
        pct99: 0,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::catalog::InstanceId;
    use crate::catalog::command::parse_commands;
    use crate::catalog::options::Strategy;
    use crate::metrics::Metrics;
    use crate::table::Excluded;
    use crate::table::build::TableBuilder;
    use crate::table::{Matcher, RouteTable};

    /// The table that route commands make.
    pub(in super::super) fn table(text: &str) -> RouteTable {
        let (commands, errors) = parse_commands(text);
        assert!(errors.is_empty(), "{errors:?}");
        let mut builder = TableBuilder::new(Matcher::Prefix, Strategy::P2c, Metrics::default());
        builder.apply_commands("static", commands.into(), 0);
        builder.build()
    }

    /// A route of `web` at `path` whose `count` instances are all out.
    pub(in super::super) fn all_out(path: &str, count: usize) -> Route {
        let table = table(&format!("route add web {path} http://10.0.0.1:80/"));
        let old = &table.routes()[0];
        let id = |n| InstanceId {
            node: Arc::from("n"),
            id: Arc::from(format!("web-{n}")),
        };
        let service = old.targets[0].service.name();
        let out = |n| Excluded {
            service: service.clone(),
            id: id(n),
            reason: Arc::from("critical"),
        };
        Route {
            excluded: (0..count).map(out).collect(),
            ..Route::without_targets(old.key.clone())
        }
    }

    #[test]
    fn a_route_without_targets_is_shown_on_request() {
        let routes = [Arc::new(all_out("/a", 2))];
        assert_eq!(
            list(&routes),
            [],
            "Fabio's readers expect a destination in each row"
        );
        let rows = list_with_empty(&routes);
        let shown: Vec<_> = rows
            .iter()
            .map(|row| (&*row.service, &*row.src, &*row.dst, row.weight))
            .collect();
        assert_eq!(shown, [("web", "/a", "", 0.0)]);
    }

    #[test]
    fn json_has_fabios_fields_and_spelling() {
        let table = table(
            "route add web a.example/a http://10.0.0.2:80/ weight 0.25 tags \"x,y\" opts \"strip=/a\"\n\
             route add web a.example/a https://10.0.0.3:80 opts \"proto=https\"\n\
             route add any / http://10.0.0.1:80/",
        );
        let rows = serde_json::to_value(list(table.routes())).unwrap();
        let rows = rows.as_array().unwrap();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0]["src"], "/", "the empty host comes first");
        let fixed = rows
            .iter()
            .find(|row| row["dst"] == "http://10.0.0.2:80/")
            .unwrap();
        assert_eq!(
            *fixed,
            serde_json::json!({
                "service": "web", "host": "a.example", "path": "/a", "src": "a.example/a", "dst": "http://10.0.0.2:80/",
                "opts": "strip=/a", "cmd": "route add", "tags": ["x", "y"], "weight": 0.25, "rate1": 0, "pct99": 0,
            })
        );
        let other = rows
            .iter()
            .find(|row| row["dst"] == "https://10.0.0.3:80")
            .unwrap();
        assert_eq!((&other["weight"], other.get("tags")), (&0.75.into(), None));
    }
}
