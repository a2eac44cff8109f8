//! Talks to systemd when it asked for it (`NOTIFY_SOCKET`, `WATCHDOG_USEC`); does nothing otherwise.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

/// Clients are served.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The end has begun.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Still alive.
pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How often [`alive`] is wanted: half of what systemd waits for.
pub(super) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn tell(states: &[NotifyState<'_>]) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    // The crate knows paths alone; a leading `@` is a name without a file (sd_notify(3)).
    let told = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => tell_by_name(name, states),
        None => sd_notify::notify(states),
    };
    if let Err(error) = told {
        tracing::debug!(%error, "systemd does not listen");
    }
}

fn tell_by_name(name: &[u8], states: &[NotifyState<'_>]) -> io::Result<()> {
    let lines: String = states.iter().map(|state| format!("{state}\n")).collect();
    let socket = UnixDatagram::unbound()?;
    socket.send_to_addr(lines.as_bytes(), &SocketAddr::from_abstract_name(name)?)?;
    Ok(())
}
