//! Interim answers (1xx, RFC 9110 section 15.2) on their way from an HTTP/1.1 upstream to an HTTP/1.1 client.
//!
//! hyper tells of them by a callback that may run anywhere, and its server has no way to send one. So the callback
//! leaves the head here, the exchange fetches it, and the guard of the client's stream writes it at a moment when
//! nothing of another answer is unwritten. `100 Continue` is not among them: hyper sends its own when the body is
//! wanted. HTTP/1.0 clients know no interim answers, and HTTP/2 ones do not get them (hyper cannot send them there).

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Request, StatusCode};
use tokio::sync::Notify;

/// Most bytes that wait for a client; what comes beyond is left out, as an interim answer may be.
const WAITING_MAX: usize = 64 << 10;

/// What waits to be passed on, of one client connection.
#[derive(Debug, Default)]
pub struct Interim {
    heads: Mutex<Vec<u8>>,
    arrived: Notify,
}

impl Interim {
    /// Lets interim answers to `request` come here.
    pub fn listen<B>(self: &Arc<Self>, request: &mut Request<B>) {
        let here = Arc::clone(self);
        hyper::ext::on_informational(request, move |answer| here.put(answer.status(), answer.headers()));
    }

    /// Waits until something has come. Cancel safe.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Takes what has come.
    #[must_use]
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.heads.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, status: StatusCode, headers: &HeaderMap) {
        if status == StatusCode::CONTINUE || status == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        let head = head(status, headers);
        let mut heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        if heads.len() + head.len() <= WAITING_MAX {
            heads.extend_from_slice(&head);
            self.arrived.notify_one();
        }
    }
}

fn head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut head = Vec::with_capacity(128);
    // Writing into memory cannot fail.
    let _ = write!(head, "HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or(""));
    let framing = [&CONNECTION, &CONTENT_LENGTH, &TRANSFER_ENCODING, &UPGRADE];
    for (name, value) in headers.iter().filter(|(name, _)| !framing.contains(name)) {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_what_may_pass_is_written() {
        let interim = Interim::default();
        let mut headers = HeaderMap::new();
        headers.insert("link", HeaderValue::from_static("</a.css>; rel=preload"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("5"));
        interim.put(StatusCode::CONTINUE, &headers);
        assert!(interim.take().is_empty());
        interim.put(StatusCode::EARLY_HINTS, &headers);
        assert_eq!(interim.take(), b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n");
        assert!(interim.take().is_empty());
    }

    #[test]
    fn an_upstream_cannot_pile_them_up() {
        let interim = Interim::default();
        for _ in 0..10_000 {
            interim.put(StatusCode::PROCESSING, &HeaderMap::new());
        }
        assert!(interim.take().len() <= WAITING_MAX);
    }
}
