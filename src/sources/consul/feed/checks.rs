//! Watches the checks of one state: those that enter or leave it name a service, or a node with all
//! its services.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Deserialize;

use super::known::Feed;
use crate::catalog::ServiceName;
use crate::catalog::definitions::null_is_default;
use crate::sources::consul::poll::Poller;

/// Checks that are critical, those of maintenance mode and of lost nodes among them.
pub(super) const CRITICAL: &str = "/v1/health/state/critical";
/// Checks that warn.
pub(super) const WARNING: &str = "/v1/health/state/warning";

/// A check of `/v1/health/state/STATE`, without its output: that changes often, and changes
/// nothing.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase", default)]
struct StateCheck {
    #[serde(deserialize_with = "null_is_default")]
    node: String,
    #[serde(rename = "CheckID", deserialize_with = "null_is_default")]
    id: String,
    /// Empty for a check of the node.
    #[serde(deserialize_with = "null_is_default")]
    service_name: String,
}

/// Service of each check, by node and id.
type Checks = BTreeMap<(String, String), String>;

/// Watches until aborted.
pub(super) async fn run(feed: Arc<Feed>, path: &'static str) {
    let mut poller = Poller::unlisted(feed.shared.clone(), path.to_owned(), true);
    let mut known: Option<Checks> = None;
    loop {
        match poller.attempt(decode).await {
            Ok(Some(now)) => {
                let useful = match &known {
                    Some(before) => {
                        let (services, nodes) = changed(before, &now);
                        let useful = !services.is_empty() || !nodes.is_empty();
                        feed.report(services, &nodes, poller.seen_at());
                        useful
                    }
                    // What was read before this watch stood may have changed in between.
                    None => {
                        feed.shared.notices.report_all(poller.seen_at());
                        true
                    }
                };
                known = Some(now);
                poller.believed(useful);
                feed.set_responded(path, true);
            }
            Ok(None) => feed.set_responded(path, known.is_some()),
            Err(error) => {
                feed.set_responded(path, false);
                poller.failed(&error).await;
            }
        }
    }
}

/// Services, and nodes, with a check that entered or left the state.
fn changed(before: &Checks, now: &Checks) -> (BTreeSet<ServiceName>, BTreeSet<String>) {
    let (mut services, mut nodes) = (BTreeSet::new(), BTreeSet::new());
    let differs = |one: &Checks, other: &Checks| -> Vec<(String, String)> {
        let differing = one
            .iter()
            .filter(|(key, service)| other.get(*key) != Some(*service));
        differing
            .map(|((node, _), service)| (node.clone(), service.clone()))
            .collect()
    };
    for (node, service) in differs(before, now).into_iter().chain(differs(now, before)) {
        if service.is_empty() {
            nodes.insert(node);
        } else {
            services.insert(ServiceName::from(service));
        }
    }
    (services, nodes)
}

fn decode(body: &[u8]) -> Result<Checks, serde_json::Error> {
    let checks: Option<Vec<StateCheck>> = serde_json::from_slice(body)?;
    Ok(checks
        .unwrap_or_default()
        .into_iter()
        .map(|check| ((check.node, check.id), check.service_name))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(list: &[(&str, &str, &str)]) -> Checks {
        let json: Vec<_> = list
            .iter()
            .map(|(node, id, service)| {
                format!(r#"{{"Node":"{node}","CheckID":"{id}","ServiceName":"{service}"}}"#)
            })
            .collect();
        decode(format!("[{}]", json.join(",")).as_bytes()).unwrap()
    }

    #[test]
    fn what_enters_or_leaves_a_state_names_its_service_or_its_node() {
        type Names<'a> = &'a [&'a str];
        let (web, other, node) = (
            ("n1", "service:web", "web"),
            ("n2", "service:web", "other"),
            ("n1", "serfHealth", ""),
        );
        let cases: [(&[_], &[_], Names<'_>, Names<'_>); 6] = [
            (&[], &[], &[], &[]),
            (&[web, node], &[node, web], &[], &[]),
            (&[], &[web], &["web"], &[]),
            (&[web, other], &[web], &["other"], &[]),
            (&[web], &[web, node], &[], &["n1"]),
            // An id that belongs to another service now concerns both.
            (
                &[web],
                &[("n1", "service:web", "web2")],
                &["web", "web2"],
                &[],
            ),
        ];
        for (before, now, services, nodes) in cases {
            let (named, lost) = changed(&checks(before), &checks(now));
            assert_eq!(
                named.iter().map(|name| &**name).collect::<Vec<_>>(),
                services,
                "{before:?} {now:?}"
            );
            assert_eq!(lost.iter().collect::<Vec<_>>(), nodes, "{before:?} {now:?}");
        }
    }

    #[test]
    fn outputs_do_not_count_and_nulls_are_tolerated() {
        let text = |output| {
            format!(r#"[{{"Node":"n","CheckID":"c","ServiceName":null,"Output":"{output}"}}]"#)
        };
        assert_eq!(
            decode(text("a").as_bytes()).unwrap(),
            decode(text("b").as_bytes()).unwrap()
        );
        assert!(decode(b"null").unwrap().is_empty());
        assert!(decode(b"{}").is_err());
    }
}
