//! One case: all proxies run side by side, and are loaded one after the other, round by round.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rcgen::RsaKeySize;

use crate::cases::{Case, Kind, WORKERS_THROUGHPUT};
use crate::certificates::Certificates;
use crate::outcome::Outcome;
use crate::ports::{Backends, Doors};
use crate::proxies::Proxy;
use crate::result::{Row, Series};
use crate::running::{Running, takes};
use crate::stand::Stand;
use crate::{backend, clients, cost, load, tail};

/// What all cases have in common.
pub(crate) struct Bench<'a> {
    pub(crate) proxies: &'a [Proxy],
    /// Where proxies may run: one worker on the first.
    pub(crate) cores: &'a [usize],
    /// Rounds that count.
    pub(crate) rounds: usize,
    /// Length of a round.
    pub(crate) length: Duration,
    pub(crate) folder: &'a Path,
    pub(crate) certificates: &'a Certificates,
    pub(crate) backends: Backends,
}

/// What one round of one proxy showed.
struct Sample {
    outcome: Outcome,
    figure: f64,
    /// Good responses per second.
    per_second: f64,
    /// CPU time by time.
    cores: f64,
}

/// A proxy of the present case.
struct Entry {
    running: Option<Running>,
    folder: PathBuf,
    series: Series,
}

/// Measures one case.
pub(crate) fn measure(case: &Case, bench: &Bench<'_>) -> Row {
    let own = (case.name == WORKERS_THROUGHPUT).then(|| {
        let folder = bench.folder.join(case.name);
        fs::create_dir_all(&folder).unwrap();
        Certificates::write(&folder, RsaKeySize::_4096)
    });
    let certificates = own.as_ref().unwrap_or(bench.certificates);
    let chosen = bench.proxies.iter().filter(|proxy| takes(**proxy, case));
    let mut entries: Vec<Entry> = chosen
        .map(|&proxy| start(proxy, case, bench, certificates))
        .collect();
    let rate = match case.kind {
        Kind::Tail { percent } => rate(percent, &entries, case, bench.length),
        _ => 0,
    };
    // The first round of a real run warms up.
    let thrown_away = usize::from(bench.rounds >= 3);
    for round in 0..bench.rounds + thrown_away {
        for Entry {
            running,
            folder,
            series,
        } in &mut entries
        {
            let Some(running) = running else { continue };
            match once(
                &case.asked_of(series.proxy),
                running,
                rate,
                bench.length,
                folder,
                &certificates.ca,
            ) {
                _ if round < thrown_away => {}
                Ok(sample) => series.add(
                    &sample.outcome,
                    sample.figure,
                    sample.per_second,
                    sample.cores,
                ),
                Err(problem) => series.problem = Some(problem),
            }
        }
    }
    Row {
        case: *case,
        rate,
        series: entries.into_iter().map(|entry| entry.series).collect(),
    }
}

fn start(proxy: Proxy, case: &Case, bench: &Bench<'_>, certificates: &Certificates) -> Entry {
    let folder = bench.folder.join(format!("{}-{}", case.name, proxy.name()));
    fs::create_dir_all(&folder).unwrap();
    let (doors, hosts) = (Doors::free(), case.hosts());
    let stand = Stand {
        folder: &folder,
        doors,
        backends: bench.backends,
        certificates,
        hosts,
        kind: case.kind,
    };
    let started = Running::start(proxy, &stand, case, bench.cores);
    let series = Series {
        problem: started.as_ref().err().cloned(),
        ..Series::new(proxy)
    };
    Entry {
        running: started.ok(),
        folder,
        series,
    }
}

/// This part of what the weaker of HAProxy and nginx can take, or of what the first proxy can if
/// neither is there.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "far below 2^52"
)]
fn rate(percent: u32, entries: &[Entry], case: &Case, length: Duration) -> u64 {
    let can = |entry: &Entry| {
        let port = entry.running.as_ref()?.doors.port(case.door);
        let good = clients::http(port, "/64", tail::CONNECTIONS, length).good;
        Some(good as f64 / length.as_secs_f64() * f64::from(percent) / 100.0)
            .filter(|rate| *rate >= 1.0)
    };
    let peers = entries
        .iter()
        .filter(|entry| matches!(entry.series.proxy, Proxy::Haproxy | Proxy::Nginx));
    let weaker = peers.filter_map(can).min_by(f64::total_cmp);
    weaker
        .or_else(|| entries.first().and_then(can))
        .unwrap_or(1_000.0) as u64
}

/// One round of one proxy.
#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn once(
    case: &Case,
    running: &Running,
    rate: u64,
    length: Duration,
    folder: &Path,
    ca: &[u8],
) -> Result<Sample, String> {
    let port = running.doors.port(case.door);
    let (before, served, begun) = (cost::cpu(running.id()), backend::served(), Instant::now());
    let (mut resident, mut times) = (0, Vec::new());
    let outcome = match case.kind {
        Kind::Idle(count) => clients::idle(port, count, || resident = cost::resident(running.id())),
        Kind::Tail { .. } => {
            let (outcome, sorted) = tail::run(port, rate, length);
            times = sorted;
            outcome
        }
        _ => load::run(case, port, length, folder, ca)?,
    };
    let took = begun.elapsed().as_secs_f64();
    let spent = cost::cpu(running.id()).saturating_sub(before) as f64;
    let served = backend::served() - served;
    let passed_on = outcome.good - outcome.by_proxy;
    if served < passed_on {
        return Err(format!(
            "{passed_on} good answers passed on, and only {served} of the backend"
        ));
    }
    let figure = match case.kind {
        Kind::Idle(_) => resident as f64 / 1e6,
        Kind::Tail { .. } => tail::p99_ms(&times),
        _ => spent / 1e3 / outcome.good.max(1) as f64,
    };
    Ok(Sample {
        outcome,
        figure,
        per_second: outcome.good as f64 / took,
        cores: spent / 1e9 / took,
    })
}
