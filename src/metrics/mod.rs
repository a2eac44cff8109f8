//! Counters of the data path and of the control loop.
//!
//! Handles are plain atomics behind an `Arc`, resolved once per service or listener (never per
//! request), so that the request path pays one relaxed increment per event. What changes rarely
//! (ages, errors, table sizes) sits in one locked struct, [`Control`], that no worker ever touches.
//! [`collectors`] read all of it for Prometheus, under the names of `names`, at each scrape.
//! What else counts the same traffic in a way of its own is an [`observer`].

pub mod build_info;
pub(crate) mod collector;
pub mod collectors;
pub(crate) mod exposition;
pub(crate) mod family;
pub(crate) mod freshness;
pub(crate) mod names;
pub mod observer;
pub(crate) mod outcomes;
pub(crate) mod process;
pub mod service;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use observer::TrafficObserver;
use outcomes::Outcomes;
use prometheus::Registry;

use crate::journal::Journal;

pub use service::ServiceMetrics;

/// All metric handles of the process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    services: Arc<Mutex<HashMap<Arc<str>, Arc<ServiceMetrics>>>>,
    listeners: Arc<Mutex<BTreeMap<String, Arc<ListenerMetrics>>>>,
    control: Arc<Mutex<Control>>,
    access_log_dropped: Arc<AtomicU64>,
    log_dropped: Arc<AtomicU64>,
    unrouted: Arc<Outcomes>,
    observer: Option<Arc<dyn TrafficObserver>>,
    scrape_page: Arc<ScrapePage>,
    journal: Journal,
}

/// What listeners with `protocol = "prometheus"` show.
#[derive(Debug, Default)]
pub struct ScrapePage {
    /// Where, if that was configured. The admin listener shows its metrics there too.
    pub path: Option<String>,
    /// What is there.
    pub registry: Registry,
}

/// Counters of one listener.
#[derive(Debug, Default)]
pub struct ListenerMetrics {
    /// Requests or connections that met no route.
    pub no_route: AtomicU64,
    /// Connections ended by the proxy because of the client, in the order of [`ClientFault`].
    pub client_faults: [AtomicU64; CLIENT_FAULTS.len()],
}

/// What a client did that ended its connection, or a stream of it, before there was a request to
/// count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientFault {
    /// Bytes that are not a request, or one that could be read in two ways.
    Malformed,
    /// A request's head or body that did not come to its end in time.
    TooSlow,
    /// A TLS handshake that failed, or was not finished.
    Tls,
    /// A malformed PROXY header, or one that stopped halfway.
    ProxyHeader,
    /// A stream beyond those that an HTTP/2 connection may have at the same time.
    TooManyStreams,
}

/// Labels of [`ClientFault`], in its order.
pub const CLIENT_FAULTS: [&str; 5] = [
    "malformed",
    "too_slow",
    "tls",
    "proxy_header",
    "too_many_streams",
];

impl ListenerMetrics {
    /// Counts one connection that ended so.
    pub fn record_client_fault(&self, fault: ClientFault) {
        self.client_faults[fault as usize].fetch_add(1, Relaxed);
    }
}

/// Figures written by the control thread only.
#[derive(Debug, Default)]
pub struct Control {
    /// Unix time (s) of the last good response, by service; the list watch itself counts as the
    /// empty name.
    pub registry_success: BTreeMap<Arc<str>, f64>,
    /// Errors of sources by kind (`connect`, `timeout`, `status`, `decode`, `token`, …).
    pub registry_errors: BTreeMap<&'static str, u64>,
    /// Tags that were rejected and are still registered, by service.
    pub rejected_tags: BTreeMap<Arc<str>, u64>,
    /// Tables built.
    pub table_builds: u64,
    /// Time spent building them, in seconds.
    pub table_build_seconds: f64,
    /// Routes in the present table.
    pub table_routes: u64,
    /// From the first sign of a change to the table that has it.
    pub change_to_traffic: freshness::ChangeTimes,
    /// Instances by service and state (`healthy`, `held`, `excluded`, `ejected`).
    pub table_targets: BTreeMap<(Arc<str>, &'static str), u64>,
    /// Traffic may be sent here.
    pub ready: bool,
    /// The process is about to end.
    pub draining: bool,
    /// What a reload could not take over.
    pub reload_errors: ReloadErrors,
    /// Certificates, keys and CAs that cannot be used or are outside their validity period, by
    /// where they come from.
    pub certificate_errors: BTreeMap<String, u64>,
    /// When the keys for tokens were read the last time (unix time, s), and how often they could
    /// not be, by scheme of `[auth.NAME]`.
    pub auth_keys: BTreeMap<String, (Option<u64>, u64)>,
    /// Whether another process listens on the same address, by listener; the admin listener is one
    /// of them.
    pub listener_shared: BTreeMap<String, bool>,
    /// How many lb share the limits, as Consul says; none: they are not shared, or it is not known
    /// yet.
    pub fleet_size: Option<u32>,
    /// Whether all that `[consul.register]` wants registered is; none: it wants nothing.
    pub registered: Option<bool>,
    /// Orders at an ACME server by their result (`issued`, `failed`); empty: none are made.
    pub acme_orders: BTreeMap<&'static str, u64>,
    /// What kept certificates from being ordered, by kind.
    pub acme_failures: BTreeMap<&'static str, u64>,
    /// End of certificates (unix time, s) by source and name.
    pub certificate_expiry: BTreeMap<(String, String), f64>,
}

/// Reloads, or parts of one, that left the old state in force.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReloadErrors {
    /// Whole configurations.
    pub config: u64,
    /// Certificates, keys and client CAs.
    pub certificates: u64,
}

impl Metrics {
    /// With something that counts the traffic a second time.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn TrafficObserver>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// What counts the traffic a second time, where that is wanted.
    #[must_use]
    pub fn observer(&self) -> Option<&Arc<dyn TrafficObserver>> {
        self.observer.as_ref()
    }

    /// With a page for listeners of Prometheus.
    #[must_use]
    pub fn with_scrape_page(mut self, page: ScrapePage) -> Self {
        self.scrape_page = Arc::new(page);
        self
    }

    /// The page for listeners of Prometheus.
    #[must_use]
    pub fn scrape_page(&self) -> &Arc<ScrapePage> {
        &self.scrape_page
    }

    /// What happened, and how fresh the knowledge is: kept beside the counters, because code that
    /// needs one needs the other.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The handle of one service, made at first use.
    #[must_use]
    pub fn service(&self, name: &Arc<str>) -> Arc<ServiceMetrics> {
        let mut services = lock(&self.services);
        Arc::clone(
            services
                .entry(Arc::clone(name))
                .or_insert_with(|| Arc::new(ServiceMetrics::new(Arc::clone(name)))),
        )
    }

    /// The handle of one listener, made at first use.
    #[must_use]
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        Arc::clone(lock(&self.listeners).entry(name.to_owned()).or_default())
    }

    /// Removes the series of a listener that is gone.
    pub fn remove_listener(&self, name: &str) {
        lock(&self.listeners).remove(name);
    }

    /// Handles of all services, by name.
    #[must_use]
    pub fn services(&self) -> Vec<Arc<ServiceMetrics>> {
        let mut all: Vec<_> = lock(&self.services).values().cloned().collect();
        all.sort_by(|a, b| a.name().cmp(b.name()));
        all
    }

    /// The handle of a service, if it has one; never makes it.
    #[must_use]
    pub fn existing_service(&self, name: &str) -> Option<Arc<ServiceMetrics>> {
        lock(&self.services).get(name).cloned()
    }

    /// Handles of all listeners, by name.
    #[must_use]
    pub fn listeners(&self) -> Vec<(String, Arc<ListenerMetrics>)> {
        lock(&self.listeners)
            .iter()
            .map(|(name, handle)| (name.clone(), Arc::clone(handle)))
            .collect()
    }

    /// What became of requests that belong to no service.
    #[must_use]
    pub fn unrouted(&self) -> &Outcomes {
        &self.unrouted
    }

    /// Access log lines that were dropped because the queue was full.
    #[must_use]
    pub fn access_log_dropped(&self) -> &Arc<AtomicU64> {
        &self.access_log_dropped
    }

    /// Lines of the program's log that were dropped because standard error did not take them.
    #[must_use]
    pub fn log_dropped(&self) -> &Arc<AtomicU64> {
        &self.log_dropped
    }

    /// Has the log, which begins before there are metrics, count in `dropped`.
    #[must_use]
    pub fn with_log_dropped(mut self, dropped: &Arc<AtomicU64>) -> Self {
        self.log_dropped = Arc::clone(dropped);
        self
    }

    /// The control thread's figures, locked.
    pub fn control(&self) -> MutexGuard<'_, Control> {
        lock(&self.control)
    }

    /// Removes the series of a service that vanished. Call after the table without it is live, else
    /// a request on its way would bring them back.
    pub fn remove_service(&self, name: &str) {
        lock(&self.services).remove(name);
        if let Some(observer) = &self.observer {
            observer.remove_service(name);
        }
        let mut control = self.control();
        control.registry_success.remove(name);
        control.rejected_tags.remove(name);
        control
            .table_targets
            .retain(|(service, _), _| &**service != name);
    }
}

/// A panic while a counter was written leaves a usable counter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
