//! `lb check --live`: one attempt to read Consul, step by step, so that the step that fails has a name and a hint.

use std::time::Duration;

use rustls::AlertDescription;

use super::client::{Client, Mode};
use super::dial::{connect, handshake, http, resolve};
use super::error::ConsulError;
use super::guard::{Sight, routed, sight};
use super::list;
use super::settings::{Agent, Settings, Transport};
use crate::config::ConsulConfig;

/// Limit for one whole step, above those of its parts.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// One step, and how it went. The steps after one that failed are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeStep {
    /// `config`, `resolve`, `connect`, `tls`, `token` or `first read`.
    pub name: &'static str,
    /// Whether it went well.
    pub ok: bool,
    /// What was found, or what failed.
    pub detail: String,
    /// What to do about a failure, where that is known.
    pub hint: Option<String>,
}

impl ProbeStep {
    fn good(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, ok: true, detail: detail.into(), hint: None }
    }

    fn bad(name: &'static str, error: &ConsulError) -> Self {
        Self { name, ok: false, detail: error.to_string(), hint: hint(error) }
    }
}

/// Tries every configured agent in turn until one can be read; returns the steps of all that were tried.
pub async fn probe(config: &ConsulConfig) -> Vec<ProbeStep> {
    let settings = match Settings::load(config) {
        Ok(settings) => settings,
        Err(error) => return vec![ProbeStep::bad("config", &error)],
    };
    let mut steps = Vec::new();
    for (agent, address) in settings.agents.iter().zip(&config.addresses) {
        let only = ConsulConfig { addresses: vec![address.clone()], ..config.clone() };
        let attempt = attempt(&settings, agent, &only, &mut steps);
        if tokio::time::timeout(5 * STEP_TIMEOUT, attempt).await.is_ok_and(|done| done.is_some()) {
            break;
        }
    }
    steps
}

/// None after a step that failed.
async fn attempt(settings: &Settings, agent: &Agent, config: &ConsulConfig, steps: &mut Vec<ProbeStep>) -> Option<()> {
    reach(settings, agent, steps).await?;
    let client = note(steps, "config", Client::new(config))?;
    let name = if agent.is_tls() { "tls" } else { "connect" };
    // Needs no rights; and with TLS 1.3 it is the first read that shows whether the client certificate was taken.
    note(steps, name, client.get("/v1/status/leader", Mode::Stale, None).await.map_err(misnamed_scheme))?;
    if agent.is_tls() {
        let shown = if config.cert_file.is_some() {
            "client certificate accepted or not asked for"
        } else {
            "no client certificate asked for"
        };
        steps.push(ProbeStep::good("tls", format!("{}: handshake done, {shown}", agent.name)));
    }
    token(&client, settings, config, steps).await?;
    first_read(&client, config, steps).await
}

/// Resolve, connect, and the handshake itself.
async fn reach(settings: &Settings, agent: &Agent, steps: &mut Vec<ProbeStep>) -> Option<()> {
    let Transport::Tcp { host, tls, .. } = &agent.transport else {
        let Transport::Unix(path) = &agent.transport else { return None };
        let opened = tokio::net::UnixStream::connect(path).await;
        let opened =
            opened.map_err(|error| ConsulError::Connect { agent: agent.name.clone(), reason: error.to_string() });
        note(steps, "connect", opened)?;
        steps.push(ProbeStep::good("connect", agent.name.clone()));
        return Some(());
    };
    let addresses = note(steps, "resolve", resolve(agent).await)?;
    let shown: Vec<_> = addresses.iter().map(|address| address.ip().to_string()).collect();
    steps.push(ProbeStep::good("resolve", format!("{host}: {}", shown.join(", "))));
    let stream = note(steps, "connect", connect(agent, &addresses).await)?;
    let peer = stream.peer_addr().map_or_else(|_| agent.name.clone(), |address| address.to_string());
    steps.push(ProbeStep::good("connect", peer));
    if *tls {
        let stream = note(steps, "tls", handshake(settings, agent, stream).await)?;
        note(steps, "tls", http(agent, stream).await)?;
    }
    Some(())
}

async fn token(client: &Client, settings: &Settings, config: &ConsulConfig, steps: &mut Vec<ProbeStep>) -> Option<()> {
    if settings.token.is_none() {
        steps.push(ProbeStep::good("token", "none configured: reading with the rights of the anonymous token"));
        return Some(());
    }
    let step = match client.get("/v1/acl/token/self", Mode::Default, None).await {
        Ok(_) => ProbeStep::good("token", "known to Consul"),
        Err(ConsulError::Status { code: 401, text, .. }) if text.contains("ACL support disabled") => {
            ProbeStep::good("token", "not needed: ACLs are off")
        }
        Err(error) => {
            let mut step = ProbeStep::bad("token", &error);
            if let ConsulError::Status { code: 403, .. } = error {
                let file = config.token_file.as_ref().map(|path| format!(" ({})", path.display())).unwrap_or_default();
                step.hint =
                    Some(format!("Consul does not know this token{file}: deleted, expired, or of another cluster"));
            }
            step
        }
    };
    let ok = step.ok;
    steps.push(step);
    ok.then_some(())
}

async fn first_read(client: &Client, config: &ConsulConfig, steps: &mut Vec<ProbeStep>) -> Option<()> {
    let read = client.get(list::PATH, Mode::Stale, None).await;
    let list = read.and_then(|answer| {
        list::decode(&answer.body)
            .map_err(|error| ConsulError::Decode { path: list::PATH.to_owned(), reason: error.to_string() })
    });
    let list = note(steps, "first read", list)?;
    let routed = routed(&list, &config.tag_prefix);
    if sight(&list) == Sight::Nothing {
        let what = "the catalog: Consul answered 200 with an empty list".to_owned();
        steps.push(ProbeStep::bad("first read", &ConsulError::Rights { what }));
        return None;
    }
    // Rights on services without rights on nodes give a full list and empty answers.
    if let Some(name) = routed.first().cloned().or_else(|| list.keys().next().map(|name| name.as_str().into())) {
        let path = super::watch::path(&name);
        let body = note(steps, "first read", client.get(&path, Mode::Stale, None).await)?.body;
        if note(
            steps,
            "first read",
            super::watch::decode(&body).map_err(|error| ConsulError::Decode { path, reason: error.to_string() }),
        )?
        .is_empty()
        {
            let what = format!("the instances of `{name}`, which is listed");
            steps.push(ProbeStep::bad("first read", &ConsulError::Rights { what }));
            return None;
        }
    }
    let part = if sight(&list) == Sight::Part { "; the token sees some services only" } else { "" };
    let detail = format!("{} services, {} with a `{}` tag{part}", list.len(), routed.len(), config.tag_prefix);
    steps.push(ProbeStep::good("first read", detail));
    Some(())
}

/// Adds a failed step, or passes the value on.
fn note<T>(steps: &mut Vec<ProbeStep>, name: &'static str, result: Result<T, ConsulError>) -> Option<T> {
    result.map_err(|error| steps.push(ProbeStep::bad(name, &error))).ok()
}

/// Older agents answer plain HTTP on a TLS port with a TLS alert, which no HTTP parser understands.
fn misnamed_scheme(error: ConsulError) -> ConsulError {
    match error {
        ConsulError::Transport { agent, reason, alert }
            if agent.starts_with("http://") && reason.contains("invalid HTTP") =>
        {
            ConsulError::Transport { agent, reason: format!("{reason}: the answer is not HTTP (a TLS port?)"), alert }
        }
        other => other,
    }
}

/// What to do about it.
fn hint(error: &ConsulError) -> Option<String> {
    let text = match error {
        ConsulError::Resolve { .. } => "check the host name in consul.address".to_owned(),
        ConsulError::Connect { reason, .. } if reason.contains("refused") => {
            "nothing listens there: is the agent running, and is this its HTTPS port (ports.https, often 8501)?".to_owned()
        }
        ConsulError::Connect { .. } => "check the address, the route to it and firewalls".to_owned(),
        ConsulError::Tls { alert: Some(alert), .. } | ConsulError::Transport { alert: Some(alert), .. } => refusal(*alert),
        ConsulError::Tls { reason, .. } => handshake_hint(reason)?,
        ConsulError::Status { code: 400, text, .. } if text.contains("HTTPS server") => {
            "this port speaks TLS: write https:// in consul.address".to_owned()
        }
        ConsulError::Transport { reason, .. } if reason.contains("TLS port?") => {
            "this port speaks TLS: write https:// in consul.address".to_owned()
        }
        ConsulError::Status { code: 403, .. } | ConsulError::Rights { .. } => {
            "give the token this policy: service_prefix \"\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" }"
                .to_owned()
        }
        ConsulError::Status { code: 500, text, .. } if text.contains("leader") => {
            "the servers have no leader: is a majority of them running?".to_owned()
        }
        ConsulError::Status { code: 429, .. } => {
            "the agent limits connections per client (limits.http_max_conns_per_client): lower consul.max_connections".to_owned()
        }
        ConsulError::Timeout { .. } => "the agent took the connection but does not answer: is it stopped or overloaded?".to_owned(),
        _ => return None,
    };
    Some(text)
}

fn refusal(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure => {
            "the agent demands a client certificate (verify_incoming): set consul.cert_file and consul.key_file"
                .to_owned()
        }
        AlertDescription::UnknownCA | AlertDescription::BadCertificate => {
            "the agent refuses the client certificate: it must be signed by the CA in the agent's ca_file".to_owned()
        }
        AlertDescription::CertificateExpired => "the client certificate has expired: renew consul.cert_file".to_owned(),
        AlertDescription::UnrecognisedName => {
            "the agent has no certificate for this name: set consul.server_name".to_owned()
        }
        other => format!("the agent ended the handshake with the alert {other:?}"),
    }
}

fn handshake_hint(reason: &str) -> Option<String> {
    let hints = [
        (
            "InvalidContentType",
            "this port speaks plain HTTP: write http://, or use the HTTPS port (ports.https, often 8501)",
        ),
        ("UnknownIssuer", "the agent's certificate is signed by another CA: set consul.ca_file to the cluster's CA"),
        ("not valid for name", "the agent's certificate is for other names: set consul.server_name to one of them"),
        ("NotValidForName", "the agent's certificate is for other names: set consul.server_name to one of them"),
        ("expired", "the agent's certificate has expired, or this machine's clock is wrong"),
        ("Expired", "the agent's certificate has expired, or this machine's clock is wrong"),
    ];
    hints.iter().find(|(part, _)| reason.contains(part)).map(|(_, hint)| (*hint).to_owned())
}
