//! `[[static.route]]`: routes in the configuration itself.

use serde_json::Value;

use super::declare::{Checked, section};
use super::mask::without_password;
use super::sections::Sections;
use super::static_routes;
use crate::catalog::static_route::StaticRoute;

section! {
    /// Routes that do not come from Consul. Short form: --static.route 'SERVICE PLACE URL[,URL]
    /// [OPTIONS]', as in --static.route 'web /api http://10.0.0.5:8080 strip=/api'; in the
    /// environment separated by `;`.
    pub struct StaticRouteConfig is List "static.route" {
        /// Name for metrics and logs.
        service: Option<String> = unset "web";

        /// The place: HOST/PATH, /PATH, or :PORT for tcp.
        source: Option<String> = unset "www.example.com/api";

        /// Target URLs; names are resolved again by TTL.
        targets: Vec<String> = unset "http://10.0.0.5:8080" => without_passwords;

        /// Options as in a tag: "strip=/api proto=https".
        options: String = "";
    }
}

impl Checked for StaticRouteConfig {}

/// URLs as they are shown.
fn without_passwords(urls: &[String]) -> Value {
    urls.iter().map(|url| without_password(url)).collect()
}

impl From<&StaticRoute> for StaticRouteConfig {
    fn from(route: &StaticRoute) -> Self {
        Self {
            service: Some(route.service.clone()),
            source: Some(route.source.clone()),
            targets: route.targets.clone(),
            options: route.options.clone(),
        }
    }
}

pub(super) fn routes(sections: &mut Sections<'_>) -> Vec<StaticRoute> {
    sections.each(|route: StaticRouteConfig, reader| {
        for (name, value, advice) in [
            (
                "service",
                &route.service,
                "name the service, as in service = \"web\"",
            ),
            (
                "source",
                &route.source,
                "say where the route stands, as in source = \"www.example.com/api\"",
            ),
        ] {
            if value.is_none() && !reader.has(name) {
                reader.wrong(name, "is missing", advice);
            }
        }
        if route.targets.is_empty() {
            reader.wrong(
                "targets",
                "names no target",
                "write targets = [\"http://10.0.0.5:8080\"]",
            );
        }
        let route = StaticRoute {
            service: route.service?,
            source: route.source?,
            targets: route.targets,
            options: route.options,
        };
        if !route.targets.is_empty() {
            for (name, problem) in static_routes::problems(&route) {
                reader.wrong(name, &format!("makes no route: {problem}"), "");
            }
        }
        Some(route)
    })
}
