//! `lb bootstrap rotate-tokens`: other tokens for all, while everything runs.
//!
//! New ones are made and handed out before the old ones are taken back. What was replaced is noted
//! in `tokens.json` until it is taken back, so that a run that was killed is taken up by the next.

use anyhow::{Context as _, Result, bail};
use uuid::Uuid;

use super::acl_enable::wait_taken_up;
use super::invocation::Invocation;
use crate::bootstrap::cluster::acl::{self, rotate};
use crate::bootstrap::context::{Context, compatible};
use crate::bootstrap::converge;
use crate::bootstrap::description;
use crate::bootstrap::exit::UsageError;
use crate::bootstrap::state::Token;
use crate::bootstrap::topology::{Phase, Product, Scope};

/// Rotates.
///
/// # Errors
/// When ACLs are off, or an agent does not take what it is given; what was done stays, and the next
/// run goes on from there.
pub(super) async fn run(invocation: &Invocation) -> Result<u8> {
    let mut context = invocation.open_whole()?;
    compatible::check_known(&context, None)?;
    if context.scope == Scope::All && context.cluster.nomad.is_none() {
        bail!(UsageError(description::no_nomad(&context.cluster)));
    }
    if !context.cluster.acl {
        bail!(UsageError(
            "ACLs are off, so there are no tokens: `lb bootstrap acl enable` switches them on"
                .to_owned()
        ));
    }
    context.make_keys(&invocation.passphrase)?;
    context.dial().await;
    let not_over =
        "the rotation is not over: what was done stays, and the same command goes on from here";
    replace(&mut context).await.context(not_over)?;
    context.read_shared()?;
    converge::converge(&mut context).await.context(not_over)?;
    context.write_access()?;
    if context.phases().contains(&Phase::ConsulClients) {
        // Services keep the token that they were registered with; see `nodes::service_tokens`.
        converge::restart_each(&mut context, Phase::ConsulClients)
            .await
            .context(not_over)?;
    }
    wait_taken_up(&context).await;
    take_back(&mut context).await.context(not_over)?;
    context.write_access()?;
    context.progress.note("tokens are rotated");
    Ok(0)
}

/// Makes the management tokens, and notes all others as to be made.
async fn replace(context: &mut Context) -> Result<()> {
    let mut tokens = context.state.tokens()?;
    let bar = context.progress.phase("Management tokens", 2);
    if !tokens.is_replaced("consul_management") {
        let next = match tokens.next_consul_management.clone() {
            Some(next) => next,
            None => Token {
                accessor: Uuid::new_v4().to_string(),
                secret: acl::new_secret(),
            },
        };
        // Kept before it is made: it may do everything, and must not be forgotten.
        tokens.next_consul_management = Some(next.clone());
        context.state.save_tokens(&tokens)?;
        let view = context.cluster_view()?;
        rotate::consul_management(&view, &next.accessor, &next.secret, context.limit).await?;
        tokens.next_consul_management = None;
        let old = tokens.consul_management.replace(next);
        tokens.retire("consul_management", Product::Consul, old);
        context.state.save_tokens(&tokens)?;
    }
    bar.set(1, "Consul's");
    if context.scope == Scope::All
        && tokens.nomad_management.is_some()
        && !tokens.is_replaced("nomad_management")
    {
        let known: Vec<&str> = tokens
            .nomad_management
            .iter()
            .map(|token| token.accessor.as_str())
            .collect();
        let view = context.cluster_view()?;
        let (accessor, secret) = rotate::nomad_management(&view, &known, context.limit).await?;
        let old = tokens.nomad_management.replace(Token { accessor, secret });
        tokens.retire("nomad_management", Product::Nomad, old);
        context.state.save_tokens(&tokens)?;
    }
    bar.done("new ones");
    tokens.replace_chosen(acl::new_secret);
    if context.scope == Scope::All && !tokens.is_replaced("nomad_operator") {
        // Made anew on the way, as all that are missing.
        let old = tokens.nomad_operator.take();
        tokens.retire("nomad_operator", Product::Nomad, old);
    }
    context.state.save_tokens(&tokens)
}

async fn take_back(context: &mut Context) -> Result<()> {
    let mut tokens = context.state.tokens()?;
    let bar = context.progress.phase("Old tokens", tokens.retired.len());
    for place in 0..tokens.retired.len() {
        let retired = &tokens.retired[place];
        if !retired.token.accessor.is_empty() {
            let view = context.cluster_view()?;
            rotate::revoke(&view, retired.product, &retired.token.accessor)
                .await
                .with_context(|| retired.name.clone())?;
            tokens.retired[place].token.accessor.clear();
            context.state.save_tokens(&tokens)?;
        }
        bar.set(place + 1, "taken back");
    }
    let count = tokens.retired.len();
    tokens.retired.clear();
    context.state.save_tokens(&tokens)?;
    bar.done(&format!("{count} taken back"));
    Ok(())
}
