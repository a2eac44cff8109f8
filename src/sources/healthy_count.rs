//! How many healthy instances a service of the catalog has, with a source that can tell.

use tokio::sync::watch;

/// Counts the healthy instances of one service. Ends when dropped.
pub trait HealthyCount {
    /// This service from now on; none: nothing is counted.
    fn follow(&self, service: Option<&str>);

    /// The last count; none before the first one. It stays while the source is away.
    fn count(&self) -> watch::Receiver<Option<u32>>;
}
