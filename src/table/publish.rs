//! From the one writer of tables to its many readers.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::RouteTable;

/// Where the present table is. One writer stores, workers load through [`TableReader`].
#[derive(Clone, Debug, Default)]
pub struct SharedTable(Arc<ArcSwap<RouteTable>>);

/// A worker's view: one atomic load to see that nothing changed.
pub type TableReader = arc_swap::Cache<Arc<ArcSwap<RouteTable>>, Arc<RouteTable>>;

impl SharedTable {
    /// Makes `table` the one that new requests use.
    pub fn publish(&self, table: RouteTable) {
        self.0.store(Arc::new(table));
    }

    /// The present table.
    #[must_use]
    pub fn load(&self) -> Arc<RouteTable> {
        self.0.load_full()
    }

    /// A cached view for one worker.
    #[must_use]
    pub fn reader(&self) -> TableReader {
        TableReader::new(Arc::clone(&self.0))
    }
}
