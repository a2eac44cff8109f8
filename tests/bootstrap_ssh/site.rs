//! Machines on a network of their own, the description of a cluster on them, and the binary that is
//! called with it.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::support::sshd::{Keys, Machine, Network, is_possible};

/// Longest wait for one call of the binary, and for what a test waits for itself.
pub const PATIENCE: Duration = Duration::from_secs(240);
const STEP: Duration = Duration::from_millis(20);
/// Pause between two looks of a watch.
const WATCH_STEP: Duration = Duration::from_millis(50);
/// What machines need of the one the tests run on.
const TOOLS: [&str; 7] = ["ssh", "sshd", "ip", "unshare", "nsenter", "consul", "curl"];

/// See the module.
pub struct Site {
    /// The machines, in the order of their addresses: `.11` and upwards.
    pub machines: Vec<Machine>,
    /// Holds the description and the state.
    pub dir: TempDir,
    /// The ssh configuration of who calls.
    pub config: String,
    prefix: String,
    lb: PathBuf,
    keys: Keys,
    network: Network,
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

impl Site {
    /// Starts so many machines; None, and a word on standard error, where that is not possible.
    /// `third` is the third part of their addresses.
    pub fn start(test: &str, third: u8, count: u16) -> Option<Self> {
        if !is_possible(test, &TOOLS) {
            return None;
        }
        let prefix = format!("10.88.{third}");
        let keys = Keys::make();
        let network = Network::make(&format!("lbs{third}"), &format!("{prefix}.1/24"));
        let machines: Vec<Machine> = std::thread::scope(|scope| {
            let start = |number: u16| {
                let (network, keys, address) =
                    (&network, &keys, format!("{prefix}.{}/24", 10 + number));
                scope.spawn(move || Machine::start(network, keys, number, &address))
            };
            let starts: Vec<_> = (1..=count).map(start).collect();
            starts
                .into_iter()
                .map(|start| start.join().unwrap())
                .collect()
        });
        let dir = tempfile::tempdir().unwrap();
        let mut site = Self {
            machines,
            config: String::new(),
            prefix,
            lb: lean(dir.path()),
            keys,
            network,
            dir,
        };
        site.introduce();
        Some(site)
    }

    /// Writes the ssh configuration for all machines there are.
    fn introduce(&mut self) {
        let hosts: Vec<(String, SocketAddr)> = self
            .machines
            .iter()
            .map(|machine| (machine.address.ip().to_string(), machine.address))
            .collect();
        let hosts: Vec<(&str, SocketAddr)> = hosts
            .iter()
            .map(|(alias, address)| (alias.as_str(), *address))
            .collect();
        self.config = self.keys.client(&hosts);
    }

    /// Another machine, as the next in the order, or in the place of one that is thrown away.
    pub fn replace(&mut self, index: usize) {
        let number = u16::try_from(index + 1).unwrap();
        if index < self.machines.len() {
            drop(self.machines.remove(index));
        }
        let address = format!("{}.{}/24", self.prefix, 10 + number);
        self.machines.insert(
            index,
            Machine::start(&self.network, &self.keys, number, &address),
        );
        self.introduce();
    }

    /// Address of the machine with this index.
    pub fn address(&self, index: usize) -> String {
        format!("{}.{}", self.prefix, 11 + index)
    }

    /// Addresses as a list of TOML.
    pub fn list(&self, machines: std::ops::Range<usize>) -> String {
        let addresses: Vec<String> = machines
            .map(|index| format!("\"{}\"", self.address(index)))
            .collect();
        format!("[{}]", addresses.join(", "))
    }

    /// Writes the description: these lines, then how to reach the machines.
    pub fn describe(&self, nodes: &str, ssh: &str, more: &str) {
        let text = format!(
            "target = \"ssh\"\nacl = false\n{nodes}\n[ssh]\noptions = [\"-F\", \"{}\"]\nparallel = 9\n{ssh}\n{more}\n",
            self.config
        );
        fs::write(self.dir.path().join("cluster.toml"), text).unwrap();
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
        let output = sender.recv_timeout(PATIENCE).unwrap_or_else(|_| {
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

    /// Asks an agent's API as the operator; empty when it does not answer.
    pub fn ask(&self, index: usize, port: u16, path: &str) -> String {
        let state = self.state();
        let file = |name: &str| state.join(name).to_string_lossy().into_owned();
        let url = format!("https://{}:{port}{path}", self.address(index));
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

/// Waits for something, for as long as a test may take.
#[track_caller]
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not so: {what}");
        sleep(STEP);
    }
}

/// Looks at something again and again, beside what else happens.
pub struct Watch<T> {
    stop: std::sync::Arc<AtomicBool>,
    thread: std::thread::JoinHandle<BTreeSet<T>>,
}

impl<T: Ord + Send + 'static> Watch<T> {
    /// Begins.
    pub fn begin(mut look: impl FnMut() -> Vec<T> + Send + 'static) -> Self {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = spawn(move || {
            let mut seen = BTreeSet::new();
            while !stopped.load(Ordering::Relaxed) {
                seen.extend(look());
                sleep(WATCH_STEP);
            }
            seen
        });
        Self { stop, thread }
    }

    /// Ends; all that was seen.
    pub fn end(self) -> BTreeSet<T> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Command lines of all processes of this machine, those in the machines made of it included.
pub fn command_lines() -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .collect()
}

/// Prints what must stay the same while nothing is changed: files, and processes. Logs grow, and
/// the sums of programs are remembered when they are first looked at.
pub const TOUCHED: &str = "find /etc/consul.d /etc/nomad.d /etc/lb /usr/local/bin /var/lib/lb-bootstrap -type f \
     ! -name '*.log' ! -name 'sums*' -printf '%p %i %T@ %m %u:%g\\n' 2>/dev/null | sort; \
     for f in /var/lib/lb-bootstrap/*.pid; do echo \"$f $(cat $f)\"; done";
