//! Real Nomad deployments without `shutdown_delay`, of an application that dies the moment it is
//! told to: the worst case there is, because instances leave Consul and die at the same time.
//! Skipped, loudly, where Nomad is missing.

use crate::support::consul::ConsulAgent;
use crate::support::drill::{consul_section, lb, load, wait_status};
use crate::support::nomad::{self, Job, NomadAgent};

#[test]
fn deployments_without_shutdown_delay_fail_nothing() {
    let Some(binary) = nomad::find("deployments_without_shutdown_delay_fail_nothing") else {
        return;
    };
    let consul = ConsulAgent::start();
    let nomad = NomadAgent::start(binary, &consul);
    let lb = lb(&consul_section(&consul, ""));
    nomad.submit(&Job {
        version: "v0",
        canaries: 0,
    });
    nomad.wait_deployed(0);
    wait_status(&lb, "/drill", 200);

    for (number, canaries) in [(1, 0), (2, 1)] {
        let load = load(&lb, "/drill", 200);
        nomad.submit(&Job {
            version: &format!("v{number}"),
            canaries,
        });
        if canaries > 0 {
            nomad.promote(number);
        }
        nomad.wait_deployed(number);
        let outcome = load.stop();
        println!(
            "{canaries} canaries: {} failed of {} requests, {:?} retries so far, p50 {:?}, p99 {:?}, {:?}",
            outcome.failed(),
            outcome.requests(),
            retries(&lb),
            outcome.percentile(0.5),
            outcome.percentile(0.99),
            outcome.instances,
        );
        outcome.assert_none_failed();
        let of_version = |prefix: &str| {
            outcome
                .instances
                .keys()
                .filter(|name| name.starts_with(prefix))
                .count()
        };
        assert_eq!(
            (
                of_version(&format!("v{}-", number - 1)),
                of_version(&format!("v{number}-"))
            ),
            (3, 3)
        );
    }
}

/// What kept them from failing.
fn retries(lb: &crate::support::lb::Lb) -> Vec<String> {
    let (_, text) = lb.admin("/metrics");
    text.lines()
        .filter(|line| line.starts_with("lb_upstream_retries_total{"))
        .map(str::to_owned)
        .collect()
}
