//! Programs of a node.
use super::super::spec::BinarySpec;
use super::{Inner, Releases};
use anyhow::{Result, bail};
pub(super) async fn install(_host: &Inner, _binary: &BinarySpec, _releases: &Releases) -> Result<String> {
    bail!("not built yet")
}
