//! From method and path to a response.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::LocalBoxFuture;
use http::header::{HOST, HeaderMap, HeaderValue, LOCATION};
use http::uri::Authority;
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use rustls::ServerConfig;
use serde_json::json;
use tokio::time::timeout;

use super::explain::{ExplainContext, Question};
use super::host::{self, Names};
use super::page::Content;
use super::query::{Part, Query};
use super::response::{
    AdminResponse, JSON, PLAIN, error, json_response, not_allowed, off_thread, with_body, with_html,
};
use super::route_path::{AdminPath, admin_path};
use super::routes_page::Shown;
use super::site::{Client, Site};
use super::{
    AdminState, certificates, changes, events, explain, held, page, routes, routes_page, services,
    sources, summary, transfer,
};
use crate::config::AdminConfig;
use crate::journal::events::Since;
use crate::metrics::build_info::VERSION;
use crate::metrics::exposition;
use crate::metrics::process::hostname;

/// How long the control loop may take to respond.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(5);

const EVENTS_SHOWN: u64 = 30;

impl Site for AdminState {
    fn name(&self) -> &'static str {
        "admin"
    }

    fn tls(&self) -> Result<Option<Arc<ServerConfig>>, String> {
        let settings = Arc::clone(&self.settings.borrow());
        (self.tls)(&settings)
    }

    fn is_watching(&self, request: &Request<Incoming>) -> bool {
        let (settings, path) = (Arc::clone(&self.settings.borrow()), request.uri().path());
        let reads = request.method() == Method::GET || request.method() == Method::HEAD;
        let watches = matches!(
            admin_path(path, &settings),
            AdminPath::Health | AdminPath::Ready | AdminPath::Metrics
        );
        reads && (watches || self.metrics.scrape_page().path.as_deref() == Some(path))
    }

    fn respond<'a>(
        &'a self,
        request: Request<Incoming>,
        client: &'a Client,
    ) -> LocalBoxFuture<'a, AdminResponse> {
        Box::pin(async move {
            let takes_gzip = transfer::takes_gzip(request.headers());
            transfer::compressed(decided(self, request, client).await, takes_gzip).await
        })
    }
}

/// The response as it is made. Nothing has an effect but a PUT of route commands; only such a body
/// is read.
async fn decided(state: &AdminState, request: Request<Incoming>, client: &Client) -> AdminResponse {
    let (head, body) = request.into_parts();
    let settings = Arc::clone(&state.settings.borrow());
    let place = admin_path(head.uri.path(), &settings);
    let machine = hostname();
    let names = Names {
        configured: &settings.hosts,
        machine: &machine,
        handshake: client.handshake.as_deref(),
    };
    let is_metrics = state.metrics.scrape_page().path.as_deref() == Some(head.uri.path())
        && matches!(place, AdminPath::Moved(_) | AdminPath::Nothing);
    if let Err(refusal) = host::check(&head, place, is_metrics, names) {
        return error(refusal.status, &refusal.why);
    }
    if let AdminPath::Override(_) | AdminPath::Overrides(_) | AdminPath::OverridePaths = place {
        return changes::respond(state, place, &settings, &head, body).await;
    }
    if head.method != Method::GET && head.method != Method::HEAD {
        return not_allowed(
            "GET, HEAD",
            error(
                StatusCode::METHOD_NOT_ALLOWED,
                "nothing changes here: use GET or HEAD",
            ),
        );
    }
    let query = Query::parse(head.uri.query().unwrap_or_default());
    match place {
        AdminPath::Overview => page_response(state, &settings.path).await,
        AdminPath::Routes => routes_page(state, settings, &head.headers, query).await,
        AdminPath::Health => with_body(StatusCode::OK, PLAIN, "OK\n"),
        AdminPath::Ready => ready(state, &query),
        AdminPath::Metrics => metrics(state).await,
        AdminPath::RouteList => route_list(state, query, &head.headers).await,
        AdminPath::ServiceList => service_list(state, query, &head.headers).await,
        AdminPath::Summary => json_response(
            StatusCode::OK,
            &summary::summary(&state.metrics, &state.control.readiness()),
            &query,
        ),
        AdminPath::Config => config(state, &query),
        AdminPath::Version => with_body(StatusCode::OK, PLAIN, format!("{}\n", VERSION)),
        AdminPath::Events => events::respond(state.metrics.journal(), &query, &head.headers),
        AdminPath::SourceList => {
            let rows = sources::list(&state.metrics.journal().sources().list(), SystemTime::now());
            json_response(StatusCode::OK, &rows, &query)
        }
        AdminPath::CertificateList => json_response(
            StatusCode::OK,
            &certificates::list(&state.certificates),
            &query,
        ),
        AdminPath::Explain => explained(state, &query, client.address.ip().to_canonical()).await,
        // Where listeners of Prometheus have theirs, if that is not where ours are.
        AdminPath::Moved(_) | AdminPath::Nothing if is_metrics => metrics(state).await,
        AdminPath::Moved(to) => moved(&format!("{}{to}", settings.path)),
        AdminPath::Override(_)
        | AdminPath::Overrides(_)
        | AdminPath::OverridePaths
        | AdminPath::Nothing => error(
            StatusCode::NOT_FOUND,
            &nothing_at(head.uri.path(), &settings.path),
        ),
    }
}

/// For all others while every connection is busy.
pub(super) fn overcrowded() -> AdminResponse {
    error(
        StatusCode::SERVICE_UNAVAILABLE,
        "too many requests at once; try again",
    )
}

fn nothing_at(path: &str, base: &str) -> String {
    let below = if base.is_empty() {
        String::new()
    } else {
        format!("below {base} ")
    };
    format!(
        "nothing at `{path}`: {below}there are /, /overview, /routes, /health, /ready, /metrics, /api/routes, \
         /api/services, /api/sources, /api/events, /api/config, /api/version and /api/explain?url=URL"
    )
}

fn moved(to: &str) -> AdminResponse {
    // Safe as it is: `admin.path` has no character that means anything to HTML.
    let note = format!("<a href=\"{to}\">See Other</a>.\n\n");
    let mut answer = with_body(StatusCode::SEE_OTHER, "text/html; charset=utf-8", note);
    if let Ok(to) = HeaderValue::try_from(to) {
        answer.headers_mut().insert(LOCATION, to);
    }
    answer
}

/// All services; none when the control loop does not respond in time.
async fn service_rows(state: &AdminState) -> Option<Vec<services::ServiceRow>> {
    let list = tokio::time::timeout(CONTROL_TIMEOUT, state.control.services())
        .await
        .ok()?;
    Some(services::list(&list, &state.metrics, SystemTime::now()))
}

async fn page_response(state: &AdminState, base: &str) -> AdminResponse {
    let Some(services) = service_rows(state).await else {
        return busy();
    };
    let table = state.table.load();
    let routes = off_thread(move || page::first_routes(&table))
        .await
        .unwrap_or_default();
    let known = state.metrics.journal().sources().list();
    let last = state.metrics.journal().events().last_id();
    let events = state
        .metrics
        .journal()
        .events()
        .list(Some(Since::Id(last.saturating_sub(EVENTS_SHOWN))));
    let readiness = state.control.readiness();
    with_html(|nonce| {
        page::render(&Content {
            services: &services,
            routes: &routes,
            readiness: &readiness,
            sources: &known,
            events: &events,
            base,
            nonce,
        })
    })
}

async fn routes_page(
    state: &AdminState,
    settings: Arc<AdminConfig>,
    headers: &HeaderMap,
    query: Query,
) -> AdminResponse {
    let table = state.table.load();
    let host = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .and_then(|host| host.parse::<Authority>().ok());
    let host = host.map(|host| host.host().to_owned()).unwrap_or_default();
    let made = off_thread(move || {
        with_html(|nonce| routes_page::render(&table, &settings, &host, &Shown::of(&query), nonce))
    });
    made.await.unwrap_or_else(failed)
}

fn ready(state: &AdminState, query: &Query) -> AdminResponse {
    let readiness = state.control.readiness();
    let known = state.metrics.journal().sources().list();
    let control = state.metrics.control();
    let body = json!({
        "ready": readiness.is_ready(),
        "draining": readiness.draining,
        "waiting_for": readiness.waiting_for,
        "reason": services::unready_reason(&readiness, &known),
        "warnings": sources::warnings(&known),
        "routes": control.table_routes,
        "oldest_answer_age_seconds": services::oldest_age(&control, SystemTime::now()),
    });
    drop(control);
    let status = if readiness.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json_response(status, &body, query)
}

/// What a scraper gets.
pub(super) async fn metrics(state: &AdminState) -> AdminResponse {
    // A control loop in trouble is a reason to show metrics, not to hold them back.
    let _ = tokio::time::timeout(CONTROL_TIMEOUT, state.control.refresh()).await;
    let readiness = state.control.readiness();
    {
        let mut figures = state.metrics.control();
        (figures.ready, figures.draining) = (readiness.is_ready(), readiness.draining);
    }
    let registry = state.registry.clone();
    match off_thread(move || exposition::encode(&registry)).await {
        Some(Ok(text)) => with_body(StatusCode::OK, exposition::CONTENT_TYPE, text),
        Some(Err(error)) => {
            tracing::error!(%error, "the metrics cannot be written as text");
            failed()
        }
        None => failed(),
    }
}

async fn route_list(state: &AdminState, query: Query, headers: &HeaderMap) -> AdminResponse {
    let table = state.table.load();
    // Both change on this thread, so they belong together.
    let tag = transfer::tag(&(
        process_start(),
        state.metrics.control().table_builds,
        &query,
    ));
    if let Some(answer) = transfer::not_modified(headers, &tag) {
        return answer;
    }
    let made = off_thread(move || {
        if query.has("raw") {
            // As Fabio has it, without a charset.
            return with_body(StatusCode::OK, "text/plain", table.to_fabio_commands());
        }
        let all = if query.has("empty") {
            routes::list_with_empty(table.routes())
        } else {
            routes::list(table.routes())
        };
        let (rows, total) = Part::of(&query).take(all, routes::searched);
        with_total(json_response(StatusCode::OK, &rows, &query), total)
    });
    made.await
        .map_or_else(failed, |answer| transfer::tagged(answer, tag))
}

async fn service_list(state: &AdminState, query: Query, headers: &HeaderMap) -> AdminResponse {
    let Some(rows) = service_rows(state).await else {
        return busy();
    };
    let made = off_thread(move || {
        let (rows, total) = Part::of(&query).take(rows, services::searched);
        let body = serde_json::to_vec(&rows).unwrap_or_default();
        (
            transfer::tag(&(total, body)),
            with_total(json_response(StatusCode::OK, &rows, &query), total),
        )
    });
    let Some((tag, answer)) = made.await else {
        return failed();
    };
    transfer::not_modified(headers, &tag).unwrap_or_else(|| transfer::tagged(answer, tag))
}

/// With the number of all entries that match, of which a part may be shown.
fn with_total(mut answer: AdminResponse, total: usize) -> AdminResponse {
    answer
        .headers_mut()
        .insert(&transfer::TOTAL, HeaderValue::from(total));
    answer
}

/// A number that another process has not: what is tagged here is no more when it is gone.
fn process_start() -> u64 {
    static START: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *START.get_or_init(|| fastrand::u64(..))
}

fn config(state: &AdminState, query: &Query) -> AdminResponse {
    let text = Arc::clone(&state.config_json.borrow());
    if !query.has("pretty") {
        return with_body(StatusCode::OK, JSON, text.to_string());
    }
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(value) => json_response(StatusCode::OK, &value, query),
        Err(_) => failed(),
    }
}

async fn explained(state: &AdminState, query: &Query, caller: IpAddr) -> AdminResponse {
    let question = match explain::read(query, caller) {
        Ok(question) => question,
        Err(problem) => return error(StatusCode::BAD_REQUEST, &problem.to_string()),
    };
    let decision = match &question {
        Question::Request(request) => state.data_path.decide(request).await,
        Question::Connection(local, name, from) => {
            state
                .data_path
                .decide_connection(*local, name.as_deref(), SocketAddr::new(*from, 0))
        }
    };
    // A control loop that does not respond holds back what it knows, and nothing else.
    let rejected = match explain::asked(&question, &decision) {
        Some(asked) => timeout(CONTROL_TIMEOUT, state.control.rejected(asked))
            .await
            .unwrap_or_default(),
        None => Vec::new(),
    };
    // Why instances are out, and which of them are held, is known there alone.
    let services = match decision.route.is_some() {
        true => timeout(CONTROL_TIMEOUT, state.control.services())
            .await
            .unwrap_or_default(),
        false => Vec::new(),
    };
    let reason = |service: &str, instance: &str| {
        let of_service = services.iter().filter(|known| *known.name == *service);
        let found = of_service
            .flat_map(|known| &known.instances)
            .find(|known| known.id.to_string() == instance);
        found.and_then(|known| known.reason.clone())
    };
    let warnings = sources::warnings(&state.metrics.journal().sources().list());
    let beside = ExplainContext {
        rejected,
        warnings,
        now_ms: state.clock.now_ms(),
    };
    let url = query.first("url").unwrap_or_default();
    let mut answer = explain::explain(
        &state.table.load(),
        url,
        &question,
        &decision,
        beside,
        reason,
    );
    held::note(&mut answer, &services);
    json_response(StatusCode::OK, &answer, query)
}

fn busy() -> AdminResponse {
    let message = format!(
        "the control loop did not respond within {} s; try again",
        CONTROL_TIMEOUT.as_secs()
    );
    error(StatusCode::SERVICE_UNAVAILABLE, &message)
}

fn failed() -> AdminResponse {
    error(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the response could not be made; the log says more",
    )
}
