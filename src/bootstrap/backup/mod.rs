//! A backup: one encrypted file that holds what a cluster cannot be made again without, namely the
//! state folder, the snapshots of Consul and Nomad, and by what ids and keys its nodes are known.
//!
//! ```text
//!   DIR/ID.lb-backup = envelope(archive(backup.json, nodes/NAME/…, state/…, consul.snap, nomad.snap))
//! ```
//! What goes in and what is done with it is the commands' business (`backup`, `restore`).
//! See docs/decisions/0021-backups.md.

mod archive;
mod content;
mod envelope;
mod folder;

pub use content::{Backup, BackupWriter, Manifest};
pub use folder::BackupFolder;
