//! Targets for tests of what picks and judges them.

use std::sync::Arc;

use super::{Target, TargetState, Targets};
use crate::catalog::InstanceId;
use crate::metrics::ServiceMetrics;

/// Targets of one service with these shares of its traffic, without options; keys and ports count
/// from 1.
pub(super) fn targets(shares: &[f64]) -> Targets {
    let service = Arc::new(ServiceMetrics::new("s".into()));
    let target = |(n, share): (u16, &f64)| Target {
        state: Arc::new(TargetState::new(
            u64::from(n) + 1,
            InstanceId {
                node: "n".into(),
                id: format!("i{n}").into(),
            },
            ([127, 0, 0, 1], n + 1).into(),
            0,
        )),
        options: Arc::default(),
        service: Arc::clone(&service),
        observer: None,
        query: None,
        share: *share,
        fixed: None,
        tags: Arc::default(),
        url: None,
    };
    (0..).zip(shares).map(target).collect()
}

/// `count` targets with equal shares.
pub(super) fn equal_targets(count: u16) -> Targets {
    targets(&vec![1.0 / f64::from(count); usize::from(count)])
}
