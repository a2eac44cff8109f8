//! Whether a node can be worked on: what it is, what it lacks, and what is in the way.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;

use super::channel::PATIENCE;
use super::command::{Output, Section, ShellCommand, lines, number, some_word, word};
use super::daemons;
use super::host::{Host, MARK};
use super::resolver::{self, RESOLVER_FILE};
use super::script::{quote, quote_all};
use super::sockets::{Listener, addresses, holds_address, listeners};
use super::spec::NodeSpec;
use crate::bootstrap::topology::{BinarySource, Runner};

/// What preflight is to look for.
#[derive(Clone, Debug)]
pub struct Preflight {
    /// Id of this cluster: data that carries its mark is not foreign.
    pub cluster_id: String,
    /// TCP ports that the daemons will listen on.
    pub ports: Vec<u16>,
}

/// A port that is in use on the node's address by something that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenPort {
    /// The port.
    pub port: u16,
    /// The process that has it (`nginx, pid 812`), where that can be told.
    pub by: Option<String>,
}

/// What preflight found. Whether it is good enough is for the caller to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `linux`: `uname -s` in lower case.
    pub os: String,
    /// `amd64`, `arm64`, … as release archives call it; `uname -m` itself when unknown.
    pub arch: String,
    /// Whether systemd is what runs the host.
    pub systemd: bool,
    /// How far the node's clock is ahead of ours at the least (behind: negative), in milliseconds;
    /// 0 within what can be told.
    pub clock_skew_ms: i64,
    /// Whether the node's address is one of the machine's, as far as it can be told.
    pub has_address: bool,
    /// Ports that are taken.
    pub ports_taken: Vec<TakenPort>,
    /// Tools that are missing, by name; alternatives as `curl or wget`.
    pub missing_tools: Vec<String>,
    /// Free space where the data will be, in bytes.
    pub free_disk_bytes: u64,
    /// Folders with contents, and files, that are where ours would be while the node carries no
    /// mark of this cluster.
    pub foreign: Vec<String>,
    /// Units that run under the names of ours while the node carries no mark of this cluster.
    pub foreign_units: Vec<String>,
    /// Id of the cluster whose mark the node carries.
    pub cluster_id: Option<String>,
    /// Packages that the machine cannot get, in words.
    pub unobtainable: Vec<String>,
    /// What keeps systemd-resolved from using Consul, where that is wanted.
    pub resolver: Vec<String>,
}

/// Looks at ports that seem to be taken, and the pause between two of them.
const LOOKS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(300);

impl Host {
    /// Whether the node can be worked on, and what is in the way. One round trip.
    ///
    /// # Errors
    /// When it is not reached, or its shell does not have root's rights (ssh target).
    pub async fn preflight(&self, spec: &NodeSpec, ask: &Preflight) -> Result<Facts> {
        let mut facts = look(self, spec, ask).await?;
        // A port may be taken by what may yet turn out to be ours: a daemon that a killed run of
        // ours had just started has no id on file for a moment, and one that opens its ports
        // between the two passes of `ss`, over processes and over sockets, is listed without a
        // process.
        for _ in 1..LOOKS {
            if facts.ports_taken.is_empty()
                || facts.cluster_id.as_deref() != Some(ask.cluster_id.as_str())
            {
                break;
            }
            tokio::time::sleep(PAUSE).await;
            facts = look(self, spec, ask).await?;
        }
        facts.unobtainable = self.unobtainable(&spec.packages).await?;
        Ok(facts)
    }
}

async fn look(host: &Host, spec: &NodeSpec, ask: &Preflight) -> Result<Facts> {
    // Dialled before the clock is looked at, or the time that takes would be in the comparison.
    host.channel.run("return 0", PATIENCE).await?;
    let (command, sections) = Sections::declare(host, spec);
    let before = since_epoch();
    let output = command.run(&host.channel, PATIENCE).await?;
    let after = since_epoch();
    let user = output.get(&sections.user)?;
    if !host.local && user.first().map(String::as_str) != Some("0") {
        bail!(
            "{}: {} works, but its user {} may not make users and write to /etc: log in as root, or set sudo = \
             true",
            host.name,
            host.channel.describe(),
            user.get(1).map_or("?", String::as_str)
        );
    }
    sections.read(&output, host.address, ask, (before, after))
}

/// The sections of a look.
struct Sections {
    /// Since the epoch, in milliseconds.
    clock: Section<'static, i64>,
    /// Id and name.
    user: Section<'static, Vec<String>>,
    os: Section<'static, Option<String>>,
    arch: Section<'static, Option<String>>,
    systemd: Section<'static, Option<String>>,
    addresses: Section<'static, Vec<IpNet>>,
    sockets: Section<'static, Vec<Listener>>,
    /// Processes that are ours.
    ours: Section<'static, Vec<u32>>,
    mark: Section<'static, Option<String>>,
    missing: Section<'static, Vec<String>>,
    /// In KiB.
    disk: Section<'static, Option<u64>>,
    /// Units that run under the names of ours.
    units: Section<'static, Vec<String>>,
    /// Folders with contents and files where ours would be.
    there: Section<'static, Vec<String>>,
    resolver: Section<'static, Vec<String>>,
}

impl Sections {
    fn declare(host: &Host, spec: &NodeSpec) -> (ShellCommand, Self) {
        let run = quote(&host.layout.run);
        let mut command = ShellCommand::new(&format!("run={run}\n{}", daemons::RUNNING));
        let ours: Vec<String> = spec
            .daemons
            .iter()
            .map(|daemon| daemons::print_pid(host, daemon.product))
            .collect();
        let sections = Self {
            clock: command.section("clock", "date +%s.%N", |lines| {
                milliseconds(&some_word(lines)?)
            }),
            user: command.section("user", "id -u; id -un", lines),
            os: command.section("os", "uname -s", word),
            arch: command.section("arch", "uname -m", word),
            systemd: command.section("systemd", "[ ! -d /run/systemd/system ] || echo yes", word),
            addresses: command.section("addresses", "ip -o addr 2>/dev/null", |lines| {
                Ok(addresses(lines))
            }),
            sockets: command.section("sockets", "ss -Hltnp 2>/dev/null", |lines| {
                Ok(listeners(lines))
            }),
            ours: command.section("ours", &ours.join("\n"), |lines| {
                let pid = |line: &&str| line.trim().parse().ok();
                Ok(lines.iter().filter_map(pid).collect())
            }),
            mark: command.section("mark", &format!("cat \"$run/{MARK}\" 2>/dev/null"), word),
            missing: command.section("missing", &look_for_tools(host, spec), lines),
            disk: command.section("disk", &look_at_disk(host), number),
            units: command.section("units", &look_for_units(host, spec), lines),
            there: command.section("there", &look_for_foreign(host, spec), lines),
            resolver: command.section("resolver", look_at_resolver(spec), lines),
        };
        (command, sections)
    }

    fn read(
        &self,
        output: &Output,
        address: IpAddr,
        ask: &Preflight,
        ours: (Duration, Duration),
    ) -> Result<Facts> {
        let cluster_id = output.get(&self.mark)?;
        let is_ours = cluster_id.as_deref() == Some(ask.cluster_id.as_str());
        let (foreign, units) = (output.get(&self.there)?, output.get(&self.units)?);
        let arch_of = output.get(&self.arch)?.unwrap_or_default();
        Ok(Facts {
            os: output.get(&self.os)?.unwrap_or_default().to_lowercase(),
            arch: arch(&arch_of).to_owned(),
            systemd: output.get(&self.systemd)?.is_some(),
            clock_skew_ms: skew_ms(output.get(&self.clock)?, ours.0, ours.1),
            has_address: holds_address(&output.get(&self.addresses)?, address),
            ports_taken: taken(
                output.get(&self.sockets)?,
                address,
                ask,
                &output.get(&self.ours)?,
            ),
            missing_tools: output.get(&self.missing)?,
            free_disk_bytes: output.get(&self.disk)?.unwrap_or(0) * 1024,
            foreign: if is_ours { Vec::new() } else { foreign },
            foreign_units: if is_ours { Vec::new() } else { units },
            cluster_id,
            unobtainable: Vec::new(),
            resolver: output.get(&self.resolver)?,
        })
    }
}

fn look_at_resolver(spec: &NodeSpec) -> &'static str {
    match spec.files.iter().any(|file| file.path == RESOLVER_FILE) {
        true => resolver::LOOK,
        false => "",
    }
}

fn look_for_tools(host: &Host, spec: &NodeSpec) -> String {
    let mut script = String::new();
    for alternatives in tools(host, spec) {
        let test = alternatives
            .iter()
            .map(|tool| format!("has {tool}"))
            .collect::<Vec<_>>()
            .join(" || ");
        let _ = writeln!(script, "{test} || echo '{}'", alternatives.join(" or "));
    }
    script
}

/// The room in the file system that the data will be on.
fn look_at_disk(host: &Host) -> String {
    format!(
        "d={}\nwhile [ ! -d \"$d\" ] && [ \"$d\" != / ] && [ -n \"$d\" ]; do d=${{d%/*}}; done\n\
         df -kP \"${{d:-/}}\" | awk 'NR == 2 {{ print $4 }}'",
        quote(&host.layout.consul_data)
    )
}

/// Prints `NAME.service (FILE)` for each unit that is not at rest.
fn look_for_units(host: &Host, spec: &NodeSpec) -> String {
    if host.runner == Runner::Process {
        return String::new();
    }
    let units = spec.daemons.iter().map(|daemon| daemon.product.name());
    format!(
        "for unit in {}; do\n\
           case $(systemctl show -p ActiveState \"$unit.service\" 2>/dev/null) in\n\
             ''|*=inactive|*=failed) ;;\n\
             *) echo \"$unit.service ($(systemctl show -p FragmentPath \"$unit.service\" | cut -d= -f2))\" ;;\n\
           esac\n\
         done",
        quote_all(units)
    )
}

fn look_for_foreign(host: &Host, spec: &NodeSpec) -> String {
    let layout = &host.layout;
    let folders = spec
        .daemons
        .iter()
        .flat_map(|daemon| [layout.config(daemon.product), layout.data(daemon.product)]);
    let folders: Vec<&str> = folders.collect();
    // Those in the folders above are told by them.
    let files = spec.files.iter().map(|file| file.path.as_str());
    let files = files.filter(|path| {
        !folders
            .iter()
            .any(|folder| path.starts_with(&format!("{folder}/")))
    });
    format!(
        "for d in {}; do [ -z \"$(ls -A \"$d\" 2>/dev/null)\" ] || echo \"$d\"; done\n\
         for f in {}; do [ ! -e \"$f\" ] || echo \"$f\"; done",
        quote_all(folders.iter().copied()),
        quote_all(files)
    )
}

/// What has to be there, each with its alternatives.
fn tools(host: &Host, spec: &NodeSpec) -> Vec<&'static [&'static str]> {
    let mut tools: Vec<&[&str]> = vec![
        &["sha256sum"],
        &["base64"],
        &["stat"],
        &["sed"],
        &["awk"],
        &["tr"],
        &["find"],
        &["tail"],
        &["mv"],
        &["chmod"],
    ];
    if host.runner == Runner::Process {
        tools.push(&["setsid"]);
    }
    if !host.local {
        tools.push(&["chown"]);
        tools.push(&["useradd"]);
        tools.push(match host.runner {
            Runner::Systemd => &["systemctl"],
            Runner::Process => &["setpriv"],
        });
        // What starts lb there gives up root's rights by it.
        let starts_lb = spec.binaries.iter().any(|binary| binary.name == "lb");
        if starts_lb && host.runner == Runner::Systemd {
            tools.push(&["setpriv"]);
        }
    }
    if spec
        .binaries
        .iter()
        .any(|binary| matches!(binary.source, BinarySource::Release(_)))
    {
        tools.push(&["curl", "wget"]);
        tools.push(&["unzip", "python3"]);
    }
    tools
}

/// The processor as release archives call it.
pub(super) fn arch(machine: &str) -> &str {
    match machine {
        "x86_64" | "amd64" => "amd64",
        "aarch64" | "arm64" => "arm64",
        "i386" | "i686" => "386",
        "armv6l" | "armv7l" | "armv8l" => "arm",
        other => other,
    }
}

pub(super) fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// What `date +%s.%N` prints.
pub(super) fn milliseconds(clock: &str) -> Result<i64> {
    let read = || {
        let (seconds, fraction) = clock.split_once('.')?;
        let seconds: i64 = seconds.parse().ok()?;
        let ms: i64 = fraction.get(..3)?.parse().ok()?;
        Some(seconds * 1000 + ms)
    };
    read().with_context(|| format!("`{clock}` is not a time"))
}

/// How far a clock is off that showed `clock`, in milliseconds since the epoch, somewhere between
/// two looks at ours.
pub(super) fn skew_ms(clock: i64, before: Duration, after: Duration) -> i64 {
    let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    if clock > ms(after) {
        clock - ms(after)
    } else if clock < ms(before) {
        clock - ms(before)
    } else {
        0
    }
}

fn taken(
    listeners: Vec<Listener>,
    address: IpAddr,
    ask: &Preflight,
    ours: &[u32],
) -> Vec<TakenPort> {
    let is_ours = |listener: &Listener| listener.pid.is_some_and(|pid| ours.contains(&pid));
    let mut taken: Vec<TakenPort> = listeners
        .into_iter()
        .filter(|listener| {
            listener.is_in_the_way_of(address)
                && ask.ports.contains(&listener.port)
                && !is_ours(listener)
        })
        .map(|listener| TakenPort {
            port: listener.port,
            by: listener.describe(),
        })
        .collect();
    taken.sort_by_key(|taken| taken.port);
    taken.dedup_by_key(|taken| taken.port);
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_by_no_less_than_it_must_be() {
        let (before, after) = (
            Duration::from_millis(1_000_500),
            Duration::from_millis(1_000_900),
        );
        for (clock, skew) in [
            ("1000.600000000", 0),
            ("1000.400000000", -100),
            ("1001.000000000", 100),
            ("999.999000000", -501),
            ("1010.000", 9_100),
        ] {
            let clock = milliseconds(clock).unwrap();
            assert_eq!(skew_ms(clock, before, after), skew, "{clock}");
        }
        for nonsense in ["Sun Nov 22", "1000", "1000.N", "x.123", ""] {
            assert!(milliseconds(nonsense).is_err(), "{nonsense}");
        }
    }

    #[test]
    fn ports_of_others_on_our_address_are_taken() {
        let ask = Preflight {
            cluster_id: String::new(),
            ports: vec![8501, 8301, 4646, 8300],
        };
        let listener = |address: &str, port, pid| Listener {
            address: address.parse().ok(),
            port,
            pid,
            command: pid.map(|_| "nginx".to_owned()),
        };
        let listeners = vec![
            listener("127.0.34.2", 8501, Some(9)),  // another address
            listener("127.0.34.1", 4646, Some(12)), // ours
            listener("127.0.34.1", 9999, Some(9)),  // a port that the cluster does not need
            listener("0.0.0.0", 8301, Some(9)),
            listener("::", 8301, Some(9)),
            listener("127.0.34.1", 8300, None),
        ];
        let taken = taken(listeners, "127.0.34.1".parse().unwrap(), &ask, &[12]);
        let expected = [(8300, None), (8301, Some("nginx, pid 9".to_owned()))];
        assert_eq!(taken, expected.map(|(port, by)| TakenPort { port, by }));
    }
}
