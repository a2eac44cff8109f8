//! How soon a change is seen, on both transports, and what it costs the agent.

use std::net::TcpStream;
use std::thread::sleep as wait;

use serde_json::{Value, json};

use super::*;
use crate::support::turn::Turn;
use crate::support::wait::wait_until_async;

/// A change is late when it takes longer than this. A watch that takes turns, or is put off for
/// want of a token, takes seconds; a debug build on a busy machine takes tens of milliseconds.
const LATE: Duration = Duration::from_millis(800);

/// Services that are more than connections.
const SERVICES: usize = 60;

/// Registers an instance in the catalog, with a check of its own, on a node that no agent owns.
fn register(
    agent: &ConsulAgent,
    node: &str,
    service: &str,
    id: &str,
    port: u16,
    tags: &[&str],
    status: &str,
) {
    let body = json!({"Node": node, "Address": "127.0.0.1", "SkipNodeUpdate": true,
        "Service": {"ID": id, "Service": service, "Address": "127.0.0.1", "Port": port, "Tags": tags},
        "Check": {"CheckID": format!("check:{id}"), "Name": "alive", "Status": status, "ServiceID": id}});
    agent.api("PUT", "/v1/catalog/register", Some(&body));
}

fn deregister(agent: &ConsulAgent, body: Value) {
    agent.api("PUT", "/v1/catalog/deregister", Some(&body));
}

fn set_check(agent: &ConsulAgent, node: &str, check: &str, service: Option<&str>, status: &str) {
    let mut check = json!({"CheckID": check, "Name": "alive", "Status": status});
    if let Some(id) = service {
        check["ServiceID"] = json!(id);
    }
    let body =
        json!({"Node": node, "Address": "127.0.0.1", "SkipNodeUpdate": true, "Check": check});
    agent.api("PUT", "/v1/catalog/register", Some(&body));
}

/// `SERVICES` services on these nodes, two instances each, and a source that has fewer connections.
async fn stage(nodes: usize, max_connections: usize) -> (ConsulAgent, Watched) {
    let agent = ConsulAgent::start_plain();
    let mut operations = Vec::new();
    for number in 0..nodes {
        let node = json!({"Node": format!("n{number}"), "Address": "127.0.0.1"});
        operations.push(json!({"Node": {"Verb": "set", "Node": node}}));
    }
    for (number, instance) in (0..SERVICES).flat_map(|number| [(number, 0), (number, 1)]) {
        let node = format!("n{}", (number + instance) % nodes);
        let (name, id) = (format!("s{number}"), format!("s{number}-{instance}"));
        let service = json!({"ID": id, "Service": name, "Address": "127.0.0.1", "Port": 1000 + instance,
            "Tags": [format!("urlprefix-/{name}")]});
        operations.push(json!({"Service": {"Verb": "set", "Node": node, "Service": service}}));
    }
    for chunk in operations.chunks(64) {
        agent.api("PUT", "/v1/txn", Some(&json!(chunk)));
    }
    let mut watched = Watched::start(ConsulConfig {
        max_connections,
        wait: Duration::from_secs(50),
        ..agent.config()
    });
    watched.until("synced", |view| view.synced == 1).await;
    // Whatever was read before the watches that tell of changes stood is read once more.
    tokio::time::sleep(Duration::from_secs(2)).await;
    (agent, watched)
}

#[tokio::test]
async fn with_fewer_connections_than_services_every_kind_of_change_is_seen_at_once() {
    let _turn = Turn::of("how soon changes are seen");
    // All nodes have a connection of their own, then most have none.
    for (nodes, max_connections) in [(3, 24), (30, 16)] {
        let (agent, mut watched) = stage(nodes, max_connections).await;
        let mut times = Vec::new();
        let mut seen = |what: &'static str, took: Duration| times.push((what, took));
        let (web, tag) = ("s7", "urlprefix-/s7");

        register(&agent, "n1", web, "extra", 2000, &[tag], "passing");
        let extra = |view: &View| view.ports(web) == Some(vec![1000, 1001, 2000]);
        seen(
            "an instance more, with the same tags",
            watched.timed("extra", extra).await,
        );

        let status = |id: &'static str, wanted: CheckStatus| {
            move |view: &View| {
                view.services.get(web).is_some_and(|service| {
                    service.instances.iter().any(|instance| {
                        *instance.id.id == *id
                            && instance.checks.iter().map(|check| check.status).max()
                                == Some(wanted)
                    })
                })
            }
        };
        for (word, wanted) in [
            ("critical", CheckStatus::Critical),
            ("warning", CheckStatus::Warning),
            ("critical", CheckStatus::Critical),
            ("passing", CheckStatus::Passing),
            ("warning", CheckStatus::Warning),
            ("passing", CheckStatus::Passing),
        ] {
            set_check(&agent, "n1", "check:extra", Some("extra"), word);
            seen(
                "a check that changes",
                watched.timed(word, status("extra", wanted)).await,
            );
        }

        register(&agent, "n1", web, "extra", 2001, &[tag], "passing");
        let moved = |view: &View| view.ports(web) == Some(vec![1000, 1001, 2001]);
        seen("another port", watched.timed("moved", moved).await);

        register(
            &agent,
            "n1",
            web,
            "extra",
            2001,
            &[tag, "canary"],
            "passing",
        );
        let tagged = |view: &View| {
            view.services.get(web).is_some_and(|service| {
                service
                    .instances
                    .iter()
                    .any(|instance| instance.tags.iter().any(|tag| **tag == *"canary"))
            })
        };
        seen("another tag", watched.timed("tagged", tagged).await);

        deregister(&agent, json!({"Node": "n1", "ServiceID": "extra"}));
        let gone = |view: &View| view.ports(web) == Some(vec![1000, 1001]);
        seen(
            "an instance less, with the same tags",
            watched.timed("gone", gone).await,
        );

        set_check(&agent, "n1", "disk", None, "critical");
        let lost = |view: &View| view.worst("s1", CheckScope::Node) == Some(CheckStatus::Critical);
        seen("a node that is lost", watched.timed("lost", lost).await);
        set_check(&agent, "n1", "disk", None, "passing");
        let back = |view: &View| view.worst("s1", CheckScope::Node) == Some(CheckStatus::Passing);
        seen("a node that is back", watched.timed("back", back).await);

        register(
            &agent,
            "fresh",
            "s9",
            "elsewhere",
            3000,
            &["urlprefix-/s9"],
            "passing",
        );
        let fresh = |view: &View| view.ports("s9") == Some(vec![1000, 1001, 3000]);
        seen(
            "an instance on a new node",
            watched.timed("fresh", fresh).await,
        );
        deregister(&agent, json!({"Node": "fresh"}));
        let left = |view: &View| view.ports("s9") == Some(vec![1000, 1001]);
        seen("a node that leaves", watched.timed("left", left).await);

        register(
            &agent,
            "n0",
            "new",
            "new-1",
            4000,
            &["urlprefix-/new"],
            "passing",
        );
        seen(
            "a new service",
            watched
                .timed("new", |view| view.ports("new") == Some(vec![4000]))
                .await,
        );
        deregister(&agent, json!({"Node": "n0", "ServiceID": "new-1"}));
        seen(
            "a service that leaves",
            watched
                .timed("leaves", |view| !view.services.contains_key("new"))
                .await,
        );

        // The test's own last one may not be closed yet.
        let what = format!("at most {max_connections} connections");
        wait_until_async(what, async || {
            let ours = connections_to(&agent.ip, 8500);
            (ours <= max_connections).then_some(()).ok_or(ours)
        })
        .await;
        let late: Vec<_> = times.iter().filter(|(_, took)| *took > LATE).collect();
        // One may meet a machine that is busy with other tests; watches that take turns are late
        // with most.
        assert!(
            late.len() <= 1,
            "{nodes} nodes, {max_connections} connections: {late:?} of {times:?}"
        );
    }
}

#[tokio::test]
async fn services_are_watched_one_by_one_while_connections_suffice() {
    let _turn = Turn::of("how soon changes are seen");
    let agent = ConsulAgent::start_plain();
    agent.register_many("few", 20, 1);
    let mut watched = Watched::start(ConsulConfig {
        max_connections: 40,
        wait: Duration::from_secs(50),
        ..agent.config()
    });
    watched.until("synced", |view| view.synced == 1).await;
    // More than fit: each keeps what is known, and nothing is missed while the way of watching
    // changes.
    agent.register_many("more", 40, 1);
    watched.until("all", |view| view.services.len() == 60).await;
    agent.register_many("more", 40, 2);
    let both = |view: &View| {
        view.services
            .values()
            .filter(|service| service.instances.len() == 2)
            .count()
            == 40
    };
    assert!(watched.timed("second instances", both).await < 4 * LATE);
    // And back.
    for number in 0..40 {
        for instance in 0..2 {
            agent.api(
                "PUT",
                "/v1/catalog/deregister",
                Some(
                    &json!({"Node": "elsewhere", "ServiceID": format!("more-{number}-{instance}")}),
                ),
            );
        }
    }
    watched.until("few", |view| view.services.len() == 20).await;
    agent.register_many("few", 20, 2);
    let both = |view: &View| {
        view.services
            .values()
            .all(|service| service.instances.len() == 2)
    };
    assert!(watched.timed("second instances", both).await < 4 * LATE);
}

#[tokio::test]
async fn many_changes_one_after_another_are_not_put_off() {
    let _turn = Turn::of("how soon changes are seen");
    for agent in [ConsulAgent::start(), ConsulAgent::start_plain()] {
        let mut watched = Watched::start(agent.config());
        watched.until("synced", |view| view.synced == 1).await;
        let mut times = Vec::new();
        for port in 2000..2030 {
            let service = format!("new-{port}");
            agent.register(&Registration {
                service: &service,
                id: &service,
                port,
                tags: &["urlprefix-/new"],
            });
            times.push(
                watched
                    .timed("a new service", |view| {
                        view.ports(&service) == Some(vec![port])
                    })
                    .await,
            );
        }
        for port in 3000..3030 {
            agent.register(&Registration {
                service: "web",
                id: "web",
                port,
                tags: &[&format!("urlprefix-/{port}")],
            });
            times.push(
                watched
                    .timed("another tag", |view| view.ports("web") == Some(vec![port]))
                    .await,
            );
        }
        times.sort();
        let (median, last) = (times[times.len() / 2], times[times.len() - 1]);
        assert!(
            median < Duration::from_millis(150) && last < 2 * LATE,
            "{}: {median:?} {last:?}",
            agent.address()
        );
    }
}

#[tokio::test]
async fn changes_elsewhere_do_not_put_ours_off() {
    let _turn = Turn::of("how soon changes are seen");
    for agent in [ConsulAgent::start(), ConsulAgent::start_plain()] {
        let mut watched = Watched::start(agent.config());
        watched.until("synced", |view| view.synced == 1).await;
        let agent = Arc::new(agent);
        let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let churn = std::thread::spawn({
            let (agent, over) = (agent.clone(), over.clone());
            move || {
                let mut changes = 0;
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    register(
                        &agent,
                        "other",
                        "noise",
                        &format!("noise-{}", changes % 40),
                        1,
                        &["t"],
                        "passing",
                    );
                    changes += 1;
                    wait(Duration::from_millis(5));
                }
                changes
            }
        });
        let mut times = Vec::new();
        for port in 2000..2020 {
            let id = format!("new-{port}");
            register(
                &agent,
                "ours",
                &id,
                &id,
                port,
                &["urlprefix-/new"],
                "passing",
            );
            times.push(
                watched
                    .timed("a new service", |view| view.ports(&id) == Some(vec![port]))
                    .await,
            );
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        let changes = churn.join().unwrap();
        times.sort();
        let (median, last) = (times[times.len() / 2], times[times.len() - 1]);
        assert!(changes >= 10, "{changes}");
        assert!(
            median < Duration::from_millis(250) && last < 2 * LATE,
            "{}: {median:?} {last:?}",
            agent.address()
        );
    }
}

#[tokio::test]
async fn an_agent_that_grants_few_connections_is_not_asked_for_more_in_a_loop() {
    let _turn = Turn::of("how soon changes are seen");
    let agent = ConsulAgent::start_with(Options {
        connections_max: 30,
        ..Options::default()
    });
    agent.register_many("api", 40, 1);
    let held: Vec<_> = (0..16)
        .map(|_| TcpStream::connect((agent.ip.as_str(), 8500)).unwrap())
        .collect();
    let mut watched = Watched::start(agent.config());
    watched.until("synced", |view| view.synced == 1).await;
    watched.until_errors("refused", 1).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = watched.errors("refused");
    // Others find room, but for the moments in which more is tried.
    for number in 0..40 {
        let (service, id) = (format!("api-{number}"), format!("api-{number}-1"));
        let body = json!({"Node": "elsewhere", "Address": "127.0.0.1", "SkipNodeUpdate": true,
            "Service": {"ID": id, "Service": service, "Address": "127.0.0.1", "Port": 1001,
                "Tags": [format!("urlprefix-/{service}")]}});
        let begun = Instant::now();
        wait_until_async("a connection for others", async || {
            let registered = agent.try_api("PUT", "/v1/catalog/register", Some(&body));
            matches!(registered, Ok((200, _)))
        })
        .await;
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "no connection was left to others"
        );
    }
    let both = |view: &View| {
        view.services
            .values()
            .all(|service| service.instances.len() == 2)
    };
    watched.until("second instances", both).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let more = watched.errors("refused") - before;
    assert!(more <= 20, "{more} connections refused in some 6 s");
    drop(held);
}

#[tokio::test]
async fn what_a_token_may_read_again_is_read_within_a_second() {
    let _turn = Turn::of("how soon changes are seen");
    let faults = [
        Fault::Status(403, None),
        Fault::Empty,
        Fault::Status(500, None),
        Fault::Truncated,
    ];
    // With a connection for each service, and with too few.
    for (fault, max_connections) in faults
        .into_iter()
        .flat_map(|fault| [(fault.clone(), 40), (fault, 16)])
    {
        let fake = FakeConsul::start().await;
        let config = ConsulConfig {
            max_connections,
            ..plain_config(&fake.url())
        };
        let mut watched = Watched::start(config);
        for number in 0..20 {
            fake.set(&format!("s{number}"), &[1000]);
        }
        watched.until("all", |view| view.services.len() == 20).await;
        fake.fault(fault.clone());
        // Long enough for pauses that double to grow beyond what is expected here.
        tokio::time::sleep(Duration::from_secs(5)).await;
        fake.set("s3", &[1000, 2000]);
        fake.fault(Fault::None);
        let took = watched
            .timed("the change", |view| {
                view.ports("s3") == Some(vec![1000, 2000])
            })
            .await;
        assert!(
            took < Duration::from_millis(1500),
            "{fault:?}, {max_connections}: {took:?}"
        );
    }
}

#[tokio::test]
async fn a_dead_agent_is_counted_by_dials_and_not_by_waiting_watches() {
    let _turn = Turn::of("how soon changes are seen");
    let (mut fake, mut watched) = fake(Duration::from_secs(50)).await;
    for number in 0..40 {
        fake.set(&format!("s{number}"), &[1000]);
    }
    watched.until("all", |view| view.services.len() >= 40).await;
    fake.down().await;
    watched.until_errors("connect", 1).await;
    // Those that were open are counted too, each once.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (connect, lost) = (watched.errors("connect"), watched.errors("transport"));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let dials = watched.errors("connect") - connect;
    assert!((1..=20).contains(&dials), "{dials} dials in 3 s");
    assert!(lost <= 50, "{lost} connections of some 42 lost");
    assert_eq!(
        watched.errors("transport"),
        lost,
        "no connection was there to be lost any more"
    );
}
