//! Why there are no keys in a text.

/// Why there are no keys in a text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// It is neither a set of keys in JSON nor PEM.
    #[error("it is neither a set of keys in JSON (JWKS) nor public keys in PEM")]
    Form,
    /// Not one of them can be used.
    #[error(
        "it holds no key that can be used ({0} left out): RSA of 2048 bits or more, P-256, P-384 and Ed25519 can"
    )]
    NoneUsable(usize),
    /// More than anything reasonable.
    #[error("it holds more than 256 keys")]
    TooMany,
    /// A private key, which has no business here.
    #[error("it holds a private key: write the public key into it")]
    Private,
}
