//! Owner of a running source.

use tokio::task::JoinHandle;

use crate::system::vital;

/// A running task of the control thread; ends when this is dropped.
#[derive(Debug)]
pub struct SourceTask(JoinHandle<()>);

impl SourceTask {
    /// Starts `work` on the current runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(vital::task("a source of routes", work)))
    }

    /// Whether the task has ended by itself: its receiver is gone.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for SourceTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}
