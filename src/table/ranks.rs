//! The commands of one source in order, and what to do to get from one list to the next. Pure.
//!
//! Each command has a rank that stays while the command does, with room between any two: so a line
//! put into the middle of 60,000 is one step more, and no step behind it is touched. Where the room
//! is used up, all get new ranks.

use std::collections::HashMap;
use std::sync::Arc;

use crate::catalog::command::Command;
use crate::catalog::command_list::{CommandList, common_ends, same};

/// Room between two ranks: it halves with each line that comes at the same place.
const GAP_MAX: u64 = 1 << 40;
/// The middle of all ranks: there is as much room before the first as behind the last.
const MIDDLE: u64 = 1 << 63;

/// A command and its rank.
pub(super) type Ranked = (u64, Arc<Command>);

#[derive(Debug, Default)]
pub(super) struct RankedList {
    commands: CommandList,
    ranks: Vec<u64>,
}

/// What is between two lists.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Difference {
    /// Out of force.
    pub(super) gone: Vec<Ranked>,
    /// In force, at these ranks.
    pub(super) come: Vec<Ranked>,
}

impl RankedList {
    pub(super) fn replace(&mut self, next: CommandList) -> Difference {
        let (head, tail) = common_ends(&self.commands, &next, same);
        let (old_end, new_end) = (self.commands.len() - tail, next.len() - tail);
        let kept = kept(&self.commands[head..old_end], &next[head..new_end]);
        let difference = match self.ranks_between(head, old_end, &kept) {
            Some(ranks) => {
                let mut is_kept = vec![false; old_end - head];
                kept.iter().flatten().for_each(|at| is_kept[*at] = true);
                let gone = self
                    .ranked(head..old_end)
                    .zip(&is_kept)
                    .filter(|(_, kept)| !**kept);
                let gone = gone.map(|(ranked, _)| ranked).collect();
                let come = ranks
                    .iter()
                    .zip(&next[head..new_end])
                    .zip(&kept)
                    .filter(|(_, kept)| kept.is_none());
                let come = come
                    .map(|((rank, command), _)| (*rank, Arc::clone(command)))
                    .collect();
                self.ranks.splice(head..old_end, ranks);
                Difference { gone, come }
            }
            None => {
                let gone = self.ranked(0..self.ranks.len()).collect();
                self.ranks = fresh(next.len());
                Difference {
                    gone,
                    come: self
                        .ranks
                        .iter()
                        .copied()
                        .zip(next.iter().cloned())
                        .collect(),
                }
            }
        };
        self.commands = next;
        difference
    }

    fn ranked(&self, range: std::ops::Range<usize>) -> impl Iterator<Item = Ranked> {
        self.ranks[range.clone()]
            .iter()
            .copied()
            .zip(self.commands[range].iter().cloned())
    }

    /// Ranks for what takes the place of `head..end`, of which some is kept; none when there is no
    /// room for them.
    fn ranks_between(&self, head: usize, end: usize, kept: &[Option<usize>]) -> Option<Vec<u64>> {
        let mut ranks = Vec::with_capacity(kept.len());
        let mut low = head.checked_sub(1).map(|before| self.ranks[before]);
        for run in kept.chunk_by(|one, other| one.is_none() && other.is_none()) {
            if let [Some(at)] = run {
                ranks.push(self.ranks[head + at]);
            } else {
                let next = kept.get(ranks.len() + run.len()).copied().flatten();
                let high = self.ranks.get(next.map_or(end, |at| head + at)).copied();
                ranks.extend(room(low, high, run.len())?);
            }
            low = ranks.last().copied();
        }
        Some(ranks)
    }
}

/// Which command of `old` each one of `new` is, in the order of both; the others are new.
fn kept(old: &[Arc<Command>], new: &[Arc<Command>]) -> Vec<Option<usize>> {
    let places: HashMap<*const Command, usize> = old
        .iter()
        .enumerate()
        .map(|(at, command)| (Arc::as_ptr(command), at))
        .collect();
    let mut next = 0;
    let place = |command: &Arc<Command>| {
        let at = places
            .get(&Arc::as_ptr(command))
            .copied()
            .filter(|at| *at >= next)?;
        next = at + 1;
        Some(at)
    };
    new.iter().map(place).collect()
}

/// This many ranks between two; none when they do not fit.
fn room(low: Option<u64>, high: Option<u64>, count: usize) -> Option<Vec<u64>> {
    let (count, span) = (count as u64, GAP_MAX.checked_mul(count as u64 + 1)?);
    let (first, step) = match (low, high) {
        (None, None) => return Some(fresh(usize::try_from(count).ok()?)),
        (Some(low), None) => (low.checked_add(span).map(|_| low)?, GAP_MAX),
        (None, Some(high)) => (high.checked_sub(span)?, GAP_MAX),
        (Some(low), Some(high)) => (low, (high - low) / (count + 1)),
    };
    (step > 0).then(|| (1..=count).map(|number| first + step * number).collect())
}

/// Ranks for a whole list.
fn fresh(count: usize) -> Vec<u64> {
    let count = count as u64;
    let gap = GAP_MAX.min(u64::MAX / (count + 1));
    let first = MIDDLE - gap * (count / 2);
    (0..count).map(|number| first + gap * number).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::catalog::command::parse_commands;

    fn commands(count: usize) -> Vec<Arc<Command>> {
        let text: String = (0..count)
            .map(|number| format!("route add s /{number} http://10.0.0.1:80/\n"))
            .collect();
        parse_commands(&text).0.into_iter().map(Arc::new).collect()
    }

    /// Takes `next`, checks that the difference leads there, and says how large it is.
    fn step(
        list: &mut RankedList,
        present: &mut BTreeMap<u64, Arc<Command>>,
        next: &[Arc<Command>],
    ) -> (usize, usize) {
        let Difference { gone, come } = list.replace(next.iter().cloned().collect());
        let sizes = (gone.len(), come.len());
        for (rank, command) in gone {
            assert!(
                present
                    .remove(&rank)
                    .is_some_and(|was| Arc::ptr_eq(&was, &command))
            );
        }
        for (rank, command) in come {
            assert!(
                present.insert(rank, command).is_none(),
                "one command a rank"
            );
        }
        assert!(present.values().eq(next), "in order");
        sizes
    }

    #[test]
    fn a_change_is_as_large_as_what_changed() {
        let all = commands(2000);
        let (mut list, mut present) = Default::default();
        let mut now = all[..1000].to_vec();
        assert_eq!(step(&mut list, &mut present, &now), (0, 1000));
        assert_eq!(step(&mut list, &mut present, &now), (0, 0));
        // The same said again by others: nothing to do.
        assert_eq!(
            step(&mut RankedList::default(), &mut BTreeMap::new(), &now),
            (0, 1000)
        );
        now[500] = Arc::clone(&all[1500]);
        assert_eq!(step(&mut list, &mut present, &now), (1, 1));
        now.insert(3, Arc::clone(&all[1501]));
        now.remove(900);
        assert_eq!(step(&mut list, &mut present, &now), (1, 1));
        now.insert(0, Arc::clone(&all[1502]));
        now.push(Arc::clone(&all[1503]));
        assert_eq!(step(&mut list, &mut present, &now), (0, 2));
        now.clear();
        assert_eq!(step(&mut list, &mut present, &now), (1002, 0));
    }

    #[test]
    fn equal_commands_of_another_making_are_kept() {
        let (mut list, mut present) = Default::default();
        step(&mut list, &mut present, &commands(3));
        assert_eq!(
            list.replace(commands(3).into_iter().collect()),
            Difference::default()
        );
    }

    #[test]
    fn where_there_is_no_room_all_get_new_ranks() {
        let all = commands(200);
        let (mut list, mut present) = Default::default();
        let mut now = all[..2].to_vec();
        step(&mut list, &mut present, &now);
        let mut whole = 0;
        for command in &all[2..] {
            now.insert(1, Arc::clone(command));
            whole += usize::from(step(&mut list, &mut present, &now).0 > 0);
        }
        assert!((1..=200 / 30).contains(&whole), "{whole} times");
        assert_eq!(room(Some(u64::MAX - 1), None, 1), None);
        assert_eq!(room(None, Some(5), 1), None);
        assert_eq!(room(Some(7), Some(9), 1), Some(vec![8]));
        assert_eq!(room(Some(7), Some(9), 2), None);
    }

    proptest! {
        #[test]
        fn every_difference_leads_to_its_list(lists in prop::collection::vec(prop::collection::vec(0..12usize, 0..16), 1..8)) {
            let all = commands(12);
            let (mut list, mut present) = Default::default();
            for numbers in lists {
                let next: Vec<_> = numbers.iter().map(|number| Arc::clone(&all[*number])).collect();
                step(&mut list, &mut present, &next);
            }
        }
    }
}
