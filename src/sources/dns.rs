//! DNS queries and their responses.
//!
//! [`Resolve`] is the seam: the stage in `resolve` decides when to query and what to believe, this
//! file only queries. Responses are in canonical order, so that two of them can be compared.

pub mod system;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{MAX_TTL, TokioResolver};
use tokio::sync::{Mutex, MutexGuard};

use self::system::{Files, Hosts, ResolvConf, Watched};
use crate::config::DnsConfig;

/// Tries of one question over all servers.
const ATTEMPTS: usize = 2;

/// Most SRV records of one response that are followed.
const SRV_RECORDS_MAX: usize = 4096;

/// Most targets of one SRV response that are looked up at a time.
const SRV_LOOKUPS_MAX: usize = 16;

/// What is looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Question {
    /// The name.
    pub name: Arc<str>,
    /// Whether its SRV records are wanted, or its addresses.
    pub srv: bool,
}

/// One address behind a name. Ordered by target, address, port, weight.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Name whose address this is: the one looked up, or the target of an SRV record.
    pub target: Arc<str>,
    /// The address.
    pub addr: IpAddr,
    /// Port of the SRV record; 0 for plain addresses.
    pub port: u16,
    /// Weight of the SRV record; 0 for plain addresses.
    pub weight: u16,
}

/// A good response: at least one address, or at least one target that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsResponse {
    /// Addresses, sorted, without repetition.
    pub found: Vec<Found>,
    /// Targets of SRV records whose addresses could not be looked up now.
    pub failed_targets: Vec<Arc<str>>,
    /// How long the response may be used: the least of all records.
    pub ttl: Duration,
}

/// Why there is no response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The servers say that there is no such name, or none with records of this kind.
    #[error("no such name")]
    Absent,
    /// No server could say: timeout, refusal, failure.
    #[error("{0}")]
    Failed(String),
}

/// A resolver of questions.
pub trait Resolve: Send + Sync + 'static {
    /// Looks up, within bounded time.
    fn resolve(
        &self,
        question: &Question,
    ) -> impl Future<Output = Result<DnsResponse, ResolveError>> + Send;

    /// A number that changes when what responses depend on (the system's files) has changed: every
    /// response may be another one then.
    fn generation(&self) -> impl Future<Output = u64> + Send {
        std::future::ready(0)
    }
}

/// Names as the system's own resolver finds them (`hosts` before DNS, as nsswitch's `files dns`),
/// DNS through hickory-resolver.
///
/// Its cache is off, because the stage keeps responses for their TTL and must see a confirmation as
/// a new response. IPv6 addresses are looked up only when a name has no IPv4 ones: with both, each
/// dual-stack host would count twice.
pub struct Dns {
    config: DnsConfig,
    port: u16,
    sources: Mutex<Sources>,
}

/// The system's files, and what was made of them.
struct Sources {
    hosts: Watched,
    resolv_conf: Watched,
    generation: u64,
    present: Arc<Present>,
}

/// What questions are resolved with.
struct Present {
    hosts: Hosts,
    resolv_conf: ResolvConf,
    /// Or why there are no servers: without names in use none are needed.
    resolver: Result<TokioResolver, String>,
}

impl Dns {
    /// A resolver for the servers of `config`, or the system's.
    #[must_use]
    pub fn new(config: &DnsConfig) -> Self {
        Self::with_files(config, &Files::default())
    }

    /// The same, with the system's files elsewhere.
    #[must_use]
    pub fn with_files(config: &DnsConfig, files: &Files) -> Self {
        let present = Present {
            hosts: Hosts::default(),
            resolv_conf: ResolvConf::default(),
            resolver: match config.servers.is_empty() {
                true => Err(no_servers(&format!(
                    "{} was not read",
                    files.resolv_conf.display()
                ))),
                false => resolver(config, servers(config)),
            },
        };
        let sources = Sources {
            hosts: Watched::new(&files.hosts),
            resolv_conf: Watched::new(&files.resolv_conf),
            generation: 0,
            present: Arc::new(present),
        };
        Self {
            config: config.clone(),
            port: files.port,
            sources: Mutex::new(sources),
        }
    }

    /// What holds now.
    async fn present(&self) -> Arc<Present> {
        Arc::clone(&self.look().await.present)
    }

    /// Looks at the files, and takes over what changed.
    async fn look(&self) -> MutexGuard<'_, Sources> {
        let mut sources = self.sources.lock().await;
        let Sources {
            hosts,
            resolv_conf,
            generation,
            present,
        } = &mut *sources;
        if let Some(text) = hosts.look(true).await {
            let (
                hosts,
                Present {
                    resolv_conf,
                    resolver,
                    ..
                },
            ) = (Hosts::parse(text), &**present);
            *present = Arc::new(Present {
                hosts,
                resolv_conf: resolv_conf.clone(),
                resolver: resolver.clone(),
            });
            *generation += 1;
        }
        // With servers of its own lb has nothing to learn from that file: its search list belongs
        // to its servers.
        if !self.config.servers.is_empty() {
            return sources;
        }
        let path = resolv_conf.path().display().to_string();
        match resolv_conf.look(false).await.map(ResolvConf::parse) {
            Some(Ok(resolv_conf)) => {
                let resolver = resolver(&self.config, resolv_conf.to_config(self.port));
                *present = Arc::new(Present {
                    hosts: present.hosts.clone(),
                    resolv_conf,
                    resolver,
                });
                *generation += 1;
            }
            Some(Err(reason)) if present.resolver.is_ok() => {
                tracing::warn!(
                    path,
                    reason,
                    "names no servers; those it named before stay in use"
                );
            }
            Some(Err(reason)) => *present = present.without_servers(&format!("{path}: {reason}")),
            None => {
                if let (Err(_), Some(reason)) = (&present.resolver, resolv_conf.trouble()) {
                    *present = present.without_servers(&format!("{path}: {reason}"));
                }
            }
        }
        sources
    }
}

impl Present {
    fn without_servers(&self, reason: &str) -> Arc<Self> {
        let resolver = Err(no_servers(reason));
        Arc::new(Self {
            hosts: self.hosts.clone(),
            resolv_conf: self.resolv_conf.clone(),
            resolver,
        })
    }

    /// Records of the first of the names that `name` can mean which has some.
    async fn lookup(&self, name: &str, kinds: &[RecordType]) -> Result<Lookup, ResolveError> {
        let resolver = self
            .resolver
            .as_ref()
            .map_err(|reason| ResolveError::Failed(reason.clone()))?;
        let mut failed = None;
        for candidate in self.resolv_conf.candidates(name) {
            for &kind in kinds {
                match resolver
                    .lookup(candidate.as_str(), kind)
                    .await
                    .map_err(|error| classify(&error))
                {
                    Ok(lookup)
                        if lookup
                            .answers()
                            .iter()
                            .any(|record| record.record_type() == kind) =>
                    {
                        return Ok(lookup);
                    }
                    Ok(_) | Err(ResolveError::Absent) => {}
                    // Another server's trouble does not hide a name that is known elsewhere.
                    Err(error) => {
                        failed.get_or_insert(error);
                        break;
                    }
                }
            }
        }
        Err(failed.unwrap_or(ResolveError::Absent))
    }

    /// Addresses of a name with the TTL (s) that they share.
    async fn addresses(&self, name: &str) -> Result<(Vec<IpAddr>, u32), ResolveError> {
        let own = self.hosts.addresses(name);
        if !own.is_empty() {
            // Until the file changes.
            return Ok((own, MAX_TTL));
        }
        let lookup = self
            .lookup(name, &[RecordType::A, RecordType::AAAA])
            .await?;
        let addrs = lookup
            .answers()
            .iter()
            .filter_map(|record| record.data.ip_addr())
            .collect();
        Ok((addrs, least_ttl(&lookup)))
    }

    async fn services(&self, name: &str) -> Result<DnsResponse, ResolveError> {
        let lookup = self.lookup(name, &[RecordType::SRV]).await?;
        let records = lookup
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) if !srv.target.is_root() => Some(srv),
                // A target of `.` says that the service is decidedly not offered (RFC 2782).
                _ => None,
            });
        let records: Vec<_> = records.take(SRV_RECORDS_MAX).collect();
        let first = records
            .iter()
            .map(|srv| srv.priority)
            .min()
            .ok_or(ResolveError::Absent)?;
        let chosen: Vec<_> = records
            .into_iter()
            .filter(|srv| srv.priority == first)
            .collect();
        // Each target once, several at a time.
        let targets: BTreeSet<Name> = chosen.iter().map(|srv| srv.target.clone()).collect();
        let response = &lookup;
        let lookups = targets.into_iter().map(|target| async move {
            let along = additional(response, &target);
            let addrs = if along.is_empty() {
                self.addresses(&target.to_string()).await
            } else {
                Ok((along, MAX_TTL))
            };
            (target, addrs)
        });
        let addresses: BTreeMap<_, _> = stream::iter(lookups)
            .buffer_unordered(SRV_LOOKUPS_MAX)
            .collect()
            .await;
        let (mut found, mut failed_targets) = (Vec::new(), Vec::new());
        let mut ttl = least_ttl(&lookup);
        for srv in chosen {
            let target: Arc<str> = srv.target.to_string().into();
            match addresses.get(&srv.target) {
                Some(Ok((addrs, own_ttl))) => {
                    ttl = ttl.min(*own_ttl);
                    let at = |&addr| Found {
                        target: Arc::clone(&target),
                        addr,
                        port: srv.port,
                        weight: srv.weight,
                    };
                    found.extend(addrs.iter().map(at));
                }
                Some(Err(ResolveError::Failed(_))) => failed_targets.push(target),
                Some(Err(ResolveError::Absent)) | None => {}
            }
        }
        canonical(found, failed_targets, ttl)
    }
}

impl Resolve for Dns {
    async fn resolve(&self, question: &Question) -> Result<DnsResponse, ResolveError> {
        let present = self.present().await;
        if question.srv {
            return present.services(&question.name).await;
        }
        let (addrs, ttl) = present.addresses(&question.name).await?;
        let at = |addr| Found {
            target: Arc::clone(&question.name),
            addr,
            port: 0,
            weight: 0,
        };
        canonical(addrs.into_iter().map(at).collect(), Vec::new(), ttl)
    }

    async fn generation(&self) -> u64 {
        self.look().await.generation
    }
}

fn no_servers(reason: &str) -> String {
    format!("no DNS servers are known: {reason}; name some in [dns] servers")
}

fn servers(config: &DnsConfig) -> ResolverConfig {
    let servers = config.servers.iter().map(|server| {
        let connections =
            [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
        NameServerConfig::new(server.ip(), true, connections.into())
    });
    ResolverConfig::from_parts(None, Vec::new(), servers.collect())
}

fn resolver(config: &DnsConfig, servers: ResolverConfig) -> Result<TokioResolver, String> {
    let mut builder = TokioResolver::builder_with_config(servers, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.timeout = config.timeout;
    options.attempts = ATTEMPTS;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    builder
        .build()
        .map_err(|error| no_servers(&error.to_string()))
}

fn canonical(
    mut found: Vec<Found>,
    failed_targets: Vec<Arc<str>>,
    ttl: u32,
) -> Result<DnsResponse, ResolveError> {
    if found.is_empty() {
        let Some(target) = failed_targets.first() else {
            return Err(ResolveError::Absent);
        };
        return Err(ResolveError::Failed(format!(
            "no address of SRV target {target}"
        )));
    }
    found.sort();
    found.dedup();
    Ok(DnsResponse {
        found,
        failed_targets,
        ttl: Duration::from_secs(ttl.into()),
    })
}

/// Addresses that came along with an SRV response; Consul sends them for targets that are not names
/// otherwise.
fn additional(lookup: &Lookup, target: &Name) -> Vec<IpAddr> {
    let own = lookup
        .additionals()
        .iter()
        .filter(|record| record.name == *target);
    own.filter_map(|record| record.data.ip_addr()).collect()
}

fn least_ttl(lookup: &Lookup) -> u32 {
    lookup
        .answers()
        .iter()
        .map(|record| record.ttl)
        .min()
        .unwrap_or(0)
}

/// Only two responses say that a name is absent; everything else says that no server could be
/// reached.
fn classify(error: &NetError) -> ResolveError {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none))
            if matches!(
                none.response_code,
                ResponseCode::NXDomain | ResponseCode::NoError
            ) =>
        {
            ResolveError::Absent
        }
        other => ResolveError::Failed(other.to_string()),
    }
}
