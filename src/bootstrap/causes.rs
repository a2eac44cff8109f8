//! What a symptom in a log or an answer means, and what to do about it: the catalogue, as a table. Pure.

/// The likely cause of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause {
    /// What is wrong.
    pub text: &'static str,
    /// What to do.
    pub advice: &'static str,
}

/// Looks for a known symptom in the end of the node's log, then in what its API answered.
#[must_use]
pub fn find(log: &str, api_error: &str) -> Option<Cause> {
    let _ = (log, api_error);
    None
}
