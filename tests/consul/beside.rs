//! Drills of what routes do beside sending requests to their own instances: clients that stay, and
//! services that are named and have no tag.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;

use crate::support::client::RawClient;
use crate::support::consul::ConsulAgent;
use crate::support::drill::{
    Check, Instance, ask, consul_section, lb, load, service_row, wait_serving, wait_status,
};
use crate::support::turn::Turn;
use crate::support::wait::wait_until;

/// A browser: it sends requests one after the other, with the cookie that it was given last.
struct Browser {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<Visit>>,
}

/// One response: which instance it came from, and the cookie that it set.
struct Visit {
    status: u16,
    instance: String,
    set: Option<String>,
}

impl Browser {
    fn start(address: SocketAddr, path: &'static str) -> Self {
        let (stop, requests) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (until, count) = (Arc::clone(&stop), Arc::clone(&requests));
        let thread = std::thread::spawn(move || {
            let (mut visits, mut cookie) = (Vec::new(), String::from("none=1"));
            let mut client = RawClient::connect(address);
            while !until.load(SeqCst) {
                let visit = visit(&mut client, path, &cookie);
                if let Some(set) = &visit.set {
                    cookie.clone_from(set);
                }
                visits.push(visit);
                count.fetch_add(1, SeqCst);
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            visits
        });
        Self {
            stop,
            requests,
            thread,
        }
    }

    fn stop(self) -> Vec<Visit> {
        self.stop.store(true, SeqCst);
        self.thread.join().expect("a browser")
    }
}

fn visit(client: &mut RawClient, path: &str, cookie: &str) -> Visit {
    client.send(format!(
        "GET {path} HTTP/1.1\r\nHost: drill.test\r\nCookie: {cookie}\r\n\r\n"
    ));
    let response = client.response().expect("a response");
    let set = response.header("set-cookie");
    let set = set.map(|set| set.split(';').next().unwrap_or_default().to_owned());
    Visit {
        status: response.status,
        instance: response.header("x-instance").unwrap_or_default().to_owned(),
        set,
    }
}

#[test]
fn a_rolling_update_gives_each_client_one_new_cookie_and_no_error() {
    const TAG: &str = "urlprefix-/web sticky=true";
    let _turn = Turn::of("drills");
    let agent = ConsulAgent::start();
    let one = lb(&consul_section(&agent, ""));
    let other = lb(&consul_section(&agent, ""));
    let start = |name: &str| {
        let instance = Instance::start("web", name);
        instance.register(&agent, &[TAG], Check::Ttl);
        instance
    };
    let mut present: Vec<Instance> = ["v0-0", "v0-1", "v0-2"].map(start).into();
    for lb in [&one, &other] {
        wait_serving(lb, "web", &["v0-0", "v0-1", "v0-2"]);
        wait_until("a cookie", || {
            let mut client = RawClient::connect(lb.address("http"));
            visit(&mut client, "/web", "none=1").set.is_some()
        });
    }
    // Both have the same secret: what one says, the other believes.
    let secret = agent.api("GET", "/v1/kv/lb/sticky_key?raw", None);
    assert_eq!(secret.len(), 64);
    let mut clients = [&one, &other].map(|lb| RawClient::connect(lb.address("http")));
    for _ in 0..20 {
        let first = visit(&mut clients[0], "/web", "none=1");
        let cookie = first.set.expect("a cookie");
        let second = visit(&mut clients[1], "/web", &cookie);
        assert_eq!((second.instance, second.set), (first.instance, None));
    }

    let browsers: Vec<Browser> = (0..8)
        .map(|number| {
            let lb = if number % 2 == 0 { &one } else { &other };
            Browser::start(lb.address("http"), "/web")
        })
        .collect();
    wait_until("first requests", || {
        browsers
            .iter()
            .all(|browser| browser.requests.load(SeqCst) > 5)
    });
    for (place, present) in present.iter_mut().enumerate() {
        // Nomad's way with max_parallel = 1: the next one is there before its predecessor goes.
        let next = start(&format!("v1-{place}"));
        wait_until("the new instance", || {
            [&one, &other].iter().all(|lb| {
                let row = service_row(lb, "web").to_string();
                row.contains(&next.id)
            })
        });
        agent.deregister(&present.id);
        present.kill();
        *present = next;
        let counts: Vec<usize> = browsers
            .iter()
            .map(|browser| browser.requests.load(SeqCst))
            .collect();
        wait_until("requests behind the change", || {
            let mut pairs = browsers.iter().zip(&counts);
            pairs.all(|(browser, count)| browser.requests.load(SeqCst) > count + 20)
        });
    }
    for (number, browser) in browsers.into_iter().enumerate() {
        let visits = browser.stop();
        assert!(visits.iter().all(|visit| visit.status == 200), "{number}");
        assert!(visits[0].set.is_some());
        for pair in visits.windows(2) {
            assert_eq!(
                pair[0].instance != pair[1].instance,
                pair[1].set.is_some(),
                "client {number} went from {} to {}",
                pair[0].instance,
                pair[1].instance
            );
        }
        let cookies = visits.iter().filter(|visit| visit.set.is_some()).count();
        let instances: Vec<&str> = visits.iter().map(|visit| &*visit.instance).collect();
        // It may land on one that is to go next, but never comes back to one that is gone.
        assert!(
            (2..=4).contains(&cookies),
            "{number}: {cookies} cookies, {instances:?}"
        );
        assert!(instances.last().is_some_and(|name| name.starts_with("v1-")));
    }
}

#[test]
fn a_fallback_and_a_mirror_need_no_tag() {
    let _turn = Turn::of("drills");
    let agent = ConsulAgent::start();
    let start = |service: &str, tags: &[&str]| {
        let instance = Instance::start(service, service);
        instance.register(&agent, tags, Check::Ttl);
        instance
    };
    let web = start("web", &["urlprefix-/web fallback=maint mirror=shadow"]);
    let (maint, shadow) = (start("maint", &[]), start("shadow", &["plain"]));
    let late = start("late", &[]);
    let unused = start("unused", &[]);
    let lb = lb(&format!(
        "{}[[static.route]]\nservice = \"static\"\nsource = \"/static\"\noptions = \"fallback=late\"\n\
         targets = [\"http://no-such-instance.invalid:80\"]\n",
        consul_section(&agent, "")
    ));
    lb.wait_ready();
    assert_eq!(ask(&lb, "/web"), (200, "web".to_owned()));
    wait_until("a copy", || shadow.server().requests() > 0);
    // Named by a static route: Consul's source is told.
    wait_until("the fallback of the static route", || {
        ask(&lb, "/static") == (200, "late".to_owned())
    });
    assert!(service_row(&lb, "unused").is_null(), "only what is named");
    drop(unused);

    let load = load(&lb, "/web", 100);
    wait_until("load", || web.server().requests() > 20);
    agent.service_maintenance(&web.id, true);
    wait_until("the fallback", || maint.server().requests() > 20);
    agent.service_maintenance(&web.id, false);
    wait_until("the way back", || ask(&lb, "/web").1 == "web");
    let outcome = load.stop();
    outcome.assert_none_failed();
    assert_eq!(outcome.instances.len(), 2, "{:?}", outcome.instances);

    // The fallback goes: 503 with a reason. Nothing names it any more: nothing is known of it.
    agent.service_maintenance(&web.id, true);
    wait_until("the fallback", || ask(&lb, "/web").1 == "maint");
    agent.deregister(&maint.id);
    wait_status(&lb, "/web", 503);
    let (_, text) = lb.admin("/api/explain?url=http://drill.test/web");
    assert!(
        text.contains("fallback=maint: no such service is registered"),
        "{text}"
    );
    maint.register(&agent, &[], Check::Ttl);
    wait_until("its return", || ask(&lb, "/web").1 == "maint");
    web.register(&agent, &["urlprefix-/web"], Check::Ttl);
    for name in ["maint", "shadow"] {
        wait_until(format!("the end of the watch of {name}"), || {
            service_row(&lb, name).is_null()
        });
    }
    drop(late);
}
