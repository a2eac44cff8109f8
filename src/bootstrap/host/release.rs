//! Official release archives: which checksum is the right one, and that the right people say so.
//!
//! Sums and signature are fetched and checked on the operator's machine; the nodes fetch the archive themselves and
//! hold it to the sum.

use std::sync::Arc;

use super::super::topology::{Cluster, ReleaseKey};

/// Where releases come from and whose signature they need. Checked sums are remembered. Cheap to clone.
#[derive(Clone)]
pub struct Releases(Arc<Source>);

struct Source {
    url: String,
    key: ReleaseKey,
}

impl Releases {
    /// The cluster's source of releases. Fetches nothing.
    #[must_use]
    pub fn new(cluster: &Cluster) -> Self {
        Self(Arc::new(Source { url: cluster.release_url.clone(), key: cluster.release_key.clone() }))
    }
}
