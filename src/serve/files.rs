//! Notices that a file of the configuration changed.
//!
//! Looks once a second at size, time and identity of a handful of files. A kernel watch would be
//! quicker, but loses files that are replaced through symbolic links or on network file systems,
//! which is how certificates arrive; and a certificate that is taken over within a second or two is
//! early.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Bounds of a watched directory: one that links to itself must end somewhere.
const DEPTH_MAX: usize = 8;
const FILES_MAX: usize = 20_000;
/// How much of a text is compared, in bytes.
const TEXT_BYTES_MAX: u64 = 16 << 20;

/// How long files must stay the same to be taken for whole, and how long that is waited for.
const QUIET: Duration = Duration::from_millis(150);
const QUIET_MAX: Duration = Duration::from_secs(5);

/// Identity, size, time of the content, and time of the last change of anything, rights included.
type Print = Option<(u64, u64, Option<SystemTime>, (i64, i64))>;

/// What files look like at one moment.
pub(super) type Look = BTreeMap<PathBuf, Print>;

#[derive(Debug, Default)]
pub(super) struct Watched {
    /// As of the last reload.
    taken: Look,
    /// As of the last look.
    seen: Look,
    /// Files that were not empty when a configuration was taken over last.
    full: BTreeSet<PathBuf>,
}

impl Watched {
    /// Watches files from what they look like now.
    pub(super) fn new(now: Look) -> Self {
        Self {
            seen: now.clone(),
            full: full(&now),
            taken: now,
        }
    }

    /// Notes that everything is read now, as it looks `now`, for another reason than a change.
    pub(super) fn note(&mut self, now: Look) {
        self.seen.clone_from(&now);
        self.taken = now;
    }

    /// Notes that what the files hold is in force; these were not empty.
    pub(super) fn note_taken_over(&mut self, full: BTreeSet<PathBuf>) {
        self.full = full;
    }

    /// Files that were not empty when a configuration was taken over last. Many writers truncate a
    /// file before they write it.
    pub(super) fn full(&self) -> &BTreeSet<PathBuf> {
        &self.full
    }

    /// Whether something changed since the last time this said so, and has been quiet since the
    /// last look: a certificate and its key are two files, and half a pair is worth nothing.
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

/// Waits until `paths` have looked the same for a moment, and what `texts` hold too; false when
/// they do not for seconds. Blocks as long as their file systems do.
pub(super) fn quiet(paths: &[PathBuf], texts: &[PathBuf]) -> bool {
    let state = || {
        (
            look(paths),
            texts.iter().map(|path| digest(path)).collect::<Vec<_>>(),
        )
    };
    let begun = Instant::now();
    let mut before = state();
    loop {
        std::thread::sleep(QUIET);
        let now = state();
        if now == before {
            return true;
        }
        if begun.elapsed() >= QUIET_MAX {
            return false;
        }
        before = now;
    }
}

/// Of what a file holds. A file system may tell times by the second only.
fn digest(path: &Path) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    let mut file = fs::File::open(path).ok()?.take(TEXT_BYTES_MAX);
    let mut block = [0; 8192];
    loop {
        match file.read(&mut block).ok()? {
            0 => return Some(hasher.finish()),
            count => hasher.write(&block[..count]),
        }
    }
}

/// Those that are not empty.
pub(super) fn full(prints: &Look) -> BTreeSet<PathBuf> {
    let full = prints
        .iter()
        .filter(|(_, print)| print.is_some_and(|(_, length, ..)| length > 0));
    full.map(|(path, _)| path.clone()).collect()
}

/// Whether a file is empty that is among `full`.
pub(super) fn has_emptied(look: &Look, full: &BTreeSet<PathBuf>) -> bool {
    look.iter().any(|(path, print)| {
        print.is_some_and(|(_, length, ..)| length == 0) && full.contains(path)
    })
}

/// Looks at files. Blocks as long as their file systems do.
pub(super) fn look(paths: &[PathBuf]) -> Look {
    paths
        .iter()
        .flat_map(|path| within(path))
        .map(|path| (path.clone(), print(&path)))
        .collect()
}

/// A directory stands for the files in it and below it, as deep and as many as a directory of
/// certificates may have.
fn within(path: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![(path.to_owned(), 0)];
    while let Some((path, depth)) = open.pop() {
        match fs::read_dir(&path) {
            Ok(entries) if depth <= DEPTH_MAX => {
                open.extend(
                    entries
                        .flatten()
                        .take(FILES_MAX)
                        .map(|entry| (entry.path(), depth + 1)),
                );
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
    Some((
        metadata.ino(),
        metadata.len(),
        metadata.modified().ok(),
        (metadata.ctime(), metadata.ctime_nsec()),
    ))
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
        let mut watched = Watched::new(look(&paths));
        assert!(!watched.settled_change(look(&paths)));
        fs::write(&cert, "22").expect("written");
        assert!(
            !watched.settled_change(look(&paths)),
            "just changed: the key may follow"
        );
        fs::write(&key, "2").expect("written");
        assert!(!watched.settled_change(look(&paths)), "the key followed");
        assert!(watched.settled_change(look(&paths)));
        assert!(!watched.settled_change(look(&paths)), "told already");
        fs::write(&key, "333").expect("written");
        watched.note(look(&paths));
        assert!(!watched.settled_change(look(&paths)), "read already");
    }

    #[test]
    fn a_file_that_was_full_and_is_empty_is_noticed_until_that_is_taken_over() {
        let folder = tempfile::tempdir().expect("folder");
        let (full, empty) = (folder.path().join("full"), folder.path().join("empty"));
        fs::write(&full, "x").expect("written");
        fs::write(&empty, "").expect("written");
        let paths = [full.clone(), empty, folder.path().join("absent")];
        let mut watched = Watched::new(look(&paths));
        assert!(!has_emptied(&look(&paths), watched.full()));
        fs::write(&full, "").expect("truncated");
        watched.note(look(&paths));
        assert!(
            has_emptied(&look(&paths), watched.full()),
            "what is only noted is not in force yet"
        );
        watched.note_taken_over(super::full(&look(&paths)));
        assert!(!has_emptied(&look(&paths), watched.full()));
    }

    #[test]
    fn files_that_are_written_are_not_quiet() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        fs::write(&path, "1").expect("written");
        let paths = [path.clone()];
        assert!(quiet(&paths, &paths));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for text in ["22", "333", "4444"] {
                    std::thread::sleep(QUIET / 3);
                    fs::write(&path, text).expect("written");
                }
            });
            assert!(quiet(&paths, &paths));
        });
        assert_eq!(
            fs::read_to_string(&path).expect("read"),
            "4444",
            "it waited for the last"
        );
    }

    #[test]
    fn a_change_of_rights_is_a_change() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("file");
        fs::write(&path, "1").expect("written");
        let paths = [path.clone()];
        let mut watched = Watched::new(look(&paths));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("changed");
        assert!(!watched.settled_change(look(&paths)));
        assert!(watched.settled_change(look(&paths)));
    }

    #[test]
    fn a_directory_stands_for_its_files() {
        let folder = tempfile::tempdir().expect("folder");
        let paths = [folder.path().to_owned()];
        let mut watched = Watched::new(look(&paths));
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
