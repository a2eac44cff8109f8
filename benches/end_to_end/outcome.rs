//! What came back of the requests of one round.

/// Counts of responses.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Outcome {
    /// Responses as they should be.
    pub(crate) good: u64,
    /// Those among them that the proxy gave by itself, as it should.
    pub(crate) by_proxy: u64,
    /// All others: wrong status, broken connection, timeout.
    pub(crate) failed: u64,
}
