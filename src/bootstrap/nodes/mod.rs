//! The nodes: what each shall have (`spec`), the difference to what it has (`plan`), and the way to
//! look and act there by small POSIX sh scripts, run by `sh` on this machine or over the user's own
//! `ssh`.
//!
//! ```text
//!   Host ─▶ script (text, read by `sh` from its stdin) ─▶ channel ─▶ sh | ssh … [sudo -n] sh
//!    │                                                      └─ one connection per node, shared through ControlDir
//!    └──▶ Dialer ─▶ TcpStream | ssh -W      (bytes to an address as seen from that node)
//! ```
//!
//! One code path serves both targets. Scripts and contents travel over stdin, so no secret is ever
//! an argument of a process, and a script is read whole before its first line runs, so a broken
//! connection does nothing by halves. What is to be done is decided elsewhere (`plan`); what a node
//! shall have comes from `render`.

mod binaries;
mod channel;
mod command;
mod control;
mod daemons;
mod dialer;
mod files;
mod host;
mod identity;
mod lb_service;
mod observe;
mod package;
mod packages;
pub mod plan;
mod preflight;
mod probe;
mod reboot;
mod release;
mod resolver;
mod script;
mod service_tokens;
mod sockets;
pub mod spec;
mod tasks;
mod unit_drift;
mod units;

pub use channel::Unreachable;
pub use control::ControlDir;
pub use dialer::{Dialer, Stream, Tunnel, Tunnelled};
pub use host::Host;
pub use package::{CNI_FOLDERS, Package};
pub use preflight::{Facts, Preflight, TakenPort};
pub use probe::{Probe, Reached};
pub use release::Releases;
pub use resolver::{RESOLVER_FILE, RESOLVER_FOLDER};
pub use tasks::Wipe;
