//! Responses to ACME servers that look whether a host is ours: to a request (http-01) and to a
//! handshake (tls-alpn-01).
//!
//! ```text
//! request or handshake ─► known? ─► response
//!                           └─► query, once for all that wait ─► known by now? ─► response, or an ordinary client
//! ```
//! The order may be another lb's, and what this one knows of it a moment old: what is not known is
//! queried before it is taken for nothing.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// What ALPN calls a validation (RFC 8737).
pub const ACME_TLS: &[u8] = b"acme-tls/1";
/// What the path of a validation begins with (RFC 8555 section 8.3).
pub const PATH: &str = "/.well-known/acme-challenge/";
/// Longest wait for what is not known.
const ASK_TIME: Duration = Duration::from_secs(3);
/// A token is base64url; the longest that is looked for.
const TOKEN_MAX: usize = 256;

/// A response for a host.
#[derive(Clone, Debug)]
pub enum ChallengeAnswer {
    /// To a request for this token.
    Request {
        /// Last part of the path.
        token: String,
        /// What is responded.
        body: Bytes,
    },
    /// To a handshake: certificate and key in DER.
    Handshake {
        /// The certificate.
        certificate: Bytes,
        /// Its key (PKCS #8).
        key: Bytes,
    },
}

/// Those of one source of certificates.
pub struct Board {
    present: ArcSwap<Present>,
    asks: mpsc::Sender<oneshot::Sender<()>>,
}

#[derive(Default)]
struct Present {
    requests: HashMap<String, (String, Bytes)>,
    handshakes: HashMap<String, (Bytes, Arc<ServerConfig>)>,
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").finish_non_exhaustive()
    }
}

impl Board {
    /// An empty one; `asks` end once everything there is was shown.
    #[must_use]
    pub fn new(asks: mpsc::Sender<oneshot::Sender<()>>) -> Self {
        Self {
            present: ArcSwap::default(),
            asks,
        }
    }

    /// Shows these, and nothing else.
    pub fn show(&self, answers: Vec<(String, ChallengeAnswer)>) {
        let before = self.present.load();
        let mut present = Present::default();
        for (host, answer) in answers {
            match answer {
                ChallengeAnswer::Request { token, body } => {
                    present.requests.insert(host, (token, body));
                }
                ChallengeAnswer::Handshake { certificate, key } => {
                    let known = before.handshakes.get(&host);
                    let config = match known.filter(|(known, _)| *known == certificate) {
                        Some((_, config)) => Some(Arc::clone(config)),
                        None => server_config(&certificate, &key).ok().map(Arc::new),
                    };
                    let entry = config.map(|config| (host, (certificate, config)));
                    present.handshakes.extend(entry);
                }
            }
        }
        self.present.store(Arc::new(present));
    }

    fn request(&self, host: &str, token: &str) -> Option<Bytes> {
        let present = self.present.load();
        let (known, body) = present.requests.get(host)?;
        (known == token).then(|| body.clone())
    }

    fn handshake(&self, host: &str) -> Option<Arc<ServerConfig>> {
        let present = self.present.load();
        present.handshakes.get(host).map(|it| Arc::clone(&it.1))
    }

    /// Returns once everything is known that there was at the call; or there are too many queries.
    async fn ask(&self) {
        let (sender, answered) = oneshot::channel();
        if self.asks.try_send(sender).is_ok() {
            timeout(ASK_TIME, answered).await.ok();
        }
    }
}

/// Those of all sources; as many as order certificates by such a challenge.
#[derive(Clone, Debug, Default)]
pub struct Challenges(Arc<[Arc<Board>]>);

impl FromIterator<Arc<Board>> for Challenges {
    fn from_iter<T: IntoIterator<Item = Arc<Board>>>(boards: T) -> Self {
        Self(boards.into_iter().collect())
    }
}

impl Challenges {
    /// Whether nothing is ordered, so that there is nothing to look for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is responded to a request for this token of `host`.
    pub async fn request(&self, host: &str, token: &str) -> Option<Bytes> {
        let fits = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
        if token.is_empty() || token.len() > TOKEN_MAX || !token.bytes().all(fits) {
            return None;
        }
        self.find(host, |board, host| board.request(host, token))
            .await
    }

    /// What a handshake for `host` goes on with.
    pub async fn handshake(&self, host: &str) -> Option<Arc<ServerConfig>> {
        self.find(host, Board::handshake).await
    }

    async fn find<T>(&self, host: &str, look: impl Fn(&Board, &str) -> Option<T>) -> Option<T> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let find = || self.0.iter().find_map(|board| look(board, &host));
        if let Some(found) = find() {
            return Some(found);
        }
        for board in &*self.0 {
            board.ask().await;
        }
        find()
    }
}

fn server_config(certificate: &Bytes, key: &Bytes) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
    let key = provider.key_provider.load_private_key(key)?;
    // Not by `with_single_cert`: it refuses the critical extension that is the point of this one.
    let chain = vec![CertificateDer::from(certificate.to_vec())];
    let resolver = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![ACME_TLS.to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(token: &str) -> ChallengeAnswer {
        ChallengeAnswer::Request {
            token: token.to_owned(),
            body: Bytes::from(format!("{token}.print")),
        }
    }

    #[tokio::test]
    async fn a_certificate_with_the_critical_extension_can_be_shown() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        let digest = [7; 32];
        params.custom_extensions = vec![rcgen::CustomExtension::new_acme_identifier(&digest)];
        let certificate = params.self_signed(&key).unwrap();
        let (asks, _) = mpsc::channel(4);
        let board = Arc::new(Board::new(asks));
        let answer = ChallengeAnswer::Handshake {
            certificate: Bytes::copy_from_slice(certificate.der()),
            key: Bytes::from(key.serialize_der()),
        };
        board.show(vec![("a.test".to_owned(), answer)]);
        let challenges: Challenges = [board].into_iter().collect();
        let config = challenges.handshake("a.test").await.unwrap();
        assert_eq!(config.alpn_protocols, [ACME_TLS]);
    }

    #[tokio::test]
    async fn what_is_not_known_is_asked_for_before_it_is_nothing() {
        let (asks, mut asked) = mpsc::channel::<oneshot::Sender<()>>(4);
        let board = Arc::new(Board::new(asks));
        let challenges: Challenges = [Arc::clone(&board)].into_iter().collect();
        board.show(vec![("a.test".to_owned(), answer("one"))]);
        let found = challenges.request("A.test.", "one").await;
        assert_eq!(found.as_deref(), Some(&b"one.print"[..]));
        assert!(asked.try_recv().is_err());
        // Another lb has ordered; this one hears of it by its query.
        let (found, ()) = tokio::join!(challenges.request("b.test", "two"), async {
            let waiting = asked.recv().await;
            board.show(vec![("b.test".to_owned(), answer("two"))]);
            drop(waiting);
        });
        assert_eq!(found.as_deref(), Some(&b"two.print"[..]));
        // One host's token is nothing for another, and what is not a token makes no query.
        drop(asked);
        assert_eq!(challenges.request("a.test", "two").await, None);
        assert_eq!(challenges.request("b.test", "../two").await, None);
        assert!(challenges.handshake("b.test").await.is_none());
    }
}
