//! Users, folders and files of a node.
use super::super::spec::{DirSpec, FileSpec, Owner};
use super::Inner;
use anyhow::{Result, bail};
pub(super) async fn claim(_host: &Inner, _cluster_id: &str) -> Result<()> {
    bail!("not built yet")
}
pub(super) async fn ensure_users(_host: &Inner, _users: &[Owner]) -> Result<()> {
    bail!("not built yet")
}
pub(super) async fn ensure_directories(_host: &Inner, _dirs: &[DirSpec]) -> Result<()> {
    bail!("not built yet")
}
pub(super) async fn write(_host: &Inner, _files: &[&FileSpec]) -> Result<()> {
    bail!("not built yet")
}
pub(super) async fn remove(_host: &Inner, _paths: &[String]) -> Result<()> {
    bail!("not built yet")
}
