//! The states of instances, carried from table to table by identity (id and address).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::TargetState;
use crate::catalog::InstanceId;

/// One state per instance that something refers to.
#[derive(Debug, Default)]
pub(super) struct States {
    by_instance: HashMap<(InstanceId, SocketAddr), Slot, foldhash::fast::FixedState>,
    last_key: u64,
    /// Gone, but still in the table that is live.
    leaving: Vec<Arc<TargetState>>,
}

#[derive(Debug)]
struct Slot {
    state: Arc<TargetState>,
    uses: usize,
}

impl States {
    /// The state of an instance, made at first use; each call wants one [`release`](Self::release).
    pub(super) fn acquire(
        &mut self,
        id: &InstanceId,
        addr: SocketAddr,
        since_ms: u64,
    ) -> Arc<TargetState> {
        let slot = self
            .by_instance
            .entry((id.clone(), addr))
            .or_insert_with(|| {
                self.last_key += 1;
                Slot {
                    state: Arc::new(TargetState::new(self.last_key, id.clone(), addr, since_ms)),
                    uses: 0,
                }
            });
        slot.uses += 1;
        Arc::clone(&slot.state)
    }

    /// Gives one use back. After the last one the instance is new when it comes again.
    pub(super) fn release(&mut self, state: &Arc<TargetState>) {
        let key = (state.id.clone(), state.addr);
        let Some(slot) = self.by_instance.get_mut(&key) else {
            return;
        };
        slot.uses -= 1;
        if slot.uses == 0 {
            self.by_instance.remove(&key);
            self.leaving.push(Arc::clone(state));
        }
    }

    /// The state of an instance that is in use.
    pub(super) fn get(&self, id: &InstanceId, addr: SocketAddr) -> Option<&Arc<TargetState>> {
        self.by_instance
            .get(&(id.clone(), addr))
            .map(|slot| &slot.state)
    }

    /// Marks those retired that were released for good.
    pub(super) fn retire(&mut self) {
        for state in self.leaving.drain(..) {
            state.retire();
        }
    }
}
