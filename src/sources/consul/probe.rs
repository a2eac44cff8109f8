//! `lb check --live`: one attempt to read Consul, step by step, so that the step that fails has a
//! name and a hint.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::catalog::retain_own;
use super::client::{Client, Mode};
use super::dial::{connect, handshake, resolve};
use super::error::{ConsulError, alert, chain};
use super::hint::hint;
use super::mesh::not_a_target;
use super::rights::{Token, of_token};
use super::settings::{Agent, Settings, Transport};
use super::visibility::{Visibility, routed, sight};
use super::watch;
use super::wire::{SERVICES, decode_services};
use crate::catalog::ServiceName;
use crate::config::ConsulConfig;
use crate::sources::probe_step::ProbeStep;

/// Limit for all steps with one agent, above those of the parts.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(120);
/// Most routed services whose instances are looked at.
const SERVICES_MAX: usize = 1000;
/// Limits a response to the parts of the service mesh: `Service.Kind != "" or
/// Service.Connect.Native == true`.
const MESH_ONLY: &str =
    "filter=Service.Kind%20!%3D%20%22%22%20or%20Service.Connect.Native%20%3D%3D%20true";
/// How long an agent may take to refuse a client certificate after the handshake.
const FIRST_BYTE: Duration = Duration::from_secs(1);

fn failed(name: &'static str, error: &ConsulError, certificate: bool) -> ProbeStep {
    ProbeStep::failed(name, error.to_string(), hint(error, certificate))
}

/// The steps so far.
struct Steps {
    list: Vec<ProbeStep>,
    /// A client certificate is configured.
    certificate: bool,
}

impl Steps {
    fn good(&mut self, name: &'static str, detail: impl Into<String>) {
        self.list.push(ProbeStep::good(name, detail));
    }

    fn bad(&mut self, name: &'static str, error: &ConsulError) {
        self.list.push(failed(name, error, self.certificate));
    }

    /// Adds a failed step, or passes the value on.
    fn note<T>(&mut self, name: &'static str, result: Result<T, ConsulError>) -> Option<T> {
        result.map_err(|error| self.bad(name, &error)).ok()
    }
}

/// Tries every configured agent in turn until one can be read; returns the steps of all that were
/// tried. Services with a tag that begins with `tag_prefix` are those that are routed.
pub async fn probe(config: &ConsulConfig, tag_prefix: &str) -> Vec<ProbeStep> {
    let certificate = config.has_certificate();
    let settings = match Settings::load(config) {
        Ok(settings) => settings,
        Err(error) => return vec![failed("config", &error, certificate)],
    };
    let mut steps = Steps {
        list: Vec::new(),
        certificate,
    };
    for (agent, address) in settings.agents.iter().zip(config.addresses.iter()) {
        let only = ConsulConfig {
            addresses: vec![address.clone()].into(),
            ..config.clone()
        };
        let attempt = attempt(&settings, agent, (&only, tag_prefix), &mut steps);
        if timeout(ATTEMPT_TIMEOUT, attempt)
            .await
            .is_ok_and(|done| done.is_some())
        {
            break;
        }
    }
    steps.list
}

/// None after a step that failed.
async fn attempt(
    settings: &Settings,
    agent: &Agent,
    (config, tag_prefix): (&ConsulConfig, &str),
    steps: &mut Steps,
) -> Option<()> {
    reach(settings, agent, steps).await?;
    let client = steps.note("config", Client::new(config))?;
    // Needs no rights.
    let leader = client
        .get("/v1/status/leader", Mode::Stale, None)
        .await
        .map_err(misnamed_scheme);
    let name = match &leader {
        Err(ConsulError::Transport { .. } | ConsulError::Status { code: 400, .. })
            if !agent.is_tls() =>
        {
            "connect"
        }
        Err(ConsulError::Transport { .. }) => "tls",
        _ => "first read",
    };
    steps.note(name, leader)?;
    if agent.is_tls() {
        let shown = if config.has_certificate() {
            "client certificate accepted or not requested"
        } else {
            "no client certificate requested"
        };
        steps.good("tls", format!("{}: handshake done, {shown}", agent.name));
    }
    let has_policies = token(&client, settings, config, steps).await?;
    first_read(&client, tag_prefix, has_policies, steps).await
}

/// Resolve, connect, and the handshake itself.
async fn reach(settings: &Settings, agent: &Agent, steps: &mut Steps) -> Option<()> {
    let Transport::Tcp { host, tls, .. } = &agent.transport else {
        let Transport::Unix(path) = &agent.transport else {
            return None;
        };
        let opened = tokio::net::UnixStream::connect(path).await;
        let opened = opened.map_err(|error| ConsulError::Connect {
            agent: agent.name.clone(),
            reason: error.to_string(),
        });
        steps.note("connect", opened)?;
        steps.good("connect", agent.name.clone());
        return Some(());
    };
    let addresses = steps.note("resolve", resolve(agent).await)?;
    let shown: Vec<_> = addresses
        .iter()
        .map(|address| address.ip().to_string())
        .collect();
    steps.good("resolve", format!("{host}: {}", shown.join(", ")));
    let stream = steps.note("connect", connect(agent, &addresses).await)?;
    let peer = stream
        .peer_addr()
        .map_or_else(|_| agent.name.clone(), |address| address.to_string());
    steps.good("connect", peer);
    if *tls {
        let stream = steps.note("tls", handshake(settings, agent, stream).await)?;
        steps.note("tls", first_byte(agent, stream).await)?;
    }
    Some(())
}

/// With TLS 1.3 the agent judges the client certificate after the client's side of the handshake is
/// done. A client that writes first may lose the alert to a broken pipe, so this only reads: over
/// HTTP/2 the agent speaks first, and silence is what an HTTP/1.1 server does that is content.
async fn first_byte(agent: &Agent, mut stream: TlsStream<TcpStream>) -> Result<(), ConsulError> {
    let broken = |reason, alert| ConsulError::Transport {
        agent: agent.name.clone(),
        reason,
        alert,
    };
    match timeout(FIRST_BYTE, stream.read_u8()).await {
        Ok(Err(error)) => Err(broken(chain(&error), alert(&error))),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

/// None after a failure; else whether something is granted to the token.
async fn token(
    client: &Client,
    settings: &Settings,
    config: &ConsulConfig,
    steps: &mut Steps,
) -> Option<bool> {
    if settings.token.is_none() {
        steps.good(
            "token",
            "none configured: reading with the rights of the anonymous token",
        );
        return Some(false);
    }
    let response = client
        .get("/v1/acl/token/self", Mode::Default, None)
        .await
        .map(|response| response.body);
    let has_policies = matches!(of_token(response.clone()), Ok(Token::Useful));
    let step = match response {
        Ok(_) if has_policies => ProbeStep::good("token", "known to Consul"),
        Ok(_) => ProbeStep::good("token", "known to Consul, without any policy or role"),
        Err(ConsulError::Status {
            code: 401, text, ..
        }) if text.contains("ACL support disabled") => {
            ProbeStep::good("token", "not needed: ACLs are off")
        }
        Err(error) => {
            let mut step = failed("token", &error, steps.certificate);
            if let ConsulError::Status { code: 403, .. } = error {
                let file = config
                    .token_file
                    .as_ref()
                    .map(|path| format!(" ({})", path.display()))
                    .unwrap_or_default();
                step.hint = Some(format!(
                    "Consul does not know this token{file}: deleted, expired, or of another cluster"
                ));
            }
            step
        }
    };
    let ok = step.ok;
    steps.list.push(step);
    ok.then_some(has_policies)
}

async fn first_read(
    client: &Client,
    tag_prefix: &str,
    has_policies: bool,
    steps: &mut Steps,
) -> Option<()> {
    let read = client.get(SERVICES, Mode::Stale, None).await;
    let list = read.and_then(|response| {
        decode_services(&response.body).map_err(|error| ConsulError::Decode {
            path: SERVICES.to_owned(),
            reason: error.to_string(),
        })
    });
    let list = steps.note("first read", list)?;
    let routed = routed(&list, tag_prefix);
    if sight(&list) == Visibility::Nothing && has_policies {
        let detail = "no service is listed: none is registered that the token may read. \
                      If that is wrong, its policies lack service_prefix read";
        steps.good("first read", detail);
        return Some(());
    }
    if sight(&list) == Visibility::Nothing {
        let what = "the catalog: Consul responded 200 with an empty list".to_owned();
        steps.bad("first read", &ConsulError::Rights { what });
        return None;
    }
    // Rights on services without rights on nodes give a full list and empty responses.
    if let Some(name) = routed
        .first()
        .cloned()
        .or_else(|| list.keys().next().map(|name| name.as_str().into()))
    {
        let path = watch::path(&name);
        let read = client
            .get(&path, Mode::Stale, None)
            .await
            .and_then(|response| {
                watch::decode(&response.body).map_err(|error| ConsulError::Decode {
                    path: path.clone(),
                    reason: error.to_string(),
                })
            });
        if steps.note("first read", read)?.is_empty() {
            let what = format!("the instances of `{name}`, which is listed");
            steps.bad("first read", &ConsulError::Rights { what });
            return None;
        }
    }
    let part = if sight(&list) == Visibility::Part {
        "; the token sees some services only"
    } else {
        ""
    };
    let detail = format!(
        "{} services, {} with a `{tag_prefix}` tag{part}",
        list.len(),
        routed.len()
    );
    steps.good("first read", detail);
    if let Some(detail) = left_out(client, routed).await {
        steps.good("targets", detail);
    }
    Some(())
}

/// Which registrations of routed services get no traffic because they are parts of the service
/// mesh; none: there are no such. Services that cannot be read are passed over: that is the
/// business of the steps before.
async fn left_out(client: &Client, routed: BTreeSet<ServiceName>) -> Option<String> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in routed
        .iter()
        .filter(|name| watch::is_readable(name))
        .take(SERVICES_MAX)
    {
        let path = format!("{}?{MESH_ONLY}", watch::path(name));
        let Ok(response) = client.get(&path, Mode::Stale, None).await else {
            continue;
        };
        let Ok(mut entries) = watch::decode(&response.body) else {
            continue;
        };
        retain_own(name, &mut entries);
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for reason in entries
            .iter()
            .filter_map(|entry| not_a_target(&entry.service))
        {
            *counts.entry(reason).or_default() += 1;
        }
        for (reason, count) in counts {
            found
                .entry(reason)
                .or_default()
                .push(format!("{count} of {name}"));
        }
    }
    let of_reason =
        |(reason, services): (&String, &Vec<String>)| format!("{} ({reason})", services.join(", "));
    let all: Vec<_> = found.iter().map(of_reason).collect();
    let more = if routed.len() > SERVICES_MAX {
        "; more services were not looked at"
    } else {
        ""
    };
    (!all.is_empty()).then(|| {
        format!(
            "left out, although a routing tag is on them: {}{more}",
            all.join("; ")
        )
    })
}

/// Older agents respond to plain HTTP on a TLS port with a TLS alert, which no HTTP parser
/// understands.
fn misnamed_scheme(error: ConsulError) -> ConsulError {
    match error {
        ConsulError::Transport {
            agent,
            reason,
            alert,
        } if agent.starts_with("http://") && reason.contains("invalid HTTP") => {
            ConsulError::Transport {
                agent,
                reason: format!("{reason}: the response is not HTTP (a TLS port?)"),
                alert,
            }
        }
        other => other,
    }
}
