//! What became of requests beside their status: responses made here by reason, and calls of gRPC by
//! their own status.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Every reason for a response made here that is not what the client wanted. The access log calls
/// them the same (`error`).
pub(crate) const PROXY_ERRORS: [&str; 29] = [
    "bad_request",
    "malformed",
    "too_many_headers",
    "too_many_streams",
    "too_slow",
    "tls",
    "client_stalled",
    "no_route",
    "misdirected",
    "no_instance",
    "access_denied",
    "unauthorized",
    "forbidden",
    "auth_unknown",
    "auth_busy",
    "auth_unavailable",
    "auth_keys_missing",
    "rate_limited",
    "route_busy",
    "body_too_large",
    "policy_unusable",
    "connect",
    "connect_timeout",
    "exhausted",
    "upstream",
    "unusable",
    "response_timeout",
    "request_timeout",
    "other",
];

/// Labels of gRPC's status codes (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>); the
/// last takes any other number.
pub(crate) const GRPC_STATUSES: [&str; 18] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16",
    "other",
];

/// Counters of one service, or of requests that have none.
#[derive(Debug, Default)]
pub struct Outcomes {
    errors: [AtomicU64; PROXY_ERRORS.len()],
    /// Made by the first call.
    grpc: OnceLock<Box<[AtomicU64; GRPC_STATUSES.len()]>>,
}

impl Outcomes {
    /// Counts a response made here; a reason that is not in the list counts as `other`.
    pub fn record_error(&self, reason: &str) {
        let at = PROXY_ERRORS
            .iter()
            .position(|known| *known == reason)
            .unwrap_or(PROXY_ERRORS.len() - 1);
        self.errors[at].fetch_add(1, Relaxed);
    }

    /// Counts a finished call of gRPC.
    pub fn record_call(&self, status: u32) {
        let last = GRPC_STATUSES.len() - 1;
        let at = usize::try_from(status).unwrap_or(last).min(last);
        self.grpc.get_or_init(Box::default)[at].fetch_add(1, Relaxed);
    }

    /// Reasons that occurred, and how often.
    pub fn errors(&self) -> impl Iterator<Item = (&'static str, u64)> {
        counted(&PROXY_ERRORS, &self.errors)
    }

    /// Statuses that occurred, and how often.
    pub fn calls(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.grpc
            .get()
            .into_iter()
            .flat_map(|counts| counted(&GRPC_STATUSES, &**counts))
    }
}

fn counted<'a>(
    labels: &'static [&'static str],
    counts: &'a [AtomicU64],
) -> impl Iterator<Item = (&'static str, u64)> + 'a {
    let counts = counts.iter().map(|count| count.load(Relaxed));
    labels
        .iter()
        .copied()
        .zip(counts)
        .filter(|(_, count)| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::CLIENT_FAULTS;

    #[test]
    fn faults_of_clients_that_get_a_response_have_their_own_labels() {
        for fault in CLIENT_FAULTS {
            // Without its PROXY header a connection is closed without a response.
            assert_eq!(
                PROXY_ERRORS.contains(&fault),
                fault != "proxy_header",
                "{fault}"
            );
        }
    }

    #[test]
    fn labels_are_bounded_whatever_is_counted() {
        let outcomes = Outcomes::default();
        assert_eq!(
            (outcomes.errors().count(), outcomes.calls().count()),
            (0, 0)
        );
        for reason in ["no_route", "no_route", "something new"] {
            outcomes.record_error(reason);
        }
        for status in [0, 14, 16, 17, 4711, u32::MAX] {
            outcomes.record_call(status);
        }
        assert_eq!(
            outcomes.errors().collect::<Vec<_>>(),
            [("no_route", 2), ("other", 1)]
        );
        assert_eq!(
            outcomes.calls().collect::<Vec<_>>(),
            [("0", 1), ("14", 1), ("16", 1), ("other", 3)]
        );
    }
}
