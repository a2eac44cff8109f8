//! The certificates of one `[certificates.NAME]`, ready for handshakes and replaceable under way.
//!
//! A reload reads everything again, keeps the previous form of whatever turned bad, and swaps whole
//! [`ServerConfig`]s: handshakes that began use the one they have, open connections notice nothing. Who calls for a
//! reload (a signal, a watched file) is left to others; [`CertStore::paths`] says what to watch and
//! [`CertStore::changed`] whether something did change.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

use super::pairs::{self, Pair};
use super::{TlsError, provider, roots_of};
use crate::config::{CertificateConfig, CertificateSource, TlsLimits, TlsVersion};

/// What a listener does with a handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerUse {
    /// Refuse a name without certificate (and a client without name) instead of showing the first certificate.
    pub strict: bool,
    /// Offer `h2` and `http/1.1` by ALPN; a TCP listener offers nothing.
    pub http: bool,
    /// Versions and cipher suites.
    pub limits: TlsLimits,
}

/// What a reload did.
#[derive(Debug, Default)]
pub struct Reload {
    /// What could not be read or used. The previous form of it is still in use, if there was one.
    pub errors: Vec<TlsError>,
}

/// Certificates by name. Shared by all workers.
#[derive(Debug)]
pub struct CertStore {
    config: CertificateConfig,
    current: ArcSwap<Current>,
    /// One reload at a time.
    reloading: Mutex<()>,
}

#[derive(Debug)]
struct Current {
    pairs: Vec<Pair>,
    client_roots: Option<Arc<RootCertStore>>,
    /// Survives reloads, so that sessions do, unless the client CAs changed.
    tickets: Arc<dyn ProducesTickets>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    names: Arc<Names>,
    /// Made at first use: as many as there are listeners that differ in it.
    configs: ArcSwap<Vec<(ServerUse, Arc<ServerConfig>)>>,
    stamps: Stamps,
}

type Names = HashMap<String, Arc<CertifiedKey>>;

type Stamps = Vec<(PathBuf, Option<(SystemTime, u64)>)>;

impl CertStore {
    /// Reads all certificates. Bad pairs are reported beside the store as long as one is good.
    ///
    /// # Errors
    /// When not one pair can be used, or the client CAs cannot be read: all that was wrong.
    pub fn load(config: CertificateConfig) -> Result<(Self, Reload), Vec<TlsError>> {
        let mut errors = Vec::new();
        let stamps = stamps_of(&config);
        let pairs = read_pairs(&config.source, &[], &mut errors);
        let client_roots = match read_client_roots(&config) {
            Ok(roots) => roots,
            Err(error) => {
                errors.push(error);
                return Err(errors);
            }
        };
        if pairs.is_empty() {
            return Err(errors);
        }
        match Current::new(&config, pairs, client_roots, None, stamps) {
            Ok(current) => {
                let store = Self { config, current: ArcSwap::from_pointee(current), reloading: Mutex::new(()) };
                Ok((store, Reload { errors }))
            }
            Err(error) => {
                errors.push(error);
                Err(errors)
            }
        }
    }

    /// Reads everything again. A bad pair keeps its previous form, bad client CAs keep theirs; a pair whose files left
    /// the directory is gone, unless it was the last one. Blocks on files: not for workers.
    pub fn reload(&self) -> Reload {
        let _one_at_a_time = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.current.load_full();
        let mut errors = Vec::new();
        // Taken before reading: a change in between is seen as one next time.
        let stamps = stamps_of(&self.config);
        let mut pairs = read_pairs(&self.config.source, &before.pairs, &mut errors);
        if pairs.is_empty() {
            pairs.clone_from(&before.pairs);
        }
        let (client_roots, same) = match read_client_roots(&self.config) {
            Ok(roots) => {
                let same = subjects(roots.as_deref()) == subjects(before.client_roots.as_deref());
                (roots, same)
            }
            Err(error) => {
                errors.push(error);
                (before.client_roots.clone(), true)
            }
        };
        // A ticket lets a client skip the check of its certificate: those of other CAs must end here.
        let tickets = same.then(|| Arc::clone(&before.tickets));
        match Current::new(&self.config, pairs, client_roots, tickets, stamps) {
            Ok(current) => self.current.store(Arc::new(current)),
            Err(error) => errors.push(error),
        }
        Reload { errors }
    }

    /// Whether this is the store of `config`.
    #[must_use]
    pub fn is_of(&self, config: &CertificateConfig) -> bool {
        self.config == *config
    }

    /// The settings for the next handshake.
    ///
    /// # Errors
    /// Limits that leave nothing to choose: whoever asked for the same before gets no error any more.
    pub fn server_config(&self, used: &ServerUse) -> Result<Arc<ServerConfig>, TlsError> {
        self.current.load().config(used)
    }

    /// The pairs in use; the first is the default.
    #[must_use]
    pub fn pairs(&self) -> Vec<Pair> {
        self.current.load().pairs.clone()
    }

    /// File and end (unix time, s) of each certificate in use, for the metric.
    #[must_use]
    pub fn expiries(&self) -> Vec<(String, i64)> {
        let current = self.current.load();
        current.pairs.iter().map(|pair| (pair.path.display().to_string(), pair.not_after)).collect()
    }

    /// Files, and the directory if there is one, to watch for changes.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        let mut paths = match &self.config.source {
            CertificateSource::File { cert_file, key_file } => vec![cert_file.clone(), key_file.clone()],
            CertificateSource::Path { path } => vec![path.clone()],
        };
        paths.extend(self.config.client_ca_file.clone());
        paths
    }

    /// Whether a file came, went, or has another size or time than when it was last read. For polling.
    #[must_use]
    pub fn changed(&self) -> bool {
        stamps_of(&self.config) != self.current.load().stamps
    }
}

impl Current {
    fn new(
        config: &CertificateConfig,
        pairs: Vec<Pair>,
        client_roots: Option<Arc<RootCertStore>>,
        tickets: Option<Arc<dyn ProducesTickets>>,
        stamps: Stamps,
    ) -> Result<Self, TlsError> {
        let tickets = match tickets {
            Some(tickets) => tickets,
            None => aws_lc_rs::Ticketer::new()?,
        };
        let verifier = client_verifier(client_roots.as_ref(), config.client_auth_optional)?;
        let names = Arc::new(by_name(&pairs));
        let current = Self { pairs, client_roots, tickets, verifier, names, configs: ArcSwap::default(), stamps };
        // What cannot be used at all is found out now.
        current.config(&ServerUse::default())?;
        Ok(current)
    }

    fn config(&self, used: &ServerUse) -> Result<Arc<ServerConfig>, TlsError> {
        if let Some((_, config)) = self.configs.load().iter().find(|(known, _)| known == used) {
            return Ok(Arc::clone(config));
        }
        let default = self.pairs.first().filter(|_| !used.strict).map(|pair| Arc::clone(&pair.key));
        let resolver = Arc::new(Resolver { names: Arc::clone(&self.names), default });
        let config = server_config(self.verifier.clone(), resolver, Arc::clone(&self.tickets), used)?;
        self.configs.rcu(|configs| {
            let mut configs = Vec::clone(configs);
            // Two workers may come to it at the same time.
            if !configs.iter().any(|(known, _)| known == used) {
                configs.push((used.clone(), Arc::clone(&config)));
            }
            configs
        });
        Ok(config)
    }
}

fn server_config(
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    resolver: Arc<Resolver>,
    tickets: Arc<dyn ProducesTickets>,
    used: &ServerUse,
) -> Result<Arc<ServerConfig>, TlsError> {
    let limits = &used.limits;
    let mut provider = aws_lc_rs::default_provider();
    if !limits.ciphers.is_empty() {
        provider.cipher_suites.retain(|suite| limits.ciphers.contains(&suite.suite().into()));
    }
    let served = [(TlsVersion::V1_3, &rustls::version::TLS13), (TlsVersion::V1_2, &rustls::version::TLS12)];
    let versions: Vec<_> =
        served.iter().filter(|(version, _)| (limits.min..=limits.max).contains(version)).map(|(_, it)| *it).collect();
    let builder = ServerConfig::builder_with_provider(Arc::new(provider)).with_protocol_versions(&versions)?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(resolver);
    if used.http {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    config.ticketer = tickets;
    // Early data can be replayed, and a proxy cannot know what a replay would do.
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

fn client_verifier(
    roots: Option<&Arc<RootCertStore>>,
    optional: bool,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let Some(roots) = roots else { return Ok(None) };
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider());
    let builder = if optional { builder.allow_unauthenticated() } else { builder };
    let verifier = builder.build().map_err(|error| TlsError::Setup(rustls::Error::General(error.to_string())))?;
    Ok(Some(verifier))
}

fn read_client_roots(config: &CertificateConfig) -> Result<Option<Arc<RootCertStore>>, TlsError> {
    config.client_ca_file.as_ref().map(|path| roots_of(path).map(Arc::new)).transpose()
}

/// What tells one set of CAs from another: names and keys.
fn subjects(roots: Option<&RootCertStore>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let roots = roots.map_or(&[][..], |roots| &roots.roots);
    roots.iter().map(|root| (root.subject.to_vec(), root.subject_public_key_info.to_vec())).collect()
}

/// Every pair of the source, the previous form of those that are bad now.
fn read_pairs(source: &CertificateSource, before: &[Pair], errors: &mut Vec<TlsError>) -> Vec<Pair> {
    let listed = match pairs::list(source) {
        Ok(listed) => listed,
        Err(error) => {
            errors.push(error);
            return before.to_vec();
        }
    };
    let provider = provider();
    let mut good = Vec::with_capacity(listed.len());
    for files in &listed {
        match pairs::load(files, &provider) {
            Ok(pair) => good.push(pair),
            Err(error) => {
                errors.push(error);
                good.extend(before.iter().find(|pair| pair.path == files.cert).cloned());
            }
        }
    }
    good
}

fn stamps_of(config: &CertificateConfig) -> Stamps {
    let mut files: Vec<PathBuf> = match pairs::list(&config.source) {
        Ok(listed) => listed.into_iter().flat_map(|files| [files.cert, files.key]).collect(),
        Err(_) => Vec::new(),
    };
    files.extend(config.client_ca_file.clone());
    let stamp = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    files.into_iter().map(|path| (path.clone(), stamp(&path))).collect()
}

fn by_name(pairs: &[Pair]) -> Names {
    let mut names = HashMap::new();
    for pair in pairs {
        for name in &pair.names {
            names.entry(name.clone()).or_insert_with(|| Arc::clone(&pair.key));
        }
    }
    names
}

/// Picks the certificate for a name: exact, then with leading labels replaced by `*`, then the default.
#[derive(Debug)]
struct Resolver {
    names: Arc<Names>,
    default: Option<Arc<CertifiedKey>>,
}

impl Resolver {
    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        if let Some(found) = self.names.get(&name) {
            return Some(found);
        }
        // At most 127 labels: a DNS name has no more than 253 characters.
        let mut stars = String::new();
        let mut rest = name.as_str();
        while let Some((_, parent)) = rest.split_once('.') {
            stars.push_str("*.");
            rest = parent;
            if let Some(found) = self.names.get(&format!("{stars}{rest}")) {
                return Some(found);
            }
        }
        None
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = hello.server_name().and_then(|name| self.find(name));
        found.or(self.default.as_ref()).cloned()
    }
}

#[cfg(test)]
mod tests;
