//! Programs on a node.

use crate::bootstrap::nodes::spec::BinarySpec;
use crate::bootstrap::topology::{BinarySource, Layout};

/// A program on a node.
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) path: String,
    pub(super) source: BinarySource,
}

impl Program {
    pub(super) fn new(name: &'static str, source: &BinarySource, layout: &Layout) -> Self {
        let path = match (&layout.bin, source) {
            (Some(folder), _) => format!("{folder}/{name}"),
            (None, BinarySource::File(path)) => path.to_string_lossy().into_owned(),
            // Nothing is fetched for this machine itself; its PATH decides.
            (None, BinarySource::Release(_)) => name.to_owned(),
        };
        Self {
            name,
            path,
            source: source.clone(),
        }
    }

    pub(super) fn into_spec(self) -> BinarySpec {
        BinarySpec {
            name: self.name.to_owned(),
            path: self.path,
            source: self.source,
            sha256: None,
        }
    }
}
