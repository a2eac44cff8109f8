//! Keeps what the display needs from one frame to the next: rates, the log of events, rows of what
//! has gone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::sample::Shared;
use super::services::SERVICES;
use super::view::{EventRow, Frame, InstanceRow, ServiceRow, Standing, Totals};
use crate::table::{RouteTable, Scheme};

/// Events kept for display.
const EVENTS_MAX: usize = 100;
/// How long a row stays after its instance has gone.
const GONE_SHOWN: Duration = Duration::from_secs(3);
/// Weight of the newest second in a rate.
const RATE_HALF_LIFE_S: f64 = 0.7;

/// The state behind the display.
#[derive(Debug)]
pub(super) struct Board {
    started: Instant,
    last_frame: Instant,
    intro: Vec<String>,
    totals: Totals,
    requests_before: u64,
    rows: Vec<Row>,
    events: VecDeque<EventRow>,
    events_before: u64,
}

#[derive(Debug)]
struct Row {
    service: usize,
    shared: Arc<Shared>,
    served_before: u64,
    per_second: f64,
    condition: &'static str,
    gone: Option<Instant>,
}

impl Board {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            started: now,
            last_frame: now,
            intro: Vec::new(),
            totals: Totals::default(),
            requests_before: 0,
            rows: Vec::new(),
            events: VecDeque::new(),
            events_before: 0,
        }
    }

    /// Sets the lines at the top, and starts the clock.
    pub(super) fn begin(&mut self, intro: Vec<String>, now: Instant) {
        self.intro = intro;
        (self.started, self.last_frame) = (now, now);
    }

    pub(super) fn add(&mut self, service: usize, shared: Arc<Shared>) {
        let row = Row {
            service,
            shared,
            served_before: 0,
            per_second: 0.0,
            condition: "",
            gone: None,
        };
        self.rows.push(row);
    }

    /// Sets the health of an instance, for the display.
    pub(super) fn set_condition(&mut self, name: &str, condition: &'static str) {
        for row in self.rows.iter_mut().filter(|row| row.shared.name == name) {
            row.condition = condition;
        }
    }

    /// Marks an instance as deregistered.
    pub(super) fn remove(&mut self, name: &str, now: Instant) {
        for row in self.rows.iter_mut().filter(|row| row.shared.name == name) {
            row.gone = Some(now);
        }
    }

    /// Notes an event; the number returned names it for [`Board::followed`].
    pub(super) fn note(&mut self, text: String, now: Instant) -> u64 {
        self.events.push_back(EventRow {
            at: now - self.started,
            text,
            followed: None,
        });
        self.totals.changes += 1;
        if self.events.len() > EVENTS_MAX {
            self.events.pop_front();
            self.events_before += 1;
        }
        self.events_before + self.events.len() as u64 - 1
    }

    /// The table followed an event after `took`.
    pub(super) fn followed(&mut self, event: u64, took: Duration) {
        let index = event
            .checked_sub(self.events_before)
            .and_then(|at| usize::try_from(at).ok());
        if let Some(event) = index.and_then(|at| self.events.get_mut(at)) {
            event.followed = Some(took);
        }
    }

    /// Counts one request of the demo's own traffic.
    pub(super) fn count(&mut self, took: Duration, failure: Option<String>) {
        self.totals.requests += 1;
        self.totals.mean_ms += (took.as_secs_f64() * 1e3 - self.totals.mean_ms) * 0.02;
        if failure.is_some() {
            self.totals.failed += 1;
            self.totals.last_failure = failure;
        }
    }

    /// Takes a picture of the moment.
    pub(super) fn frame(&mut self, table: &RouteTable, now: Instant) -> Frame {
        let elapsed = (now - self.last_frame).as_secs_f64();
        self.last_frame = now;
        self.rows
            .retain(|row| row.gone.is_none_or(|gone| now - gone < GONE_SHOWN));
        smooth(
            &mut self.totals.per_second,
            self.totals.requests - self.requests_before,
            elapsed,
        );
        self.requests_before = self.totals.requests;
        for row in &mut self.rows {
            let served = row.shared.served.load(Relaxed);
            smooth(
                &mut row.per_second,
                served.saturating_sub(row.served_before),
                elapsed,
            );
            row.served_before = served;
        }
        Frame {
            uptime: now - self.started,
            intro: self.intro.clone(),
            totals: self.totals.clone(),
            services: (0..SERVICES.len())
                .map(|service| self.service_row(service, table))
                .collect(),
            events: self.events.iter().cloned().collect(),
        }
    }

    fn service_row(&self, service: usize, table: &RouteTable) -> ServiceRow {
        let seen = seen_by_router(table, SERVICES[service].route);
        let rows = self.rows.iter().filter(|row| row.service == service);
        ServiceRow {
            name: SERVICES[service].name.to_owned(),
            route: SERVICES[service].route.to_owned(),
            instances: rows
                .map(|row| instance_row(row, seen.get(row.shared.name.as_str())))
                .collect(),
        }
    }
}

fn instance_row(row: &Row, seen: Option<&Seen>) -> InstanceRow {
    let (standing, reason) = match (row.gone, seen) {
        (Some(_), _) => (Standing::Gone, String::from("deregistered")),
        (None, Some(Seen::Target { .. })) => (Standing::Serving, String::new()),
        (None, Some(Seen::Excluded(reason))) => (Standing::Out, reason.to_string()),
        (None, None) => (Standing::Unknown, String::from("not in the table yet")),
    };
    let in_flight = if let Some(Seen::Target { in_flight }) = seen {
        *in_flight
    } else {
        0
    };
    let note = match (reason.as_str(), row.condition) {
        (reason, "") => reason.to_owned(),
        ("", condition) => condition.to_owned(),
        (reason, condition) => format!("{condition}: {reason}"),
    };
    InstanceRow {
        name: row.shared.name.clone(),
        standing,
        note,
        per_second: row.per_second,
        in_flight,
    }
}

/// How the router sees one instance of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Target {
        in_flight: u32,
    },
    /// As registered but left out, for this reason.
    Excluded(Arc<str>),
}

/// The instances of the route at `path`, by their id.
pub(super) fn seen_by_router(table: &RouteTable, path: &str) -> BTreeMap<String, Seen> {
    let Some(route) = table.lookup(Scheme::Http, "127.0.0.1", path, |_| true) else {
        return BTreeMap::new();
    };
    let excluded = route.excluded.iter().map(|left_out| {
        (
            left_out.id.id.to_string(),
            Seen::Excluded(Arc::clone(&left_out.reason)),
        )
    });
    let targets = route.targets.iter().map(|target| {
        (
            target.state.id.id.to_string(),
            Seen::Target {
                in_flight: target.state.in_flight.load(Relaxed),
            },
        )
    });
    excluded.chain(targets).collect()
}

/// Lets `rate` (per second) follow `count` events in `elapsed` seconds.
fn smooth(rate: &mut f64, count: u64, elapsed: f64) {
    if elapsed <= 0.0 {
        return;
    }
    #[allow(clippy::cast_precision_loss)]
    let present = count as f64 / elapsed;
    let weight = 1.0 - 0.5_f64.powf(elapsed / RATE_HALF_LIFE_S);
    *rate += (present - *rate) * weight;
}

#[cfg(test)]
mod tests {
    use super::super::sample::Kind;
    use super::*;

    fn shared(name: &str) -> Arc<Shared> {
        Arc::new(Shared {
            name: name.into(),
            kind: Kind::Shop,
            latency: Duration::ZERO,
            sick: Default::default(),
            served: Default::default(),
        })
    }

    #[test]
    fn rates_settle_on_what_is_served() {
        let start = Instant::now();
        let mut board = Board::new(start);
        let instance = shared("shop-1");
        board.add(0, Arc::clone(&instance));
        let table = RouteTable::default();
        for quarter in 1..=40 {
            instance.served.fetch_add(5, Relaxed);
            board.frame(&table, start + Duration::from_millis(250 * quarter));
        }
        let frame = board.frame(&table, start + Duration::from_millis(10_000));
        let rate = frame.services[0].instances[0].per_second;
        assert!((rate - 20.0).abs() < 0.5, "{rate}");
        assert_eq!(frame.services[0].instances[0].standing, Standing::Unknown);
    }

    #[test]
    fn rows_of_the_gone_stay_for_a_moment() {
        let start = Instant::now();
        let mut board = Board::new(start);
        board.add(1, shared("api-1"));
        board.remove("api-1", start);
        let table = RouteTable::default();
        let rows = |board: &mut Board, after_ms| {
            board
                .frame(&table, start + Duration::from_millis(after_ms))
                .services[1]
                .instances
                .len()
        };
        assert_eq!(rows(&mut board, 2_900), 1);
        assert_eq!(rows(&mut board, 3_100), 0);
    }

    #[test]
    fn events_are_bounded_and_late_notes_find_theirs() {
        let start = Instant::now();
        let mut board = Board::new(start);
        let first = board.note("first".into(), start);
        let numbers: Vec<u64> = (0..EVENTS_MAX)
            .map(|n| board.note(format!("{n}"), start))
            .collect();
        board.followed(first, Duration::from_secs(1));
        board.followed(numbers[7], Duration::from_millis(3));
        let frame = board.frame(&RouteTable::default(), start);
        assert_eq!(frame.events.len(), EVENTS_MAX);
        assert_eq!(frame.totals.changes, EVENTS_MAX as u64 + 1);
        let followed: Vec<&str> = frame
            .events
            .iter()
            .filter(|e| e.followed.is_some())
            .map(|e| e.text.as_str())
            .collect();
        assert_eq!(followed, ["7"]);
    }

    #[test]
    fn failures_are_counted_with_their_reason() {
        let mut board = Board::new(Instant::now());
        board.count(Duration::from_millis(2), None);
        board.count(Duration::from_millis(2), Some("502".into()));
        assert_eq!((board.totals.requests, board.totals.failed), (2, 1));
        assert_eq!(board.totals.last_failure.as_deref(), Some("502"));
    }
}
