//! Files that keys of `[consul]` name.

use std::fs;
use std::path::Path;

use super::error::ConsulError;

/// Reads a file named by a key.
pub(super) fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, ConsulError> {
    fs::read(path).map_err(|error| ConsulError::File {
        key,
        path: path.to_owned(),
        reason: error.to_string(),
    })
}
