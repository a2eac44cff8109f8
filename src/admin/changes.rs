//! Requests about route commands that are kept in a store: which clients may read and write them,
//! and the responses.
//!
//! Responses are Fabio's in status, and in the text of refusals; that to a change holds what it
//! changes, and the lines that make no command.

use std::collections::BTreeSet;
use std::time::Duration;

use http::request::Parts;
use http::{Method, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use tokio::time::timeout;

use super::AdminState;
use super::overrides::{self, Override, OverrideStore};
use super::query::Query;
use super::response::{AdminResponse, PLAIN, json_response, not_allowed, with_body, with_html};
use super::route_path::AdminPath;
use crate::catalog::command::{Command, parse_commands};
use crate::config::AdminConfig;

/// Largest request body: JSON may write each byte of a value as six.
const BODY_MAX: usize = 6 * VALUE_MAX + 1024;
/// Largest value that Consul keeps.
const VALUE_MAX: usize = 512 << 10;
/// Limit for a request body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The response to a request for `place`, which is one of those that are about route commands.
pub(super) async fn respond(
    state: &AdminState,
    place: AdminPath<'_>,
    settings: &AdminConfig,
    head: &Parts,
    body: Incoming,
) -> AdminResponse {
    if !settings.writable {
        let text = "Forbidden: route commands are neither shown nor changed here, because admin.writable is false \
                    (ui.access=rw has to be set for lb fabio)\n";
        return with_body(StatusCode::FORBIDDEN, PLAIN, text);
    }
    let Some(store) = &state.overrides else {
        return with_body(
            StatusCode::NOT_FOUND,
            PLAIN,
            "no route commands are kept: consul.kv_path is not set\n",
        );
    };
    let reads = matches!(head.method, Method::GET | Method::HEAD);
    let query = Query::parse(head.uri.query().unwrap_or_default());
    let answered = match place {
        AdminPath::OverridePaths if reads => paths(&**store, &query).await,
        AdminPath::Overrides(path) if reads => page(&**store, path, settings).await,
        AdminPath::Override(path) => match overrides::key(path) {
            None => Ok(with_body(
                StatusCode::BAD_REQUEST,
                PLAIN,
                "the path names no key\n",
            )),
            Some(key) if reads => read(&**store, &key, &query).await,
            Some(key) if head.method == Method::PUT => write(&**store, &key, head, body).await,
            Some(_) => Ok(refused_method("GET, HEAD, PUT")),
        },
        _ => Ok(refused_method("GET, HEAD")),
    };
    answered.unwrap_or_else(|error| {
        tracing::warn!(error, "route commands cannot be read or written");
        with_body(
            StatusCode::INTERNAL_SERVER_ERROR,
            PLAIN,
            format!("{error}\n"),
        )
    })
}

async fn paths(store: &dyn OverrideStore, query: &Query) -> Result<AdminResponse, String> {
    let keys = store.keys().await?;
    // An empty list is null, as Go writes it.
    Ok(json_response(
        StatusCode::OK,
        &(!keys.is_empty()).then_some(keys),
        query,
    ))
}

async fn page(
    store: &dyn OverrideStore,
    path: &str,
    settings: &AdminConfig,
) -> Result<AdminResponse, String> {
    let keys = store.keys().await?;
    Ok(with_html(|nonce| {
        overrides::render(path, &keys, settings, nonce)
    }))
}

async fn read(
    store: &dyn OverrideStore,
    key: &str,
    query: &Query,
) -> Result<AdminResponse, String> {
    Ok(json_response(
        StatusCode::OK,
        &store.read(key).await?,
        query,
    ))
}

async fn write(
    store: &dyn OverrideStore,
    key: &str,
    head: &Parts,
    body: Incoming,
) -> Result<AdminResponse, String> {
    if overrides::is_foreign(&head.headers) {
        return Ok(with_body(
            StatusCode::FORBIDDEN,
            PLAIN,
            "Forbidden: the request comes from another site\n",
        ));
    }
    let new: Override = match timeout(BODY_TIMEOUT, Limited::new(body, BODY_MAX).collect()).await {
        Err(_) => {
            return Ok(with_body(
                StatusCode::REQUEST_TIMEOUT,
                PLAIN,
                "the body did not arrive in time\n",
            ));
        }
        Ok(Err(error)) => {
            return Ok(with_body(
                StatusCode::BAD_REQUEST,
                PLAIN,
                format!("{error}\n"),
            ));
        }
        Ok(Ok(body)) => match Override::from_json(&body.to_bytes()) {
            Ok(new) => new,
            Err(error) => {
                return Ok(with_body(
                    StatusCode::BAD_REQUEST,
                    PLAIN,
                    format!("{error}\n"),
                ));
            }
        },
    };
    if new.value.len() > VALUE_MAX {
        let text = format!(
            "{} bytes are more than the {VALUE_MAX} that Consul keeps in one key\n",
            new.value.len()
        );
        return Ok(with_body(StatusCode::PAYLOAD_TOO_LARGE, PLAIN, text));
    }
    let query = Query::parse(head.uri.query().unwrap_or_default());
    let dry_run = query
        .first("dry_run")
        .is_some_and(|value| !matches!(value, "false" | "0"));
    let (bytes, lines) = (new.value.len(), new.value.lines().count());
    let before = store.read(key).await?;
    let mut change = Change::between(&before.value, &new.value);
    if dry_run {
        change.version_matches = before.version == new.version || before == Override::default();
        return Ok(json_response(StatusCode::OK, &change.told(true), &query));
    }
    if !store.write(key, new).await? {
        return Ok(with_body(StatusCode::CONFLICT, PLAIN, "version mismatch\n"));
    }
    let (added, removed, rejected) = (change.added, change.removed, change.rejected.len());
    tracing::info!(
        key,
        bytes,
        lines,
        added,
        removed,
        rejected,
        "route commands changed through the admin listener"
    );
    // Without anything to say it is Fabio's empty response.
    if change.rejected.is_empty() {
        return Ok(with_body(StatusCode::OK, PLAIN, ""));
    }
    Ok(json_response(StatusCode::OK, &change.told(false), &query))
}

/// What a new text makes of the route commands of a key.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Change {
    dry_run: bool,
    /// Commands that the present text has not.
    added: usize,
    /// Commands that the new text has no more.
    removed: usize,
    /// Whether the change was made from what is there now.
    version_matches: bool,
    /// Lines that make no command, or of which a part has no effect.
    rejected: Vec<RejectedLine>,
    /// In one sentence.
    summary: String,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct RejectedLine {
    line: usize,
    text: String,
    reason: String,
}

impl Change {
    fn between(before: &str, now: &str) -> Self {
        let (old, _) = parse_commands(before);
        let (new, errors) = parse_commands(now);
        let texts = |commands: &[Command]| {
            commands
                .iter()
                .map(ToString::to_string)
                .collect::<BTreeSet<String>>()
        };
        let (old, new) = (texts(&old), texts(&new));
        Self {
            dry_run: false,
            added: new.difference(&old).count(),
            removed: old.difference(&new).count(),
            version_matches: true,
            rejected: errors
                .into_iter()
                .map(|error| RejectedLine {
                    line: error.line,
                    text: error.text,
                    reason: error.reason,
                })
                .collect(),
            summary: String::new(),
        }
    }

    /// With its sentence.
    fn told(mut self, dry_run: bool) -> Self {
        let Self { added, removed, .. } = self;
        self.dry_run = dry_run;
        self.summary = if dry_run {
            format!("would add {added}, remove {removed}")
        } else {
            format!("added {added}, removed {removed}")
        };
        if !self.rejected.is_empty() {
            let lines = if self.rejected.len() == 1 {
                "line has"
            } else {
                "lines have"
            };
            self.summary
                .push_str(&format!("; {} {lines} a mistake", self.rejected.len()));
        }
        self
    }
}

fn refused_method(methods: &'static str) -> AdminResponse {
    not_allowed(
        methods,
        with_body(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "not allowed\n"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_commands_and_names_lines_that_make_none() {
        let web = "route add web /w http://10.0.0.1:80/";
        let api = "route add api /a http://10.0.0.2:80/";
        let change = |before: &str, now: &str| Change::between(before, now).told(true);
        let same = change(web, &format!("# comment\n\n  {web}"));
        assert_eq!((same.added, same.removed, same.rejected.len()), (0, 0, 0));
        assert_eq!(same.summary, "would add 0, remove 0");
        let moved = change(&format!("{web}\n{api}"), &format!("{api}\nroute del web"));
        assert_eq!((moved.added, moved.removed), (1, 1));
        let nonsense = change(
            web,
            &format!("{web}\nrout add x /y http://h/\n{api}\nroute add\nroute weight web"),
        );
        assert_eq!((nonsense.added, nonsense.removed), (1, 0));
        let lines: Vec<usize> = nonsense
            .rejected
            .iter()
            .map(|rejected| rejected.line)
            .collect();
        assert_eq!(lines, [2, 4, 5]);
        assert_eq!(nonsense.rejected[0].text, "rout add x /y http://h/");
        assert!(
            nonsense
                .rejected
                .iter()
                .all(|rejected| !rejected.reason.is_empty()),
            "{nonsense:?}"
        );
        assert_eq!(
            nonsense.summary,
            "would add 1, remove 0; 3 lines have a mistake"
        );
    }
}
