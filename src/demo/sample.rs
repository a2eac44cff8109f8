//! One instance of a sample service: a tiny HTTP server on the loopback interface that responds
//! with its own name.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::sample::serve;

/// Header that names the instance which responded.
pub(super) const INSTANCE_HEADER: &str = "x-instance";
/// Path of the health check.
pub(super) const HEALTH_PATH: &str = "/health";
/// Longest an instance that leaves waits for its requests.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a service responds with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A web page that reloads itself.
    Shop,
    /// The request as it arrived, in JSON.
    Api,
    /// The time, and a stream of it.
    Time,
}

/// A running instance. Dropped: killed, connections and all.
#[derive(Debug)]
pub(super) struct Sample {
    /// Where it listens.
    pub address: SocketAddr,
    leave: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What the server and the display share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Its name, as `shop-1`.
    pub name: String,
    pub kind: Kind,
    /// Time it takes for a response.
    pub latency: Duration,
    /// Its health check fails.
    pub sick: AtomicBool,
    /// Requests served, checks apart.
    pub served: AtomicU64,
}

impl Sample {
    /// Starts it, on `port` if that is free and on any port else.
    pub(super) async fn start(shared: Arc<Shared>, port: u16) -> std::io::Result<Self> {
        let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Ok(listener) => listener,
            Err(_) if port != 0 => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
            Err(error) => return Err(error),
        };
        let address = listener.local_addr()?;
        let (leave, leaving) = watch::channel(false);
        let task = tokio::spawn(serve(
            listener,
            move |request| respond(request, Arc::clone(&shared)),
            leaving,
        ));
        Ok(Self {
            address,
            leave,
            task,
        })
    }

    /// Takes no new connections, lets requests finish, then ends.
    pub(super) fn leave(self) {
        let _ = self.leave.send(true);
        tokio::spawn(async move {
            let mut this = self;
            let _ = tokio::time::timeout(LEAVE_TIMEOUT, &mut this.task).await;
        });
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        // The task owns the listener and all connections: they go with it.
        self.task.abort();
    }
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

async fn respond(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Body>, Infallible> {
    if request.uri().path() == HEALTH_PATH {
        return Ok(health(&shared));
    }
    shared.served.fetch_add(1, Relaxed);
    if !shared.latency.is_zero() {
        tokio::time::sleep(shared.latency).await;
    }
    let (content_type, body) = match shared.kind {
        Kind::Shop => ("text/html; charset=utf-8", full(shop_page(&shared.name))),
        Kind::Api => (
            "application/json",
            full(request_as_json(&request, &shared.name)),
        ),
        Kind::Time if request.uri().path().ends_with("/stream") => {
            ("text/event-stream", ticks(&shared.name))
        }
        Kind::Time => (
            "text/plain",
            full(format!("{} says {}\n", shared.name, now())),
        ),
    };
    let response = Response::builder()
        .header(header::CONTENT_TYPE, content_type)
        .header(header::CACHE_CONTROL, "no-store")
        .header(INSTANCE_HEADER, &shared.name)
        .body(body);
    Ok(response.expect("names of instances are plain ASCII"))
}

fn health(shared: &Shared) -> Response<Body> {
    let sick = shared.sick.load(Relaxed);
    let mut response = Response::new(full(if sick { "sick\n" } else { "well\n" }));
    if sick {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    response
}

fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed_unsync()
}

fn shop_page(name: &str) -> String {
    // The colour is that of the instance, so that a change is seen from across the room.
    let hue = name.bytes().fold(0u32, |hue, byte| {
        hue.wrapping_mul(31).wrapping_add(u32::from(byte))
    }) % 360
        * 47
        % 360;
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=1><title>{name}</title>\
         <style>body{{font:1.2rem system-ui;display:grid;place-content:center;text-align:center;min-height:90vh;\
         background:hsl({hue} 55% 92%);color:#222}}h1{{font-size:4rem;margin:0}}</style>\
         <h1>{name}</h1><p>served this request. The page reloads every second.</p></html>\n"
    )
}

fn request_as_json<B>(request: &Request<B>, name: &str) -> String {
    let headers: serde_json::Map<String, serde_json::Value> = request
        .headers()
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes())
                    .into_owned()
                    .into(),
            )
        })
        .collect();
    let json = serde_json::json!({
        "instance": name,
        "method": request.method().as_str(),
        "path": request.uri().to_string(),
        "headers": headers,
    });
    format!("{json:#}\n")
}

/// Server-sent events, one a second, until the client goes.
fn ticks(name: &str) -> Body {
    let name = name.to_owned();
    let events = stream::unfold(0u64, move |count| {
        let name = name.clone();
        async move {
            if count > 0 {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let event = format!("data: {name} says {}\n\n", now());
            Some((Ok(Frame::data(Bytes::from(event))), count + 1))
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(events))
}

fn now() -> String {
    let seconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
        % 86_400;
    format!(
        "{:02}:{:02}:{:02} UTC",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_page_and_a_colour() {
        for name in [
            "shop-1",
            "shop-4294967295",
            "",
            "\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}",
        ] {
            let page = shop_page(name);
            assert!(
                page.contains(&format!("<h1>{name}</h1>")) && page.contains("hsl("),
                "{page}"
            );
        }
    }

    #[test]
    fn the_request_comes_back_as_it_arrived() {
        let request = Request::put("/a?b=1").header("x-y", "z").body(()).unwrap();
        let seen: serde_json::Value =
            serde_json::from_str(&request_as_json(&request, "api-1")).unwrap();
        assert_eq!(
            (&seen["instance"], &seen["method"]),
            (&"api-1".into(), &"PUT".into())
        );
        assert_eq!(
            (&seen["path"], &seen["headers"]["x-y"]),
            (&"/a?b=1".into(), &"z".into())
        );
    }
}
