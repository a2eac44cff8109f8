//! Watches the nodes of the catalog, and on each of them which instances come, go and change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use percent_encoding::utf8_percent_encode;
use serde::Deserialize;

use super::known::Feed;
use crate::catalog::ServiceName;
use crate::catalog::definitions::null_is_default;
use crate::sources::consul::poll::Poller;
use crate::sources::consul::wire::SEGMENT;
use crate::sources::task::SourceTask;

pub(super) const LIST: &str = "/v1/catalog/nodes";

/// A node of `/v1/catalog/nodes`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct ListedNode {
    #[serde(deserialize_with = "null_is_default")]
    node: String,
}

/// `/v1/catalog/node/NAME`.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase", default)]
struct NodeServices {
    #[serde(deserialize_with = "null_is_default")]
    node: Version,
    #[serde(deserialize_with = "null_is_default")]
    services: HashMap<String, Service>,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase", default)]
struct Version {
    modify_index: u64,
}

#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase", default)]
struct Service {
    #[serde(deserialize_with = "null_is_default")]
    service: String,
    modify_index: u64,
}

/// Watches the list of nodes until aborted, and each of them while it is listed.
pub(super) async fn run(feed: Arc<Feed>) {
    let mut poller = Poller::unlisted(feed.shared.clone(), LIST.to_owned(), true);
    let mut watches: BTreeMap<String, SourceTask> = BTreeMap::new();
    loop {
        match poller.attempt(decode_list).await {
            Ok(Some(names)) => {
                let gone: Vec<_> = watches
                    .keys()
                    .filter(|name| !names.contains(*name))
                    .cloned()
                    .collect();
                let new: Vec<_> = names
                    .into_iter()
                    .filter(|name| !watches.contains_key(name))
                    .collect();
                poller.believed(!gone.is_empty() || !new.is_empty());
                for name in gone {
                    watches.remove(&name);
                    // Its services went with it.
                    feed.report(
                        BTreeSet::new(),
                        &BTreeSet::from([name.clone()]),
                        poller.seen_at(),
                    );
                    feed.forget_node(&path(&name), &name);
                }
                for name in new {
                    feed.set_responded(&path(&name), false);
                    watches.insert(name.clone(), SourceTask::spawn(watch(feed.clone(), name)));
                }
                feed.set_responded(LIST, true);
            }
            Ok(None) => feed.set_responded(LIST, true),
            Err(error) => {
                feed.set_responded(LIST, false);
                poller.failed(&error).await;
            }
        }
    }
}

/// Watches one node: blocking if there is room, else whenever the list of services was woken.
async fn watch(feed: Arc<Feed>, name: String) {
    let path = path(&name);
    let room = feed.node_room.clone().try_acquire_owned();
    let mut poller = Poller::unlisted(feed.shared.clone(), path.clone(), room.is_ok());
    let mut list = feed.shared.notices.list_wakes();
    let mut known: Option<NodeServices> = None;
    let mut failed = false;
    loop {
        let response = if room.is_ok() || known.is_none() {
            poller.attempt(decode).await
        } else {
            if !failed {
                // The sender lives as long as the feed.
                let _ = list.changed().await;
            }
            poller.look(decode).await
        };
        failed = response.is_err();
        match response {
            Ok(Some(now)) => {
                let empty = NodeServices::default();
                let services = changed(known.as_ref().unwrap_or(&empty), &now);
                poller.believed(!services.is_empty());
                feed.set_services(
                    &name,
                    now.services
                        .values()
                        .map(|one| ServiceName::from(&*one.service))
                        .collect(),
                );
                feed.report(services, &BTreeSet::new(), poller.seen_at());
                known = Some(now);
                feed.set_responded(&path, true);
            }
            Ok(None) => feed.set_responded(&path, known.is_some()),
            Err(error) => {
                feed.set_responded(&path, false);
                poller.failed(&error).await;
            }
        }
    }
}

/// Services with an instance that differs; all of them if the node itself does, which lends them
/// its address.
fn changed(before: &NodeServices, now: &NodeServices) -> BTreeSet<ServiceName> {
    let same_node = before.node == now.node;
    let differing = |one: &NodeServices, other: &NodeServices| -> Vec<ServiceName> {
        let differs = |(id, service): &(&String, &Service)| {
            !same_node || other.services.get(*id) != Some(*service)
        };
        one.services
            .iter()
            .filter(differs)
            .map(|(_, service)| ServiceName::from(&*service.service))
            .collect()
    };
    differing(before, now)
        .into_iter()
        .chain(differing(now, before))
        .collect()
}

fn path(node: &str) -> String {
    format!("/v1/catalog/node/{}", utf8_percent_encode(node, SEGMENT))
}

fn decode_list(body: &[u8]) -> Result<BTreeSet<String>, serde_json::Error> {
    let nodes: Option<Vec<ListedNode>> = serde_json::from_slice(body)?;
    Ok(nodes
        .unwrap_or_default()
        .into_iter()
        .map(|node| node.node)
        .filter(|name| !name.is_empty())
        .collect())
}

/// A node that does not exist is `null`, and has no services.
fn decode(body: &[u8]) -> Result<NodeServices, serde_json::Error> {
    serde_json::from_slice::<Option<NodeServices>>(body).map(Option::unwrap_or_default)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(version: u64, services: &[(&str, &str, u64)]) -> NodeServices {
        let services: Vec<_> = services
            .iter()
            .map(|(id, name, index)| {
                format!(
                    r#""{id}":{{"ID":"{id}","Service":"{name}","Tags":null,"ModifyIndex":{index}}}"#
                )
            })
            .collect();
        let text = format!(
            r#"{{"Node":{{"Node":"n","ModifyIndex":{version}}},"Services":{{{}}}}}"#,
            services.join(",")
        );
        decode(text.as_bytes()).unwrap()
    }

    #[test]
    fn instances_that_differ_name_their_services() {
        let before = node(1, &[("a", "web", 5), ("b", "api", 6), ("c", "db", 7)]);
        let cases: [(NodeServices, &[&str]); 7] = [
            (
                node(1, &[("a", "web", 5), ("b", "api", 6), ("c", "db", 7)]),
                &[],
            ),
            (
                node(1, &[("a", "web", 9), ("b", "api", 6), ("c", "db", 7)]),
                &["web"],
            ),
            (node(1, &[("a", "web", 5), ("c", "db", 7)]), &["api"]),
            (
                node(
                    1,
                    &[
                        ("a", "web", 5),
                        ("b", "api", 6),
                        ("c", "db", 7),
                        ("d", "new", 8),
                    ],
                ),
                &["new"],
            ),
            (
                node(1, &[("a", "web2", 8), ("b", "api", 6), ("c", "db", 7)]),
                &["web", "web2"],
            ),
            (
                node(2, &[("a", "web", 5), ("b", "api", 6), ("c", "db", 7)]),
                &["api", "db", "web"],
            ),
            (decode(b"null").unwrap(), &["api", "db", "web"]),
        ];
        for (now, names) in cases {
            assert_eq!(
                changed(&before, &now)
                    .iter()
                    .map(|name| &**name)
                    .collect::<Vec<_>>(),
                names,
                "{now:?}"
            );
        }
    }

    #[test]
    fn names_of_nodes_are_encoded_and_lists_may_be_null() {
        assert_eq!(path("a/b c"), "/v1/catalog/node/a%2Fb%20c");
        assert!(decode_list(b"null").unwrap().is_empty());
        assert_eq!(
            decode_list(br#"[{"Node":"n1","ModifyIndex":1},{"Node":null}]"#).unwrap(),
            ["n1".to_owned()].into()
        );
    }
}
