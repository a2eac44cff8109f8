//! What happened, and how fresh the knowledge is: for people who want to know later why something
//! was as it was.
//!
//! ```text
//! control loop, reloads, certificates ──▶ events: the last 1,000, numbered ──▶ /api/events, page
//! workers ── bounded channel ──▶ control loop ─┘
//! sources ──▶ sources: last response, last error, since when ──▶ /api/sources, /ready, page, reminders in the log
//! Consul's watches ──▶ outputs: what failing checks say ──▶ reasons
//! ```
//!
//! Workers only ever use the channel, which neither locks nor waits; what does not fit is counted.
//! Everything else is written and read by the control thread and its neighbours. Nothing here is on
//! the path of a request.

pub mod events;
pub mod outputs;
pub mod sources;
mod text;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use tokio::sync::mpsc;

pub use events::{Draft, Event, Events, Kind};
pub use outputs::{CheckKey, Outputs};
pub use sources::{SourceStatus, Sources};
pub use text::{TEXT_MAX, bounded};

/// Ejections on their way from workers to the control loop. More at once are counted and not told
/// one by one.
const EJECTIONS_MAX: usize = 1024;

/// Everything that is kept for later questions. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Parts>);

#[derive(Debug, Default)]
struct Parts {
    events: Events,
    sources: Sources,
    outputs: Outputs,
    ejections: Channel,
}

/// The way from the workers to the control loop.
#[derive(Debug)]
struct Channel {
    sender: mpsc::Sender<Ejection>,
    receiver: Mutex<Option<mpsc::Receiver<Ejection>>>,
    dropped: AtomicU64,
}

impl Default for Channel {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(EJECTIONS_MAX);
        Self {
            sender,
            receiver: Mutex::new(Some(receiver)),
            dropped: AtomicU64::new(0),
        }
    }
}

/// A worker took an instance out because of failures in traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Its service.
    pub service: Arc<str>,
    /// Name of its node.
    pub node: Arc<str>,
    /// Its id on that node.
    pub id: Arc<str>,
    /// Its address.
    pub address: std::net::SocketAddr,
    /// Failures in a row.
    pub failures: u32,
    /// What was seen of it; none: the failures in a row are the reason.
    pub why: Option<&'static str>,
    /// For how long, in milliseconds.
    pub for_ms: u64,
}

impl Journal {
    /// What happened.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.0.events
    }

    /// How the sources are.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.0.sources
    }

    /// What failing checks say.
    #[must_use]
    pub fn outputs(&self) -> &Outputs {
        &self.0.outputs
    }

    /// A watch of a source has read something good.
    pub fn source_read(&self, source: &str, watch: &str) {
        self.note(self.sources().succeeded(source, watch));
    }

    /// A watch of a source could not read, or read what is not believed.
    pub fn source_failed(&self, source: &str, watch: &str, error: &str) {
        self.note(self.sources().failed(source, watch, error));
    }

    /// A watch of a source is needed no more.
    pub fn source_watch_ended(&self, source: &str, watch: &str) {
        self.note(self.sources().ended(source, watch));
    }

    fn note(&self, event: Option<Draft>) {
        if let Some(event) = event {
            self.events().push(event);
        }
    }

    /// Passes an ejection on to the control loop, which tells of it. Never waits: made for workers.
    pub fn ejected(&self, ejection: Ejection) {
        if self.0.ejections.sender.try_send(ejection).is_err() {
            self.0.ejections.dropped.fetch_add(1, Relaxed);
        }
    }

    /// The other end, once: for the control loop.
    #[must_use]
    pub fn take_ejections(&self) -> Option<mpsc::Receiver<Ejection>> {
        self.0
            .ejections
            .receiver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// How many ejections did not fit into the channel since the last call.
    #[must_use]
    pub fn take_dropped(&self) -> u64 {
        self.0.ejections.dropped.swap(0, Relaxed)
    }
}

/// The first `max` names, and how many more there are.
#[must_use]
pub fn few<S: AsRef<str>>(names: &[S], max: usize) -> String {
    let named = names
        .iter()
        .take(max)
        .map(AsRef::as_ref)
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(max) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ejections_never_wait_and_what_does_not_fit_is_counted() {
        let journal = Journal::default();
        let ejection = |failures| Ejection {
            service: "web".into(),
            node: "n".into(),
            id: "i".into(),
            address: ([127, 0, 0, 1], 1).into(),
            failures,
            why: None,
            for_ms: 5000,
        };
        for failures in 0..EJECTIONS_MAX as u32 + 7 {
            journal.ejected(ejection(failures));
        }
        assert_eq!((journal.take_dropped(), journal.take_dropped()), (7, 0));
        let mut receiver = journal.take_ejections().expect("the first time");
        assert!(journal.take_ejections().is_none());
        assert_eq!(receiver.try_recv().ok(), Some(ejection(0)));
    }
}
