//! Whole machines with a real systemd as their first process, an sshd, users and sudo, on a network
//! of their own.
//!
//! A machine is a container of `systemd-nspawn` over the base that `scripts/systemd-base` makes;
//! what is written there goes with it. It has a network namespace and a cgroup of its own, and is
//! not registered anywhere: the machine the tests run on need not be run by systemd.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::sshd::{self, Keys, Link, Network, wait_open};

/// Longest wait for a machine to come up or to go down.
const PATIENCE: Duration = Duration::from_secs(120);
const STEP: Duration = Duration::from_millis(50);
/// Where sshd listens in a machine.
const PORT: u16 = 22;
/// What machines need of the one the tests run on.
const TOOLS: [&str; 5] = ["ssh", "ip", "unshare", "nsenter", "systemd-nspawn"];

/// Runs a machine until it is off or standard input ends, which happens when the test ends, however
/// it ends. Takes a cgroup, the base, a folder for the files, a name and a network namespace.
///
/// The cgroup is ours by its name: what is in it before the start is left of a test that was
/// killed. Everything that runs in a machine goes with its first process.
const GUARD: &str = r#"
cgroup=$1 base=$2 dir=$3 name=$4 namespace=$5
exec 3<&0 </dev/null 2>>"$dir/console"
clear_cgroup() {
  n=0
  while [ -d "$cgroup" ] && [ $n -lt 100 ]; do
    [ ! -e "$cgroup/cgroup.kill" ] || echo 1 >"$cgroup/cgroup.kill"
    find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null
    n=$((n + 1))
    [ ! -d "$cgroup" ] || sleep 0.05
  done
}
clear_cgroup
mkdir "$cgroup" || exit 1
# Each step takes the place of the one before, so that the process id is that of systemd-nspawn.
SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 sh -c '
  echo $$ >"$1/cgroup.procs" && exec unshare --mount sh -c "
    mount -t overlay overlay -o \"lowerdir=\$1,upperdir=\$2/upper,workdir=\$2/work\" \"\$2/root\" || exit 1
    exec systemd-nspawn -q -D \"\$2/root\" --boot --register=no --keep-unit --machine=\"\$3\" \
      --network-namespace-path=\"/run/netns/\$4\" --console=pipe --capability=all \
      --resolv-conf=off --timezone=off --link-journal=no
  " sh "$2" "$3" "$4" "$5"
' sh "$cgroup" "$base" "$dir" "$name" "$namespace" 3<&- >>"$dir/console" 2>&1 &
machine=$!
echo $machine >"$dir/pid"
(read -r _ <&3; kill -KILL $machine) &
watch=$!
exec 3<&-
wait $machine
kill $watch 2>/dev/null
clear_cgroup
"#;

/// Whether such machines, and these tools, are there; says on standard error what a test lacks.
pub fn is_possible(test: &str, tools: &[&str]) -> bool {
    if !sshd::is_possible(test, &[&TOOLS, tools].concat()) {
        return false;
    }
    let Some(missing) = missing() else {
        return true;
    };
    // Not by `eprintln`, which is captured where a test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: it needs {missing}");
    false
}

fn missing() -> Option<&'static str> {
    if !base().is_dir() {
        return Some("the base of machines with systemd (scripts/install-test-tools.sh makes it)");
    }
    let Some(cgroups) = cgroups() else {
        return Some("a cgroup tree of version 2");
    };
    let probe = cgroups.join(format!("lb-probe-{}", std::process::id()));
    if fs::create_dir(&probe).is_err() {
        return Some("the right to make cgroups");
    }
    let _ = fs::remove_dir(&probe);
    let dir = tempfile::tempdir().unwrap();
    make_folders(dir.path());
    let script = format!(
        "mount -t overlay overlay -o lowerdir={},upperdir={dir}/upper,workdir={dir}/work {dir}/root",
        base().display(),
        dir = dir.path().display()
    );
    let mounted = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .stderr(Stdio::null())
        .status();
    match mounted.is_ok_and(|status| status.success()) {
        true => None,
        false => Some("the right to mount an overlay (CAP_SYS_ADMIN)"),
    }
}

/// The folder that `scripts/systemd-base` makes.
fn base() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/systemd-base");
    let out = Command::new(script).arg("path").output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().into()
}

/// Where the cgroup tree of version 2 is mounted.
fn cgroups() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[2] == "cgroup2").then(|| words[1].into())
    })
}

fn make_folders(dir: &Path) {
    for folder in ["upper", "work", "root"] {
        fs::create_dir(dir.join(folder)).unwrap();
        fs::set_permissions(dir.join(folder), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// A machine with an sshd on its address, port 22, for root, `op` (sudo without a password) and
/// `pw` (sudo with one). Dropped: all its processes, its network and its files are gone.
pub struct SystemdMachine {
    /// Where its sshd listens.
    pub address: SocketAddr,
    /// The shell that runs [`GUARD`], while the machine is on.
    guard: Option<Child>,
    link: Link,
    dir: TempDir,
}

impl SystemdMachine {
    /// Starts one under a number (unique on its network, below 1000) with an address as
    /// `10.88.34.11/24`.
    pub fn start(network: &Network, keys: &Keys, number: u16, address: &str) -> Self {
        let link = Link::make(network, number, address);
        let dir = tempfile::tempdir().unwrap();
        make_folders(dir.path());
        let etc = dir.path().join("upper/etc");
        fs::create_dir_all(etc.join("ssh")).unwrap();
        let write = |name: &str, mode: u32, content: &str| {
            fs::write(etc.join(name), content).unwrap();
            fs::set_permissions(etc.join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        let key = |name: &str| fs::read_to_string(keys.path(name)).unwrap();
        let name = &link.namespace;
        write("hostname", 0o644, &format!("{name}\n"));
        // sudo looks for the machine's own name, and would wait for a name server.
        write("hosts", 0o644, &format!("127.0.0.1 localhost {name}\n"));
        write("ssh/ssh_host_ed25519_key", 0o600, &key("host"));
        write("ssh/authorized_keys", 0o644, &key("user.pub"));
        let mut machine = Self {
            address: SocketAddr::new(link.ip.into(), PORT),
            guard: None,
            link,
            dir,
        };
        machine.boot();
        machine
    }

    /// Switches it on; ready for connections, and all its services are started.
    pub fn boot(&mut self) {
        assert!(self.guard.is_none(), "{} is on", self.address);
        let name = &self.link.namespace;
        let cgroup = cgroups().unwrap().join(format!("lb-{name}"));
        let _ = fs::remove_file(self.dir.path().join("pid"));
        let guard = Command::new("sh")
            .args(["-c", GUARD, "sh"])
            .args([&cgroup, &base(), self.dir.path()])
            .args([name, name])
            .stdin(Stdio::piped())
            .spawn();
        self.guard = Some(guard.unwrap());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let state = self.state();
            // Degraded: something of the base does not start here. It is none of what is tested.
            if ["running", "degraded"].contains(&state.as_str()) {
                break;
            }
            assert!(
                Instant::now() < deadline && !self.is_off(),
                "{} does not come up: {state}\n{}",
                self.address,
                self.console()
            );
            sleep(STEP);
        }
        wait_open(self.address);
    }

    /// What systemd says of the machine; empty while there is none.
    fn state(&self) -> String {
        let Some(mut command) = self.inside() else {
            return String::new();
        };
        let out = command.args(["systemctl", "is-system-running"]).output();
        String::from_utf8_lossy(&out.unwrap().stdout)
            .trim()
            .to_owned()
    }

    /// What was printed on its console.
    pub fn console(&self) -> String {
        fs::read_to_string(self.dir.path().join("console")).unwrap_or_default()
    }

    fn is_off(&mut self) -> bool {
        match &mut self.guard {
            Some(guard) => guard.try_wait().unwrap().is_some(),
            None => true,
        }
    }

    /// Switches it off as its operator would: all its services are stopped first.
    pub fn stop(&mut self) {
        self.run("systemctl poweroff --no-block");
        let deadline = Instant::now() + PATIENCE;
        while !self.is_off() {
            assert!(
                Instant::now() < deadline,
                "{} does not go down\n{}",
                self.address,
                self.console()
            );
            sleep(STEP);
        }
        self.guard = None;
    }

    /// Switches it off and on.
    pub fn reboot(&mut self) {
        self.stop();
        self.boot();
    }

    /// Runs a script as root inside the machine; what it prints. Not by way of the network.
    #[track_caller]
    pub fn run(&self, script: &str) -> String {
        let mut command = self.inside().expect("the machine is on");
        let out = command.args(["sh", "-c", script]).output().unwrap();
        assert!(
            out.status.success(),
            "{}: {script}: {}{}",
            self.address,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// The command that runs what is appended to it inside the machine, if that is on.
    fn inside(&self) -> Option<Command> {
        let pid = fs::read_to_string(self.dir.path().join("pid")).ok()?;
        let pid = pid.trim();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let init = children.split_whitespace().next()?;
        let mut command = Command::new("nsenter");
        command
            .args(["--target", init, "--mount", "--uts", "--ipc", "--net"])
            .args(["--pid", "--cgroup", "--root", "--wd"])
            .stdin(Stdio::null());
        Some(command)
    }

    /// Cuts the machine off the network, or plugs it in again.
    pub fn plug(&self, in_: bool) {
        self.link.plug(in_);
    }
}

impl Drop for SystemdMachine {
    fn drop(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            // The end of its input is the end of the machine.
            drop(guard.stdin.take());
            let _ = guard.wait();
        }
    }
}
