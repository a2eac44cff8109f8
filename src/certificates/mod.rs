//! Where certificates come from that are not files of this machine.
//!
//! ```text
//! http    list of names, the files beside it ─┐  every `refresh`
//! vault   entries of a KV engine ─────────────┤                  ├─► FetchedCertificates ─► CertificateSink
//! consul  keys of the KV store ───────────────┘  when they change
//! vault-pki   Demand (a server name) ─► issue ─► CertificateSink
//! acme        hosts of routes ─► order ─► a store that many lb share ─► CertificateSink
//! ```
//! A source fetches and passes on; it never judges. Whether a pair is good, and what stays when it
//! is not, is decided by the sink, so that the rules are the same as for files: one bad pair harms
//! no other, and a response that is empty or fails takes nothing away.

mod acme;
mod consul;
mod error;
mod http;
mod limits;
mod source;
mod vault;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use acme::{Answer, Ask, Asks, Kind as AcmeFailure, NameState, Port, Ports};
pub(crate) use error::SourceError;
pub(crate) use source::{CertificateSink, Demand, Demands, FetchContext, FetchedCertificates};
pub(crate) use vault::Tokens;

use self::limits::{BACKOFF, PAUSE_MIN};
use crate::config::{CertificateConfig, CertificateSource};
use crate::sources::backoff::Backoff;

/// Serves one source until it is dropped (or, read once, has responded). Files have none.
pub(crate) async fn run(
    config: CertificateConfig,
    context: FetchContext,
    sink: Arc<dyn CertificateSink>,
    demands: Option<Demands>,
    ports: Option<Ports>,
) {
    match config.source {
        CertificateSource::File { .. } | CertificateSource::Path { .. } => {}
        CertificateSource::Http {
            url,
            client_ca_url,
            headers,
            refresh,
        } => {
            let mut source = http::Source::new(&url, client_ca_url.as_ref(), headers);
            again_and_again(async || source.read().await, refresh, &*sink).await;
        }
        CertificateSource::Consul {
            keys,
            client_ca,
            token,
        } => {
            let places = consul::Places {
                keys,
                client_ca,
                token,
            };
            consul::run(places, context.consul, sink).await;
        }
        CertificateSource::Vault {
            kv_path,
            client_ca_kv_path,
            refresh,
            token,
        } => {
            let mut api = vault::Connection::new(context, token);
            let read = async || {
                let api = api.api().await?;
                vault::kv::read(api, Some(&kv_path), client_ca_kv_path.as_deref()).await
            };
            again_and_again(read, refresh, &*sink).await;
        }
        CertificateSource::VaultPki {
            issue_path,
            names,
            renew_before,
            client_ca_kv_path,
            refresh,
            token,
        } => {
            let Some(demands) = demands else { return };
            let mut api = vault::Connection::new(context.clone(), token.clone());
            let cas = async {
                if client_ca_kv_path.is_some() {
                    let read = async || {
                        vault::kv::read(api.api().await?, None, client_ca_kv_path.as_deref()).await
                    };
                    again_and_again(read, refresh, &*sink).await;
                }
            };
            let rules = vault::pki::Rules {
                issue_path,
                names,
                renew_before,
            };
            let issuer = vault::pki::run(
                rules,
                vault::Connection::new(context, token),
                sink.clone(),
                demands,
            );
            tokio::join!(cas, issuer);
        }
        CertificateSource::Acme(config) => {
            if let Some(ports) = ports {
                // Boxed: it is much larger than the others.
                Box::pin(acme::run(*config, context.consul, sink, ports)).await;
            }
        }
    }
}

/// Reads every `refresh`; zero: until all of it was read once. Tells only what differs from before.
async fn again_and_again(
    mut read: impl AsyncFnMut() -> Result<FetchedCertificates, SourceError>,
    refresh: Duration,
    sink: &dyn CertificateSink,
) {
    let mut rng = fastrand::Rng::new();
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    let mut before = None;
    loop {
        let pause = match read().await {
            Ok(fetched) => {
                let whole = fetched.is_whole();
                if before.as_ref() != Some(&fetched) {
                    sink.take(&fetched);
                    before = Some(fetched);
                }
                backoff.succeeded();
                match (refresh, whole) {
                    (Duration::ZERO, true) => return,
                    (Duration::ZERO, false) => BACKOFF.1,
                    (refresh, _) => refresh,
                }
            }
            Err(error) => {
                sink.failed(&error);
                // What failed may have changed, too: what is read next is passed on in any case.
                before = None;
                PAUSE_MIN + backoff.failed(&mut rng)
            }
        };
        tokio::time::sleep(pause.max(PAUSE_MIN)).await;
    }
}
