//! `lb bootstrap rotate-certs`: new certificates, and with `--ca` a new CA, while everything runs.
//!
//! Each step is handed to all nodes before the next begins, and the state says which one is under
//! way, so that a run that was killed is taken up by the next.

use std::time::SystemTime;

use anyhow::{Context as _, Result};

use super::invocation::{Invocation, ended};
use crate::bootstrap::context::{Context, compatible};
use crate::bootstrap::converge::{self, survey};
use crate::bootstrap::description;
use crate::bootstrap::exit::UsageError;
use crate::bootstrap::state::{Rotation, RotationKind, RotationStep};
use crate::bootstrap::topology::{Product, Scope};

/// Rotates.
///
/// # Errors
/// When a node does not take what it is given; what was done stays, and the next run goes on from
/// there.
pub(super) async fn run(invocation: &Invocation, ca: bool) -> Result<u8> {
    let mut context = invocation.open_whole()?;
    compatible::check_known(&context, None)?;
    if context.scope == Scope::All && context.cluster.nomad.is_none() {
        anyhow::bail!(UsageError(description::no_nomad(&context.cluster)));
    }
    let passphrase = invocation
        .passphrase
        .for_key(context.state.is_key_encrypted()?)?;
    let now = SystemTime::now();
    // Without the CA's key nothing can be signed: better to know it before the rotation is begun
    // than stuck in it.
    context.state.ensure_authorities(passphrase.as_ref(), now)?;
    context.make_keys(&invocation.passphrase)?;
    // Nomad's connections to Consul keep their certificates until they are made anew.
    survey::run(&mut context, true, &[Product::Nomad]).await?;
    let mut rotation = Some(match ca {
        true => {
            let brought = context.brought_ca(&invocation.passphrase)?;
            let state = &mut context.state;
            state.begin_authority_rotation(brought.as_ref(), passphrase.as_ref(), now)?
        }
        false => context.state.begin_leaf_rotation(now)?,
    });
    while let Some(step) = rotation {
        context.progress.note(told(step));
        context.make_keys(&invocation.passphrase)?;
        context.write_access()?;
        converge::converge(&mut context).await.context(
            "the rotation is not over: what was done stays, and the same command goes on from here",
        )?;
        served(&context, step).await?;
        rotation = context.state.advance_rotation()?;
    }
    context.write_access()?;
    context.progress.note("certificates are rotated");
    Ok(ended(&context))
}

fn told(rotation: Rotation) -> &'static str {
    match (rotation.kind, rotation.step) {
        (RotationKind::Leaves, _) => "new certificates for all nodes",
        (RotationKind::Authority, RotationStep::BothTrusted) => {
            "step 1 of 3: all nodes trust the new CA beside the old"
        }
        (RotationKind::Authority, RotationStep::NewLeaves) => {
            "step 2 of 3: certificates of the new CA for all nodes"
        }
        (RotationKind::Authority, RotationStep::OldDropped) => {
            "step 3 of 3: the old CA is trusted no more"
        }
    }
}

/// A reload is caused by a signal, which brings nothing back: the next step may begin only when
/// every daemon shows the certificate that it was given.
async fn served(context: &Context, step: Rotation) -> Result<()> {
    match step.step {
        RotationStep::NewLeaves => context.wait_served().await,
        RotationStep::BothTrusted | RotationStep::OldDropped => Ok(()),
    }
}
