//! Notices that a file of the configuration changed.
//!
//! Looks once a second at size, time and identity of a handful of files. A kernel watch would be quicker, but loses
//! files that are replaced through symbolic links or on network file systems, which is how certificates arrive; and
//! a certificate that is taken over within a second or two is early.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

type Print = Option<(u64, u64, Option<SystemTime>)>;

/// What files looked like.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// As of the last reload.
    taken: BTreeMap<PathBuf, Print>,
    /// As of the last look.
    seen: BTreeMap<PathBuf, Print>,
}

impl Watched {
    /// Watches `paths` from what they look like now.
    pub(super) fn new(paths: &[PathBuf]) -> Self {
        let taken = look(paths);
        Self { seen: taken.clone(), taken }
    }

    /// Whether something changed since the last time this said so, and has been quiet since the last look: a
    /// certificate and its key are two files, and half a pair is worth nothing.
    pub(super) fn settled_change(&mut self, paths: &[PathBuf]) -> bool {
        let now = look(paths);
        let quiet = now == self.seen;
        self.seen = now;
        if !quiet || self.seen == self.taken {
            return false;
        }
        self.taken.clone_from(&self.seen);
        true
    }
}

fn look(paths: &[PathBuf]) -> BTreeMap<PathBuf, Print> {
    paths.iter().flat_map(|path| within(path)).map(|path| (path.clone(), print(&path))).collect()
}

/// A directory stands for the files in it.
fn within(path: &Path) -> Vec<PathBuf> {
    match fs::read_dir(path) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(_) => vec![path.to_owned()],
    }
}

fn print(path: &Path) -> Print {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.len(), metadata.modified().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_and_only_after_a_quiet_look() {
        let folder = tempfile::tempdir().expect("folder");
        let (cert, key) = (folder.path().join("cert"), folder.path().join("key"));
        fs::write(&cert, "1").expect("written");
        let paths = [cert.clone(), key.clone()];
        let mut watched = Watched::new(&paths);
        assert!(!watched.settled_change(&paths));
        fs::write(&cert, "22").expect("written");
        assert!(!watched.settled_change(&paths), "just changed: the key may follow");
        fs::write(&key, "2").expect("written");
        assert!(!watched.settled_change(&paths), "the key followed");
        assert!(watched.settled_change(&paths));
        assert!(!watched.settled_change(&paths), "told already");
    }

    #[test]
    fn a_directory_stands_for_its_files() {
        let folder = tempfile::tempdir().expect("folder");
        let paths = [folder.path().to_owned()];
        let mut watched = Watched::new(&paths);
        fs::write(folder.path().join("new.pem"), "x").expect("written");
        assert!(!watched.settled_change(&paths));
        assert!(watched.settled_change(&paths));
    }
}
