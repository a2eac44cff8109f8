//! What a command does in front of another one that was begun and is not over: it goes on and says
//! so, or it is refused, because the two would cut each other in pieces.

use anyhow::{Result, bail};

use super::terminal::say;
use crate::bootstrap::state::{OperationKind, State};
use crate::cli::BootstrapAction;

/// What one that is not over means to a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    /// Nothing, or the command sees to it itself.
    None,
    /// It goes on, and says so.
    Told,
    /// It is refused.
    InTheWay,
}

/// Holds the command against all that is under way.
///
/// # Errors
/// What has to be finished first; nothing was changed then.
pub(super) fn check(action: &BootstrapAction, state: &State) -> Result<()> {
    for operation in state.operations()? {
        match meaning(action, operation.kind) {
            Meaning::None => {}
            Meaning::Told => say(&format!("note: {}", operation.told())),
            Meaning::InTheWay => bail!("nothing was changed: {}", operation.told_first()),
        }
    }
    Ok(())
}

fn meaning(action: &BootstrapAction, under_way: OperationKind) -> Meaning {
    use BootstrapAction as Action;
    use OperationKind as Kind;
    match (action, under_way) {
        // They change nothing and show it themselves, or end all of it.
        (
            Action::Plan
            | Action::Status
            | Action::Doctor
            | Action::Env
            | Action::Scrape
            | Action::Down(_),
            _,
        ) => Meaning::None,
        // The same goes on; which node, or whether with a new CA, each looks at itself.
        (Action::Restore(_), Kind::Restore)
        | (Action::RotateCerts(_), Kind::RotateCerts)
        | (Action::RotateGossip, Kind::RotateGossip)
        | (Action::RotateTokens, Kind::RotateTokens)
        | (Action::Acl(_), Kind::AclEnable)
        | (Action::ReplaceNode(_), Kind::ReplaceNode)
        | (Action::RemoveNode(_), Kind::RemoveNode)
        | (Action::Reboot(_), Kind::Reboot) => Meaning::None,
        // Data is yet to come: what is done without it would be lost, and a backup would be of
        // nothing.
        (_, Kind::Restore) => Meaning::InTheWay,
        // Each hands something to all nodes, step by step, and goes by what nodes have by then.
        (Action::RotateCerts(_), Kind::AclEnable | Kind::RotateTokens)
        | (Action::RotateTokens, Kind::AclEnable | Kind::RotateCerts)
        | (Action::Acl(_), Kind::RotateCerts | Kind::RotateTokens) => Meaning::InTheWay,
        _ => Meaning::Told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::state::Restoring;
    use crate::bootstrap::state::tests::full;
    use crate::cli::{Action, parse};

    /// Every command, with what it says of each kind in the order of [`OperationKind::ALL`]: `.`
    /// nothing, `t` told, `x` refused.
    const TABLE: &[(&str, &str)] = &[
        //                          certs gossip replace remove reboot acl tokens restore
        ("up", "tttttttx"),
        ("plan", "........"),
        ("status", "........"),
        ("doctor", "........"),
        ("env", "........"),
        ("scrape", "........"),
        ("rotate-certs", ".ttttxxx"),
        ("rotate-certs --ca", ".ttttxxx"),
        ("rotate-gossip", "t.tttttx"),
        ("rotate-tokens", "xttttx.x"),
        ("acl enable", "xtttt.xx"),
        ("replace-node a", "tt.ttttx"),
        ("remove-node a", "ttt.tttx"),
        ("reboot", "tttt.ttx"),
        ("upgrade", "tttttttx"),
        ("backup --to b", "tttttttx"),
        ("restore b", "ttttttt."),
        ("down", "........"),
    ];

    fn action(words: &str) -> BootstrapAction {
        let line = ["lb", "bootstrap"].into_iter().chain(words.split(' '));
        match parse(line.map(Into::into)).unwrap().command {
            Action::Bootstrap(args) => args.action(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_command_knows_what_every_kind_means_to_it() {
        for (words, expected) in TABLE {
            let action = action(words);
            let found: String = OperationKind::ALL
                .iter()
                .map(|&kind| match meaning(&action, kind) {
                    Meaning::None => '.',
                    Meaning::Told => 't',
                    Meaning::InTheWay => 'x',
                })
                .collect();
            assert_eq!(&found, expected, "{words}");
        }
    }

    #[test]
    fn a_refusal_names_what_has_to_be_finished() {
        let (_folder, mut state, _) = full();
        let restoring = Restoring::new("b".into(), "/b".into(), std::time::UNIX_EPOCH);
        state.save_restoring(&restoring).unwrap();
        assert!(check(&action("status"), &state).is_ok());
        let refused = check(&action("backup --to c"), &state).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "nothing was changed: `restore /b` is not over: run it again first, it goes on from where it was interrupted"
        );
    }
}
