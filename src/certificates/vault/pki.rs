//! Certificates that are issued when a client first sends a server name.
//!
//! ```text
//! Demand ─► Names: known? refused? too many? ─► queue ─► issue (a few at a time) ─► CertificateSink::add ─► wake all that wait
//!              ▲                                                    │ refused: not requested again for a while
//!              └── every so often: what ends soon and is used, again; what has ended, away
//! ```
//! Server names come from strangers. So there is one request for a name at a time, and a few in
//! all; new names are paced; what was refused is remembered; what is issued is bounded. A name
//! beyond any bound has no certificate, and costs no request.

mod names;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use self::names::{Admission, Names};
use super::Connection;
use super::api::Api;
use crate::catalog::glob::Glob;
use crate::certificates::error::SourceError;
use crate::certificates::source::{CertificateSink, Demands};
use crate::system::unix_now;

/// How often ends are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is issued, and when.
#[derive(Clone, Debug)]
pub(in crate::certificates) struct Rules {
    pub(in crate::certificates) issue_path: String,
    pub(in crate::certificates) names: Vec<String>,
    pub(in crate::certificates) renew_before: Duration,
}

type Issued = (String, Result<Bytes, SourceError>);

/// Issues until it is dropped.
pub(in crate::certificates) async fn run(
    rules: Rules,
    mut connection: Connection,
    sink: Arc<dyn CertificateSink>,
    demands: Demands,
) {
    let mut demands = demands.lock().await;
    let globs: Vec<Glob> = rules
        .names
        .iter()
        .filter_map(|pattern| Glob::new(pattern).ok())
        .collect();
    let permitted = |name: &str| globs.is_empty() || globs.iter().any(|glob| glob.matches(name));
    let mut names = Names::new(
        rules.renew_before,
        sink.issued(),
        unix_now(),
        Instant::now(),
    );
    let mut running: JoinSet<Issued> = JoinSet::new();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            demand = demands.recv() => {
                let Some((name, waiter)) = demand else { return };
                if !permitted(&name) {
                    continue;
                }
                if names.demand(&name, waiter, Instant::now()) == Admission::TooMany {
                    sink.failed(&SourceError::Issue { name, reason: "too many new names at once, or in all".to_owned() });
                }
            }
            Some(issued) = running.join_next() => {
                // A task that panicked or was cut off has no name to tell: its name is free again
                // at the next look.
                let Ok((name, pem)) = issued else { continue };
                let added = pem.map_err(|error| error.to_string()).and_then(|pem| sink.add(&name, pem));
                if let Err(reason) = &added {
                    sink.failed(&SourceError::Issue { name: name.clone(), reason: reason.clone() });
                }
                names.issued(&name, added.ok(), unix_now(), Instant::now());
            }
            _ = look.tick() => {
                let gone = names.look(&sink.take_used(), unix_now(), Instant::now());
                if !gone.is_empty() {
                    sink.remove(&gone);
                }
            }
        }
        while let Some(name) = names.next() {
            let path = rules.issue_path.clone();
            match connection.api().await {
                Ok(api) => {
                    running.spawn(async move {
                        let issued = issue(&api, &path, &name).await;
                        (name, issued)
                    });
                }
                Err(error) => {
                    running.spawn(async move { (name, Err(error)) });
                }
            }
        }
    }
}

async fn issue(api: &Api, path: &str, name: &str) -> Result<Bytes, SourceError> {
    let response = api
        .post(path, Some(&json!({ "common_name": name })))
        .await?;
    pem_of(&response).ok_or_else(|| SourceError::Content {
        url: path.to_owned(),
        reason: "the response holds no certificate with its private key".to_owned(),
    })
}

/// Certificate, its chain, and its key, in one text.
fn pem_of(response: &Value) -> Option<Bytes> {
    let data = response.get("data")?;
    let text = |name: &str| {
        data.get(name)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    let chain: Vec<&str> = match data.get("ca_chain").and_then(Value::as_array) {
        Some(chain) if !chain.is_empty() => chain.iter().filter_map(Value::as_str).collect(),
        _ => text("issuing_ca").into_iter().collect(),
    };
    let mut parts = vec![text("certificate")?];
    parts.extend(chain);
    parts.push(text("private_key")?);
    Some(Bytes::from(parts.join("\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_become_one_text() {
        let response = json!({ "data": { "certificate": "C", "issuing_ca": "I", "ca_chain": ["X", "Y"], "private_key": "K" } });
        assert_eq!(pem_of(&response).unwrap(), "C\nX\nY\nK");
        let response =
            json!({ "data": { "certificate": "C", "issuing_ca": "I", "private_key": "K" } });
        assert_eq!(pem_of(&response).unwrap(), "C\nI\nK");
        assert_eq!(pem_of(&json!({ "data": { "certificate": "C" } })), None);
    }
}
