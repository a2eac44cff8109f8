//! `lb bootstrap backup`: the state folder, the snapshots of both products and the ids of the nodes,
//! in one encrypted file.

use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use futures_util::stream::{self, StreamExt as _};

use super::invocation::Invocation;
use crate::bootstrap::backup::{Backup, BackupFolder, BackupWriter, Manifest};
use crate::bootstrap::cluster::snapshot;
use crate::bootstrap::context::Context;
use crate::bootstrap::exit::DIFFERS;
use crate::bootstrap::plural::counted;
use crate::bootstrap::security::secrets::Secret;
use crate::bootstrap::topology::Product;

/// Takes a backup. Whole or not at all: an older one in the folder is replaced at the very end. Exit
/// code 3 when nodes could not be reached, whose ids are then missing.
///
/// # Errors
/// When a snapshot cannot be taken, or the backup cannot be written.
pub(super) async fn run(invocation: &Invocation, to: &Path) -> Result<u8> {
    let mut context = invocation.open_to_end()?;
    let passphrase = invocation.passphrase.for_backup()?;
    if context.state.is_key_encrypted()? == Some(true) {
        // What was encrypted with one that is not known any more would be of no use.
        context
            .state
            .ensure_authorities(Some(&passphrase), SystemTime::now())?;
    }
    let id = &context.applied.id;
    let folder = BackupFolder::prepare(to, id)?;
    context.dial().await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs());
    let mut manifest = Manifest::new(
        id.clone(),
        context.cluster.name.clone(),
        i64::try_from(now).unwrap_or(i64::MAX),
    );
    manifest.programs.clone_from(&context.applied.versions);
    let left_out = write(&context, &folder, &passphrase, manifest).await?;
    let bar = context.progress.phase("Check", 1);
    let read = Backup::read(&folder.unfinished(), &passphrase);
    let read = read.context("the backup cannot be read back")?;
    bar.done("the backup can be read back, and is whole");
    let path = folder.keep()?;
    context.progress.note(&format!(
        "{}: {} files of the state folder{}; to read it, run `lb bootstrap restore{} --check {}`",
        path.display(),
        read.state.len(),
        read.snapshots.keys().fold(String::new(), |text, product| {
            format!("{text}, {product}'s snapshot")
        }),
        context.flags,
        path.display(),
    ));
    Ok(if left_out { DIFFERS } else { 0 })
}

/// Writes all of it. Whether nodes had to be left out.
async fn write(
    context: &Context,
    folder: &BackupFolder,
    passphrase: &Secret,
    mut manifest: Manifest,
) -> Result<bool> {
    let nodes = &context.cluster.nodes;
    let bar = context.progress.phase("Nodes", nodes.len());
    let looks = nodes
        .iter()
        .map(|node| async move { (node, context.host(node).identity().await) });
    let found: Vec<_> = stream::iter(looks)
        .buffered(context.parallel())
        .collect()
        .await;
    for (node, identity) in &found {
        if let Err(error) = identity {
            manifest.left_out.push(node.name.clone());
            let name = &node.name;
            (context.progress).note(&format!("{name}: its ids are not in the backup: {error:#}"));
        }
    }
    bar.done(&format!(
        "ids of {}",
        counted(nodes.len() - manifest.left_out.len(), "node")
    ));
    let mut writer = BackupWriter::create(folder.create()?, passphrase, &manifest)?;
    for (node, identity) in found {
        if let Ok(identity) = identity {
            writer.put_node(&node.name, &identity)?;
        }
    }
    writer.put_state(&context.state.copied_files()?)?;
    for product in Product::ALL {
        let is_there =
            context.scope.includes(product) && context.cluster.servers(product).next().is_some();
        if is_there {
            put_snapshot(context, &mut writer, product).await?;
        }
    }
    writer.finish().context("the backup cannot be written")?;
    Ok(!manifest.left_out.is_empty())
}

async fn put_snapshot(
    context: &Context,
    writer: &mut BackupWriter,
    product: Product,
) -> Result<()> {
    let bar = context.progress.phase(&snapshot_title(product), 1);
    writer.begin_snapshot(product)?;
    let view = context.cluster_view()?;
    let length = snapshot::save(&view, product, |part| writer.add(part)).await?;
    writer.end()?;
    bar.done(&size(length));
    Ok(())
}

/// Name of a phase that is about a product's snapshot.
pub(super) fn snapshot_title(product: Product) -> String {
    match product {
        Product::Consul => "Consul snapshot",
        Product::Nomad => "Nomad snapshot",
    }
    .to_owned()
}

/// A length for people.
pub(super) fn size(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} bytes"),
        10_000..=9_999_999 => format!("{} kB", bytes / 1_000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}
