//! Rules of the data path that a reload may change, gathered into one value that workers read
//! through one pointer.

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::StatusCode;

use crate::config::ProxyConfig;
use crate::proxy::auth::Schemes;
use crate::proxy::challenges::Challenges;
use crate::proxy::error_page_files::ErrorPageFiles;
use crate::proxy::http::compression::Compression;
use crate::proxy::http::headers::HeaderRules;
use crate::proxy::limit_share::LimitShare;
use crate::proxy::no_route_page::NoRoutePage;
use crate::proxy::tls::{ClientCertificates, UpstreamTls};
use crate::table::health::HealthConfig;

/// What a request needs to know beside the table.
#[derive(Debug)]
pub struct Settings {
    /// `[proxy]`.
    pub proxy: ProxyConfig,
    /// `proxy.no_route_status`, as a status.
    pub no_route_status: StatusCode,
    /// What is sent with it.
    pub no_route_page: NoRoutePage,
    /// What the pages of policies hold.
    pub error_pages: ErrorPageFiles,
    /// `[health]`.
    pub health: HealthConfig,
    /// Header rules in the form they are sent.
    pub header_rules: HeaderRules,
    /// `[auth.NAME]`.
    pub auth: Schemes,
    /// `[proxy.compression]`, where it is on.
    pub compression: Option<Box<Compression>>,
    /// TLS towards upstreams.
    pub upstream_tls: UpstreamTls,
    /// What is shown to instances whose tag has `cert=NAME`.
    pub client_certificates: ClientCertificates,
    /// By how many lb rates are divided; the same through all reloads.
    pub limit_share: Arc<LimitShare>,
    /// Responses to challenges of ACME servers; empty where no certificates are ordered.
    pub challenges: Challenges,
}

/// The present settings; one writer, one cached reader per worker.
pub type SharedSettings = Arc<ArcSwap<Settings>>;

/// A worker's view of the settings.
pub type SettingsReader = arc_swap::Cache<SharedSettings, Arc<Settings>>;
