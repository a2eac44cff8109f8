//! What a node has of all that its specification names.
use super::super::spec::{NodeSpec, Observed};
use super::Inner;
use anyhow::{Result, bail};
pub(super) async fn run(_host: &Inner, _spec: &NodeSpec) -> Result<Observed> {
    bail!("not built yet")
}
