//! From the configuration to what workers hold: rules and pages.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use http::StatusCode;

use crate::config::{Config, ProxyConfig};
use crate::metrics::Metrics;
use crate::proxy::auth::Schemes;
use crate::proxy::challenges::Challenges;
use crate::proxy::error_page_files::ErrorPageFiles;
use crate::proxy::http::compression::Compression;
use crate::proxy::http::headers::HeaderRules;
use crate::proxy::no_route_page::{LivePage, NoRoutePage};
use crate::proxy::settings::Settings;
use crate::proxy::tls::{CertStore, ClientCertificates, Problems, UpstreamTls};

/// What comes from elsewhere than the configuration.
pub(super) struct Beside<'a> {
    /// The page that goes before the configured one.
    pub(super) live: &'a LivePage,
    /// The certificates of the configuration.
    pub(super) stores: &'a BTreeMap<String, Arc<CertStore>>,
    pub(super) challenges: Challenges,
    /// Client connections per worker, as configured or fewer.
    pub(super) clients_max: usize,
    pub(super) metrics: &'a Metrics,
}

/// Rules of the data path. Of `present`, what keeps a state goes on where nothing about it changed.
///
/// Without `present` the process starts, and a file that cannot be used costs only what depends on
/// it: no page, no CA to trust, no user with access. Each is read again when it changes.
///
/// # Errors
/// Of a new configuration: the page, the CAs or a file of users cannot be read.
pub(super) fn build(
    config: &Config,
    present: Option<&Settings>,
    Beside {
        live,
        stores,
        challenges,
        clients_max,
        metrics,
    }: Beside<'_>,
) -> anyhow::Result<Settings> {
    let mut proxy = config.proxy.clone();
    proxy.max_connections = clients_max;
    let no_route_page = match no_route_page(&proxy) {
        Ok(page) => page,
        Err(error) if present.is_some() => return Err(error),
        Err(error) => {
            let error = format!("{error:#}");
            tracing::warn!(
                error,
                "the page for requests without a route cannot be read; none is sent until it can"
            );
            Bytes::new()
        }
    };
    let error_pages = error_pages(config, present)?;
    let upstream_tls = upstream_tls(&proxy, present, metrics)?;
    Ok(Settings {
        no_route_status: StatusCode::from_u16(proxy.no_route_status)
            .unwrap_or(StatusCode::NOT_FOUND),
        no_route_page: NoRoutePage::new(no_route_page, live.clone()),
        error_pages,
        header_rules: HeaderRules::new(&proxy),
        proxy,
        health: config.health.rules(),
        auth: Schemes::load(
            &config.auth,
            present.map(|present| &present.auth),
            &upstream_tls,
        )?,
        compression: Compression::new(&config.compression),
        upstream_tls,
        client_certificates: ClientCertificates::new(stores),
        limit_share: present
            .map(|present| Arc::clone(&present.limit_share))
            .unwrap_or_default(),
        challenges,
    })
}

fn no_route_page(proxy: &ProxyConfig) -> anyhow::Result<Bytes> {
    let Some(path) = &proxy.no_route_page else {
        return Ok(Bytes::from(proxy.no_route_html.clone()));
    };
    let page = std::fs::read(path);
    page.map(Bytes::from)
        .with_context(|| format!("key proxy.no_route_page: cannot read {}", path.display()))
}

/// What the pages of policies hold.
fn error_pages(config: &Config, present: Option<&Settings>) -> anyhow::Result<ErrorPageFiles> {
    let (files, errors) = ErrorPageFiles::load(config.error_pages());
    for error in errors {
        if present.is_some() {
            return Err(error.into());
        }
        tracing::warn!(%error, "responses are passed on without this error page until it can be used");
    }
    Ok(files)
}

/// Which instances to trust. A file that was good and is bad now keeps its CAs.
fn upstream_tls(
    proxy: &ProxyConfig,
    present: Option<&Settings>,
    metrics: &Metrics,
) -> anyhow::Result<UpstreamTls> {
    const KEY: &str = "proxy.upstream_ca_file";
    let mut problems = Problems::default();
    let read = UpstreamTls::load(proxy.upstream_ca_file.as_deref(), &mut problems);
    let unusable = u64::from(read.is_err());
    let upstream_tls = match (read, present) {
        (Ok(good), _) => good,
        (Err(error), None) => {
            tracing::error!(key = KEY, %error, "no instance over TLS can be verified until its CAs can be read");
            UpstreamTls::trusting_none()?
        }
        (Err(error), Some(present)) if present.proxy.upstream_ca_file == proxy.upstream_ca_file => {
            tracing::warn!(key = KEY, %error, "CAs not taken over; those from before stay");
            present.upstream_tls.clone()
        }
        (Err(error), Some(_)) => {
            return Err(error).context("TLS towards upstreams (key proxy.upstream_ca_file)");
        }
    };
    for error in &problems.errors {
        tracing::warn!(key = KEY, %error, "a CA that cannot be used is left out");
    }
    for error in &problems.out_of_date {
        tracing::warn!(key = KEY, %error, "a CA outside its validity period is used all the same");
    }
    let wrong = problems.errors.len() + problems.out_of_date.len();
    let mut control = metrics.control();
    match proxy.upstream_ca_file.is_some() {
        true => control
            .certificate_errors
            .insert(KEY.to_owned(), wrong as u64 + unusable),
        false => control.certificate_errors.remove(KEY),
    };
    Ok(upstream_tls)
}
