//! A cluster made by the binary on this machine: `lb bootstrap` as a user runs it, in a state
//! folder and a loopback network of its own.
//!
//! Dropped, also by a test that fails, its agents are killed by the ids that the state folder
//! names.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::loopback::free_network;
use super::turn::Turn;
use super::wait::{PATIENCE, try_wait, wait_until};

/// A cluster: its description, its state folder, its network.
pub struct Cluster {
    dir: TempDir,
    network: [u8; 3],
    flags: Vec<String>,
    _turn: Turn,
}

/// What a command said, and how it ended.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Results.
    pub stdout: String,
    /// Text for people.
    pub stderr: String,
}

/// A command under way.
pub struct Running {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<String>>,
}

impl Cluster {
    /// Consul alone, on nine nodes; nothing is started yet.
    pub fn consul() -> Self {
        Self::with(&["--local", "--only", "consul"], None)
    }

    /// Consul alone, as this file describes it.
    pub fn described(file: &str) -> Self {
        Self::with(&["--local", "--only", "consul"], Some(file))
    }

    /// With these flags, and this description if there is one.
    pub fn with(flags: &[&str], file: Option<&str>) -> Self {
        let turn = Turn::of("clusters on this machine");
        let dir = tempfile::tempdir().unwrap();
        let network = free_network();
        let mut flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        if let Some(text) = file {
            fs::write(dir.path().join("cluster.toml"), text).unwrap();
            flags.extend([
                "--cluster".to_owned(),
                dir.path().join("cluster.toml").display().to_string(),
            ]);
        }
        let [a, b, c] = network;
        flags.extend(["--network".to_owned(), format!("{a}.{b}.{c}.0/24")]);
        flags.extend([
            "--state".to_owned(),
            dir.path().join("state").display().to_string(),
        ]);
        Self {
            dir,
            network,
            flags,
            _turn: turn,
        }
    }

    /// Describes it otherwise.
    pub fn describe(&self, text: &str) {
        fs::write(self.folder().join("cluster.toml"), text).unwrap();
    }

    /// Folder in which the state folder lies.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// A path in the state folder; the folder itself for "".
    pub fn state(&self, name: &str) -> PathBuf {
        let state = self.dir.path().join("state");
        if name.is_empty() {
            state
        } else {
            state.join(name)
        }
    }

    /// A path below a node's own folder.
    pub fn node(&self, node: &str, name: &str) -> PathBuf {
        self.state("nodes").join(node).join(name)
    }

    /// Text of a file in the state folder.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.state(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The address that the first node has, plus so much.
    pub fn address(&self, number: u8) -> Ipv4Addr {
        let [a, b, c] = self.network;
        Ipv4Addr::new(a, b, c, 11 + number)
    }

    /// `lb bootstrap WORDS`, with the flags that name this cluster.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
        command
            .arg("bootstrap")
            .args(words)
            .args(&self.flags)
            .current_dir(self.folder())
            .stdin(Stdio::null());
        // What the developer's shell says must not reach the test.
        for (name, _) in std::env::vars_os() {
            if ["CONSUL_", "NOMAD_", "LB_"]
                .iter()
                .any(|prefix| name.to_string_lossy().starts_with(prefix))
            {
                command.env_remove(name);
            }
        }
        command
    }

    /// Runs it to its end.
    pub fn run(&self, words: &[&str]) -> Ran {
        Ran::of(&mut self.command(words))
    }

    /// Starts it.
    pub fn start(&self, words: &[&str]) -> Running {
        Running::start(self.command(words))
    }

    /// `up --detach`, which has to end well.
    pub fn up(&self) -> Ran {
        self.run(&["up", "--detach"]).good()
    }

    /// What `env` prints, as a shell reads it.
    pub fn variables(&self) -> BTreeMap<String, String> {
        let printed = self.run(&["env"]).good().stdout;
        let script = format!("{printed}env -0");
        let output = Command::new("sh")
            .args(["-c", &script])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{printed}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        let pairs = text.split('\0').filter_map(|line| line.split_once('='));
        let own = |name: &str| name.starts_with("CONSUL_") || name.starts_with("NOMAD_");
        pairs
            .filter(|(name, _)| own(name))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// `consul WORDS` with the environment that `env` left in the state folder; its standard
    /// output.
    pub fn ask_consul(&self, words: &[&str]) -> Ran {
        let script = format!(". {}\nexec consul \"$@\"", self.state("env").display());
        let mut command = Command::new("sh");
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CONSUL_"))
        {
            command.env_remove(name);
        }
        Ran::of(
            command
                .args(["-c", &script, "consul"])
                .args(words)
                .stdin(Stdio::null()),
        )
    }

    /// What `consul keyring -list` prints once every member has responded: the question goes by
    /// gossip, and where one response is late the command fails.
    pub fn keyring(&self) -> String {
        let mut printed = String::new();
        wait_until("an answer of every member about its keys", || {
            let ran = self.ask_consul(&["keyring", "-list"]);
            printed = ran.stdout;
            ran.code == Some(0)
        });
        printed
    }

    /// The API of the node's Consul agent with the operator's certificate; status and body.
    pub fn api(
        &self,
        number: u8,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, String), String> {
        let mut curl = Command::new("curl");
        curl.args([
            "-sS",
            "--max-time",
            "10",
            "-w",
            "\n%{http_code}",
            "-X",
            method,
        ]);
        curl.arg("--cacert").arg(self.state("ca.pem"));
        curl.arg("--cert").arg(self.state("certs/operator.pem"));
        curl.arg("--key").arg(self.state("certs/operator-key.pem"));
        if let Some(body) = body {
            curl.args(["--data-binary", &body.to_string()]);
        }
        let output = curl
            .arg(format!("https://{}:8501{path}", self.address(number)))
            .output()
            .expect("curl");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, code) = text.rsplit_once('\n').ok_or("no status")?;
        Ok((code.parse().map_err(|_| "bad status")?, body.to_owned()))
    }

    /// Ids of the agents that run, by node and product.
    pub fn pids(&self) -> BTreeMap<String, u32> {
        let mut pids = BTreeMap::new();
        for node in fs::read_dir(self.state("nodes"))
            .into_iter()
            .flatten()
            .flatten()
        {
            for product in ["consul", "nomad"] {
                let file = node.path().join("run").join(format!("{product}.pid"));
                let Some(pid) = fs::read_to_string(file)
                    .ok()
                    .and_then(|text| text.trim().parse().ok())
                else {
                    continue;
                };
                if is_of(pid, &node.path()) {
                    pids.insert(
                        format!("{}/{product}", node.file_name().to_string_lossy()),
                        pid,
                    );
                }
            }
        }
        pids
    }

    /// Kills an agent at once, and waits until it is gone. `agent`: `NODE/PRODUCT`.
    pub fn kill(&self, agent: &str) {
        let pid = *self
            .pids()
            .get(agent)
            .unwrap_or_else(|| panic!("{agent} does not run"));
        signal(pid, "KILL");
        wait_until(format!("the end of {agent}"), || is_gone(pid));
    }

    /// Every secret in the state folder.
    pub fn secrets(&self) -> Vec<String> {
        fn values(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::String(text) => found.push(text.clone()),
                Value::Array(list) => list.iter().for_each(|value| values(value, found)),
                Value::Object(map) => map.iter().for_each(|(_, value)| values(value, found)),
                _ => {}
            }
        }
        let mut found = vec![self.read("client.pfx.password").trim().to_owned()];
        for file in ["gossip.json", "tokens.json"] {
            if let Ok(text) = fs::read_to_string(self.state(file)) {
                values(&serde_json::from_str(&text).unwrap(), &mut found);
            }
        }
        for file in files(&self.state(""))
            .into_iter()
            .filter(|file| file.ends_with("key.pem"))
        {
            let text = fs::read_to_string(self.state("").join(file)).unwrap();
            found.extend(
                text.lines()
                    .filter(|line| !line.starts_with("---"))
                    .map(str::to_owned),
            );
        }
        found.retain(|secret| secret.len() > 8);
        found
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in fs::read_dir(self.state("nodes"))
                .into_iter()
                .flatten()
                .flatten()
            {
                for log in ["consul.log", "nomad.log"] {
                    let text =
                        fs::read_to_string(node.path().join("run").join(log)).unwrap_or_default();
                    let telling = |line: &&str| {
                        !line.contains("skipping file") && !line.contains("using keyring")
                    };
                    let last: Vec<&str> = text.lines().rev().filter(telling).take(5).collect();
                    for line in last.iter().rev() {
                        eprintln!("{}: {line}", node.file_name().to_string_lossy());
                    }
                }
            }
        }
        // A process that was just being started may write its id a little later.
        for _ in 0..3 {
            for pid in self.pids().into_values() {
                signal(pid, "KILL");
            }
            sleep(Duration::from_millis(20));
        }
    }
}

impl Ran {
    /// Runs a command to its end.
    pub fn of(command: &mut Command) -> Self {
        let output = command
            .output()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }

    /// Itself, if it ended with this code.
    pub fn ended(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "--- stdout\n{}\n--- stderr\n{}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// Itself, if it ended well.
    pub fn good(self) -> Self {
        self.ended(0)
    }

    /// Itself, if all these are in what it told people.
    pub fn says(self, wanted: &[&str]) -> Self {
        let missing: Vec<_> = wanted
            .iter()
            .filter(|text| !self.stderr.contains(**text))
            .collect();
        assert!(missing.is_empty(), "{missing:?} not said:\n{}", self.stderr);
        self
    }

    /// Its result as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

impl Running {
    /// Starts a command.
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let sink = Arc::clone(&lines);
        let readers = vec![
            std::thread::spawn(move || std::io::read_to_string(stdout).unwrap_or_default()),
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    sink.lock().unwrap().push(line);
                }
                String::new()
            }),
        ];
        Self {
            child,
            lines,
            readers,
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it told people so far.
    pub fn said(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    /// Waits until it said this; panics when it ended without.
    pub fn wait_for(&mut self, text: &str) {
        wait_until(format!("{text:?}"), || {
            let ended = self.child.try_wait().unwrap().is_some();
            let said = self.said();
            if said.contains(text) {
                return Ok(());
            }
            assert!(!ended, "it ended without {text:?}:\n{said}");
            Err(said)
        });
    }

    /// Whether it has ended.
    pub fn is_over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Kills it at once, as kill -9 does.
    pub fn kill(mut self) -> Ran {
        let _ = self.child.kill();
        self.end()
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ran {
        let ended = try_wait(PATIENCE * 2, "the end of the command", || {
            self.child.try_wait().unwrap()
        });
        let status = ended.unwrap_or_else(|unseen| {
            let _ = self.child.kill();
            panic!("{unseen}\n{}", self.said());
        });
        let stderr = self.readers.pop().unwrap();
        let stdout = self.readers.pop().unwrap().join().unwrap();
        stderr.join().unwrap();
        Ran {
            code: status.code(),
            stdout,
            stderr: self.said(),
        }
    }
}

/// Sends a signal by its name without `SIG`; a process that is gone is not a failure.
pub fn signal(pid: u32, name: &str) {
    let _ = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .stderr(Stdio::null())
        .status();
}

/// Whether this process runs, and its command line names the folder.
fn is_of(pid: u32, folder: &Path) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&command).contains(&*folder.to_string_lossy())
}

/// Whether the process has ended; one that is not waited for yet counts as ended.
pub fn is_gone(pid: u32) -> bool {
    // Its memory goes before its sockets, so an empty command line would be too early.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_none_or(|(_, state)| state.starts_with(['Z', 'X']))
}

/// All files below a folder, relative to it, sorted.
pub fn files(folder: &Path) -> Vec<String> {
    fn walk(folder: &Path, below: &str, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = format!("{below}{}", entry.file_name().to_string_lossy());
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => walk(&entry.path(), &format!("{name}/"), found),
                _ => found.push(name),
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, "", &mut found);
    found.sort();
    found
}
