//! Where the sockets live through which commands to a node share one ssh connection.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::sync::{Mutex, MutexGuard};

use super::super::spec::sha256;

/// Folder of those sockets. Cheap to clone; when the last clone goes, the connections are closed.
#[derive(Clone)]
pub struct ControlDir(Arc<Folder>);

struct Folder {
    path: PathBuf,
    /// Whether there is somebody to ask.
    interactive: bool,
    /// Held while ssh asks something on the terminal.
    prompt: Mutex<()>,
}

impl ControlDir {
    /// Makes it, for this user alone. Nothing is asked on the terminal unless standard input is one.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create() -> Result<Self> {
        // Not $TMPDIR: a path below it is too long for a socket on macOS.
        let path = Path::new("/tmp").join(format!("lb-{:08x}", fastrand::u32(..)));
        DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let interactive = std::io::IsTerminal::is_terminal(&std::io::stdin());
        Ok(Self(Arc::new(Folder { path, interactive, prompt: Mutex::new(()) })))
    }

    /// The socket of a node. Short, whatever the node is called: a socket's path has 100 bytes or so.
    pub(super) fn socket(&self, node: &str) -> String {
        self.0.path.join(&sha256(node.as_bytes())[..12]).to_string_lossy().into_owned()
    }

    pub(super) fn is_interactive(&self) -> bool {
        self.0.interactive
    }

    /// The right to ask something on the terminal.
    pub(super) async fn prompt(&self) -> MutexGuard<'_, ()> {
        self.0.prompt.lock().await
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none() {
                let control = format!("ControlPath={}", path.display());
                let mut command = Command::new("ssh");
                command.args(["-F", "/dev/null", "-o", &control, "-O", "exit", "master"]);
                let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
            }
        }
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn is_private_short_and_gone_at_the_end() {
        let control = ControlDir::create().unwrap();
        let path = control.0.path.clone();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let socket = control.socket(&"long-name".repeat(20));
        // ssh appends 17 bytes while it makes the socket; macOS takes 104 in all.
        assert!(socket.len() + 17 < 104, "{socket}");
        assert_ne!(socket, control.socket("other"));
        let clone = control.clone();
        drop(control);
        assert!(path.exists());
        drop(clone);
        assert!(!path.exists());
    }
}
