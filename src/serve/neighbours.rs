//! Other processes that listen on the same addresses: told once when they come and when they go,
//! and shown as a gauge.
//!
//! One that was started to take over is meant to be there for a moment. One that stays takes a part
//! of the connections for good, and neither its routes nor its metrics are those of this process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use super::workers::{Open, Workers};
use crate::metrics::Metrics;
use crate::proxy::sharing::{self, Holder};

/// What was seen of them.
#[derive(Debug)]
pub(super) struct Neighbours {
    /// Listeners of the control thread.
    beside: Vec<Open>,
    metrics: Metrics,
    /// Sockets of other processes at each address, as told last.
    told: Mutex<BTreeMap<SocketAddr, Vec<u64>>>,
}

impl Neighbours {
    /// None was seen yet. `beside`: listeners of the control thread, where each is, and by which
    /// number the kernel knows it.
    pub(super) fn new(
        beside: Vec<(&'static str, SocketAddr, Option<u64>)>,
        metrics: Metrics,
    ) -> Self {
        let open = |(protocol, address, inode): (_, _, Option<u64>)| Open {
            protocol,
            address,
            inodes: inode.into_iter().collect(),
        };
        Self {
            beside: beside.into_iter().map(open).collect(),
            metrics,
            told: Mutex::default(),
        }
    }

    /// Looks at all open listeners. Reads two small tables of the kernel.
    pub(super) fn look(&self, workers: &Workers) {
        let mut open = workers.open_listeners();
        open.extend_from_slice(&self.beside);
        // Read before our own sockets are listed: one that is opened in between must not look like
        // another's.
        let listening = sharing::listening();
        let mut own = workers.inodes(&listening);
        own.extend(self.beside.iter().flat_map(|it| &it.inodes));
        let shared: BTreeMap<SocketAddr, Vec<u64>> = open
            .iter()
            .map(|it| (it.address, sharing::others(it.address, &own, &listening)))
            .collect();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for Open {
            protocol, address, ..
        } in &open
        {
            let now = &shared[address];
            let before = told.get(address).map(Vec::as_slice).unwrap_or_default();
            if now.iter().any(|inode| !before.contains(inode)) {
                let by: Holder = sharing::holder(now);
                tracing::warn!(target: "lb::serve", listener = protocol, %address, %by, "another process listens on the same address: connections go to both until one of them stops");
            } else if now.is_empty() && !before.is_empty() {
                tracing::info!(target: "lb::serve", listener = protocol, %address, "no other process listens on the same address any more");
            }
        }
        let gauge = shared
            .iter()
            .map(|(address, others)| (address.to_string(), !others.is_empty()));
        self.metrics.control().listener_shared = gauge.collect();
        *told = shared;
    }
}
