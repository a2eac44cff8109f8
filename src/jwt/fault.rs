//! Why a token is refused.

/// Why a token is refused: fixed texts, that clients and logs may see. Nothing of the token is in
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Longer than [`TOKEN_MAX`](super::TOKEN_MAX).
    #[error("the token is too long")]
    TooLong,
    /// Not three parts of base64url without padding.
    #[error("the token is not made of three parts in base64url")]
    Form,
    /// The header is not a JSON object, or a member stands twice, or has the wrong type.
    #[error("the header of the token cannot be read")]
    Header,
    /// The header demands what is not understood here: `crit`, `b64`, compression, another kind
    /// of token.
    #[error("the header of the token demands what is not supported")]
    Unsupported,
    /// `none`, an unknown one, or one that is not configured.
    #[error("the algorithm of the token is not accepted")]
    Algorithm,
    /// No key fits the header.
    #[error("the token is signed with an unknown key")]
    UnknownKey,
    /// No key that fits has made the signature.
    #[error("the signature of the token is wrong")]
    Signature,
    /// The claims are not a JSON object, or a member stands twice, or has the wrong type.
    #[error("the claims of the token cannot be read")]
    Claims,
    /// There is no `exp`, and there must be one.
    #[error("the token has no expiry")]
    NoExpiry,
    /// `exp` is over.
    #[error("the token expired")]
    Expired,
    /// `nbf` is not yet.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `iss` is another one.
    #[error("the token is of another issuer")]
    Issuer,
    /// `aud` names none of ours.
    #[error("the token is for another audience")]
    Audience,
    /// A claim that is required is not there, or has another value. The only one that a new token
    /// of the same kind does not mend.
    #[error("the token lacks a claim that is required")]
    Insufficient,
}
