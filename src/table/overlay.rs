//! Route commands (`routes_file`, static routes) laid over the routes of tags.
//!
//! Commands act after all tags and in their order, as in Fabio. Since each command looks at one
//! target of one route at a time, a route is compiled by running only the commands that name its
//! place (or none) over its own targets: a change of one route never replays the whole list.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::draft::{Admission, Draft, Position};
use crate::catalog::ServiceName;
use crate::catalog::tag::RouteKey;

/// One command, its targets resolved.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Adds a target, unless the same one is there.
    Add(Draft),
    /// Removes the targets that match.
    Del {
        service: Option<ServiceName>,
        url: Option<Arc<str>>,
        tags: Vec<Arc<str>>,
    },
    /// Splits a fixed share over the targets that match.
    Weight {
        service: Option<ServiceName>,
        weight: f64,
        tags: Vec<Arc<str>>,
    },
}

/// All commands of all sources, found by place.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    /// By place, each list in order.
    by_key: HashMap<RouteKey, Steps, foldhash::fast::FixedState>,
    /// Those that name no place, in order.
    everywhere: Steps,
}

/// Nearly every place has one.
pub(super) type Steps = SmallVec<[(Position, Step); 1]>;

impl Overlay {
    /// Puts a step in; none as the key: everywhere. No other step may stand at this position.
    pub(super) fn insert(&mut self, key: Option<RouteKey>, position: Position, step: Step) {
        let steps = match key {
            Some(key) => self.by_key.entry(key).or_default(),
            None => &mut self.everywhere,
        };
        let at = steps.partition_point(|(other, _)| *other < position);
        steps.insert(at, (position, step));
    }

    pub(super) fn remove(&mut self, key: Option<&RouteKey>, position: Position) -> Option<Step> {
        let Some(key) = key else {
            return take(&mut self.everywhere, position);
        };
        let steps = self.by_key.get_mut(key)?;
        let step = take(steps, position);
        if steps.is_empty() {
            self.by_key.remove(key);
        }
        step
    }

    /// The steps at one place.
    pub(super) fn at(&self, key: &RouteKey) -> &[(Position, Step)] {
        self.by_key.get(key).map_or(&[], SmallVec::as_slice)
    }

    /// Places the overlay speaks of.
    pub(super) fn keys(&self) -> impl Iterator<Item = &RouteKey> {
        self.by_key.keys()
    }

    /// Whether a step names no place.
    pub(super) fn acts_everywhere(&self) -> bool {
        !self.everywhere.is_empty()
    }

    /// Runs the steps for one place over its targets.
    pub(super) fn apply(&self, key: &RouteKey, drafts: &mut Vec<Draft>) {
        let mut here = self.at(key).iter().peekable();
        let mut everywhere = self.everywhere.iter().peekable();
        loop {
            let local_first = match (here.peek(), everywhere.peek()) {
                (None, None) => return,
                (Some((local, _)), Some((global, _))) => local < global,
                (local, _) => local.is_some(),
            };
            if let Some((_, step)) = if local_first {
                here.next()
            } else {
                everywhere.next()
            } {
                step.apply(drafts);
            }
        }
    }
}

fn take(steps: &mut Steps, position: Position) -> Option<Step> {
    let at = steps
        .binary_search_by(|(other, _)| other.cmp(&position))
        .ok()?;
    Some(steps.remove(at).1)
}

impl Step {
    fn apply(&self, drafts: &mut Vec<Draft>) {
        match self {
            Self::Add(new) => {
                let is_same = |old: &Draft| {
                    old.service == new.service
                        // A name with several addresses is several targets of one URL.
                        && old.state.addr == new.state.addr
                        && old.fixed == new.fixed
                        && old.tags == new.tags
                        && old.options.matchers == new.options.matchers
                        && same_url(&old.destination(), &new.destination())
                };
                if !drafts.iter().any(is_same) {
                    drafts.push(new.clone());
                }
            }
            Self::Del { service, url, tags } => drafts.retain(|draft| {
                let same_place = url
                    .as_ref()
                    .is_none_or(|url| same_url(&draft.destination(), url));
                !(same_place && draft.belongs_to(service.as_ref(), tags))
            }),
            Self::Weight {
                service,
                weight,
                tags,
            } => {
                let takes_part = |draft: &Draft| {
                    matches!(draft.admission, Admission::Eligible { .. })
                        && draft.belongs_to(service.as_ref(), tags)
                };
                let count = drafts.iter().filter(|draft| takes_part(draft)).count();
                let each = weight / count.max(1) as f64;
                drafts
                    .iter_mut()
                    .filter(|draft| takes_part(draft))
                    .for_each(|draft| draft.fixed = Some(each));
            }
        }
    }
}

/// URLs of targets have no path of their own, so one slash at the end says nothing.
fn same_url(a: &str, b: &str) -> bool {
    a.strip_suffix('/').unwrap_or(a) == b.strip_suffix('/').unwrap_or(b)
}
