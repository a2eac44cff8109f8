//! Which command has a local cluster in its foreground: at most one, and none after it ended,
//! however it ended.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context as _, Result};

use super::State;

const FOREGROUND: &str = "foreground";

/// Held by the command in whose foreground the cluster runs.
#[derive(Debug)]
pub struct Foreground {
    _locked: File,
}

impl State {
    /// Takes the cluster into the foreground. None: another command has it there.
    ///
    /// # Errors
    /// When the lock cannot be tried.
    pub fn foreground(&self) -> Result<Option<Foreground>> {
        let path = self.path(FOREGROUND);
        let place = || path.display().to_string();
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(place)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Foreground { _locked: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).with_context(place),
        }
    }
}
