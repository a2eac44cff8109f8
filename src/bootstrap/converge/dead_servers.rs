//! What a dead server holds up: restarts of the other servers of its product, and a start of all of
//! them. Everything else goes on without it.

use anyhow::{Result, bail};

use super::work::Work;
use crate::bootstrap::cluster::quorum::{majority, stands};
use crate::bootstrap::context::Context;
use crate::bootstrap::nodes::plan::DaemonAction;
use crate::bootstrap::topology::Product;

/// The servers of one product, and what is to be done with them.
struct Servers {
    product: Product,
    /// All that belong to the cluster.
    total: usize,
    /// Those that are left out, and why.
    dead: Vec<(String, String)>,
    /// Whether all of those are named by `--skip`.
    is_skipped: bool,
    /// Whether others are to be restarted.
    restarts: bool,
    /// Whether none of the others runs.
    is_cold: bool,
}

/// Holds what is to be done with the servers of a product against those of them that are dead.
/// `restarts`: others will be restarted, whatever the works say by now.
///
/// # Errors
/// When the others must not be touched while these are away.
pub(super) fn check(
    context: &Context,
    product: Product,
    works: &[Work],
    restarts: bool,
) -> Result<()> {
    let dead: Vec<(String, String)> = context
        .cluster
        .servers(product)
        .filter_map(|node| context.left_out.get_key_value(&node.name))
        .map(|(name, why)| (name.clone(), why.clone()))
        .collect();
    let is_up = |work: &Work| work.plan.daemon(product) != Some(DaemonAction::Start);
    let program_changes = |work: &Work| {
        let mut programs = work.part.binaries.iter();
        programs.any(|binary| binary.name == product.name() && work.plan.writes(&binary.path))
    };
    let is_restarted = |work: &Work| {
        work.plan.daemon(product) == Some(DaemonAction::Restart)
            || (is_up(work) && program_changes(work))
    };
    let servers = Servers {
        product,
        total: context.cluster.servers(product).count(),
        is_skipped: dead.iter().all(|(name, _)| context.skip.contains(name)),
        dead,
        restarts: restarts || works.iter().any(is_restarted),
        is_cold: !works.iter().any(is_up),
    };
    if let Some(why) = servers.held_up() {
        let names: String = servers
            .dead
            .iter()
            .map(|(name, why)| format!("\n  {name}: {why}"))
            .collect();
        bail!(
            "{}, because of this:{names}\n{why}",
            context.told_unchanged()
        );
    }
    Ok(())
}

impl Servers {
    /// Why the others must not be touched; None: they may be.
    fn held_up(&self) -> Option<String> {
        let Self {
            product,
            total,
            dead,
            ..
        } = self;
        if dead.is_empty() || !(self.restarts || self.is_cold) {
            return None;
        }
        let what = if self.restarts {
            format!("other {product} servers would be restarted meanwhile")
        } else {
            format!("the {product} servers would be started without it")
        };
        let serving = total - dead.len();
        let going = usize::from(self.restarts);
        if !stands(*total, serving, going) {
            return Some(format!(
                "{what}, and {} of {total} servers are fewer than the {} that have to be left: bring it back, put another \
                 machine in its place (`lb bootstrap replace-node NAME`), or take it out (`lb bootstrap remove-node NAME \
                 --dead`)",
                serving - going.min(serving),
                majority(*total)
            ));
        }
        (!self.is_skipped).then(|| {
            format!(
                "{what}: bring it back, put another machine in its place (`lb bootstrap replace-node NAME`), take it out \
                 (`lb bootstrap remove-node NAME --dead`), or go on without it (--skip NAME)"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_server_holds_up_restarts_of_its_own_kind_alone() {
        let servers = |total, dead: usize, is_skipped, restarts, is_cold| Servers {
            product: Product::Nomad,
            total,
            dead: (0..dead)
                .map(|index| (format!("n-{index}"), "no connection".to_owned()))
                .collect(),
            is_skipped,
            restarts,
            is_cold,
        };
        for (servers, expected) in [
            (servers(3, 0, true, true, false), ""),
            (servers(3, 1, false, false, false), ""),
            (
                servers(3, 1, false, true, false),
                "1 of 3 servers are fewer than the 2",
            ),
            (
                servers(3, 1, true, true, false),
                "1 of 3 servers are fewer than the 2",
            ),
            (servers(5, 1, false, true, false), "--skip NAME"),
            (servers(5, 1, true, true, false), ""),
            (servers(5, 2, true, true, false), "2 of 5 servers"),
            (servers(3, 1, false, false, true), "started without it"),
            (servers(3, 1, true, false, true), ""),
            (servers(3, 2, true, false, true), "1 of 3 servers"),
        ] {
            match servers.held_up() {
                None => assert_eq!(expected, ""),
                Some(why) => assert!(!expected.is_empty() && why.contains(expected), "{why}"),
            }
        }
    }
}
