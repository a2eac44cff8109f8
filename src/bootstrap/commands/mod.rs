//! The subcommands of `lb bootstrap`: what each asks of the parts, in order, and what it prints.

mod down;
mod env;
mod foreground;
mod invocation;
mod plan;
mod replace_node;
mod rotate_certs;
mod rotate_gossip;
mod sample;
mod status;
mod terminal;
mod up;
mod upgrade;

use anyhow::{Context as _, Result};

use super::exit::{WRONG, Wrong};
use crate::bootstrap::description::{self, Request};
use crate::bootstrap::state::passphrase::Passphrase;
use crate::cli::{BootstrapAction, BootstrapArgs};
use invocation::{Asked, flags};
use terminal::say;

/// Does what `lb bootstrap` was asked for; the exit code. `json`: results in that form.
///
/// # Errors
/// What could not be done, and why.
pub fn run(args: &BootstrapArgs, json: bool) -> Result<u8> {
    let described = match description::describe(&Request::from(args)) {
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
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("runtime")?;
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
