//! The operator of a cluster over ssh: a description, an ssh configuration, and the binary that is
//! called with them.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::spawn;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::wait::{PATIENCE, try_wait};

/// Longest wait for one call of the binary, and for what comes of several.
pub const CALL: Duration = PATIENCE.saturating_mul(4);

/// See the module.
pub struct Operator {
    /// Holds the description and the state.
    pub dir: TempDir,
    /// The ssh configuration, a file.
    pub config: String,
    lb: PathBuf,
}

/// How a call ended.
pub struct Ended {
    /// Exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Ended {
    /// Fails the test unless it ended with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        self
    }

    /// Fails the test unless standard error holds all of these.
    #[track_caller]
    pub fn tells(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.err.contains(text), "{text:?} is not in:\n{}", self.err);
        }
        self
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}

impl Operator {
    /// Without an ssh configuration yet.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            config: String::new(),
            lb: lean(dir.path()),
            dir,
        }
    }

    /// Writes the description: these lines, then how to reach the machines.
    pub fn describe(&self, nodes: &str, ssh: &str, more: &str) {
        self.describe_all(&format!("acl = false\n{nodes}"), ssh, more);
    }

    /// The same, with nothing said of ACLs.
    pub fn describe_all(&self, nodes: &str, ssh: &str, more: &str) {
        let text = format!(
            "target = \"ssh\"\n{nodes}\n[ssh]\noptions = [\"-F\", \"{}\"]\nparallel = 9\n{ssh}\n{more}\n",
            self.config
        );
        fs::write(self.dir.path().join("cluster.toml"), text).unwrap();
    }

    /// A file beside the description.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The state folder.
    pub fn state(&self) -> PathBuf {
        self.dir.path().join("cluster.state")
    }

    /// `lb bootstrap …` about the cluster, to be started.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(&self.lb);
        command.arg("bootstrap").args(arguments.split_whitespace());
        command
            .arg("--cluster")
            .arg(self.dir.path().join("cluster.toml"));
        let ours = |name: &str| {
            ["CONSUL_", "NOMAD_", "LB_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        };
        for (name, _) in std::env::vars().filter(|(name, _)| ours(name)) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null());
        command
    }

    /// The same, to its end.
    pub fn lb(&self, arguments: &str) -> Ended {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let begun = Instant::now();
        let (ended, sender) = std::sync::mpsc::channel();
        let child = command.spawn().unwrap();
        let id = child.id().to_string();
        spawn(move || ended_is_told(child, &ended));
        let output = sender.recv_timeout(CALL).unwrap_or_else(|_| {
            let _ = Command::new("kill").args(["-KILL", &id]).status();
            panic!("lb bootstrap {arguments} does not end")
        });
        let ended = Ended::from(output);
        // Of use when it has failed, or takes too long.
        eprintln!(
            "lb bootstrap {arguments} ({:.1} s):\n{}",
            begun.elapsed().as_secs_f64(),
            ended.err
        );
        ended
    }

    /// The same, in the background, with all it starts in a process group of its own; its words go
    /// to a file.
    pub fn spawn(&self, arguments: &str) -> Child {
        let mut command = self.command(arguments);
        let said = fs::File::create(self.dir.path().join("said")).unwrap();
        command.stdout(Stdio::null()).stderr(said).process_group(0);
        command.spawn().unwrap()
    }

    /// What the last call in the background has said so far.
    pub fn said(&self) -> String {
        fs::read_to_string(self.dir.path().join("said")).unwrap()
    }

    /// Requests a path of an agent's API as the operator; empty when it does not respond.
    pub fn ask(&self, address: &str, port: u16, path: &str) -> String {
        let state = self.state();
        let file = |name: &str| state.join(name).to_string_lossy().into_owned();
        let url = format!("https://{address}:{port}{path}");
        let operator = match port {
            4646 => "operator-nomad",
            _ => "operator",
        };
        let mut curl = Command::new("curl");
        curl.args([
            "-s",
            "-f",
            "--max-time",
            "3",
            "--cacert",
            &file("ca.pem"),
            "--cert",
            &file(&format!("certs/{operator}.pem")),
        ]);
        let out = curl
            .args(["--key", &file(&format!("certs/{operator}-key.pem")), &url])
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

fn ended_is_told(child: Child, ended: &std::sync::mpsc::Sender<Output>) {
    let _ = ended.send(child.wait_with_output().unwrap());
}

/// The binary without what debuggers need of it: it is copied to machines, and is three times as
/// large with that.
fn lean(dir: &Path) -> PathBuf {
    let (built, lean) = (PathBuf::from(env!("CARGO_BIN_EXE_lb")), dir.join("lb"));
    let stripped = Command::new("strip")
        .arg("-o")
        .arg(&lean)
        .arg(&built)
        .status();
    if stripped.is_ok_and(|status| status.success()) {
        lean
    } else {
        built
    }
}

/// Waits for something that takes several calls of the binary.
#[track_caller]
pub fn wait_for(what: &str, is_so: impl FnMut() -> bool) {
    if let Err(unseen) = try_wait(CALL, what, is_so) {
        panic!("{unseen}");
    }
}
