//! How many clients are restarted at a time, and which ones together: no service is to lose more than
//! half of its instances at once.

use std::collections::{BTreeMap, BTreeSet};

/// One of so many clients at a time; of many, one in ten. What `--batch` says instead counts up to half
/// of them.
pub(super) fn size(clients: usize, asked: Option<usize>) -> usize {
    let half = (clients / 2).max(1);
    asked.unwrap_or(clients / 10).clamp(1, half)
}

/// Puts clients, each with the services that it has, into batches of at most this size. The only
/// instance of a service is away for a moment in any company.
pub(super) fn batches<T>(clients: Vec<(T, BTreeSet<String>)>, size: usize) -> Vec<Vec<T>> {
    let mut totals: BTreeMap<String, usize> = BTreeMap::new();
    for service in clients.iter().flat_map(|(_, services)| services) {
        *totals.entry(service.clone()).or_default() += 1;
    }
    let mut all: Vec<Batch<T>> = Vec::new();
    for (client, services) in clients {
        let fits =
            |batch: &Batch<T>| batch.clients.len() < size && batch.spares(&services, &totals);
        let place = match all.iter().position(fits) {
            Some(place) => place,
            None => {
                all.push(Batch {
                    clients: Vec::new(),
                    away: BTreeMap::new(),
                });
                all.len() - 1
            }
        };
        let batch = &mut all[place];
        batch.clients.push(client);
        for service in services {
            *batch.away.entry(service).or_default() += 1;
        }
    }
    all.into_iter().map(|batch| batch.clients).collect()
}

struct Batch<T> {
    clients: Vec<T>,
    /// How many instances of each service are on them.
    away: BTreeMap<String, usize>,
}

impl<T> Batch<T> {
    /// Whether enough is left of each of these services with one more instance away.
    fn spares(&self, services: &BTreeSet<String>, totals: &BTreeMap<String, usize>) -> bool {
        services.iter().all(|service| {
            let away = self.away.get(service).copied().unwrap_or(0) + 1;
            let total = totals.get(service).copied().unwrap_or(0);
            total <= 1 || away * 2 <= total
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_worked_on_at_a_time_and_never_more_than_half() {
        for (clients, asked, expected) in [
            (0, None, 1),
            (1, None, 1),
            (19, None, 1),
            (20, None, 2),
            (100, None, 10),
            (3, Some(1), 1),
            (3, Some(5), 1),
            (10, Some(4), 4),
            (10, Some(9), 5),
            (100, Some(1), 1),
        ] {
            assert_eq!(size(clients, asked), expected, "{clients} {asked:?}");
        }
    }

    #[test]
    fn services_keep_half_of_their_instances() {
        let of = |all: &[(&'static str, &str)]| {
            let client = |&(name, services): &(&'static str, &str)| {
                let services = services.split_whitespace().map(str::to_owned);
                (name, services.collect())
            };
            all.iter().map(client).collect::<Vec<_>>()
        };
        for (clients, size, expected) in [
            (of(&[]), 3, vec![]),
            (
                of(&[("a", ""), ("b", ""), ("c", "")]),
                2,
                vec![vec!["a", "b"], vec!["c"]],
            ),
            (
                of(&[("a", "web"), ("b", "web"), ("c", ""), ("d", "")]),
                2,
                vec![vec!["a", "c"], vec!["b", "d"]],
            ),
            // Three instances: one at a time. Single ones go with others.
            (
                of(&[("a", "web db"), ("b", "web"), ("c", "web"), ("d", "one")]),
                4,
                vec![vec!["a", "d"], vec!["b"], vec!["c"]],
            ),
            (
                of(&[("a", "lb"), ("b", "lb"), ("c", "lb"), ("d", "lb")]),
                4,
                vec![vec!["a", "b"], vec!["c", "d"]],
            ),
        ] {
            assert_eq!(batches(clients, size), expected);
        }
    }
}
