//! Whether `lb fabio` behaves as Fabio does: case by case, on real sockets, in front of a real
//! Consul.
//!
//! The cases stand in `cases/*.toml`, one file for each set of settings. A case names the rule it
//! shows, what is registered, what is sent, and what must come of it. All of them run against `lb
//! fabio`. When there is a `fabio` on PATH, or `FABIO_BIN` names one, they run against that as
//! well, and must come out the same: but for those that say why not (`fabio = …`, `why = …`).
//!
//! ```text
//! FABIO_BIN=/usr/local/bin/fabio cargo test --test fabio conformance     # both
//! LB_CASES=matching cargo test --test fabio conformance                  # files whose name holds this
//! ```
//! Everything is registered before anything starts, so that each program reads its whole table
//! once. The files keep apart by the prefix of their tags and by their path in the KV store; the
//! programs by a loopback address each.

mod case;
mod check;
mod client;
mod register;
mod setup;
mod subject;
mod upstreams;

use std::fmt::Write as _;

use case::{Case, File, Step, Who};
use setup::Setup;
use subject::Subject;

use crate::support::wait::PATIENCE;

/// What there is to run besides `lb`.
fn who() -> Vec<Who> {
    match subject::fabio() {
        Some(_) => vec![Who::Lb, Who::Fabio],
        None => vec![Who::Lb],
    }
}

#[test]
fn lb_fabio_behaves_as_fabio() {
    let files = case::load();
    let who = who();
    if who.len() == 1 {
        eprintln!("SKIPPED: no fabio on PATH and no FABIO_BIN: the cases ran against lb alone");
    }
    let setup = Setup::new(&files);
    let mut failures = Vec::new();
    std::thread::scope(|scope| {
        let (setup, who) = (&setup, &who);
        let run = |file| {
            move || {
                who.iter()
                    .flat_map(|who| run(setup, file, *who))
                    .collect::<Vec<_>>()
            }
        };
        let runs: Vec<_> = files
            .iter()
            .map(|file| (file, scope.spawn(run(file))))
            .collect();
        for (file, run) in runs {
            match run.join() {
                Ok(found) => failures.extend(found),
                Err(_) => failures.push(format!("{}: did not run (see above)", file.name)),
            }
        }
    });
    let count: usize = files.iter().map(|file| file.cases.len()).sum();
    let report = failures.iter().fold(String::new(), |mut text, failure| {
        let _ = writeln!(text, "- {failure}");
        text
    });
    assert!(
        failures.is_empty(),
        "{} of {count} cases × {who:?} failed:\n{report}",
        failures.len()
    );
}

/// Runs the cases of one file against one program; what went wrong, one line each.
fn run(setup: &Setup, file: &File, who: Who) -> Vec<String> {
    let version = subject::version(who);
    if !file.is_for(who, &version) {
        return Vec::new();
    }
    let subject = Subject::start(setup, file, who);
    let mut failures = Vec::new();
    for case in file.cases.iter().filter(|case| case.is_for(who, &version)) {
        let steps = case.steps();
        for (at, step) in steps.iter().enumerate() {
            let outcome = play(setup, &subject, file, case, step);
            if let Err(what) = outcome {
                let at = if at == 0 {
                    String::new()
                } else {
                    format!(" (step {})", at + 1)
                };
                failures.push(format!("{who:?} {}: {}{at}: {what}", file.name, case.rule));
                break;
            }
        }
        if steps.iter().any(|step| !step.act.is_empty()) {
            register::case(setup, file, case);
        }
    }
    if !failures.is_empty() && std::env::var_os("LB_CASES_LOG").is_some() {
        eprintln!("--- {who:?} {} ---\n{}", file.name, subject.log());
    }
    failures
}

/// One step: what changes, what is sent, whether what came is right. After a change it may take a
/// moment.
fn play(
    setup: &Setup,
    subject: &Subject,
    file: &File,
    case: &Case,
    step: &Step,
) -> Result<(), String> {
    let begun = std::time::Instant::now();
    for act in &step.act {
        register::act(setup, file, case, act);
    }
    let patience = if step.act.is_empty() && !step.settles {
        std::time::Duration::ZERO
    } else {
        PATIENCE
    };
    loop {
        let outcome = check::step(setup, subject, step);
        if outcome.is_ok() || begun.elapsed() >= patience {
            return outcome;
        }
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
}
