//! Several lb that share the limits of a route, counted in a real Consul.

use std::time::{Duration, Instant};

use crate::support::client::Load;
use crate::support::consul::ConsulAgent;
use crate::support::lb::Lb;
use crate::support::turn::Turn;
use crate::support::upstream::Upstream;
use crate::support::wait::wait_until;

/// Requests per second that all of them together let pass.
const RATE: u32 = 150;
/// How many may come at once: ten for each of three.
const BURST: u32 = 30;

fn start(agent: &ConsulAgent, upstream: &Upstream, number: usize) -> Lb {
    let lb = Lb::start(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nprotocol = \"http\"\n\
         [admin]\naddress = \"127.0.0.1:0\"\n\
         [consul]\naddress = {:?}\n\
         [consul.register]\nenabled = true\nname = \"edge\"\ncheck_interval = \"500ms\"\n\
         [fleet]\nshare_limits = true\n\
         [proxy]\nworkers = 1\n\
         [[static.route]]\nservice = \"web{number}\"\nsource = \"/\"\ntargets = [\"http://{}\"]\noptions = \"rate={RATE}/s burst={BURST} by=route\"\n",
        agent.address(),
        upstream.address,
    ));
    lb.wait_ready();
    lb
}

fn size(lb: &Lb) -> Option<f64> {
    lb.metric("lb_fleet_size")
}

fn healthy(agent: &ConsulAgent) -> usize {
    let list = agent.api("GET", "/v1/health/service/edge?passing", None);
    let list: Vec<serde_json::Value> = serde_json::from_str(&list).unwrap();
    list.len()
}

#[test]
fn three_share_a_rate_two_take_over_from_one_that_died_and_the_last_share_outlives_consul() {
    let _turn = Turn::of("drills");
    let mut agent = ConsulAgent::start_plain();
    let upstream = Upstream::start("web");
    let mut all: Vec<Lb> = (0..3)
        .map(|number| start(&agent, &upstream, number))
        .collect();
    wait_until("all know of three", || {
        all.iter().all(|lb| size(lb) == Some(3.0))
    });

    let started = Instant::now();
    let loads: Vec<_> = all
        .iter()
        .map(|lb| Load::new(lb.address("http"), "x", "/", RATE).start())
        .collect();
    std::thread::sleep(Duration::from_secs(10));
    let outcomes: Vec<_> = loads.into_iter().map(|load| load.stop()).collect();
    let seconds = started.elapsed().as_secs_f64();
    let passed: u64 = outcomes
        .iter()
        .map(|outcome| outcome.statuses.get(&200).copied().unwrap_or_default())
        .sum();
    let expected = f64::from(RATE) * seconds + f64::from(BURST);
    let share = passed as f64 / expected;
    assert!(
        (0.95..=1.05).contains(&share),
        "{passed} of {expected:.0} in {seconds:.1} s: {outcomes:?}"
    );

    // One dies without a word: its check fails, and the others have its share.
    let dead = all.pop().unwrap();
    dead.signal("KILL");
    wait_until("Consul knows", || healthy(&agent) == 2);
    let known = Instant::now();
    wait_until("the others know", || {
        all.iter().all(|lb| size(lb) == Some(2.0))
    });
    assert!(
        known.elapsed() < Duration::from_secs(2),
        "{:?}",
        known.elapsed()
    );

    // Without Consul each keeps its share.
    agent.kill();
    for lb in &all {
        lb.wait_for_line("the loss", |line| {
            line.contains("limits stay divided as they are")
        });
        assert_eq!(size(lb), Some(2.0));
    }
}
