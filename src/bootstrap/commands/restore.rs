//! `lb bootstrap restore`: from nothing, or from a cluster that lost its data, to the cluster of a
//! backup.
//!
//! ```text
//!   backup read to its end ─▶ state folder ─▶ the walk of `up`, and in between
//!     before the first start   ids of the nodes, keys of Nomad's servers
//!     behind Consul's servers  Consul's snapshot, before any other agent joins
//!     behind Nomad's servers   Nomad's snapshot, before any client registers
//!   ─▶ all clients have registered, `status` is well
//! ```
//! A client that registered before would be one that the snapshot does not know, with credentials
//! that nothing signed. The tokens of the state folder and of the snapshots are of one time, so that
//! the first tokens of the new cluster go with its data. A note in the state folder keeps how far this
//! is: the same command goes on.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};

use super::backup::{size, snapshot_title};
use super::invocation::Invocation;
use super::terminal::{confirm, print, say};
use super::up;
use crate::bootstrap::backup::Backup;
use crate::bootstrap::cluster::snapshot::{self, Remembered};
use crate::bootstrap::cluster::{peers, status};
use crate::bootstrap::context::{Context, compatible};
use crate::bootstrap::converge::many::each;
use crate::bootstrap::converge::restart::STOP_PATIENCE;
use crate::bootstrap::converge::{self, preflight};
use crate::bootstrap::exit::{INTERRUPTED, UsageError};
use crate::bootstrap::plural::counted;
use crate::bootstrap::state::passphrase::Passphrase;
use crate::bootstrap::state::{Restoring, State, tokens_of};
use crate::bootstrap::topology::{Phase, Product, Role, Scope};
use crate::cli::RestoreArgs;

/// File with the id of Nomad's client, as a backup names it.
const CLIENT_ID: &str = "nomad/client/client-id";
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(500);

/// Restores; or tells what the backup is one of.
///
/// # Errors
/// When the backup is damaged, the passphrase wrong, or the description not that of the cluster: then
/// nothing is changed. What stops `up`: the same command goes on from there.
pub(super) async fn run(invocation: &Invocation, args: &RestoreArgs) -> Result<u8> {
    let passphrase = invocation.passphrase.for_backup()?;
    let backup = Backup::open(&args.dir, &passphrase).context("nothing was changed")?;
    if args.check {
        print(&told(&backup))?;
        return Ok(0);
    }
    up::need_nomad(invocation)?;
    if !put_state(invocation, args, &backup).await? {
        return Ok(INTERRUPTED);
    }
    let mut context = invocation.open_for_change()?;
    let begun = Instant::now();
    walk(&mut context, invocation, &backup)
        .await
        .context("the restore is not over; the same command goes on from here")?;
    context.progress.note(&format!(
        "\n{} is restored to {} ({:.1} s)",
        context.cluster.name,
        time(backup.manifest.made_at),
        begun.elapsed().as_secs_f64()
    ));
    Ok(0)
}

/// What a backup is one of, for people.
fn told(backup: &Backup) -> String {
    let manifest = &backup.manifest;
    let mut text = format!(
        "cluster    {} ({})\ntaken      {} by lb {}\nstate      {} files\nnodes      ids of {}\n",
        manifest.cluster,
        manifest.cluster_id,
        time(manifest.made_at),
        manifest.made_by,
        backup.state.len(),
        backup.nodes.len(),
    );
    for (product, length) in &backup.snapshots {
        let version = manifest.programs.get(product.name());
        text.push_str(&format!(
            "{:<10} snapshot of {}, version {}\n",
            product.name(),
            size(*length),
            version.map_or("unknown", String::as_str)
        ));
    }
    if !manifest.left_out.is_empty() {
        text.push_str(&format!(
            "missing    ids of {}, which could not be reached\n",
            manifest.left_out.join(", ")
        ));
    }
    text.push_str("The backup is whole.\n");
    text
}

fn time(unix: i64) -> String {
    jiff::Timestamp::from_second(unix).map_or_else(|_| unix.to_string(), |time| time.to_string())
}

/// What is in the place of the state folder.
#[derive(Debug, PartialEq, Eq)]
enum Present {
    /// Nothing.
    Nothing,
    /// A restore of this backup that is not over.
    UnderWay,
    /// One of another backup.
    OtherRestore(String),
    /// The state of this cluster.
    Same,
    /// Another state, or one of a cluster that was never brought up.
    Other(String),
}

fn present(place: &Path, backup: &Backup) -> Result<Present> {
    let Some(state) = State::open(place)? else {
        return Ok(Present::Nothing);
    };
    if let Some(restoring) = state.restoring()? {
        return Ok(match restoring.backup == backup.manifest.id {
            true => Present::UnderWay,
            false => Present::OtherRestore(restoring.folder.display().to_string()),
        });
    }
    Ok(match state.cluster()? {
        Some(applied) if applied.id == backup.manifest.cluster_id => Present::Same,
        Some(applied) => Present::Other(format!("the cluster {} ({})", applied.name, applied.id)),
        None => Present::Other("a cluster that was never brought up".to_owned()),
    })
}

/// Sees to it that the state folder is the cluster's, with the note of the restore. False: not
/// confirmed, nothing was changed.
async fn put_state(invocation: &Invocation, args: &RestoreArgs, backup: &Backup) -> Result<bool> {
    let place = &invocation.described.cluster.state;
    let manifest = &backup.manifest;
    let (name, taken) = (&manifest.cluster, time(manifest.made_at));
    let restoring = || Restoring::new(manifest.id.clone(), args.dir.clone(), SystemTime::now());
    let found = present(place, backup)?;
    match &found {
        Present::UnderWay => {
            say("a restore of this backup is under way: it goes on");
            return Ok(true);
        }
        Present::OtherRestore(folder) => bail!(UsageError(format!(
            "`restore {folder}` is not over in {}: finish it with the same command, or run `lb bootstrap down --purge` \
             first",
            place.display()
        ))),
        Present::Same => {
            let question = format!(
                "Put the data of {name} (KV, catalog, tokens, jobs, variables) back to {taken}? What came later is lost. \
                 The state folder {} stays",
                place.display()
            );
            if !confirm(&format!("{question}."), args.yes)? {
                return Ok(false);
            }
            let mut context = invocation.open_existing()?;
            compatible::check(&context)?;
            context.state.save_restoring(&restoring())?;
            return Ok(true);
        }
        Present::Other(whose) => {
            let question = format!(
                "{} is the state folder of {whose}. Move it aside, and put that of {name} there?",
                place.display()
            );
            if !confirm(&question, args.yes)? {
                return Ok(false);
            }
        }
        Present::Nothing => {}
    }
    let staged = State::stage(place, &backup.state, &restoring())?;
    let accepted = accept(invocation, staged, backup, args.yes).await;
    let Ok(Some(state)) = accepted else {
        State::unstage(place)?;
        return accepted.map(|_| false);
    };
    if let Some(aside) = state.put_in_place(place)? {
        say(&format!(
            "the other state folder is now {}",
            aside.display()
        ));
    }
    Ok(true)
}

/// The staged state, if it fits the description. The operator has to confirm where the cluster of
/// the backup lives or its nodes have data, which would be lost.
async fn accept(
    invocation: &Invocation,
    staged: State,
    backup: &Backup,
    yes: bool,
) -> Result<Option<State>> {
    let context = invocation.open_at(staged)?;
    compatible::check(&context).context("nothing was changed")?;
    let context = invocation.applied(Some(context.state))?;
    if yes || !lives(&context).await? {
        return Ok(Some(context.state));
    }
    let question = format!(
        "{} lives, or its nodes have data. Put its data (KV, catalog, tokens, jobs, variables) back to {}? What came \
         later is lost.",
        backup.manifest.cluster,
        time(backup.manifest.made_at)
    );
    Ok(confirm(&question, false)?.then_some(context.state))
}

async fn lives(context: &Context) -> Result<bool> {
    context.dial().await;
    let view = context.cluster_view()?;
    for product in Product::ALL {
        if view.leader(product).await.is_some() {
            return Ok(true);
        }
    }
    let nodes = context.cluster.nodes.iter();
    let looks = nodes.map(|node| async move {
        // One that cannot be reached is told by the preflight.
        anyhow::Ok(context.host(node).identity().await.unwrap_or_default())
    });
    let found = each(context, looks).await?;
    Ok(found.iter().any(|identity| !identity.is_empty()))
}

async fn walk(context: &mut Context, invocation: &Invocation, backup: &Backup) -> Result<()> {
    compatible::check(context)?;
    make_keys(context, invocation)?;
    preflight::run(context, true).await?;
    context.applied.detached |= context.cluster.is_local();
    context.save_applied()?;
    preflight::claim(context).await?;
    settle_tokens(context, backup).await?;
    put_identities(context, backup).await?;
    let mut remembered = None;
    converge::converge_with(context, async |context, phase| {
        let product = match phase {
            Phase::ConsulServers => Product::Consul,
            Phase::NomadServers => Product::Nomad,
            Phase::ConsulClients | Phase::NomadClients => return Ok(false),
        };
        let done = put_snapshot(context, product, backup).await?;
        // With a snapshot that an earlier run put back, clients may have registered since.
        if done && product == Product::Nomad {
            let view = context.cluster_view()?;
            remembered = Some(snapshot::remembered_clients(&view).await?);
        }
        Ok(done)
    })
    .await?;
    context.write_access()?;
    finish(context, remembered).await?;
    context.state.end_restoring()
}

/// Gives nodes without data what they were known by, and notes which clients of Nomad have none.
async fn put_identities(context: &mut Context, backup: &Backup) -> Result<()> {
    let known: Vec<_> = (context.cluster.nodes.iter())
        .filter_map(|node| Some((node, backup.nodes.get(&node.name)?)))
        .collect();
    let looks = known.iter().map(|(node, _)| context.host(node).identity());
    let found = each(&*context, looks).await?;
    let Some(mut restoring) = context.state.restoring()? else {
        bail!("the note of the restore is gone from the state folder");
    };
    for ((_, identity), found) in known.iter().zip(found) {
        let Some(id) = identity
            .get(CLIENT_ID)
            .filter(|_| !found.contains_key(CLIENT_ID))
        else {
            continue;
        };
        let id = String::from_utf8_lossy(id).trim().to_owned();
        if !restoring.empty_clients.contains(&id) {
            restoring.empty_clients.push(id);
        }
    }
    // Noted first: afterwards nothing tells them from those that had data.
    context.state.save_restoring(&restoring)?;
    let context = &*context;
    let nodes = context.cluster.nodes.iter();
    let puts = nodes.filter_map(|node| {
        let identity = backup.nodes.get(&node.name)?;
        Some(async move {
            let spec = context.spec(node)?;
            context.host(node).put_identity(&spec, identity).await
        })
    });
    each(context, puts).await.map(drop)
}

/// Certificates that are due, and no others. The passphrase is the backup's: a key that was plain
/// stays so.
fn make_keys(context: &mut Context, invocation: &Invocation) -> Result<()> {
    match context.state.is_key_encrypted()? {
        Some(true) => context.make_keys(&invocation.passphrase),
        _ => context.make_keys(&Passphrase::withheld()),
    }
}

/// A run that was killed between a snapshot and the note of its tokens left a cluster that knows the
/// backup's alone.
async fn settle_tokens(context: &mut Context, backup: &Backup) -> Result<()> {
    let Some(tokens) = tokens_of(&backup.state)? else {
        return Ok(());
    };
    context.dial().await;
    for product in Product::ALL {
        let Some(token) = tokens.management(product) else {
            continue;
        };
        if snapshot::is_known(&context.cluster_view()?, product, &token).await {
            context.state.take_tokens(product, &backup.state)?;
        }
    }
    context.read_shared()
}

/// Puts a product's snapshot into the cluster, unless a run before has. Whether it did.
async fn put_snapshot(context: &mut Context, product: Product, backup: &Backup) -> Result<bool> {
    let Some(mut restoring) = context.state.restoring()? else {
        bail!("the note of the restore is gone from the state folder");
    };
    let Some(&length) = backup.snapshots.get(&product) else {
        return Ok(false);
    };
    if restoring.is_done(product) {
        return Ok(false);
    }
    let bar = context.progress.phase(&snapshot_title(product), 1);
    if product == Product::Nomad {
        stop_clients(context).await?;
    }
    let view = context.cluster_view()?;
    snapshot::restore(&view, product, context.limit, backup.snapshot(product)?).await?;
    if let Some(token) = tokens_of(&backup.state)?.and_then(|tokens| tokens.management(product)) {
        snapshot::wait_known(&view, product, &token, context.limit).await?;
    }
    context.state.take_tokens(product, &backup.state)?;
    context.read_shared()?;
    if product == Product::Nomad {
        let view = context.cluster_view()?;
        snapshot::place_anew(&view, &restoring.empty_clients, context.limit).await?;
    }
    restoring.done.push(product.name().to_owned());
    context.state.save_restoring(&restoring)?;
    if product == Product::Consul {
        snapshot::forget_former_ids(&context.cluster_view()?).await?;
    }
    bar.done(&format!("put back, {}", size(length)));
    Ok(true)
}

/// Clients that run have seen later states than the snapshot's, and would wait for later ones still.
/// Their tasks run on.
async fn stop_clients(context: &Context) -> Result<()> {
    let stops = context
        .cluster
        .of_role(Role::NomadClient)
        .map(|node| async move {
            let spec = context.spec(node)?;
            match spec.daemon(Product::Nomad) {
                Some(daemon) => context.host(node).stop(daemon, STOP_PATIENCE).await,
                None => Ok(()),
            }
        });
    each(context, stops).await.map(drop)
}

/// Waits until all is well.
async fn finish(context: &Context, remembered: Option<Remembered>) -> Result<()> {
    let view = context.cluster_view()?;
    let bar = context
        .progress
        .phase("All nodes", context.cluster.nodes.len());
    if let Some(remembered) = remembered.filter(|_| context.scope == Scope::All) {
        bar.set(0, "waiting for Nomad's clients to register");
        snapshot::wait_registered(&view, &remembered, context.limit).await?;
        for node in context.cluster.of_role(Role::NomadClient) {
            peers::purge(&view, node).await?;
        }
    }
    let end = Instant::now() + context.limit;
    loop {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let status = status::look(&view, context.scope, now, 0).await;
        if !status.degraded {
            bar.done(&match snapshot::forget_services(&view).await? {
                0 => "well".to_owned(),
                gone => format!(
                    "well; {} taken out of the catalog",
                    counted(gone, "former service")
                ),
            });
            return Ok(());
        }
        bar.set(0, "waiting until all is well");
        if Instant::now() >= end {
            bail!(
                "not well after {:?}:\n{}",
                context.limit,
                status::render(&status)
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}
