//! What a proxy is started from, and the folder that its configuration lies in.

use std::fs;
use std::path::Path;

use crate::cases::Kind;
use crate::certificates::Certificates;
use crate::ports::{Backends, Doors};

/// What every proxy is configured from.
pub(crate) struct Stand<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) doors: Doors,
    pub(crate) backends: Backends,
    pub(crate) certificates: &'a Certificates,
    /// How many host routes; 0: one for every host.
    pub(crate) hosts: usize,
    /// What will be sent.
    pub(crate) kind: Kind,
}

impl Stand<'_> {
    /// Writes one file and returns its path as text.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}
