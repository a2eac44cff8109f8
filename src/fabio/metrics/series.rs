//! What is counted per service and per target of a route. Handles are found when a table is built;
//! a request only follows pointers.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::counter::Counter;
use super::shape::Shape;
use super::timer::Timer;
use crate::metrics::observer::{TargetLabels, TargetObserver};

/// Status codes 100..=599 have a slot each; slot 0 takes everything else.
const CODES: usize = 501;
/// Durations kept between two reports, for one service and for one target.
const SERVICE_SAMPLES_MAX: usize = 512;
const ROUTE_SAMPLES_MAX: usize = 128;

/// Counters of one service.
#[derive(Debug)]
pub(crate) struct ServiceSeries {
    pub name: Arc<str>,
    /// Requests that were forwarded.
    pub requests: Timer,
    by_code: OnceLock<Box<[OnceLock<Box<Timer>>]>>,
}

impl ServiceSeries {
    fn new(shape: &Shape, name: Arc<str>) -> Self {
        let requests = shape.timer(SERVICE_SAMPLES_MAX);
        Self {
            name,
            requests,
            by_code: OnceLock::new(),
        }
    }

    fn record(&self, shape: &Shape, code: Option<u16>, took: Duration) {
        self.requests.record(&shape.bounds, took);
        let Some(code) = code else { return };
        let slot = if (100..600).contains(&code) {
            usize::from(code) - 99
        } else {
            0
        };
        let rows = self
            .by_code
            .get_or_init(|| (0..CODES).map(|_| OnceLock::new()).collect());
        let timer = rows[slot].get_or_init(|| Box::new(shape.timer(SERVICE_SAMPLES_MAX)));
        timer.record(&shape.bounds, took);
    }

    /// Every code of a response, with its durations.
    pub(crate) fn codes(&self) -> impl Iterator<Item = (String, &Timer)> {
        let rows = self
            .by_code
            .get()
            .into_iter()
            .flat_map(|rows| rows.iter())
            .enumerate();
        rows.filter_map(|(slot, timer)| {
            let code = if slot == 0 {
                "other".to_owned()
            } else {
                (slot + 99).to_string()
            };
            Some((code, timer.get()?.as_ref()))
        })
    }
}

/// Counters of one target of one route.
#[derive(Debug)]
pub(crate) struct RouteSeries {
    pub labels: TargetLabels,
    /// Requests, calls.
    pub requests: Timer,
    /// Bytes of TCP connections to the client.
    pub rx: Counter,
    /// Bytes of TCP connections from the client.
    pub tx: Counter,
    service: Arc<ServiceSeries>,
    shape: Arc<Shape>,
}

impl TargetObserver for RouteSeries {
    fn request(&self, code: Option<u16>, took: Duration) {
        self.requests.record(&self.shape.bounds, took);
        self.service.record(&self.shape, code, took);
    }

    fn call(&self, took: Duration) {
        self.requests.record(&self.shape.bounds, took);
    }

    fn bytes(&self, from_client: u64, to_client: u64) {
        self.tx.add(from_client);
        self.rx.add(to_client);
    }
}

/// All series that have a label.
#[derive(Debug)]
pub(crate) struct Series {
    shape: Arc<Shape>,
    services: Mutex<HashMap<Arc<str>, Arc<ServiceSeries>>>,
    routes: Mutex<Routes>,
}

#[derive(Debug, Default)]
struct Routes {
    present: HashMap<TargetLabels, Arc<RouteSeries>>,
    /// Gone, but with what was not reported yet.
    departed: Vec<Arc<RouteSeries>>,
}

impl Series {
    pub(super) fn new(shape: &Arc<Shape>) -> Self {
        Self {
            shape: Arc::clone(shape),
            services: Mutex::default(),
            routes: Mutex::default(),
        }
    }

    /// The handle of a target, made at first use.
    #[must_use]
    pub(crate) fn route(&self, labels: TargetLabels) -> Arc<RouteSeries> {
        let mut routes = lock(&self.routes);
        if let Some(present) = routes.present.get(&labels) {
            return Arc::clone(present);
        }
        let series = Arc::new(RouteSeries {
            service: self.service(&labels.service),
            labels: labels.clone(),
            requests: self.shape.timer(ROUTE_SAMPLES_MAX),
            rx: Counter::default(),
            tx: Counter::default(),
            shape: Arc::clone(&self.shape),
        });
        routes.present.insert(labels, Arc::clone(&series));
        series
    }

    fn service(&self, name: &Arc<str>) -> Arc<ServiceSeries> {
        let mut services = lock(&self.services);
        let new = || Arc::new(ServiceSeries::new(&self.shape, Arc::clone(name)));
        Arc::clone(services.entry(Arc::clone(name)).or_insert_with(new))
    }

    /// Removes targets that left the table. Call when the table without them is live.
    pub(crate) fn remove_routes(&self, gone: &HashSet<TargetLabels>) {
        let mut routes = lock(&self.routes);
        for labels in gone {
            let series = routes.present.remove(labels);
            if self.shape.reports {
                routes.departed.extend(series);
            }
        }
    }

    /// Removes a service that left the table.
    pub(crate) fn remove_service(&self, name: &str) {
        lock(&self.services).remove(name);
    }

    /// All services, by name.
    #[must_use]
    pub(crate) fn services(&self) -> Vec<Arc<ServiceSeries>> {
        let mut all: Vec<_> = lock(&self.services).values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// All targets of routes.
    #[must_use]
    pub(crate) fn routes(&self) -> Vec<Arc<RouteSeries>> {
        let mut all: Vec<_> = lock(&self.routes).present.values().cloned().collect();
        let key = |series: &RouteSeries| {
            let TargetLabels {
                service,
                host,
                path,
                target,
            } = &series.labels;
            [service, host, path, target].map(Arc::clone)
        };
        all.sort_by_cached_key(|series| key(series));
        all
    }

    /// Those that left since the last call.
    #[must_use]
    pub(crate) fn take_departed(&self) -> Vec<Arc<RouteSeries>> {
        std::mem::take(&mut lock(&self.routes).departed)
    }
}

/// A panic while a list was held leaves a usable list.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
