//! The folder itself: private modes, whole files, one writer. Knows nothing of what the files mean.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

const LOCK: &str = "lock";
/// How often a lock that is taken is looked at again, and the pause before.
const LOOKS: u32 = 10;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(20);

/// A state folder has one of these from its first moment on.
const OURS: [&str; 4] = [LOCK, "cluster.json", "gossip.json", "ca-key.pem"];

/// End of the name of a file that is being written.
pub(super) const UNFINISHED: &str = ".new";

/// A folder of private files.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Held open by the writer: the system lets go of the lock when the process ends, however it
    /// ends.
    lock: Option<File>,
    notes: Vec<String>,
}

impl Folder {
    /// Opens it, if it is there.
    pub(super) fn open(path: &Path, writer: bool) -> Result<Option<Self>> {
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("state folder {}", path.display()));
            }
            Ok(_) if !path.is_dir() => bail!("the state folder {} is not a folder", path.display()),
            Ok(_) => {}
        }
        if holds_other_things(path).with_context(|| format!("state folder {}", path.display()))? {
            bail!(
                "{} is not the state folder of a cluster, and not empty: name one that is, or that is not there yet \
                 (modes of all that it holds are made private, and `down --purge` removes it)",
                path.display()
            );
        }
        let mut folder = Self {
            path: path.to_owned(),
            lock: None,
            notes: Vec::new(),
        };
        if writer {
            folder.lock = Some(folder.acquire()?);
        }
        folder.tighten()?;
        Ok(Some(folder))
    }

    /// Opens it for writing; made when it is not there.
    pub(super) fn create(path: &Path) -> Result<Self> {
        make(path).with_context(|| format!("cannot make the state folder {}", path.display()))?;
        Self::open(path, true)?
            .with_context(|| format!("the state folder {} vanished", path.display()))
    }

    /// One that is not there and reads as empty.
    pub(super) fn absent(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            lock: None,
            notes: Vec::new(),
        }
    }

    /// Lets another command write.
    pub(super) fn release(&mut self) {
        self.lock = None;
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// A file's path as errors name it.
    pub(super) fn place(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    /// Content of a file, if it is there.
    pub(super) fn read_bytes(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match fs::read(self.path.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", self.place(name))),
        }
    }

    /// The same as text.
    pub(super) fn read(&self, name: &str) -> Result<Option<String>> {
        let Some(bytes) = self.read_bytes(name)? else {
            return Ok(None);
        };
        // The error of `from_utf8` would hold the bytes.
        let text = String::from_utf8(bytes).ok();
        text.map(Some)
            .with_context(|| format!("{} is not text", self.place(name)))
    }

    /// Puts a file in place, whole: it reaches the disk under another name first, and the name
    /// changes at a stroke.
    pub(super) fn write(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.try_write(name, content)
            .with_context(|| format!("cannot write {}", self.place(name)))
    }

    fn try_write(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.check_writer()?;
        let path = self.path.join(name);
        let parent = path.parent().unwrap_or(&self.path);
        make(parent)?;
        // One writer at a time, so the name of the unfinished file needs no dice; a left-over is
        // overwritten.
        let unfinished = self.path.join(format!("{name}{UNFINISHED}"));
        remove(&unfinished)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)?;
        sync(parent)
    }

    /// Renames a file over another.
    pub(super) fn rename(&mut self, from: &str, to: &str) -> Result<()> {
        self.check_writer()?;
        fs::rename(self.path.join(from), self.path.join(to))
            .with_context(|| format!("cannot rename {} to {to}", self.place(from)))?;
        sync(&self.path)
    }

    /// Removes a file or a folder, if it is there.
    pub(super) fn remove(&mut self, name: &str) -> Result<()> {
        self.check_writer()?;
        remove(&self.path.join(name))
            .with_context(|| format!("cannot remove {}", self.place(name)))?;
        sync(&self.path)
    }

    /// Removes the folder and all that is in it.
    pub(super) fn remove_all(&self) -> Result<()> {
        // A link to it would be removed in its stead, and the keys stay.
        fs::remove_dir_all(fs::canonicalize(&self.path)?)?;
        if fs::symlink_metadata(&self.path).is_ok() {
            fs::remove_file(&self.path)?;
        }
        Ok(())
    }

    fn check_writer(&self) -> Result<()> {
        if self.lock.is_none() {
            bail!(
                "the state folder {} is open for reading only",
                self.path.display()
            );
        }
        Ok(())
    }

    fn acquire(&self) -> Result<File> {
        let path = self.path.join(LOCK);
        // Not truncated at opening: until the lock is ours it holds the other's number.
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let mut file = opened.with_context(|| format!("cannot open {}", path.display()))?;
        // A program that its last holder was just starting has the file open until it runs: that
        // passes in no time.
        let mut locked = file.try_lock();
        for _ in 0..LOOKS {
            if !matches!(locked, Err(TryLockError::WouldBlock)) {
                break;
            }
            std::thread::sleep(PAUSE);
            locked = file.try_lock();
        }
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder);
                let holder = match holder.trim().parse::<u32>() {
                    Ok(pid) => format!("process {pid}"),
                    Err(_) => "another process".to_owned(),
                };
                bail!(
                    "{holder} is at work on the state folder {}: wait until it has ended, or stop it",
                    self.path.display()
                );
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        file.set_len(0)?;
        write!(file, "{}", std::process::id())?;
        Ok(file)
    }

    /// Takes from others what they may do here. `nodes/` is left alone: what lies there belongs to
    /// the daemons of the local target, and no other user gets that far.
    fn tighten(&mut self) -> Result<()> {
        let mut pending = vec![self.path.clone()];
        while let Some(path) = pending.pop() {
            let meta = match fs::symlink_metadata(&path) {
                Ok(meta) => meta,
                // A writer renames files under our eyes.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| path.display().to_string()),
            };
            if meta.is_symlink() && path != self.path {
                continue;
            }
            let mode = fs::metadata(&path).map_or(0o700, |meta| meta.permissions().mode() & 0o777);
            if mode & 0o077 != 0 {
                let tight = mode & 0o700;
                fs::set_permissions(&path, Permissions::from_mode(tight)).with_context(|| {
                    format!(
                        "{} can be read by others (mode {mode:o}) and this cannot be changed",
                        path.display()
                    )
                })?;
                self.notes.push(format!(
                    "{} could be read by others: mode {mode:o} is now {tight:o}",
                    path.display()
                ));
            }
            if path.is_dir() {
                let entries = fs::read_dir(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                let below = entries.flatten().map(|entry| entry.path());
                pending.extend(below.filter(|below| *below != self.path.join("nodes")));
            }
        }
        self.notes.sort();
        Ok(())
    }
}

/// Whether a folder holds something of its own, and is not a state folder.
fn holds_other_things(path: &Path) -> std::io::Result<bool> {
    let mut empty = true;
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if OURS.iter().any(|ours| name == *ours) {
            return Ok(false);
        }
        empty = false;
    }
    Ok(!empty)
}

fn make(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    path.parent().map_or(Ok(()), sync)
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Makes names last: a rename is on the disk once its folder is.
pub(super) fn sync(path: &Path) -> Result<()> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    File::open(path)?.sync_all()?;
    Ok(())
}
