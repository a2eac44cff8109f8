//! Requests about route commands that are kept in a store: who may read and write them, and what they are answered.
//!
//! Answers are Fabio's, in status and text.

use std::time::Duration;

use http::request::Parts;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::AdminState;
use super::overrides::{self, Override, OverrideStore};
use super::place::Place;
use super::query::Query;
use super::router::{Answer, PLAIN, json_answer, not_allowed, with_body, with_html};
use crate::config::AdminConfig;

/// Largest request body: JSON may write each byte of a value as six.
const BODY_MAX: usize = 6 * VALUE_MAX + 1024;
/// Largest value that Consul keeps.
const VALUE_MAX: usize = 512 << 10;
/// Limit for a request body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers one request for `place`, which is one of those that are about route commands.
pub(super) async fn answer(
    state: &AdminState,
    place: Place<'_>,
    settings: &AdminConfig,
    head: &Parts,
    body: Incoming,
) -> Answer {
    if !settings.writable {
        let text = "Forbidden: route commands are neither shown nor changed here, because admin.writable is false \
                    (lb fabio: ui.access is ro, or there is no Consul)\n";
        return with_body(StatusCode::FORBIDDEN, PLAIN, text);
    }
    let Some(store) = &state.overrides else {
        return with_body(StatusCode::NOT_FOUND, PLAIN, "no route commands are kept: consul.kv_path is not set\n");
    };
    let reads = matches!(head.method, Method::GET | Method::HEAD);
    let query = Query::parse(head.uri.query().unwrap_or_default());
    let answered = match place {
        Place::OverridePaths if reads => paths(&**store, &query).await,
        Place::Overrides(path) if reads => page(&**store, path, settings).await,
        Place::Override(path) => match overrides::key(path) {
            None => Ok(with_body(StatusCode::BAD_REQUEST, PLAIN, "the path names no key\n")),
            Some(key) if reads => read(&**store, &key, &query).await,
            Some(key) if head.method == Method::PUT => write(&**store, &key, head, body).await,
            Some(_) => Ok(refused_method("GET, HEAD, PUT")),
        },
        _ => Ok(refused_method("GET, HEAD")),
    };
    answered.unwrap_or_else(|error| {
        tracing::warn!(error, "route commands cannot be read or written");
        with_body(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("{error}\n"))
    })
}

async fn paths(store: &dyn OverrideStore, query: &Query) -> Result<Answer, String> {
    let keys = store.keys().await?;
    // An empty list is null, as Go writes it.
    Ok(json_answer(StatusCode::OK, &(!keys.is_empty()).then_some(keys), query))
}

async fn page(store: &dyn OverrideStore, path: &str, settings: &AdminConfig) -> Result<Answer, String> {
    let keys = store.keys().await?;
    Ok(with_html(|nonce| overrides::render(path, &keys, settings, nonce)))
}

async fn read(store: &dyn OverrideStore, key: &str, query: &Query) -> Result<Answer, String> {
    Ok(json_answer(StatusCode::OK, &store.read(key).await?, query))
}

async fn write(store: &dyn OverrideStore, key: &str, head: &Parts, body: Incoming) -> Result<Answer, String> {
    if overrides::is_foreign(&head.headers) {
        return Ok(with_body(StatusCode::FORBIDDEN, PLAIN, "Forbidden: the request comes from another site\n"));
    }
    let new: Override = match timeout(BODY_TIMEOUT, Limited::new(body, BODY_MAX).collect()).await {
        Err(_) => return Ok(with_body(StatusCode::REQUEST_TIMEOUT, PLAIN, "the body did not arrive in time\n")),
        Ok(Err(error)) => return Ok(with_body(StatusCode::BAD_REQUEST, PLAIN, format!("{error}\n"))),
        Ok(Ok(body)) => match Override::from_json(&body.to_bytes()) {
            Ok(new) => new,
            Err(error) => return Ok(with_body(StatusCode::BAD_REQUEST, PLAIN, format!("{error}\n"))),
        },
    };
    if new.value.len() > VALUE_MAX {
        let text = format!("{} bytes are more than the {VALUE_MAX} that Consul keeps in one key\n", new.value.len());
        return Ok(with_body(StatusCode::PAYLOAD_TOO_LARGE, PLAIN, text));
    }
    let (bytes, lines) = (new.value.len(), new.value.lines().count());
    if !store.write(key, new).await? {
        return Ok(with_body(StatusCode::CONFLICT, PLAIN, "version mismatch\n"));
    }
    tracing::info!(key, bytes, lines, "route commands changed through the admin listener");
    Ok(with_body(StatusCode::OK, PLAIN, ""))
}

fn refused_method(methods: &'static str) -> Answer {
    not_allowed(methods, with_body(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "not allowed\n"))
}
