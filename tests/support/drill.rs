//! The stage of a drill: the binary in front of a real agent over mTLS, and instances registered as
//! Nomad does it.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::client::{Load, RunningLoad, get};
use super::consul::ConsulAgent;
use super::lb::Lb;
use super::upstream::Upstream;
use super::wait::wait_until;

/// An instance: a server, and the id under which it is registered.
pub struct Instance {
    /// `_nomad-task-…`, as Nomad names them.
    pub id: String,
    /// Service.
    pub service: String,
    /// The server; none after its death.
    pub upstream: Option<Upstream>,
}

/// What is checked of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Nothing.
    None,
    /// A TTL check that passes; the status is set by the test.
    Ttl,
    /// An HTTP check by the agent, every two seconds.
    Http,
}

impl Instance {
    /// A server that is not registered yet.
    pub fn start(service: &str, name: &str) -> Self {
        Self {
            id: format!("_nomad-task-{name}-group-web-{service}-http"),
            service: service.to_owned(),
            upstream: Some(Upstream::start(name)),
        }
    }

    /// The server.
    pub fn server(&self) -> &Upstream {
        self.upstream.as_ref().expect("a live instance")
    }

    /// Registers it at the agent under these tags.
    pub fn register(&self, agent: &ConsulAgent, tags: &[&str], check: Check) {
        let address = self.server().address;
        let mut body = json!({
            "Name": self.service, "ID": self.id, "Tags": tags, "Meta": {"external-source": "nomad"},
            "Address": address.ip(), "Port": address.port(),
        });
        if check != Check::None {
            body["Check"] = self.check(check);
        }
        agent.api("PUT", "/v1/agent/service/register", Some(&body));
    }

    /// Adds a TTL check to a registered instance, critical at first: Nomad does it in a second
    /// step.
    pub fn add_check(&self, agent: &ConsulAgent) {
        let mut body = self.check(Check::Ttl);
        body["Status"] = json!("critical");
        body["ServiceID"] = json!(self.id);
        // The key has another name here than within a registration.
        body["ID"] = body["CheckID"].take();
        body.as_object_mut().expect("an object").remove("CheckID");
        agent.api("PUT", "/v1/agent/check/register", Some(&body));
    }

    fn check(&self, check: Check) -> Value {
        let id = format!("check:{}", self.id);
        match check {
            Check::Http => {
                json!({"CheckID": id, "Name": id, "HTTP": format!("http://{}/health", self.server().address),
                "Interval": "2s", "Timeout": "1s"})
            }
            _ => json!({"CheckID": id, "Name": id, "TTL": "30m", "Status": "passing"}),
        }
    }

    /// Kills the server at once; the registration stays.
    pub fn kill(&mut self) {
        self.upstream.take().expect("a live instance").kill();
    }
}

/// Several registered instances named `PREFIX-0…`, passing, under `urlprefix-/SERVICE`.
pub fn fleet(agent: &ConsulAgent, service: &str, prefix: &str, count: usize) -> Vec<Instance> {
    let tag = format!("urlprefix-/{service}");
    let start = |number| {
        let instance = Instance::start(service, &format!("{prefix}-{number}"));
        instance.register(agent, &[&tag], Check::Ttl);
        instance
    };
    (0..count).map(start).collect()
}

/// `[consul]` over mTLS with a certificate of its own, short times, and further lines of that
/// section.
pub fn consul_section(agent: &ConsulAgent, more: &str) -> String {
    agent.certificates().issue("lb", &["lb.test".to_owned()]);
    let file = |name: &str| -> PathBuf { agent.certificates().path(name) };
    format!(
        "[consul]\naddress = {:?}\nca_file = {:?}\ncert_file = {:?}\nkey_file = {:?}\nwait = \"2s\"\n{more}\n",
        agent.address(),
        file("ca.pem"),
        file("lb.pem"),
        file("lb-key.pem"),
    )
}

/// Starts the binary with this head of a configuration, one HTTP listener and an admin listener.
pub fn lb(config: &str) -> Lb {
    let listeners = "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n";
    Lb::start(&format!("{config}\n{listeners}"))
}

/// One GET; status, and which instance responded.
pub fn ask(lb: &Lb, path: &str) -> (u16, String) {
    let answer = get(lb.address("http"), "drill.test", path);
    (
        answer.status,
        answer.header("x-instance").unwrap_or_default().to_owned(),
    )
}

/// Sends requests until the status is this one.
pub fn wait_status(lb: &Lb, path: &str, status: u16) {
    wait_until(format!("{status} at {path}"), || ask(lb, path).0 == status);
}

/// Waits until `lb` sends requests to just these instances of a service, whatever their order.
pub fn wait_serving(lb: &Lb, service: &str, names: &[&str]) {
    wait_until(format!("{service} served by {names:?}"), || {
        let mut serving = serving(lb, service);
        serving.sort_unstable();
        let mut names = names.to_vec();
        names.sort_unstable();
        let is_just_these = serving.len() == names.len()
            && serving
                .iter()
                .zip(names)
                .all(|(id, name)| id.contains(&format!("-task-{name}-group")));
        if is_just_these {
            Ok(())
        } else {
            Err(format!("{serving:?}"))
        }
    });
}

/// Ids of the instances of a service that may get requests.
pub fn serving(lb: &Lb, service: &str) -> Vec<String> {
    let row = service_row(lb, service);
    let instances = row["instances"].as_array().cloned().unwrap_or_default();
    let states = ["healthy", "probation", "held", "held, not confirmed"];
    let open = instances
        .into_iter()
        .filter(|instance| states.iter().any(|state| instance["state"] == *state));
    open.filter_map(|instance| instance["id"].as_str().map(str::to_owned))
        .collect()
}

/// What `/api/services` says of one service.
pub fn service_row(lb: &Lb, service: &str) -> Value {
    let (status, text) = lb.admin("/api/services");
    assert_eq!(status, 200, "{text}");
    let services: Value = serde_json::from_str(&text).expect("JSON");
    let rows = services
        .as_array()
        .or_else(|| services["services"].as_array())
        .expect("a list");
    rows.iter()
        .find(|row| row["name"] == service)
        .cloned()
        .unwrap_or(Value::Null)
}

/// Starts GETs on a path, to be stopped by the test.
pub fn load(lb: &Lb, path: &str, per_second: u32) -> RunningLoad {
    Load::new(lb.address("http"), "drill.test", path, per_second).start()
}

/// Seconds since the last response about a service that was believed.
pub fn age(lb: &Lb, service: &str) -> f64 {
    let sample = format!("lb_registry_last_success_timestamp_seconds{{service=\"{service}\"}}");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs_f64();
    now - lb
        .metric(&sample)
        .unwrap_or_else(|| panic!("no sample {sample}"))
}
