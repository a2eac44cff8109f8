//! A folder of this machine: a file for each key, readable by lb alone.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;

use super::place::{Place, Shelf, Texts, Write, failed, host_of, part_of};
use crate::certificates::acme::failure::Failure;

/// How often the folder is looked at: another process may have the lock (one that takes over).
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Largest file that is read.
const BYTES_MAX: u64 = 1 << 20;

#[derive(Clone, Debug)]
pub(in super::super) struct Folder(PathBuf);

/// The system gives the lock back with the file, whatever ends the process.
pub(in super::super) struct Held {
    folder: Folder,
    _lock: File,
}

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    fn path(&self, place: Place<'_>) -> PathBuf {
        match place {
            Place::Account => self.0.join("account"),
            Place::Of(shelf, host) => {
                self.0
                    .join(shelf.as_str())
                    .join(format!("{}{}", part_of(host), suffix(shelf)))
            }
        }
    }

    pub(super) async fn next(&self, shelf: Shelf, again: bool) -> Result<Texts, Failure> {
        if again {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.list(shelf)
    }

    pub(super) fn list(&self, shelf: Shelf) -> Result<Texts, Failure> {
        let folder = self.0.join(shelf.as_str());
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            // Nothing was kept yet. The folder of the configuration has to be there: a disk that is
            // not mounted is not an empty store.
            Err(error) if error.kind() == ErrorKind::NotFound && self.has_root() => {
                return Ok(Texts::new());
            }
            Err(error) => return Err(at(&folder, &error)),
        };
        let mut texts = Texts::new();
        for entry in entries {
            let path = entry.map_err(|error| at(&folder, &error))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(part) = name.and_then(|name| name.strip_suffix(suffix(shelf))) else {
                continue;
            };
            if let Some(text) = read(&path)? {
                texts.insert(host_of(part), text);
            }
        }
        Ok(texts)
    }

    fn has_root(&self) -> bool {
        self.0.parent().is_some_and(Path::is_dir)
    }

    pub(super) fn read(&self, place: Place<'_>) -> Result<Option<Bytes>, Failure> {
        read(&self.path(place))
    }

    pub(super) fn lock(&self) -> Result<Option<Held>, Failure> {
        if !self.has_root() {
            let folder = self.0.parent().unwrap_or(&self.0);
            return Err(failed(format!(
                "{}: there is no such folder",
                folder.display()
            )));
        }
        for folder in ["", "certificates", "orders"] {
            let folder = self.0.join(folder);
            let made = DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder);
            made.map_err(|error| at(&folder, &error))?;
        }
        let path = self.0.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| at(&path, &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Held {
                folder: self.clone(),
                _lock: file,
            })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(at(&path, &error)),
        }
    }
}

impl Held {
    pub(super) fn write(&self, writes: &[Write<'_>]) -> Result<(), Failure> {
        for write in writes {
            let path = self.folder.path(write.place);
            match &write.text {
                Some(text) => put(&path, text).map_err(|error| at(&path, &error))?,
                None => match fs::remove_file(&path) {
                    Err(error) if error.kind() != ErrorKind::NotFound => {
                        return Err(at(&path, &error));
                    }
                    _ => {}
                },
            }
        }
        Ok(())
    }
}

/// Whole or not at all: the name is given to a file that is complete.
fn put(path: &Path, text: &str) -> std::io::Result<()> {
    let beside = path.with_added_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

fn read(path: &Path) -> Result<Option<Bytes>, Failure> {
    match fs::metadata(path) {
        Ok(found) if found.len() > BYTES_MAX => {
            return Ok(Some(Bytes::from_static(b"larger than 1 MiB")));
        }
        _ => {}
    }
    match fs::read(path) {
        Ok(text) => Ok(Some(Bytes::from(text))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path, &error)),
    }
}

fn suffix(shelf: Shelf) -> &'static str {
    match shelf {
        Shelf::Certificates => ".pem",
        Shelf::Orders => ".json",
    }
}

fn at(path: &Path, error: &std::io::Error) -> Failure {
    failed(format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn one_holds_the_lock_and_files_are_for_lb_alone() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path().join("ca"));
        assert!(folder.list(Shelf::Orders).unwrap().is_empty());
        let held = folder.lock().unwrap().unwrap();
        assert!(folder.lock().unwrap().is_none());
        let place = Place::Of(Shelf::Certificates, "*.a.test");
        held.write(&[Write::put(place, "text".to_owned())]).unwrap();
        let path = root.path().join("ca/certificates/_wildcard.a.test.pem");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let texts = folder.list(Shelf::Certificates).unwrap();
        assert_eq!(texts.keys().collect::<Vec<_>>(), ["*.a.test"]);
        held.write(&[Write::delete(place), Write::delete(place)])
            .unwrap();
        assert_eq!(folder.read(place).unwrap(), None);
        drop(held);
        assert!(folder.lock().unwrap().is_some());
    }

    #[test]
    fn a_folder_that_is_away_is_not_an_empty_store() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new(root.path().join("away/ca"));
        assert!(folder.list(Shelf::Certificates).is_err());
        assert!(folder.lock().is_err());
    }
}
