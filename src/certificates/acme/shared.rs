//! What the tasks of one source share, on their one thread.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;

use super::challenge::Answers;
use super::failure::Failure;
use super::names::{Names, Verdict, host_of};
use super::port::Port;
use super::record::{OrderRecord, Seal, Stored};
use super::schedule;
use super::store::{Store, Texts};
use super::view::View;
use crate::certificates::error::SourceError;
use crate::certificates::source::{CertificateSink, FetchedCertificates};
use crate::config::AcmeConfig;
use crate::system::unix_now;

pub(super) struct Shared {
    pub(super) config: AcmeConfig,
    pub(super) seal: Seal,
    pub(super) store: Store,
    pub(super) view: RefCell<View>,
    /// Something came in that may make something due.
    pub(super) changed: Notify,
    port: Arc<dyn Port>,
    sink: Arc<dyn CertificateSink>,
    names: Names,
    hosts: RefCell<Hosts>,
    answers: RefCell<Answers>,
    /// What failed here and is not in the store: reason, and when it is tried again.
    troubles: RefCell<BTreeMap<String, (String, i64)>>,
    trouble: RefCell<Option<(String, i64)>>,
    told: RefCell<Option<FetchedCertificates>>,
}

/// Hosts of routes, sorted out.
#[derive(Default)]
struct Hosts {
    of: Option<Arc<BTreeSet<String>>>,
    wanted: Rc<BTreeSet<String>>,
    refused: Rc<BTreeSet<String>>,
}

impl Shared {
    pub(super) fn new(
        config: AcmeConfig,
        seal: Seal,
        store: Store,
        port: Arc<dyn Port>,
        sink: Arc<dyn CertificateSink>,
    ) -> Self {
        let takes_wildcards = config.dns_hook.is_some();
        Self {
            names: Names::new(&config.names, takes_wildcards),
            config,
            seal,
            store,
            view: RefCell::default(),
            changed: Notify::new(),
            port,
            sink,
            hosts: RefCell::default(),
            answers: RefCell::default(),
            troubles: RefCell::default(),
            trouble: RefCell::default(),
            told: RefCell::default(),
        }
    }

    /// Hosts of routes that get a certificate.
    pub(super) fn wanted(&self) -> Rc<BTreeSet<String>> {
        let hosts = self.port.hosts();
        let mut known = self.hosts.borrow_mut();
        if !known.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, &hosts)) {
            let (mut wanted, mut refused) = (BTreeSet::new(), BTreeSet::new());
            for host in hosts.iter().filter_map(|host| host_of(host)) {
                match self.names.verdict(&host) {
                    Verdict::Wanted => wanted.insert(host),
                    Verdict::Wildcard => refused.insert(host),
                    Verdict::NotNamed => false,
                };
            }
            for host in refused.difference(&known.refused) {
                tracing::warn!(
                    host,
                    "no certificate is ordered: a wildcard needs challenge = \"dns-01\""
                );
            }
            *known = Hosts {
                of: Some(hosts),
                wanted: Rc::new(wanted),
                refused: Rc::new(refused),
            };
        }
        Rc::clone(&known.wanted)
    }

    pub(super) fn renew_at(&self, stored: &Stored, suggested: Option<i64>, jitter: f64) -> i64 {
        let before = i64::try_from(self.config.renew_before.as_secs()).unwrap_or(i64::MAX);
        schedule::renew_at(stored.validity, before, suggested, jitter)
    }

    /// Whether its renewal is not due yet by its own time.
    pub(super) fn is_fresh(&self, stored: &Stored) -> bool {
        self.renew_at(stored, None, 0.0) > unix_now()
    }

    /// Takes what the shelf of certificates holds.
    pub(super) fn take_certificates(&self, texts: &Texts) {
        self.view.borrow_mut().take_certificates(texts, &self.seal);
        self.serve();
    }

    /// Takes one certificate of the store.
    pub(super) fn take_stored(&self, host: &str, text: Bytes) {
        let mut view = self.view.borrow_mut();
        view.take_certificate(host, text, &self.seal);
        drop(view);
        self.serve();
    }

    /// Takes one that was just put into the store.
    pub(super) fn take_issued(&self, host: &str, text: String) {
        self.troubles.borrow_mut().remove(host);
        self.view.borrow_mut().orders.remove(host);
        self.take_stored(host, Bytes::from(text));
        self.port.ordered(true);
        tracing::info!(host, "certificate issued");
        self.show();
    }

    /// Takes what the shelf of orders holds.
    pub(super) fn take_orders(&self, texts: &Texts) {
        self.view.borrow_mut().take_orders(texts);
        self.show();
    }

    pub(super) fn note_order(&self, host: &str, record: &OrderRecord) {
        let mut view = self.view.borrow_mut();
        view.orders.insert(host.to_owned(), record.clone());
        drop(view);
        self.show();
    }

    pub(super) fn take_failure(&self, host: &str, failure: &Failure, retry_at: i64) {
        self.port.failed(failure.kind);
        if failure.kind.ends_the_order() {
            self.port.ordered(false);
            self.troubles.borrow_mut().remove(host);
        } else {
            let trouble = (failure.reason.clone(), retry_at);
            self.troubles.borrow_mut().insert(host.to_owned(), trouble);
        }
        let error = SourceError::Issue {
            name: host.to_owned(),
            reason: failure.reason.clone(),
        };
        self.sink.failed(&error);
        self.tell();
    }

    /// Why the account cannot be used, and when it is tried again; or that it can.
    pub(super) fn account_trouble(&self, trouble: Option<(&Failure, i64)>) {
        if let Some((failure, _)) = trouble {
            self.port.failed(failure.kind);
            self.sink.failed(&SourceError::Acme(failure.reason.clone()));
        }
        let trouble = trouble.map(|(failure, at)| (failure.reason.clone(), at));
        *self.trouble.borrow_mut() = trouble;
        self.tell();
    }

    /// The store, or the lock, cannot be had.
    pub(super) fn store_trouble(&self, failure: &Failure) {
        self.port.failed(failure.kind);
        self.sink.failed(&SourceError::Acme(failure.reason.clone()));
    }

    /// Puts certificates into force, if they differ from before.
    fn serve(&self) {
        let fetched = FetchedCertificates {
            pairs: Some(self.view.borrow().pems()),
            client_cas: None,
        };
        let mut told = self.told.borrow_mut();
        if told.as_ref() != Some(&fetched) {
            self.sink.take(&fetched);
            *told = Some(fetched);
        }
        drop(told);
        self.changed.notify_one();
        self.tell();
    }

    fn show(&self) {
        let answers = {
            let view = self.view.borrow();
            self.answers.borrow_mut().replace(view.challenges())
        };
        self.port.show(answers);
        self.changed.notify_one();
        self.tell();
    }

    /// Says what there is to say of each name.
    pub(super) fn tell(&self) {
        let wanted = self.wanted();
        let refused = Rc::clone(&self.hosts.borrow().refused);
        let mut states = self
            .view
            .borrow()
            .states(&wanted, &refused, &self.troubles.borrow());
        if let Some((reason, at)) = &*self.trouble.borrow() {
            for state in states.iter_mut().filter(|it| it.state == "waiting") {
                (state.state, state.next_try) = ("failing", Some(*at));
                state.reason = Some(reason.clone());
            }
        }
        self.port.tell(states);
    }
}
