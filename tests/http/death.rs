//! Instances that die, and whose port is another service's at once.

use std::time::Duration;

use crate::harness::{OK, Scripted, router, wait_quiet};
use crate::support::client::{Load, get};
use crate::support::upstream::Upstream;
use crate::support::wait::wait_until;

/// Catalogs know by then. Shorter than lb prefers others, so that the machine may be busy.
const UNKNOWN: Duration = Duration::from_millis(400);

#[test]
fn nothing_is_sent_to_the_next_owner_of_a_dead_instances_port() {
    for (strategy, more) in [
        ("p2c", ""),
        ("rr", ""),
        ("least", ""),
        ("rr", "request_timeout = \"60s\"\n"),
    ] {
        let mut wrong_answers = 0;
        for _ in 0..4 {
            let [a, b, c] = ["a", "b", "c"].map(Upstream::start);
            let addresses = [a.address, b.address, c.address];
            let lb = router(
                &[("/", &addresses, "")],
                &format!("[proxy]\nstrategy = \"{strategy}\"\n{more}"),
            );
            let load = Load::new(lb.address("http"), "h", "/", 400).start();
            wait_until("traffic to it", || c.requests() > 50);
            let address = c.kill();
            let _wrong = Upstream::start_at("wrong", address);
            std::thread::sleep(UNKNOWN);
            let outcome = load.stop();
            outcome.assert_none_failed();
            wrong_answers += outcome.instances.get("wrong").copied().unwrap_or(0);
            assert!(a.requests() > 50 && b.requests() > 50);
            wait_quiet(&lb, "s0");
        }
        // None where a connection was open to show the death; a worker that had none finds out by
        // a request. Without any sign of it, a third of all requests goes wrong: some 50 each time.
        assert!(
            wrong_answers <= 8,
            "{strategy} {more}: {wrong_answers} of four deaths"
        );
    }
}

#[test]
fn the_only_instance_is_asked_again_at_once_when_it_is_back() {
    let old = Upstream::start("old");
    let lb = router(&[("/", &[old.address], "")], "");
    let load = Load::new(lb.address("http"), "h", "/", 200).start();
    wait_until("traffic", || old.requests() > 50);
    drop(load.stop());
    let address = old.kill();
    let new = Upstream::start_at("new", address);
    for _ in 0..20 {
        assert_eq!(
            get(lb.address("http"), "h", "/").header("x-instance"),
            Some("new")
        );
    }
    assert!(new.requests() >= 20);
}

#[test]
fn servers_that_close_every_connection_keep_their_share() {
    // One of two closes each connection behind its first response, without a word about it.
    let closing = Scripted::start(|visit| {
        visit.request();
        visit.send(OK);
        visit.finish();
        visit.until_closed();
    });
    let keeping = Scripted::replying(OK);
    let lb = router(
        &[("/", &[closing.address, keeping.address], "")],
        "[proxy]\nworkers = 1\nstrategy = \"rr\"\n",
    );
    for _ in 0..40 {
        assert_eq!(get(lb.address("http"), "h", "/").status, 200);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!((closing.requests(), keeping.requests()), (20, 20));
}
