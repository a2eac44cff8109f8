//! What a path of the admin listener means.

use crate::config::{AdminConfig, AdminHome};

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    Health,
    Ready,
    Metrics,
    Overview,
    Routes,
    RouteList,
    ServiceList,
    Config,
    Version,
    Explain,
    Events,
    SourceList,
    Summary,
    /// A page to change the route commands of one key; what stands behind `/manual`.
    Overrides(&'a str),
    /// The route commands of one key; what stands behind `/api/manual`.
    Override(&'a str),
    OverridePaths,
    /// Somewhere else: this path.
    Moved(&'static str),
    Nothing,
}

/// Finds it. Everything stands below `admin.path`; what machines ask for stands at the root as
/// well, because they are told once (a check in Consul, a scraper).
pub(super) fn place<'a>(path: &'a str, config: &AdminConfig) -> Place<'a> {
    match path {
        "/health" => return Place::Health,
        "/ready" => return Place::Ready,
        "/metrics" => return Place::Metrics,
        _ => {}
    }
    let Some(below) = path
        .strip_prefix(&*config.path)
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
    else {
        return Place::Nothing;
    };
    let to_routes = config.home == AdminHome::Routes;
    match below {
        "/health" => Place::Health,
        "/ready" => Place::Ready,
        "/metrics" => Place::Metrics,
        "/overview" => Place::Overview,
        "/routes" => Place::Routes,
        "/api/routes" => Place::RouteList,
        "/api/services" => Place::ServiceList,
        "/api/config" => Place::Config,
        "/api/version" => Place::Version,
        "/api/explain" => Place::Explain,
        "/api/events" => Place::Events,
        "/api/sources" => Place::SourceList,
        "/api/summary" => Place::Summary,
        "/api/paths" => Place::OverridePaths,
        "" | "/" if !to_routes => Place::Overview,
        _ => {
            let behind = |name| {
                below
                    .strip_prefix(name)
                    .filter(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            match (behind("/api/manual"), behind("/manual")) {
                (Some(key), _) => Place::Override(key),
                (_, Some(key)) => Place::Overrides(key),
                _ if to_routes && below != "/favicon.ico" => Place::Moved("/routes"),
                _ => Place::Nothing,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_their_places() {
        let ours = AdminConfig::default();
        let fabios = AdminConfig {
            home: AdminHome::Routes,
            path: "/lb".to_owned(),
            ..AdminConfig::default()
        };
        let cases = [
            (&ours, "/", Place::Overview),
            (&ours, "/overview", Place::Overview),
            (&ours, "/routes", Place::Routes),
            (&ours, "/manual", Place::Overrides("")),
            (&ours, "/api/manual/a/b", Place::Override("/a/b")),
            (&ours, "/api/manuals", Place::Nothing),
            (&ours, "/else", Place::Nothing),
            (&fabios, "/health", Place::Health),
            (&fabios, "/lb/health", Place::Health),
            (&fabios, "/lb/metrics", Place::Metrics),
            (&fabios, "/lb", Place::Moved("/routes")),
            (&fabios, "/lb/", Place::Moved("/routes")),
            (&fabios, "/lb/else", Place::Moved("/routes")),
            (&fabios, "/lb/favicon.ico", Place::Nothing),
            (&fabios, "/lb/routes", Place::Routes),
            (&fabios, "/lb/api/routes", Place::RouteList),
            (&fabios, "/api/routes", Place::Nothing),
            (&fabios, "/lbx/routes", Place::Nothing),
        ];
        for (config, path, expected) in cases {
            assert_eq!(
                place(path, config),
                expected,
                "{path} under {:?}",
                config.path
            );
        }
    }
}
