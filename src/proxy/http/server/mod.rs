//! The client's side: its connection, and the two readers of requests.

pub mod active;
pub mod connection;
pub mod h1;
pub mod h1_response;
pub mod h1_stream;
pub mod h2;
pub mod moving_deadline;
pub mod parked;
pub mod plan;
