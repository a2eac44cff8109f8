//! How serving a connection of HTTP/1 ends.

use super::tunnel::Tunnel;
use crate::proxy::http::h1::syntax::Violation;

/// How serving a connection ends.
#[derive(Debug)]
pub enum End {
    /// After these last bytes, in good order.
    Orderly(&'static [u8]),
    /// As the client wanted it: everything it sent was read, and every response is written.
    Done,
    /// At once.
    Abrupt,
    /// Not at all: it has been quiet for a while, and nothing is held for it.
    Park,
    /// What was read is not a request: it is refused.
    Refuse(Violation),
    /// The bytes of the connection are not HTTP any more.
    Tunnel(Box<Tunnel>),
}
