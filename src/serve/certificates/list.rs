//! Which certificates there are, for the admin listener.

use super::acme::States;
use super::present::Stores;
use crate::admin::CertificateRow;
use crate::system::unix_now;

/// A row for each pair; of those that are ordered, one for each name.
pub(super) fn rows(stores: &Stores, states: &States) -> Vec<CertificateRow> {
    let now = unix_now();
    let mut rows = Vec::new();
    for (source, store) in stores {
        let kind = store.source_kind();
        let of_orders = states.of(source);
        for state in &of_orders {
            rows.push(CertificateRow {
                source: source.clone(),
                kind,
                name: state.name.clone(),
                state: match state.not_after {
                    Some(end) if end <= now && state.state == "valid" => "expired",
                    _ => state.state,
                },
                not_after: state.not_after,
                reason: state.reason.clone(),
                next_try: state.next_try,
            });
        }
        let told = |name: &String| of_orders.iter().any(|state| state.name == *name);
        for (name, not_after) in store.expiries() {
            if told(&name) {
                continue;
            }
            rows.push(CertificateRow {
                source: source.clone(),
                kind,
                name,
                state: if not_after <= now { "expired" } else { "valid" },
                not_after: Some(not_after),
                reason: None,
                next_try: None,
            });
        }
    }
    rows
}
