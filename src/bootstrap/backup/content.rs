//! What a backup holds, written and read again.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::archive::{ArchiveReader, ArchiveWriter};
use super::envelope::{EnvelopeReader, EnvelopeWriter};
use super::folder::find;
use crate::bootstrap::security::secrets::Secret;
use crate::bootstrap::topology::Product;

/// Version of the manifest.
const VERSION: u32 = 1;
const MANIFEST: &str = "backup.json";
const STATE: &str = "state/";
const NODES: &str = "nodes/";

/// What the backup is one of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this form.
    pub version: u32,
    /// Of this backup alone.
    pub id: String,
    /// The cluster's id.
    pub cluster_id: String,
    /// The cluster's name.
    pub cluster: String,
    /// When it was begun, Unix seconds.
    pub made_at: i64,
    /// Version of the lb that made it.
    pub made_by: String,
    /// Versions of the programs by name, as far as they are known.
    pub programs: BTreeMap<String, String>,
    /// Nodes that could not be reached: their ids are not in it.
    pub left_out: Vec<String>,
}

impl Manifest {
    /// Of a backup that begins now.
    #[must_use]
    pub fn new(cluster_id: String, cluster: String, made_at: i64) -> Self {
        Self {
            version: VERSION,
            id: uuid::Uuid::new_v4().to_string(),
            cluster_id,
            cluster,
            made_at,
            made_by: env!("CARGO_PKG_VERSION").to_owned(),
            ..Self::default()
        }
    }
}

/// Files by name, a folder's names relative to it.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// Writes a backup into a file.
pub struct BackupWriter {
    archive: ArchiveWriter<EnvelopeWriter<BufWriter<File>>>,
}

impl BackupWriter {
    /// Begins it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(file: File, passphrase: &Secret, manifest: &Manifest) -> Result<Self> {
        let envelope = EnvelopeWriter::create(BufWriter::new(file), passphrase)?;
        let mut archive = ArchiveWriter::new(envelope);
        archive.put(MANIFEST, &serde_json::to_vec(manifest)?)?;
        Ok(Self { archive })
    }

    /// Adds the state folder's files.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put_state(&mut self, files: &Files) -> Result<()> {
        self.put_all(STATE, files)
    }

    /// Adds what a node is known by.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_node(&mut self, node: &str, files: &Files) -> Result<()> {
        self.put_all(&format!("{NODES}{node}/"), files)
    }

    /// Begins a product's snapshot; [`BackupWriter::add`] and [`BackupWriter::end`] follow.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin_snapshot(&mut self, product: Product) -> Result<()> {
        Ok(self.archive.begin(&snapshot_name(product))?)
    }

    /// Adds to the snapshot.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, content: &[u8]) -> std::io::Result<()> {
        self.archive.add(content)
    }

    /// Ends the snapshot.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(&mut self) -> Result<()> {
        Ok(self.archive.end()?)
    }

    /// Ends the backup; it is on the disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(self) -> Result<()> {
        let mut file = self.archive.finish()?.finish()?;
        file.flush()?;
        file.get_ref().sync_all()?;
        Ok(())
    }

    fn put_all(&mut self, folder: &str, files: &Files) -> Result<()> {
        for (name, content) in files {
            self.archive.put(&format!("{folder}{name}"), content)?;
        }
        Ok(())
    }
}

/// A backup that was read to its end, and found whole. Its snapshots are read once more when they are
/// wanted: they may be large.
pub struct Backup {
    file: PathBuf,
    passphrase: Secret,
    /// What it is one of.
    pub manifest: Manifest,
    /// The state folder's files.
    pub state: Files,
    /// What nodes are known by, by their names.
    pub nodes: BTreeMap<String, Files>,
    /// Length of each snapshot in bytes.
    pub snapshots: BTreeMap<Product, u64>,
}

impl Backup {
    /// Opens the backup in a folder.
    ///
    /// # Errors
    /// When there is none, the passphrase is wrong, or any of it is damaged or missing.
    pub fn open(dir: &Path, passphrase: &Secret) -> Result<Self> {
        let file = find(dir)?;
        Self::read(&file, passphrase).with_context(|| file.display().to_string())
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`Backup::open`].
    pub fn read(file: &Path, passphrase: &Secret) -> Result<Self> {
        let mut archive = reader(file, passphrase)?;
        if archive.next_entry()?.as_deref() != Some(MANIFEST) {
            bail!("is damaged: it does not begin with {MANIFEST}");
        }
        let mut backup = Self {
            file: file.to_owned(),
            passphrase: passphrase.clone(),
            manifest: manifest(&whole(&mut archive)?)?,
            state: Files::new(),
            nodes: BTreeMap::new(),
            snapshots: BTreeMap::new(),
        };
        while let Some(name) = archive.next_entry()? {
            if let Some(product) = Product::ALL
                .into_iter()
                .find(|&product| name == snapshot_name(product))
            {
                let mut length = 0;
                while let Some(block) = archive.next_block()? {
                    length += block.len() as u64;
                }
                backup.snapshots.insert(product, length);
                continue;
            }
            let content = whole(&mut archive)?;
            if !is_plain(&name) {
                bail!("is damaged: `{name}` is not a name of a file in it");
            }
            if let Some(name) = name.strip_prefix(STATE) {
                backup.state.insert(name.to_owned(), content);
            } else if let Some((node, name)) = name
                .strip_prefix(NODES)
                .and_then(|rest| rest.split_once('/'))
            {
                let files = backup.nodes.entry(node.to_owned()).or_default();
                files.insert(name.to_owned(), content);
            } else {
                bail!(
                    "holds `{name}`, which this lb does not know: a newer lb wrote it; use that one"
                );
            }
        }
        Ok(backup)
    }

    /// The blocks of a product's snapshot, in order.
    ///
    /// # Errors
    /// When the file cannot be read any more, or has no such snapshot.
    pub fn snapshot(
        &self,
        product: Product,
    ) -> Result<impl Iterator<Item = std::io::Result<Vec<u8>>> + Send + 'static> {
        let place = || self.file.display().to_string();
        let mut archive = reader(&self.file, &self.passphrase).with_context(place)?;
        let wanted = snapshot_name(product);
        loop {
            match archive.next_entry().with_context(place)? {
                Some(name) if name == wanted => break,
                Some(_) => while archive.next_block().with_context(place)?.is_some() {},
                None => bail!("{}: has no snapshot of {product}", place()),
            }
        }
        let mut is_over = false;
        Ok(std::iter::from_fn(move || {
            if is_over {
                return None;
            }
            let block = archive.next_block().transpose();
            is_over = !matches!(block, Some(Ok(_)));
            block
        }))
    }
}

type Reader = ArchiveReader<EnvelopeReader<BufReader<File>>>;

fn reader(file: &Path, passphrase: &Secret) -> Result<Reader> {
    let open = File::open(file).context("cannot be read")?;
    Ok(ArchiveReader::new(EnvelopeReader::open(
        BufReader::new(open),
        passphrase,
    )?))
}

fn whole(archive: &mut Reader) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    while let Some(block) = archive.next_block()? {
        content.extend(block);
    }
    Ok(content)
}

fn manifest(text: &[u8]) -> Result<Manifest> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let Version { version } =
        serde_json::from_slice(text).with_context(|| format!("{MANIFEST} is damaged"))?;
    if version > VERSION {
        bail!(
            "has format {version}, this lb knows up to {VERSION}: a newer lb wrote it; use that one"
        );
    }
    serde_json::from_slice(text).with_context(|| format!("{MANIFEST} is damaged"))
}

fn snapshot_name(product: Product) -> String {
    format!("{}.snap", product.name())
}

/// Whether a name stays below the folder that it is put into.
fn is_plain(name: &str) -> bool {
    Path::new(name)
        .components()
        .all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(all: &[(&str, &str)]) -> Files {
        let pairs = all
            .iter()
            .map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()));
        pairs.collect()
    }

    #[test]
    fn what_went_in_comes_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lb-backup");
        let passphrase = Secret::new("right");
        let manifest = Manifest::new("id".into(), "name".into(), 7);
        let state = files(&[
            ("ca.pem", "ca"),
            ("certs/a/consul.pem", "cert"),
            ("empty", ""),
        ]);
        let node = files(&[("consul/node-id", "1"), ("nomad/client/client-id", "2")]);
        let large = vec![9u8; 3 << 20];
        let write = |extra: Option<&str>| {
            let file = File::create(&path).unwrap();
            let mut writer = BackupWriter::create(file, &passphrase, &manifest).unwrap();
            writer.put_node("a", &node).unwrap();
            writer.put_state(&state).unwrap();
            writer.begin_snapshot(Product::Consul).unwrap();
            writer.add(&large).unwrap();
            writer.add(b"end").unwrap();
            writer.end().unwrap();
            if let Some(name) = extra {
                writer.archive.put(name, b"").unwrap();
            }
            writer.finish().unwrap();
        };
        write(None);
        let backup = Backup::open(dir.path(), &passphrase).unwrap();
        assert_eq!((&backup.manifest, &backup.state), (&manifest, &state));
        assert_eq!(backup.nodes["a"], node);
        assert_eq!(backup.snapshots[&Product::Consul], large.len() as u64 + 3);
        let blocks: Result<Vec<_>, _> = backup.snapshot(Product::Consul).unwrap().collect();
        assert!(blocks.unwrap().concat() == [&large[..], b"end"].concat());
        let error = backup.snapshot(Product::Nomad).err().unwrap();
        assert!(
            error.to_string().contains("has no snapshot of nomad"),
            "{error}"
        );
        let error = Backup::open(dir.path(), &Secret::new("left"))
            .err()
            .unwrap();
        assert!(
            format!("{error:#}").contains("wrong passphrase"),
            "{error:#}"
        );
        // Names that would be put elsewhere, and what is not known.
        for (name, expected) in [
            ("state/../../etc/passwd", "is not a name of a file in it"),
            ("/etc/passwd", "is not a name of a file in it"),
            ("other", "which this lb does not know"),
        ] {
            write(Some(name));
            let error = Backup::open(dir.path(), &passphrase).err().unwrap();
            assert!(format!("{error:#}").contains(expected), "{name}: {error:#}");
        }
    }

    #[test]
    fn a_newer_manifest_is_refused() {
        for (text, expected) in [
            (r#"{"version":2}"#, "a newer lb wrote it"),
            (r#"{"version":1}"#, "damaged"),
            ("{", "damaged"),
        ] {
            let error = manifest(text.as_bytes()).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{text}: {error:#}");
        }
    }
}
