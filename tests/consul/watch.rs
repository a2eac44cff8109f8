//! The Consul source against a real agent over mTLS, and against a stand-in for what a real one
//! cannot be made to do.

mod freshness;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb::catalog::command::CommandError;
use lb::catalog::source::OVERRIDES;
use lb::catalog::{CheckScope, CheckStatus, Registration as Listed, ServiceSnapshot};
use lb::config::{Config, ConsulConfig, DnsConfig};
use lb::metrics::Metrics;
use lb::sources::consul::probe;
use lb::sources::dns::Dns;
use lb::sources::registration::{AdvertisedAddress, Announcement, Registrar};
use lb::sources::{self, Context, Page, RunningSource, Update};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::support::consul::{Certificates, ConsulAgent, Options, Registration, plain_config};
use crate::support::fake_consul::{Acl, FakeConsul, Fault, PREFIX};
use crate::support::wait::{PATIENCE, wait_until_async};

/// What the source has said so far.
#[derive(Clone, Debug, Default)]
struct View {
    services: BTreeMap<String, Arc<ServiceSnapshot>>,
    /// Of the KV store, as text, and the places of lines that make none.
    commands: Option<(Vec<String>, Vec<String>)>,
    synced: u32,
    commands_synced: u32,
    updates: u32,
}

impl View {
    fn ports(&self, service: &str) -> Option<Vec<u16>> {
        let snapshot = self.services.get(service)?;
        let mut ports: Vec<_> = snapshot
            .instances
            .iter()
            .map(|instance| match &instance.endpoint {
                lb::catalog::Endpoint::Addr(address) => address.port(),
                lb::catalog::Endpoint::Name { port, .. }
                | lb::catalog::Endpoint::Unresolved { port, .. } => *port,
            })
            .collect();
        ports.sort_unstable();
        Some(ports)
    }

    /// Whether every instance of the service is held without being confirmed; and whether that is
    /// for lost rights.
    fn unconfirmed(&self, service: &str) -> Option<bool> {
        let instances = &self.services.get(service)?.instances;
        let lost = instances
            .iter()
            .map(|instance| match &instance.registration {
                Listed::Unconfirmed { rights_lost, .. } => Some(*rights_lost),
                _ => None,
            });
        lost.reduce(|one, other| if one == other { one } else { None })
            .flatten()
    }

    /// The worst state of checks of this scope, over all instances.
    fn worst(&self, service: &str, scope: CheckScope) -> Option<CheckStatus> {
        let checks = self
            .services
            .get(service)?
            .instances
            .iter()
            .flat_map(|instance| &instance.checks);
        checks
            .filter(|check| check.scope == scope)
            .map(|check| check.status)
            .max()
    }
}

/// The sources that `[consul]` turns on, as a process runs them.
struct ConsulSource {
    running: Vec<Arc<dyn RunningSource>>,
    page: watch::Receiver<Page>,
}

impl ConsulSource {
    fn start(config: ConsulConfig, metrics: Metrics, updates: mpsc::Sender<Update>) -> Self {
        let (no_route_page, page) = watch::channel(None);
        let context = Context {
            updates,
            dns: Arc::new(Dns::new(&DnsConfig::default())),
            metrics,
            no_route_page,
            now: Instant::now,
            named_services: watch::Sender::default().subscribe(),
        };
        let started = sources::list::start(&sources::list(), &with_consul(config), &context);
        Self {
            running: started.expect("a usable configuration"),
            page,
        }
    }

    /// Takes a new configuration, or says what is wrong with it.
    fn reload(&self, config: ConsulConfig) -> Result<(), String> {
        let config = with_consul(config);
        let prepared: Result<Vec<_>, _> = self
            .running
            .iter()
            .map(|source| source.prepare(&config))
            .collect();
        let prepared = prepared.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            format!("{error}: {}", cause.unwrap_or_default())
        })?;
        prepared.into_iter().for_each(sources::Reload::apply);
        Ok(())
    }

    fn registrar(&self) -> Box<dyn Registrar> {
        let mut found = self.running.iter().filter_map(|source| source.registrar());
        found.next().expect("Consul can register")
    }

    fn no_route_page(&self) -> watch::Receiver<Page> {
        self.page.clone()
    }
}

fn with_consul(consul: ConsulConfig) -> Config {
    Config {
        consul: Some(consul),
        ..Config::default()
    }
}

/// A running source and its view.
struct Watched {
    source: ConsulSource,
    metrics: Metrics,
    view: watch::Receiver<View>,
}

impl Watched {
    fn start(config: ConsulConfig) -> Self {
        let (sender, mut updates) = mpsc::channel(16);
        let metrics = Metrics::default();
        let source = ConsulSource::start(config, metrics.clone(), sender);
        let (view_sender, view) = watch::channel(View::default());
        tokio::spawn(async move {
            while let Some(update) = updates.recv().await {
                view_sender.send_modify(|view| {
                    view.updates += 1;
                    match update {
                        Update::Service { snapshot, .. } => {
                            view.services.insert(snapshot.name.to_string(), snapshot);
                        }
                        Update::Gone { service, .. } => {
                            view.services.remove(&*service);
                        }
                        Update::Synced { source: OVERRIDES } => view.commands_synced += 1,
                        Update::Synced { .. } => view.synced += 1,
                        Update::Commands {
                            source,
                            commands,
                            errors,
                            ..
                        } => {
                            assert_eq!(source, OVERRIDES);
                            let commands = commands.iter().map(ToString::to_string).collect();
                            view.commands =
                                Some((commands, errors.iter().map(CommandError::place).collect()));
                        }
                    }
                });
            }
        });
        Self {
            source,
            metrics,
            view,
        }
    }

    async fn until(&mut self, what: &str, condition: impl FnMut(&View) -> bool) {
        let waited = timeout(PATIENCE, self.view.wait_for(condition)).await;
        let met = waited.is_ok_and(|result| result.is_ok());
        assert!(
            met,
            "not within {PATIENCE:?}: {what}; seen {:?}",
            self.view.borrow()
        );
    }

    /// Waits for the condition, and returns how long that took.
    async fn timed(&mut self, what: &str, condition: impl FnMut(&View) -> bool) -> Duration {
        let began = Instant::now();
        self.until(what, condition).await;
        began.elapsed()
    }

    async fn until_ports(&mut self, service: &str, ports: &[u16]) {
        self.until(&format!("{service} on {ports:?}"), |view| {
            view.ports(service).as_deref() == Some(ports)
        })
        .await;
    }

    async fn until_commands(&mut self, commands: &[&str], wrong: &[&str]) {
        let what = format!("{commands:?}, and wrong {wrong:?}");
        let wanted = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let wanted = Some((wanted(commands), wanted(wrong)));
        self.until(&what, |view| view.commands == wanted).await;
    }

    fn errors(&self, kind: &str) -> u64 {
        self.metrics
            .control()
            .registry_errors
            .get(kind)
            .copied()
            .unwrap_or(0)
    }

    /// Waits until errors of this kind have been counted.
    async fn until_errors(&self, kind: &str, count: u64) {
        wait_until_async(format!("{count} errors {kind}"), async || {
            let seen = || format!("{:?}", self.metrics.control().registry_errors);
            (self.errors(kind) >= count).then_some(()).ok_or_else(seen)
        })
        .await;
    }
}

fn web<'a>(id: &'a str, port: u16) -> Registration<'a> {
    Registration {
        service: "web",
        id,
        port,
        tags: &["urlprefix-/web"],
    }
}

/// Connections of this process to an address.
fn connections_to(ip: &str, port: u16) -> usize {
    let ip: std::net::Ipv4Addr = ip.parse().unwrap();
    let remote = format!("{:08X}:{port:04X}", u32::from_le_bytes(ip.octets()));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    // Column 2 is the remote address, column 3 the state (01: established).
    table
        .lines()
        .map(str::split_whitespace)
        .filter(|line| {
            let columns: Vec<_> = line.clone().take(4).collect();
            columns.get(2) == Some(&remote.as_str()) && columns.get(3) == Some(&"01")
        })
        .count()
}

#[tokio::test]
async fn instances_come_change_and_go() {
    let agent = ConsulAgent::start();
    agent.register(&web("a", 1001));
    let mut watched = Watched::start(agent.config());
    watched.until("synced", |view| view.synced == 1).await;
    assert_eq!(watched.view.borrow().ports("web"), Some(vec![1001]));

    agent.register(&web("b", 1002));
    watched.until_ports("web", &[1001, 1002]).await;

    agent.set_check("b", CheckStatus::Critical);
    watched
        .until("b critical", |view| {
            view.worst("web", CheckScope::Service) == Some(CheckStatus::Critical)
        })
        .await;
    assert_eq!(
        watched.view.borrow().ports("web"),
        Some(vec![1001, 1002]),
        "sick is not gone"
    );
    agent.set_check("b", CheckStatus::Warning);
    watched
        .until("b warning", |view| {
            view.worst("web", CheckScope::Service) == Some(CheckStatus::Warning)
        })
        .await;
    agent.set_check("b", CheckStatus::Passing);
    watched
        .until("b passing", |view| {
            view.worst("web", CheckScope::Service) == Some(CheckStatus::Passing)
        })
        .await;

    agent.service_maintenance("b", true);
    watched
        .until("maintenance of b", |view| {
            view.worst("web", CheckScope::ServiceMaintenance).is_some()
        })
        .await;
    agent.service_maintenance("b", false);
    watched
        .until("its end", |view| {
            view.worst("web", CheckScope::ServiceMaintenance).is_none()
        })
        .await;
    agent.node_maintenance(true);
    watched
        .until("maintenance of the node", |view| {
            view.worst("web", CheckScope::NodeMaintenance).is_some()
        })
        .await;
    agent.node_maintenance(false);
    watched
        .until("its end", |view| {
            view.worst("web", CheckScope::NodeMaintenance).is_none()
        })
        .await;

    agent.deregister("b");
    watched.until_ports("web", &[1001]).await;
    agent.deregister("a");
    watched
        .until("web gone", |view| !view.services.contains_key("web"))
        .await;
    assert_eq!(watched.view.borrow().synced, 1, "synced is said once");
    assert!(
        watched
            .metrics
            .control()
            .registry_errors
            .values()
            .all(|count| *count == 0)
    );
}

#[tokio::test]
async fn tags_decide_what_is_watched() {
    let agent = ConsulAgent::start_plain();
    agent.register(&Registration {
        service: "web",
        id: "a",
        port: 1001,
        tags: &["plain"],
    });
    let mut watched = Watched::start(agent.config());
    watched
        .until("synced without a service", |view| view.synced == 1)
        .await;
    assert!(watched.view.borrow().services.is_empty());

    agent.register(&Registration {
        service: "web",
        id: "a",
        port: 1001,
        tags: &["plain", " urlprefix-/x "],
    });
    watched.until_ports("web", &[1001]).await;
    agent.register(&Registration {
        service: "web",
        id: "a",
        port: 1001,
        tags: &["urlprefix-/y"],
    });
    watched
        .until("the new tag", |view| {
            &*view.services["web"].instances[0].tags[0] == "urlprefix-/y"
        })
        .await;
    agent.register(&Registration {
        service: "web",
        id: "a",
        port: 1001,
        tags: &["plain"],
    });
    watched
        .until("web gone", |view| view.services.is_empty())
        .await;
    assert!(
        !watched
            .metrics
            .control()
            .registry_success
            .contains_key("web"),
        "its series is removed"
    );
}

#[tokio::test]
async fn rights_that_are_lost_cost_no_data() {
    let options = Options {
        certificates: Some(Certificates::new()),
        acl: true,
        ..Options::default()
    };
    let agent = ConsulAgent::start_with(options);
    agent.register(&web("a", 1001));
    let all = r#"service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }"#;
    let (policy, token) = agent.create_token("lb", all);
    let config = ConsulConfig {
        token: Some(token.into()),
        ..agent.config()
    };
    let mut watched = Watched::start(config);
    watched.until_ports("web", &[1001]).await;
    watched.until("synced", |view| view.synced == 1).await;

    agent.set_rules(&policy, "lb", "");
    // Wakes both watches, which then get a 200 with nothing.
    agent.register(&web("b", 1002));
    watched.until_errors("token", 2).await;
    assert_eq!(watched.view.borrow().ports("web"), Some(vec![1001]));

    // Services may be seen, nodes may not: the list is whole and the instances are hidden.
    agent.set_rules(&policy, "lb", r#"service_prefix "" { policy = "read" }"#);
    let before = watched.errors("token");
    watched.until_errors("token", before + 2).await;
    assert_eq!(watched.view.borrow().ports("web"), Some(vec![1001]));

    agent.set_rules(&policy, "lb", all);
    watched.until_ports("web", &[1001, 1002]).await;
}

/// Believing is a matter of milliseconds; the limit is far below the time after which anything
/// would be believed.
const SOON: Duration = Duration::from_secs(15);

/// An agent with ACLs, and a token with these rules; the id of its policy first.
fn with_rules(rules: &str) -> (ConsulAgent, String, ConsulConfig) {
    let agent = ConsulAgent::start_with(Options {
        acl: true,
        ..Options::default()
    });
    let (policy, token) = agent.create_token("lb", rules);
    let config = ConsulConfig {
        token: Some(token.into()),
        ..agent.config()
    };
    (agent, policy, config)
}

const WEB_ALONE: &str = r#"service "web" { policy = "read" } node_prefix "" { policy = "read" }"#;

#[tokio::test]
async fn a_token_for_one_service_believes_that_it_is_gone_and_waits_for_none() {
    let (agent, _, config) = with_rules(WEB_ALONE);
    agent.register(&Registration {
        service: "api",
        id: "api-1",
        port: 1,
        tags: &["urlprefix-/api"],
    });
    // Nothing is registered that it may see: that is all there is to know.
    let mut watched = Watched::start(config);
    watched
        .until("synced without a service", |view| view.synced == 1)
        .await;
    agent.register(&web("a", 1001));
    watched.until_ports("web", &[1001]).await;
    agent.deregister("a");
    let took = watched
        .timed("web gone", |view| !view.services.contains_key("web"))
        .await;
    assert!(took < SOON, "believed after {took:?}");
    // And again: what was believed once is not a reason to doubt what comes.
    agent.register(&web("b", 1002));
    watched.until_ports("web", &[1002]).await;
    assert_eq!(watched.view.borrow().synced, 1);
}

#[tokio::test]
async fn a_token_for_two_services_loses_one_and_keeps_what_it_may_not_see() {
    let rules = format!(r#"service "api" {{ policy = "read" }} {WEB_ALONE}"#);
    let (agent, policy, config) = with_rules(&rules);
    let api = Registration {
        service: "api",
        id: "api-1",
        port: 2001,
        tags: &["urlprefix-/api"],
    };
    agent.register(&api);
    agent.register(&web("a", 1001));
    let mut watched = Watched::start(config);
    watched.until("synced", |view| view.synced == 1).await;
    // The token may not see web any more, and api is really gone.
    agent.set_rules(
        &policy,
        "lb",
        r#"service "api" { policy = "read" } node_prefix "" { policy = "read" }"#,
    );
    agent.register(&web("b", 1002));
    watched
        .until("web is not confirmed", |view| {
            view.unconfirmed("web") == Some(true)
        })
        .await;
    agent.deregister("api-1");
    let took = watched
        .timed("api gone", |view| {
            view.ports("api").is_none_or(|ports| ports.is_empty())
        })
        .await;
    assert!(took < SOON, "believed after {took:?}");
    let errors = watched.errors("token");
    watched.until_errors("token", errors + 2).await;
    assert_eq!(
        watched.view.borrow().ports("web"),
        Some(vec![1001]),
        "kept for as long as nothing is known of it"
    );
    agent.set_rules(&policy, "lb", &rules);
    watched
        .until("web confirmed", |view| {
            view.unconfirmed("web").is_none() && view.ports("web").is_some()
        })
        .await;
    watched.until_ports("web", &[1001, 1002]).await;
}

#[tokio::test]
async fn rights_that_were_taken_away_are_told_from_services_that_left() {
    let all = r#"service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }"#;
    let denied = format!(r#"service "web" {{ policy = "deny" }} {all}"#);
    // One service is denied beside all others; fewer services may be seen than before; nothing may.
    for rules in [
        &*denied,
        r#"service "api" { policy = "read" } node_prefix "" { policy = "read" }"#,
        "",
    ] {
        let (agent, policy, config) = with_rules(all);
        let api = Registration {
            service: "api",
            id: "api-1",
            port: 2001,
            tags: &["urlprefix-/api"],
        };
        agent.register(&api);
        agent.register(&web("a", 1001));
        let mut watched = Watched::start(config);
        watched.until("synced", |view| view.synced == 1).await;
        agent.set_rules(&policy, "lb", rules);
        agent.register(&web("b", 1002));
        watched
            .until(&format!("web not confirmed with {rules:?}"), |view| {
                view.unconfirmed("web") == Some(true)
            })
            .await;
        assert_eq!(
            watched.view.borrow().ports("web"),
            Some(vec![1001]),
            "{rules:?}"
        );
        if !rules.is_empty() {
            // What may still be seen is still believed.
            agent.deregister("api-1");
            watched
                .until("api gone", |view| {
                    view.ports("api").is_none_or(|ports| ports.is_empty())
                })
                .await;
            assert_eq!(
                watched.view.borrow().ports("web"),
                Some(vec![1001]),
                "{rules:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_deleted_token_costs_no_data_and_confirms_nothing() {
    let (agent, _, config) = with_rules(WEB_ALONE);
    agent.register(&web("a", 1001));
    let mut watched = Watched::start(config.clone());
    watched.until("synced", |view| view.synced == 1).await;
    let tokens: serde_json::Value =
        serde_json::from_str(&agent.api("GET", "/v1/acl/tokens", None)).unwrap();
    let mut others = tokens
        .as_array()
        .unwrap()
        .iter()
        .filter(|token| token["Policies"][0]["Name"] == "lb");
    let accessor = others.next().unwrap()["AccessorID"].as_str().unwrap();
    agent.api("DELETE", &format!("/v1/acl/token/{accessor}"), None);
    agent.register(&web("b", 1002));
    watched
        .until("not confirmed", |view| {
            view.unconfirmed("web") == Some(true)
        })
        .await;
    watched.until_errors("token", 4).await;
    assert_eq!(watched.view.borrow().ports("web"), Some(vec![1001]));
    let (_, token) = agent.create_token("lb-2", WEB_ALONE);
    watched
        .source
        .reload(ConsulConfig {
            token: Some(token.into()),
            ..config
        })
        .expect("usable");
    watched.until_ports("web", &[1001, 1002]).await;
    assert_eq!(watched.view.borrow().unconfirmed("web"), None);
}

#[tokio::test]
async fn instances_on_nodes_that_may_not_be_read_any_more_are_kept() {
    let all = r#"service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }"#;
    let (agent, policy, config) = with_rules(all);
    // Four on a node of their own, and one on the agent's.
    agent.register_many("api", 1, 4);
    agent.register(&Registration {
        service: "api-0",
        id: "api-own",
        port: 2001,
        tags: &["urlprefix-/api-0"],
    });
    let mut watched = Watched::start(config);
    watched
        .until_ports("api-0", &[1000, 1001, 1002, 1003, 2001])
        .await;
    let own = r#"service_prefix "" { policy = "read" } node_prefix "node-" { policy = "read" }"#;
    agent.set_rules(&policy, "lb", own);
    agent.set_check("api-own", CheckStatus::Warning);
    let held = |view: &View| {
        let is_held = |instance: &lb::catalog::Instance| {
            matches!(instance.registration, Listed::Unconfirmed { .. })
        };
        view.services["api-0"]
            .instances
            .iter()
            .filter(|instance| is_held(instance))
            .count()
    };
    watched
        .until("four are not confirmed", |view| held(view) == 4)
        .await;
    assert_eq!(
        watched
            .view
            .borrow()
            .ports("api-0")
            .map(|ports| ports.len()),
        Some(5)
    );
    watched
        .until("the fifth is seen", |view| {
            view.worst("api-0", CheckScope::Service) == Some(CheckStatus::Warning)
        })
        .await;
    agent.set_rules(&policy, "lb", all);
    watched.until("all confirmed", |view| held(view) == 0).await;
    assert_eq!(
        watched
            .view
            .borrow()
            .ports("api-0")
            .map(|ports| ports.len()),
        Some(5)
    );
}

#[tokio::test]
async fn the_anonymous_token_is_asked_about_like_any_other() {
    let agent = ConsulAgent::start_with(Options {
        acl: true,
        ..Options::default()
    });
    agent.api(
        "PUT",
        "/v1/acl/policy",
        Some(&serde_json::json!({"Name": "anonymous", "Rules": WEB_ALONE})),
    );
    let body = serde_json::json!({"Policies": [{"Name": "anonymous"}]});
    agent.api(
        "PUT",
        "/v1/acl/token/00000000-0000-0000-0000-000000000002",
        Some(&body),
    );
    agent.register(&web("a", 1001));
    let mut watched = Watched::start(ConsulConfig {
        token: None,
        ..agent.config()
    });
    watched.until("synced", |view| view.synced == 1).await;
    agent.deregister("a");
    let took = watched
        .timed("web gone", |view| !view.services.contains_key("web"))
        .await;
    assert!(took < SOON, "believed after {took:?}");
    agent.register(&web("b", 1002));
    watched.until_ports("web", &[1002]).await;
    agent.api(
        "PUT",
        "/v1/acl/token/00000000-0000-0000-0000-000000000002",
        Some(&serde_json::json!({})),
    );
    agent.register(&web("c", 1003));
    watched
        .until("not confirmed", |view| {
            view.unconfirmed("web") == Some(true)
        })
        .await;
    assert_eq!(watched.view.borrow().ports("web"), Some(vec![1002]));
}

#[tokio::test]
async fn keys_that_may_not_be_read_any_more_are_kept() {
    let keys = r#"service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }
        key_prefix "lb/routes" { policy = "read" } key_prefix "lb/page" { policy = "read" }"#;
    let (agent, policy, config) = with_rules(keys);
    assert_eq!(agent.put_key("lb/routes/a", "route del a"), "true");
    assert_eq!(agent.put_key("lb/page", "no such page"), "true");
    // Longer than the test: a query that ends by itself would be repeated with fewer rights.
    let wait = Duration::from_secs(120);
    let config = ConsulConfig {
        no_route_kv_path: Some("lb/page".to_owned()),
        wait,
        ..with_keys(config)
    };
    let mut watched = Watched::start(config);
    watched.until_commands(&["route del a"], &[]).await;
    let mut page = watched.source.no_route_page();
    timeout(PATIENCE, page.wait_for(Option::is_some))
        .await
        .expect("the page")
        .expect("its watch");
    // Both watches block again by then.
    tokio::time::sleep(Duration::from_millis(500)).await;
    agent.set_rules(
        &policy,
        "lb",
        r#"service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }"#,
    );
    // A query that blocks already has the rights that it began with: these changes are seen, the
    // next ones are not.
    assert_eq!(agent.put_key("lb/routes/b", "route del b"), "true");
    assert_eq!(agent.put_key("lb/page", "another page"), "true");
    watched
        .until_commands(&["route del a", "route del b"], &[])
        .await;
    let another = |page: &Option<bytes::Bytes>| page.as_deref() == Some(b"another page");
    timeout(PATIENCE, page.wait_for(another))
        .await
        .expect("the page")
        .expect("its watch");
    for key in ["lb/routes/c", "lb/page"] {
        assert_eq!(agent.put_key(key, "route del c"), "true");
    }
    watched.until_errors("token", 4).await;
    assert_eq!(
        watched
            .view
            .borrow()
            .commands
            .as_ref()
            .map(|(commands, _)| commands.len()),
        Some(2)
    );
    assert!(another(&page.borrow()));
    agent.set_rules(&policy, "lb", keys);
    watched
        .until_commands(&["route del a", "route del b", "route del c"], &[])
        .await;
    agent.api("DELETE", "/v1/kv/lb?recurse", None);
    watched.until_commands(&[], &[]).await;
    timeout(PATIENCE, page.wait_for(Option::is_none))
        .await
        .expect("no page")
        .expect("its watch");
}

#[tokio::test]
async fn the_header_of_newer_consuls_tells_what_is_hidden_from_what_is_gone() {
    let fake = FakeConsul::start().await;
    fake.set("web", &[1001]);
    fake.set_acl(Acl {
        header: true,
        ..Acl::hiding(&["consul"])
    });
    let mut watched = Watched::start(plain_config(&fake.url()));
    watched.until("synced", |view| view.synced == 1).await;
    fake.set_acl(Acl {
        header: true,
        ..Acl::hiding(&["consul", "web"])
    });
    watched
        .until("not confirmed", |view| {
            view.unconfirmed("web") == Some(true)
        })
        .await;
    watched.until_errors("token", 2).await;
    assert_eq!(watched.view.borrow().ports("web"), Some(vec![1001]));
    fake.set_acl(Acl {
        header: true,
        ..Acl::hiding(&["consul"])
    });
    watched
        .until("confirmed", |view| view.unconfirmed("web").is_none())
        .await;
    fake.remove("web");
    let took = watched
        .timed("web gone", |view| !view.services.contains_key("web"))
        .await;
    assert!(took < SOON, "believed after {took:?}");
}

#[tokio::test]
async fn where_nothing_tells_distrust_ends_after_half_a_minute() {
    let fake = FakeConsul::start().await;
    fake.set("web", &[1001]);
    let policies = r#"{"AccessorID":"a","Policies":[{"ID":"p","Name":"web"}]}"#;
    fake.set_acl(Acl {
        token: Some((200, policies)),
        ..Acl::hiding(&["consul"])
    });
    let mut watched = Watched::start(plain_config(&fake.url()));
    watched.until("synced", |view| view.synced == 1).await;
    let began = Instant::now();
    fake.remove("web");
    watched
        .until("not confirmed", |view| {
            view.unconfirmed("web") == Some(false)
        })
        .await;
    assert_eq!(watched.view.borrow().ports("web"), Some(vec![1001]));
    let gone = watched
        .view
        .wait_for(|view| view.ports("web").is_none_or(|ports| ports.is_empty()));
    assert!(
        timeout(Duration::from_secs(60), gone)
            .await
            .is_ok_and(|seen| seen.is_ok()),
        "held for ever"
    );
    assert!(
        began.elapsed() >= Duration::from_secs(30),
        "after {:?}",
        began.elapsed()
    );

    // The same, but Consul does not know the token: for ever.
    fake.set("web", &[1002]);
    watched.until_ports("web", &[1002]).await;
    fake.set_acl(Acl {
        token: Some((403, "ACL not found")),
        ..Acl::hiding(&["consul"])
    });
    fake.remove("web");
    watched
        .until("not confirmed", |view| {
            view.unconfirmed("web") == Some(true)
        })
        .await;
}

#[tokio::test]
async fn without_rights_from_the_start_it_is_not_synced() {
    let options = Options {
        acl: true,
        ..Options::default()
    };
    let agent = ConsulAgent::start_with(options);
    agent.register(&web("a", 1001));
    let mut watched = Watched::start(ConsulConfig {
        token: None,
        ..agent.config()
    });
    watched.until_errors("token", 1).await;
    assert_eq!(watched.view.borrow().synced, 0);
    // A reload brings the right token, and is felt at once.
    watched.source.reload(agent.config()).expect("usable");
    watched.until("synced", |view| view.synced == 1).await;
    watched.until_ports("web", &[1001]).await;
}

#[tokio::test]
async fn an_agent_that_dies_and_returns_costs_no_data() {
    let mut agent = ConsulAgent::start();
    agent.register_many("api", 20, 2);
    let mut watched = Watched::start(agent.config());
    watched.until("synced", |view| view.synced == 1).await;
    agent.kill();
    watched.until_errors("connect", 2).await;
    assert_eq!(watched.view.borrow().services.len(), 20);
    let updates = watched.view.borrow().updates;
    let seen = watched.metrics.control().registry_success["api-0"];
    agent.restart();
    wait_until_async("another response", async || {
        watched.metrics.control().registry_success["api-0"] > seen
    })
    .await;
    agent.register_many("api", 20, 3);
    watched
        .until("the third instances", |view| {
            view.services
                .values()
                .all(|service| service.instances.len() == 3)
        })
        .await;
    assert!(watched.view.borrow().updates >= updates + 20);
    assert_eq!(watched.view.borrow().services.len(), 20);
}

#[tokio::test]
async fn an_agent_that_freezes_is_left_for_the_next() {
    let agent = ConsulAgent::start_with(Options {
        certificates: Some(Certificates::new()),
        ..Options::default()
    });
    let second = ConsulAgent::client_of(std::slice::from_ref(&agent));
    agent.register(&web("a", 1001));
    let mut config = second.config();
    config.addresses.0.push(agent.address());
    let mut watched = Watched::start(config);
    watched.until_ports("web", &[1001]).await;
    // Only pings can tell: no socket error comes from a frozen process.
    second.stop();
    agent.register(&web("b", 1002));
    watched.until_ports("web", &[1001, 1002]).await;
}

#[tokio::test]
async fn a_leader_that_dies_costs_no_data() {
    let mut servers = ConsulAgent::cluster();
    let client = ConsulAgent::client_of(&servers);
    client.register(&web("a", 1001));
    let mut watched = Watched::start(client.config());
    watched.until_ports("web", &[1001]).await;
    let leader = servers
        .iter()
        .position(ConsulAgent::is_leader)
        .expect("a leader");
    let gone = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (mut views, lost) = (watched.view.clone(), gone.clone());
    let observer = tokio::spawn(async move {
        let _ = views
            .wait_for(|view| view.ports("web").is_none_or(|ports| ports.is_empty()))
            .await;
        lost.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    servers[leader].kill();
    client.wait_ready();
    client.register(&web("b", 1002));
    watched.until_ports("web", &[1001, 1002]).await;
    observer.abort();
    assert!(
        !gone.load(std::sync::atomic::Ordering::Relaxed),
        "the service was empty for a moment"
    );
}

#[tokio::test]
async fn a_thousand_watches_share_six_connections() {
    let agent = ConsulAgent::start();
    agent.register_many("api", 1000, 5);
    let began = Instant::now();
    let mut watched = Watched::start(agent.config());
    watched.until("synced", |view| view.synced == 1).await;
    eprintln!("synced after {:?}", began.elapsed());
    assert_eq!(watched.view.borrow().services.len(), 1000);
    // Every watch now blocks on a stream of its own: 1,001 of them fill five connections and begin
    // a sixth.
    let ours = connections_to(&agent.ip, 8501);
    assert!((1..=6).contains(&ours), "{ours} connections");
    let cpu = cpu_ticks();
    tokio::time::sleep(Duration::from_secs(2)).await;
    eprintln!(
        "{ours} connections, {} ticks of 10 ms in 2 s",
        cpu_ticks() - cpu
    );
    for port in 2000..2020 {
        let began = Instant::now();
        agent.register(&web("a", port));
        let written = Instant::now();
        watched.until_ports("web", &[port]).await;
        eprintln!(
            "seen {:?} after the write began, {:?} after it ended",
            began.elapsed(),
            written.elapsed()
        );
    }
}

/// User and system time of this process.
fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().unwrap())
        .sum()
}

#[tokio::test]
async fn with_very_few_connections_watches_take_turns() {
    let agent = ConsulAgent::start_plain();
    agent.register_many("api", 60, 1);
    let mut watched = Watched::start(ConsulConfig {
        max_connections: 4,
        ..agent.config()
    });
    watched.until("synced", |view| view.synced == 1).await;
    agent.register_many("api", 60, 2);
    watched
        .until("all changes", |view| {
            view.services
                .values()
                .all(|service| service.instances.len() == 2)
        })
        .await;
    let ours = connections_to(&agent.ip, 8500);
    assert!((1..=4).contains(&ours), "{ours} connections");
}

#[tokio::test]
async fn a_reload_with_bad_files_changes_nothing() {
    let agent = ConsulAgent::start();
    agent.register(&web("a", 1001));
    let mut watched = Watched::start(agent.config());
    watched.until_ports("web", &[1001]).await;
    let missing = agent.certificates().path("missing.pem");
    let error = watched
        .source
        .reload(ConsulConfig {
            cert_file: Some(missing),
            ..agent.config()
        })
        .unwrap_err();
    assert!(
        error.to_string().contains("missing.pem") && error.to_string().contains("cert_file"),
        "{error}"
    );
    let mismatch = ConsulConfig {
        key_file: Some(
            agent
                .certificates()
                .path(&format!("agent-{}-key.pem", agent.ip)),
        ),
        ..agent.config()
    };
    assert!(
        watched.source.reload(mismatch).is_err(),
        "a key of another certificate"
    );
    agent
        .certificates()
        .issue("client2", &["client2.test".to_owned()]);
    let fresh = ConsulConfig {
        cert_file: Some(agent.certificates().path("client2.pem")),
        key_file: Some(agent.certificates().path("client2-key.pem")),
        ..agent.config()
    };
    watched.source.reload(fresh).expect("usable");
    agent.register(&web("b", 1002));
    watched.until_ports("web", &[1001, 1002]).await;
}

#[tokio::test]
async fn a_restarted_agent_is_believed_at_once_by_every_watch() {
    let mut fake = FakeConsul::start().await;
    let names: Vec<_> = (0..20).map(|number| format!("api-{number}")).collect();
    names.iter().for_each(|name| fake.set(name, &[1001]));
    let mut watched = Watched::start(ConsulConfig {
        max_connections: 64,
        ..plain_config(&fake.url())
    });
    watched.until("synced", |view| view.synced == 1).await;
    fake.down().await;
    // Long enough for a backoff of each watch to reach its upper bound, if dials were counted for
    // each.
    watched.until_errors("connect", 9).await;
    fake.fault(Fault::Status(500, None));
    names.iter().for_each(|name| fake.set(name, &[1002]));
    fake.up().await;
    watched.until_errors("status", 21).await;
    fake.fault(Fault::None);
    let began = Instant::now();
    watched
        .until("all on 1002", |view| {
            names
                .iter()
                .all(|name| view.ports(name).as_deref() == Some(&[1002]))
        })
        .await;
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "found again only after {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn one_service_that_cannot_be_read_does_not_hold_up_the_others() {
    for fault in [
        Fault::Truncated,
        Fault::Status(500, None),
        Fault::Status(301, None),
        Fault::Hang,
        Fault::EmptyHealth,
    ] {
        let fake = FakeConsul::start().await;
        fake.set("web", &[1001]);
        fake.set("odd", &[1002]);
        fake.break_service("odd", fault.clone());
        let mut watched = Watched::start(plain_config(&fake.url()));
        watched
            .until(&format!("synced with {fault:?}"), |view| view.synced == 1)
            .await;
        assert_eq!(
            watched.view.borrow().ports("web"),
            Some(vec![1001]),
            "{fault:?}"
        );
        assert_eq!(watched.view.borrow().ports("odd"), None, "{fault:?}");
        fake.break_service("odd", Fault::None);
        watched.until_ports("odd", &[1002]).await;
        assert_eq!(watched.view.borrow().synced, 1, "said once, {fault:?}");
    }
}

#[tokio::test]
async fn names_that_agents_redirect_are_left_out_and_reported_once() {
    let fake = FakeConsul::start().await;
    for name in ["web", ".", "..", "a//b"] {
        fake.set(name, &[1001]);
    }
    let mut watched = Watched::start(plain_config(&fake.url()));
    watched.until("synced", |view| view.synced == 1).await;
    fake.set("late", &[1002]);
    watched.until_ports("late", &[1002]).await;
    assert_eq!(
        watched.errors("name"),
        3,
        "once each, though the list was read again"
    );
    let asked: Vec<_> = fake
        .requests()
        .into_iter()
        .filter(|r| r.starts_with("/v1/health/service/"))
        .collect();
    assert!(
        asked
            .iter()
            .all(|r| r.contains("/web?") || r.contains("/late?")),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_token_that_sees_names_but_no_instances_is_not_synced() {
    let fake = FakeConsul::start().await;
    fake.set("web", &[1001]);
    fake.set("api", &[2001]);
    fake.fault(Fault::EmptyHealth);
    let mut watched = Watched::start(ConsulConfig {
        wait: SHORT,
        ..plain_config(&fake.url())
    });
    // Each service several times, that is beyond the failures after which one would be excused.
    watched.until_errors("token", 8).await;
    assert_eq!(
        watched.view.borrow().updates,
        0,
        "neither tables nor the word that they are complete"
    );
    fake.fault(Fault::None);
    watched.until("synced", |view| view.synced == 1).await;
    watched.until("both", |view| view.services.len() == 2).await;
}

#[tokio::test]
async fn a_reload_with_the_same_token_does_not_forget_what_it_could_see() {
    let fake = FakeConsul::start().await;
    fake.set("web", &[1001]);
    fake.set("api", &[2001]);
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, "one").unwrap();
    let config = ConsulConfig {
        wait: SHORT,
        token_file: Some(token_file.clone()),
        ..plain_config(&fake.url())
    };
    let mut watched = Watched::start(config.clone());
    watched.until("synced", |view| view.synced == 1).await;

    std::fs::write(&token_file, "").unwrap();
    let error = watched.source.reload(config.clone()).unwrap_err();
    assert!(error.to_string().contains("token_file"), "{error}");
    std::fs::write(&token_file, "one").unwrap();
    fake.fault(Fault::Without("api".into()));
    let before = watched.errors("token");
    watched.source.reload(config.clone()).expect("usable");
    watched.until_errors("token", before + 3).await;
    assert_eq!(
        watched.view.borrow().ports("api"),
        Some(vec![2001]),
        "lost rights are not a deregistration"
    );

    std::fs::write(&token_file, "two").unwrap();
    watched.source.reload(config).expect("usable");
    watched
        .until("another token sees less", |view| {
            !view.services.contains_key("api")
        })
        .await;
    assert_eq!(watched.view.borrow().ports("web"), Some(vec![1001]));
}

#[tokio::test]
async fn while_nobody_can_confirm_a_loss_additions_are_taken() {
    let (fake, mut watched) = fake(Duration::from_secs(20)).await;
    fake.set("api", &[2001, 2002, 2003, 2004]);
    watched.until_ports("api", &[2001, 2002, 2003, 2004]).await;
    fake.fault(Fault::FrozenLeader(0));
    let began = Instant::now();
    fake.set("api", &[2001, 2005]);
    watched
        .until_ports("api", &[2001, 2002, 2003, 2004, 2005])
        .await;
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "additions waited {:?}",
        began.elapsed()
    );
    watched.until_errors("unconfirmed", 1).await;
    fake.set("api", &[2001, 2005, 2006]);
    watched
        .until_ports("api", &[2001, 2002, 2003, 2004, 2005, 2006])
        .await;
    // A service that leaves the list is the same for the list watch, which must still see those
    // that come.
    fake.remove("web");
    watched.until_errors("unconfirmed", 3).await;
    fake.set("late", &[4001]);
    watched.until_ports("late", &[4001]).await;
    assert_eq!(watched.view.borrow().ports("web"), Some(vec![1001]));
    assert!(
        began.elapsed() < Duration::from_secs(25),
        "blind for long: {:?}",
        began.elapsed()
    );
    fake.fault(Fault::None);
    watched.until_ports("api", &[2001, 2005, 2006]).await;
    watched
        .until("web gone", |view| !view.services.contains_key("web"))
        .await;
}

#[tokio::test]
async fn an_old_answer_does_not_wait_for_a_leader_that_is_frozen() {
    let (fake, mut watched) = fake(Duration::from_secs(20)).await;
    let began = Instant::now();
    fake.fault(Fault::FrozenLeader(60_000));
    fake.set("web", &[1001, 1002]);
    watched.until_ports("web", &[1001, 1002]).await;
    assert!(
        began.elapsed() < Duration::from_secs(6),
        "withheld for {:?}",
        began.elapsed()
    );
    assert!(
        watched.errors("timeout") >= 1,
        "the leader got the request first"
    );
}

#[tokio::test]
async fn a_restored_snapshot_is_seen_late_in_the_wait_too() {
    let wait = Duration::from_secs(30);
    let (fake, mut watched) = fake(wait).await;
    // Beyond the half of the wait, which is less than 30 s by up to an eighth; nothing else tells
    // how far it is.
    tokio::time::sleep(Duration::from_millis(16_500)).await;
    fake.restore(50, "web", &[1007]);
    let began = Instant::now();
    watched.until_ports("web", &[1007]).await;
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "seen after {:?}",
        began.elapsed()
    );
}

async fn fake(wait: Duration) -> (FakeConsul, Watched) {
    let fake = FakeConsul::start().await;
    fake.set("web", &[1001]);
    fake.set("api", &[2001, 2002]);
    let mut watched = Watched::start(ConsulConfig {
        wait,
        ..plain_config(&fake.url())
    });
    watched.until("synced", |view| view.synced == 1).await;
    (fake, watched)
}

const SHORT: Duration = Duration::from_millis(800);

#[tokio::test]
async fn an_index_that_goes_back_starts_over() {
    let (fake, mut watched) = fake(SHORT).await;
    fake.turn_back(3, "web", &[1005]);
    watched.until_ports("web", &[1005]).await;
    fake.set("web", &[1006]);
    watched.until_ports("web", &[1006]).await;
}

#[tokio::test]
async fn an_index_of_nought_or_none_is_no_busy_loop() {
    for fault in [Fault::IndexZero, Fault::NoIndex] {
        let (fake, mut watched) = fake(SHORT).await;
        fake.fault(fault);
        fake.set("web", &[1002]);
        watched.until_ports("web", &[1002]).await;
        let before = fake.requests().len();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let asked = fake.requests().len() - before;
        assert!(asked <= 15, "{asked} requests of three watches in 3 s");
        assert!(
            !fake
                .requests()
                .iter()
                .any(|request| request.contains("index=0")),
            "an index of 0 does not block"
        );
        fake.fault(Fault::None);
        fake.set("web", &[1003]);
        watched.until_ports("web", &[1003]).await;
    }
}

#[tokio::test]
async fn errors_keep_the_data_and_are_survived() {
    let cases = [
        (Fault::Truncated, "decode"),
        (Fault::Status(500, None), "status"),
        (Fault::Status(429, Some(1)), "status"),
        (Fault::Status(503, Some(1)), "status"),
        (Fault::Empty, "token"),
        (Fault::EmptyHealth, "token"),
    ];
    for (fault, kind) in cases {
        let (fake, mut watched) = fake(SHORT).await;
        fake.fault(fault.clone());
        watched.until_errors(kind, 2).await;
        assert_eq!(
            watched.view.borrow().ports("web"),
            Some(vec![1001]),
            "{fault:?}"
        );
        assert_eq!(
            watched.view.borrow().ports("api"),
            Some(vec![2001, 2002]),
            "{fault:?}"
        );
        assert!(
            !fake
                .requests()
                .iter()
                .any(|request| request.contains("index=1&")),
            "the index of an error: {fault:?}"
        );
        fake.fault(Fault::None);
        fake.set("web", &[1002]);
        watched.until_ports("web", &[1002]).await;
        assert_eq!(
            watched.view.borrow().ports("api"),
            Some(vec![2001, 2002]),
            "{fault:?}"
        );
    }
}

#[tokio::test]
async fn retry_after_is_obeyed() {
    let (fake, mut watched) = fake(SHORT).await;
    fake.fault(Fault::Status(429, Some(3)));
    watched.until_errors("status", 3).await;
    let before = fake.requests().len();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        fake.requests().len(),
        before,
        "requested again before the time that the agent named"
    );
    fake.fault(Fault::None);
    fake.set("web", &[1002]);
    watched.until_ports("web", &[1002]).await;
}

#[tokio::test]
async fn a_hanging_agent_is_given_up() {
    let (fake, mut watched) = fake(SHORT).await;
    fake.fault(Fault::Hang);
    watched.until_errors("timeout", 3).await;
    assert_eq!(watched.view.borrow().ports("web"), Some(vec![1001]));
    fake.fault(Fault::None);
    fake.set("web", &[1002]);
    watched.until_ports("web", &[1002]).await;
}

#[tokio::test]
async fn emptiness_is_asked_about_at_the_leader() {
    let (fake, mut watched) = fake(SHORT).await;
    let mut views = watched.view.clone();
    let observer = tokio::spawn(async move {
        let empty = |view: &View| view.ports("web").is_none_or(|ports| ports.is_empty());
        views.wait_for(empty).await.map(|_| ()).is_ok()
    });
    // An old and empty response of a server that lags; the leader says otherwise.
    fake.fault(Fault::Old(60_000));
    fake.set("web", &[1002]);
    watched.until_ports("web", &[1002]).await;
    fake.fault(Fault::None);
    fake.set("web", &[1003]);
    watched.until_ports("web", &[1003]).await;
    assert!(!observer.is_finished(), "an empty response was believed");
    observer.abort();
}

#[tokio::test]
async fn mass_removal_is_confirmed_and_then_believed() {
    let (fake, mut watched) = fake(Duration::from_secs(20)).await;
    let confirming = |path: &str| {
        fake.requests()
            .iter()
            .filter(|r| r.starts_with(path) && !r.contains("stale"))
            .count()
    };
    assert_eq!(
        confirming("/v1/health/service/api"),
        0,
        "nothing needed a second look so far"
    );
    fake.set("api", &[2001, 2009]);
    watched.until_ports("api", &[2001, 2009]).await;
    fake.set("api", &[2001]);
    watched.until_ports("api", &[2001]).await;
    assert_eq!(
        confirming("/v1/health/service/api"),
        0,
        "one at a time is not a mass"
    );
    fake.set("api", &[2001, 2002, 2003, 2004]);
    watched.until_ports("api", &[2001, 2002, 2003, 2004]).await;
    fake.set("api", &[3001]);
    watched.until_ports("api", &[3001]).await;
    assert_eq!(confirming("/v1/health/service/api"), 1);
    fake.remove("api");
    watched
        .until("api gone", |view| !view.services.contains_key("api"))
        .await;
    assert!(confirming("/v1/catalog/services") >= 1);
    assert_eq!(watched.view.borrow().ports("web"), Some(vec![1001]));
}

#[tokio::test]
async fn without_a_leader_stale_answers_are_taken() {
    let (fake, mut watched) = fake(SHORT).await;
    fake.fault(Fault::Leaderless(90_000));
    fake.set("web", &[1001, 1002]);
    watched.until_ports("web", &[1001, 1002]).await;
    assert!(
        watched.errors("status") >= 1,
        "the leader got the request first"
    );
}

#[tokio::test]
async fn a_resync_reads_without_index() {
    let fake = FakeConsul::start().await;
    fake.set("web", &[1001]);
    let config = ConsulConfig {
        wait: SHORT,
        resync: Duration::from_secs(1),
        ..plain_config(&fake.url())
    };
    let mut watched = Watched::start(config);
    watched.until("synced", |view| view.synced == 1).await;
    let unconditional = || {
        fake.requests()
            .iter()
            .filter(|r| r.contains("health") && !r.contains("index="))
            .count()
    };
    wait_until_async("reads without index", async || unconditional() >= 3).await;
    assert_eq!(
        watched.view.borrow().updates,
        2,
        "the same data is not an update"
    );
}

async fn failing_step(config: &ConsulConfig) -> (String, String, String) {
    let steps = probe(config, "urlprefix-").await;
    let last = steps.last().expect("a step");
    assert!(
        steps[..steps.len() - 1].iter().all(|step| step.ok),
        "{steps:#?}"
    );
    assert!(!last.ok, "{steps:#?}");
    (
        last.name.to_owned(),
        last.detail.clone(),
        last.hint.clone().unwrap_or_default(),
    )
}

#[tokio::test]
async fn the_probe_names_the_step_that_fails() {
    let agent = ConsulAgent::start();
    let other = Certificates::new();
    let good = agent.config();
    let steps = probe(&good, "urlprefix-").await;
    let names: Vec<_> = steps.iter().map(|step| step.name).collect();
    assert_eq!(
        names,
        ["resolve", "connect", "tls", "token", "first read"],
        "{steps:#?}"
    );
    assert!(steps.iter().all(|step| step.ok), "{steps:#?}");

    let cases = [
        (
            ConsulConfig {
                cert_file: None,
                key_file: None,
                ..good.clone()
            },
            "tls",
            "demands a client certificate",
        ),
        (
            ConsulConfig {
                cert_file: Some(other.path("client.pem")),
                key_file: Some(other.path("client-key.pem")),
                ..good.clone()
            },
            "tls",
            "refuses the client certificate",
        ),
        (
            ConsulConfig {
                ca_file: Some(other.path("ca.pem")),
                ..good.clone()
            },
            "tls",
            "consul.ca_file",
        ),
        (
            ConsulConfig {
                server_name: Some("elsewhere.test".into()),
                ..good.clone()
            },
            "tls",
            "consul.server_name",
        ),
        (
            ConsulConfig {
                addresses: vec![format!("http://{}:8501", agent.ip)].into(),
                ..good.clone()
            },
            "connect",
            "https://",
        ),
        (
            ConsulConfig {
                addresses: vec![format!("https://{}:8511", agent.ip)].into(),
                ..good.clone()
            },
            "connect",
            "nothing listens",
        ),
        (
            ConsulConfig {
                addresses: vec!["https://no-such-host.invalid:8501".into()].into(),
                ..good.clone()
            },
            "resolve",
            "host name",
        ),
        (
            ConsulConfig {
                ca_file: Some("/nonexistent/ca.pem".into()),
                ..good.clone()
            },
            "config",
            "",
        ),
    ];
    for (config, step, hint) in cases {
        let (name, detail, found) = failing_step(&config).await;
        assert_eq!(name, step, "{detail}; {found}");
        assert!(
            found.contains(hint),
            "{step}: {detail}: `{found}` lacks `{hint}`"
        );
    }
}

#[tokio::test]
async fn the_probe_knows_tokens_and_plain_ports() {
    let agent = ConsulAgent::start_with(Options {
        acl: true,
        ..Options::default()
    });
    let good = agent.config();
    assert!(probe(&good, "urlprefix-").await.iter().all(|step| step.ok));
    let cases = [
        (
            ConsulConfig {
                addresses: vec![format!("https://{}:8500", agent.ip)].into(),
                ..good.clone()
            },
            "tls",
            "plain HTTP",
        ),
        (
            ConsulConfig {
                token: Some("00000000-0000-0000-0000-00000000bbbb".into()),
                ..good.clone()
            },
            "token",
            "does not know",
        ),
        (
            ConsulConfig {
                token: None,
                ..good.clone()
            },
            "first read",
            "policy",
        ),
    ];
    for (config, step, hint) in cases {
        let (name, detail, found) = failing_step(&config).await;
        assert_eq!(name, step, "{detail}; {found}");
        assert!(
            found.contains(hint),
            "{step}: {detail}: `{found}` lacks `{hint}`"
        );
    }
}

#[tokio::test]
async fn every_request_carries_the_credentials_and_the_path_of_a_proxy_in_front() {
    let fake = FakeConsul::start().await;
    fake.set("web", &[1001]);
    fake.set_key("lb/routes", "route del a");
    let config = plain_config(&format!("{}{PREFIX}", fake.url()));
    let config = ConsulConfig {
        http_auth: Some("user:pass".into()),
        token: Some("t".into()),
        ..config
    };
    let mut watched = Watched::start(with_keys(config.clone()));
    watched.until_ports("web", &[1001]).await;
    watched.until_commands(&["route del a"], &[]).await;
    let at = AdvertisedAddress {
        address: "127.0.0.1:1".parse().unwrap(),
        scheme: "http",
        hostname: "here".to_owned(),
    };
    let registrar = watched.source.registrar();
    registrar.set(&[Announcement {
        name: "lb".to_owned(),
        config: config.register.clone(),
        at,
    }]);
    let registered = |fake: &FakeConsul| {
        fake.requests()
            .iter()
            .any(|request| request.contains("/service/register"))
    };
    wait_until_async("a registration", async || {
        registered(&fake)
            .then_some(())
            .ok_or_else(|| format!("{:?}", fake.requests()))
    })
    .await;
    // Emptied, so that what confirms is requested, too.
    fake.set("api", &[2001]);
    fake.remove("web");
    watched
        .until("web gone", |view| !view.services.contains_key("web"))
        .await;
    assert!(
        probe(&config, "urlprefix-")
            .await
            .iter()
            .all(|step| step.ok)
    );
    assert!(
        fake.requests()
            .iter()
            .all(|request| request.starts_with(PREFIX)),
        "{:?}",
        fake.requests()
    );
    let (asked, sent) = (fake.requests().len(), fake.authorizations());
    assert!(
        sent.len() >= asked && sent.iter().all(|auth| auth == "Basic dXNlcjpwYXNz"),
        "{sent:?}"
    );
}

#[tokio::test]
async fn cas_are_found_in_a_folder_as_openssl_keeps_them() {
    let agent = ConsulAgent::start();
    agent.register(&web("a", 1001));
    let ca = agent.certificates().path("ca.pem");
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("below/deeper")).unwrap();
    std::fs::write(folder.path().join("README"), "CAs of this site").unwrap();
    let other = Certificates::new();
    std::fs::copy(other.path("ca.pem"), folder.path().join("other.pem")).unwrap();
    let config = || ConsulConfig {
        ca_file: None,
        ca_path: Some(folder.path().to_owned()),
        ..agent.config()
    };
    let steps = probe(&config(), "urlprefix-").await;
    assert!(
        steps.iter().any(|step| step.name == "tls" && !step.ok),
        "the agent's own is not there yet: {steps:#?}"
    );
    for name in ["1a2b3c4d.0", "plain", "below/1a2b3c4d.0", "below/deeper/ca"] {
        let path = folder.path().join(name);
        std::fs::copy(&ca, &path).unwrap();
        assert!(
            probe(&config(), "urlprefix-")
                .await
                .iter()
                .all(|step| step.ok),
            "{name}"
        );
        std::fs::remove_file(&path).unwrap();
        // What OpenSSL's `rehash` makes is a link.
        std::os::unix::fs::symlink(&ca, &path).unwrap();
        let mut watched = Watched::start(config());
        watched.until_ports("web", &[1001]).await;
        std::fs::remove_file(&path).unwrap();
    }
    std::fs::remove_file(folder.path().join("other.pem")).unwrap();
    let (step, detail, _) = failing_step(&config()).await;
    assert!(
        step == "config"
            && detail.contains("ca_path")
            && detail.contains("no file in it holds a CA"),
        "{detail}"
    );
}

fn with_keys(config: ConsulConfig) -> ConsulConfig {
    ConsulConfig {
        kv_path: Some("lb/routes".to_owned()),
        ..config
    }
}

#[tokio::test]
async fn route_commands_of_the_kv_store_come_change_and_go() {
    let agent = ConsulAgent::start_plain();
    let put = |key: &str, text: &str| assert_eq!(agent.put_key(key, text), "true");
    agent.register(&web("a", 1001));
    let mut watched = Watched::start(with_keys(agent.config()));
    watched
        .until("synced", |view| {
            (view.synced, view.commands_synced) == (1, 1)
        })
        .await;
    watched.until_commands(&[], &[]).await;

    put("lb/other", "route del c");
    put("lb/routes/b", "\n# two\nroute del b\n");
    put("lb/routes", " \nroute del a\nnonsense");
    // By prefix, as in Fabio.
    put("lb/routes-2", "route weight a / weight 0.5");
    let all = ["route del a", "route weight a / weight 0.5", "route del b"];
    watched.until_commands(&all, &["lb/routes, line 2"]).await;

    agent.api("DELETE", "/v1/kv/lb/routes", None);
    watched.until_commands(&all[1..], &[]).await;
    agent.api("DELETE", "/v1/kv/lb/routes?recurse", None);
    watched.until_commands(&[], &[]).await;
    put("lb/routes", "route del d");
    watched.until_commands(&["route del d"], &[]).await;
    let view = watched.view.borrow();
    assert_eq!(
        (view.synced, view.commands_synced, view.ports("web")),
        (1, 1, Some(vec![1001]))
    );
}

#[tokio::test]
async fn route_commands_outlive_a_consul_that_fails_or_forgets() {
    let mut fake = FakeConsul::start().await;
    fake.set_key("lb/routes", "route del a");
    let mut watched = Watched::start(with_keys(plain_config(&fake.url())));
    watched
        .until("synced", |view| view.commands_synced == 1)
        .await;
    watched.until_commands(&["route del a"], &[]).await;

    fake.fault(Fault::Status(500, None));
    watched.until_errors("status", 2).await;
    fake.fault(Fault::Truncated);
    watched.until_errors("decode", 2).await;
    // A 404 that is not Consul's own.
    fake.break_keys(Fault::NoIndex);
    watched.until_errors("status", 4).await;
    fake.break_keys(Fault::EmptyUnlessDefault);
    fake.down().await;
    watched.until_errors("connect", 1).await;
    fake.fault(Fault::EmptyUnlessDefault);
    fake.up().await;
    fake.set_key("lb/routes-2", "route del b");
    watched
        .until_commands(&["route del a", "route del b"], &[])
        .await;
    assert_eq!(watched.view.borrow().commands_synced, 1);
}

#[tokio::test]
async fn nobody_waits_for_route_commands_that_may_not_be_read() {
    let fake = FakeConsul::start().await;
    fake.set("web", &[1001]);
    fake.break_keys(Fault::Status(403, None));
    let mut watched = Watched::start(with_keys(plain_config(&fake.url())));
    watched
        .until("synced", |view| {
            (view.synced, view.commands_synced) == (1, 1)
        })
        .await;
    assert!(watched.errors("token") >= 3 && watched.view.borrow().commands.is_none());
    fake.set_key("lb/routes", "route del a");
    fake.break_keys(Fault::None);
    watched.until_commands(&["route del a"], &[]).await;
}
