//! Certificates that are issued when somebody first asks for a name.
//!
//! ```text
//! Demand ─► Names: known? refused? too many? ─► queue ─► issue (a few at a time) ─► Shelf::add ─► answer to all who wait
//!              ▲                                                    │ refused: not asked again for a while
//!              └── every so often: what ends soon and is used, again; what has ended, away
//! ```
//! Server names come from strangers. So names are asked for once at a time and a few at once; new
//! ones are paced; what was refused is remembered; what is issued is bounded. A name beyond any
//! bound has no certificate, and costs no request.

mod names;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use self::names::{Names, Verdict};
use super::Connection;
use super::api::Api;
use crate::catalog::glob::Glob;
use crate::certificates::error::SourceError;
use crate::certificates::source::{Demands, Shelf};
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
    shelf: Arc<dyn Shelf>,
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
        shelf.issued(),
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
                if names.demand(&name, waiter, Instant::now()) == Verdict::TooMany {
                    shelf.failed(&SourceError::Issue { name, reason: "too many new names at once, or in all".to_owned() });
                }
            }
            Some(issued) = running.join_next() => {
                // A task that panicked or was cut off has no name to tell: its name is free again
                // at the next look.
                let Ok((name, pem)) = issued else { continue };
                let added = pem.map_err(|error| error.to_string()).and_then(|pem| shelf.add(&name, pem));
                if let Err(reason) = &added {
                    shelf.failed(&SourceError::Issue { name: name.clone(), reason: reason.clone() });
                }
                names.issued(&name, added.ok(), unix_now(), Instant::now());
            }
            _ = look.tick() => {
                let gone = names.look(&shelf.take_used(), unix_now(), Instant::now());
                if !gone.is_empty() {
                    shelf.remove(&gone);
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
    let answer = api
        .post(path, Some(&json!({ "common_name": name })))
        .await?;
    pem_of(&answer).ok_or_else(|| SourceError::Content {
        url: path.to_owned(),
        reason: "the answer holds no certificate with its private key".to_owned(),
    })
}

/// Certificate, its chain, and its key, in one text.
fn pem_of(answer: &Value) -> Option<Bytes> {
    let data = answer.get("data")?;
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
    fn answers_become_one_text() {
        let answer = json!({ "data": { "certificate": "C", "issuing_ca": "I", "ca_chain": ["X", "Y"], "private_key": "K" } });
        assert_eq!(pem_of(&answer).unwrap(), "C\nX\nY\nK");
        let answer =
            json!({ "data": { "certificate": "C", "issuing_ca": "I", "private_key": "K" } });
        assert_eq!(pem_of(&answer).unwrap(), "C\nI\nK");
        assert_eq!(pem_of(&json!({ "data": { "certificate": "C" } })), None);
    }
}
