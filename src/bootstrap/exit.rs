//! Exit codes of `lb bootstrap`, beside 0 and 1, and the error that stands for one of them.

/// Wrong usage or description.
pub(super) const USAGE_ERROR: u8 = 2;
/// It differs (`plan`), or is degraded (`status`).
pub(super) const DIFFERS: u8 = 3;
/// Exit code of a command that was told not to go on, as shells count it.
pub(super) const INTERRUPTED: u8 = 130;

/// What the command line says cannot be meant, or does not fit the cluster: nothing was tried. Ends
/// in [`USAGE_ERROR`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(pub(super) String);
