//! `[retry]`: when a request is tried on another instance.

use super::declare::{Checked, section};

section! {
    /// When a request is tried on another instance. A failed connect always is; a connection that
    /// died before the first byte of a response, for idempotent requests; nothing after the first
    /// byte.
    pub struct RetryConfig is Once "retry" {
        /// Most attempts for one request, the first included. 1: none.
        attempts: u32 = "4" in (1, 10);

        /// Retries (but for failed connects) as a share of recent requests, in percent: keeps a
        /// sick service from being flooded.
        budget_percent: u32 = "20" in (0, 100);

        /// Retries per second and worker that are granted even when traffic is low.
        budget_min: u32 = "10" in (0, 1_000_000);
    }
}

impl Checked for RetryConfig {}
