//! What the requests of a worker share and use again.

use super::h1::buffer::Buffers;
use super::h1::client_lines::Lines;
use super::h1::date::Date;
use super::server::active::Active;

/// What one worker uses again.
#[derive(Debug, Default)]
pub struct WorkerScratch {
    /// Idle buffers.
    pub buffers: Buffers,
    /// The time in letters.
    pub date: Date,
    /// Lines of clients that were here a moment ago.
    pub lines: Lines,
    /// Connections that are not parked.
    pub active: Active,
}
