//! Instances that respond with errors at once: quick, idle, and no place for requests while others
//! do better.

use std::time::Duration;

use crate::harness::{router, runtime};
use crate::support::client::{Load, Outcome, get};
use crate::support::lb::Lb;
use crate::support::upstream::Upstream;
use crate::support::wait::wait_until;

const STRATEGIES: [&str; 6] = ["p2c", "least", "ewma", "rr", "rnd", "hash:path"];

/// Three good ones that take their time, and one that responds with `status` at once.
fn stand(status: u16, more: &str) -> (Lb, [Upstream; 4]) {
    let all = ["bad", "a", "b", "c"].map(Upstream::start);
    all[0].set_status(status);
    all[1..]
        .iter()
        .for_each(|upstream| upstream.set_delay(Duration::from_millis(100)));
    let addresses = all.each_ref().map(|upstream| upstream.address);
    (router(&[("/", &addresses, "")], more), all)
}

fn load(lb: &Lb, duration: Duration) -> Outcome {
    let load = Load {
        connections: 20,
        ..Load::new(lb.address("http"), "h", "/", 100)
    };
    runtime().block_on(load.run(duration))
}

fn ejections(lb: &Lb) -> f64 {
    lb.metric("lb_upstream_ejections_total{service=\"s0\"}")
        .unwrap_or(0.0)
}

#[test]
fn one_that_answers_errors_at_once_is_ejected_with_every_strategy() {
    for (at, strategy) in STRATEGIES.into_iter().enumerate() {
        let status = [503, 502, 504][at % 3];
        let (lb, all) = stand(status, &format!("[proxy]\nstrategy = \"{strategy}\"\n"));
        // A hash needs more than one key.
        let paths = if strategy.starts_with("hash") { 40 } else { 1 };
        let threads: Vec<_> = (0..paths)
            .map(|path| {
                let path = format!("/{path}");
                let one = Load {
                    connections: if paths > 1 { 1 } else { 20 },
                    ..Load::new(
                        lb.address("http"),
                        "h",
                        &path,
                        if paths > 1 { 5 } else { 100 },
                    )
                };
                std::thread::spawn(move || runtime().block_on(one.run(Duration::from_secs(3))))
            })
            .collect();
        let mut outcome = Outcome::default();
        threads
            .into_iter()
            .for_each(|thread| outcome.add(thread.join().unwrap()));
        assert!(
            outcome.errors.is_empty(),
            "{strategy}: {:?}",
            outcome.errors
        );
        assert!(
            ejections(&lb) >= 1.0,
            "{strategy}: {} of {}",
            all[0].requests(),
            outcome.requests()
        );
        let share = all[0].requests() as f64 / outcome.requests() as f64;
        assert!(
            share < 0.1,
            "{strategy}: {} of {}",
            all[0].requests(),
            outcome.requests()
        );
    }
}

#[test]
fn an_ejection_for_errors_ends_like_any_other() {
    let (lb, all) = stand(
        503,
        "[proxy]\nworkers = 1\n[health]\neject_base = \"300ms\"\n",
    );
    load(&lb, Duration::from_secs(1));
    assert!(ejections(&lb) >= 1.0);
    all[0].set_status(200);
    all[1..]
        .iter()
        .for_each(|upstream| upstream.set_delay(Duration::ZERO));
    let before = all[0].requests();
    wait_until("traffic to it", || {
        get(lb.address("http"), "h", "/");
        all[0].requests() > before + 10
    });
    assert_eq!(
        lb.metric("lb_table_targets{service=\"s0\",state=\"ejected\"}")
            .unwrap_or(0.0),
        0.0
    );
}

#[test]
fn errors_of_all_eject_none() {
    for strategy in STRATEGIES {
        let (lb, all) = stand(503, &format!("[proxy]\nstrategy = \"{strategy}\"\n"));
        for upstream in &all {
            upstream.set_status(503);
            upstream.set_delay(Duration::ZERO);
        }
        let outcome = load(&lb, Duration::from_secs(1));
        assert_eq!(
            outcome.statuses.keys().collect::<Vec<_>>(),
            [&503],
            "{strategy}: {:?}",
            outcome.errors
        );
        assert_eq!(ejections(&lb), 0.0, "{strategy}");
        if !strategy.starts_with("hash") {
            let least = all.iter().map(Upstream::requests).min().unwrap();
            assert!(
                least * 12 >= outcome.requests(),
                "{strategy}: all get their part, {least} of {}",
                outcome.requests()
            );
        }
    }
}

#[test]
fn load_figures_do_not_reward_errors_without_ejection_either() {
    for strategy in ["p2c", "least", "ewma"] {
        let (lb, all) = stand(
            503,
            &format!("[proxy]\nstrategy = \"{strategy}\"\n[health]\neject_after = 0\n"),
        );
        let outcome = load(&lb, Duration::from_secs(3));
        assert_eq!(ejections(&lb), 0.0);
        let share = all[0].requests() as f64 / outcome.requests() as f64;
        assert!(
            share <= 0.25,
            "{strategy}: {} of {}",
            all[0].requests(),
            outcome.requests()
        );
    }
}

#[test]
fn which_statuses_count_is_configured() {
    for (rule, status, ejected) in [
        ("", 500, false),
        ("", 501, false),
        ("", 429, false),
        ("error_status = \"5xx\"", 500, true),
        ("error_status = \"5xx\"", 404, false),
        ("error_status = \"off\"", 503, false),
    ] {
        let (lb, _all) = stand(
            status,
            &format!("[proxy]\nstrategy = \"rr\"\n[health]\n{rule}\n"),
        );
        load(&lb, Duration::from_secs(1));
        assert_eq!(ejections(&lb) >= 1.0, ejected, "{rule} {status}");
    }
}
