//! `/api/routes`: the table in Fabio's JSON shape, and as route commands.

use std::cmp::Reverse;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::Serialize;

use crate::catalog::options::Proto;
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
    /// Effective share, 0 to 1.
    pub(super) weight: f64,
    /// Kept for old readers of the format: always 0, as in Fabio.
    pub(super) rate1: f64,
    /// The same.
    pub(super) pct99: f64,
}

/// All targets in the order of the routes.
pub(super) fn list(routes: &[Arc<Route>]) -> Vec<RouteRow> {
    routes.iter().flat_map(|route| route.targets.iter().map(|target| row(route, target))).collect()
}

fn row(route: &Route, target: &Target) -> RouteRow {
    RouteRow {
        service: target.service.name().to_string(),
        host: route.key.host.clone(),
        path: route.key.path.clone(),
        src: format!("{}{}", route.key.host, route.key.path),
        dst: destination(target),
        opts: options(target),
        cmd: "route add",
        weight: target.share,
        rate1: 0.0,
        pct99: 0.0,
    }
}

/// Route commands that would make the same table: hosts descending, the empty host last.
pub(super) fn commands(routes: &[Arc<Route>]) -> String {
    let mut order: Vec<&Arc<Route>> = routes.iter().collect();
    // Stable, so the table's order of paths within a host stays; "" is last by being the smallest.
    order.sort_by_key(|route| Reverse(&route.key.host));
    let mut text = String::new();
    for route in order {
        for target in route.targets.iter().filter(|target| target.share > 0.0) {
            push_command(&mut text, route, target);
        }
    }
    text
}

fn push_command(text: &mut String, route: &Route, target: &Target) {
    let (host, path) = (&route.key.host, &route.key.path);
    // Writing to a String cannot fail.
    let _ = write!(text, "route add {} {host}{path} {}", target.service.name(), destination(target));
    if let Some(weight) = target.options.weight {
        let _ = write!(text, " weight {weight:.4}");
    }
    let options = options(target);
    if !options.is_empty() {
        // The language has no escapes.
        let _ = write!(text, " opts \"{}\"", options.replace('"', ""));
    }
    text.push('\n');
}

/// The target as a URL, in Fabio's spelling: a slash behind the address for plain HTTP only.
pub(super) fn destination(target: &Target) -> String {
    if let Some(redirect) = &target.options.redirect {
        return redirect.url.to_string();
    }
    let proto = target.options.proto;
    let mut url = format!("{}://{}", proto.scheme(), target.state.addr);
    if proto == Proto::Http {
        url.push('/');
    }
    if let Some(query) = &target.query {
        let _ = write!(url, "?{query}");
    }
    url
}

/// Options as written, but for the weight, which has a place of its own.
fn options(target: &Target) -> String {
    let mut text = String::new();
    for (key, value) in target.options.raw.iter().filter(|(key, _)| &**key != "weight") {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(key);
        if !value.is_empty() {
            let _ = write!(text, "={value}");
        }
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::catalog::InstanceId;
    use crate::catalog::options::{Redirect, RouteOptions, Strategy};
    use crate::catalog::tag::RouteKey;
    use crate::metrics::ServiceMetrics;
    use crate::table::{Excluded, TargetState};

    /// A target of `service` on 10.0.0.`number`:80.
    pub(in super::super) fn target(service: &str, number: u8, options: RouteOptions, share: f64) -> Target {
        let id = InstanceId { node: Arc::from("n1"), id: Arc::from(format!("{service}-{number}")) };
        Target {
            state: Arc::new(TargetState::new(u64::from(number), id, ([10, 0, 0, number], 80).into(), 0)),
            options: Arc::new(options),
            service: Arc::new(ServiceMetrics::new(Arc::from(service))),
            query: None,
            share,
        }
    }

    pub(in super::super) fn route(host: &str, path: &str, targets: Vec<Target>, excluded: Vec<Excluded>) -> Arc<Route> {
        Arc::new(Route {
            key: RouteKey { host: host.to_owned(), path: path.to_owned() },
            targets: targets.into(),
            excluded: excluded.into(),
            strategy: Strategy::P2c,
            ring: Box::default(),
        })
    }

    fn raw(pairs: &[(&str, &str)]) -> Vec<(Arc<str>, Arc<str>)> {
        pairs.iter().map(|(key, value)| (Arc::from(*key), Arc::from(*value))).collect()
    }

    fn sample() -> Vec<Arc<Route>> {
        let weighted = RouteOptions {
            weight: Some(0.25),
            raw: raw(&[("weight", "0.25"), ("strip", "/a"), ("flag", "")]),
            ..RouteOptions::default()
        };
        let secure = RouteOptions { proto: Proto::Https, ..RouteOptions::default() };
        let redirect = RouteOptions {
            redirect: Some(Redirect { code: 301, url: Arc::from("https://$host$path") }),
            ..RouteOptions::default()
        };
        vec![
            route("", "/", vec![target("any", 1, RouteOptions::default(), 1.0)], vec![]),
            route("a.example", "/a", vec![target("web", 2, weighted, 0.25), target("web", 3, secure, 0.75)], vec![]),
            route("b.example", "/", vec![target("moved", 4, redirect, 1.0)], vec![]),
            route("b.example", "/idle", vec![target("idle", 5, RouteOptions::default(), 0.0)], vec![]),
        ]
    }

    #[test]
    fn json_has_fabios_fields_and_spelling() {
        let rows = serde_json::to_value(list(&sample())).unwrap();
        assert_eq!(
            rows[1],
            serde_json::json!({
                "service": "web", "host": "a.example", "path": "/a", "src": "a.example/a", "dst": "http://10.0.0.2:80/",
                "opts": "strip=/a flag", "cmd": "route add", "weight": 0.25, "rate1": 0.0, "pct99": 0.0,
            })
        );
        assert_eq!(rows[2]["dst"], "https://10.0.0.3:80");
        assert_eq!(rows[3]["dst"], "https://$host$path");
        assert_eq!(rows.as_array().unwrap().len(), 5);
    }

    #[test]
    fn commands_put_the_empty_host_last_and_leave_out_what_gets_nothing() {
        assert_eq!(
            commands(&sample()),
            "route add moved b.example/ https://$host$path\n\
             route add web a.example/a http://10.0.0.2:80/ weight 0.2500 opts \"strip=/a flag\"\n\
             route add web a.example/a https://10.0.0.3:80\n\
             route add any / http://10.0.0.1:80/\n"
        );
    }
}
