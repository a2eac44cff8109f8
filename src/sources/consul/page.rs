//! The watch of the no-route page in the KV store. Not a source of routes: the start does not wait
//! for it, and what it finds is a page or that there is none.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::info;

use super::error::ConsulError;
use super::keys;
use super::poll::Poller;
use super::rights::{self, Rights};
use super::shared::Shared;
use crate::sources::context::Page;

/// Largest page, all keys together, in bytes: two values of the KV store.
const PAGE_BYTES_MAX: usize = 1 << 20;

/// What is known of the page.
struct PageWatch {
    shared: Arc<Shared>,
    path: String,
    poller: Poller,
    page: watch::Sender<Page>,
}

/// Watches until aborted, or until nothing uses the page any more.
pub(super) async fn run(shared: Arc<Shared>, path: String, page: watch::Sender<Page>) {
    let poller = Poller::new(
        shared.clone(),
        keys::path(&path),
        format!("kv:{path}").into(),
    );
    let mut watch = PageWatch {
        shared,
        path,
        poller,
        page,
    };
    while !watch.page.is_closed() {
        watch.turn().await;
    }
}

impl PageWatch {
    async fn turn(&mut self) {
        let page = match self.poller.next(decode).await {
            // Keys that are gone are read a second time, as those of route commands are.
            Ok(None) if self.page.borrow().is_some() => {
                match self.poller.confirm(None, decode).await {
                    Ok(Ok(None)) if self.is_hidden().await => {
                        return self.poller.held(&ConsulError::KeyRights {
                            path: self.path.clone(),
                        });
                    }
                    Ok(page) => page,
                    Err(error) => {
                        return self
                            .poller
                            .unconfirmed(format!("{}: the loss of the page", self.path), &error)
                            .await;
                    }
                }
            }
            page => page,
        };
        match page {
            Ok(page) => self.take(page),
            Err(bytes) => self.poller.held(&ConsulError::Value {
                key: "no_route_kv_path",
                value: self.path.clone(),
                reason: format!(
                    "the page there has {bytes} bytes, more than {PAGE_BYTES_MAX}; it is not taken"
                ),
            }),
        }
    }

    /// Whether the token may not read the page, by what the leader says. No page is worth no more
    /// questions than this one.
    async fn is_hidden(&self) -> bool {
        self.poller.filtered()
            || matches!(
                rights::to_key(&self.shared, &self.path).await,
                Ok(Rights::Denied)
            )
    }

    fn take(&mut self, page: Page) {
        let path = &self.path;
        let differs = self.page.send_if_modified(|known| {
            let differs = *known != page;
            *known = page;
            differs
        });
        self.poller.believed(differs);
        if differs {
            match &*self.page.borrow() {
                Some(page) => info!(path, bytes = page.len(), "Consul: no-route page read"),
                None => info!(path, "Consul: no no-route page there any more"),
            }
        }
    }
}

/// The page, or how long it is if that is too long: the values of all keys, each without the white
/// space around it, with a blank line between two, as Fabio puts them together.
type Found = Result<Page, usize>;

fn decode(body: &[u8]) -> Result<Found, serde_json::Error> {
    let mut values = keys::values(body)?;
    if values.is_empty() {
        return Ok(Ok(None));
    }
    values.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut page = Vec::new();
    for (at, (key, value)) in values.into_iter().enumerate() {
        let value = value
            .map_err(|error| serde::de::Error::custom(format!("the value of {key}: {error}")))?;
        if at > 0 {
            page.extend_from_slice(b"\n\n");
        }
        page.extend_from_slice(value.trim_ascii());
    }
    Ok(if page.len() > PAGE_BYTES_MAX {
        Err(page.len())
    } else {
        Ok(Some(page.into()))
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    fn body(values: &[(&str, &[u8])]) -> Vec<u8> {
        let entry = |(key, value): &(&str, &[u8])| {
            format!(
                r#"{{"Key":"{key}","Value":"{}"}}"#,
                BASE64_STANDARD.encode(value)
            )
        };
        format!(
            "[{}]",
            values.iter().map(entry).collect::<Vec<_>>().join(",")
        )
        .into_bytes()
    }

    #[test]
    fn a_page_is_all_values_in_the_order_of_their_keys() {
        let found = |values: &[(&str, &[u8])]| {
            decode(&body(values))
                .unwrap()
                .unwrap()
                .map(|page| page.to_vec())
        };
        assert_eq!(found(&[]), None);
        assert_eq!(
            found(&[("a", b"")]).as_deref(),
            Some(&b""[..]),
            "an empty page is a page"
        );
        assert_eq!(
            found(&[("a", b" <p>\xff </p>\n")]).as_deref(),
            Some(&b"<p>\xff </p>"[..]),
            "whatever its charset"
        );
        assert_eq!(
            found(&[("b", b"2\n"), ("a", b"1")]).as_deref(),
            Some(&b"1\n\n2"[..])
        );
        assert!(decode(br#"[{"Key":"a","Value":"?"}]"#).is_err());
    }

    #[test]
    fn a_page_has_a_largest_size() {
        let largest = vec![b'x'; PAGE_BYTES_MAX];
        assert!(decode(&body(&[("a", &largest)])).unwrap().is_ok());
        assert_eq!(
            decode(&body(&[("a", &largest), ("b", b"y")])).unwrap(),
            Err(PAGE_BYTES_MAX + 3)
        );
    }
}
