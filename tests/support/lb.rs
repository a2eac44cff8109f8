//! The built binary under test: started on ports of the system's choosing, ended by its process id.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use tempfile::TempDir;

use super::wait::{PATIENCE, wait_until};

/// A running `lb run`. Dropped: killed; its standard error is shown when the test fails.
pub struct Lb {
    child: Child,
    stderr: Arc<Stderr>,
    folder: TempDir,
    exited: Option<ExitStatus>,
}

/// What the binary wrote so far.
#[derive(Default)]
struct Stderr {
    state: Mutex<(Vec<String>, bool)>,
    changed: Condvar,
}

impl Lb {
    /// Starts it with this configuration, and waits until its admin listener is open. Use port 0
    /// everywhere.
    pub fn start(config: &str) -> Self {
        Self::start_with(config, &[], &[])
    }

    /// The same with further arguments and environment.
    pub fn start_with(config: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let lb = Self::spawn(config, arguments, environment);
        lb.address("admin");
        lb
    }

    /// Starts it without waiting for anything: for configurations that it should refuse.
    pub fn spawn(config: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lb.toml");
        std::fs::write(&path, config).unwrap();
        Self::spawn_in(folder, &path, arguments, environment)
    }

    /// Starts it under limits of open files, as arguments of `ulimit` (`-Sn 64`), and waits until
    /// its admin listener is open.
    pub fn start_limited(config: &str, limits: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lb.toml");
        std::fs::write(&path, config).unwrap();
        let limits: String = limits
            .iter()
            .map(|limit| format!("ulimit {limit} && "))
            .collect();
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(limits + "exec \"$0\" \"$@\"")
            .arg(env!("CARGO_BIN_EXE_lb"));
        command.arg("run").arg("--config").arg(&path);
        let lb = Self::launch(folder, command, &[]);
        lb.address("admin");
        lb
    }

    /// Starts it with a configuration file that others look after, and waits until its admin
    /// listener is open.
    pub fn start_file(path: &Path, arguments: &[&str]) -> Self {
        let lb = Self::spawn_in(tempfile::tempdir().unwrap(), path, arguments, &[]);
        lb.address("admin");
        lb
    }

    fn spawn_in(
        folder: TempDir,
        path: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
        command.arg("run").arg("--config").arg(path).args(arguments);
        Self::launch(folder, command, environment)
    }

    /// Starts it as `lb fabio` in `folder`, and waits until its admin listener is open. Its log is
    /// JSON, as elsewhere.
    pub fn start_fabio(folder: TempDir, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
        command
            .arg("fabio")
            .args(arguments)
            .env("LB_LOG_FORMAT", "json")
            .current_dir(folder.path());
        let lb = Self::launch(folder, command, environment);
        lb.address("admin");
        lb
    }

    fn launch(folder: TempDir, mut command: Command, environment: &[(&str, &str)]) -> Self {
        // What the developer's shell says about Consul must not reach the test.
        let foreign = |name: &str| {
            ["CONSUL_", "NOMAD_", "VAULT_", "LB_", "FABIO_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        };
        let set: Vec<_> = command
            .get_envs()
            .map(|(name, _)| name.to_owned())
            .collect();
        for (name, _) in
            std::env::vars().filter(|(name, _)| foreign(name) && !set.contains(&name.into()))
        {
            command.env_remove(name);
        }
        command.envs(environment.iter().copied());
        let stdout = std::fs::File::create(folder.path().join("stdout")).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = Arc::new(Stderr::default());
        let pipe = child.stderr.take().unwrap();
        let sink = Arc::clone(&stderr);
        std::thread::spawn(move || sink.fill(BufReader::new(pipe)));
        Self {
            child,
            stderr,
            folder,
            exited: None,
        }
    }

    /// Its folder, with `lb.toml` in it: rewrite that to test a reload.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Address of the first listener of this protocol (`http`, `https`, `tcp`, …), or of `admin`.
    pub fn address(&self, listener: &str) -> SocketAddr {
        self.addresses(listener, 1)[0]
    }

    /// Addresses of the first `count` listeners of this protocol, in the order of the
    /// configuration.
    pub fn addresses(&self, listener: &str, count: usize) -> Vec<SocketAddr> {
        self.stderr
            .wait(&format!("{count} listening: {listener}"), |lines| {
                let found: Vec<SocketAddr> = lines
                    .iter()
                    .filter_map(|line| listening(line, listener))
                    .collect();
                (found.len() >= count).then(|| found[..count].to_vec())
            })
    }

    /// Waits until a line of its log satisfies `wanted`, and returns that line.
    pub fn wait_for_line(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        self.stderr.wait(what, |lines| {
            lines.iter().find(|line| wanted(line)).cloned()
        })
    }

    /// Everything it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.state.lock().unwrap().0.join("\n")
    }

    /// Waits for a line on its standard output (the access log) that satisfies `wanted`, and
    /// returns it.
    pub fn wait_stdout(&self, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        wait_until(format!("{what} on standard output"), || {
            let text = std::fs::read_to_string(self.folder().join("stdout")).unwrap();
            let found = text.lines().find(|line| wanted(line)).map(str::to_owned);
            found.ok_or(text)
        })
    }

    /// Waits until `/ready` says 200.
    pub fn wait_ready(&self) {
        wait_until("200 at /ready", || match self.admin("/ready") {
            (200, _) => Ok(()),
            (status, body) => Err(format!("{status} {body}")),
        });
    }

    /// GETs a path of the admin listener.
    pub fn admin(&self, path: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(self.address("admin")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            socket,
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).unwrap();
        let answer = super::client::RawResponse::parse(&answer)
            .expect("a whole response of the admin listener");
        (
            answer.status,
            String::from_utf8_lossy(&answer.body).into_owned(),
        )
    }

    /// Waits until the admin page at `path` satisfies `wanted`, and returns it.
    pub fn wait_admin(&self, path: &str, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        wait_until(format!("{what} at {path}"), || {
            let (_, body) = self.admin(path);
            if wanted(&body) { Ok(body) } else { Err(body) }
        })
    }

    /// Value of one sample of `/metrics`, named as it is written there, labels included.
    pub fn metric(&self, sample: &str) -> Option<f64> {
        let (_, text) = self.admin("/metrics");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse().ok())
    }

    /// Sends SIGTERM once it has started: before that, which is after its listeners opened, a signal
    /// ends it without a drain.
    pub fn sigterm(&self) {
        self.wait_for_line("its start", |line| line.contains("lb started"));
        self.signal("TERM");
    }

    /// Sends SIGHUP.
    pub fn sighup(&self) {
        self.signal("HUP");
    }

    /// Sends a signal by its name without `SIG`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .unwrap();
        assert!(status.success(), "kill -s {name} {pid}: {status}");
    }

    /// Waits for its end and returns the exit code; none when a signal ended it.
    pub fn exit_code(&mut self) -> Option<i32> {
        let status = wait_until("the end of lb", || self.child.try_wait().unwrap());
        self.exited = Some(status);
        status.code()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Lb {
    fn drop(&mut self) {
        if self.exited.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- standard error of lb ---\n{}\n---", self.stderr());
        }
    }
}

impl Stderr {
    fn fill(&self, pipe: impl BufRead) {
        for line in pipe.lines().map_while(Result::ok) {
            self.state.lock().unwrap().0.push(line);
            self.changed.notify_all();
        }
        self.state.lock().unwrap().1 = true;
        self.changed.notify_all();
    }

    /// Waits until `look` finds something; panics when the binary ended without, or after
    /// [`PATIENCE`].
    fn wait<T>(&self, what: &str, look: impl Fn(&[String]) -> Option<T>) -> T {
        let begun = Instant::now();
        let mut state = self.state.lock().unwrap();
        loop {
            if let Some(found) = look(&state.0) {
                return found;
            }
            let left = PATIENCE.checked_sub(begun.elapsed());
            let why = if state.1 {
                "lb ended"
            } else {
                "lb wrote nothing of the kind"
            };
            let Some(left) = left.filter(|_| !state.1) else {
                let text = state.0.join("\n");
                drop(state);
                panic!("waiting for {what}: {why}:\n{text}");
            };
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }
}

/// The address in a log line about an open listener.
fn listening(line: &str, listener: &str) -> Option<SocketAddr> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let fields = if line["fields"].is_object() {
        &line["fields"]
    } else {
        &line
    };
    if fields["message"] != "listening" || fields["listener"] != listener {
        return None;
    }
    fields["address"].as_str()?.parse().ok()
}
