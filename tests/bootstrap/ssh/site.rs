//! Machines on a network of their own, and the operator of a cluster on them.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{sleep, spawn};
use std::time::Duration;

use crate::support::operator::Operator;
use crate::support::sshd::{Keys, Machine, Network, is_possible, start_all};
use crate::support::turn::Turn;

/// Pause between two looks of a watch.
const WATCH_STEP: Duration = Duration::from_millis(50);
/// What machines need of the one the tests run on.
const TOOLS: [&str; 7] = ["ssh", "sshd", "ip", "unshare", "nsenter", "consul", "curl"];

/// See the module.
pub struct Site {
    /// The machines, in the order of their addresses: `.11` and upwards.
    pub machines: Vec<Machine>,
    operator: Operator,
    prefix: String,
    keys: Keys,
    network: Network,
    _turn: Turn,
}

impl Site {
    /// Starts so many machines; None, and a word on standard error, where that is not possible.
    /// `third` is the third part of their addresses.
    pub fn start(test: &str, third: u8, count: u16) -> Option<Self> {
        if !is_possible(test, &TOOLS) {
            return None;
        }
        let turn = Turn::of("clusters over ssh");
        let prefix = format!("10.88.{third}");
        let keys = Keys::make();
        let network = Network::make(&format!("lbs{third}"), &format!("{prefix}.1/24"));
        let machines = start_all(&prefix, count, |number, address| {
            Machine::start(&network, &keys, number, address)
        });
        let mut site = Self {
            machines,
            operator: Operator::new(),
            prefix,
            keys,
            network,
            _turn: turn,
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
        self.operator.config = self.keys.client(&hosts);
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

    /// Requests a path of an agent's API as the operator; empty when it does not respond.
    pub fn ask(&self, index: usize, port: u16, path: &str) -> String {
        self.operator.ask(&self.address(index), port, path)
    }
}

impl Deref for Site {
    type Target = Operator;

    fn deref(&self) -> &Operator {
        &self.operator
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
