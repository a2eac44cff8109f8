//! The folder of a backup: private, of this one file, which is there whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// End of a backup's name; the id of its cluster stands before it.
const ENDING: &str = ".lb-backup";
/// End of the name of one that is being written.
const UNFINISHED: &str = ".lb-backup.new";

/// A folder into which a backup is being written. Dropped before [`BackupFolder::keep`], nothing of
/// the new backup is left, and the old one is what it was.
#[derive(Debug)]
pub struct BackupFolder {
    dir: PathBuf,
    name: String,
    /// It was not there before.
    is_new: bool,
    kept: bool,
}

impl BackupFolder {
    /// Makes the folder, if it is not there.
    ///
    /// # Errors
    /// When it holds anything but a backup of this cluster, or cannot be made.
    pub fn prepare(dir: &Path, cluster_id: &str) -> Result<Self> {
        let name = format!("{cluster_id}{ENDING}");
        let place = || format!("--to {}", dir.display());
        let is_new = match fs::read_dir(dir) {
            Ok(entries) => {
                for entry in entries {
                    let found = entry.with_context(place)?.file_name();
                    let is_ours = found.to_str().is_some_and(|found| {
                        found == name || found.strip_suffix(".new") == Some(&name)
                    });
                    if !is_ours {
                        bail!(
                            "{} holds {}, which is not a backup of this cluster: name a folder that is empty or not \
                             there yet, or one with an older backup of it, which is replaced",
                            dir.display(),
                            found.to_string_lossy()
                        );
                    }
                }
                false
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(dir)
                    .with_context(|| format!("cannot make the folder {}", dir.display()))?;
                true
            }
            Err(error) => return Err(error).with_context(place),
        };
        Ok(Self {
            dir: dir.to_owned(),
            name,
            is_new,
            kept: false,
        })
    }

    /// Where the backup is written until it is whole.
    #[must_use]
    pub fn unfinished(&self) -> PathBuf {
        self.dir.join(format!("{}.new", self.name))
    }

    /// Begins the file, in the place of what a run left that was killed.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(&self) -> Result<File> {
        let path = self.unfinished();
        let place = || format!("cannot write {}", path.display());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(place);
            }
            _ => {}
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(place)
    }

    /// Gives the file its name, over the older backup; where it is then. It has to be on the disk.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn keep(mut self) -> Result<PathBuf> {
        let path = self.dir.join(&self.name);
        fs::rename(self.unfinished(), &path)
            .and_then(|()| File::open(&self.dir)?.sync_all())
            .with_context(|| format!("cannot rename a backup to {}", path.display()))?;
        self.kept = true;
        Ok(path)
    }
}

impl Drop for BackupFolder {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(self.unfinished());
            if self.is_new {
                let _ = fs::remove_dir(&self.dir);
            }
        }
    }
}

/// The backup in a folder; the path itself if it is a file.
///
/// # Errors
/// When there is none, or more than one.
pub(super) fn find(dir: &Path) -> Result<PathBuf> {
    if dir.is_file() {
        return Ok(dir.to_owned());
    }
    let entries =
        fs::read_dir(dir).with_context(|| format!("cannot read the folder {}", dir.display()))?;
    let mut found: Vec<String> = Vec::new();
    for entry in entries {
        let name = entry
            .with_context(|| dir.display().to_string())?
            .file_name();
        found.extend(name.to_str().map(str::to_owned));
    }
    let unfinished = found.iter().any(|name| name.ends_with(UNFINISHED));
    found.retain(|name| name.ends_with(ENDING));
    match &found[..] {
        [name] => Ok(dir.join(name)),
        [] if unfinished => bail!(
            "{} holds a backup that was not finished: take another one",
            dir.display()
        ),
        [] => bail!("{} holds no backup (*{ENDING})", dir.display()),
        _ => bail!(
            "{} holds backups of several clusters: name the file, not the folder ({})",
            dir.display(),
            found.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_backup_is_there_whole_or_not_at_all() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("a/b");
        // Given up: nothing is left.
        let folder = BackupFolder::prepare(&dir, "id").unwrap();
        folder.create().unwrap().write_all(b"half").unwrap();
        drop(folder);
        assert!(!dir.exists());
        let keep = |text: &str| {
            let folder = BackupFolder::prepare(&dir, "id").unwrap();
            folder.create().unwrap().write_all(text.as_bytes()).unwrap();
            folder.keep().unwrap()
        };
        let path = keep("one");
        assert_eq!((mode(&dir), mode(&path)), (0o700, 0o600));
        assert_eq!(find(&dir).unwrap(), path);
        assert_eq!(find(&path).unwrap(), path);
        // Given up again: the one before stays.
        let folder = BackupFolder::prepare(&dir, "id").unwrap();
        folder.create().unwrap().write_all(b"half").unwrap();
        drop(folder);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        // A run that was killed is not an obstacle.
        fs::write(dir.join("id.lb-backup.new"), "half").unwrap();
        keep("two");
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    }

    #[test]
    fn folders_of_other_things_are_refused() {
        for name in ["thesis.txt", "other.lb-backup", "id.lb-backup.old"] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(name), "").unwrap();
            let error = BackupFolder::prepare(dir.path(), "id").unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(BackupFolder::prepare(&file, "id").is_err());
        assert!(BackupFolder::prepare(&file.join("below"), "id").is_err());
    }

    #[test]
    fn what_is_not_one_backup_is_told() {
        for (names, expected) in [
            (&[][..], "holds no backup"),
            (&["x"], "holds no backup"),
            (&["a.lb-backup.new"], "was not finished"),
            (&["a.lb-backup", "b.lb-backup"], "several clusters"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            for name in names {
                fs::write(dir.path().join(name), "").unwrap();
            }
            let error = find(dir.path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{names:?}: {error}");
        }
        assert!(find(Path::new("/does/not/exist")).is_err());
    }
}
