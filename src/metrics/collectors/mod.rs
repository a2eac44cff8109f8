//! Everything that lb exposes under names of its own, as collectors of a registry: one for each
//! subject.
//!
//! ```text
//! atomics of services and listeners ─┐
//! figures of the control loop ───────┼─► collectors ─► Registry ─► exposition::encode ─► scraper
//! /proc ─────────────────────────────┘
//! ```
//! Nothing here counts. A family without samples is left out. A service that had no traffic of a
//! kind has no series of that kind, so that a thousand quiet services do not cost a thousand empty
//! histograms; from its first event on, every bounded label value is shown.

mod control;
mod listeners;
mod process;
mod program;
mod services;

use prometheus::Registry;

use super::collector::register;
use super::process::Process;
use super::{Metrics, names};

/// A registry of everything that `metrics` holds, without the figures of the process.
///
/// # Errors
/// Two families with the same name.
pub fn registry(metrics: &Metrics) -> prometheus::Result<Registry> {
    let registry = Registry::new();
    let of = metrics.clone();
    register(&registry, names::SERVICES.iter().copied(), move || {
        services::families(&of)
    })?;
    let of = metrics.clone();
    register(&registry, names::LISTENERS.iter().copied(), move || {
        listeners::families(&of)
    })?;
    let of = metrics.clone();
    register(&registry, names::CONTROL.iter().copied(), move || {
        control::families(&of.control())
    })?;
    let of = metrics.clone();
    register(&registry, names::PROGRAM.iter().copied(), move || {
        program::families(&of)
    })?;
    Ok(registry)
}

/// Adds the figures of the process, which `read` reads for each scrape.
///
/// # Errors
/// The registry has them already.
pub fn register_process(
    registry: &Registry,
    read: impl Fn() -> Process + Send + Sync + 'static,
) -> prometheus::Result<()> {
    register(registry, names::PROCESS.iter().copied(), move || {
        process::families(&read())
    })
}

#[cfg(test)]
mod tests;
