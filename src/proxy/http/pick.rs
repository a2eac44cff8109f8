//! Which instance a request goes to: the strategy of its route, and the two reasons to take another
//! one than that says.

use std::sync::Arc;

use crate::catalog::options::{Proto, Strategy};
use crate::proxy::worker::Worker;
use crate::table::balancer::PickContext;
use crate::table::{Route, Target};

/// A target for a request, picked by the route's strategy. `doublable`: it may be sent to an
/// instance of which it is not known whether it responds.
pub(crate) fn pick<'r>(
    worker: &Worker,
    route: &'r Arc<Route>,
    context: PickContext<'_>,
    doublable: bool,
) -> Option<&'r Target> {
    let picked = worker.picker.borrow_mut().pick(route, context)?;
    if picked.options.proto == Proto::Tcp {
        return pick_for_requests(worker, route, context);
    }
    if worker.probe.wanted() != 0 && doublable && context.tried.is_empty() {
        return Some(or_probe(worker, route, picked, context.now_ms));
    }
    Some(picked)
}

/// Where instances of HTTP and of TCP share a place, as while a tag changes: none of the latter
/// gets a request.
#[cold]
fn pick_for_requests<'r>(
    worker: &Worker,
    route: &'r Arc<Route>,
    context: PickContext<'_>,
) -> Option<&'r Target> {
    let takes_bytes = |target: &&Target| target.options.proto == Proto::Tcp;
    let mut tried = context.tried.to_vec();
    tried.extend(
        route
            .targets
            .iter()
            .filter(takes_bytes)
            .map(|target| target.state.key),
    );
    let picked = worker.picker.borrow_mut().pick(
        route,
        PickContext {
            tried: &tried,
            ..context
        },
    )?;
    (picked.options.proto != Proto::Tcp).then_some(picked)
}

/// The instance of which it is to be found out whether it responds, if that is one of the route's;
/// else `picked`.
fn or_probe<'r>(
    worker: &Worker,
    route: &'r Arc<Route>,
    picked: &'r Target,
    now_ms: u64,
) -> &'r Target {
    let wanted = worker.probe.wanted();
    let fits = |target: &Target| {
        target.state.key == wanted
            && target.share > 0.0
            && target.state.is_open(now_ms)
            && Arc::ptr_eq(&target.options, &picked.options)
    };
    let found = match &route.strategy {
        // Its keys go where they go.
        Strategy::Hash(_) => Some(picked).filter(|picked| fits(picked)),
        _ => route.targets.iter().find(|target| fits(target)),
    };
    found
        .filter(|target| worker.probe.take(&target.state, now_ms))
        .unwrap_or(picked)
}
