//! The instance's side: which one gets the request, and the two drivers that send it.

pub mod attempts;
pub mod error;
pub mod exchange;
pub mod h1;
pub mod h1_body;
pub mod h1_send;
pub mod h2;
pub mod quiet;
pub mod response;
