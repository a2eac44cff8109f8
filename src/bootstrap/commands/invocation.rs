//! What every command was given, and the context that it opens with it: to change, to read, or to
//! end.

use std::time::Duration;

use anyhow::{Result, bail};

use super::terminal::{is_terminal, say};
use super::under_way;
use crate::bootstrap::changes::Changes;
use crate::bootstrap::context::Context;
use crate::bootstrap::context::access::quoted;
use crate::bootstrap::description::Described;
use crate::bootstrap::exit::{DIFFERS, UsageError};
use crate::bootstrap::progress::Progress;
use crate::bootstrap::state::State;
use crate::bootstrap::state::passphrase::Passphrase;
use crate::bootstrap::topology::{Node, Product, Role, Scope};
use crate::cli::{BootstrapAction, ClusterArgs};

/// What every command was given.
pub(super) struct Invocation {
    /// Which cluster.
    pub(super) described: Described,
    /// The flags that name it, with a space in front.
    pub(super) flags: String,
    /// Where the passphrase of the CA key comes from.
    pub(super) passphrase: Passphrase,
    /// How long each gate may take.
    pub(super) limit: Duration,
    /// Nodes that are to be left out.
    pub(super) skip: Vec<String>,
    /// What is changed on nodes, by whatever this invocation opens.
    pub(super) changes: Changes,
    /// How many clients are restarted at a time.
    pub(super) batch: Option<usize>,
    /// Versions may be further away than the makers support.
    pub(super) force: bool,
    /// What the command line says.
    pub(super) action: BootstrapAction,
}

impl Invocation {
    /// Whether the command is about Nomad too, and no program for it is known.
    pub(super) fn needs_nomad(&self) -> bool {
        let cluster = &self.described.cluster;
        cluster.nomad.is_none()
            && cluster
                .nodes
                .iter()
                .any(|node| node.role != Role::ConsulServer)
    }

    /// Opens the state for writing; makes it if there is none.
    pub(super) fn open_for_change(&self) -> Result<Context> {
        self.open_at(State::create(&self.described.cluster.state)?)
    }

    /// Opens the state of a cluster that was brought up before for writing.
    pub(super) fn open_existing(&self) -> Result<Context> {
        let dir = &self.described.cluster.state;
        match State::open(dir)? {
            Some(state) if state.cluster()?.is_some() => self.open_at(state),
            _ => bail!(no_cluster(dir)),
        }
    }

    /// The same for what concerns all of the cluster that there is.
    pub(super) fn open_whole(&self) -> Result<Context> {
        let mut context = self.open_existing()?;
        context.as_applied();
        only_whole(&context)?;
        Ok(context)
    }

    /// The same, with the programs that are on PATH now where none are named.
    pub(super) fn open_for_upgrade(&self) -> Result<Context> {
        let described = Described {
            unnamed: Vec::new(),
            ..self.described.clone()
        };
        let invocation = Self {
            described,
            flags: self.flags.clone(),
            passphrase: self.passphrase.clone(),
            limit: self.limit,
            skip: self.skip.clone(),
            changes: self.changes.clone(),
            batch: self.batch,
            force: self.force,
            action: self.action.clone(),
        };
        invocation.open_existing()
    }

    /// The cluster that was applied, its state open for reading. Keys and certificates are read,
    /// too.
    pub(super) fn open_to_read(&self) -> Result<Context> {
        self.applied(State::open_read_only(&self.described.cluster.state)?)
    }

    /// The same, its state open for writing.
    pub(super) fn open_to_end(&self) -> Result<Context> {
        let mut context = self.applied(State::open(&self.described.cluster.state)?)?;
        only_whole(&context)?;
        context.skip(&self.skip)?;
        Ok(context)
    }

    /// The cluster that was applied, with a state that may lie elsewhere than where it is to be.
    pub(super) fn applied(&self, state: Option<State>) -> Result<Context> {
        let found = match state {
            Some(state) => state.cluster()?.map(|applied| (state, applied)),
            None => None,
        };
        let Some((state, applied)) = found else {
            bail!(no_cluster(&self.described.cluster.state))
        };
        state.notes().iter().for_each(|note| say(note));
        under_way::check(&self.action, &state)?;
        let progress = Progress::new(is_terminal());
        let mut context =
            Context::of_applied(self.described.clone(), applied, state, progress, self.limit)?;
        context.flags.clone_from(&self.flags);
        context.changes = self.changes.clone();
        context.as_applied();
        context.read_keys()?;
        Ok(context)
    }

    /// With a state that may lie elsewhere than where it is to be.
    pub(super) fn open_at(&self, state: State) -> Result<Context> {
        state.notes().iter().for_each(|note| say(note));
        under_way::check(&self.action, &state)?;
        let mut context = Context::new(
            self.described.clone(),
            state,
            Progress::new(is_terminal()),
            self.limit,
        )?;
        context.flags.clone_from(&self.flags);
        context.changes = self.changes.clone();
        context.leave_out_removed()?;
        context.skip(&self.skip)?;
        for product in Product::ALL {
            let is_described = |node: &&Node| !context.undescribed.contains(&node.name);
            let servers = context.cluster.servers(product).filter(is_described);
            let count = servers.count();
            if count > 0 && count % 2 == 0 {
                say(&format!(
                    "warning: {count} {product} servers are described: an even number outlives no more failures than {}",
                    count - 1
                ));
            }
        }
        context.batch = self.batch;
        context.force = self.force;
        Ok(context)
    }
}

/// Tells what is left for another run; the exit code of a command that did the rest.
pub(super) fn ended(context: &Context) -> u8 {
    match context.told_left_out() {
        None => 0,
        Some(text) => {
            context.progress.note(&text);
            DIFFERS
        }
    }
}

/// What is done to Consul alone would be done to it under Nomad.
fn only_whole(context: &Context) -> Result<()> {
    if context.scope == Scope::ConsulOnly && !context.applied.consul_only {
        bail!(UsageError(
            "--only consul leaves out Nomad, which runs on top of it: leave the flag away"
                .to_owned()
        ));
    }
    Ok(())
}

pub(super) fn no_cluster(dir: &std::path::Path) -> String {
    format!(
        "there is no cluster in {}: `lb bootstrap up` makes one. If one lives that was made with another state folder, \
         name that with --state; without its keys nothing can be done with it",
        dir.display()
    )
}

/// The flags that name the cluster, to be repeated in what the operator is told to type.
pub(super) fn flags(args: &ClusterArgs) -> String {
    let path = |path: &std::path::Path| quoted(&path.to_string_lossy());
    let words = [
        args.cluster
            .as_deref()
            .map(|file| ("--cluster", path(file))),
        args.local.then(|| ("--local", String::new())),
        args.only.map(|_| ("--only", "consul".to_owned())),
        args.state.as_deref().map(|dir| ("--state", path(dir))),
        args.network
            .map(|network| ("--network", network.to_string())),
        args.inventory
            .as_deref()
            .map(|file| ("--inventory", path(file))),
        args.acl.then(|| ("--acl", String::new())),
    ];
    words
        .into_iter()
        .flatten()
        .fold(String::new(), |text, (flag, value)| {
            let value = if value.is_empty() {
                value
            } else {
                format!(" {value}")
            };
            format!("{text} {flag}{value}")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_operator_is_told_to_type_can_be_typed() {
        let args = ClusterArgs {
            local: true,
            state: Some("/tmp/it's here".into()),
            ..ClusterArgs::default()
        };
        assert_eq!(flags(&args), r" --local --state '/tmp/it'\''s here'");
    }
}
