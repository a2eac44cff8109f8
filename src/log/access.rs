//! The access log as workers see it: fill in an [`AccessRecord`], hand it to [`AccessLogger::log`].
//!
//! ```text
//! worker ── log(&record) ──> its bounded queue ──> writer thread ──> stdout
//!                            │ full
//!                            └─> dropped and counted
//! ```
//!
//! A worker never waits: when the reader of standard output is slow, lines are lost and
//! `lb_access_log_dropped_total` says how many.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use super::format;
use super::queue::{Queue, Queues};
use super::time::TimeCache;
use crate::config::{AccessFormat, AccessLog};

pub use super::record::AccessRecord;

/// Makes a logger for each worker.
#[derive(Clone, Debug)]
pub struct AccessLoggers {
    /// None: no log.
    on: Option<(format::Form, Arc<Queues>)>,
    connections: bool,
}

impl AccessLoggers {
    pub(super) fn new(format: AccessLog, queues: Arc<Queues>) -> Self {
        Self {
            on: format::Form::of(format).map(|form| (form, queues)),
            connections: true,
        }
    }

    pub(super) fn off() -> Self {
        Self {
            on: None,
            connections: false,
        }
    }

    /// The same, with lines for connections of TCP or without.
    #[must_use]
    pub fn with_connections(self, connections: bool) -> Self {
        Self {
            connections,
            ..self
        }
    }

    /// One more, with a queue of its own.
    #[must_use]
    pub fn logger(&self) -> AccessLogger {
        let on = self
            .on
            .as_ref()
            .map(|(form, queues)| (form.clone(), Queue::new(queues)));
        AccessLogger {
            on,
            connections: self.connections,
            time: RefCell::default(),
        }
    }
}

/// A worker's handle, with a queue and a time cache of its own.
pub struct AccessLogger {
    on: Option<(format::Form, Queue)>,
    connections: bool,
    time: RefCell<TimeCache>,
}

impl fmt::Debug for AccessLogger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLogger")
            .field("on", &self.is_on())
            .finish_non_exhaustive()
    }
}

impl AccessLogger {
    /// Whether lines are written at all: lets the caller skip making the record.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// Whether lines are written for connections of TCP.
    #[must_use]
    pub fn tells_of_connections(&self) -> bool {
        self.connections && self.is_on()
    }

    /// The custom format, if it is one: says what [`AccessRecord::more`] has to hold.
    #[must_use]
    pub fn custom(&self) -> Option<&AccessFormat> {
        self.on.as_ref().and_then(|(form, _)| form.custom())
    }

    /// Writes one line, or drops and counts it when the queue is full. Never waits.
    pub fn log(&self, record: &AccessRecord<'_>) {
        let Some((form, queue)) = &self.on else {
            return;
        };
        queue.push(|line| form.push(line, record, &mut self.time.borrow_mut()));
    }
}
