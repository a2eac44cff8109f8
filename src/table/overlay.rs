//! Route commands (`routes_file`, static routes) laid over the routes of tags.
//!
//! Commands act after all tags and in their order, as in Fabio. Since each command looks at one target of one
//! route at a time, a route is compiled by running only the commands that name its place (or none) over its own
//! targets: a change of one route never replays the whole list.

use std::collections::HashMap;
use std::sync::Arc;

use super::build::{Admission, Draft};
use crate::catalog::ServiceName;
use crate::catalog::tag::RouteKey;

/// One command, its targets resolved.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Adds a target, unless the same one is there.
    Add(Draft),
    /// Removes the targets that match.
    Del { service: Option<ServiceName>, url: Option<Arc<str>>, tags: Vec<Arc<str>> },
    /// Splits a fixed share over the targets that match.
    Weight { service: Option<ServiceName>, weight: f64, tags: Vec<Arc<str>> },
}

/// All commands of all sources, found by place.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    /// By place, each with its position in the whole list.
    by_key: HashMap<RouteKey, Vec<(usize, Step)>>,
    /// Those that name no place.
    everywhere: Vec<(usize, Step)>,
}

impl Overlay {
    /// Orders the steps; none as the key: everywhere.
    pub(super) fn new(steps: impl IntoIterator<Item = (Option<RouteKey>, Step)>) -> Self {
        let mut overlay = Self::default();
        for (at, (key, step)) in steps.into_iter().enumerate() {
            match key {
                Some(key) => overlay.by_key.entry(key).or_default().push((at, step)),
                None => overlay.everywhere.push((at, step)),
            }
        }
        overlay
    }

    /// Places the overlay speaks of.
    pub(super) fn keys(&self) -> impl Iterator<Item = &RouteKey> {
        self.by_key.keys()
    }

    /// Whether a step names no place.
    pub(super) fn acts_everywhere(&self) -> bool {
        !self.everywhere.is_empty()
    }

    /// All targets it adds.
    pub(super) fn added(&self) -> impl Iterator<Item = &Draft> {
        self.by_key.values().flatten().filter_map(|(_, step)| match step {
            Step::Add(draft) => Some(draft),
            _ => None,
        })
    }

    /// Runs the steps for one place over its targets.
    pub(super) fn apply(&self, key: &RouteKey, drafts: &mut Vec<Draft>) {
        let mut here = self.by_key.get(key).map_or(&[][..], Vec::as_slice).iter().peekable();
        let mut everywhere = self.everywhere.iter().peekable();
        loop {
            let local_first = match (here.peek(), everywhere.peek()) {
                (None, None) => return,
                (Some((local, _)), Some((global, _))) => local < global,
                (local, _) => local.is_some(),
            };
            if let Some((_, step)) = if local_first { here.next() } else { everywhere.next() } {
                step.apply(drafts);
            }
        }
    }
}

impl Step {
    fn apply(&self, drafts: &mut Vec<Draft>) {
        match self {
            Self::Add(new) => {
                let is_same = |old: &Draft| {
                    old.service == new.service
                        && old.fixed == new.fixed
                        && old.tags == new.tags
                        // A name has one URL and several addresses.
                        && old.state.addr == new.state.addr
                        && same_url(&old.destination(), &new.destination())
                };
                if !drafts.iter().any(is_same) {
                    drafts.push(new.clone());
                }
            }
            Self::Del { service, url, tags } => drafts.retain(|draft| {
                let same_place = url.as_ref().is_none_or(|url| same_url(&draft.destination(), url));
                !(same_place && draft.belongs_to(service.as_ref(), tags))
            }),
            Self::Weight { service, weight, tags } => {
                let takes_part = |draft: &Draft| {
                    matches!(draft.admission, Admission::Eligible { .. }) && draft.belongs_to(service.as_ref(), tags)
                };
                let count = drafts.iter().filter(|draft| takes_part(draft)).count();
                let each = weight / count.max(1) as f64;
                drafts.iter_mut().filter(|draft| takes_part(draft)).for_each(|draft| draft.fixed = Some(each));
            }
        }
    }
}

/// URLs of targets have no path of their own, so one slash at the end says nothing.
fn same_url(a: &str, b: &str) -> bool {
    a.strip_suffix('/').unwrap_or(a) == b.strip_suffix('/').unwrap_or(b)
}
