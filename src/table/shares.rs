//! Which target gets which part of a route's traffic, by Fabio's rules for fixed weights
//! (`weight=`, `route weight`) joined with Consul's service weights among the rest.

/// What the options and weights of a target say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Demand {
    /// Fixed share; none, or not above 0: takes part in the rest.
    pub(super) fixed: Option<f64>,
    /// Consul's weight: part of the rest, in proportion.
    pub(super) weight: u32,
}

impl Demand {
    fn fixed(&self) -> Option<f64> {
        self.fixed
            .filter(|weight| weight.is_finite() && *weight > 0.0)
    }
}

/// Shares that add up to 1 (empty for no targets).
pub(super) fn shares(demands: &[Demand]) -> Vec<f64> {
    let fixed_sum: f64 = demands.iter().filter_map(Demand::fixed).sum();
    let rest_weight: f64 = demands
        .iter()
        .filter(|demand| demand.fixed().is_none())
        .map(|demand| f64::from(demand.weight))
        .sum();
    let scale = if rest_weight == 0.0 || fixed_sum > 1.0 {
        fixed_sum
    } else {
        1.0
    };
    let rest = (1.0 - fixed_sum).max(0.0);
    let share = |demand: &Demand| match demand.fixed() {
        Some(fixed) => fixed / scale,
        None if rest_weight == 0.0 => 0.0,
        None => rest * f64::from(demand.weight) / rest_weight,
    };
    demands.iter().map(share).collect()
}

/// Whether all shares are the same, but for rounding.
pub(super) fn is_even(shares: &[f64]) -> bool {
    shares.iter().all(|share| (share - shares[0]).abs() < 1e-9)
}

/// Slots of a full ring, before it is shortened.
const SLOTS: f64 = 10_000.0;

/// The turns of `rr` for unequal shares, as in Fabio: `floor(10000 · share)` slots, at least one
/// for a share above 0; targets are placed from the fewest to the most slots, evenly spread, in the
/// next free slot on collision. Slot counts with a common divisor are divided by it first: the
/// order of turns stays fair, and the ring small.
pub(super) fn ring(shares: &[f64]) -> Box<[u32]> {
    let slots_of = |share: &f64| {
        if *share > 0.0 {
            ((SLOTS * share + 1e-6).floor() as usize).max(1)
        } else {
            0
        }
    };
    let mut counts: Vec<(usize, usize)> = shares
        .iter()
        .map(slots_of)
        .enumerate()
        .map(|(at, n)| (n, at))
        .collect();
    let divisor = counts
        .iter()
        .fold(0, |divisor, (n, _)| gcd(divisor, *n))
        .max(1);
    counts.iter_mut().for_each(|(n, _)| *n /= divisor);
    counts.sort_unstable();
    let total: usize = counts.iter().map(|(n, _)| n).sum();
    let mut ring = vec![u32::MAX; total];
    let mut free = NextFree::new(total);
    for (count, target) in counts.into_iter().filter(|(count, _)| *count > 0) {
        for turn in 0..count {
            let slot = free.take(turn * total / count);
            ring[slot] = u32::try_from(target).unwrap_or(u32::MAX);
        }
    }
    ring.into()
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Finds the next free slot of a ring in nearly constant time, however full it is.
struct NextFree(Vec<usize>);

impl NextFree {
    fn new(total: usize) -> Self {
        Self((0..total).collect())
    }

    /// The first free slot at or after `slot`, around the end; there must be one.
    fn take(&mut self, slot: usize) -> usize {
        let total = self.0.len();
        let mut found = slot % total;
        let mut hops = Vec::new();
        // An entry that points elsewhere is taken, and points to where the search goes on.
        while self.0[found] != found && hops.len() <= total {
            hops.push(found);
            found = self.0[found];
        }
        let next = (found + 1) % total;
        self.0[found] = next;
        hops.into_iter().for_each(|hop| self.0[hop] = next);
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fixed(weight: f64) -> Demand {
        Demand {
            fixed: Some(weight),
            weight: 1,
        }
    }

    fn dynamic(weight: u32) -> Demand {
        Demand {
            fixed: None,
            weight,
        }
    }

    #[test]
    fn shares_follow_the_table_of_cases() {
        for (demands, expected) in [
            (vec![], vec![]),
            (vec![dynamic(1), dynamic(1)], vec![0.5, 0.5]),
            (vec![dynamic(1), dynamic(3)], vec![0.25, 0.75]),
            (vec![fixed(0.2), fixed(0.2)], vec![0.5, 0.5]),
            (vec![fixed(3.0), fixed(1.0)], vec![0.75, 0.25]),
            (
                vec![fixed(0.2), dynamic(1), dynamic(1)],
                vec![0.2, 0.4, 0.4],
            ),
            (
                vec![fixed(0.2), dynamic(1), dynamic(3)],
                vec![0.2, 0.2, 0.6],
            ),
            (
                vec![fixed(1.0), fixed(1.0), dynamic(1)],
                vec![0.5, 0.5, 0.0],
            ),
            (vec![fixed(1.0), dynamic(1)], vec![1.0, 0.0]),
            (
                vec![fixed(-1.0), fixed(f64::NAN), fixed(0.0)],
                vec![1.0 / 3.0; 3],
            ),
        ] {
            let got = shares(&demands);
            assert_eq!(got.len(), expected.len());
            assert!(
                got.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-9),
                "{demands:?}: {got:?}"
            );
        }
    }

    #[test]
    fn the_ring_spreads_turns() {
        assert_eq!(*ring(&[0.25, 0.75]), [0, 1, 1, 1]);
        assert_eq!(*ring(&[0.5, 0.5, 0.0]), [0, 1]);
        assert_eq!(
            ring(&[0.9999, 0.0001])
                .iter()
                .filter(|&&target| target == 1)
                .count(),
            1
        );
        // A share too small for a slot gets one.
        assert_eq!(
            ring(&[0.999_99, 0.000_01])
                .iter()
                .filter(|&&target| target == 1)
                .count(),
            1
        );
    }

    proptest! {
        #[test]
        fn shares_add_up_and_the_ring_keeps_them(
            demands in prop::collection::vec((prop::option::of(0.0..2.0f64), 1u32..10), 1..12)
        ) {
            let demands: Vec<Demand> = demands.into_iter().map(|(fixed, weight)| Demand { fixed, weight }).collect();
            let shares = shares(&demands);
            prop_assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            let ring = ring(&shares);
            prop_assert!(!ring.is_empty() && ring.len() <= 10_000 + demands.len());
            for (target, share) in shares.iter().enumerate() {
                let turns = ring.iter().filter(|&&slot| slot as usize == target).count() as f64;
                prop_assert!((turns / ring.len() as f64 - share).abs() < 0.002, "{shares:?}");
            }
        }
    }
}
