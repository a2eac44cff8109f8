//! What the heads of a direct exchange are written by: settings as they are by default, a client,
//! and a target without options, as most are. The fuzz targets use it as well.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every user compiles all of it and uses some"
)]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use http::StatusCode;
use lb::catalog::InstanceId;
use lb::catalog::options::{RouteOptions, Strategy};
use lb::catalog::tag::RouteKey;
use lb::config::ProxyConfig;
use lb::metrics::Metrics;
use lb::proxy::auth::Schemes;
use lb::proxy::error_page_files::ErrorPageFiles;
use lb::proxy::http::headers::{ClientContext, HeaderRules};
use lb::proxy::no_route_page::NoRoutePage;
use lb::proxy::settings::Settings;
use lb::proxy::tls::{ClientCertificates, UpstreamTls};
use lb::table::health::HealthConfig;
use lb::table::{Admission, Contribution, Matcher, Scheme, TableBuilder, Target};

/// `[proxy]` and `[health]` by default.
pub fn settings() -> Settings {
    let proxy = ProxyConfig::default();
    Settings {
        no_route_status: StatusCode::NOT_FOUND,
        no_route_page: NoRoutePage::default(),
        error_pages: ErrorPageFiles::default(),
        health: HealthConfig::default(),
        header_rules: HeaderRules::new(&proxy),
        auth: Schemes::default(),
        compression: None,
        upstream_tls: UpstreamTls::new(None).expect("system roots, or none"),
        client_certificates: ClientCertificates::default(),
        limit_share: Arc::default(),
        challenges: lb::proxy::challenges::Challenges::default(),
        proxy,
    }
}

/// A client without TLS.
pub fn client() -> ClientContext {
    ClientContext::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), None)
}

/// A target without options.
pub fn target() -> Target {
    target_with(RouteOptions::default())
}

/// A target with these options.
pub fn target_with(options: RouteOptions) -> Target {
    let mut builder = TableBuilder::new(Matcher::Prefix, Strategy::P2c, Metrics::default());
    let contribution = Contribution {
        key: RouteKey {
            host: String::new(),
            path: "/".into(),
        },
        instance: InstanceId {
            node: "node".into(),
            id: "instance".into(),
        },
        addr: ([10, 0, 0, 1], 8080).into(),
        options: Arc::new(options),
        tags: Arc::default(),
        admission: Admission::Eligible { weight: 1 },
    };
    builder.apply_service("bench", &"service".into(), vec![contribution], 0);
    let table = builder.build();
    let route = table
        .lookup(Scheme::Http, "", "/", |_| true)
        .expect("one route was built");
    route.targets[0].clone()
}
