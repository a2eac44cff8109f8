//! A program under test, started with Fabio's flags on a loopback address of its own.

use std::fs::File as LogFile;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::case::{File, Who};
use super::register;
use super::setup::Setup;
use crate::support::client;
use crate::support::loopback::free_address;
use crate::support::wait::{PATIENCE, try_wait};

/// Port of the first listener.
const FIRST_PORT: u16 = 9001;
/// Port of the admin listener.
const ADMIN_PORT: u16 = 9998;

pub struct Subject {
    pub who: Who,
    pub ip: String,
    child: Child,
    folder: TempDir,
}

/// The real Fabio, if there is one.
pub fn fabio() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("FABIO_BIN").filter(|path| !path.is_empty()) {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join("fabio"))
        .find(|path| path.is_file())
}

impl Subject {
    /// Starts it and waits until it serves its first table.
    pub fn start(setup: &Setup, file: &File, who: Who) -> Self {
        let ip = free_address();
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in &file.files {
            std::fs::write(folder.path().join(name), setup.fill(content)).unwrap();
        }
        let mut command = match who {
            Who::Lb => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_lb"));
                command.arg("fabio");
                command
            }
            Who::Fabio => Command::new(fabio().unwrap()),
        };
        let default = ["http".to_owned()];
        let listen = if file.listen.is_empty() {
            &default[..]
        } else {
            &file.listen
        };
        let addresses: Vec<String> = listen
            .iter()
            .enumerate()
            .map(|(at, options)| {
                let port = FIRST_PORT + u16::try_from(at).unwrap();
                // A dynamic listener has no port of its own.
                let port = if options.starts_with("tcp-dynamic") {
                    0
                } else {
                    port
                };
                format!("{ip}:{port};proto={}", setup.fill(options))
            })
            .collect();
        let mut args = vec![
            format!("-proxy.addr={}", addresses.join(",")),
            format!("-ui.addr={ip}:{ADMIN_PORT}"),
            format!(
                "-registry.consul.addr={}",
                setup.consul.address().trim_start_matches("http://")
            ),
            format!("-registry.consul.tagprefix={}", file.tag_prefix()),
            format!("-registry.consul.kvpath=/{}", file.kv_path()),
            format!(
                "-registry.consul.noroutehtmlpath=/conformance/{}/noroute",
                file.name
            ),
            "-registry.consul.register.enabled=false".to_owned(),
            "-insecure".to_owned(),
        ];
        args.extend(
            file.settings
                .iter()
                .map(|setting| setup.fill(setting).replace("<ip>", &ip)),
        );
        let foreign = |name: &str| {
            ["CONSUL_", "LB_", "FABIO_"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
        };
        for (name, _) in std::env::vars().filter(|(name, _)| foreign(name)) {
            command.env_remove(name);
        }
        // The host of cases that name none; Fabio serves its pages under any.
        command.env("LB_ADMIN_HOSTS", "any.test");
        let log = LogFile::create(folder.path().join("log")).unwrap();
        let out = LogFile::create(folder.path().join("out")).unwrap();
        command
            .args(args)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(log);
        let child = command.spawn().unwrap();
        let mut subject = Self {
            who,
            ip,
            child,
            folder,
        };
        subject.wait_serving(file, listen);
        subject.wait_whole(file);
        subject
    }

    /// Waits for the marks that are registered beside the cases: Fabio begins with whatever it has
    /// read first.
    fn wait_whole(&self, file: &File) {
        let whole = try_wait(PATIENCE, "a whole table", || {
            let table =
                client::get(self.listener(Some("admin")), "localhost", "/api/routes").text();
            let is_whole = register::MARKS.iter().all(|mark| table.contains(mark));
            if is_whole { Ok(()) } else { Err(table) }
        });
        whole.unwrap_or_else(|unseen| {
            panic!(
                "{:?} {}: {unseen}
{}",
                self.who,
                file.name,
                self.log()
            )
        });
    }

    fn wait_serving(&mut self, file: &File, listen: &[String]) {
        let mut waits_for: Vec<SocketAddr> = (0..listen.len())
            .filter(|at| !listen[*at].starts_with("tcp-dynamic"))
            .map(|at| self.listener(Some(&(at + 1).to_string())))
            .collect();
        waits_for.push(self.listener(Some("admin")));
        let open = try_wait(PATIENCE, "all listeners", || {
            waits_for.retain(|address| TcpStream::connect(address).is_err());
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "{:?} {} ended
{}",
                self.who,
                file.name,
                self.log()
            );
            if waits_for.is_empty() {
                Ok(())
            } else {
                Err(format!("closed: {waits_for:?}"))
            }
        });
        open.unwrap_or_else(|unseen| {
            panic!(
                "{:?} {}: {unseen}
{}",
                self.who,
                file.name,
                self.log()
            )
        });
    }

    /// Address of a listener: its place in the list, from 1 (the default), or `admin`.
    pub fn listener(&self, on: Option<&str>) -> SocketAddr {
        let port = match on {
            Some("admin") => ADMIN_PORT,
            Some(place) => match place.parse::<u16>().expect("a place in the list, or admin") {
                place @ 1..=99 => FIRST_PORT + place - 1,
                port => port,
            },
            None => FIRST_PORT,
        };
        SocketAddr::new(self.ip.parse().unwrap(), port)
    }

    /// What it wrote to standard error.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

/// `1.7.3`; empty for `lb`.
pub fn version(who: Who) -> String {
    if who == Who::Lb {
        return String::new();
    }
    let output = Command::new(fabio().unwrap()).arg("-v").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().next().unwrap_or("").to_owned()
}

impl Drop for Subject {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
