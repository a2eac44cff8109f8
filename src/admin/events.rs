//! `/api/events`: what happened, as a list, or as a stream of server-sent events (WHATWG HTML,
//! section 9.2).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::body::AdminBody;
use super::query::Query;
use super::response::{AdminResponse, error, json_response, secured};
use crate::journal::Journal;
use crate::journal::events::{Event, Since};

/// Most streams at a time: each is a connection, of which the admin listener has few.
const STREAMS_MAX: usize = 16;
/// Pieces that wait for a client; more wait where they are made.
const PIECES_MAX: usize = 8;
/// A sign of life where nothing happens, so that both ends notice when the other is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The response with the events that are wanted.
pub(super) fn respond(journal: &Journal, query: &Query, headers: &HeaderMap) -> AdminResponse {
    let since = match query
        .first("since")
        .map(|text| (text, Since::parse(text, SystemTime::now())))
    {
        None => None,
        Some((_, Some(since))) => Some(since),
        Some((text, None)) => {
            let message = format!(
                "since `{text}` is not the number of an event, an RFC 3339 time, a Unix time or an age like 15m"
            );
            return error(StatusCode::BAD_REQUEST, &message);
        }
    };
    if !wants_stream(headers) {
        let events = journal.events().list(since);
        let events: Vec<&Event> = events.iter().map(|event| &**event).collect();
        return json_response(StatusCode::OK, &events, query);
    }
    if journal.events().watchers() >= STREAMS_MAX {
        let message = format!(
            "{STREAMS_MAX} clients follow the events already; request /api/events?since=ID instead"
        );
        return error(StatusCode::SERVICE_UNAVAILABLE, &message);
    }
    // A client that lost its connection says where it was.
    let last = headers
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse().ok());
    stream(journal.clone(), last.map(Since::Id).or(since))
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let accepts = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    accepts.flat_map(|value| value.split(',')).any(|range| {
        let kind = range.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("text/event-stream")
    })
}

fn stream(journal: Journal, since: Option<Since>) -> AdminResponse {
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    let watch = journal.events().watch();
    tokio::task::spawn_local(follow(journal, since, watch, sender));
    let mut answer = secured(Response::new(AdminBody::Pieces(receiver)));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Sends what there is, then what comes, until the client is gone.
async fn follow(
    journal: Journal,
    mut since: Option<Since>,
    mut watch: tokio::sync::watch::Receiver<u64>,
    sender: mpsc::Sender<Bytes>,
) {
    loop {
        watch.mark_unchanged();
        let events = journal.events().list(since);
        if let Some(last) = events.last() {
            since = Some(Since::Id(last.id));
            if sender.send(written(&events)).await.is_err() {
                return;
            }
        }
        loop {
            tokio::select! {
                changed = timeout(KEEP_ALIVE, watch.changed()) => match changed {
                    Ok(Ok(())) => break,
                    Ok(Err(_)) => return,
                    Err(_) => if sender.send(Bytes::from_static(b":\n\n")).await.is_err() { return },
                },
                () = sender.closed() => return,
            }
        }
    }
}

/// Events as they go over the wire. JSON has no line breaks, so each is one line of data.
fn written(events: &[Arc<Event>]) -> Bytes {
    let mut text = Vec::new();
    for event in events {
        text.extend_from_slice(format!("id: {}\ndata: ", event.id).as_bytes());
        // Nothing in an event can fail to be written.
        let _ = serde_json::to_writer(&mut text, &**event);
        text.extend_from_slice(b"\n\n");
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_for_clients_that_accept_them() {
        for (accept, expected) in [
            ("text/event-stream", true),
            ("application/json, Text/Event-Stream;q=0.9", true),
            ("*/*", false),
            ("application/json", false),
            ("text/event-streams", false),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(accept))]);
            assert_eq!(wants_stream(&headers), expected, "{accept}");
        }
        assert!(!wants_stream(&HeaderMap::new()));
    }
}
