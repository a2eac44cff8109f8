//! The subcommands of `lb bootstrap`: which parts each calls, in order, and what it prints.

mod acl_enable;
mod backup;
mod doctor;
mod down;
mod env;
mod foreground;
mod invocation;
mod one_node;
mod plan;
mod reboot;
mod remove_node;
mod replace_node;
mod restore;
mod rotate_certs;
mod rotate_gossip;
mod rotate_tokens;
mod sample;
mod scrape;
mod status;
mod terminal;
mod under_way;
mod up;
mod upgrade;

use anyhow::{Context as _, Result, bail};

use super::exit::{USAGE_ERROR, UsageError};
use crate::bootstrap::changes::Changes;
use crate::bootstrap::description::{self, Request};
use crate::bootstrap::state::passphrase::Passphrase;
use crate::cli::{AclAction, AclArgs, BootstrapAction, BootstrapArgs};
use invocation::{Invocation, flags};
use terminal::say;

/// Runs the subcommand of `lb bootstrap`; the exit code. `json`: results in that form.
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
            return Ok(USAGE_ERROR);
        }
    };
    let invocation = Invocation {
        described,
        flags: flags(&args.cluster),
        passphrase: Passphrase::new(args.cluster.passphrase_file.clone()),
        limit: args.cluster.timeout(),
        skip: args.cluster.skip.clone(),
        changes: Changes::default(),
        batch: args.cluster.batch.map(usize::from),
        force: args.cluster.force,
        action: args.action(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let outcome = runtime.block_on(async {
        match args.action() {
            BootstrapAction::Up(args) => up::run(&invocation, args).await,
            BootstrapAction::Plan => plan::run(&invocation, json).await,
            BootstrapAction::Status => status::run(&invocation, json).await,
            BootstrapAction::Doctor => doctor::run(&invocation, json).await,
            BootstrapAction::Env => env::run(&invocation, json),
            BootstrapAction::Scrape => scrape::run(&invocation),
            BootstrapAction::RotateCerts(args) => rotate_certs::run(&invocation, args.ca).await,
            BootstrapAction::RotateGossip => rotate_gossip::run(&invocation).await,
            BootstrapAction::RotateTokens => rotate_tokens::run(&invocation).await,
            BootstrapAction::Acl(AclArgs {
                action: AclAction::Enable,
            }) => acl_enable::run(&invocation).await,
            BootstrapAction::ReplaceNode(args) => replace_node::run(&invocation, &args).await,
            BootstrapAction::RemoveNode(args) => remove_node::run(&invocation, &args).await,
            BootstrapAction::Reboot(args) => reboot::run(&invocation, &args).await,
            BootstrapAction::Upgrade(_) => upgrade::run(&invocation).await,
            BootstrapAction::Backup(args) => backup::run(&invocation, &args.to).await,
            BootstrapAction::Restore(args) => restore::run(&invocation, &args).await,
            BootstrapAction::Down(args) => down::run(&invocation, args).await,
        }
    });
    match outcome {
        Err(error) if error.is::<UsageError>() => {
            say(&format!("lb: {error:#}"));
            Ok(USAGE_ERROR)
        }
        Err(error) if !invocation.changes.is_empty() => {
            bail!(
                "{error:#}\nbefore that it changed {}",
                invocation.changes.told()
            )
        }
        other => other,
    }
}
