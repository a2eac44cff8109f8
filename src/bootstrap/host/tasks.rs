//! What is left on a node once its daemons are stopped.
use super::{Inner, Wipe};
use anyhow::{Result, bail};
use std::time::Duration;
pub(super) async fn stop(_host: &Inner, _patience: Duration) -> Result<usize> {
    bail!("not built yet")
}
pub(super) async fn wipe(_host: &Inner, _what: Wipe) -> Result<()> {
    bail!("not built yet")
}
