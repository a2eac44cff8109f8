//! Operations that are under way: noted before their first step, shown until their last, and taken
//! up by the command that began them.
//!
//! Rotations, the switching on of ACLs and a restore keep their own files, which say how far they are;
//! here they are listed with the rest.

use std::time::SystemTime;

use anyhow::Result;

use super::records::unix;
use super::{OPERATIONS, Operation, OperationKind, Operations, RotationKind, State};

impl State {
    /// All that is under way.
    ///
    /// # Errors
    /// When a file cannot be read, or a newer `lb` wrote it.
    pub fn operations(&self) -> Result<Vec<Operation>> {
        let mut found = Vec::new();
        let mut add = |kind, command: &str, started_at| {
            found.push(Operation {
                kind,
                command: command.to_owned(),
                nodes: Vec::new(),
                done: Vec::new(),
                drained: None,
                started_at,
            });
        };
        if let Some(restoring) = self.restoring()? {
            let command = format!("restore {}", restoring.folder.display());
            add(OperationKind::Restore, &command, restoring.started_at);
        }
        if let Some(rotation) = self.rotation()? {
            let command = match rotation.kind {
                RotationKind::Leaves => "rotate-certs",
                RotationKind::Authority => "rotate-certs --ca",
            };
            add(OperationKind::RotateCerts, command, rotation.started_at);
        }
        let is_changing = self
            .gossip()?
            .is_some_and(|keys| keys.consul.next.is_some() || keys.nomad.next.is_some());
        if is_changing {
            add(OperationKind::RotateGossip, "rotate-gossip", 0);
        }
        if self.acl_change()?.is_some() {
            add(OperationKind::AclEnable, "acl enable", 0);
        }
        if self.tokens()?.is_rotating() {
            add(OperationKind::RotateTokens, "rotate-tokens", 0);
        }
        let noted: Option<Operations> = self.record(OPERATIONS)?;
        found.extend(noted.unwrap_or_default().operations);
        Ok(found)
    }

    /// The operation of this kind about this node, or about whatever nodes it was begun with.
    ///
    /// # Errors
    /// As [`State::operations`].
    pub fn operation(&self, kind: OperationKind, node: Option<&str>) -> Result<Option<Operation>> {
        let is_it = |operation: &Operation| is_about(operation, kind, node);
        Ok(self.operations()?.into_iter().find(is_it))
    }

    /// Notes that an operation begins, or goes on. What was begun with the same node before, to
    /// replace it or to remove it, is given up for it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin_operation(
        &mut self,
        kind: OperationKind,
        command: String,
        nodes: Vec<String>,
        now: SystemTime,
    ) -> Result<Operation> {
        let node = nodes.first().map(String::as_str);
        if let Some(found) = self.operation(kind, node)? {
            return Ok(found);
        }
        let operation = Operation {
            kind,
            command,
            nodes,
            done: Vec::new(),
            drained: None,
            started_at: unix(now),
        };
        let mut noted: Operations = self.record(OPERATIONS)?.unwrap_or_default();
        noted
            .operations
            .retain(|other| !gives_way(other, &operation));
        noted.operations.push(operation.clone());
        self.save_operations(&noted)?;
        Ok(operation)
    }

    /// Notes how far an operation is.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_operation(&mut self, operation: &Operation) -> Result<()> {
        let mut noted: Operations = self.record(OPERATIONS)?.unwrap_or_default();
        let node = operation.nodes.first().map(String::as_str);
        for other in &mut noted.operations {
            if is_about(other, operation.kind, node) {
                other.clone_from(operation);
            }
        }
        self.save_operations(&noted)
    }

    /// Notes that an operation is over.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end_operation(&mut self, operation: &Operation) -> Result<()> {
        let mut noted: Operations = self.record(OPERATIONS)?.unwrap_or_default();
        let node = operation.nodes.first().map(String::as_str);
        noted
            .operations
            .retain(|other| !is_about(other, operation.kind, node));
        self.save_operations(&noted)
    }

    fn save_operations(&mut self, operations: &Operations) -> Result<()> {
        if operations.operations.is_empty() {
            return self.folder.remove(OPERATIONS);
        }
        self.save(OPERATIONS, operations)
    }
}

fn is_about(operation: &Operation, kind: OperationKind, node: Option<&str>) -> bool {
    let is_whole = kind == OperationKind::Reboot;
    operation.kind == kind && (is_whole || operation.nodes.first().map(String::as_str) == node)
}

/// Whether one that is under way has no end of its own once the other has begun.
fn gives_way(under_way: &Operation, begun: &Operation) -> bool {
    let is_of_one = |operation: &Operation| {
        matches!(
            operation.kind,
            OperationKind::ReplaceNode | OperationKind::RemoveNode
        )
    };
    is_of_one(under_way) && is_of_one(begun) && under_way.nodes == begun.nodes
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::bootstrap::security::secrets::Secret;
    use crate::bootstrap::state::{
        AclChange, AclStep, GossipKeys, GossipStep, NextKey, Restoring, Retired, Token, Tokens,
        tests::full,
    };
    use crate::bootstrap::topology::Product;

    fn shown(state: &State) -> Vec<String> {
        let all = state.operations().unwrap();
        all.into_iter().map(|one| one.command).collect()
    }

    /// Leaves an operation of this kind half done, as a run would that was killed; the command that
    /// goes on with it.
    fn begin(state: &mut State, kind: OperationKind) -> String {
        let at = UNIX_EPOCH;
        match kind {
            OperationKind::RotateCerts => {
                state.begin_leaf_rotation(at).unwrap();
                "rotate-certs".to_owned()
            }
            OperationKind::RotateGossip => {
                let mut keys = state.gossip().unwrap().unwrap();
                keys.nomad.next = Some(NextKey {
                    key: GossipKeys::key().unwrap(),
                    step: GossipStep::Install,
                });
                state.save_gossip(&keys).unwrap();
                "rotate-gossip".to_owned()
            }
            OperationKind::AclEnable => {
                let step = AclStep::Close;
                state.save_acl_change(Some(AclChange { step })).unwrap();
                "acl enable".to_owned()
            }
            OperationKind::RotateTokens => {
                let next_consul_management = Some(Token {
                    accessor: "a".to_owned(),
                    secret: Secret::new("s"),
                });
                let tokens = Tokens {
                    next_consul_management,
                    ..Tokens::default()
                };
                state.save_tokens(&tokens).unwrap();
                "rotate-tokens".to_owned()
            }
            OperationKind::Restore => {
                let restoring = Restoring::new("b".into(), "/backups".into(), at);
                state.save_restoring(&restoring).unwrap();
                "restore /backups".to_owned()
            }
            OperationKind::ReplaceNode | OperationKind::RemoveNode | OperationKind::Reboot => {
                let command = format!("{kind:?} a");
                let nodes = vec!["a".to_owned()];
                let begun = state.begin_operation(kind, command, nodes, at);
                begun.unwrap().command
            }
        }
    }

    #[test]
    fn every_kind_is_listed_with_the_command_that_goes_on() {
        for kind in OperationKind::ALL {
            let (_folder, mut state, _) = full();
            let command = begin(&mut state, kind);
            let listed = state.operations().unwrap();
            assert_eq!(listed.len(), 1, "{kind:?}");
            assert_eq!((listed[0].kind, &listed[0].command), (kind, &command));
            assert!(
                listed[0]
                    .told()
                    .starts_with(&format!("`{command}` is not over"))
            );
            assert_eq!(
                state
                    .operation(kind, listed[0].nodes.first().map(|node| &**node))
                    .unwrap(),
                Some(listed[0].clone())
            );
        }
        // What was replaced and not yet taken back is a rotation that is not over, too.
        let mut tokens = Tokens::default();
        assert!(!tokens.is_rotating());
        tokens.retired.push(Retired {
            name: "lb".to_owned(),
            product: Product::Consul,
            token: Token {
                accessor: String::new(),
                secret: Secret::new("s"),
            },
        });
        assert!(tokens.is_rotating());
    }

    #[test]
    fn what_is_under_way_is_listed_until_it_is_over() {
        let (_folder, mut state, _) = full();
        assert!(shown(&state).is_empty());
        let begin = |state: &mut State, kind, command: &str, node: &str| {
            let nodes = vec![node.to_owned()];
            let begun = state.begin_operation(kind, command.to_owned(), nodes, UNIX_EPOCH);
            begun.unwrap()
        };
        use OperationKind::{Reboot, RemoveNode, ReplaceNode};
        let replace = begin(&mut state, ReplaceNode, "replace-node a", "a");
        begin(&mut state, ReplaceNode, "replace-node b", "b");
        // Begun again, it goes on.
        assert_eq!(begin(&mut state, ReplaceNode, "again", "a"), replace);
        assert_eq!(shown(&state), ["replace-node a", "replace-node b"]);
        let remove = begin(&mut state, RemoveNode, "remove-node a", "a");
        assert_eq!(shown(&state), ["replace-node b", "remove-node a"]);
        let mut reboot = begin(&mut state, Reboot, "reboot", "a");
        reboot.done = vec!["a".to_owned()];
        state.save_operation(&reboot).unwrap();
        assert_eq!(state.operation(Reboot, None).unwrap(), Some(reboot.clone()));
        // Rotations are shown with the rest.
        state.begin_leaf_rotation(UNIX_EPOCH).unwrap();
        let mut keys = state.gossip().unwrap().unwrap();
        keys.nomad.next = Some(NextKey {
            key: GossipKeys::key().unwrap(),
            step: GossipStep::Install,
        });
        state.save_gossip(&keys).unwrap();
        assert_eq!(
            shown(&state),
            [
                "rotate-certs",
                "rotate-gossip",
                "replace-node b",
                "remove-node a",
                "reboot"
            ]
        );
        state.end_operation(&remove).unwrap();
        state.end_operation(&reboot).unwrap();
        let left = state.operation(ReplaceNode, Some("b")).unwrap().unwrap();
        assert!(left.told().contains("`replace-node b` is not over"));
        state.end_operation(&left).unwrap();
        assert!(!state.path(OPERATIONS).exists());
    }
}
