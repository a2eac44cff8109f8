//! Puts addresses in the place of names. Pure.
//!
//! An instance behind a name becomes one instance per address; its id gets `#ADDRESS` behind it,
//! also while there is only one, so that it stays the same instance when a second one appears. A
//! route command becomes one per address or SRV record. Where the command has a fixed weight, or
//! SRV weights differ, each of them gets its part of that weight (of 1 when the command has none),
//! so that all together count as much as the command says.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::names::Names;
use crate::catalog::command::CommandError;
use crate::catalog::command::{AddRoute, Command};
use crate::catalog::command_list::CommandList;
use crate::catalog::{Endpoint, Instance, InstanceId, ServiceSnapshot};
use crate::sources::dns::{Found, Question};

/// What a slot holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    Service(Arc<ServiceSnapshot>),
    Commands(CommandList, Arc<[CommandError]>),
}

/// What an SRV weight of 0 counts as: little, but above nothing (RFC 2782: "a very small chance").
const ZERO_WEIGHT: f64 = 0.01;

/// The names in `content`.
pub(super) fn questions(content: &Content) -> BTreeSet<Question> {
    match content {
        Content::Service(snapshot) => snapshot
            .instances
            .iter()
            .filter_map(|instance| question(&instance.endpoint, false))
            .collect(),
        Content::Commands(commands, _) => commands
            .iter()
            .filter_map(|command| command_question(command))
            .collect(),
    }
}

/// `content` with the addresses that are believed now; what has none keeps its place as
/// [`Endpoint::Unresolved`].
pub(super) fn expand(content: &Content, names: &Names) -> Content {
    match content {
        Content::Service(snapshot) => {
            let mut instances: Vec<Instance> = snapshot
                .instances
                .iter()
                .flat_map(|instance| expand_instance(instance, names))
                .collect();
            instances.sort_by(|a, b| a.id.cmp(&b.id));
            Content::Service(Arc::new(ServiceSnapshot {
                instances,
                ..ServiceSnapshot::clone(snapshot)
            }))
        }
        Content::Commands(commands, errors) => {
            let commands = commands
                .iter()
                .flat_map(|command| expand_command(command, names))
                .collect();
            Content::Commands(commands, Arc::clone(errors))
        }
    }
}

fn question(endpoint: &Endpoint, srv: bool) -> Option<Question> {
    match endpoint {
        Endpoint::Addr(_) | Endpoint::Unresolved { .. } => None,
        Endpoint::Name { host, .. } => Some(Question {
            name: Arc::clone(host),
            srv,
        }),
    }
}

fn command_question(command: &Command) -> Option<Question> {
    if let Command::Add(add) = command {
        question(&add.endpoint, add.srv)
    } else {
        None
    }
}

fn expand_instance(instance: &Instance, names: &Names) -> Vec<Instance> {
    let (Endpoint::Name { port, .. }, Some(question)) =
        (&instance.endpoint, question(&instance.endpoint, false))
    else {
        return vec![instance.clone()];
    };
    let at = |found: &Found| Instance {
        id: InstanceId {
            node: Arc::clone(&instance.id.node),
            id: format!("{}#{}", instance.id.id, found.addr).into(),
        },
        endpoint: Endpoint::Addr(SocketAddr::new(found.addr, *port)),
        ..instance.clone()
    };
    let found = names.found(&question);
    if found.is_empty() {
        return vec![Instance {
            endpoint: unresolved(&question, *port, names),
            ..instance.clone()
        }];
    }
    found.iter().map(at).collect()
}

/// The end of a name without addresses. What has it stays, without traffic: left out, it would hand
/// its place in the table, and its traffic, to a route with a shorter path.
fn unresolved(question: &Question, port: u16, names: &Names) -> Endpoint {
    let host = &question.name;
    let reason = match names.trouble(question) {
        Some(trouble) => format!("name {host} does not resolve: {trouble}"),
        None => format!("name {host} does not resolve: no response yet"),
    };
    Endpoint::Unresolved {
        host: Arc::clone(host),
        port,
        reason: reason.into(),
    }
}

/// What holds no name stays the very same command.
fn expand_command(command: &Arc<Command>, names: &Names) -> SmallVec<[Arc<Command>; 1]> {
    let as_it_is = || smallvec![Arc::clone(command)];
    let Command::Add(add) = &**command else {
        return as_it_is();
    };
    let Endpoint::Name { port, .. } = &add.endpoint else {
        return as_it_is();
    };
    let Some(question) = question(&add.endpoint, add.srv) else {
        return as_it_is();
    };
    let found = names.found(&question);
    if found.is_empty() {
        let own = AddRoute {
            endpoint: unresolved(&question, *port, names),
            ..add.clone()
        };
        return smallvec![Arc::new(Command::Add(own))];
    }
    let weights = weights(add.spec.options.weight, found);
    let at = |(found, weight): (&Found, Option<f64>)| {
        let mut own = AddRoute {
            endpoint: Endpoint::Addr(SocketAddr::new(
                found.addr,
                if add.srv { found.port } else { *port },
            )),
            srv: false,
            ..add.clone()
        };
        own.spec.options.weight = weight;
        Arc::new(Command::Add(own))
    };
    found.iter().zip(weights).map(at).collect()
}

/// The fixed weight of each address.
fn weights(whole: Option<f64>, found: &[Found]) -> Vec<Option<f64>> {
    let equal = found
        .windows(2)
        .all(|pair| pair[0].weight == pair[1].weight);
    if equal && whole.is_none() {
        // Left dynamic: a fixed weight would starve the route's targets that have none.
        return vec![None; found.len()];
    }
    let part = |found: &Found| {
        if equal {
            1.0
        } else {
            f64::from(found.weight).max(ZERO_WEIGHT)
        }
    };
    let sum: f64 = found.iter().map(part).sum();
    found
        .iter()
        .map(|found| Some(whole.unwrap_or(1.0) * part(found) / sum))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(last: u8, weight: u16) -> Found {
        Found {
            target: "t".into(),
            addr: [10, 0, 0, last].into(),
            port: 80,
            weight,
        }
    }

    #[test]
    fn weights_of_parts_add_up_to_the_whole() {
        assert_eq!(weights(None, &[found(1, 1), found(2, 1)]), [None, None]);
        assert_eq!(
            weights(Some(0.5), &[found(1, 0), found(2, 0)]),
            [Some(0.25), Some(0.25)]
        );
        assert_eq!(
            weights(None, &[found(1, 1), found(2, 3)]),
            [Some(0.25), Some(0.75)]
        );
        assert_eq!(
            weights(Some(0.4), &[found(1, 3), found(2, 1)])
                .iter()
                .flatten()
                .sum::<f64>(),
            0.4
        );
        let zero = weights(None, &[found(1, 0), found(2, 10)]);
        assert!(zero[0].is_some_and(|weight| weight > 0.0 && weight < 0.01));
        assert_eq!(weights(Some(0.5), &[]), []);
    }
}
