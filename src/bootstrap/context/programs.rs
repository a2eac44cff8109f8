//! The programs of this machine: which versions they are, what tells one content from another, and
//! which were used before.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::digest::{Context, SHA256};

use crate::bootstrap::nodes::spec::{hex, sha256};
use crate::bootstrap::render::{Version, Versions};
use crate::bootstrap::state::Applied;
use crate::bootstrap::topology::{BinarySource, Cluster, Product, Scope};

/// Programs that are named nowhere stay what they were, so that a plain `up` does not take an
/// upgrade back. A file that is there no more is not held to.
pub(super) fn remember_sources(cluster: &mut Cluster, before: &Applied, unnamed: &[Product]) {
    for product in unnamed {
        let Some(source) = before
            .sources
            .get(product.name())
            .cloned()
            .map(BinarySource::from)
        else {
            continue;
        };
        if matches!(&source, BinarySource::File(path) if !path.is_file()) {
            continue;
        }
        match product {
            Product::Consul => cluster.consul = source,
            Product::Nomad => cluster.nomad = Some(source),
        }
    }
}

/// Tells one content of a program from another without reading it: where it is, how long, and when
/// it was written.
pub(super) fn identity(path: &Path) -> Result<String> {
    let path = fs::canonicalize(path).with_context(|| path.display().to_string())?;
    let meta = fs::metadata(&path).with_context(|| path.display().to_string())?;
    Ok(sha256(
        format!(
            "{}\0{}\0{}\0{}",
            path.display(),
            meta.len(),
            meta.mtime(),
            meta.mtime_nsec()
        )
        .as_bytes(),
    ))
}

/// SHA-256 of a file.
pub(super) fn digest(path: &Path) -> Result<String> {
    let mut file = fs::File::open(path).with_context(|| path.display().to_string())?;
    let mut hash = Context::new(&SHA256);
    let mut chunk = vec![0; 1 << 20];
    loop {
        match file
            .read(&mut chunk)
            .with_context(|| path.display().to_string())?
        {
            0 => return Ok(hex(hash.finish().as_ref())),
            read => hash.update(&chunk[..read]),
        }
    }
}

/// The versions of the programs, which tell them, or of the description.
pub(super) fn versions(cluster: &Cluster, scope: Scope) -> Result<Versions> {
    let nomad = cluster.nomad.as_ref().filter(|_| scope == Scope::All);
    let versions = Versions {
        consul: version(&cluster.consul)?,
        nomad: nomad.map(version).transpose()?,
        lb: std::env::current_exe().ok(),
        privileged: !cluster.is_local() || is_root(),
    };
    match versions.too_old() {
        old if old.is_empty() => Ok(versions),
        old => bail!(old.join("; ")),
    }
}

fn version(source: &BinarySource) -> Result<Version> {
    match source {
        BinarySource::Release(version) => Version::parse(version),
        BinarySource::File(path) => {
            let output = Command::new(path)
                .arg("version")
                .output()
                .with_context(|| format!("{}: cannot be run on this machine", path.display()))?;
            Version::parse(&String::from_utf8_lossy(&output.stdout))
                .with_context(|| path.display().to_string())
        }
    }
}

/// Whether this process is root's.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}
