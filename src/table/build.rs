//! From what services contribute to the next table, touching only the routes that changed.
//!
//! ```text
//! contributions of one service ─┐ compared with the last ones        ┌ overlay: route commands
//!                               └─> dirty places ──> drafts of all services ──> Route ──> table (copy on write)
//! ```
//!
//! The builder belongs to the control thread. It keeps the table it last made and changes it in place: whatever is
//! shared with a published table is copied first, down to the node that changes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::overlay::{Overlay, Step};
use super::shares::{Demand, is_even, ring, shares};
use super::states::States;
use super::{Excluded, Matcher, Route, RouteTable, Target, TargetState};
use crate::catalog::command::Command;
use crate::catalog::options::{RouteOptions, Strategy};
use crate::catalog::tag::RouteKey;
use crate::catalog::{Endpoint, InstanceId, ServiceName};
use crate::metrics::{Metrics, ServiceMetrics};
use crate::registry::SourceName;

/// Whether an instance may serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Yes, with this weight (Consul's; 1 if there is none).
    Eligible {
        /// Part of the traffic, in proportion to those of the other targets; 0 counts as 1.
        weight: u32,
    },
    /// No.
    Excluded {
        /// Why, in words for the operator.
        reason: Arc<str>,
    },
}

/// One instance at one place: what one route tag of it says.
#[derive(Clone, Debug, PartialEq)]
pub struct Contribution {
    /// The place.
    pub key: RouteKey,
    /// The instance.
    pub instance: InstanceId,
    /// Its address.
    pub addr: SocketAddr,
    /// Options of the tag.
    pub options: Arc<RouteOptions>,
    /// Plain tags of the instance.
    pub tags: Arc<[Arc<str>]>,
    /// Whether it may serve.
    pub admission: Admission,
}

/// A target on its way into a route.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) service: ServiceName,
    pub(super) metrics: Arc<ServiceMetrics>,
    pub(super) state: Arc<TargetState>,
    pub(super) options: Arc<RouteOptions>,
    pub(super) tags: Arc<[Arc<str>]>,
    pub(super) url: Option<Arc<str>>,
    pub(super) query: Option<Arc<str>>,
    pub(super) fixed: Option<f64>,
    pub(super) admission: Admission,
}

impl PartialEq for Draft {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
            && Arc::ptr_eq(&self.metrics, &other.metrics)
            && (Arc::ptr_eq(&self.options, &other.options) || self.options == other.options)
            && self.tags == other.tags
            && self.url == other.url
            && self.query == other.query
            && self.fixed == other.fixed
            && self.admission == other.admission
    }
}

impl Draft {
    pub(super) fn destination(&self) -> String {
        self.target(0.0).destination()
    }

    /// Whether it is of the service (if one is given) and carries all the tags.
    pub(super) fn belongs_to(&self, service: Option<&ServiceName>, tags: &[Arc<str>]) -> bool {
        service.is_none_or(|service| *service == self.service) && tags.iter().all(|tag| self.tags.contains(tag))
    }

    fn target(&self, share: f64) -> Target {
        Target {
            state: Arc::clone(&self.state),
            options: Arc::clone(&self.options),
            service: Arc::clone(&self.metrics),
            query: self.query.clone(),
            share,
            fixed: self.fixed,
            tags: Arc::clone(&self.tags),
            url: self.url.clone(),
        }
    }
}

/// Who contributes: sources may know services of the same name.
type PartKey = (SourceName, ServiceName);

/// A place, and who has something there.
#[derive(Debug)]
struct Place {
    id: u64,
    parts: BTreeMap<PartKey, Vec<Draft>>,
}

/// What the last build did to the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Places routed now that were not before.
    pub added: usize,
    /// Places whose targets, options or exclusions changed.
    pub changed: usize,
    /// Places not routed any more.
    pub removed: usize,
}

/// Makes tables out of contributions and commands.
#[derive(Debug)]
pub struct TableBuilder {
    matcher: Matcher,
    strategy: Strategy,
    metrics: Metrics,
    states: States,
    /// The places each part stands at.
    parts: HashMap<PartKey, Vec<RouteKey>, foldhash::fast::FixedState>,
    places: HashMap<RouteKey, Place, foldhash::fast::FixedState>,
    commands: BTreeMap<SourceName, Arc<[Command]>>,
    overlay: Overlay,
    dirty: HashSet<RouteKey, foldhash::fast::FixedState>,
    table: RouteTable,
    routed: HashSet<u64, foldhash::fast::FixedState>,
    last_id: u64,
    changes: Changes,
}

impl TableBuilder {
    /// A builder whose first table is empty.
    #[must_use]
    pub fn new(matcher: Matcher, strategy: Strategy, metrics: Metrics) -> Self {
        Self {
            matcher,
            strategy,
            metrics,
            states: States::default(),
            parts: HashMap::default(),
            places: HashMap::default(),
            commands: BTreeMap::new(),
            overlay: Overlay::default(),
            dirty: HashSet::default(),
            table: RouteTable::new(matcher),
            routed: HashSet::default(),
            last_id: 0,
            changes: Changes::default(),
        }
    }

    /// Changes what holds for all routes. Every route is compiled anew by the next build if anything differs.
    pub fn set_defaults(&mut self, matcher: Matcher, strategy: Strategy) {
        if (self.matcher, &self.strategy) == (matcher, &strategy) {
            return;
        }
        if self.matcher != matcher {
            self.table = RouteTable::new(matcher);
        }
        (self.matcher, self.strategy) = (matcher, strategy);
        self.mark_all();
    }

    /// Replaces everything a service contributes. `since_ms` (process clock) is when instances not seen before came
    /// in; 0 while starting, so that nobody is started slowly then.
    pub fn apply_service(
        &mut self,
        source: SourceName,
        service: &ServiceName,
        contributions: Vec<Contribution>,
        since_ms: u64,
    ) {
        let metrics = self.metrics.service(service);
        let mut new: BTreeMap<RouteKey, Vec<Draft>> = BTreeMap::new();
        for contribution in contributions {
            let state = self.states.acquire(&contribution.instance, contribution.addr, since_ms);
            let drafts = new.entry(canonical(contribution.key)).or_default();
            // A second tag of one instance for the same place: the first counts.
            if drafts.iter().any(|draft| Arc::ptr_eq(&draft.state, &state)) {
                self.states.release(&state);
                continue;
            }
            drafts.push(Draft {
                service: Arc::clone(service),
                metrics: Arc::clone(&metrics),
                state,
                fixed: contribution.options.weight,
                options: contribution.options,
                tags: contribution.tags,
                url: None,
                query: None,
                admission: contribution.admission,
            });
        }
        self.replace_part((source, Arc::clone(service)), new);
    }

    /// Forgets a service.
    pub fn remove_service(&mut self, source: SourceName, service: &ServiceName) {
        self.replace_part((source, Arc::clone(service)), BTreeMap::new());
    }

    fn replace_part(&mut self, part: PartKey, mut new: BTreeMap<RouteKey, Vec<Draft>>) {
        let old_keys = self.parts.remove(&part).unwrap_or_default();
        let keys: Vec<RouteKey> = new.keys().cloned().collect();
        let gone = old_keys.into_iter().filter(|key| !new.contains_key(key)).collect::<Vec<_>>();
        for key in gone.iter().chain(&keys) {
            let drafts = new.remove(key);
            self.replace_at(key, &part, drafts);
        }
        if !keys.is_empty() {
            self.parts.insert(part, keys);
        }
    }

    fn replace_at(&mut self, key: &RouteKey, part: &PartKey, drafts: Option<Vec<Draft>>) {
        if !self.places.contains_key(key) {
            self.last_id += 1;
            self.places.insert(key.clone(), Place { id: self.last_id, parts: BTreeMap::new() });
        }
        let Some(place) = self.places.get_mut(key) else { return };
        let old = place.parts.remove(part);
        if old != drafts {
            self.dirty.insert(key.clone());
        }
        if let Some(drafts) = drafts {
            place.parts.insert(part.clone(), drafts);
        }
        // After the new ones were acquired: an instance that stays keeps its state.
        for draft in old.iter().flatten() {
            self.states.release(&draft.state);
        }
    }

    /// Replaces all commands of a source. They act after all tags; sources follow each other by name.
    pub fn apply_commands(&mut self, source: SourceName, commands: Arc<[Command]>, since_ms: u64) {
        if self.commands.get(source) == Some(&commands) {
            return;
        }
        self.commands.insert(source, commands);
        let lists: Vec<_> = self.commands.iter().map(|(source, list)| (*source, Arc::clone(list))).collect();
        let steps: Vec<_> = lists
            .iter()
            .flat_map(|(source, list)| list.iter().map(|command| (*source, command)))
            .map(|(source, command)| self.step(source, command, since_ms))
            .collect();
        let overlay = Overlay::new(steps);
        let old = std::mem::replace(&mut self.overlay, overlay);
        if old.acts_everywhere() || self.overlay.acts_everywhere() {
            self.mark_all();
        }
        self.dirty.extend(old.keys().chain(self.overlay.keys()).cloned());
        old.added().for_each(|draft| self.states.release(&draft.state));
    }

    fn step(&mut self, source: SourceName, command: &Command, since_ms: u64) -> (Option<RouteKey>, Step) {
        match command {
            Command::Add(add) => {
                let id = InstanceId { node: source.into(), id: format!("{}@{}", add.service, add.url).into() };
                let (addr, admission) = match &add.endpoint {
                    Endpoint::Addr(addr) => (*addr, Admission::Eligible { weight: 1 }),
                    Endpoint::Name { host, port } => {
                        let reason = format!("the name {host} could not be resolved yet").into();
                        (SocketAddr::from(([0, 0, 0, 0], *port)), Admission::Excluded { reason })
                    }
                };
                let draft = Draft {
                    service: Arc::clone(&add.service),
                    metrics: self.metrics.service(&add.service),
                    state: self.states.acquire(&id, addr, since_ms),
                    options: Arc::new(add.spec.options.clone()),
                    tags: add.tags.as_slice().into(),
                    url: Some(Arc::clone(&add.url)),
                    query: add.query.clone(),
                    fixed: add.spec.options.weight,
                    admission,
                };
                (Some(canonical(add.spec.key.clone())), Step::Add(draft))
            }
            Command::Del { service, key, url, tags } => {
                let step = Step::Del { service: service.clone(), url: url.clone(), tags: tags.clone() };
                (key.clone().map(canonical), step)
            }
            Command::Weight { service, key, weight, tags } => {
                let step = Step::Weight { service: service.clone(), weight: *weight, tags: tags.clone() };
                (Some(canonical(key.clone())), step)
            }
        }
    }

    /// The next table: all that was applied since the last one. Publish it, then call [`retire`](Self::retire).
    pub fn build(&mut self) -> RouteTable {
        self.changes = Changes::default();
        for key in std::mem::take(&mut self.dirty) {
            self.rebuild(&key);
        }
        self.table.clone()
    }

    /// Marks the instances that left: their idle connections are closed, their TCP connections drain. To be called
    /// when the table without them is live, else a request would meet a retired instance.
    pub fn retire(&mut self) {
        self.states.retire();
    }

    /// Whether a build would change something.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// What the last build changed.
    #[must_use]
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// State of an instance that stands at some place.
    #[must_use]
    pub fn state(&self, id: &InstanceId, addr: SocketAddr) -> Option<&Arc<TargetState>> {
        self.states.get(id, addr)
    }

    /// Services that route commands name, each with the states of its targets.
    #[must_use]
    pub fn command_services(&self) -> BTreeMap<ServiceName, Vec<Arc<TargetState>>> {
        let mut services: BTreeMap<ServiceName, Vec<Arc<TargetState>>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for draft in self.overlay.added() {
            let states = services.entry(Arc::clone(&draft.service)).or_default();
            if seen.insert((Arc::clone(&draft.service), draft.state.key)) {
                states.push(Arc::clone(&draft.state));
            }
        }
        services
    }

    fn mark_all(&mut self) {
        self.dirty.extend(self.places.keys().cloned());
        self.dirty.extend(self.overlay.keys().cloned());
    }

    fn rebuild(&mut self, key: &RouteKey) {
        let next_id = self.last_id + 1;
        let place = self.places.get(key);
        let id = place.map_or(next_id, |place| place.id);
        let mut drafts: Vec<Draft> = place.into_iter().flat_map(|place| place.parts.values().flatten().cloned()).collect();
        let is_empty = place.is_none_or(|place| place.parts.is_empty());
        self.overlay.apply(key, &mut drafts);
        let had = self.routed.contains(&id);
        let route = compile(id, key, &drafts, &self.strategy);
        let has = route.is_some();
        tracing::debug!(route = %format_args!("{}{}", key.host, key.path), targets = drafts.len(), routed = has, "rebuilt");
        self.table.set(key, route.map(Arc::new));
        match (had, has) {
            (false, true) => self.changes.added += 1,
            (true, true) => self.changes.changed += 1,
            (true, false) => self.changes.removed += 1,
            (false, false) => {}
        }
        if has {
            self.routed.insert(id);
            if !self.places.contains_key(key) {
                self.last_id = next_id;
                self.places.insert(key.clone(), Place { id, parts: BTreeMap::new() });
            }
        } else {
            self.routed.remove(&id);
            if is_empty {
                self.places.remove(key);
            }
        }
    }
}

/// The same place without the dot of an absolute name: requests lose it too.
fn canonical(mut key: RouteKey) -> RouteKey {
    if key.host.len() > 1 && key.host.ends_with('.') {
        key.host.pop();
    } else if let Some(dot) = key.host.find(".:").filter(|dot| *dot > 0) {
        key.host.remove(dot);
    }
    key
}

/// The route of a place; none when nothing is registered there.
fn compile(id: u64, key: &RouteKey, drafts: &[Draft], default: &Strategy) -> Option<Route> {
    if drafts.is_empty() {
        return None;
    }
    let mut demands = Vec::new();
    let mut eligible = Vec::new();
    let mut excluded = Vec::new();
    for draft in drafts {
        match &draft.admission {
            Admission::Eligible { weight } => {
                demands.push(Demand { fixed: draft.fixed, weight: (*weight).max(1) });
                eligible.push(draft);
            }
            Admission::Excluded { reason } => excluded.push(Excluded {
                service: Arc::clone(&draft.service),
                id: draft.state.id.clone(),
                reason: Arc::clone(reason),
            }),
        }
    }
    let shares = shares(&demands);
    let strategy = drafts.iter().find_map(|draft| draft.options.strategy.clone()).unwrap_or_else(|| default.clone());
    let even = is_even(&shares);
    let ring = if even || strategy != Strategy::RoundRobin { Box::default() } else { ring(&shares) };
    let targets = eligible.iter().zip(&shares).map(|(draft, share)| draft.target(*share)).collect();
    Some(Route { id, key: key.clone(), targets, excluded: excluded.into(), strategy, even, ring })
}
