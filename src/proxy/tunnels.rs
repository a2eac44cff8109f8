//! Open byte tunnels (TCP sessions and upgraded connections) of one worker, and the rule that ends
//! them when their instance leaves the table.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use tokio::sync::Notify;

use crate::table::TargetState;

/// All tunnels of a worker. Looked over by the worker's once-a-second tick, so that a tunnel costs
/// no timer.
#[derive(Debug, Default)]
pub struct Tunnels {
    open: RefCell<HashMap<u64, Entry>>,
    entered: Cell<u64>,
}

#[derive(Debug)]
struct Entry {
    target: Arc<TargetState>,
    cut: Rc<Notify>,
    retired_since_ms: Option<u64>,
}

/// Membership of one tunnel; ends with the tunnel.
#[derive(Debug)]
pub struct TunnelGuard {
    tunnels: Rc<Tunnels>,
    number: u64,
    cut: Rc<Notify>,
}

impl Tunnels {
    /// Enters a tunnel to `target`.
    #[must_use]
    pub fn enter(self: &Rc<Self>, target: Arc<TargetState>) -> TunnelGuard {
        target.tunnels.fetch_add(1, Relaxed);
        let cut = Rc::new(Notify::new());
        let number = self.entered.get();
        self.entered.set(number + 1);
        self.open.borrow_mut().insert(
            number,
            Entry {
                target,
                cut: Rc::clone(&cut),
                retired_since_ms: None,
            },
        );
        TunnelGuard {
            tunnels: Rc::clone(self),
            number,
            cut,
        }
    }

    /// Cuts tunnels whose instance left the table at least `grace_ms` ago; 0 keeps them.
    pub fn cut_retired(&self, now_ms: u64, grace_ms: u64) {
        if grace_ms == 0 {
            return;
        }
        for entry in self
            .open
            .borrow_mut()
            .values_mut()
            .filter(|entry| entry.target.retired.load(Relaxed))
        {
            let since = *entry.retired_since_ms.get_or_insert(now_ms);
            if now_ms.saturating_sub(since) >= grace_ms {
                entry.cut.notify_one();
            }
        }
    }

    /// Number of open tunnels.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.borrow().len()
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl TunnelGuard {
    /// Completes when the tunnel must end. Cancel safe.
    pub async fn cut(&self) {
        self.cut.notified().await;
    }
}

impl Drop for TunnelGuard {
    fn drop(&mut self) {
        if let Some(entry) = self.tunnels.open.borrow_mut().remove(&self.number) {
            entry.target.tunnels.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::InstanceId;

    fn target() -> Arc<TargetState> {
        let id = InstanceId {
            node: "n".into(),
            id: "a".into(),
        };
        Arc::new(TargetState::new(
            1,
            id,
            "127.0.0.1:1".parse().expect("address"),
            0,
        ))
    }

    fn is_cut(guard: &TunnelGuard) -> bool {
        let mut cut = Box::pin(guard.cut());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        cut.as_mut().poll(&mut context).is_ready()
    }

    #[test]
    fn a_tunnel_is_cut_only_when_its_instance_has_been_gone_for_the_grace() {
        let tunnels = Rc::new(Tunnels::default());
        let (gone, stays) = (target(), target());
        let (cut, kept) = (tunnels.enter(Arc::clone(&gone)), tunnels.enter(stays));
        tunnels.cut_retired(1_000, 5_000);
        gone.retired.store(true, Relaxed);
        tunnels.cut_retired(2_000, 5_000);
        tunnels.cut_retired(6_999, 5_000);
        assert!(!is_cut(&cut));
        tunnels.cut_retired(7_000, 5_000);
        assert!(is_cut(&cut));
        assert!(!is_cut(&kept));
        drop(cut);
        assert_eq!(tunnels.len(), 1);
    }

    #[test]
    fn a_grace_of_zero_keeps_tunnels_for_good() {
        let tunnels = Rc::new(Tunnels::default());
        let gone = target();
        let guard = tunnels.enter(Arc::clone(&gone));
        gone.retired.store(true, Relaxed);
        tunnels.cut_retired(1, 0);
        tunnels.cut_retired(u64::MAX, 0);
        assert!(!is_cut(&guard));
    }
}
