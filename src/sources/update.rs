//! What sources send.

use std::sync::Arc;
use std::time::Instant;

use crate::catalog::command::CommandError;
use crate::catalog::command_list::CommandList;
use crate::catalog::source::SourceName;
use crate::catalog::{ServiceName, ServiceSnapshot};

/// A change in what a source knows. Sources send only what differs from what they sent before.
#[derive(Clone, Debug)]
pub enum Update {
    /// The whole present state of one service.
    Service {
        /// Which source says so.
        source: SourceName,
        /// What it says.
        snapshot: Arc<ServiceSnapshot>,
        /// When the change could first be seen.
        seen_at: Instant,
    },
    /// The service is not registered any more (or carries no routing tag any more).
    Gone {
        /// Which source says so.
        source: SourceName,
        /// Which one.
        service: ServiceName,
        /// When that could first be seen.
        seen_at: Instant,
    },
    /// The whole present list of route commands of a source.
    Commands {
        /// Which source says so.
        source: SourceName,
        /// The commands, in order: a later one acts on what earlier ones added.
        commands: CommandList,
        /// Lines that could not be understood.
        errors: Arc<[CommandError]>,
        /// When the change could first be seen.
        seen_at: Instant,
    },
    /// Every watch of the source has a response by now: what it sent so far is complete.
    Synced {
        /// Which source says so.
        source: SourceName,
    },
}
