//! JSON Web Tokens (RFC 7519): reading them, the keys that sign them, and which claims let a
//! request in. No I/O, no clock: tokens, keys and the time are arguments.
//!
//! ```text
//! text ─► token (parts, header) ─► keys (candidates by algorithm and kid) ─► signature ─► claims ─► rules
//! ```
//! Signatures are verified by `jsonwebtoken`; what strangers write is read here, strictly: a member
//! of JSON that stands twice, padding, a fourth part or a header that demands what is not
//! understood refuses the token.

mod claims;
mod fault;
mod json;
mod key;
mod keys;
mod keys_error;
mod pem;
mod token;

pub use claims::{Claims, Rules, text_of};
pub use fault::Fault;
pub use jsonwebtoken::Algorithm;
pub use key::Key;
pub use keys::KeySet;
pub use keys_error::KeysError;
pub use token::{TOKEN_MAX, Token};
