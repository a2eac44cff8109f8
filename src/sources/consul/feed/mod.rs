//! Tells which services changed, while there are too few connections for a blocking query per
//! service.
//!
//! ```text
//! list of services (list.rs)                 names, and the tags of all instances together
//! /v1/health/state/critical and /warning     checks that left or reached `passing`; of nodes too
//! /v1/catalog/nodes                          which nodes there are
//! /v1/catalog/node/NAME, one per node        instances that came, went or changed, by their ModifyIndex
//!         └──────────────▶ notices ──▶ watch.rs: one plain read of each service that was named
//! ```
//! All of these are blocking queries, so a change is seen at once, and it costs the agent one small
//! response and one read. Nodes beyond those that have a connection of their own are read when the
//! list of services was woken, which it is by every change of an instance.
//!
//! What is not reported: a check that is added and passes at once, or passes and is removed. It
//! decides only where instances have to have a check, or where one that passes is enough; services
//! are read every 30 s in any case, every 10 s there, and every 5 s while one of these watches fails.

mod checks;
mod known;
mod nodes;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::interval;
use tracing::info;

use known::Feed;

use super::shared::Shared;
use crate::sources::task::SourceTask;

/// Watches that block beside those of nodes: services, nodes, two states, route commands and the
/// no-route page.
const FIXED: usize = 6;
/// Slots that are kept for reads of services: at least these, and at least a quarter.
const READS_MIN: usize = 2;
/// How often the room is looked at: the division of the slots follows what the agent grants.
const ROOM_EVERY: Duration = Duration::from_secs(1);

/// Runs the feed while room is scarce, until aborted.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut scarce = shared.client.scarce();
    while scarce.wait_for(|scarce| *scarce).await.is_ok() {
        let slots = shared.client.slots();
        info!(
            connections = slots,
            "Consul: services are read when they change, as they are more than connections"
        );
        let feed = start(shared.clone(), slots);
        let mut look = interval(ROOM_EVERY);
        loop {
            tokio::select! {
                _ = scarce.wait_for(|scarce| !*scarce) => break,
                _ = look.tick() => {}
            }
            let now = shared.client.slots();
            if now < slots || now / 2 >= slots {
                break;
            }
        }
        drop(feed);
        shared.set_complete(false);
    }
}

/// Starts the watches; they end with what is returned.
fn start(shared: Arc<Shared>, slots: usize) -> Vec<SourceTask> {
    let node_room = slots.saturating_sub(FIXED + READS_MIN.max(slots / 4));
    let feed = Arc::new(Feed::new(shared, node_room));
    // Known from the start, so that the feed is not complete before the last of them has its first
    // response.
    [checks::CRITICAL, checks::WARNING, nodes::LIST]
        .iter()
        .for_each(|path| feed.set_responded(path, false));
    vec![
        SourceTask::spawn(checks::run(feed.clone(), checks::CRITICAL)),
        SourceTask::spawn(checks::run(feed.clone(), checks::WARNING)),
        SourceTask::spawn(nodes::run(feed)),
    ]
}
