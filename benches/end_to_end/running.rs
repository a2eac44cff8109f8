//! Which proxy runs in which case, and how it is started: with one worker on one core, unless the
//! case is about two.

use std::fs;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::cases::{Case, Kind};
use crate::configs;
use crate::ports::{Door, Doors};
use crate::proxies::Proxy;
use crate::stand::Stand;

/// Whether a proxy can take this case at all, or is left out for a stated reason.
pub(crate) fn takes(proxy: Proxy, case: &Case) -> bool {
    if let Some(pair) = case.pair() {
        return pair.contains(&proxy);
    }
    match proxy {
        Proxy::LbTwo | Proxy::LbVaried => false,
        Proxy::Floor => case.floor,
        Proxy::Nginx if case.door == Door::Tcp => configs::nginx_stream().is_some(),
        // Its standard build has no TCP.
        Proxy::Caddy if case.door == Door::Tcp => false,
        // A configuration of so many hosts takes these minutes to read, or gigabytes to hold.
        Proxy::Envoy | Proxy::Caddy | Proxy::Fabio if case.hosts() > 10_000 => false,
        Proxy::Caddy if case.hosts() > 1 => false,
        Proxy::LbLog => !matches!(
            case.kind,
            Kind::Idle(_) | Kind::Handshake { .. } | Kind::Tcp { .. } | Kind::Tail { .. }
        ),
        _ => true,
    }
}

/// A proxy that runs; killed when dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) doors: Doors,
}

impl Running {
    /// Starts it on the first of these cores, or the first two, and waits until the door of the
    /// case is open.
    pub(crate) fn start(
        proxy: Proxy,
        stand: &Stand<'_>,
        case: &Case,
        cores: &[usize],
    ) -> Result<Self, String> {
        let program = proxy.program().ok_or("not found")?;
        let many = if proxy == Proxy::LbTwo { 2 } else { 1 };
        let cores: Vec<String> = cores.iter().take(many).map(ToString::to_string).collect();
        // However this process ends, the proxy ends with it.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "taskset", "-c", &cores.join(",")])
            .arg(program);
        configs::write(proxy, stand, &mut command);
        let log =
            fs::File::create(stand.folder.join("stderr.log")).map_err(|error| error.to_string())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let child = child.map_err(|error| {
            format!("setpriv and taskset (of util-linux) did not start it: {error}")
        })?;
        let mut running = Self {
            child,
            doors: stand.doors,
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", stand.doors.port(case.door))).is_err() {
            let ended = running.child.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(stand.folder.join("stderr.log")).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(3).collect();
                return Err(format!(
                    "did not open its port ({ended:?}): {}",
                    last.join(" / ")
                ));
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
