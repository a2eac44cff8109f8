//! Nodes that drop out while they are worked on: a machine that no longer responds, or, on the
//! local target, an agent that ran before and cannot be started. The run goes on without them.

use anyhow::Result;

use super::look::silence;
use super::many::fail_together;
use super::work::Work;
use crate::bootstrap::context::Context;
use crate::bootstrap::of_node::without_node;
use crate::bootstrap::topology::Node;

/// Why the node has dropped out; None: the error is another one.
pub(super) fn why(context: &Context, node: &Node, error: &anyhow::Error) -> Option<String> {
    silence(&node.name, error).or_else(|| {
        let text = format!("{error:#}");
        let cannot_start = context.cluster.is_local() && context.is_known(node);
        let why = without_node(&text, &node.name).unwrap_or(&text);
        cannot_start.then(|| format!("cannot be started: {why}"))
    })
}

/// Leaves the nodes out that dropped out, and takes their work off the list. What the others came
/// to. Where all of several drop out on this machine, it is the fault of none of them.
///
/// # Errors
/// All other failures together.
pub(super) fn sort_out<T>(
    context: &mut Context,
    works: &mut Vec<Work>,
    results: Vec<(Node, Result<T>)>,
) -> Result<Vec<T>> {
    let all_fail = results.len() > 1
        && context.cluster.is_local()
        && results.iter().all(|(_, result)| result.is_err());
    let (mut good, mut bad) = (Vec::with_capacity(results.len()), Vec::new());
    for (node, result) in results {
        match result {
            Ok(result) => good.push(result),
            Err(error) => match why(context, &node, &error).filter(|_| !all_fail) {
                Some(why) => context.leave_out(&node.name, &why),
                None => bad.push(error),
            },
        }
    }
    fail_together(bad)?;
    works.retain(|work| context.is_worked_on(&work.node));
    Ok(good)
}
