//! What ordering certificates is given by the rest of the process: hosts of the published table, a
//! board for responses to challenges, counters.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::certificates::{AcmeFailure, Answer, Ask, Asks, NameState, Port, Ports};
use crate::config::{AcmeChallenge, CertificateSource, Config};
use crate::metrics::Metrics;
use crate::proxy::challenges::{Board, ChallengeAnswer, Challenges};
use crate::table::{RouteTable, SharedTable};

/// Queries for challenges that wait at a time: clients can request any name.
const ASKS_MAX: usize = 64;

/// The boards and states of all sources that order.
#[derive(Debug)]
pub(super) struct Acme {
    table: SharedTable,
    metrics: Metrics,
    boards: Mutex<BTreeMap<String, (Arc<Board>, Asks)>>,
    states: States,
}

/// What is to be said of names, by source.
#[derive(Clone, Debug, Default)]
pub(super) struct States(Arc<Mutex<BTreeMap<String, Vec<NameState>>>>);

impl States {
    pub(super) fn of(&self, source: &str) -> Vec<NameState> {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.get(source).cloned().unwrap_or_default()
    }
}

impl Acme {
    pub(super) fn new(table: SharedTable, metrics: Metrics) -> Self {
        Self {
            table,
            metrics,
            boards: Mutex::default(),
            states: States::default(),
        }
    }

    pub(super) fn states(&self) -> States {
        self.states.clone()
    }

    /// Of a source that is not there any more.
    pub(super) fn forget(&self, source: &str) {
        let mut states = self.states.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.remove(source);
        drop(states);
        let mut boards = self.boards.lock().unwrap_or_else(PoisonError::into_inner);
        boards.remove(source);
    }

    /// The board of a source, and the questions to it; they stay the same for all reloads.
    fn board(&self, source: &str) -> (Arc<Board>, Asks) {
        let mut boards = self.boards.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || {
            let (sender, receiver) = mpsc::channel::<Ask>(ASKS_MAX);
            let asks = Arc::new(tokio::sync::Mutex::new(receiver));
            (Arc::new(Board::new(sender)), asks)
        };
        boards.entry(source.to_owned()).or_insert_with(made).clone()
    }

    pub(super) fn ports(&self, source: &str) -> Ports {
        let (board, asks) = self.board(source);
        {
            let mut control = self.metrics.control();
            for result in ["issued", "failed"] {
                control.acme_orders.entry(result).or_default();
            }
        }
        let port = AcmePort {
            source: source.to_owned(),
            table: self.table.clone(),
            hosts: Mutex::default(),
            board,
            metrics: self.metrics.clone(),
            states: self.states.clone(),
        };
        Ports {
            port: Arc::new(port),
            asks,
        }
    }

    /// The boards of the sources that prove hosts by a response of ours.
    pub(super) fn challenges(&self, config: &Config) -> Challenges {
        let answers = |source: &CertificateSource| match source {
            CertificateSource::Acme(acme) => acme.challenge != AcmeChallenge::Dns01,
            _ => false,
        };
        let sources = config.certificates.iter();
        sources
            .filter(|(_, it)| answers(&it.source))
            .map(|(name, _)| self.board(name).0)
            .collect()
    }
}

struct AcmePort {
    source: String,
    table: SharedTable,
    hosts: Mutex<Hosts>,
    board: Arc<Board>,
    metrics: Metrics,
    states: States,
}

/// Hosts, and the table that they are of.
#[derive(Default)]
struct Hosts {
    table: Option<Arc<RouteTable>>,
    hosts: Arc<BTreeSet<String>>,
}

impl Port for AcmePort {
    fn hosts(&self) -> Arc<BTreeSet<String>> {
        let table = self.table.load();
        let mut known = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let same = known
            .table
            .as_ref()
            .is_some_and(|it| Arc::ptr_eq(it, &table));
        if !same {
            let hosts = hosts_of(&table);
            if *known.hosts != hosts {
                known.hosts = Arc::new(hosts);
            }
            known.table = Some(table);
        }
        Arc::clone(&known.hosts)
    }

    fn show(&self, answers: Vec<(String, Answer)>) {
        let answer = |answer| match answer {
            Answer::Http { token, body } => ChallengeAnswer::Request { token, body },
            Answer::Tls { certificate, key } => ChallengeAnswer::Handshake { certificate, key },
        };
        let answers = answers.into_iter();
        self.board
            .show(answers.map(|(host, it)| (host, answer(it))).collect());
    }

    fn ordered(&self, issued: bool) {
        let result = if issued { "issued" } else { "failed" };
        *self
            .metrics
            .control()
            .acme_orders
            .entry(result)
            .or_default() += 1;
    }

    fn failed(&self, kind: AcmeFailure) {
        let mut control = self.metrics.control();
        *control.acme_failures.entry(kind.as_str()).or_default() += 1;
    }

    fn tell(&self, names: Vec<NameState>) {
        let mut states = self.states.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.insert(self.source.clone(), names);
    }
}

/// Hosts whose requests are served here; not those whose connections are passed on.
fn hosts_of(table: &RouteTable) -> BTreeSet<String> {
    let routes = table.routes();
    let served = routes
        .iter()
        .filter(|route| !route.tcp && !route.is_passed_through() && !route.key.host.is_empty());
    served.map(|route| route.key.host.clone()).collect()
}
