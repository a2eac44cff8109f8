//! The client's side: its connection, and the two readers of requests.

pub mod active;
pub mod conn_context;
pub mod connection;
pub mod downstream;
pub mod end;
pub mod h1;
pub mod h1_response;
pub mod h1_stream;
pub mod h2;
pub mod linger;
pub mod parked;
pub mod prepared;
mod replaced;
pub mod request_note;
pub mod tunnel;
pub mod watchdog;
