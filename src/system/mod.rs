//! What the process has to know of itself: signals, that something is short, that a part has failed.

pub mod lack;
pub mod signals;
pub mod vital;
