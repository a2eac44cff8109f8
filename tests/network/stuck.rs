//! What around the process may be stuck or gone (the readers of its logs, the file systems of its
//! files, systemd) holds up neither requests nor the table, the admin listener or the end; and
//! signals that mean nothing do not end it.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::support::client::{self, RawClient};
use super::support::lb::Lb;
use super::support::upstream::Upstream;
use super::wire::*;
use crate::support::loopback::free_port;
use crate::support::wait::{PATIENCE, wait_until};

/// A process whose streams nothing reads.
struct Bare {
    child: Child,
    folder: TempDir,
    http: SocketAddr,
    /// Takes PROXY headers.
    behind: SocketAddr,
    admin: SocketAddr,
}

/// Ports that were free a moment ago: where nothing reads the log, nothing tells which it chose.
fn free_ports() -> [SocketAddr; 3] {
    [0; 3].map(|_| SocketAddr::from(([127, 0, 0, 1], free_port())))
}

impl Bare {
    /// Starts it with these streams and routes in a file; `more` is configuration.
    fn start(upstream: &Upstream, more: &str, stdout: Stdio, stderr: Stdio) -> Self {
        let bare = Self::spawn(upstream, more, stdout, stderr);
        wait_until("a response", || bare.answers("/"));
        bare
    }

    fn spawn(upstream: &Upstream, more: &str, stdout: Stdio, stderr: Stdio) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [http, behind, admin] = free_ports();
        let (file, routes) = (folder.path().join("lb.toml"), folder.path().join("routes"));
        std::fs::write(
            &routes,
            format!("route add web / http://{}/\n", upstream.address),
        )
        .unwrap();
        let text = format!(
            "routes_file = \"{}\"\n[admin]\naddress = \"{admin}\"\n\
             [[listener]]\naddress = \"{http}\"\nprotocol = \"http\"\n\
             [[listener]]\naddress = \"{behind}\"\nprotocol = \"tcp\"\nproxy_protocol = true\n{more}",
            routes.display()
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
        command
            .args(["run", "--config"])
            .arg(&file)
            .env("LB_PROXY_WORKERS", "2");
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .unwrap();
        Self {
            child,
            folder,
            http,
            behind,
            admin,
        }
    }

    fn routes(&self) -> PathBuf {
        self.folder.path().join("routes")
    }

    fn answers(&self, path: &str) -> bool {
        let Ok(mut socket) = TcpStream::connect(self.http) else {
            return false;
        };
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            socket,
            "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200")
    }

    fn admin(&self, path: &str) -> String {
        client::get(self.admin, "127.0.0.1", path).text()
    }

    fn metric(&self, name: &str) -> f64 {
        let text = self.admin("/metrics");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
            .parse()
            .unwrap()
    }

    /// Has each worker and the control thread log lines until the log loses some.
    fn talk_until_lines_are_lost(&self) {
        wait_until("a line that is lost", || {
            for _ in 0..100 {
                // Each a line on a worker, at level debug.
                let mut socket = TcpStream::connect(self.behind).unwrap();
                socket.write_all(b"PROXY nonsense\r\n").unwrap();
                let _ = socket.read_to_end(&mut Vec::new());
            }
            self.metric("lb_log_dropped_total") > 0.0
        });
    }

    /// The table follows its source, and both the workers and the admin listener respond.
    fn is_alive(&self) {
        let mut routes = std::fs::read_to_string(self.routes()).unwrap();
        let path = format!("/new-{}", routes.len());
        routes.push_str(&format!("route add other h{path} http://127.0.0.1:1/\n"));
        std::fs::write(self.routes(), routes).unwrap();
        wait_until("the table to follow", || {
            self.admin("/api/routes").contains(&path)
        });
        // More connections than workers, so that each of them has its turn.
        assert!((0..16).all(|_| self.answers("/")));
        assert_eq!(client::get(self.admin, "127.0.0.1", "/health").status, 200);
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Its exit code after SIGTERM, and how long that took.
    fn end(&mut self) -> (Option<i32>, Duration) {
        let begun = Instant::now();
        self.signal("TERM");
        (self.wait(), begun.elapsed())
    }

    fn wait(&mut self) -> Option<i32> {
        wait_until("its end", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pipe() -> (PipeReader, Stdio) {
    let (reader, writer) = std::io::pipe().unwrap();
    (reader, writer.into())
}

const DEBUG: &str = "[log]\nlevel = \"debug\"\nformat = \"json\"\n";

#[test]
fn a_log_that_nobody_reads_holds_up_nothing_and_tells_afterwards_what_is_missing() {
    let upstream = Upstream::start("u");
    let (reader, stderr) = pipe();
    let mut lb = Bare::start(&upstream, DEBUG, Stdio::null(), stderr);
    lb.talk_until_lines_are_lost();
    lb.is_alive();
    lb.signal("HUP");
    lb.is_alive();
    let lost = lb.metric("lb_log_dropped_total");
    assert!(lost > 0.0);

    let reading = std::thread::spawn(move || {
        let lines: Vec<String> = BufReader::new(reader)
            .lines()
            .map_while(Result::ok)
            .collect();
        lines
    });
    let (code, _) = lb.end();
    assert_eq!(code, Some(0));
    let lines = reading.join().unwrap();
    let lines: Vec<serde_json::Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told = lines.iter().position(|line| {
        line["message"]
            .as_str()
            .unwrap()
            .contains("log lines dropped")
    });
    let told = told.expect("a line about those that are missing");
    assert!(
        lines[told]["lines"].as_f64().unwrap() >= lost,
        "{} of {lost}",
        lines[told]
    );
    assert!(told < lines.len() - 1, "the log goes on after it");
    assert_eq!(
        lines.last().unwrap()["message"],
        "drained",
        "the last line arrives"
    );
}

#[test]
fn what_cannot_be_written_to_is_no_reason_to_stop() {
    let upstream = Upstream::start("u");
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let gone = || {
        let (reader, writer) = pipe();
        drop(reader);
        writer
    };
    let access = "[log]\naccess = \"json\"\nlevel = \"debug\"\n";
    // Kept: nothing reads them, but they are open.
    let (stuck_out, stuck_err) = (pipe(), pipe());
    let readers = (stuck_out.0, stuck_err.0);
    for (name, stdout, stderr) in [
        ("a full disk", full(), full()),
        ("readers that are gone", gone(), gone()),
        ("readers that are stuck", stuck_out.1, stuck_err.1),
    ] {
        let mut lb = Bare::start(&upstream, access, stdout, stderr);
        lb.talk_until_lines_are_lost();
        lb.is_alive();
        let (code, took) = lb.end();
        assert_eq!(code, Some(0), "{name}");
        assert!(took < Duration::from_secs(15), "{name}: {took:?}");
    }
    drop(readers);
}

#[test]
fn what_keeps_it_from_starting_is_told_and_ends_it_whoever_reads() {
    let upstream = Upstream::start("u");
    for (more, code, said) in [
        ("[proxy]\nworkerz = 1\n", 2, "workerz"),
        ("[proxy]\nmatcher = \"nowhere\"\n", 2, "nowhere"),
    ] {
        let (mut reader, stderr) = pipe();
        let mut lb = Bare::spawn(&upstream, more, Stdio::null(), stderr);
        assert_eq!(lb.wait(), Some(code));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(text.contains(said), "{text}");
        // The same with a pipe that is full from the start.
        let (reader, mut writer) = std::io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        while writer.write(&[b'x'; 4096]).is_ok() {}
        rustix::io::ioctl_fionbio(&writer, false).unwrap();
        let mut lb = Bare::spawn(&upstream, more, Stdio::null(), writer.into());
        assert_eq!(lb.wait(), Some(code));
        drop(reader);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let more = format!(
        "[[listener]]\naddress = \"{}\"\nprotocol = \"http\"\n",
        taken.local_addr().unwrap()
    );
    let (mut reader, stderr) = pipe();
    let mut lb = Bare::spawn(&upstream, &more, Stdio::null(), stderr);
    assert_eq!(lb.wait(), Some(1));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert!(
        text.contains(&taken.local_addr().unwrap().to_string()),
        "{text}"
    );
}

#[test]
fn signals_that_mean_nothing_do_not_end_it() {
    let upstream = Upstream::start("u");
    let mut lb = Lb::start(&config(
        &(listener("http", "")
            + &route("web", "/", &[url("http", upstream.address)], "")
            + "[log]\nlevel = \"debug\"\n"),
    ));
    lb.wait_ready();
    for name in [
        "USR1", "USR2", "ALRM", "PIPE", "IO", "VTALRM", "PROF", "XFSZ", "PWR",
    ] {
        lb.signal(name);
        if name != "PIPE" {
            lb.wait_for_line("a line about it", |line| {
                line.contains(&format!("SIG{name}")) && line.contains("DEBUG")
            });
        }
        assert_eq!(
            client::get(lb.address("http"), "h", "/").status,
            200,
            "{name}"
        );
    }
    assert!(lb.is_running());
    lb.sigterm();
    assert_eq!(lb.exit_code(), Some(0));
}

#[test]
fn each_signal_that_ends_it_lets_requests_finish() {
    for name in ["TERM", "INT", "QUIT"] {
        let upstream = Upstream::start("u");
        let mut lb = Lb::start(&config(
            &(listener("http", "") + &route("web", "/", &[url("http", upstream.address)], "")),
        ));
        lb.wait_ready();
        upstream.set_delay(Duration::from_millis(500));
        let mut running = RawClient::connect(lb.address("http"));
        running.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        wait_until("the request at the upstream", || upstream.requests() == 1);
        lb.signal(name);
        assert_eq!(
            running.response().expect("a response").status,
            200,
            "{name}"
        );
        assert_eq!(lb.exit_code(), Some(0), "{name}");
    }
}

#[test]
fn the_samples_are_not_ended_by_such_signals_either() {
    let [address, ..] = free_ports();
    // Under nohup the end of the terminal is ignored on purpose.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .unwrap();
    let ends_at_hangup = u64::from_str_radix(ignored.trim(), 16).unwrap() & 1 == 0;
    for (ends, name) in [
        (false, "USR1"),
        (false, "USR2"),
        (false, "ALRM"),
        (true, "QUIT"),
        (ends_at_hangup, "HUP"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
        command.args(["sample", "--listen", &address.to_string()]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the sample", || TcpStream::connect(address).is_ok());
        let pid = child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
        if !ends {
            assert_eq!(client::get(address, "h", "/health").status, 200, "{name}");
            assert!(
                Command::new("kill")
                    .args(["-s", "TERM", &pid])
                    .status()
                    .unwrap()
                    .success()
            );
        }
        let mut ended = None;
        wait_until("the end of the sample", || {
            ended = child.try_wait().unwrap();
            ended.is_some()
        });
        assert_eq!(ended.unwrap().code(), Some(0), "{name}");
    }
}

fn mkfifo(path: &Path) {
    let _ = std::fs::remove_file(path);
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn a_signal_ends_it_while_it_waits_for_a_file() {
    let upstream = Upstream::start("u");
    for name in ["TERM", "INT"] {
        let folder = tempfile::tempdir().unwrap();
        let users = folder.path().join("users");
        mkfifo(&users);
        let more = format!(
            "[auth.main]\ntype = \"basic\"\nfile = \"{}\"\n",
            users.display()
        );
        let (reader, stderr) = pipe();
        let mut lb = Bare::spawn(&upstream, &more, Stdio::null(), stderr);
        // Too early to mean anything, whatever it does by then; it must not end it.
        let status = format!("/proc/{}/status", lb.child.id());
        wait_until("handlers of signals", || {
            let text = std::fs::read_to_string(&status).unwrap();
            let caught = text
                .lines()
                .find_map(|line| line.strip_prefix("SigCgt:"))
                .unwrap();
            u64::from_str_radix(caught.trim(), 16).unwrap() & 0b11 == 0b11
        });
        lb.signal("HUP");
        std::thread::sleep(Duration::from_millis(300));
        assert!(
            lb.child.try_wait().unwrap().is_none(),
            "it waits for the file"
        );
        lb.signal(name);
        assert_eq!(lb.wait(), Some(0), "{name}");
        drop(reader);
    }
}

#[test]
fn files_that_hang_hold_up_neither_requests_nor_the_end() {
    let upstream = Upstream::start("u");
    let (reader, stderr) = pipe();
    let folder = tempfile::tempdir().unwrap();
    let [users, page, ca] = ["users", "page.html", "ca.pem"].map(|name| folder.path().join(name));
    std::fs::write(&users, "a:b\n").unwrap();
    std::fs::write(&page, "nothing here").unwrap();
    let authority = super::support::certs::Ca::new("authority");
    std::fs::copy(authority.write(folder.path(), "authority"), &ca).unwrap();
    let more = format!(
        "[proxy]\nno_route_page = \"{}\"\nupstream_ca_file = \"{}\"\n[auth.main]\ntype = \"basic\"\nfile = \"{}\"\nrefresh = \"1s\"\n{DEBUG}",
        page.display(),
        ca.display(),
        users.display(),
    );
    let mut lb = Bare::start(&upstream, &more, Stdio::null(), stderr);
    for path in [&users, &page, &ca] {
        mkfifo(path);
    }
    let mut lines = BufReader::new(reader).lines();
    // It has begun to read one of them.
    let begun = Instant::now();
    assert!(lines.any(|line| line.unwrap().contains("reloading")));
    assert!(begun.elapsed() < PATIENCE);
    lb.is_alive();
    let (code, took) = lb.end();
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[test]
fn a_supervisor_that_does_not_listen_holds_up_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let deaf = UnixDatagram::bind(&path).unwrap();
    let full = UnixDatagram::unbound().unwrap();
    full.set_nonblocking(true).unwrap();
    while full.send_to(b"x", &path).is_ok() {}
    let upstream = Upstream::start("u");
    let text =
        config(&(listener("http", "") + &route("web", "/", &[url("http", upstream.address)], "")));
    let path = path.to_str().unwrap();
    let mut lb = Lb::start_with(
        &text,
        &[],
        &[("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "200000")],
    );
    lb.wait_ready();
    assert_eq!(client::get(lb.address("http"), "h", "/").status, 200);
    // It listens again: what had to arrive was not lost.
    deaf.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut packet = [0; 256];
    while !packet.starts_with(b"READY=1") {
        packet.fill(0);
        deaf.recv(&mut packet).unwrap();
    }
    lb.sigterm();
    assert_eq!(lb.exit_code(), Some(0));
}
