//! What the operating system tells a process: signals, and that something is short.

pub mod lack;
pub mod signals;
