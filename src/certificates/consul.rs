//! Keys of Consul's KV store, watched by blocking queries.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::sleep;

use super::error::SourceError;
use super::limits::{BACKOFF, ENTRIES_MAX, PAUSE_MIN};
use super::source::{CertificateSink, FetchedCertificates, Pems};
use crate::config::{ConsulConfig, ConsulKeys, Secret, TokenPlace};
use crate::sources::backoff::Backoff;
use crate::sources::blocking::{Next, Position, TokenBucket, jittered_wait};
use crate::sources::consul::ConsulError;
use crate::sources::consul::client::{Block, Client, Mode};
use crate::sources::consul::keys;

/// Reads of one watch: a burst, and a rate (1/s).
const BUCKET: (u32, f64) = (10, 1.0);

/// What is read.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub(super) keys: ConsulKeys,
    pub(super) client_ca: Option<ConsulKeys>,
    pub(super) token: TokenPlace,
}

pub(super) async fn run(
    places: Places,
    consul: Option<ConsulConfig>,
    sink: Arc<dyn CertificateSink>,
) {
    let Places {
        keys,
        client_ca,
        token,
    } = places;
    let pairs = watch(&keys, &token, consul.as_ref(), &*sink, |pems| {
        FetchedCertificates {
            pairs: Some(pems),
            client_cas: None,
        }
    });
    let cas = async {
        if let Some(keys) = &client_ca {
            let as_fetched = |pems| FetchedCertificates {
                pairs: None,
                client_cas: Some(pems),
            };
            watch(keys, &token, consul.as_ref(), &*sink, as_fetched).await;
        }
    };
    tokio::join!(pairs, cas);
}

async fn watch(
    at: &ConsulKeys,
    token: &TokenPlace,
    consul: Option<&ConsulConfig>,
    sink: &dyn CertificateSink,
    as_fetched: impl Fn(Pems) -> FetchedCertificates,
) {
    let (ConsulKeys::Own(path) | ConsulKeys::At { path, .. }) = at;
    let target = keys::path(path);
    let config = connection(at, token, consul);
    let mut rng = fastrand::Rng::new();
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    let mut bucket = TokenBucket::new(BUCKET.0, BUCKET.1, Instant::now());
    let mut position = Position::default();
    let mut client = None;
    let mut before = None;
    loop {
        sleep(bucket.take(Instant::now())).await;
        let block = position.index().map(|index| Block {
            index,
            wait: jittered_wait(config.wait, rng.f64()),
        });
        let response = match with_client(&mut client, &config) {
            Ok(client) => client.get(&target, Mode::Default, block).await,
            Err(error) => Err(error),
        };
        let pause = match response.map_err(SourceError::from).and_then(|response| {
            let pems = decode(&response.body, path).map_err(|reason| SourceError::Content {
                url: target.clone(),
                reason,
            })?;
            Ok((position.advance(response.index, response.early), pems))
        }) {
            Ok((next, pems)) => {
                backoff.succeeded();
                if before.as_ref() != Some(&pems) {
                    sink.take(&as_fetched(pems.clone()));
                    before = Some(pems);
                }
                match next {
                    Next::Now => Duration::ZERO,
                    Next::Stuck => PAUSE_MIN,
                    Next::After(pause) => pause,
                }
            }
            Err(error) => {
                sink.failed(&error);
                position.forget();
                if let SourceError::Consul(error) = &error
                    && matches!(error.kind(), "token" | "tls" | "config")
                {
                    // A file may hold another token or certificate by now.
                    client = None;
                }
                PAUSE_MIN + backoff.failed(&mut rng)
            }
        };
        sleep(pause).await;
    }
}

fn with_client<'a>(
    client: &'a mut Option<Client>,
    config: &ConsulConfig,
) -> Result<&'a Client, ConsulError> {
    let made = match client.take() {
        Some(made) => made,
        None => Client::new(config)?,
    };
    Ok(client.insert(made))
}

/// How to reach the Consul that holds these keys. One that is not that of `[consul]` gets the same
/// client certificate (it is not a secret), but never the same token.
fn connection(
    keys: &ConsulKeys,
    token: &TokenPlace,
    consul: Option<&ConsulConfig>,
) -> ConsulConfig {
    let own = consul.cloned().unwrap_or_default();
    let mut config = match keys {
        ConsulKeys::Own(_) => own,
        ConsulKeys::At { address, token, .. } => {
            let same = own
                .addresses
                .iter()
                .any(|known| known.trim_end_matches('/') == address);
            let mut config = ConsulConfig {
                addresses: vec![address.clone()].into(),
                ..own
            };
            if !same {
                (
                    config.token,
                    config.token_file,
                    config.http_auth,
                    config.server_name,
                ) = (None, None, None, None);
                (config.namespace, config.partition, config.datacenter) = (None, None, None);
            }
            if let Some(token) = token {
                (config.token, config.token_file) = (Some(token.clone()), None);
            }
            config
        }
    };
    match token {
        TokenPlace::Nowhere => {}
        TokenPlace::Text(text) => (config.token, config.token_file) = (Some(text.clone()), None),
        TokenPlace::File(path) => (config.token, config.token_file) = (None, Some(path.clone())),
        TokenPlace::Env(name) => {
            (config.token, config.token_file) = (std::env::var(name).ok().map(Secret::new), None)
        }
    }
    config
}

/// The keys below `path`, named from there; or that key alone. A read by prefix also finds keys
/// that merely begin so.
fn decode(body: &[u8], path: &str) -> Result<Pems, String> {
    let entries = keys::values(body).map_err(|error| format!("not understood: {error}"))?;
    let mut pems = Pems::new();
    for (key, value) in entries {
        let name = match key.strip_prefix(path) {
            Some("") => path.rsplit('/').next().unwrap_or(path),
            Some(rest) if rest.starts_with('/') => rest.trim_start_matches('/'),
            _ => continue,
        };
        // A key that ends in a slash is a folder made by Consul's own pages.
        if name.is_empty() || name.ends_with('/') {
            continue;
        }
        let text = value
            .map(Bytes::from)
            .map_err(|error| format!("not base64: {error}"));
        pems.insert(PathBuf::from(name), text);
    }
    if pems.len() > ENTRIES_MAX {
        return Err(format!("{} keys, more than {ENTRIES_MAX}", pems.len()));
    }
    Ok(pems)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn keys_are_named_from_their_path() {
        let body = br#"[{"Key":"lb/certs/","Value":null},{"Key":"lb/certs/a.pem","Value":"eA=="},
            {"Key":"lb/certs/s/b.pem","Value":"?"},{"Key":"lb/certs-old/c.pem","Value":"eA=="}]"#;
        let pems = decode(body, "lb/certs").unwrap();
        let names: Vec<_> = pems
            .iter()
            .map(|(name, text)| (name.to_str().unwrap(), text.is_ok()))
            .collect();
        assert_eq!(names, [("a.pem", true), ("s/b.pem", false)]);
        let one = decode(br#"[{"Key":"lb/ca.pem","Value":"eA=="}]"#, "lb/ca.pem").unwrap();
        assert_eq!(one.keys().next().unwrap().to_str(), Some("ca.pem"));
        assert!(decode(b"{}", "x").is_err());
    }

    #[test]
    fn another_consul_never_gets_the_token_of_this_one() {
        let own = ConsulConfig {
            addresses: vec!["http://own:1".to_owned()].into(),
            token: Some(Secret::new("own")),
            ..ConsulConfig::default()
        };
        let at = |address: &str, token: Option<&str>| ConsulKeys::At {
            address: address.to_owned(),
            path: "p".to_owned(),
            token: token.map(Secret::new),
        };
        let text = TokenPlace::Text(Secret::new("key"));
        let cases = [
            (
                ConsulKeys::Own("p".to_owned()),
                TokenPlace::Nowhere,
                Some("own"),
            ),
            (at("http://own:1", None), TokenPlace::Nowhere, Some("own")),
            (at("http://other:1", None), TokenPlace::Nowhere, None),
            (
                at("http://other:1", Some("url")),
                TokenPlace::Nowhere,
                Some("url"),
            ),
            (at("http://other:1", Some("url")), text.clone(), Some("key")),
            (ConsulKeys::Own("p".to_owned()), text, Some("key")),
        ];
        for (keys, place, wanted) in cases {
            assert_eq!(
                connection(&keys, &place, Some(&own)).token,
                wanted.map(Secret::new),
                "{keys:?} {place:?}"
            );
        }
    }
}
