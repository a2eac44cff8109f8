//! Slow requests, and instances that are frozen: the first are sent once, the others are found out
//! by what else they do not respond to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;

use crate::harness::{OK, Scripted, router, runtime, wait_quiet};
use crate::support::client::{Load, RawClient};
use crate::support::lb::Lb;
use crate::support::upstream::Upstream;

/// Longer than any time after which a request used to be sent elsewhere, several times over.
const SLOW: Duration = Duration::from_secs(5);
const METHODS: [&str; 6] = ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "POST"];

fn upstreams<const N: usize>(delay: Duration) -> [Upstream; N] {
    std::array::from_fn(|number| {
        let upstream = Upstream::start(&format!("u{number}"));
        upstream.set_delay(delay);
        upstream
    })
}

fn in_front_of(upstreams: &[Upstream], more: &str) -> Lb {
    let addresses: Vec<_> = upstreams.iter().map(|upstream| upstream.address).collect();
    router(&[("/", &addresses, "")], more)
}

fn retries(lb: &Lb) -> f64 {
    let reasons = ["connect", "closed", "timeout"];
    let sample =
        |reason| format!("lb_upstream_retries_total{{service=\"s0\",reason=\"{reason}\"}}");
    reasons
        .iter()
        .filter_map(|reason| lb.metric(&sample(reason)))
        .sum()
}

fn asked(upstreams: &[Upstream]) -> u64 {
    upstreams.iter().map(Upstream::requests).sum()
}

#[test]
fn a_slow_request_is_asked_once_whatever_its_method() {
    let (three, one) = (upstreams::<3>(SLOW), upstreams::<1>(SLOW));
    let stands = [
        in_front_of(&three, ""),
        in_front_of(&three, "[proxy]\nrequest_timeout = \"60s\"\n"),
        in_front_of(&one, ""),
    ];
    let clients: Vec<_> = stands
        .iter()
        .flat_map(|lb| METHODS.map(|method| (lb.address("http"), method)))
        .map(|(address, method)| {
            std::thread::spawn(move || {
                let request =
                    format!("{method} /slow HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
                let answer = RawClient::connect(address).send(request).rest();
                assert!(
                    answer.starts_with(b"HTTP/1.1 200 "),
                    "{method}: {}",
                    String::from_utf8_lossy(&answer)
                );
            })
        })
        .collect();
    clients
        .into_iter()
        .for_each(|client| client.join().unwrap());
    assert_eq!(
        (asked(&three), asked(&one)),
        (2 * METHODS.len() as u64, METHODS.len() as u64)
    );
    for lb in &stands {
        assert_eq!(retries(lb), 0.0);
        assert_eq!(
            lb.metric("lb_upstream_ejections_total{service=\"s0\"}")
                .unwrap_or(0.0),
            0.0
        );
    }
}

#[test]
fn sixty_long_polls_are_sixty() {
    let three = upstreams::<3>(SLOW);
    let lb = in_front_of(&three, "");
    let load = Load {
        connections: 60,
        timeout: 2 * SLOW,
        ..Load::new(lb.address("http"), "h", "/poll", 600)
    };
    let outcome = runtime().block_on(load.run(Duration::from_millis(100)));
    outcome.assert_none_failed();
    assert_eq!(
        (outcome.requests(), asked(&three), retries(&lb)),
        (60, 60, 0.0)
    );
}

#[test]
fn long_polls_beside_quick_requests_are_asked_once() {
    const POLLS: usize = 8;
    for strategy in ["p2c", "rr", "least", "ewma"] {
        let answer = |visit: &mut crate::harness::Visit| {
            while let Some(request) = visit.request() {
                if request.starts_with("GET /poll") {
                    std::thread::sleep(SLOW);
                }
                visit.send(OK);
            }
        };
        let three: [Scripted; 3] = std::array::from_fn(|_| Scripted::start(answer));
        let addresses = three.each_ref().map(|upstream| upstream.address);
        let lb = router(
            &[("/", &addresses, "")],
            &format!("[proxy]\nstrategy = \"{strategy}\"\n"),
        );
        let quick = Load::new(lb.address("http"), "h", "/quick", 60).start();
        // All of them at few instances, so that these are the busiest for strategies that go by
        // load.
        let polls = Load {
            connections: POLLS as u32,
            timeout: 2 * SLOW,
            ..Load::new(lb.address("http"), "h", "/poll", 800)
        };
        let outcome = runtime().block_on(polls.run(Duration::from_millis(10)));
        outcome.assert_none_failed();
        quick.stop().assert_none_failed();
        let polled: usize = three
            .iter()
            .map(|upstream| upstream.received().matches("GET /poll").count())
            .sum();
        assert_eq!(
            (outcome.requests(), polled, retries(&lb)),
            (POLLS as u64, POLLS, 0.0),
            "{strategy}"
        );
    }
}

#[test]
fn a_frozen_instance_is_found_and_costs_no_request() {
    let drills = ["p2c", "rr", "least", "ewma"].map(|strategy| {
        std::thread::spawn(move || {
            let three = Arc::new(upstreams::<3>(Duration::ZERO));
            let lb = in_front_of(&*three, &format!("[proxy]\nstrategy = \"{strategy}\"\n"));
            let load = Load::new(lb.address("http"), "h", "/", 60).start();
            std::thread::sleep(Duration::from_millis(700));
            three[0].freeze();
            std::thread::sleep(Duration::from_secs(8));
            three[0].thaw();
            std::thread::sleep(Duration::from_millis(300));
            let outcome = load.stop();
            outcome.assert_none_failed();
            // Found after some 2 s; without, a request sent there would wait until the thaw.
            assert!(
                outcome.percentile(1.0) < Duration::from_secs(6),
                "{strategy}: {:?}",
                outcome.percentile(1.0)
            );
            assert!(
                retries(&lb) <= outcome.requests() as f64 * 0.2,
                "{strategy}: {}",
                retries(&lb)
            );
            // By latency it may happen to be the one that gets nothing in these seconds.
            if strategy != "ewma" {
                assert!(retries(&lb) >= 1.0, "{strategy}");
                assert!(
                    lb.metric("lb_upstream_ejections_total{service=\"s0\"}")
                        .unwrap_or(0.0)
                        >= 1.0,
                    "{strategy}"
                );
            }
            wait_quiet(&lb, "s0");
        })
    });
    drills.into_iter().for_each(|drill| drill.join().unwrap());
}

#[test]
fn what_may_not_be_doubled_waits_for_a_frozen_instance() {
    let answer = |visit: &mut crate::harness::Visit| {
        while visit.request().is_some() {
            visit.send(OK);
        }
    };
    // The first of three responds to nothing for a while: every request to it, on all of its
    // connections.
    let begun = Instant::now();
    let frozen = Scripted::start(move |visit| {
        while visit.request().is_some() {
            std::thread::sleep(SLOW.saturating_sub(begun.elapsed()));
            visit.send(OK);
        }
    });
    let well = [Scripted::start(answer), Scripted::start(answer)];
    let lb = router(
        &[("/", &[frozen.address, well[0].address, well[1].address], "")],
        "[proxy]\nstrategy = \"rr\"\nworkers = 1\n[health]\nfrozen_after = \"1s\"\n",
    );
    let quick = Load::new(lb.address("http"), "h", "/quick", 50).start();
    let changes: Vec<_> = ["PUT", "DELETE", "POST", "OPTIONS"]
        .into_iter()
        .flat_map(|method| [method; 3])
        .map(|method| {
            let address = lb.address("http");
            std::thread::spawn(move || {
                let request =
                    format!("{method} /change HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
                RawClient::connect(address)
                    .send(request)
                    .response()
                    .unwrap()
                    .status
            })
        })
        .collect();
    assert!(
        changes
            .into_iter()
            .all(|change| change.join().unwrap() == 200)
    );
    quick.stop().assert_none_failed();
    let changed: usize = [&frozen, &well[0], &well[1]]
        .iter()
        .map(|upstream| upstream.received().matches(" /change ").count())
        .sum();
    assert_eq!(changed, 12);
    assert!(
        retries(&lb) >= 1.0,
        "the GETs that waited for it were sent elsewhere"
    );
}

#[test]
fn asking_elsewhere_for_slowness_alone_is_opt_in() {
    let (slow, quick) = (Upstream::start("slow"), Upstream::start("quick"));
    slow.set_delay(SLOW);
    let lb = router(
        &[("/", &[slow.address, quick.address], "")],
        "[proxy]\nworkers = 1\nstrategy = \"rr\"\ntry_timeout = \"200ms\"\n[health]\neject_after = 0\n",
    );
    for method in [Method::GET, Method::HEAD] {
        let load = Load {
            method,
            connections: 2,
            ..Load::new(lb.address("http"), "h", "/", 4)
        };
        let outcome = runtime().block_on(load.run(Duration::from_secs(1)));
        outcome.assert_none_failed();
        assert!(outcome.percentile(1.0) < SLOW, "{:?}", outcome.latencies);
    }
    let before = retries(&lb);
    assert!(before >= 1.0);
    let puts = Load {
        method: Method::PUT,
        connections: 2,
        ..Load::new(lb.address("http"), "h", "/", 4)
    };
    let outcome = runtime().block_on(puts.run(Duration::from_millis(400)));
    outcome.assert_none_failed();
    assert!(
        outcome.percentile(1.0) >= SLOW && retries(&lb) == before,
        "no PUT runs twice"
    );
}

#[test]
fn answers_that_are_late_everywhere_eject_none() {
    for (slow, ejected) in [(3, 0.0), (1, 1.0)] {
        let three = upstreams::<3>(Duration::ZERO);
        three[..slow]
            .iter()
            .for_each(|upstream| upstream.set_delay(SLOW));
        let lb = in_front_of(
            &three,
            "[proxy]\nstrategy = \"rr\"\nresponse_timeout = \"200ms\"\n",
        );
        let load = Load {
            connections: 9,
            method: Method::POST,
            ..Load::new(lb.address("http"), "h", "/", 30)
        };
        let outcome = runtime().block_on(load.run(Duration::from_secs(2)));
        assert!(
            outcome.statuses.contains_key(&504),
            "{:?} {:?}",
            outcome.statuses,
            outcome.errors
        );
        let ejections = lb
            .metric("lb_upstream_ejections_total{service=\"s0\"}")
            .unwrap_or(0.0);
        assert_eq!(
            ejections, ejected,
            "{slow} of three: {:?}",
            outcome.statuses
        );
    }
}
