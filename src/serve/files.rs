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

/// Bounds of a watched directory: one that links to itself must end somewhere.
const DEPTH_MAX: usize = 8;
const FILES_MAX: usize = 20_000;

type Print = Option<(u64, u64, Option<SystemTime>)>;

/// What files look like at one moment.
pub(super) type Look = BTreeMap<PathBuf, Print>;

/// What files looked like.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// As of the last reload.
    taken: Look,
    /// As of the last look.
    seen: Look,
}

impl Watched {
    /// Notes that everything is read now, as it looks `now`.
    pub(super) fn note(&mut self, now: Look) {
        *self = Self { seen: now.clone(), taken: now };
    }

    /// Whether something changed since the last time this said so, and has been quiet since the last look: a
    /// certificate and its key are two files, and half a pair is worth nothing.
    pub(super) fn settled_change(&mut self, now: Look) -> bool {
        let quiet = now == self.seen;
        self.seen = now;
        if !quiet || self.seen == self.taken {
            return false;
        }
        self.taken.clone_from(&self.seen);
        true
    }
}

/// Looks at files. Blocks as long as their file systems do.
pub(super) fn look(paths: &[PathBuf]) -> Look {
    paths.iter().flat_map(|path| within(path)).map(|path| (path.clone(), print(&path))).collect()
}

/// A directory stands for the files in it and below it, as deep and as many as a directory of certificates may have.
fn within(path: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![(path.to_owned(), 0)];
    while let Some((path, depth)) = open.pop() {
        match fs::read_dir(&path) {
            Ok(entries) if depth <= DEPTH_MAX => {
                open.extend(entries.flatten().take(FILES_MAX).map(|entry| (entry.path(), depth + 1)));
            }
            _ => files.push(path),
        }
        if files.len() + open.len() > FILES_MAX {
            break;
        }
    }
    files
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
        let mut watched = Watched::default();
        watched.note(look(&paths));
        assert!(!watched.settled_change(look(&paths)));
        fs::write(&cert, "22").expect("written");
        assert!(!watched.settled_change(look(&paths)), "just changed: the key may follow");
        fs::write(&key, "2").expect("written");
        assert!(!watched.settled_change(look(&paths)), "the key followed");
        assert!(watched.settled_change(look(&paths)));
        assert!(!watched.settled_change(look(&paths)), "told already");
        fs::write(&key, "333").expect("written");
        watched.note(look(&paths));
        assert!(!watched.settled_change(look(&paths)), "read already");
    }

    #[test]
    fn a_directory_stands_for_its_files() {
        let folder = tempfile::tempdir().expect("folder");
        let paths = [folder.path().to_owned()];
        let mut watched = Watched::default();
        watched.note(look(&paths));
        let below = folder.path().join("below");
        fs::create_dir(&below).expect("made");
        std::os::unix::fs::symlink(folder.path(), below.join("circle")).expect("linked");
        for path in [folder.path().join("new.pem"), below.join("new.pem")] {
            fs::write(path, "x").expect("written");
            assert!(!watched.settled_change(look(&paths)));
            assert!(watched.settled_change(look(&paths)));
        }
    }
}
