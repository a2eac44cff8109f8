//! `lb` beside its peers: the CPU time that a request costs each of them, end to end over real
//! sockets.
//!
//! `make bench`, or `cargo bench --bench end_to_end -- --cases "h1-64 tls-64" --rounds 5 --seconds
//! 3`. How it works and how to read it: docs/performance.md. Under `cargo test` it runs one short
//! case, so that it cannot rot.

#![allow(clippy::print_stdout, reason = "what a benchmark is for")]
#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot go on should stop"
)]

mod backend;
mod cases;
mod certificates;
mod clients;
mod configs;
mod cost;
mod floor;
mod lb;
mod load;
mod measure;
mod mixed;
mod outcome;
mod plot;
mod ports;
mod proxies;
mod request_body;
mod requests;
mod result;
mod routes;
mod running;
mod stand;
mod tail;
mod tools;
mod varied;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rcgen::RsaKeySize;

use crate::certificates::Certificates;
use crate::measure::{Bench, measure};
use crate::proxies::Proxy;
use crate::result::{Row, Series};

#[derive(Parser)]
struct Options {
    /// Names of cases, separated by spaces. Empty: all.
    #[arg(long, default_value = "")]
    cases: String,
    /// Names of proxies, separated by spaces. Empty: all that are there.
    #[arg(long, default_value = "")]
    proxies: String,
    /// Rounds per case that count.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Length of a round in seconds.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// What cargo passes.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|first| first == "floor") {
        floor::run(
            &arguments[2..]
                .iter()
                .map(|port| port.parse().unwrap())
                .collect::<Vec<_>>(),
        );
        return ExitCode::SUCCESS;
    }
    // `cargo test` passes no --bench, and perhaps a filter that means others.
    let smoke = !arguments.iter().any(|argument| argument == "--bench");
    let options = if smoke {
        Options {
            cases: "h1-64".into(),
            proxies: String::new(),
            rounds: 1,
            seconds: 0.3,
            bench: false,
        }
    } else {
        Options::parse()
    };
    if let Some(reason) = tools::unfit() {
        println!("SKIPPED end_to_end: {reason}");
        return if smoke {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let Some(cases) = chosen(&options.cases, cases::ALL, |case| case.name) else {
        return ExitCode::FAILURE;
    };
    let Some(proxies) = chosen(&options.proxies, proxies::ALL, |proxy| proxy.name()) else {
        return ExitCode::FAILURE;
    };
    let (here, absent): (Vec<Proxy>, Vec<Proxy>) =
        proxies.iter().partition(|proxy| proxy.program().is_some());
    for proxy in absent {
        let name = proxy.name();
        println!(
            "ABSENT: {name} is not on PATH and {}_BIN is not set: it is left out",
            name.to_uppercase()
        );
    }
    for name in ["wrk", "h2load"]
        .into_iter()
        .filter(|name| tools::find(name).is_none())
    {
        println!("ABSENT: {name}: cases that need it fail (make bench-tools installs it)");
    }
    let cores = tools::cores();
    // The proxy has the first core, or the first two, all else the last one.
    let other_core = cores[cores.len() - 1];
    if cores.len() == 1 {
        println!("only one core: proxy and load share it");
    }

    let versions: Vec<(String, String)> = here
        .iter()
        .map(|proxy| (proxy.name().into(), proxy.version()))
        .collect();
    let machine = tools::machine();
    tools::pin_self(other_core);
    println!("{machine}");
    for (name, version) in &versions {
        println!("{name}: {version}");
    }
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench {
        proxies: &here,
        cores: &cores,
        rounds: options.rounds,
        length: Duration::from_secs_f64(options.seconds),
        folder: folder.path(),
        certificates: &Certificates::write(folder.path(), RsaKeySize::_2048),
        backends: backend::start(),
    };
    let rows: Vec<Row> = cases
        .iter()
        .map(|case| {
            println!("{} …", case.name);
            measure(case, &bench)
        })
        .collect();

    let table = [
        result::table(&rows, &here),
        varied::table(&rows),
        result::loads(&rows),
    ]
    .concat()
    .trim_start()
    .to_owned();
    println!(
        "\nCPU µs per request (MB resident for idle, p99 in ms for p99-80); in brackets lb's by that one's\n\n{table}"
    );
    for (row, series) in rows
        .iter()
        .flat_map(|row| row.series.iter().map(move |series| (row, series)))
    {
        if let Some(problem) = &series.problem {
            println!("{} in {}: {problem}", series.proxy.name(), row.case.name);
        }
    }
    if smoke {
        let figure = rows[0].of(Proxy::Lb).and_then(Series::figure);
        return if figure.is_some_and(|figure| figure > 0.0) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        };
    }
    let about = serde_json::json!({"machine": machine, "after": tools::machine(), "versions": versions,
        "rounds": options.rounds, "seconds": options.seconds});
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .unwrap()
        .join("bench");
    fs::create_dir_all(&target).unwrap();
    fs::write(
        target.join("end_to_end.json"),
        format!("{:#}\n", result::json(&rows, &about)),
    )
    .unwrap();
    fs::write(target.join("end_to_end.svg"), plot::svg(&rows)).unwrap();
    fs::write(target.join("end_to_end.md"), table).unwrap();
    println!(
        "written: end_to_end.json, .svg and .md in {}",
        target.display()
    );
    ExitCode::SUCCESS
}

/// Those of `all` that are named, or all. `None` after telling of a name that is none.
fn chosen<T: Copy>(names: &str, all: &[T], name: impl Fn(&T) -> &'static str) -> Option<Vec<T>> {
    let names: Vec<&str> = names.split_whitespace().collect();
    if let Some(wrong) = names
        .iter()
        .find(|wanted| !all.iter().any(|one| name(one) == **wanted))
    {
        println!(
            "there is no {wrong}; there are: {}",
            all.iter().map(&name).collect::<Vec<_>>().join(" ")
        );
        return None;
    }
    Some(
        all.iter()
            .copied()
            .filter(|one| names.is_empty() || names.contains(&name(one)))
            .collect(),
    )
}
