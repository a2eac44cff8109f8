//! The certificates of one `[certificates.NAME]`, ready for handshakes and replaceable under way.
//!
//! A reload reads everything again, keeps the previous form of whatever turned bad, and swaps whole
//! [`ServerConfig`]s: handshakes that began use the one they have, open connections notice nothing.
//! What starts a reload (a signal, a watched file) is left to others; [`paths`] says what to watch
//! and [`CertStore::changed`] whether something did change.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::hash::BuildHasher as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use bytes::Bytes;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::{mpsc, oneshot};

use crate::config::{CertificateConfig, CertificateSource, TlsLimits, TlsVersion};
use crate::proxy::tls::choice::{Choice, Defaults, find, pick};
use crate::proxy::tls::client_cas::ClientCas;
use crate::proxy::tls::clients::Clients;
use crate::proxy::tls::cryptography::provider;
use crate::proxy::tls::error::{Problems, TlsError};
use crate::proxy::tls::pairs::{self, Pair, PairFiles, Pems, Texts};
use crate::system::unix_now;
use crate::trust::bundle;

/// Largest record sent, in bytes. Half of what the protocol allows: the memory allocator deals out
/// blocks of this size from so few pages that they are still in the cache when they come round
/// again, and clients can decrypt sooner.
const RECORD_BYTES: usize = 8 << 10;

/// What a listener does with a handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerUse {
    /// Refuse a name without certificate (and a client without name) instead of showing the first
    /// certificate.
    pub strict: bool,
    /// Offer `h2` and `http/1.1` by ALPN; a TCP listener offers nothing.
    pub http: bool,
    /// Versions and cipher suites.
    pub limits: TlsLimits,
}

/// What a remote source has. What it did not tell of stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Material {
    /// PEM texts of certificates and keys; none: as before.
    pub pairs: Option<Pems>,
    /// CAs of client certificates.
    pub client_cas: Option<Pems>,
}

/// A handshake wants a certificate for this name (in lower case), and waits until it was added or
/// cannot be had.
pub type Demand = (String, oneshot::Sender<()>);

/// Certificates by name. Shared by all workers.
#[derive(Debug)]
pub struct CertStore {
    config: CertificateConfig,
    current: ArcSwap<Current>,
    /// One reload at a time.
    reloading: Mutex<()>,
    on_demand: Option<OnDemand>,
}

/// Requests for certificates that are made on demand.
#[derive(Debug)]
struct OnDemand {
    demands: mpsc::Sender<Demand>,
    /// Names that clients named since the last look, of those that have a certificate.
    used: Mutex<HashSet<String>>,
}

#[derive(Debug)]
struct Current {
    pairs: Vec<Pair>,
    client_cas: Option<Arc<ClientCas>>,
    /// Survives reloads, so that sessions do, unless the client CAs changed.
    tickets: Arc<dyn ProducesTickets>,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    names: Arc<Names>,
    /// Made at first use: as many as there are listeners that differ in it.
    configs: ArcSwap<Vec<(ServerUse, Arc<ServerConfig>)>>,
    stamps: Stamps,
    /// Of the first certificate.
    fingerprint: u64,
}

/// The pairs of each name, in the order of their files.
pub(super) type Names = HashMap<String, Vec<Choice>>;

type Stamps = Vec<(PathBuf, Option<(SystemTime, u64)>)>;

impl CertStore {
    /// Reads all certificates. Bad pairs are reported beside the store as long as one is good.
    ///
    /// # Errors
    /// When not one pair can be used, or no client CA: all that was wrong.
    pub fn load(config: CertificateConfig) -> Result<(Self, Problems), Vec<TlsError>> {
        let (store, problems) = Self::open(config).map_err(|error| vec![error])?;
        match store.problem() {
            None => Ok((store, problems)),
            Some(_) => Err(problems.errors),
        }
    }

    /// As [`CertStore::load`], but where nothing can be used the store is empty:
    /// [`CertStore::problem`] tells. For the start of the process, where a bad file must not keep
    /// everything else from being served.
    ///
    /// # Errors
    /// The TLS library refuses its own settings.
    pub fn open(config: CertificateConfig) -> Result<(Self, Problems), TlsError> {
        let mut problems = Problems::default();
        let stamps = stamps_of(&config);
        let pairs = read_pairs(&config.source, Texts::Files, &[], &mut problems);
        let client_cas = client_cas_or(&config, None, &mut problems);
        let current = Current::new(&config, pairs, client_cas, None, stamps)?;
        Ok((Self::with(config, current, None), problems))
    }

    /// The store of a remote source. Handshakes are refused until [`CertStore::take`] brought
    /// something, unless there is a store that this one replaces: its pairs serve until then.
    /// `demands` gets the names where certificates are made on demand. Client CAs in files that
    /// cannot be used are added to `problems`: no client is let in until they can.
    ///
    /// # Errors
    /// The TLS library refuses its own settings.
    pub fn remote(
        config: CertificateConfig,
        before: Option<&Self>,
        demands: Option<mpsc::Sender<Demand>>,
        problems: &mut Problems,
    ) -> Result<Self, TlsError> {
        let stamps = stamps_of(&config);
        // What was made for one name is not a pair for others, and the other way round.
        let before = before.filter(|store| store.is_on_demand() == demands.is_some());
        let before = before.map(|store| store.current.load_full());
        let client_cas = match client_cas_or(&config, None, problems) {
            Some(cas) => Some(cas),
            // Those of before are better than none, and none at all lets no client in.
            None if config.source.has_client_cas() => before
                .as_ref()
                .and_then(|current| current.client_cas.clone()),
            None => None,
        };
        let pairs = before
            .map(|current| current.pairs.clone())
            .unwrap_or_default();
        let current = Current::new(&config, pairs, client_cas, None, stamps)?;
        let on_demand = demands.map(|demands| OnDemand {
            demands,
            used: Mutex::default(),
        });
        Ok(Self::with(config, current, on_demand))
    }

    fn with(config: CertificateConfig, current: Current, on_demand: Option<OnDemand>) -> Self {
        Self {
            config,
            current: ArcSwap::from_pointee(current),
            reloading: Mutex::new(()),
            on_demand,
        }
    }

    /// Reads all files again. A bad pair keeps its previous form, bad client CAs keep theirs; a
    /// pair whose files left the directory is gone, unless it was the last one. Blocks on files:
    /// not for workers.
    pub fn reload(&self) -> Problems {
        self.take(&Material::default())
    }

    /// Takes what a remote source has, by the same rules, and reads the files that there are beside
    /// it.
    pub fn take(&self, material: &Material) -> Problems {
        let _one_at_a_time = self
            .reloading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = self.current.load_full();
        let mut problems = Problems::default();
        // Taken before reading: a change in between is seen as one next time.
        let stamps = stamps_of(&self.config);
        let texts = match (&material.pairs, self.config.source.is_remote()) {
            (Some(pems), _) => Some(Texts::Given(pems)),
            (None, true) => None,
            (None, false) => Some(Texts::Files),
        };
        let mut pairs = match texts {
            Some(texts) => read_pairs(&self.config.source, texts, &before.pairs, &mut problems),
            None => before.pairs.clone(),
        };
        if pairs.is_empty() {
            pairs.clone_from(&before.pairs);
        }
        let upgrade = self.config.client_ca_upgrade_cn.as_deref();
        let client_cas = match &material.client_cas {
            Some(pems) => match ClientCas::given(pems, upgrade, &mut problems) {
                Ok(cas) => Some(Arc::new(cas)),
                Err(error) => {
                    problems.errors.push(error);
                    before.client_cas.clone()
                }
            },
            None if self.config.source.has_client_cas() => before.client_cas.clone(),
            None => client_cas_or(&self.config, before.client_cas.as_ref(), &mut problems),
        };
        self.replace(&before, pairs, client_cas, stamps, &mut problems.errors);
        problems
    }

    fn replace(
        &self,
        before: &Current,
        pairs: Vec<Pair>,
        client_cas: Option<Arc<ClientCas>>,
        stamps: Stamps,
        errors: &mut Vec<TlsError>,
    ) {
        let same = match (&before.client_cas, &client_cas) {
            (Some(old), Some(new)) => old.is_same(new),
            (None, None) => true,
            _ => false,
        };
        // A ticket lets a client skip the check of its certificate: those of other CAs must end
        // here.
        let tickets = same.then(|| Arc::clone(&before.tickets));
        match Current::new(&self.config, pairs, client_cas, tickets, stamps) {
            Ok(current) => self.current.store(Arc::new(current)),
            Err(error) => errors.push(error),
        }
    }

    /// Adds the pair that was made for a name, or replaces it; returns its end (unix time, s).
    ///
    /// # Errors
    /// What is wrong with it; nothing has changed then.
    pub fn add(&self, name: &str, pem: Bytes) -> Result<i64, TlsError> {
        let path = PathBuf::from(name);
        let pems = Pems::from([(path.clone(), Ok(pem))]);
        let files = PairFiles {
            cert: path.clone(),
            key: path.clone(),
        };
        let mut pair = pairs::load(&files, Texts::Given(&pems), &provider())?;
        // Else it would be made again for each client that names it.
        if !pair.names.iter().any(|known| known == name) {
            pair.names.push(name.to_owned());
        }
        let not_after = pair.not_after;
        self.change(|pairs| {
            pairs.retain(|pair| pair.path != path);
            pairs.push(pair);
        })?;
        Ok(not_after)
    }

    /// Takes pairs away that were made for names.
    pub fn remove(&self, names: &[String]) {
        let gone = |pair: &Pair| {
            names
                .iter()
                .any(|name| pair.path.as_os_str() == name.as_str())
        };
        // Fewer pairs cannot be worse than more.
        self.change(|pairs| pairs.retain(|pair| !gone(pair))).ok();
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Pair>)) -> Result<(), TlsError> {
        let _one_at_a_time = self
            .reloading
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = self.current.load_full();
        let mut pairs = before.pairs.clone();
        change(&mut pairs);
        let mut errors = Vec::new();
        self.replace(
            &before,
            pairs,
            before.client_cas.clone(),
            before.stamps.clone(),
            &mut errors,
        );
        errors.pop().map_or(Ok(()), Err)
    }

    /// Whether certificates are made on demand.
    #[must_use]
    pub fn is_on_demand(&self) -> bool {
        self.on_demand.is_some()
    }

    /// Sees to it that there is a certificate for this name (in lower case), if that is possible:
    /// requests one and waits.
    pub async fn provide(&self, name: &str) {
        let Some(on_demand) = &self.on_demand else {
            return;
        };
        if find(&self.current.load().names, name).next().is_some() {
            on_demand
                .used
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(name.to_owned());
            return;
        }
        let (answer, answered) = oneshot::channel();
        // Too many requests wait already: this one is refused, as if there were no certificate.
        if on_demand
            .demands
            .try_send((name.to_owned(), answer))
            .is_ok()
        {
            answered.await.ok();
        }
    }

    /// Names that have a certificate and that clients named since the last call.
    #[must_use]
    pub fn take_used(&self) -> HashSet<String> {
        let Some(on_demand) = &self.on_demand else {
            return HashSet::new();
        };
        std::mem::take(
            &mut *on_demand
                .used
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// The word of its source in the configuration.
    #[must_use]
    pub fn source_kind(&self) -> &'static str {
        self.config.source.as_str()
    }

    /// Whether this is the store of `config`.
    #[must_use]
    pub fn is_of(&self, config: &CertificateConfig) -> bool {
        self.config == *config
    }

    /// The settings for the next handshake.
    ///
    /// # Errors
    /// Limits that leave nothing to choose; not for limits with which this has succeeded before.
    /// And nothing to show, because a remote source has not responded yet.
    pub fn server_config(&self, used: &ServerUse) -> Result<Arc<ServerConfig>, TlsError> {
        let current = self.current.load();
        current.readiness(&self.config)?;
        if self.is_by_name() && !used.strict {
            // The first one that was made is not a default for clients without a name.
            return current.config(&ServerUse {
                strict: true,
                ..used.clone()
            });
        }
        current.config(used)
    }

    /// Whether each certificate is for the name that it was made for, and for no other client.
    fn is_by_name(&self) -> bool {
        self.on_demand.is_some() || matches!(self.config.source, CertificateSource::Acme(_))
    }

    /// The settings of a handshake where the clients' CAs are not those of this source. They are
    /// made anew for each one, and no session outlives it: with a ticket the check of a certificate
    /// could be skipped that others had made.
    ///
    /// # Errors
    /// As for [`CertStore::server_config`]; and no CA of clients is known, so that no client is let
    /// in.
    pub fn server_config_for(
        &self,
        used: &ServerUse,
        clients: &Clients,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let verifier = clients
            .verifier()
            .ok_or(TlsError::NotLoaded("client CAs"))?;
        let current = self.current.load();
        if current.pairs.is_empty() {
            return Err(TlsError::NotLoaded("certificates"));
        }
        let used = &ServerUse {
            strict: used.strict || self.is_by_name(),
            ..used.clone()
        };
        server_config(Some(verifier), current.resolver(used), None, used)
    }

    /// Whether there is what handshakes need.
    #[must_use]
    pub fn is_loaded(&self) -> bool {
        self.current.load().readiness(&self.config).is_ok()
    }

    /// Why no handshake can succeed until files are mended. What is still to come from a remote
    /// source is not a problem.
    #[must_use]
    pub fn problem(&self) -> Option<TlsError> {
        let current = self.current.load();
        if self.config.client_ca_file.is_some() && current.client_cas.is_none() {
            return Some(TlsError::Unusable("client CAs"));
        }
        let lacks_pairs = current.pairs.is_empty() && !self.config.source.is_remote();
        lacks_pairs.then_some(TlsError::Unusable("certificates"))
    }

    /// The pairs in use; the first is the default.
    #[must_use]
    pub fn pairs(&self) -> Vec<Pair> {
        self.current.load().pairs.clone()
    }

    /// The first certificate and its key: what is shown to instances.
    #[must_use]
    pub fn first_key(&self) -> Option<Arc<CertifiedKey>> {
        let current = self.current.load();
        current.pairs.first().map(|pair| Arc::clone(&pair.key))
    }

    /// A number for the first certificate: another one for another certificate.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.current.load().fingerprint
    }

    /// File and end (unix time, s) of each certificate in use, for the metric.
    #[must_use]
    pub fn expiries(&self) -> Vec<(String, i64)> {
        let current = self.current.load();
        current
            .pairs
            .iter()
            .map(|pair| (pair.path.display().to_string(), pair.not_after))
            .collect()
    }

    /// Whether a file came, went, or has another size or time than when it was last read. For
    /// polling.
    #[must_use]
    pub fn changed(&self) -> bool {
        stamps_of(&self.config) != self.current.load().stamps
    }
}

/// Files, and the directory if there is one, to watch for changes.
#[must_use]
pub fn paths(config: &CertificateConfig) -> Vec<PathBuf> {
    let mut paths = match &config.source {
        CertificateSource::File {
            cert_file,
            key_file,
        } => vec![cert_file.clone(), key_file.clone()],
        CertificateSource::Path { path } => vec![path.clone()],
        _ => Vec::new(),
    };
    paths.extend(config.client_ca_file.clone());
    paths
}

impl Current {
    fn new(
        config: &CertificateConfig,
        pairs: Vec<Pair>,
        client_cas: Option<Arc<ClientCas>>,
        tickets: Option<Arc<dyn ProducesTickets>>,
        stamps: Stamps,
    ) -> Result<Self, TlsError> {
        let tickets = match tickets {
            Some(tickets) => tickets,
            None => aws_lc_rs::Ticketer::new()?,
        };
        let verifier = client_cas
            .as_ref()
            .map(|cas| cas.verifier(config.is_client_auth_optional()))
            .transpose()?;
        let names = Arc::new(by_name(&pairs));
        let fingerprint = fingerprint(&pairs);
        let current = Self {
            pairs,
            client_cas,
            tickets,
            verifier,
            names,
            configs: ArcSwap::default(),
            stamps,
            fingerprint,
        };
        // What cannot be used at all is found out now.
        current.config(&ServerUse::default())?;
        Ok(current)
    }

    /// Whether there is what handshakes need. Without it no client is let in: not to meet a server
    /// without certificate, and not without a request for the client's.
    fn readiness(&self, config: &CertificateConfig) -> Result<(), TlsError> {
        if self.client_cas.is_none()
            && (config.source.has_client_cas() || config.client_ca_file.is_some())
        {
            return Err(TlsError::NotLoaded("client CAs"));
        }
        let on_demand = matches!(config.source, CertificateSource::VaultPki { .. });
        if self.pairs.is_empty() && !on_demand {
            return Err(TlsError::NotLoaded("certificates"));
        }
        Ok(())
    }

    fn config(&self, used: &ServerUse) -> Result<Arc<ServerConfig>, TlsError> {
        if let Some((_, config)) = self.configs.load().iter().find(|(known, _)| known == used) {
            return Ok(Arc::clone(config));
        }
        let config = server_config(
            self.verifier.clone(),
            self.resolver(used),
            Some(Arc::clone(&self.tickets)),
            used,
        )?;
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

    fn resolver(&self, used: &ServerUse) -> Arc<Resolver> {
        let defaults = if used.strict {
            Defaults::default()
        } else {
            Defaults::of(&self.pairs)
        };
        Arc::new(Resolver {
            names: Arc::clone(&self.names),
            defaults,
        })
    }
}

/// The same for the same certificate, whenever it was read.
fn fingerprint(pairs: &[Pair]) -> u64 {
    let chain = pairs.first().map(|pair| &pair.key.cert);
    foldhash::quality::FixedState::default().hash_one(chain.map(|chain| {
        let chain = chain
            .iter()
            .map(|certificate| certificate.as_ref().to_vec());
        chain.collect::<Vec<_>>()
    }))
}

fn server_config(
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    resolver: Arc<Resolver>,
    tickets: Option<Arc<dyn ProducesTickets>>,
    used: &ServerUse,
) -> Result<Arc<ServerConfig>, TlsError> {
    let limits = &used.limits;
    let mut provider = aws_lc_rs::default_provider();
    if !limits.ciphers.is_empty() {
        provider
            .cipher_suites
            .retain(|suite| limits.ciphers.contains(&suite.suite().into()));
    }
    let served = [
        (TlsVersion::V1_3, &rustls::version::TLS13),
        (TlsVersion::V1_2, &rustls::version::TLS12),
    ];
    let versions: Vec<_> = served
        .iter()
        .filter(|(version, _)| (limits.min..=limits.max).contains(version))
        .map(|(_, it)| *it)
        .collect();
    // The suites say which kinds of keys a client takes: those of a version that is not served must
    // not count.
    provider
        .cipher_suites
        .retain(|suite| versions.contains(&suite.version()));
    let builder = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&versions)?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(resolver);
    if used.http {
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    if let Some(tickets) = tickets {
        config.ticketer = tickets;
    }
    config.max_fragment_size = Some(RECORD_BYTES);
    // Early data can be replayed, and a proxy cannot know what a replay would do.
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// The client CAs of the configured files, or those of `before` where none of them can be used.
fn client_cas_or(
    config: &CertificateConfig,
    before: Option<&Arc<ClientCas>>,
    problems: &mut Problems,
) -> Option<Arc<ClientCas>> {
    let path = config.client_ca_file.as_ref()?;
    match ClientCas::read(path, config.client_ca_upgrade_cn.as_deref(), problems) {
        Ok(cas) => Some(Arc::new(cas)),
        Err(error) => {
            problems.errors.push(error);
            before.cloned()
        }
    }
}

/// Every pair of the source, the previous form of those that are bad now.
fn read_pairs(
    source: &CertificateSource,
    texts: Texts<'_>,
    before: &[Pair],
    problems: &mut Problems,
) -> Vec<Pair> {
    let listed = match pairs::list(source, texts, &mut problems.errors) {
        Ok(listed) => listed,
        Err(error) => {
            problems.errors.push(error);
            return before.to_vec();
        }
    };
    let (provider, now) = (provider(), unix_now());
    let mut good = Vec::with_capacity(listed.len());
    for files in &listed {
        match pairs::load(files, texts, &provider) {
            Ok(pair) => {
                let reason = pair
                    .key
                    .cert
                    .first()
                    .and_then(|leaf| bundle::validity(leaf, now));
                let out_of_date = |reason| TlsError::OutOfDate {
                    path: pair.path.clone(),
                    reason,
                };
                problems.out_of_date.extend(reason.map(out_of_date));
                good.push(pair);
            }
            Err(error) => {
                problems.errors.push(error);
                good.extend(before.iter().find(|pair| pair.path == files.cert).cloned());
            }
        }
    }
    good
}

fn stamps_of(config: &CertificateConfig) -> Stamps {
    let mut files: Vec<PathBuf> = match pairs::list(&config.source, Texts::Files, &mut Vec::new()) {
        Ok(listed) => listed
            .into_iter()
            .flat_map(|files| [files.cert, files.key])
            .collect(),
        Err(_) => Vec::new(),
    };
    files.extend(config.client_ca_file.clone());
    let stamp = |path: &PathBuf| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    files
        .into_iter()
        .map(|path| (path.clone(), stamp(&path)))
        .collect()
}

fn by_name(pairs: &[Pair]) -> Names {
    let mut names = Names::new();
    for pair in pairs {
        for name in &pair.names {
            names
                .entry(name.clone())
                .or_default()
                .push(Choice::of(pair));
        }
    }
    names
}

/// Picks the certificate for a client: see [`crate::proxy::tls::choice`].
#[derive(Debug)]
struct Resolver {
    names: Arc<Names>,
    defaults: Defaults,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let takes = |key: &CertifiedKey| key.key.choose_scheme(hello.signature_schemes()).is_some();
        let (name, now) = (hello.server_name(), unix_now());
        pick(&self.names, name, &takes, now).or_else(|| self.defaults.pick(&takes, now))
    }
}

#[cfg(test)]
mod tests;
