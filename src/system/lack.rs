//! What may be short on this side, which says nothing about the other one: descriptors, ports,
//! memory.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};

use rustix::io::Errno;

/// The first of the descriptors that connections of clients and to instances leave alone.
static RESERVED_FROM: AtomicI32 = AtomicI32::new(i32::MAX);

/// Whether the system refused a socket, a port or memory (socket(2), accept(2), connect(2), ip(7)):
/// descriptors of the process (EMFILE) or of the machine (ENFILE), ports towards one address
/// (EADDRNOTAVAIL, and EAGAIN where the kernel says so), buffers and memory.
#[must_use]
pub fn is_exhaustion(error: &io::Error) -> bool {
    let lacks = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::ADDRNOTAVAIL,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::AGAIN,
    ];
    Errno::from_io_error(error).is_some_and(|errno| lacks.contains(&errno))
}

/// Keeps the descriptors from this number on for what has to work when others are used up: the
/// admin listener, files, Consul.
pub fn reserve_from(number: u64) {
    RESERVED_FROM.store(i32::try_from(number).unwrap_or(i32::MAX), Relaxed);
}

/// Whether a new descriptor is one of those. The system hands out the lowest that is free, so all
/// below are in use.
#[must_use]
pub fn is_reserved(descriptor: &impl AsRawFd) -> bool {
    descriptor.as_raw_fd() >= RESERVED_FROM.load(Relaxed)
}

/// What it means if a connection would need one of them.
#[must_use]
pub fn none_left() -> io::Error {
    Errno::MFILE.into()
}
