//! What a path of the admin listener means.

use crate::config::{AdminConfig, AdminHome};

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AdminPath<'a> {
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
    CertificateList,
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

/// What stands at `path`. Everything stands below `admin.path`; what machines read stands at the
/// root as well, because their configuration is written once (a check in Consul, a scraper).
pub(super) fn admin_path<'a>(path: &'a str, config: &AdminConfig) -> AdminPath<'a> {
    match path {
        "/health" => return AdminPath::Health,
        "/ready" => return AdminPath::Ready,
        "/metrics" => return AdminPath::Metrics,
        _ => {}
    }
    let Some(below) = path
        .strip_prefix(&*config.path)
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
    else {
        return AdminPath::Nothing;
    };
    let to_routes = config.home == AdminHome::Routes;
    match below {
        "/health" => AdminPath::Health,
        "/ready" => AdminPath::Ready,
        "/metrics" => AdminPath::Metrics,
        "/overview" => AdminPath::Overview,
        "/routes" => AdminPath::Routes,
        "/api/routes" => AdminPath::RouteList,
        "/api/services" => AdminPath::ServiceList,
        "/api/config" => AdminPath::Config,
        "/api/version" => AdminPath::Version,
        "/api/explain" => AdminPath::Explain,
        "/api/events" => AdminPath::Events,
        "/api/sources" => AdminPath::SourceList,
        "/api/certificates" => AdminPath::CertificateList,
        "/api/summary" => AdminPath::Summary,
        "/api/paths" => AdminPath::OverridePaths,
        "" | "/" if !to_routes => AdminPath::Overview,
        _ => {
            let behind = |name| {
                below
                    .strip_prefix(name)
                    .filter(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            match (behind("/api/manual"), behind("/manual")) {
                (Some(key), _) => AdminPath::Override(key),
                (_, Some(key)) => AdminPath::Overrides(key),
                _ if to_routes && below != "/favicon.ico" => AdminPath::Moved("/routes"),
                _ => AdminPath::Nothing,
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
            (&ours, "/", AdminPath::Overview),
            (&ours, "/overview", AdminPath::Overview),
            (&ours, "/api/certificates", AdminPath::CertificateList),
            (&ours, "/routes", AdminPath::Routes),
            (&ours, "/manual", AdminPath::Overrides("")),
            (&ours, "/api/manual/a/b", AdminPath::Override("/a/b")),
            (&ours, "/api/manuals", AdminPath::Nothing),
            (&ours, "/else", AdminPath::Nothing),
            (&fabios, "/health", AdminPath::Health),
            (&fabios, "/lb/health", AdminPath::Health),
            (&fabios, "/lb/metrics", AdminPath::Metrics),
            (&fabios, "/lb", AdminPath::Moved("/routes")),
            (&fabios, "/lb/", AdminPath::Moved("/routes")),
            (&fabios, "/lb/else", AdminPath::Moved("/routes")),
            (&fabios, "/lb/favicon.ico", AdminPath::Nothing),
            (&fabios, "/lb/routes", AdminPath::Routes),
            (&fabios, "/lb/api/routes", AdminPath::RouteList),
            (&fabios, "/api/routes", AdminPath::Nothing),
            (&fabios, "/lbx/routes", AdminPath::Nothing),
        ];
        for (config, path, expected) in cases {
            assert_eq!(
                admin_path(path, config),
                expected,
                "{path} under {:?}",
                config.path
            );
        }
    }
}
