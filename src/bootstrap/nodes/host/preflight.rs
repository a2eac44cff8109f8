//! Whether a node can be worked on: what it is, what it lacks, and what is in the way.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

use super::super::spec::NodeSpec;
use super::channel::PATIENCE;
use super::script::{Sections, quote, quote_all};
use super::sockets::{Listener, holds_address, listeners};
use super::{Inner, MARK, daemons};
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
    /// Who has it (`nginx, pid 812`), where that can be told.
    pub by: Option<String>,
}

/// What preflight found. Whether it is good enough is for the caller to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `linux`, `darwin`: `uname -s` in lower case.
    pub os: String,
    /// `amd64`, `arm64`, … as release archives call it; `uname -m` itself when unknown.
    pub arch: String,
    /// Whether systemd is what runs the machine.
    pub systemd: bool,
    /// How far the node's clock is ahead of ours at the least (behind: negative), in milliseconds;
    /// 0 within what can be told.
    pub clock_skew_ms: i64,
    /// Whether the node's address is one of the machine's.
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
    /// Id of the cluster whose mark the node carries.
    pub cluster_id: Option<String>,
}

/// Looks at ports that seem to be taken, and the pause between two of them.
const LOOKS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(300);

/// Looks again while a port is taken by what may yet turn out to be ours: a daemon that a killed
/// run of ours had just started has no id on file for a moment, and one that opens its ports
/// between the two passes of `ss`, over processes and over sockets, is listed as nobody's.
pub(super) async fn run(host: &Inner, spec: &NodeSpec, ask: &Preflight) -> Result<Facts> {
    let mut facts = look(host, spec, ask).await?;
    for _ in 1..LOOKS {
        if facts.ports_taken.is_empty()
            || facts.cluster_id.as_deref() != Some(ask.cluster_id.as_str())
        {
            break;
        }
        tokio::time::sleep(PAUSE).await;
        facts = look(host, spec, ask).await?;
    }
    Ok(facts)
}

async fn look(host: &Inner, spec: &NodeSpec, ask: &Preflight) -> Result<Facts> {
    // Dialled before the clock is looked at, or the time that takes would be in the comparison.
    host.channel.run("return 0", PATIENCE).await?;
    let before = since_epoch();
    let answer = host.channel.run(&script(host, spec), PATIENCE).await?;
    let after = since_epoch();
    let answer = Sections::parse(&answer);
    let user = answer.lines("user");
    if !host.local && user.first() != Some(&"0") {
        bail!(
            "{}: {} works, but as the user {}, who may not make users and write to /etc: log in as root, or set sudo = \
             true",
            host.name,
            host.channel.describe(),
            user.get(1).unwrap_or(&"?")
        );
    }
    let clock = answer
        .first("clock")
        .with_context(|| format!("{}: `date` printed nothing", host.name))?;
    let cluster_id = answer.first("mark").map(str::to_owned);
    let is_ours = cluster_id.as_deref() == Some(ask.cluster_id.as_str());
    let os = answer.first("os").unwrap_or_default().to_lowercase();
    Ok(Facts {
        arch: arch(answer.first("arch").unwrap_or_default()).to_owned(),
        systemd: answer.first("systemd").is_some(),
        clock_skew_ms: skew_ms(clock, before, after)
            .with_context(|| format!("{}: its `date`: {clock}", host.name))?,
        has_address: holds_address(answer.lines("addresses"), host.address, os == "linux"),
        ports_taken: taken(
            listeners(answer.lines("sockets")),
            host.address,
            ask,
            answer.lines("ours"),
        ),
        missing_tools: answer
            .lines("missing")
            .iter()
            .map(|&tool| tool.to_owned())
            .collect(),
        free_disk_bytes: answer
            .first("disk")
            .and_then(|kib| kib.parse::<u64>().ok())
            .unwrap_or(0)
            * 1024,
        foreign: if is_ours {
            Vec::new()
        } else {
            answer
                .lines("there")
                .iter()
                .map(|&path| path.to_owned())
                .collect()
        },
        cluster_id,
        os,
    })
}

fn script(host: &Inner, spec: &NodeSpec) -> String {
    let layout = &host.layout;
    let mut script = format!("run={}\n{}", quote(&layout.run), daemons::RUNNING);
    script.push_str(
        "echo ::clock; date +%s.%N\n\
         echo ::user; id -u; id -un\n\
         echo ::os; uname -s\n\
         echo ::arch; uname -m\n\
         echo ::systemd; if [ -d /run/systemd/system ]; then echo yes; fi\n\
         echo ::addresses; ip -o addr 2>/dev/null || ifconfig -a 2>/dev/null\n\
         echo ::sockets; ss -Hltnp 2>/dev/null || lsof -nP -iTCP -sTCP:LISTEN 2>/dev/null || netstat -ltn 2>/dev/null\n",
    );
    script.push_str("echo ::ours\n");
    for daemon in &spec.daemons {
        let _ = writeln!(script, "{}", daemons::print_pid(host, daemon.product));
    }
    let _ = writeln!(script, "echo ::mark; cat \"$run/{MARK}\" 2>/dev/null");
    script.push_str("echo ::missing\n");
    for alternatives in tools(host, spec) {
        let test = alternatives
            .iter()
            .map(|tool| format!("has {tool}"))
            .collect::<Vec<_>>()
            .join(" || ");
        let _ = writeln!(script, "{test} || echo '{}'", alternatives.join(" or "));
    }
    let _ = writeln!(
        script,
        "d={}\nwhile [ ! -d \"$d\" ] && [ \"$d\" != / ] && [ -n \"$d\" ]; do d=${{d%/*}}; done\n\
         echo ::disk; df -kP \"${{d:-/}}\" | awk 'NR == 2 {{ print $4 }}'\necho ::there",
        quote(&layout.consul_data)
    );
    let folders = spec
        .daemons
        .iter()
        .flat_map(|daemon| [layout.config(daemon.product), layout.data(daemon.product)]);
    let folders: Vec<&str> = folders.collect();
    let _ = writeln!(
        script,
        "for d in {}; do [ -z \"$(ls -A \"$d\" 2>/dev/null)\" ] || echo \"$d\"; done",
        quote_all(folders.iter().copied())
    );
    // Those in the folders above are told by them.
    let files = spec.files.iter().map(|file| file.path.as_str());
    let files = files.filter(|path| {
        !folders
            .iter()
            .any(|folder| path.starts_with(&format!("{folder}/")))
    });
    let _ = writeln!(
        script,
        "for f in {}; do [ ! -e \"$f\" ] || echo \"$f\"; done\nreturn 0",
        quote_all(files)
    );
    script
}

/// What has to be there, each with its alternatives.
fn tools(host: &Inner, spec: &NodeSpec) -> Vec<&'static [&'static str]> {
    let mut tools: Vec<&[&str]> = vec![
        &["sha256sum", "shasum"],
        &["base64", "openssl"],
        &["stat"],
        &["sed"],
        &["awk"],
        &["tr"],
        &["find"],
        &["tail"],
        &["mv"],
        &["chmod"],
    ];
    if !host.local {
        tools.push(&["chown"]);
        tools.push(&["useradd", "adduser"]);
        tools.push(match host.runner {
            Runner::Systemd => &["systemctl"],
            Runner::Process => &["setpriv", "runuser", "su"],
        });
    }
    if spec
        .binaries
        .iter()
        .any(|binary| matches!(binary.source, BinarySource::Release(_)))
    {
        tools.push(&["curl", "wget"]);
        tools.push(&["unzip", "python3", "busybox"]);
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

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// How far a clock is off that showed `clock` (seconds since the epoch, with what `date` made of a
/// fraction) somewhere between two looks at ours.
fn skew_ms(clock: &str, before: Duration, after: Duration) -> Result<i64> {
    let (seconds, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let seconds: i64 = seconds.trim().parse()?;
    // BusyBox and BSD know no %N; then it was any moment of that second.
    let (from, to) = match fraction
        .get(..3)
        .and_then(|digits| digits.parse::<i64>().ok())
    {
        Some(ms) => (seconds * 1000 + ms, seconds * 1000 + ms),
        None => (seconds * 1000, seconds * 1000 + 999),
    };
    let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    Ok(if from > ms(after) {
        from - ms(after)
    } else if to < ms(before) {
        to - ms(before)
    } else {
        0
    })
}

fn taken(
    listeners: Vec<Listener>,
    address: IpAddr,
    ask: &Preflight,
    ours: &[&str],
) -> Vec<TakenPort> {
    let is_ours = |listener: &Listener| {
        listener
            .pid
            .is_some_and(|pid| ours.iter().any(|own| own.trim().parse() == Ok(pid)))
    };
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
            ("1000.400", -100),
            ("1001.000", 100),
            ("1000.N", 0),
            ("1000.%N", 0),
            ("1000", 0),
            ("999", -501),
            ("1010.N", 9_100),
        ] {
            assert_eq!(skew_ms(clock, before, after).unwrap(), skew, "{clock}");
        }
        assert!(skew_ms("Sun Nov 22", before, after).is_err());
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
            listener("127.0.34.1", 9999, Some(9)),  // nobody asked
            listener("0.0.0.0", 8301, Some(9)),
            listener("::", 8301, Some(9)),
            listener("127.0.34.1", 8300, None),
        ];
        let taken = taken(listeners, "127.0.34.1".parse().unwrap(), &ask, &["12"]);
        let expected = [(8300, None), (8301, Some("nginx, pid 9".to_owned()))];
        assert_eq!(taken, expected.map(|(port, by)| TakenPort { port, by }));
    }
}
