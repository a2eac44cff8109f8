//! Reads what is named, and notes what is wrong with it.

use std::path::{Path, PathBuf};

use super::{Finding, Severity};
use crate::trust::files_below;

/// Largest file that is read.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Reads files and collects what is wrong with them.
#[derive(Debug, Default)]
pub(crate) struct Files {
    pub(crate) findings: Vec<Finding>,
}

impl Files {
    /// The bytes of a file; what goes wrong is noted.
    pub(crate) fn read(&mut self, key: &str, path: &Path) -> Option<Vec<u8>> {
        let length = std::fs::metadata(path).map(|meta| meta.len());
        if length.is_ok_and(|length| length > BYTES_MAX) {
            self.error(key, path, "is larger than 64 MiB", "is it the right file?");
            return None;
        }
        match std::fs::read(path) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.error(
                    key,
                    path,
                    &format!("cannot be read: {error}"),
                    "check the path and its rights",
                );
                None
            }
        }
    }

    /// The files in a folder of CAs and in those below it, whatever their names, as the program
    /// reads them.
    pub(crate) fn tree(&mut self, key: &str, path: &Path) -> Vec<PathBuf> {
        files_below(path).unwrap_or_else(|error| {
            self.error(
                key,
                path,
                &format!("cannot be read: {error}"),
                "name a folder that exists",
            );
            Vec::new()
        })
    }

    /// The files in a folder, by name, without hidden ones.
    pub(crate) fn folder(&mut self, key: &str, path: &Path) -> Vec<PathBuf> {
        match std::fs::read_dir(path) {
            Ok(entries) => {
                let visible = |path: &PathBuf| {
                    path.file_name()
                        .is_some_and(|name| !name.as_encoded_bytes().starts_with(b"."))
                };
                let mut paths: Vec<PathBuf> = entries
                    .flatten()
                    .map(|entry| entry.path())
                    .filter(|path| visible(path) && path.is_file())
                    .collect();
                paths.sort();
                paths
            }
            Err(error) => {
                self.error(
                    key,
                    path,
                    &format!("cannot be read: {error}"),
                    "name a folder that exists",
                );
                Vec::new()
            }
        }
    }

    /// Warns when all users may read a file that holds a secret.
    pub(crate) fn secret(&mut self, key: &str, path: &Path) {
        #[cfg(unix)]
        if let Ok(meta) = std::fs::metadata(path) {
            let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions());
            if mode & 0o004 != 0 {
                let problem = format!("may be read by all users (mode {:o})", mode & 0o777);
                self.warning(key, path, &problem, "chmod 600");
            }
        }
        #[cfg(not(unix))]
        let _ = (key, path);
    }

    pub(crate) fn error(&mut self, key: &str, path: &Path, problem: &str, advice: &str) {
        self.push(Severity::Error, key, path, problem, advice);
    }

    pub(crate) fn warning(&mut self, key: &str, path: &Path, problem: &str, advice: &str) {
        self.push(Severity::Warning, key, path, problem, advice);
    }

    fn push(&mut self, severity: Severity, key: &str, path: &Path, problem: &str, advice: &str) {
        self.findings.push(Finding {
            severity,
            file: path.display().to_string(),
            line: None,
            subject: key.to_owned(),
            value: None,
            problem: problem.to_owned(),
            advice: advice.to_owned(),
        });
    }
}
