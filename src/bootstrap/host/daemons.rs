//! Daemons of a node.
use super::super::spec::{DaemonSpec, Stamps};
use super::super::topology::Product;
use super::Inner;
use anyhow::{Result, bail};
use std::time::Duration;
pub(super) async fn start(_host: &Inner, _daemon: &DaemonSpec) -> Result<()> {
    bail!("not built yet")
}
pub(super) async fn stop(_host: &Inner, _daemon: &DaemonSpec, _patience: Duration) -> Result<()> {
    bail!("not built yet")
}
pub(super) async fn reload(_host: &Inner, _daemon: &DaemonSpec) -> Result<()> {
    bail!("not built yet")
}
pub(super) async fn stamp(_host: &Inner, _product: Product, _stamps: &Stamps) -> Result<()> {
    bail!("not built yet")
}
pub(super) async fn log(_host: &Inner, _product: Product, _lines: usize) -> Result<String> {
    bail!("not built yet")
}
