//! From the configuration to what workers hold: rules and pages.

use anyhow::Context as _;
use bytes::Bytes;
use http::StatusCode;

use crate::config::Config;
use crate::proxy::auth::Schemes;
use crate::proxy::http::compression::Compression;
use crate::proxy::http::headers::HeaderRules;
use crate::proxy::page::{LivePage, NoRoutePage};
use crate::proxy::settings::Settings;
use crate::proxy::tls::UpstreamTls;

/// Rules of the data path. Of `present`, what keeps a state goes on where nothing about it changed. `live`: the page that
/// goes before the configured one. `clients_max`: client connections per worker, as configured or fewer.
///
/// # Errors
/// The page, the CAs or a file of users cannot be read.
pub(super) fn build(
    config: &Config,
    present: Option<&Settings>,
    live: &LivePage,
    clients_max: usize,
) -> anyhow::Result<Settings> {
    let mut proxy = config.proxy.clone();
    proxy.max_connections = clients_max;
    let no_route_page = match &proxy.no_route_page {
        Some(path) => Bytes::from(
            std::fs::read(path).with_context(|| format!("key proxy.no_route_page: cannot read {}", path.display()))?,
        ),
        None => Bytes::from(proxy.no_route_html.clone()),
    };
    let upstream_tls = UpstreamTls::new(proxy.upstream_ca_file.as_deref())
        .context("TLS towards upstreams (key proxy.upstream_ca_file)")?;
    Ok(Settings {
        no_route_status: StatusCode::from_u16(proxy.no_route_status).unwrap_or(StatusCode::NOT_FOUND),
        no_route_page: NoRoutePage::new(no_route_page, live.clone()),
        header_rules: HeaderRules::new(&proxy),
        proxy,
        health: config.health.clone(),
        auth: Schemes::load(&config.auth, present.map(|present| &present.auth), &upstream_tls)?,
        compression: Compression::new(&config.compression),
        upstream_tls,
    })
}
