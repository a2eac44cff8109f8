//! Owner of a running source.

use tokio::task::JoinHandle;

use crate::system::vital;

/// A running task of the control thread; ends when this is dropped.
#[derive(Debug)]
pub(crate) struct SourceTask(JoinHandle<()>);

impl SourceTask {
    /// Starts `work` on the current runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(vital::task("a source of routes", work)))
    }
}

impl Drop for SourceTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}
