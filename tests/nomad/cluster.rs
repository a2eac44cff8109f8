//! Nine nodes on loopback addresses of their own, made and looked after by the binary as a user
//! calls it, and looked at by the real command-line tools.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::loopback::free_network;
use crate::support::turn::Turn;
use crate::support::wait::{PATIENCE, try_wait};

/// Pause between two looks of a watch.
const WATCH_STEP: Duration = Duration::from_millis(20);

/// The nodes, in the order of their addresses.
pub(super) const NODES: [&str; 9] = [
    "consul-0",
    "consul-1",
    "consul-2",
    "nomad-server-0",
    "nomad-server-1",
    "nomad-server-2",
    "nomad-client-0",
    "nomad-client-1",
    "nomad-client-2",
];

/// A cluster that is perhaps not up yet. Dropped: whatever still runs of it is killed, its mounts
/// are unmounted.
pub(super) struct Nine {
    dir: TempDir,
    network: [u8; 3],
    acl: bool,
    nomad: PathBuf,
    consul: PathBuf,
    _turn: Turn,
}

/// A thread that counts daemons.
pub(super) struct Watch {
    go_on: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

/// How a command ended.
pub(super) struct Done {
    /// Exit code.
    pub(super) code: Option<i32>,
    /// What it printed.
    pub(super) stdout: String,
    /// What it told people.
    pub(super) stderr: String,
}

impl Nine {
    /// Finds it a network; starts nothing.
    pub(super) fn new(nomad: PathBuf, acl: bool) -> Self {
        let turn = Turn::of("nine nodes");
        let consul =
            env::var_os("CONSUL_BIN").map_or_else(|| PathBuf::from("consul"), PathBuf::from);
        Self {
            dir: tempfile::tempdir().unwrap(),
            network: free_network(),
            acl,
            nomad,
            consul,
            _turn: turn,
        }
    }

    /// Its state folder.
    pub(super) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A place for files of the test.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Address of a node.
    pub(super) fn address(&self, node: &str) -> Ipv4Addr {
        let [a, b, c] = self.network;
        let place = NODES
            .iter()
            .position(|name| *name == node)
            .expect("one of the nine");
        Ipv4Addr::new(a, b, c, 11 + u8::try_from(place).unwrap())
    }

    /// The lb that the system job runs on a client.
    pub(super) fn lb_at(&self, client: &str) -> SocketAddr {
        SocketAddr::new(self.address(client).into(), 9999)
    }

    /// `lb bootstrap WORDS`, ready to run, with the programs that the environment names.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = self.command_alone(words);
        for (flag, variable) in [("--consul-bin", "CONSUL_BIN"), ("--nomad-bin", "NOMAD_BIN")] {
            if let (Some(path), false) = (env::var_os(variable), words.contains(&flag)) {
                command.arg(flag).arg(path);
            }
        }
        command
    }

    /// The same without saying where programs are.
    pub(super) fn command_alone(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
        let [a, b, c] = self.network;
        command.arg("bootstrap").args(words).arg("--local");
        command
            .arg("--state")
            .arg(self.state())
            .arg("--network")
            .arg(format!("{a}.{b}.{c}.0/24"));
        if self.acl {
            command.arg("--acl");
        }
        command.stdin(Stdio::null());
        command
    }

    /// `lb bootstrap WORDS`.
    pub(super) fn run(&self, words: &[&str]) -> Done {
        let begun = Instant::now();
        let done = Done::from(self.command(words).output().unwrap());
        eprintln!(
            "lb bootstrap {}: {:.1} s",
            words.join(" "),
            begun.elapsed().as_secs_f64()
        );
        done
    }

    /// The same, which has to go well; what it told.
    pub(super) fn good(&self, words: &[&str]) -> String {
        self.run(words).good(&words.join(" "))
    }

    /// What `lb bootstrap env` exports.
    pub(super) fn exports(&self) -> BTreeMap<String, String> {
        let done = Done::from(self.command(&["env", "--json"]).output().unwrap());
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        serde_json::from_str(&done.stdout).unwrap()
    }

    /// The real tool with what `env` exports.
    pub(super) fn tool(&self, tool: &str, words: &[&str]) -> Done {
        let program = if tool == "nomad" {
            &self.nomad
        } else {
            &self.consul
        };
        let mut command = Command::new(program);
        for (name, _) in env::vars()
            .filter(|(name, _)| name.starts_with("CONSUL_") || name.starts_with("NOMAD_"))
        {
            command.env_remove(name);
        }
        Done::from(command.args(words).envs(self.variables()).output().unwrap())
    }

    /// `nomad WORDS`, which has to go well; what it printed.
    pub(super) fn nomad(&self, words: &[&str]) -> String {
        let done = self.tool("nomad", words);
        assert_eq!(
            done.code,
            Some(0),
            "nomad {words:?}: {}{}",
            done.stdout,
            done.stderr
        );
        done.stdout
    }

    /// `consul WORDS`, likewise.
    pub(super) fn consul(&self, words: &[&str]) -> String {
        let done = self.tool("consul", words);
        assert_eq!(
            done.code,
            Some(0),
            "consul {words:?}: {}{}",
            done.stdout,
            done.stderr
        );
        done.stdout
    }

    /// A response of Nomad's API to the operator; none while there is no leader.
    pub(super) fn nomad_api(&self, path: &str) -> Option<Value> {
        let exports = self.variables();
        self.api(
            [
                "NOMAD_ADDR",
                "NOMAD_CACERT",
                "NOMAD_CLIENT_CERT",
                "NOMAD_CLIENT_KEY",
            ],
            path,
            |command| {
                if let Some(token) = exports.get("NOMAD_TOKEN") {
                    command.args(["--header", &format!("X-Nomad-Token: {token}")]);
                }
            },
        )
    }

    /// A response of Consul's API, likewise.
    pub(super) fn consul_api(&self, path: &str) -> Option<Value> {
        let exports = self.variables();
        self.api(
            [
                "CONSUL_HTTP_ADDR",
                "CONSUL_CACERT",
                "CONSUL_CLIENT_CERT",
                "CONSUL_CLIENT_KEY",
            ],
            path,
            |command| {
                if let Some(token) = exports.get("CONSUL_HTTP_TOKEN") {
                    command.args(["--header", &format!("X-Consul-Token: {token}")]);
                }
            },
        )
    }

    /// By `curl`: the tools take seconds of CPU for as many looks.
    fn api(&self, names: [&str; 4], path: &str, with: impl FnOnce(&mut Command)) -> Option<Value> {
        let exports = self.variables();
        let [address, ca, cert, key] = names.map(|name| exports[name].as_str());
        let mut command = Command::new("curl");
        command.args([
            "--silent",
            "--fail",
            "--max-time",
            "5",
            "--cacert",
            ca,
            "--cert",
            cert,
            "--key",
            key,
        ]);
        with(&mut command);
        let output = command.arg(format!("{address}{path}")).output().unwrap();
        serde_json::from_slice(&output.stdout).ok()
    }

    /// What the file `env` in the state folder exports.
    fn variables(&self) -> BTreeMap<String, String> {
        let text = fs::read_to_string(self.state().join("env")).unwrap();
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix("export ")?.split_once('='));
        lines
            .map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned()))
            .collect()
    }

    /// The program that the nodes run, wherever PATH has it.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        let given = if name == "nomad" {
            &self.nomad
        } else {
            &self.consul
        };
        let path = env::var_os("PATH").unwrap_or_default();
        let mut places = env::split_paths(&path).map(|folder| folder.join(given));
        if given.components().count() > 1 {
            given.clone()
        } else {
            places.find(|place| place.is_file()).expect(name)
        }
    }

    /// Process id of a node's daemon, as its state folder notes it; none when it does not run.
    pub(super) fn pid(&self, node: &str, product: &str) -> Option<u32> {
        pid(&self.state(), node, product)
    }

    /// All daemons that run, with their process ids.
    pub(super) fn daemons(&self) -> BTreeMap<String, u32> {
        daemons(&self.state())
    }

    /// Looks all the time at how many daemons run, until the end of the returned watch.
    pub(super) fn watch_daemons(&self) -> Watch {
        let (state, go_on) = (self.state(), Arc::new(AtomicBool::new(true)));
        let goes_on = Arc::clone(&go_on);
        let thread = std::thread::spawn(move || {
            let mut fewest = usize::MAX;
            while goes_on.load(Relaxed) {
                fewest = fewest.min(daemons(&state).len());
                sleep(WATCH_STEP);
            }
            fewest
        });
        Watch { go_on, thread }
    }

    /// Everything that runs on behalf of the cluster: daemons, and tasks with their executors, by
    /// process id.
    pub(super) fn processes(&self) -> BTreeMap<u32, String> {
        processes_of(self.dir.path())
    }

    /// What is mounted below its state.
    pub(super) fn mounts(&self) -> Vec<String> {
        mounts_below(self.dir.path())
    }

    /// SIGKILL to one daemon.
    pub(super) fn kill(&self, node: &str, product: &str) {
        let pid = self
            .pid(node, product)
            .unwrap_or_else(|| panic!("{product} does not run on {node}"));
        kill(pid);
    }

    /// SIGKILL to all that runs on a node: as if its power had gone.
    pub(super) fn kill_node(&self, node: &str) {
        // Twice: the first round may let something be started.
        for _ in 0..2 {
            for pid in processes_of(&self.state().join("nodes").join(node)).into_keys() {
                kill(pid);
            }
        }
    }

    /// Waits for something; `what` is told when it is not seen.
    pub(super) fn wait<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        try_wait(PATIENCE * 2, what, look).unwrap_or_else(|unseen| {
            panic!(
                "{unseen}
{}",
                self.tell()
            )
        })
    }

    /// What is known of the cluster, for a test that failed.
    fn tell(&self) -> String {
        let status = self.run(&["status"]);
        let jobs = self.tool("nomad", &["status"]);
        format!(
            "{}{}{}{}",
            status.stdout, status.stderr, jobs.stdout, jobs.stderr
        )
    }
}

impl Watch {
    /// The fewest daemons that ever ran at once.
    pub(super) fn fewest(self) -> usize {
        self.go_on.store(false, Relaxed);
        self.thread.join().unwrap()
    }
}

impl Done {
    /// What was told; panics unless it went well.
    pub(super) fn good(self, what: &str) -> String {
        assert_eq!(
            self.code,
            Some(0),
            "{what}:\n{}{}",
            self.stdout,
            self.stderr
        );
        self.stderr
    }
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

impl Drop for Nine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            keep_logs(&self.state());
        }
        // Whatever is killed may be about to start something.
        for _ in 0..3 {
            for pid in self.processes().into_keys() {
                kill(pid);
            }
        }
        for place in self.mounts().iter().rev() {
            let _ = Command::new("umount")
                .args(["-l", place])
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// The ends of all logs of daemons, on standard error.
fn keep_logs(state: &Path) {
    for node in NODES {
        for product in ["consul", "nomad"] {
            let log = fs::read_to_string(
                state
                    .join("nodes")
                    .join(node)
                    .join("run")
                    .join(format!("{product}.log")),
            );
            let Ok(log) = log else { continue };
            let bad: Vec<&str> = log
                .lines()
                .filter(|line| line.contains("[ERR") || line.contains("[WARN"))
                .rev()
                .take(6)
                .collect();
            eprintln!(
                "--- {node} {product} ---\n{}",
                bad.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
    }
}

fn daemons(state: &Path) -> BTreeMap<String, u32> {
    let both = NODES
        .iter()
        .flat_map(|node| [(node, "consul"), (node, "nomad")]);
    both.filter_map(|(node, product)| {
        Some((format!("{node}/{product}"), pid(state, node, product)?))
    })
    .collect()
}

fn pid(state: &Path, node: &str, product: &str) -> Option<u32> {
    let file = state
        .join("nodes")
        .join(node)
        .join("run")
        .join(format!("{product}.pid"));
    let pid = fs::read_to_string(file).ok()?.trim().parse().ok()?;
    // An ended process may have left its number to another.
    command_line(pid)
        .contains(&*state.to_string_lossy())
        .then_some(pid)
}

/// SIGKILL.
fn kill(pid: u32) {
    let _ = Command::new("kill")
        .args(["-KILL", &pid.to_string()])
        .stderr(Stdio::null())
        .status();
}

/// Processes that name something below a folder in their command line, or work in it.
fn processes_of(folder: &Path) -> BTreeMap<u32, String> {
    let below = format!("{}/", folder.display());
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let own = std::process::id();
    pids.filter(|pid| *pid != own)
        .filter_map(|pid| {
            let command = command_line(pid);
            let within = fs::read_link(format!("/proc/{pid}/cwd"))
                .is_ok_and(|cwd| format!("{}/", cwd.display()).starts_with(&below));
            let holds = || {
                let files = fs::read_dir(format!("/proc/{pid}/fd"))
                    .into_iter()
                    .flatten()
                    .flatten();
                files
                    .filter_map(|file| fs::read_link(file.path()).ok())
                    .any(|to| to.starts_with(folder))
            };
            // Nomad's collectors of logs name nothing: they hold files.
            let logs = || command.contains(" logmon") && holds();
            (within || command.contains(&below) || logs()).then_some((pid, command))
        })
        .collect()
}

fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

fn mounts_below(folder: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    places
        .filter(|place| Path::new(place).starts_with(folder))
        .map(str::to_owned)
        .collect()
}
