//! Drills: the whole binary in front of real Consul agents over mTLS, under load, while things die,
//! leave and lie.
//!
//! Each asserts that no request failed, and that the drill happened: which instance responded, what
//! was reported. The load is what a debug build carries beside everything else on two cores; figures of
//! release builds come from `benches/`.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use lb::catalog::CheckStatus;

use crate::support::client::Load;
use crate::support::consul::{Certificates, ConsulAgent, Options};
use crate::support::drill::{
    Check, Instance, age, ask, consul_section, fleet, lb, load, service_row, serving, wait_serving,
    wait_status,
};
use crate::support::turn::Turn;
use crate::support::upstream::Upstream;
use crate::support::wait::wait_until;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn registrations_and_checks_steer_traffic() {
    let _turn = Turn::of("drills");
    let agent = ConsulAgent::start();
    let strict = lb(&consul_section(&agent, ""));
    let lenient = lb(&consul_section(
        &agent,
        "accept_status = [\"passing\", \"warning\"]",
    ));
    strict.wait_ready();
    assert_eq!(ask(&strict, "/web").0, 404);

    let instances = fleet(&agent, "web", "web", 2);
    for lb in [&strict, &lenient] {
        wait_serving(lb, "web", &["web-0", "web-1"]);
        let answers: Vec<_> = (0..40).map(|_| ask(lb, "/web/deeper")).collect();
        for name in ["web-0", "web-1"] {
            assert!(
                answers.contains(&(200, name.to_owned())),
                "{name} never responded: {answers:?}"
            );
        }
    }

    let id = &instances[0].id;
    agent.set_check(id, CheckStatus::Warning);
    wait_serving(&strict, "web", &["web-1"]);
    wait_serving(&lenient, "web", &["web-0", "web-1"]);
    agent.set_check(id, CheckStatus::Critical);
    wait_serving(&lenient, "web", &["web-1"]);
    agent.set_check(id, CheckStatus::Passing);
    wait_serving(&strict, "web", &["web-0", "web-1"]);

    agent.service_maintenance(id, true);
    wait_serving(&strict, "web", &["web-1"]);
    assert_eq!(ask(&strict, "/web"), (200, "web-1".to_owned()));
    agent.service_maintenance(id, false);
    wait_serving(&strict, "web", &["web-0", "web-1"]);

    // The operator wishes it, so it is neither held nor confirmed: at once.
    agent.node_maintenance(true);
    wait_status(&strict, "/web", 503);
    agent.node_maintenance(false);
    wait_status(&strict, "/web", 200);
    wait_serving(&strict, "web", &["web-0", "web-1"]);

    agent.deregister(id);
    wait_serving(&strict, "web", &["web-1"]);
    let before = instances[0].server().requests();
    assert!((0..20).all(|_| ask(&strict, "/web") == (200, "web-1".to_owned())));
    assert_eq!(instances[0].server().requests(), before);
    agent.deregister(&instances[1].id);
    wait_status(&strict, "/web", 404);
}

#[test]
fn rolling_replacement_without_shutdown_delay_fails_nothing() {
    let _turn = Turn::of("drills");
    const ROUNDS: usize = 3;
    let agent = ConsulAgent::start();
    let lb = lb(&consul_section(&agent, ""));
    let mut present = fleet(&agent, "web", "v0", 3);
    wait_serving(&lb, "web", &["v0-0", "v0-1", "v0-2"]);
    let load = load(&lb, "/web", 250);
    wait_until("all three served", || {
        present
            .iter()
            .all(|instance| instance.server().requests() > 0)
    });
    for round in 1..=ROUNDS {
        for (place, instance) in present.iter_mut().enumerate() {
            // As Nomad does it: the record goes, the process dies with it, and only then the next
            // one starts.
            agent.deregister(&instance.id);
            instance.kill();
            let next = Instance::start("web", &format!("v{round}-{place}"));
            // First the service alone, while the application is still starting: it must not be
            // sent requests yet.
            next.server().set_status(500);
            next.register(&agent, &["urlprefix-/web"], Check::None);
            next.add_check(&agent);
            sleep(SECOND / 5);
            next.server().set_status(200);
            agent.set_check(&next.id, CheckStatus::Passing);
            wait_until("the new instance served", || next.server().requests() > 0);
            *instance = next;
        }
    }
    let outcome = load.stop();
    outcome.assert_none_failed();
    // Three at the start, and three more each round.
    assert_eq!(
        outcome.instances.len(),
        3 * (ROUNDS + 1),
        "{:?}",
        outcome.instances
    );
}

#[test]
fn new_instances_wait_for_their_checks() {
    let _turn = Turn::of("drills");
    let agent = ConsulAgent::start();
    let lb = lb(&consul_section(&agent, "check_grace = \"3s\""));
    let _old = fleet(&agent, "web", "old", 1);
    wait_serving(&lb, "web", &["old-0"]);
    let load = load(&lb, "/web", 100);

    let (checked, unchecked) = (
        Instance::start("web", "checked"),
        Instance::start("web", "unchecked"),
    );
    for instance in [&checked, &unchecked] {
        instance.register(&agent, &["urlprefix-/web"], Check::None);
    }
    let registered = Instant::now();
    wait_until("both in /api/services", || {
        service_row(&lb, "web")["instances"]
            .as_array()
            .is_some_and(|all| all.len() == 3)
    });
    assert_eq!(serving(&lb, "web").len(), 1);
    let text = service_row(&lb, "web").to_string();
    assert!(text.contains("check_grace"), "the reason is told: {text}");
    // A check that passes ends the wait; without any, the grace does.
    checked.add_check(&agent);
    agent.set_check(&checked.id, CheckStatus::Passing);
    wait_until("traffic to the checked one", || {
        checked.server().requests() > 0
    });
    assert!(unchecked.server().requests() == 0 && registered.elapsed() < 3 * SECOND);
    wait_until("traffic to the other one", || {
        unchecked.server().requests() > 0
    });
    // What the agent takes to make the record visible counts before the grace, not into it.
    assert!(
        registered.elapsed() > 3 * SECOND - SECOND / 10,
        "{:?}",
        registered.elapsed()
    );
    load.stop().assert_none_failed();
}

#[test]
fn death_and_frost_of_instances_fail_nothing() {
    let _turn = Turn::of("drills");
    let agent = ConsulAgent::start();
    let lb = lb(&consul_section(&agent, ""));
    let mut one = fleet(&agent, "one", "one", 3);
    let mut node = fleet(&agent, "node", "node", 6);
    let frozen = fleet(&agent, "frozen", "frozen", 3);
    for (service, count) in [("one", 3), ("node", 6), ("frozen", 3)] {
        wait_until(format!("{count} of {service}"), || {
            serving(&lb, service).len() == count
        });
    }
    let loads = ["/one", "/node", "/frozen"].map(|path| load(&lb, path, 150));
    sleep(SECOND);

    // Consul is not told: it finds out after seconds, and until then only the traffic knows.
    one[0].kill();
    node.iter_mut().take(3).for_each(Instance::kill);
    frozen[0].server().freeze();
    sleep(5 * SECOND);
    node.iter()
        .take(3)
        .for_each(|instance| agent.deregister(&instance.id));
    wait_serving(&lb, "node", &["node-3", "node-4", "node-5"]);
    sleep(SECOND);
    frozen[0].server().thaw();
    sleep(SECOND / 2);

    for (load, survivors) in loads.into_iter().zip([2, 3, 2]) {
        let outcome = load.stop();
        outcome.assert_none_failed();
        assert!(
            outcome.instances.len() >= survivors,
            "{:?}",
            outcome.instances
        );
        assert!(outcome.requests() > 900, "{} requests", outcome.requests());
    }
    let (_, metrics) = lb.admin("/metrics");
    assert!(
        lb.metric("lb_upstream_ejections_total{service=\"one\"}")
            .is_some_and(|count| count >= 1.0),
        "{metrics}"
    );
}

#[test]
fn an_agent_that_dies_and_returns_fails_nothing() {
    let _turn = Turn::of("drills");
    let mut agent = ConsulAgent::start();
    let lb = lb(&consul_section(&agent, ""));
    // HTTP checks, which a restarted agent calls critical until it has run them.
    let instances: Vec<_> = (0..3)
        .map(|number| Instance::start("web", &format!("web-{number}")))
        .collect();
    for instance in &instances {
        instance.register(&agent, &["urlprefix-/web"], Check::Http);
    }
    wait_serving(&lb, "web", &["web-0", "web-1", "web-2"]);
    lb.wait_ready();
    let load = load(&lb, "/web", 200);
    wait_until("a young answer", || age(&lb, "web") < 3.5);

    // `DRILL_OUTAGE_SECONDS=60` makes it a long one.
    let seconds = std::env::var("DRILL_OUTAGE_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(6);
    let outage = SECOND * seconds;
    agent.kill();
    let killed = Instant::now();
    while killed.elapsed() < outage {
        assert_eq!((lb.admin("/ready").0, serving(&lb, "web").len()), (200, 3));
        sleep(SECOND / 20);
    }
    assert!(
        age(&lb, "web") >= outage.as_secs_f64() - 0.5,
        "the age did not rise: {}",
        age(&lb, "web")
    );
    assert!(
        ["connect", "transport"]
            .iter()
            .any(|kind| errors(&lb, kind) > 0.0)
    );
    agent.restart();
    let restarted = Instant::now();
    wait_until("a young answer", || {
        assert_eq!(lb.admin("/ready").0, 200);
        age(&lb, "web") < 3.0
    });
    // The checks have to pass again meanwhile. The last one that still has to cannot be told from
    // one that is sick.
    while restarted.elapsed() < 4 * SECOND {
        assert_eq!(lb.admin("/ready").0, 200);
        assert!(
            serving(&lb, "web").len() >= 2,
            "{}",
            service_row(&lb, "web")
        );
        sleep(SECOND / 20);
    }
    wait_serving(&lb, "web", &["web-0", "web-1", "web-2"]);

    let outcome = load.stop();
    outcome.assert_none_failed();
    assert_eq!(outcome.instances.len(), 3, "{:?}", outcome.instances);
    let later = Instance::start("web", "later");
    later.register(&agent, &["urlprefix-/web"], Check::Ttl);
    wait_serving(&lb, "web", &["web-0", "web-1", "web-2", "later"]);
}

#[test]
fn checks_that_begin_critical_after_a_restart_take_nobody_out() {
    let _turn = Turn::of("drills");
    let server = ConsulAgent::start();
    let mut agent = ConsulAgent::client_of(std::slice::from_ref(&server));
    // Reads elsewhere, so it sees everything that the restarted agent tells the catalog, the moment
    // it does.
    let lb = lb(&consul_section(&server, ""));
    let instances: Vec<_> = (0..3)
        .map(|number| Instance::start("web", &format!("web-{number}")))
        .collect();
    for instance in &instances {
        instance.register(&agent, &["urlprefix-/web"], Check::Http);
    }
    wait_serving(&lb, "web", &["web-0", "web-1", "web-2"]);
    let load = load(&lb, "/web", 200);
    agent.kill();
    agent.restart();
    let restarted = Instant::now();
    while restarted.elapsed() < 4 * SECOND {
        // The first that is told of falls alone, until the second shows what this is. Without the
        // hold, one by one all would be out until their checks have run again.
        assert!(
            serving(&lb, "web").len() >= 2,
            "{}",
            service_row(&lb, "web")
        );
        sleep(SECOND / 50);
    }
    wait_until("nothing held any more", || {
        service_row(&lb, "web")["held"].is_null() && serving(&lb, "web").len() == 3
    });
    let outcome = load.stop();
    outcome.assert_none_failed();
    assert_eq!(outcome.instances.len(), 3, "{:?}", outcome.instances);
}

#[test]
fn a_leader_that_dies_fails_nothing() {
    let _turn = Turn::of("drills");
    let mut servers = ConsulAgent::cluster();
    let client = ConsulAgent::client_of(&servers);
    let lb = lb(&consul_section(&client, ""));
    let mut instances = fleet(&client, "web", "web", 3);
    wait_serving(&lb, "web", &["web-0", "web-1", "web-2"]);
    let load = load(&lb, "/web", 200);
    let leader = servers
        .iter()
        .position(ConsulAgent::is_leader)
        .expect("a leader");
    servers[leader].kill();
    let killed = Instant::now();
    let mut changed = false;
    while killed.elapsed() < 6 * SECOND {
        assert_eq!(lb.admin("/ready").0, 200);
        if !changed {
            assert_eq!(serving(&lb, "web").len(), 3);
        }
        // Once there is a leader again, changes arrive as before.
        if !changed
            && matches!(client.try_api("GET", "/v1/status/leader", None), Ok((200, body)) if body.len() > 4)
        {
            let gone = instances.remove(0);
            client.deregister(&gone.id);
            changed = true;
        }
        sleep(SECOND / 20);
    }
    assert!(changed, "no leader after {:?}", killed.elapsed());
    wait_serving(&lb, "web", &["web-1", "web-2"]);
    load.stop().assert_none_failed();
}

#[test]
fn a_token_without_rights_keeps_the_routes() {
    let _turn = Turn::of("drills");
    const RULES: &str =
        r#"service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }"#;
    let certificates = Some(Certificates::new());
    let agent = ConsulAgent::start_with(Options {
        certificates,
        acl: true,
        ..Options::default()
    });
    let folder = tempfile::tempdir().expect("temporary folder");
    let token_file = folder.path().join("token");
    let (policy, token) = agent.create_token("lb", RULES);
    fs::write(&token_file, &token).expect("write");
    let lb = lb(&consul_section(
        &agent,
        &format!("token_file = {token_file:?}"),
    ));
    let _instances = fleet(&agent, "web", "web", 2);
    wait_serving(&lb, "web", &["web-0", "web-1"]);
    let load = load(&lb, "/web", 100);

    // Rights are taken away: Consul goes on to say 200, and that there is nothing.
    agent.set_rules(&policy, "lb", r#"key_prefix "lb/" { policy = "read" }"#);
    wait_until("the loss noticed", || errors(&lb, "token") > 0.0);
    lb.wait_for_line("a line about the token", |line| {
        line.contains("\"kind\":\"token\"") && line.contains("WARN")
    });
    wait_until("the age of the answer in /api/services", || {
        assert_eq!(serving(&lb, "web").len(), 2);
        service_row(&lb, "web")["age_seconds"]
            .as_f64()
            .is_some_and(|age| age > 4.0)
    });
    agent.set_rules(&policy, "lb", RULES);
    wait_until("rights seen again", || age(&lb, "web") < 3.0);

    // The token is deleted: Consul says 403.
    delete_token(&agent, &token);
    let before = errors(&lb, "token");
    wait_until("the refusal noticed", || {
        errors(&lb, "token") > before && age(&lb, "web") > 4.0
    });
    assert_eq!(serving(&lb, "web").len(), 2);
    let third = Instance::start("web", "third");
    third.register(&agent, &["urlprefix-/web"], Check::Ttl);
    let (_, token) = agent.create_token("lb-2", RULES);
    fs::write(&token_file, &token).expect("write");
    lb.sighup();
    wait_serving(&lb, "web", &["web-0", "web-1", "third"]);
    load.stop().assert_none_failed();
}

#[test]
fn a_bad_tag_costs_only_itself() {
    let _turn = Turn::of("drills");
    let agent = ConsulAgent::start();
    let lb = lb(&consul_section(&agent, ""));
    let (good, typo) = (
        fleet(&agent, "good", "good", 1),
        fleet(&agent, "typo", "typo", 1),
    );
    wait_status(&lb, "/good", 200);
    wait_status(&lb, "/typo", 200);

    typo[0].register(
        &agent,
        &["urlprefix-/typo redirect=banana", "urlprefix-/second"],
        Check::Ttl,
    );
    wait_status(&lb, "/second", 200);
    assert_eq!(
        ask(&lb, "/typo"),
        (200, "typo-0".to_owned()),
        "the route as it was"
    );
    assert_eq!(ask(&lb, "/good"), (200, "good-0".to_owned()));
    let row = service_row(&lb, "typo");
    assert_eq!(
        row["rejected"][0]["tag"], "urlprefix-/typo redirect=banana",
        "{row}"
    );
    assert_eq!(
        lb.metric("lb_registry_rejected_tags{service=\"typo\"}"),
        Some(1.0)
    );
    assert_eq!(
        lb.metric("lb_registry_rejected_tags{service=\"good\"}"),
        None
    );
    lb.wait_for_line("a line about the tag", |line| {
        line.contains("rejected") && line.contains("banana")
    });

    // The rest of the service lives on, and others change as ever.
    let more = Instance::start("good", "more");
    more.register(&agent, &["urlprefix-/good"], Check::Ttl);
    wait_serving(&lb, "good", &["good-0", "more"]);
    agent.deregister(&good[0].id);
    wait_serving(&lb, "good", &["more"]);
    typo[0].register(&agent, &["urlprefix-/typo strip=/typo"], Check::Ttl);
    wait_until("the correction taken", || {
        lb.metric("lb_registry_rejected_tags{service=\"typo\"}")
            .is_none()
    });
    wait_status(&lb, "/second", 404);
    assert_eq!(ask(&lb, "/typo"), (200, "typo-0".to_owned()));
}

#[test]
fn a_pool_that_turns_critical_at_once_is_held_for_a_while() {
    let _turn = Turn::of("drills");
    const HOLD: Duration = Duration::from_secs(3);
    let agent = ConsulAgent::start();
    let lb = lb(&consul_section(&agent, "critical_hold = \"3s\""));
    let instances = fleet(&agent, "web", "web", 3);
    wait_serving(&lb, "web", &["web-0", "web-1", "web-2"]);

    // Promotion: all are registered anew and begin critical, then pass one by one.
    let running = load(&lb, "/web", 150);
    instances
        .iter()
        .for_each(|instance| agent.set_check(&instance.id, CheckStatus::Critical));
    wait_until("the hold told", || {
        service_row(&lb, "web")["held"].is_string()
    });
    sleep(SECOND);
    instances
        .iter()
        .for_each(|instance| agent.set_check(&instance.id, CheckStatus::Passing));
    wait_until("the hold over", || {
        service_row(&lb, "web")["held"].is_null()
    });
    running.stop().assert_none_failed();

    // Sick for good: held, then given up.
    let fell = Instant::now();
    instances
        .iter()
        .for_each(|instance| agent.set_check(&instance.id, CheckStatus::Critical));
    wait_until("the hold told", || {
        service_row(&lb, "web")["held"].is_string()
    });
    let served = Load::new(lb.address("http"), "drill.test", "/web", 50).start();
    sleep(SECOND);
    served.stop().assert_none_failed();
    // One that leaves is gone at once, hold or not.
    agent.deregister(&instances[2].id);
    wait_serving(&lb, "web", &["web-0", "web-1"]);
    assert!(
        fell.elapsed() < HOLD,
        "too slow to tell: {:?}",
        fell.elapsed()
    );
    wait_status(&lb, "/web", 503);
    assert!(
        fell.elapsed() >= HOLD,
        "given up after {:?}",
        fell.elapsed()
    );
    assert!(serving(&lb, "web").is_empty());
}

#[test]
fn static_routes_and_a_routes_file_stand_beside_consul() {
    let _turn = Turn::of("drills");
    let agent = ConsulAgent::start();
    let [of_static, of_file, late] = ["static", "file", "late"].map(Upstream::start);
    let folder = tempfile::tempdir().expect("temporary folder");
    let routes_file = folder.path().join("routes.txt");
    fs::write(
        &routes_file,
        format!("route add file /file http://{}/\n", of_file.address),
    )
    .expect("write");
    let config = format!(
        "routes_file = {routes_file:?}\n{}\n[[static.route]]\nservice = \"static\"\nsource = \"/static\"\ntargets = [\"http://{}\"]\n",
        consul_section(&agent, ""),
        of_static.address,
    );
    let lb = lb(&config);
    let instances = fleet(&agent, "web", "web", 1);
    wait_status(&lb, "/web", 200);
    assert_eq!(ask(&lb, "/static"), (200, "static".to_owned()));
    assert_eq!(ask(&lb, "/file"), (200, "file".to_owned()));

    let text = format!(
        "route add file /file http://{0}/\nroute add late /late http://{1}/\n",
        of_file.address, late.address
    );
    fs::write(&routes_file, text).expect("write");
    wait_status(&lb, "/late", 200);
    agent.deregister(&instances[0].id);
    wait_status(&lb, "/web", 404);
    for path in ["/static", "/file", "/late"] {
        assert_eq!(ask(&lb, path).0, 200, "{path}");
    }
}

#[test]
fn static_routes_are_served_although_consul_never_answers() {
    let _turn = Turn::of("drills");
    let upstream = Upstream::start("static");
    let config = format!(
        "[consul]\naddress = \"http://127.0.0.1:1\"\n[[static.route]]\nservice = \"s\"\nsource = \"/s\"\ntargets = [\"http://{}\"]\n",
        upstream.address,
    );
    let lb = lb(&config);
    // Opened after ten seconds of patience, and not ready: a balancer in front may prefer another
    // one.
    wait_until("the end of the patience", || {
        lb.stderr().contains("still not synced")
    });
    assert_eq!(ask(&lb, "/s"), (200, "static".to_owned()));
    let (status, body) = lb.admin("/ready");
    assert!(status == 503 && body.contains("consul"), "{status} {body}");
    assert!(errors(&lb, "connect") > 0.0);
}

fn errors(lb: &crate::support::lb::Lb, kind: &str) -> f64 {
    lb.metric(&format!("lb_registry_errors_total{{kind=\"{kind}\"}}"))
        .unwrap_or(0.0)
}

fn delete_token(agent: &ConsulAgent, secret: &str) {
    let tokens: serde_json::Value =
        serde_json::from_str(&agent.api("GET", "/v1/acl/tokens", None)).expect("JSON");
    let named = |token: &&serde_json::Value| token["Policies"][0]["Name"] == "lb";
    let token = tokens
        .as_array()
        .expect("a list")
        .iter()
        .find(named)
        .expect("the token of lb");
    assert_ne!(token["AccessorID"].as_str(), Some(secret));
    agent.api(
        "DELETE",
        &format!(
            "/v1/acl/token/{}",
            token["AccessorID"].as_str().expect("an id")
        ),
        None,
    );
}

/// Certificates in the configuration itself: a file put in its place is taken up without a signal,
/// a pair that does not fit is refused, and traffic notices neither.
#[test]
fn certificates_in_the_configuration_change_under_load() {
    let _turn = Turn::of("drills");
    let agent = ConsulAgent::start();
    let other = Certificates::new();
    other.issue("client", &["client.test".to_owned()]);
    let config = |cert: &str, key: &str| {
        let read = |path: std::path::PathBuf| fs::read_to_string(path).unwrap();
        let key = if key == "foreign" {
            other.path("client-key.pem")
        } else {
            agent.certificates().path(key)
        };
        format!(
            "[consul]\naddress = {:?}\nwait = \"2s\"\nca_pem = \"\"\"\n{}\"\"\"\ncert_pem = \"\"\"\n{}\"\"\"\n\
             key_pem = \"\"\"\n{}\"\"\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n",
            agent.address(),
            read(agent.certificates().path("ca.pem")),
            read(agent.certificates().path(cert)),
            read(key),
        )
    };
    agent.certificates().issue("first", &["lb.test".to_owned()]);
    agent
        .certificates()
        .issue("second", &["lb.test".to_owned()]);
    let lb = crate::support::lb::Lb::start(&config("first.pem", "first-key.pem"));
    let _instances = fleet(&agent, "web", "web", 3);
    wait_serving(&lb, "web", &["web-0", "web-1", "web-2"]);
    let shown = lb.admin("/api/config").1;
    assert!(
        shown.contains("\"key_pem\":\"***\"") && !shown.contains("PRIVATE KEY"),
        "{shown}"
    );
    let load = load(&lb, "/web", 200);
    let put = |text: String| {
        let path = lb.folder().join("lb.toml");
        fs::write(path.with_extension("new"), text).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    };
    put(config("second.pem", "foreign"));
    lb.wait_for_line("a refusal", |line| {
        line.contains("not reloaded") && line.contains("consul.cert_pem")
    });
    put(config("second.pem", "second-key.pem"));
    lb.wait_for_line("a reload", |line| {
        line.contains("reloaded") && !line.contains("not reloaded")
    });
    let later = Instance::start("web", "later");
    later.register(&agent, &["urlprefix-/web"], Check::Ttl);
    wait_serving(&lb, "web", &["web-0", "web-1", "web-2", "later"]);
    load.stop().assert_none_failed();
    assert!(!lb.stderr().contains("PRIVATE KEY"), "{}", lb.stderr());
}
