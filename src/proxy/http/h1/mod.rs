//! HTTP/1 as bytes: heads and chunked bodies, read and written. No socket, no clock.

pub mod buffer;
pub mod chunked;
pub mod client_lines;
pub mod date;
pub mod request_head;
pub mod response_head;
pub mod scan;
pub mod spelling;
pub mod syntax;
pub mod write_head;
