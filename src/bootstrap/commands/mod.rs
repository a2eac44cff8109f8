//! The subcommands of `lb bootstrap`: what each asks of the parts, in order, and what it prints.

mod down;
mod env;
mod plan;
mod replace_node;
mod rotate_certs;
mod rotate_gossip;
mod status;
mod up;
mod upgrade;

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::access::quoted;
use super::file::{self, Described, Request};
use super::hold::INTERRUPTED;
use super::passphrase;
use super::progress::Progress;
use super::secrets::Secret;
use super::state::{self, State};
use super::topology::{Role, Scope};
use super::world::World;
use crate::cli::{BootstrapAction, BootstrapArgs, ClusterArgs};

/// Wrong usage or description.
const WRONG: u8 = 2;
/// It differs (`plan`), or is degraded (`status`).
const DIFFERS: u8 = 3;

/// Does what `lb bootstrap` was asked for; the exit code. `json`: results in that form.
///
/// # Errors
/// What could not be done, and why.
pub fn run(args: &BootstrapArgs, json: bool) -> Result<u8> {
    let described = match file::describe(&Request::from(args)) {
        Ok(described) => described,
        Err(mistakes) => {
            for mistake in mistakes.0 {
                say(&format!("lb: {mistake}"));
            }
            return Ok(WRONG);
        }
    };
    let asked = Asked {
        described,
        flags: flags(&args.cluster),
        passphrase: Passphrase::new(args.cluster.passphrase_file.clone()),
        limit: args.cluster.timeout(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    let outcome = runtime.block_on(async {
        match args.action() {
            BootstrapAction::Up(args) => up::run(&asked, args).await,
            BootstrapAction::Plan => plan::run(&asked, json).await,
            BootstrapAction::Status => status::run(&asked, json).await,
            BootstrapAction::Env => env::run(&asked, json),
            BootstrapAction::RotateCerts(args) => rotate_certs::run(&asked, args.ca).await,
            BootstrapAction::RotateGossip => rotate_gossip::run(&asked).await,
            BootstrapAction::ReplaceNode(args) => replace_node::run(&asked, &args).await,
            BootstrapAction::Upgrade(_) => upgrade::run(&asked).await,
            BootstrapAction::Down(args) => down::run(&asked, args).await,
        }
    });
    match outcome {
        Err(error) if error.is::<Wrong>() => {
            say(&format!("lb: {error:#}"));
            Ok(WRONG)
        }
        other => other,
    }
}

/// What was asked for cannot be meant, or does not fit the cluster: nothing was tried.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Wrong(pub(super) String);

/// What every command was given.
struct Asked {
    described: Described,
    flags: String,
    passphrase: Passphrase,
    limit: Duration,
}

impl Asked {
    /// Whether Nomad is part of what is asked, and no program for it is known.
    fn needs_nomad(&self) -> bool {
        let cluster = &self.described.cluster;
        cluster.nomad.is_none() && cluster.nodes.iter().any(|node| node.role != Role::ConsulServer)
    }

    /// The world with its state open for writing; made if there is none.
    fn world_for_change(&self) -> Result<World> {
        self.world(State::create(&self.described.cluster.state)?)
    }

    /// The world of a cluster that was brought up before, its state open for writing.
    fn world_that_exists(&self) -> Result<World> {
        let dir = &self.described.cluster.state;
        match State::open(dir)? {
            Some(state) if state.cluster()?.is_some() => self.world(state),
            _ => bail!(no_cluster(dir)),
        }
    }

    /// The same for what concerns all of the cluster that there is.
    fn whole_world(&self) -> Result<World> {
        let mut world = self.world_that_exists()?;
        world.as_applied();
        only_whole(&world)?;
        Ok(world)
    }

    /// The same, with the programs that are on PATH now where none are named.
    fn world_to_upgrade(&self) -> Result<World> {
        let described = Described { unnamed: Vec::new(), ..self.described.clone() };
        let asked =
            Self { described, flags: self.flags.clone(), passphrase: self.passphrase.clone(), limit: self.limit };
        asked.world_that_exists()
    }

    /// The cluster that was applied, its state open for reading. Keys and certificates are read, too.
    fn world_to_read(&self) -> Result<World> {
        self.recalled(State::open_read_only(&self.described.cluster.state)?)
    }

    /// The same, its state open for writing.
    fn world_to_end(&self) -> Result<World> {
        let world = self.recalled(State::open(&self.described.cluster.state)?)?;
        only_whole(&world)?;
        Ok(world)
    }

    fn recalled(&self, state: Option<State>) -> Result<World> {
        let found = match state {
            Some(state) => state.cluster()?.map(|applied| (state, applied)),
            None => None,
        };
        let Some((state, applied)) = found else { bail!(no_cluster(&self.described.cluster.state)) };
        state.notes().iter().for_each(|note| say(note));
        let progress = Progress::new(is_terminal());
        let mut world = World::recalled(self.described.clone(), applied, state, progress, self.limit)?;
        world.flags.clone_from(&self.flags);
        world.as_applied();
        world.read_keys()?;
        Ok(world)
    }

    fn world(&self, state: State) -> Result<World> {
        state.notes().iter().for_each(|note| say(note));
        let mut world = World::new(self.described.clone(), state, Progress::new(is_terminal()), self.limit)?;
        world.flags.clone_from(&self.flags);
        Ok(world)
    }
}

/// What is done to Consul alone would be done to it under Nomad.
fn only_whole(world: &World) -> Result<()> {
    if world.scope == Scope::ConsulOnly && !world.applied.consul_only {
        bail!(Wrong("--only consul leaves out Nomad, which runs on top of it: leave the flag away".to_owned()));
    }
    Ok(())
}

fn no_cluster(dir: &std::path::Path) -> String {
    format!(
        "there is no cluster in {}: `lb bootstrap up` makes one. If one lives that was made with another state folder, \
         name that with --state; without its keys nothing can be done with it",
        dir.display()
    )
}

/// The flags that name the cluster, to be repeated in what the operator is told to type.
fn flags(args: &ClusterArgs) -> String {
    let path = |path: &std::path::Path| quoted(&path.to_string_lossy());
    let words = [
        args.cluster.as_deref().map(|file| ("--cluster", path(file))),
        args.local.then(|| ("--local", String::new())),
        args.only.map(|_| ("--only", "consul".to_owned())),
        args.state.as_deref().map(|dir| ("--state", path(dir))),
        args.network.map(|network| ("--network", network.to_string())),
        args.inventory.as_deref().map(|file| ("--inventory", path(file))),
        args.acl.then(|| ("--acl", String::new())),
    ];
    words.into_iter().flatten().fold(String::new(), |text, (flag, value)| {
        let value = if value.is_empty() { value } else { format!(" {value}") };
        format!("{text} {flag}{value}")
    })
}

/// Where the passphrase of the CA key comes from.
#[derive(Clone, Debug)]
pub(super) struct Passphrase {
    file: Option<PathBuf>,
    /// What was typed: a rotation needs it several times.
    typed: std::cell::RefCell<Option<Secret>>,
}

impl Passphrase {
    fn new(file: Option<PathBuf>) -> Self {
        Self { file, typed: std::cell::RefCell::default() }
    }

    /// The passphrase, if one was given; asked for on a terminal when the key is encrypted and none was given.
    pub(super) fn for_key(&self, encrypted: Option<bool>) -> Result<Option<Secret>> {
        match passphrase::given(self.file.as_deref(), std::env::var_os(passphrase::VARIABLE))? {
            Some(given) => Ok(Some(given)),
            None if encrypted == Some(true) => {
                let mut typed = self.typed.borrow_mut();
                if typed.is_none() {
                    *typed = state::ask_passphrase("passphrase of the CA key: ")?;
                }
                Ok(typed.clone())
            }
            None => Ok(None),
        }
    }
}

/// Asks before something is done that cannot be undone. Without a terminal `--yes` has to be given.
fn confirm(question: &str, yes: bool) -> Result<bool> {
    if yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        bail!(Wrong(format!("{question} Nobody is there to be asked: add --yes")));
    }
    write!(std::io::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Writes a result to standard output.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())?;
    Ok(())
}

/// Writes to standard error; when that is closed there is nobody left to tell.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_operator_is_told_to_type_can_be_typed() {
        let args = ClusterArgs { local: true, state: Some("/tmp/it's here".into()), ..ClusterArgs::default() };
        assert_eq!(flags(&args), r" --local --state '/tmp/it'\''s here'");
    }
}
