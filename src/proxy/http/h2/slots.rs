//! The streams that an upstream takes at the same time on one connection, and the queue for them.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

/// What all requests on the connection share.
#[derive(Debug, Default)]
pub struct Slots {
    pub(crate) closed: Cell<bool>,
    /// Streams that are open.
    pub(crate) open: Cell<usize>,
    /// Notified when one of them ends, and with the connection.
    pub(crate) changed: Notify,
}

/// Among the streams that an upstream takes at the same time; the next in the queue gets it.
#[derive(Debug)]
pub struct StreamSlot(pub(crate) Rc<Slots>);

impl Drop for StreamSlot {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
        self.0.changed.notify_one();
    }
}

impl Slots {
    /// The connection has ended.
    pub fn close(&self) {
        self.closed.set(true);
        self.changed.notify_waiters();
    }
}
