//! Where the sockets live through which commands to a node share one ssh connection.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::sync::{Mutex, MutexGuard};

use super::spec::sha256;

/// Where the folders are made. Not `$TMPDIR`: a path below it may be too long for a socket.
const BASE: &str = "/tmp";
/// How their names begin.
const PREFIX: &str = "lb-ssh-";
/// Locked for as long as the folder is in use.
const LOCK: &str = "lock";

/// Folder of those sockets. Cheap to clone; when the last clone goes, the connections are closed.
#[derive(Clone)]
pub struct ControlDir(Arc<Folder>);

struct Folder {
    path: PathBuf,
    /// Whether there is a terminal to prompt on.
    interactive: bool,
    /// Held while ssh prompts on the terminal.
    prompt: Mutex<()>,
    /// The system lets go of it when the process ends, however it ends.
    _lock: File,
}

impl ControlDir {
    /// Makes it, for this user alone. There are no prompts on the terminal unless standard input is
    /// one.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create() -> Result<Self> {
        let dice = fastrand::u32(..);
        let path = Path::new(BASE).join(format!("{PREFIX}{dice:08x}"));
        // Locked before it has its name: else another run might take it for abandoned.
        let new = Path::new(BASE).join(format!("lb-new-{dice:08x}"));
        let cannot = || format!("cannot make {}", path.display());
        DirBuilder::new()
            .mode(0o700)
            .create(&new)
            .with_context(cannot)?;
        let lock = File::create(new.join(LOCK)).with_context(cannot)?;
        lock.lock().with_context(cannot)?;
        fs::rename(&new, &path).with_context(cannot)?;
        remove_abandoned(lock.metadata().with_context(cannot)?.uid());
        let interactive = std::io::IsTerminal::is_terminal(&std::io::stdin());
        Ok(Self(Arc::new(Folder {
            path,
            interactive,
            prompt: Mutex::new(()),
            _lock: lock,
        })))
    }

    /// The socket of a node. Short, whatever the node is called: a socket's path has 100 bytes or
    /// so.
    pub(super) fn socket(&self, node: &str) -> String {
        self.0
            .path
            .join(&sha256(node.as_bytes())[..12])
            .to_string_lossy()
            .into_owned()
    }

    pub(super) fn is_interactive(&self) -> bool {
        self.0.interactive
    }

    /// The right to prompt on the terminal.
    pub(super) async fn prompt(&self) -> MutexGuard<'_, ()> {
        self.0.prompt.lock().await
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        close(&self.path);
    }
}

/// Ends the connections of a folder, and removes it.
fn close(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_socket()) {
            let control = format!("ControlPath={}", path.display());
            let mut command = Command::new("ssh");
            command.args(["-F", "/dev/null", "-o", &control, "-O", "exit", "master"]);
            let _ = command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
    }
    let _ = fs::remove_dir_all(folder);
}

/// Closes what runs of this user left behind that were killed: their connections would stay open
/// for minutes, and their folders for good.
fn remove_abandoned(user: u32) {
    for entry in fs::read_dir(BASE).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir() && meta.uid() == user);
        let lock = File::open(path.join(LOCK)).ok().filter(|_| is_ours);
        if lock.is_some_and(|lock| lock.try_lock().is_ok()) {
            close(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_a_killed_run_left_is_removed() {
        let left = Path::new(BASE).join(format!("{PREFIX}{:08x}", fastrand::u32(..)));
        DirBuilder::new().mode(0o700).create(&left).unwrap();
        File::create(left.join(LOCK)).unwrap();
        let held = ControlDir::create().unwrap();
        assert!(!left.exists());
        let _other = ControlDir::create().unwrap();
        assert!(held.0.path.exists(), "that of a run under way stays");
    }

    #[test]
    fn is_private_short_and_gone_at_the_end() {
        let control = ControlDir::create().unwrap();
        let path = control.0.path.clone();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        let socket = control.socket(&"long-name".repeat(20));
        // ssh appends 17 bytes while it makes the socket; the smallest limit of a system is 104.
        assert!(socket.len() + 17 < 104, "{socket}");
        assert_ne!(socket, control.socket("other"));
        let clone = control.clone();
        drop(control);
        assert!(path.exists());
        drop(clone);
        assert!(!path.exists());
    }
}
