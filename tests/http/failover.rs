//! Instances that refuse, die, freeze or lag: which gets the request instead, how often, and what
//! the client sees.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use http::Method;

use crate::harness::{OK, Refusing, Scripted, router, runtime, wait_quiet};
use crate::support::client::{Load, Outcome, RawClient, exchange, get};
use crate::support::lb::Lb;
use crate::support::upstream::Upstream;
use crate::support::wait::wait_until;

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody";

fn load(lb: &Lb, method: Method, per_second: u32) -> Load {
    Load {
        method,
        ..Load::new(lb.address("http"), "h", "/", per_second)
    }
}

/// Runs load while something happens after `delay`.
fn load_while(
    load: &Load,
    duration: Duration,
    delay: Duration,
    happens: impl FnOnce() + Send + 'static,
) -> Outcome {
    let happening = std::thread::spawn(move || {
        std::thread::sleep(delay);
        happens();
    });
    let outcome = runtime().block_on(load.run(duration));
    happening.join().unwrap();
    outcome
}

fn retries(lb: &Lb, reason: &str) -> f64 {
    lb.metric(&format!(
        "lb_upstream_retries_total{{service=\"s0\",reason=\"{reason}\"}}"
    ))
    .unwrap_or(0.0)
}

fn ejections(lb: &Lb) -> f64 {
    lb.metric("lb_upstream_ejections_total{service=\"s0\"}")
        .unwrap_or(0.0)
}

#[test]
fn an_instance_that_refuses_costs_nobody_a_request_and_is_left_out_for_a_while() {
    let (a, b) = (Upstream::start("a"), Upstream::start("b"));
    let refusing = Refusing::new();
    let lb = router(
        &[("/", &[a.address, b.address, refusing.address], "")],
        "[proxy]\nworkers = 1\nstrategy = \"rr\"\n[health]\neject_after = 3\neject_base = \"1s\"\n",
    );
    for method in [Method::GET, Method::POST] {
        let load = Load {
            connections: 1,
            ..load(&lb, method, 100)
        };
        runtime()
            .block_on(load.run(Duration::from_millis(300)))
            .assert_none_failed();
    }
    assert_eq!((retries(&lb, "connect"), ejections(&lb)), (3.0, 1.0));
    let refused = lb.metric("lb_upstream_connects_total{service=\"s0\",result=\"refused\"}");
    assert_eq!(refused, Some(3.0), "left out after three");
    assert_eq!(
        lb.metric("lb_table_targets{service=\"s0\",state=\"ejected\"}"),
        Some(1.0)
    );
    // It comes up, and back once its time is over.
    let address = refusing.address;
    drop(refusing);
    let back = Upstream::start_at("back", address);
    wait_until("return", || {
        get(lb.address("http"), "h", "/").header("x-instance") == Some("back")
    });
    assert_eq!(ejections(&lb), 1.0);
    drop(back);
}

#[test]
fn killing_one_of_three_under_load_fails_no_get() {
    let upstreams = ["a", "b", "c"].map(Upstream::start);
    let lb = router(
        &[(
            "/",
            &upstreams.each_ref().map(|upstream| upstream.address),
            "",
        )],
        "",
    );
    let [a, b, c] = upstreams;
    let outcome = load_while(
        &load(&lb, Method::GET, 300),
        Duration::from_secs(2),
        Duration::from_millis(700),
        || {
            c.kill();
        },
    );
    outcome.assert_none_failed();
    assert!(a.requests() > 100 && b.requests() > 100);
    assert!(retries(&lb, "connect") >= 1.0);
    wait_quiet(&lb, "s0");
}

#[test]
fn posts_survive_a_failed_connect() {
    let (a, refusing) = (Upstream::start("a"), Refusing::new());
    let lb = router(
        &[("/", &[a.address, refusing.address], "")],
        "[proxy]\nworkers = 1\nstrategy = \"rr\"\n[health]\neject_after = 0\n",
    );
    let mut client = RawClient::connect(lb.address("http"));
    for _ in 0..20 {
        let response = client
            .send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody")
            .response();
        assert_eq!(response.unwrap().text(), "body");
    }
    assert_eq!(a.requests(), 20);
    assert!(retries(&lb, "connect") >= 10.0);
}

#[test]
fn a_frozen_instance_costs_time_but_no_get() {
    let upstreams = ["a", "b", "c"].map(Upstream::start);
    let lb = router(
        &[(
            "/",
            &upstreams.each_ref().map(|upstream| upstream.address),
            "",
        )],
        "[proxy]\ntry_timeout = \"300ms\"\n[health]\neject_base = \"1s\"\n",
    );
    let frozen = Arc::new(upstreams);
    let held = Arc::clone(&frozen);
    let outcome = load_while(
        &load(&lb, Method::GET, 200),
        Duration::from_millis(3500),
        Duration::from_millis(500),
        move || {
            held[0].freeze();
            std::thread::sleep(Duration::from_secs(2));
            held[0].thaw();
        },
    );
    outcome.assert_none_failed();
    assert!(
        outcome.percentile(0.99) < Duration::from_millis(1500),
        "{:?}",
        outcome.percentile(0.99)
    );
    assert!(retries(&lb, "timeout") >= 1.0);
    wait_quiet(&lb, "s0");
}

#[test]
fn connections_that_close_between_requests_cost_nothing() {
    // One response a connection, then FIN, without a word; or when a few milliseconds bring nothing
    // more.
    for pause in [0, 3] {
        let upstream = Scripted::start(move |visit| {
            visit.request();
            visit.send(OK);
            while pause > 0 && visit.comes_within(Duration::from_millis(pause)) {
                visit.request();
                visit.send(OK);
            }
            visit.finish();
            visit.until_closed();
        });
        let lb = router(
            &[("/", &[upstream.address], "")],
            "[health]\neject_after = 0\n",
        );
        let load = Load {
            connections: 4,
            ..load(&lb, Method::GET, 300)
        };
        let outcome = runtime().block_on(load.run(Duration::from_millis(700)));
        assert!(outcome.requests() > 100);
        assert_eq!(
            outcome.failed(),
            0,
            "{pause} ms: {:?} {:?}",
            outcome.statuses,
            outcome.errors
        );
    }
}

#[test]
fn a_post_meets_no_connection_whose_end_has_arrived() {
    let closed = Arc::new(AtomicUsize::new(0));
    let for_script = Arc::clone(&closed);
    let upstream = Scripted::start(move |visit| {
        visit.request();
        visit.send(OK);
        visit.finish();
        for_script.fetch_add(1, SeqCst);
        visit.until_closed();
    });
    let lb = router(&[("/", &[upstream.address], "")], "[proxy]\nworkers = 1\n");
    let mut client = RawClient::connect(lb.address("http"));
    for count in 1..=200 {
        assert_eq!(
            client.send(POST).response().unwrap().status,
            200,
            "after {count}"
        );
        // No pause: the end is in the kernel, but the event loop has hardly had time to see it.
        while closed.load(SeqCst) < count {
            std::hint::spin_loop();
        }
    }
    assert_eq!(upstream.requests(), 200);
}

#[test]
fn a_post_that_was_read_is_never_sent_twice() {
    let delivered = Arc::new(AtomicUsize::new(0));
    let upstreams: Vec<Scripted> = (0..3)
        .map(|_| {
            let delivered = Arc::clone(&delivered);
            Scripted::start(move |visit| {
                if visit.request().is_some() {
                    delivered.fetch_add(1, SeqCst);
                    visit.reset();
                }
            })
        })
        .collect();
    let addresses: Vec<_> = upstreams.iter().map(|upstream| upstream.address).collect();
    let lb = router(&[("/", &addresses, "")], "[health]\neject_after = 0\n");
    for count in 1..=10 {
        assert_eq!(exchange(lb.address("http"), POST).unwrap().status, 502);
        assert_eq!(delivered.load(SeqCst), count);
    }
    // A GET may be sent again, but no more often than the attempts allow.
    assert_eq!(exchange(lb.address("http"), GET).unwrap().status, 502);
    assert_eq!(delivered.load(SeqCst), 10 + 3, "each instance once");
    wait_quiet(&lb, "s0");
}

#[test]
fn retries_stay_within_their_budget_when_nothing_answers() {
    let upstreams: Vec<Scripted> = (0..3)
        .map(|_| Scripted::start(|visit| visit.until_closed()))
        .collect();
    let addresses: Vec<_> = upstreams.iter().map(|upstream| upstream.address).collect();
    let lb = router(
        &[("/", &addresses, "")],
        "[proxy]\nworkers = 1\ntry_timeout = \"100ms\"\nresponse_timeout = \"500ms\"\n\
         [retry]\nbudget_percent = 20\nbudget_min = 2\n",
    );
    let load = Load {
        connections: 50,
        ..load(&lb, Method::GET, 100)
    };
    let outcome = runtime().block_on(load.run(Duration::from_millis(1500)));
    assert_eq!(
        outcome.statuses.keys().collect::<Vec<_>>(),
        [&504],
        "{:?}",
        outcome.errors
    );
    let retried = retries(&lb, "timeout");
    let allowed = outcome.requests() as f64 * 0.2 + 2.0 * 4.0;
    assert!(
        retried > 0.0 && retried <= allowed,
        "{retried} retries for {} requests",
        outcome.requests()
    );
    wait_quiet(&lb, "s0");
}

#[test]
fn when_all_are_ejected_they_are_asked_all_the_same() {
    let refusing = [Refusing::new(), Refusing::new()];
    let addresses = refusing.each_ref().map(|refusing| refusing.address);
    let lb = router(
        &[("/", &addresses, "")],
        "[proxy]\nworkers = 1\n[health]\neject_after = 1\neject_base = \"1m\"\neject_max_percent = 100\n",
    );
    for _ in 0..3 {
        assert_eq!(exchange(lb.address("http"), GET).unwrap().status, 502);
    }
    assert_eq!(
        lb.metric("lb_table_targets{service=\"s0\",state=\"ejected\"}"),
        Some(2.0)
    );
    let [first, _second] = refusing;
    let address = first.address;
    drop(first);
    let back = Upstream::start_at("back", address);
    assert_eq!(
        get(lb.address("http"), "h", "/").header("x-instance"),
        Some("back")
    );
    drop(back);
}

#[test]
fn an_instance_that_dies_inside_a_body_leaves_a_broken_answer_and_no_second_one() {
    for head in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n",
    ] {
        let script = move |visit: &mut crate::harness::Visit| {
            visit.request();
            visit.send(head);
            visit.send("first");
            std::thread::sleep(Duration::from_millis(50));
            visit.reset();
        };
        let upstreams = [Scripted::start(script), Scripted::start(script)];
        let lb = router(
            &[(
                "/",
                &upstreams.each_ref().map(|upstream| upstream.address),
                "",
            )],
            "",
        );
        let mut client = RawClient::connect(lb.address("http"));
        let answer = String::from_utf8(client.send(GET).rest()).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.contains("first"),
            "{answer}"
        );
        assert!(!answer.ends_with("0\r\n\r\n"), "looks complete: {answer}");
        assert_eq!(upstreams.iter().map(Scripted::requests).sum::<usize>(), 1);
        // For HTTP/1.0 the end of the connection would be the end of the body: it has to be a bad
        // one.
        let mut client = RawClient::connect(lb.address("http"));
        client.send("GET / HTTP/1.0\r\nHost: h\r\n\r\n");
        client.until(b"first");
        if !head.contains("Length") {
            assert_eq!(
                client.end(),
                std::io::ErrorKind::ConnectionReset.to_string()
            );
        }
        wait_quiet(&lb, "s0");
    }
}

#[test]
fn an_instance_that_dies_between_head_and_body_is_not_the_last_one_asked() {
    let dying = Scripted::start(|visit| {
        visit.request();
        visit.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
        // On a machine that is busy with an update it takes a stopped process that long to be gone.
        std::thread::sleep(Duration::from_millis(300));
    });
    let well = Scripted::replying("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole");
    let config = "[proxy]\nworkers = 1\nstrategy = \"rr\"\n[health]\neject_after = 0\n";
    let lb = router(&[("/", &[dying.address, well.address], "")], config);
    for _ in 0..4 {
        let response = exchange(lb.address("http"), GET).unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "whole"));
    }
    assert_eq!(well.requests(), 4);
    let died = dying.requests();
    assert!(died > 0 && retries(&lb, "closed") == died as f64, "{died}");
    // What may not be done twice is not: no third request for two, and none of the responses is put
    // together from two.
    let post = POST.replace("Host: h", "Host: h\r\nConnection: close");
    let answers = [(); 2].map(|()| {
        String::from_utf8(RawClient::connect(lb.address("http")).send(&post).rest()).unwrap()
    });
    let whole = answers
        .iter()
        .filter(|answer| answer.ends_with("whole"))
        .count();
    assert_eq!(
        (well.requests() - 4, dying.requests() - died),
        (whole, 2 - whole),
        "{answers:?}"
    );
    wait_quiet(&lb, "s0");
}

#[test]
fn a_head_whose_body_is_of_unknown_length_is_passed_on_at_once() {
    let upstream = Scripted::start(|visit| {
        visit.request();
        visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        visit.until_closed();
    });
    let lb = router(&[("/", &[upstream.address], "")], "");
    let mut client = RawClient::connect(lb.address("http"));
    assert!(
        client
            .send(GET)
            .until(b"\r\n\r\n")
            .starts_with(b"HTTP/1.1 200 ")
    );
}

#[test]
fn a_head_whose_body_takes_its_time_is_passed_on() {
    let upstream = Scripted::start(|visit| {
        visit.request();
        visit.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
        visit.until_closed();
    });
    let lb = router(&[("/", &[upstream.address], "")], "");
    let mut client = RawClient::connect(lb.address("http"));
    assert!(
        client
            .send(GET)
            .until(b"\r\n\r\n")
            .starts_with(b"HTTP/1.1 200 ")
    );
    assert_eq!(upstream.requests(), 1);
}

#[test]
fn no_answer_in_time_is_504() {
    let upstream = Scripted::start(|visit| visit.until_closed());
    let lb = router(
        &[("/", &[upstream.address], "")],
        "[proxy]\nresponse_timeout = \"300ms\"\n",
    );
    for request in [GET, POST] {
        let begun = Instant::now();
        assert_eq!(exchange(lb.address("http"), request).unwrap().status, 504);
        assert!(
            begun.elapsed() >= Duration::from_millis(290)
                && begun.elapsed() < Duration::from_secs(3)
        );
    }
    upstream.wait_closed(2);
    wait_quiet(&lb, "s0");
}

#[test]
fn slow_is_not_dead() {
    let upstreams = ["a", "b"].map(Upstream::start);
    let lb = router(
        &[(
            "/",
            &upstreams.each_ref().map(|upstream| upstream.address),
            "",
        )],
        "[proxy]\ntry_timeout = \"300ms\"\n[health]\neject_after = 1\n",
    );
    for upstream in &upstreams {
        upstream.set_delay(Duration::from_millis(900));
    }
    for _ in 0..2 {
        assert_eq!(get(lb.address("http"), "h", "/").status, 200);
    }
    assert_eq!(ejections(&lb), 0.0);
}

#[test]
fn a_restart_on_the_same_port_leaves_no_stale_connections() {
    let upstream = Upstream::start("old");
    let address = upstream.address;
    let lb = router(&[("/", &[address], "")], "[proxy]\nworkers = 1\n");
    for _ in 0..3 {
        runtime()
            .block_on(load(&lb, Method::GET, 200).run(Duration::from_millis(100)))
            .assert_none_failed();
    }
    upstream.kill();
    let new = Upstream::start_at("new", address);
    for method in ["GET", "POST"] {
        let request = format!("{method} / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
        let response = exchange(lb.address("http"), request).unwrap();
        assert_eq!(
            (response.status, response.header("x-instance")),
            (200, Some("new")),
            "{method}"
        );
    }
    assert_eq!(ejections(&lb), 0.0);
    drop(new);
}
