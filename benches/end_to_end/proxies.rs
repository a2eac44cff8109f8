//! The proxies: where each is found, how it is started with one worker on one core, and its version. The
//! configurations are in `configs.rs`.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::cases::{Case, Kind};
use crate::certificates::Certificates;
use crate::configs;
use crate::ports::{Backends, Door, Doors};

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Proxy {
    Lb,
    /// `lb` with the JSON access log on.
    LbLog,
    /// `lb` with two workers, on two cores.
    LbTwo,
    /// `lb` with one setting more, or with other requests, beside a plain one.
    LbVaried,
    Floor,
    Haproxy,
    Nginx,
    Envoy,
    Fabio,
    Caddy,
}

/// All, in the order of the columns.
pub(crate) const ALL: &[Proxy] = &[
    Proxy::Lb,
    Proxy::LbLog,
    Proxy::LbTwo,
    Proxy::LbVaried,
    Proxy::Floor,
    Proxy::Haproxy,
    Proxy::Nginx,
    Proxy::Envoy,
    Proxy::Fabio,
    Proxy::Caddy,
];

/// What every proxy is configured from.
pub(crate) struct Stand<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) doors: Doors,
    pub(crate) backends: Backends,
    pub(crate) certificates: &'a Certificates,
    /// How many host routes; 0: one for every host.
    pub(crate) hosts: usize,
    /// What will be asked.
    pub(crate) kind: Kind,
}

impl Proxy {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lb => "lb",
            Self::LbLog => "lb+log",
            Self::LbTwo => "lb-2",
            Self::LbVaried => "lb-varied",
            Self::Floor => "floor",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Envoy => "envoy",
            Self::Fabio => "fabio",
            Self::Caddy => "caddy",
        }
    }

    /// Where its program is: `NAME_BIN`, or on PATH; ours come from this build.
    pub(crate) fn program(self) -> Option<PathBuf> {
        if self == Self::Floor {
            return std::env::current_exe().ok();
        }
        let name = if matches!(self, Self::LbLog | Self::LbTwo | Self::LbVaried) { "lb" } else { self.name() };
        if let Some(path) = std::env::var_os(format!("{}_BIN", name.to_uppercase())) {
            return Some(path.into());
        }
        if name == "lb" { Some(env!("CARGO_BIN_EXE_lb").into()) } else { crate::tools::find(name) }
    }

    /// The first line in which it tells its version.
    pub(crate) fn version(self) -> String {
        let (Some(program), Some(flag)) = (
            self.program(),
            match self {
                Self::Lb | Self::Caddy => Some("version"),
                Self::Haproxy | Self::Nginx | Self::Fabio => Some("-v"),
                Self::Envoy => Some("--version"),
                Self::LbLog | Self::LbTwo | Self::LbVaried | Self::Floor => None,
            },
        ) else {
            return "of this build".to_owned();
        };
        let output = Command::new(program).arg(flag).output();
        let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().find(|line| !line.trim().is_empty()).unwrap_or("?").trim().to_owned()
    }

    /// Whether it can take this case at all, or is left out for a stated reason.
    pub(crate) fn takes(self, case: &Case) -> bool {
        if let Some(pair) = case.pair() {
            return pair.contains(&self);
        }
        match self {
            Self::LbTwo | Self::LbVaried => false,
            Self::Floor => case.floor,
            Self::Nginx if case.door == Door::Tcp => configs::nginx_stream().is_some(),
            // Its standard build has no TCP.
            Self::Caddy if case.door == Door::Tcp => false,
            // A configuration of so many hosts takes these minutes to read, or gigabytes to hold.
            Self::Envoy | Self::Caddy | Self::Fabio if case.hosts() > 10_000 => false,
            Self::Caddy if case.hosts() > 1 => false,
            Self::LbLog => {
                !matches!(case.kind, Kind::Idle(_) | Kind::Handshake { .. } | Kind::Tcp { .. } | Kind::Tail { .. })
            }
            _ => true,
        }
    }
}

/// A proxy that runs; killed when dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) doors: Doors,
}

impl Running {
    /// Starts it on the first of these cores, or the first two, and waits until the door of the case is open.
    pub(crate) fn start(proxy: Proxy, stand: &Stand<'_>, case: &Case, cores: &[usize]) -> Result<Self, String> {
        let program = proxy.program().ok_or("not found")?;
        let many = if proxy == Proxy::LbTwo { 2 } else { 1 };
        let cores: Vec<String> = cores.iter().take(many).map(ToString::to_string).collect();
        // However this process ends, the proxy ends with it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "taskset", "-c", &cores.join(",")]).arg(program);
        configs::write(proxy, stand, &mut command);
        let log = fs::File::create(stand.folder.join("stderr.log")).map_err(|error| error.to_string())?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.map_err(|error| format!("setpriv and taskset (of util-linux) did not start it: {error}"))?;
        let mut running = Self { child, doors: stand.doors };
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", stand.doors.port(case.door))).is_err() {
            let ended = running.child.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(stand.folder.join("stderr.log")).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(3).collect();
                return Err(format!("did not open its port ({ended:?}): {}", last.join(" / ")));
            }
            sleep(Duration::from_millis(20));
        }
        Ok(running)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
