//! A real sshd with keys of its own, and whole machines around it: a network namespace, private
//! views of `/etc`, `/opt`, `/usr/local` and `/var/lib`, and process ids of its own.
//!
//! A machine is made of the one the tests run on, without what belongs to a cluster: its programs
//! are there, what is written to those folders stays in the machine and goes with it. systemd does
//! not run there. Machines need root, `ip`, `unshare` and overlayfs.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::wait::wait_until;

/// Longest wait for one connection: nothing tells that a machine is not there yet.
const DIAL: Duration = Duration::from_millis(20);
/// Where sshd listens in a machine.
const PORT: u16 = 22;

/// What a test lacks of the given tools and of root's rights, if anything; says so on standard
/// error.
pub fn is_possible(test: &str, tools: &[&str]) -> bool {
    let is_root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|out| out.stdout == b"0\n");
    let has = |tool: &&&str| {
        let path = format!("command -v {tool} >/dev/null 2>&1 || test -x /usr/sbin/{tool}");
        Command::new("sh")
            .args(["-c", &path])
            .status()
            .is_ok_and(|status| status.success())
    };
    let missing = tools
        .iter()
        .find(|tool| !has(tool))
        .map(|tool| format!("`{tool}`"));
    match missing.or_else(|| (!is_root).then(|| "root's rights".to_owned())) {
        None => true,
        Some(what) => {
            // Not by `eprintln`, which is captured where a test passes.
            let _ = writeln!(std::io::stderr(), "SKIPPED {test}: it needs {what}");
            false
        }
    }
}

/// Keys and configuration of an sshd and of its clients; shared by several machines.
pub struct Keys {
    dir: TempDir,
}

impl Keys {
    /// Makes a host key, and a user key that opens the account of the user who runs the test.
    pub fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // sshd reads the public key as the user who logs in.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for key in ["host", "user"] {
            let path = dir.path().join(key);
            run(Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f"])
                .arg(path));
        }
        Self { dir }
    }

    /// One of its files: `host`, `host.pub`, `user`, `user.pub`.
    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_string_lossy().into_owned()
    }

    /// Options for `ssh` (after `-F`) that reach the given hosts: alias, address and port of each.
    pub fn client(&self, hosts: &[(&str, SocketAddr)]) -> String {
        use std::fmt::Write as _;
        let host_key = fs::read_to_string(self.path("host.pub")).unwrap();
        let (mut config, mut known) = (String::new(), String::new());
        for (alias, address) in hosts {
            let (ip, port) = (address.ip(), address.port());
            writeln!(
                config,
                "Host {alias}\n  HostName {ip}\n  Port {port}\n  HostKeyAlias {alias}"
            )
            .unwrap();
            writeln!(known, "{alias} {}", host_key.trim()).unwrap();
        }
        let (key, hosts) = (self.path("user"), self.path("known_hosts"));
        writeln!(
            config,
            "Host *\n  User root\n  IdentityFile {key}\n  IdentitiesOnly yes\n  IdentityAgent none"
        )
        .unwrap();
        writeln!(
            config,
            "  UserKnownHostsFile {hosts}\n  GlobalKnownHostsFile /dev/null"
        )
        .unwrap();
        fs::write(hosts, known).unwrap();
        fs::write(self.path("client"), config).unwrap();
        self.path("client")
    }

    /// The command that runs an sshd in the foreground.
    fn server(&self, listen: SocketAddr) -> String {
        let config = self.path(&format!("sshd-{}-{}", listen.ip(), listen.port()));
        let (key, user) = (self.path("host"), self.path("user.pub"));
        let text = format!(
            "ListenAddress {listen}\nHostKey {key}\nAuthorizedKeysFile {user}\nStrictModes no\nUsePAM no\nPidFile none\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nMaxStartups 100\n\
             LogLevel ERROR\nPrintMotd no\n"
        );
        fs::write(&config, text).unwrap();
        // sshd insists on this folder for the unprivileged half of itself.
        fs::create_dir_all("/run/sshd").unwrap();
        fs::set_permissions("/run/sshd", fs::Permissions::from_mode(0o755)).unwrap();
        format!("/usr/sbin/sshd -D -e -f {config}")
    }
}

/// An sshd on an address of this machine; what it does, it does to this machine.
pub struct Sshd {
    child: Child,
}

impl Sshd {
    /// Starts one; ready for connections.
    pub fn start(keys: &Keys, listen: SocketAddr) -> Self {
        let mut child = Command::new("sh");
        child
            .args(["-c", &format!("exec {}", keys.server(listen))])
            .stdin(Stdio::null());
        let sshd = Self {
            child: child.spawn().unwrap(),
        };
        wait_open(listen);
        sshd
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A bridge to which machines are plugged. This machine has an address on it.
pub struct Network {
    bridge: String,
}

impl Network {
    /// Makes a bridge (its name: 9 characters at most) with this address, as `10.88.34.1/24`.
    pub fn make(bridge: &str, address: &str) -> Self {
        // What a killed run left.
        let _ = Command::new("ip")
            .args(["link", "del", bridge])
            .stderr(Stdio::null())
            .status();
        let network = Self {
            bridge: bridge.to_owned(),
        };
        run(Command::new("ip").args(["link", "add", bridge, "type", "bridge"]));
        run(Command::new("ip").args(["addr", "add", address, "dev", bridge]));
        run(Command::new("ip").args(["link", "set", bridge, "up"]));
        network
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["link", "del", &self.bridge])
            .status();
    }
}

/// A network namespace with an address on a network. Dropped, it is gone.
pub struct Link {
    /// Its only address.
    pub ip: Ipv4Addr,
    /// Its name.
    pub namespace: String,
    plug: String,
}

impl Link {
    /// Makes one under a number (unique on its network, below 1000) with an address as
    /// `10.88.34.11/24`.
    pub fn make(network: &Network, number: u16, address: &str) -> Self {
        let namespace = format!("{}-{number}", network.bridge);
        let plug = format!("{}v{number}", network.bridge);
        for leftover in [["netns", "del", &namespace], ["link", "del", &plug]] {
            let _ = Command::new("ip")
                .args(leftover)
                .stderr(Stdio::null())
                .status();
        }
        let ip: Ipv4Addr = address.split('/').next().unwrap().parse().unwrap();
        let [a, b, c, d] = ip.octets();
        let link = Self {
            ip,
            namespace,
            plug,
        };
        let (namespace, plug) = (&link.namespace, &link.plug);
        run(Command::new("ip").args(["netns", "add", namespace]));
        // What comes in the place of another machine has its hardware address, too: the others
        // would look for it at the old one until they have forgotten that, which takes up to a
        // minute.
        let hardware = format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
        let script = format!(
            "set -e\nip link add {plug} type veth peer name eth0 netns {namespace}\n\
             ip link set {plug} master {bridge} up\n\
             ip -n {namespace} link set eth0 address {hardware}\n\
             ip -n {namespace} link set lo up\nip -n {namespace} addr add {address} dev eth0\n\
             ip -n {namespace} link set eth0 up\n",
            bridge = network.bridge,
        );
        run(Command::new("sh").args(["-c", &script]));
        link
    }

    /// Cuts it off the network, or plugs it in again.
    pub fn plug(&self, in_: bool) {
        run(Command::new("ip").args(["link", "set", &self.plug, if in_ { "up" } else { "down" }]));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // Deleting a namespace may leave its link for a moment.
        let _ = Command::new("ip")
            .args(["link", "del", &self.plug])
            .stderr(Stdio::null())
            .status();
        let _ = Command::new("ip")
            .args(["netns", "del", &self.namespace])
            .status();
    }
}

/// A machine with an sshd on its address, port 22. Dropped: all its processes, its network and its
/// files are gone.
pub struct Machine {
    /// Where its sshd listens.
    pub address: SocketAddr,
    root: PathBuf,
    /// `unshare`, whose end is the end of every process of the machine.
    child: Child,
    link: Link,
    _dir: TempDir,
}

impl Machine {
    /// Starts one under a number (unique on its network, below 1000) with an address as
    /// `10.88.34.11/24`.
    pub fn start(network: &Network, keys: &Keys, number: u16, address: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let link = Link::make(network, number, address);
        let address = SocketAddr::new(link.ip.into(), PORT);
        // The first process stays a shell: it adopts what loses its parent.
        let init = format!(
            "set -e\nfor d in etc opt usr/local var/lib; do\n\
               mkdir -p {root}/$d/upper {root}/$d/work\n\
               mount -t overlay overlay -o lowerdir=/$d,upperdir={root}/$d/upper,workdir={root}/$d/work /$d\n\
             done\nrm -rf /etc/consul.d /etc/nomad.d /etc/lb /opt/consul /opt/nomad /var/lib/lb-bootstrap\n\
             rm -f /usr/local/bin/consul /usr/local/bin/nomad /usr/local/bin/lb\n\
             sed -i '/^consul:/d;/^nomad:/d' /etc/passwd /etc/shadow /etc/group /etc/gshadow\n\
             {sshd} &\nwhile :; do wait || :; sleep 1; done\n",
            root = root.display(),
            sshd = keys.server(address),
        );
        // Not `ip netns exec`, which remounts /sys and so hides control groups from Nomad.
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", link.namespace))
            .args([
                "unshare",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "sh",
                "-c",
                &init,
            ])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let machine = Self {
            address,
            root,
            child,
            link,
            _dir: dir,
        };
        wait_open(address);
        machine
    }

    /// A file of the machine's own, as this machine sees it: `/etc/x` was made or changed there.
    pub fn file(&self, path: &str) -> PathBuf {
        let folder = ["/etc", "/opt", "/usr/local", "/var/lib"]
            .into_iter()
            .find(|folder| path.starts_with(folder));
        let folder = folder.expect("a folder that machines have to themselves");
        self.root
            .join(&folder[1..])
            .join("upper")
            .join(path[folder.len()..].trim_start_matches('/'))
    }

    /// Runs a script as root inside the machine; what it prints. Not by way of the network.
    pub fn run(&self, script: &str) -> String {
        let mut command = self.enter();
        let out = command.args(["sh", "-c", script]).output().unwrap();
        assert!(
            out.status.success(),
            "{}: {script}: {}",
            self.address,
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// The command that runs what is appended to it inside the machine.
    pub fn enter(&self) -> Command {
        let unshare = self.child.id();
        let children =
            fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).unwrap();
        let init = children
            .split_whitespace()
            .next()
            .expect("the machine runs")
            .to_owned();
        let mut command = Command::new("nsenter");
        command
            .args([
                "--target", &init, "--mount", "--net", "--pid", "--root", "--wd",
            ])
            .stdin(Stdio::null());
        command
    }

    /// Cuts the machine off the network, or plugs it in again.
    pub fn plug(&self, in_: bool) {
        self.link.plug(in_);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // --kill-child: the first process of the machine goes with `unshare`, and all others with
        // that one.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(command: &mut Command) {
    let out = command.output().unwrap();
    assert!(
        out.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

/// Starts so many machines side by side. `start` gets the number of each, from 1, and its address in
/// the network that begins with `prefix`.
pub fn start_all<M: Send>(
    prefix: &str,
    count: u16,
    start: impl Fn(u16, &str) -> M + Sync,
) -> Vec<M> {
    std::thread::scope(|scope| {
        let start = &start;
        let starts: Vec<_> = (1..=count)
            .map(|number| {
                scope.spawn(move || start(number, &format!("{prefix}.{}/24", 10 + number)))
            })
            .collect();
        starts
            .into_iter()
            .map(|start| start.join().unwrap())
            .collect()
    })
}

/// Waits until something listens there.
pub fn wait_open(address: SocketAddr) {
    wait_until(format!("a listener on {address}"), || {
        TcpStream::connect_timeout(&address, DIAL).is_ok()
    });
}
