//! From what services contribute to the next table, touching only the routes that changed.
//!
//! ```text
//! contributions of one service ─┐ compared with the last ones        ┌ overlay: route commands
//!                               └─> dirty places ──> drafts of all services ──> Route ──> table (copy on write)
//! ```
//!
//! The builder belongs to the control thread. It keeps the table it last made and changes it in
//! place: whatever is shared with a published table is copied first, down to the node that changes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use smallvec::SmallVec;

use super::command_services::CommandServices;
use super::draft::{Admission, Contribution, Draft, NamedInstance};
use super::interned::InternedOptions;
use super::limits::RouteLimits;
use super::mirrors::RouteMirror;
use super::named::{self, NamedDraft, NamedServices};
use super::overlay::{Overlay, Step, Steps};
use super::ranks::{Difference, RankedList};
use super::shares::{Demand, is_even, ring, shares};
use super::states::States;
use super::sticky::{StickyKey, StickyRoute};
use super::target_observers::TargetObservers;
use super::{Excluded, Matcher, Rotation, Route, RouteTable, TargetState, Targets};
use crate::catalog::command::Command;
use crate::catalog::command_list::CommandList;
use crate::catalog::matchers::Matchers;
use crate::catalog::options::{Proto, Strategy};
use crate::catalog::policies::NamedPolicies;
use crate::catalog::source::{self, SourceName};
use crate::catalog::tag::RouteKey;
use crate::catalog::{InstanceId, ServiceName};
use crate::metrics::Metrics;

/// What contributes: sources may know services of the same name.
type PartKey = (SourceName, ServiceName);

/// A place, and the services with targets there.
#[derive(Debug, Default)]
struct RoutePlace {
    /// One for each of its routes.
    identities: SmallVec<[Identity; 1]>,
    /// What stands in the table for it, by the way in which paths are compared, and how many routes
    /// beside.
    stored: SmallVec<[(Matcher, usize); 1]>,
    parts: BTreeMap<PartKey, Vec<Draft>>,
}

/// What stays of a route from table to table.
#[derive(Clone, Debug)]
struct Identity {
    matchers: Option<Arc<Matchers>>,
    id: u64,
    rotation: Rotation,
    /// Counts requests for its mirrors.
    mirrored: Rotation,
    limits: Option<Arc<RouteLimits>>,
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
    fall_through: bool,
    host_patterns: bool,
    metrics: Metrics,
    policies: NamedPolicies,
    sticky_key: Option<StickyKey>,
    /// A target wants cookies that keep clients with it.
    has_sticky: bool,
    observers: TargetObservers,
    states: States,
    options: InternedOptions,
    /// The places each part stands at.
    parts: HashMap<PartKey, Vec<RouteKey>, foldhash::fast::FixedState>,
    places: HashMap<RouteKey, RoutePlace, foldhash::fast::FixedState>,
    /// By the order of the sources.
    commands: BTreeMap<(bool, SourceName), RankedList>,
    overlay: Overlay,
    command_services: CommandServices,
    named: NamedServices,
    dirty: HashSet<RouteKey, foldhash::fast::FixedState>,
    table: RouteTable,
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
            observers: TargetObservers::new(metrics.observer()),
            fall_through: false,
            host_patterns: true,
            metrics,
            policies: NamedPolicies::default(),
            sticky_key: None,
            has_sticky: false,
            states: States::default(),
            options: InternedOptions::default(),
            parts: HashMap::default(),
            places: HashMap::default(),
            commands: BTreeMap::new(),
            overlay: Overlay::default(),
            command_services: CommandServices::default(),
            named: NamedServices::default(),
            dirty: HashSet::default(),
            table: RouteTable::new(matcher),
            last_id: 0,
            changes: Changes::default(),
        }
    }

    /// Changes what holds for all routes. Every route is compiled anew by the next build if
    /// anything differs.
    pub fn set_defaults(&mut self, matcher: Matcher, strategy: Strategy) {
        if (self.matcher, &self.strategy) == (matcher, &strategy) {
            return;
        }
        let moved = self.matcher != matcher;
        (self.matcher, self.strategy) = (matcher, strategy);
        if moved {
            self.start_over();
        }
        self.mark_all();
    }

    /// Whether hosts of routes are patterns; else they are taken as text.
    pub fn set_host_patterns(&mut self, host_patterns: bool) {
        if self.host_patterns != host_patterns {
            self.host_patterns = host_patterns;
            self.start_over();
            self.mark_all();
        }
    }

    fn start_over(&mut self) {
        let new = if self.host_patterns {
            RouteTable::new
        } else {
            RouteTable::without_patterns
        };
        self.table = new(self.matcher);
    }

    /// The policies that tags may name. Routes that name one are compiled anew.
    pub fn set_policies(&mut self, policies: &NamedPolicies) {
        if self.policies != *policies {
            self.policies = policies.clone();
            self.mark_all();
        }
    }

    /// The key of cookies that keep clients with instances. Without one no route has any.
    pub fn set_sticky_key(&mut self, key: Option<StickyKey>) {
        if self.sticky_key != key {
            self.sticky_key = key;
            if self.has_sticky {
                self.mark_all();
            }
        }
    }

    /// Whether a route ever wanted such cookies, and there is no key for them.
    #[must_use]
    pub fn lacks_sticky_key(&self) -> bool {
        self.has_sticky && self.sticky_key.is_none()
    }

    /// Whether a route whose instances are all out counts as not there, so that another may serve;
    /// else it stays, and its requests get the response that no instance is there.
    pub fn set_fall_through(&mut self, fall_through: bool) {
        if self.fall_through != fall_through {
            self.fall_through = fall_through;
            self.mark_all();
        }
    }

    /// Replaces everything a service contributes. `since_ms` (process clock) is when instances not
    /// seen before came in; 0 while starting, so that no instance is started slowly then.
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
            let state = self
                .states
                .acquire(&contribution.instance, contribution.addr, since_ms);
            let drafts = new.entry(canonical(contribution.key)).or_default();
            // A second tag of one instance for the same route: the first counts.
            let is_same = |draft: &Draft| {
                Arc::ptr_eq(&draft.state, &state)
                    && draft.options.matchers == contribution.options.matchers
            };
            if drafts.iter().any(is_same) {
                self.states.release(&state);
                continue;
            }
            drafts.push(Draft {
                service: Arc::clone(service),
                metrics: Arc::clone(&metrics),
                state,
                fixed: contribution.options.weight,
                options: self.options.intern(contribution.options),
                tags: contribution.tags,
                url: None,
                query: None,
                admission: contribution.admission,
            });
        }
        self.replace_part((source, Arc::clone(service)), new);
    }

    /// Replaces the instances of a service that routes name beside their own, whatever its tags
    /// say; see [`Self::is_named`].
    pub fn apply_named(
        &mut self,
        source: SourceName,
        service: &ServiceName,
        instances: Vec<NamedInstance>,
        since_ms: u64,
    ) {
        let metrics = self.metrics.service(service);
        let mut new = Vec::with_capacity(instances.len());
        for it in instances {
            new.push(NamedDraft {
                tagged: it.own.is_some(),
                draft: Draft {
                    service: Arc::clone(service),
                    metrics: Arc::clone(&metrics),
                    state: self.states.acquire(&it.instance, it.addr, since_ms),
                    fixed: None,
                    options: self.options.intern(it.own.unwrap_or_default()),
                    tags: it.tags,
                    url: None,
                    query: None,
                    admission: it.admission,
                },
            });
        }
        let old = self.named.replace(source, service, new.clone());
        if old != new {
            // A fallback of its own that it had no longer leads from there.
            self.dirty.extend(self.named.concerned(service));
        }
        // After the new ones were acquired: an instance that stays keeps its state.
        for named in &old {
            self.states.release(&named.draft.state);
        }
    }

    /// Whether a route names the service beside its own: then its instances are wanted.
    #[must_use]
    pub fn is_named(&self, service: &str) -> bool {
        self.named.is_named(service)
    }

    /// The services that routes name beside their own, in no order.
    pub fn named_services(&self) -> impl Iterator<Item = &ServiceName> {
        self.named.names()
    }

    /// Those for which [`Self::is_named`] says something else than at the last call; some may have
    /// changed twice.
    pub fn take_named_changes(&mut self) -> BTreeSet<ServiceName> {
        self.named.take_changes()
    }

    /// Forgets a service.
    pub fn remove_service(&mut self, source: SourceName, service: &ServiceName) {
        self.replace_part((source, Arc::clone(service)), BTreeMap::new());
        self.apply_named(source, service, Vec::new(), 0);
    }

    fn replace_part(&mut self, part: PartKey, mut new: BTreeMap<RouteKey, Vec<Draft>>) {
        let old_keys = self.parts.remove(&part).unwrap_or_default();
        let keys: Vec<RouteKey> = new.keys().cloned().collect();
        let gone = old_keys
            .into_iter()
            .filter(|key| !new.contains_key(key))
            .collect::<Vec<_>>();
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
            self.places.insert(key.clone(), RoutePlace::default());
        }
        let Some(place) = self.places.get_mut(key) else {
            return;
        };
        let old = place.parts.remove(part);
        if old != drafts {
            self.dirty.insert(key.clone());
        }
        for draft in drafts.iter().flatten() {
            self.named.name(key, &draft.options);
        }
        for draft in old.iter().flatten() {
            self.named.forget(key, &draft.options);
        }
        if let Some(drafts) = drafts {
            place.parts.insert(part.clone(), drafts);
        }
        // After the new ones were acquired: an instance that stays keeps its state.
        for draft in old.iter().flatten() {
            self.states.release(&draft.state);
        }
    }

    /// Replaces all commands of a source. They act after all tags; sources follow each other in
    /// [`source::order`].
    pub fn apply_commands(&mut self, source: SourceName, commands: CommandList, since_ms: u64) {
        let order = source::order(source);
        let Difference { gone, come } = self.commands.entry(order).or_default().replace(commands);
        let (mut before, mut acts_everywhere) = (HashMap::default(), false);
        let mut touch = |overlay: &Overlay, key: Option<&RouteKey>| match key {
            None => acts_everywhere = true,
            Some(key) if before.contains_key(key) => {}
            Some(key) => drop(before.insert(key.clone(), Steps::from(overlay.at(key)))),
        };
        let mut left = Vec::new();
        let mut services = BTreeSet::new();
        // From the end, so that of many at one place the last is taken out first, and none has to
        // move up.
        for (rank, command) in gone.into_iter().rev() {
            let key = place(&command);
            touch(&self.overlay, key.as_ref());
            let step = self.overlay.remove(key.as_ref(), (order, rank));
            left.extend(step.map(|step| (key, step)));
        }
        for (rank, command) in come {
            let key = place(&command);
            touch(&self.overlay, key.as_ref());
            let step = self.step(source, &command, since_ms);
            if let (Some(key), Step::Add(draft)) = (&key, &step) {
                self.named.name(key, &draft.options);
                services.insert(Arc::clone(&draft.service));
            }
            self.overlay.insert(key, (order, rank), step);
        }
        self.mark_touched(before, acts_everywhere);
        // After the new ones were acquired: an instance that stays keeps its state.
        for (key, step) in left {
            if let Step::Add(draft) = step {
                if let Some(key) = &key {
                    self.named.forget(key, &draft.options);
                }
                self.command_services.remove(&draft.service, &draft.state);
                self.states.release(&draft.state);
                services.insert(draft.service);
            }
        }
        for service in services.iter().filter(|name| self.named.is_named(name)) {
            self.dirty.extend(self.named.concerned(service));
        }
    }

    /// Marks what steps that came or went make different. `before`: the steps of the places that
    /// were touched.
    fn mark_touched(
        &mut self,
        before: HashMap<RouteKey, Steps, foldhash::fast::FixedState>,
        acts_everywhere: bool,
    ) {
        if acts_everywhere {
            self.mark_all();
        }
        for (key, old) in before {
            let new = self.overlay.at(&key);
            let same = old
                .iter()
                .map(|(_, step)| step)
                .eq(new.iter().map(|(_, step)| step));
            // A step that says the same may stand on the other side of one that acts everywhere.
            if !same || self.overlay.acts_everywhere() {
                self.dirty.insert(key);
            }
        }
    }

    fn step(&mut self, source: SourceName, command: &Command, since_ms: u64) -> Step {
        match command {
            Command::Add(add) => {
                let id = InstanceId {
                    node: source.into(),
                    id: format!("{}@{}", add.service, add.url).into(),
                };
                let admission = match add.endpoint.trouble() {
                    None => Admission::Eligible { weight: 1 },
                    Some(reason) => Admission::Excluded { reason },
                };
                let draft = Draft {
                    service: Arc::clone(&add.service),
                    metrics: self.metrics.service(&add.service),
                    state: self.states.acquire(&id, add.endpoint.addr(), since_ms),
                    options: self.options.intern(Arc::new(add.spec.options.clone())),
                    tags: add.tags.as_slice().into(),
                    url: Some(Arc::clone(&add.url)),
                    query: add.query.clone(),
                    fixed: add.spec.options.weight,
                    admission,
                };
                self.command_services.add(&draft);
                Step::Add(draft)
            }
            Command::Del {
                service, url, tags, ..
            } => Step::Del {
                service: service.clone(),
                url: url.clone(),
                tags: tags.clone(),
            },
            Command::Weight {
                service,
                weight,
                tags,
                ..
            } => Step::Weight {
                service: service.clone(),
                weight: *weight,
                tags: tags.clone(),
            },
        }
    }

    /// The next table: all that was applied since the last one. Publish it, then call
    /// [`retire`](Self::retire).
    pub fn build(&mut self) -> RouteTable {
        self.changes = Changes::default();
        for key in std::mem::take(&mut self.dirty) {
            self.rebuild(&key);
        }
        self.table.clone()
    }

    /// Marks the instances that left: their idle connections are closed, their TCP connections
    /// drain. To be called when the table without them is live, else a request would meet a retired
    /// instance.
    pub fn retire(&mut self) {
        self.states.retire();
        self.observers.retire();
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

    /// Services that route commands name, each with its targets.
    #[must_use]
    pub fn command_services(&self) -> &CommandServices {
        &self.command_services
    }

    /// Services that route commands named and do not name any more, since the last call; some may
    /// be back.
    pub fn take_gone_command_services(&mut self) -> BTreeSet<ServiceName> {
        self.command_services.take_gone()
    }

    fn mark_all(&mut self) {
        self.dirty.extend(self.places.keys().cloned());
        self.dirty.extend(self.overlay.keys().cloned());
    }

    fn rebuild(&mut self, key: &RouteKey) {
        let mut place = self.places.remove(key).unwrap_or_default();
        let mut drafts: Vec<Draft> = place.parts.values().flatten().cloned().collect();
        self.overlay.apply(key, &mut drafts);
        for draft in drafts
            .iter_mut()
            .filter(|draft| draft.options.policy.is_some())
        {
            let options = Arc::new(draft.options.with_policy(&self.policies));
            draft.options = self.options.intern(options);
        }
        let count = drafts.len();
        let before = std::mem::take(&mut place.stored);
        let mut routes = self.compile_all(key, &mut place, drafts);
        for (matcher, beside) in &before {
            if !routes.iter().any(|(present, _)| present == matcher) {
                self.table.set_routes(key, *matcher, None, *beside);
            }
        }
        for (matcher, routes) in routes.drain(..) {
            let stored = before.iter().find(|(present, _)| *present == matcher);
            let beside_before = stored.map_or(0, |(_, beside)| *beside);
            let route = one_of(routes);
            place
                .stored
                .push((matcher, Route::beside_count(Some(&route))));
            self.table
                .set_routes(key, matcher, Some(route), beside_before);
        }
        let has = !place.stored.is_empty();
        tracing::debug!(route = %format_args!("{}{}", key.host, key.path), targets = count, routed = has, "rebuilt");
        match (!before.is_empty(), has) {
            (false, true) => self.changes.added += 1,
            (true, true) => self.changes.changed += 1,
            (true, false) => self.changes.removed += 1,
            (false, false) => {}
        }
        if has || !place.parts.is_empty() {
            self.places.insert(key.clone(), place);
        }
    }

    /// Instances of a service that is named beside a route's own: of the catalog, and of route
    /// commands.
    fn instances_of(&self, service: &ServiceName) -> Vec<NamedDraft> {
        let of_commands = self
            .command_services
            .targets(service)
            .map(|target| NamedDraft {
                tagged: true,
                draft: Draft {
                    service: Arc::clone(service),
                    metrics: self.metrics.service(service),
                    state: Arc::clone(&target.state),
                    fixed: None,
                    options: Arc::clone(&target.options),
                    tags: Arc::default(),
                    url: None,
                    query: None,
                    admission: match &target.excluded {
                        None => Admission::Eligible { weight: 1 },
                        Some(reason) => Admission::Excluded {
                            reason: Arc::clone(reason),
                        },
                    },
                },
            });
        let of_catalog = self.named.instances(service).cloned();
        of_catalog.chain(of_commands).collect()
    }

    /// The routes of a place, by the way in which their paths are compared.
    fn compile_all(
        &mut self,
        key: &RouteKey,
        place: &mut RoutePlace,
        drafts: Vec<Draft>,
    ) -> SmallVec<[(Matcher, SmallVec<[Route; 1]>); 1]> {
        let groups = by_matchers(drafts);
        place.identities.retain(|identity| {
            let is_here = groups.iter().any(|(own, _)| *own == identity.matchers);
            if !is_here {
                self.observers.attach(identity.id, None);
            }
            // The plain one keeps its turns while the place has anything.
            is_here || identity.matchers.is_none()
        });
        let mut routes: SmallVec<[(Matcher, SmallVec<[Route; 1]>); 1]> = SmallVec::new();
        let several = groups.len() > 1;
        for (matchers, drafts) in groups {
            let known = place
                .identities
                .iter()
                .position(|identity| identity.matchers == matchers);
            let at = known.unwrap_or_else(|| {
                self.last_id += 1;
                let identity = Identity {
                    matchers,
                    id: self.last_id,
                    rotation: Rotation::default(),
                    mirrored: Rotation::default(),
                    limits: None,
                };
                place.identities.push(identity);
                place.identities.len() - 1
            });
            let identity = &mut place.identities[at];
            if drafts.iter().any(|draft| draft.options.policies.is_some()) {
                identity.limits.get_or_insert_default();
            }
            let identity = identity.clone();
            let (id, mirrored) = (identity.id, identity.mirrored.clone());
            self.has_sticky |= drafts.iter().any(|draft| draft.options.sticky.is_some());
            let empty = |route: &Route| self.fall_through && route.targets.is_empty();
            let common = Common {
                strategy: &self.strategy,
                sticky_key: self.sticky_key.as_ref(),
            };
            let (serving, fallback) = named::resolve(&drafts, |service| self.instances_of(service));
            let drafts = if serving.is_empty() {
                drafts
            } else {
                [drafts, serving].concat()
            };
            let mut route = compile(identity, key, &drafts, common).filter(|route| !empty(route));
            if let Some(route) = &mut route {
                route.fallback = fallback;
                route.mirrors = RouteMirror::of_targets(
                    &route.targets,
                    &mirrored,
                    |service| self.instances_of(service),
                    |service| self.metrics.service(service),
                );
            }
            self.observers.attach(id, route.as_mut());
            let Some(route) = route else { continue };
            let path = route.matchers.as_ref().and_then(|own| own.path());
            let matcher = self.matcher.of_route(path);
            match routes.iter_mut().find(|(present, _)| *present == matcher) {
                Some((_, routes)) => routes.push(route),
                None => routes.push((matcher, SmallVec::from_iter([route]))),
            }
        }
        if several {
            // Once more, because an instance may have left one of them and stand in another.
            for route in routes.iter_mut().flat_map(|(_, routes)| routes) {
                self.observers.attach(route.id, Some(route));
            }
        }
        routes
    }
}

/// The targets of one route of a place.
type Group = (Option<Arc<Matchers>>, Vec<Draft>);

/// The targets of a place by the matchers of their routes.
fn by_matchers(drafts: Vec<Draft>) -> SmallVec<[Group; 1]> {
    let mut groups: SmallVec<[Group; 1]> = SmallVec::new();
    if drafts.iter().all(|draft| draft.options.matchers.is_none()) {
        if !drafts.is_empty() {
            groups.push((None, drafts));
        }
        return groups;
    }
    for draft in drafts {
        let matchers = &draft.options.matchers;
        match groups.iter_mut().find(|(own, _)| own == matchers) {
            Some((_, drafts)) => drafts.push(draft),
            None => groups.push((matchers.clone(), vec![draft])),
        }
    }
    groups
}

/// The one of these routes of a place that stands in the table, with the others beside it: that
/// without matchers, if there is one, because TLS is passed on by what stands there.
fn one_of(mut routes: SmallVec<[Route; 1]>) -> Arc<Route> {
    routes.sort_by(|a, b| {
        let has_matchers = |route: &Route| route.matchers.is_some();
        has_matchers(a)
            .cmp(&has_matchers(b))
            .then_with(|| Matchers::rank(a.matchers.as_deref(), b.matchers.as_deref()))
    });
    let mut first = routes.remove(0);
    first.beside = routes.into_iter().map(Arc::new).collect();
    first.conditional |= !first.beside.is_empty();
    Arc::new(first)
}

/// The place that a command names; none: everywhere.
fn place(command: &Command) -> Option<RouteKey> {
    match command {
        Command::Add(add) => Some(canonical(add.spec.key.clone())),
        Command::Del { key, .. } => key.clone().map(canonical),
        Command::Weight { key, .. } => Some(canonical(key.clone())),
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

/// What holds for every route.
#[derive(Clone, Copy)]
struct Common<'a> {
    /// Of routes that name none.
    strategy: &'a Strategy,
    sticky_key: Option<&'a StickyKey>,
}

/// The route of a place; none when nothing is registered there.
fn compile(
    identity: Identity,
    key: &RouteKey,
    drafts: &[Draft],
    common: Common<'_>,
) -> Option<Route> {
    if drafts.is_empty() {
        return None;
    }
    let mut demands = Vec::new();
    let mut eligible = Vec::new();
    let mut excluded = Vec::new();
    // By address: a place with thousands of targets is not compared pair by pair.
    let mut known: HashMap<SocketAddr, SmallVec<[&Draft; 1]>, foldhash::fast::FixedState> =
        HashMap::default();
    for draft in drafts {
        match &draft.admission {
            Admission::Eligible { weight } => {
                let there = known.entry(draft.state.addr).or_default();
                if there.iter().any(|other| is_same(other, draft)) {
                    // Registered twice: one target, as in Fabio.
                    continue;
                }
                there.push(draft);
                demands.push(Demand {
                    fixed: draft.fixed,
                    weight: (*weight).max(1),
                });
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
    let strategy = drafts
        .iter()
        .find_map(|draft| draft.options.strategy.clone())
        .unwrap_or_else(|| common.strategy.clone());
    let even = is_even(&shares);
    let ring = if even || strategy != Strategy::RoundRobin {
        Box::default()
    } else {
        ring(&shares)
    };
    let targets: Targets = eligible
        .iter()
        .zip(&shares)
        .map(|(draft, share)| draft.target(*share))
        .collect();
    let tcp = drafts.iter().all(|draft| draft.options.proto == Proto::Tcp);
    let policies_of_excluded = drafts
        .iter()
        .filter(|_| eligible.is_empty())
        .filter_map(|draft| draft.options.policies.as_ref())
        .find(|policies| policies.concerns_responses())
        .cloned();
    let cookie = drafts
        .iter()
        .find_map(|draft| draft.options.sticky.as_ref());
    let sticky = cookie
        .filter(|_| !tcp)
        .zip(common.sticky_key)
        .map(|(cookie, secret)| Box::new(StickyRoute::new(cookie, key, &targets, secret)));
    Some(Route {
        id: identity.id,
        key: key.clone(),
        targets,
        excluded: excluded.into(),
        policies_of_excluded,
        strategy,
        even,
        tcp,
        conditional: tcp || identity.matchers.is_some(),
        ring,
        rotation: identity.rotation,
        limits: identity.limits,
        sticky,
        fallback: None,
        mirrors: Box::default(),
        matchers: identity.matchers,
        beside: Box::default(),
    })
}

/// Whether both are the same place to go to, for the same service with the same weight and tags.
fn is_same(one: &Draft, other: &Draft) -> bool {
    one.state.addr == other.state.addr
        && one.service == other.service
        && one.fixed == other.fixed
        && one.tags == other.tags
        && one.destination() == other.destination()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;
    use crate::catalog::Endpoint;
    use crate::catalog::command::parse_commands;
    use crate::catalog::command_list::CommandText;
    use crate::catalog::options::RouteOptions;
    use crate::table::Scheme;

    const SOURCE: SourceName = "consul";

    fn builder() -> TableBuilder {
        TableBuilder::new(Matcher::Prefix, Strategy::P2c, Metrics::default())
    }

    fn key(host: &str, path: &str) -> RouteKey {
        RouteKey {
            host: host.into(),
            path: path.into(),
        }
    }

    fn at(key: RouteKey, n: u16) -> Contribution {
        Contribution {
            key,
            instance: InstanceId {
                node: "n".into(),
                id: format!("i{n}").into(),
            },
            addr: ([127, 0, 0, 1], n).into(),
            options: Arc::default(),
            tags: [Arc::from(format!("t{n}"))].into(),
            admission: Admission::Eligible { weight: 1 },
        }
    }

    fn apply(
        builder: &mut TableBuilder,
        name: &str,
        contributions: Vec<Contribution>,
    ) -> RouteTable {
        builder.apply_service(SOURCE, &name.into(), contributions, 0);
        let table = builder.build();
        builder.retire();
        table
    }

    fn get(table: &RouteTable, host: &str) -> Option<Arc<Route>> {
        table.lookup(Scheme::Http, host, "/", |_| true).cloned()
    }

    #[test]
    fn an_update_touches_only_its_own_routes() {
        let mut builder = builder();
        apply(
            &mut builder,
            "a",
            vec![at(key("a", "/"), 1), at(key("both", "/"), 1)],
        );
        let before = apply(
            &mut builder,
            "b",
            vec![at(key("b", "/"), 2), at(key("both", "/"), 2)],
        );
        let after = apply(
            &mut builder,
            "b",
            vec![at(key("b", "/"), 3), at(key("both", "/"), 2)],
        );
        for same in ["a", "both"] {
            assert!(
                Arc::ptr_eq(&get(&before, same).unwrap(), &get(&after, same).unwrap()),
                "{same}"
            );
        }
        let (old, new) = (get(&before, "b").unwrap(), get(&after, "b").unwrap());
        assert_eq!(old.id, new.id);
        assert_eq!(
            (old.rotation.next(10), new.rotation.next(10)),
            (0, 1),
            "turns go on"
        );
        assert!(
            !old.targets[0].state.retired.load(Relaxed),
            "still at the other place"
        );
        assert_eq!(new.targets[0].state.addr.port(), 3);
        assert_eq!(
            *builder.changes(),
            Changes {
                added: 0,
                changed: 1,
                removed: 0
            }
        );

        builder.remove_service(SOURCE, &"b".into());
        let last = builder.build();
        assert_eq!(
            (last.len(), get(&last, "both").unwrap().targets.len()),
            (2, 1)
        );
        assert_eq!(
            *builder.changes(),
            Changes {
                added: 0,
                changed: 1,
                removed: 1
            }
        );
        assert!(!builder.is_dirty());
        assert!(
            !new.targets[0].state.retired.load(Relaxed),
            "not before the new table is live"
        );
        builder.retire();
        assert!(new.targets[0].state.retired.load(Relaxed));
    }

    #[test]
    fn states_live_as_long_as_their_identity() {
        let mut builder = builder();
        let first = get(&apply(&mut builder, "s", vec![at(key("a", "/"), 1)]), "a").unwrap();
        // More tags, excluded for a while, other tags: the same instance.
        let excluded = Contribution {
            admission: Admission::Excluded {
                reason: "sick".into(),
            },
            ..at(key("b", "/"), 1)
        };
        let table = apply(&mut builder, "s", vec![excluded.clone()]);
        assert_eq!(get(&table, "b").unwrap().excluded.len(), 1);
        let again = get(
            &apply(
                &mut builder,
                "s",
                vec![at(key("b", "/"), 1), at(key("c", "/"), 1)],
            ),
            "c",
        )
        .unwrap();
        assert!(Arc::ptr_eq(
            &first.targets[0].state,
            &again.targets[0].state
        ));
        assert!(!first.targets[0].state.retired.load(Relaxed));
        // The same id on another port, and another id on the same port, are others.
        let moved = Contribution {
            addr: ([127, 0, 0, 1], 9).into(),
            ..at(key("c", "/"), 1)
        };
        let moved = get(&apply(&mut builder, "s", vec![moved]), "c").unwrap();
        assert_ne!(moved.targets[0].state.key, first.targets[0].state.key);
        assert!(first.targets[0].state.retired.load(Relaxed));
        // Gone and back: new.
        apply(&mut builder, "s", vec![]);
        let back = get(&apply(&mut builder, "s", vec![at(key("a", "/"), 1)]), "a").unwrap();
        assert_ne!(back.targets[0].state.key, first.targets[0].state.key);
    }

    #[test]
    fn a_place_of_tcp_alone_is_none_for_requests_whatever_its_instances_do() {
        let tcp = || {
            Arc::new(RouteOptions {
                proto: Proto::Tcp,
                ..RouteOptions::default()
            })
        };
        let out = || Admission::Excluded {
            reason: "critical".into(),
        };
        let bytes = |n| Contribution {
            options: tcp(),
            ..at(key("a", "/"), n)
        };
        let mut builder = builder();
        for (contributions, for_requests, passed_through) in [
            (vec![bytes(1)], false, true),
            (
                vec![Contribution {
                    admission: out(),
                    ..bytes(1)
                }],
                false,
                false,
            ),
            (
                vec![
                    bytes(1),
                    Contribution {
                        admission: out(),
                        ..bytes(2)
                    },
                ],
                false,
                true,
            ),
            (vec![bytes(1), at(key("a", "/"), 2)], true, false),
            (vec![at(key("a", "/"), 2)], true, false),
            (
                vec![Contribution {
                    admission: out(),
                    ..at(key("a", "/"), 2)
                }],
                true,
                false,
            ),
        ] {
            let table = apply(&mut builder, "s", contributions.clone());
            assert_eq!(
                get(&table, "a").is_some(),
                for_requests,
                "{contributions:?}"
            );
            assert_eq!(
                table
                    .explain(Scheme::Http, "a", "/", |_| true, 0)
                    .route
                    .is_some(),
                for_requests,
                "{contributions:?}"
            );
            assert_eq!(
                table.is_passed_through("a"),
                passed_through,
                "{contributions:?}"
            );
            assert!(table.lookup_server_name("a").is_some(), "{contributions:?}");
        }
        // What is passed over leads to the next shorter path, then to the next host.
        let below = |path| Contribution {
            options: tcp(),
            ..at(key("a", path), 3)
        };
        let rest = vec![
            at(key("a", "/x"), 2),
            below("/x/y"),
            below("/x/y/ä"),
            below("/z"),
            at(key("", "/z"), 2),
        ];
        let table = apply(&mut builder, "s", rest);
        for (path, found) in [
            ("/x/y/ä/1", Some("/x")),
            ("/x/y", Some("/x")),
            ("/z/1", Some("/z")),
            ("/q", None),
        ] {
            let route = table.lookup(Scheme::Http, "a", path, |_| true);
            assert_eq!(
                route.map(|route| (&*route.key.path, route.tcp)),
                found.map(|path| (path, false)),
                "{path}"
            );
        }
    }

    #[test]
    fn counters_of_targets_come_and_go_with_them() {
        use crate::fabio::metrics::{Bounds, FabioMetrics, Names};
        let names = Names {
            prefix: "p".into(),
            subsystem: String::new(),
            bounds: Bounds::new(&[]),
        };
        let fabio = Arc::new(FabioMetrics::new(names, false));
        let metrics = Metrics::default().with_observer(Arc::clone(&fabio) as _);
        let mut builder = TableBuilder::new(Matcher::Prefix, Strategy::P2c, metrics.clone());
        let targets = || {
            let all = fabio.series.routes();
            all.iter()
                .map(|series| format!("{}{}", series.labels.host, series.labels.target))
                .collect::<Vec<_>>()
        };
        let table = apply(
            &mut builder,
            "s",
            vec![
                at(key("a", "/"), 1),
                at(key("a", "/"), 2),
                at(key("b", "/"), 1),
            ],
        );
        let (one, two, other) = (
            "ahttp://127.0.0.1:1/",
            "ahttp://127.0.0.1:2/",
            "bhttp://127.0.0.1:1/",
        );
        assert_eq!(targets(), [one, two, other]);
        let first = get(&table, "a").unwrap();
        let sick = Contribution {
            admission: Admission::Excluded {
                reason: "sick".into(),
            },
            ..at(key("a", "/"), 2)
        };
        builder.apply_service(SOURCE, &"s".into(), vec![at(key("a", "/"), 1), sick], 0);
        let table = builder.build();
        assert_eq!(targets(), [one, two, other], "the old table is still live");
        builder.retire();
        assert_eq!(targets(), [one]);
        let kept = get(&table, "a").unwrap().targets[0]
            .observer
            .clone()
            .unwrap();
        assert!(
            Arc::ptr_eq(&kept, first.targets[0].observer.as_ref().unwrap()),
            "a target that stays keeps counting"
        );
        // Gone and back before the next table is live: never gone.
        builder.remove_service(SOURCE, &"s".into());
        let _ = builder.build();
        apply(&mut builder, "s", vec![at(key("a", "/"), 1)]);
        assert_eq!(targets(), [one]);
        apply(&mut builder, "s", vec![]);
        assert!(targets().is_empty());
    }

    #[test]
    fn weights_of_consul_and_of_tags_make_shares() {
        let mut builder = builder();
        let weighted = |n, weight| Contribution {
            admission: Admission::Eligible { weight },
            ..at(key("a", "/"), n)
        };
        let table = apply(&mut builder, "s", vec![weighted(1, 1), weighted(2, 3)]);
        let shares = |table: &RouteTable| {
            get(table, "a")
                .unwrap()
                .targets
                .iter()
                .map(|t| t.share)
                .collect::<Vec<_>>()
        };
        assert_eq!(shares(&table), [0.25, 0.75]);
        assert!(
            get(&table, "a").unwrap().ring.is_empty(),
            "only rr needs a ring"
        );
        builder.set_defaults(Matcher::Prefix, Strategy::RoundRobin);
        assert_eq!(*get(&builder.build(), "a").unwrap().ring, [0, 1, 1, 1]);
        let own = Arc::new(RouteOptions {
            strategy: Some(Strategy::Least),
            weight: Some(0.5),
            ..Default::default()
        });
        let table = apply(
            &mut builder,
            "s",
            vec![
                Contribution {
                    options: own,
                    ..weighted(1, 1)
                },
                weighted(2, 3),
            ],
        );
        assert_eq!(
            (shares(&table), &get(&table, "a").unwrap().strategy),
            (vec![0.5, 0.5], &Strategy::Least)
        );
    }

    #[test]
    fn commands_act_in_order_after_tags() {
        let hosts = |table: &RouteTable| {
            table
                .routes()
                .iter()
                .map(|r| r.key.host.clone())
                .collect::<Vec<_>>()
        };
        for (text, expected) in [
            ("route del s", vec![]),
            ("route del s a/", vec!["b"]),
            ("route del s a/ http://127.0.0.1:1/", vec!["a", "b"]),
            (
                "route del s a/ http://127.0.0.1:1/\nroute del s a/ http://127.0.0.1:2",
                vec!["b"],
            ),
            ("route del tags \"t1\"", vec!["a"]),
            ("route del s tags \"t1,t2\"", vec!["a", "b"]),
            ("route add x c/ http://127.0.0.1:7/", vec!["a", "b", "c"]),
            (
                "route add x c/ http://127.0.0.1:7/\nroute del x",
                vec!["a", "b"],
            ),
            (
                "route del x\nroute add x c/ http://127.0.0.1:7/",
                vec!["a", "b", "c"],
            ),
        ] {
            let mut builder = builder();
            apply(
                &mut builder,
                "s",
                vec![
                    at(key("a", "/"), 1),
                    at(key("a", "/"), 2),
                    at(key("b", "/"), 1),
                ],
            );
            let (commands, errors) = parse_commands(text);
            assert!(errors.is_empty(), "{errors:?}");
            builder.apply_commands("routes_file", commands.into(), 0);
            assert_eq!(hosts(&builder.build()), expected, "{text}");
            // Tags that come later meet the same commands.
            apply(&mut builder, "s", vec![]);
            let again = apply(
                &mut builder,
                "s",
                vec![
                    at(key("a", "/"), 1),
                    at(key("a", "/"), 2),
                    at(key("b", "/"), 1),
                ],
            );
            assert_eq!(hosts(&again), expected, "{text}");
            builder.apply_commands("routes_file", [].into(), 0);
            assert_eq!(hosts(&builder.build()), ["a", "b"]);
        }
    }

    #[test]
    fn one_changed_line_of_many_compiles_one_route() {
        const ROUTES: usize = 3000;
        let mut builder = builder();
        let mut lines: Vec<String> = (0..ROUTES)
            .map(|n| {
                format!(
                    "route add s{} h{n}/ http://127.0.0.1:{}/",
                    n % 50,
                    1 + n % 7
                )
            })
            .collect();
        let mut text = CommandText::default();
        let mut apply = |builder: &mut TableBuilder, lines: &[String]| {
            text.replace(lines.join("\n"));
            builder.apply_commands("routes_file", text.commands().cloned().collect(), 0);
            let table = builder.build();
            builder.retire();
            (table, builder.changes().clone())
        };
        let changes = |added, changed, removed| Changes {
            added,
            changed,
            removed,
        };
        let (before, first) = apply(&mut builder, &lines);
        assert_eq!(first, changes(ROUTES, 0, 0));
        lines[ROUTES / 2] = format!("route add s1 h{}/ http://127.0.0.1:9/", ROUTES / 2);
        let (after, second) = apply(&mut builder, &lines);
        assert_eq!(second, changes(0, 1, 0));
        let shared =
            |host: &str| Arc::ptr_eq(&get(&before, host).unwrap(), &get(&after, host).unwrap());
        assert_eq!(
            (0..ROUTES)
                .filter(|n| !shared(&format!("h{n}")))
                .collect::<Vec<_>>(),
            [ROUTES / 2]
        );
        // Lines that go elsewhere, or are said twice, change nothing.
        lines.swap(1, ROUTES - 2);
        lines.insert(7, lines[900].clone());
        let third = apply(&mut builder, &lines).1;
        assert_eq!((third.added, third.removed), (0, 0));
        assert!(
            third.changed <= 1,
            "only where a line is said twice: {third:?}"
        );
        lines.truncate(ROUTES - 100);
        assert_eq!(apply(&mut builder, &lines).1.removed, 101);
    }

    #[test]
    fn a_step_that_changes_sides_with_one_that_acts_everywhere_counts() {
        let mut builder = builder();
        let mut apply = |text: &str| {
            builder.apply_commands("routes_file", parse_commands(text).0.into(), 0);
            let table = builder.build();
            table
                .routes()
                .iter()
                .map(|route| route.key.host.clone())
                .collect::<Vec<_>>()
        };
        let (add, other) = (
            "route add x a/ http://127.0.0.1:7/ tags \"t\"",
            "route add x b/ http://127.0.0.1:7/",
        );
        let del = "route del tags \"t\"";
        assert_eq!(apply(&format!("{add}\n{other}\n{del}")), ["b"]);
        assert_eq!(apply(&format!("{other}\n{del}\n{add}")), ["a", "b"]);
        assert_eq!(apply(&format!("{other}\n{add}\n{del}")), ["b"]);
        assert_eq!(apply(&format!("{other}\n{add}")), ["a", "b"]);
    }

    #[test]
    fn a_command_without_address_holds_its_place() {
        let mut builder = builder();
        apply(&mut builder, "s", vec![at(key("a", "/"), 1)]);
        let (mut commands, _) = parse_commands(
            "route add x a/deep http://one.invalid\nroute add x a/deep http://two.invalid",
        );
        for command in &mut commands {
            let Command::Add(add) = command else {
                panic!("{command}")
            };
            add.endpoint = Endpoint::Unresolved {
                host: "x".into(),
                port: 80,
                reason: "no such name".into(),
            };
        }
        builder.apply_commands("static", commands.into(), 0);
        let route = builder
            .build()
            .lookup(Scheme::Http, "a", "/deep/x", |_| true)
            .cloned()
            .unwrap();
        assert_eq!(
            (&*route.key.path, route.targets.len(), route.excluded.len()),
            ("/deep", 0, 2)
        );
        assert!(
            route
                .excluded
                .iter()
                .all(|excluded| &*excluded.reason == "no such name")
        );
        let target = builder.command_services().targets(&"x".into()).next();
        assert_eq!(
            target.and_then(|target| target.excluded.as_deref()),
            Some("no such name")
        );
    }

    #[test]
    fn every_address_of_a_name_is_a_target() {
        let mut builder = builder();
        let (commands, _) = parse_commands("route add x / http://web:80/");
        let at = |last: u8| match commands[0].clone() {
            Command::Add(mut add) => {
                add.endpoint = Endpoint::Addr(([10, 0, 0, last], 80).into());
                Command::Add(add)
            }
            other => other,
        };
        builder.apply_commands("static", [at(1), at(2), at(2)].into(), 0);
        let route = builder
            .build()
            .lookup(Scheme::Http, "a", "/", |_| true)
            .cloned()
            .unwrap();
        let addrs: Vec<String> = route
            .targets
            .iter()
            .map(|target| target.state.addr.to_string())
            .collect();
        assert_eq!(addrs, ["10.0.0.1:80", "10.0.0.2:80"]);
    }

    #[test]
    fn a_weight_command_is_split_and_written_back() {
        let mut builder = builder();
        let (commands, _) =
            parse_commands("route weight s a/ weight 0.4\nroute weight b/ weight 1 tags \"none\"");
        builder.apply_commands("routes_file", commands.into(), 0);
        builder.apply_service("other", &"t".into(), vec![at(key("a", "/"), 3)], 0);
        let table = apply(
            &mut builder,
            "s",
            vec![
                at(key("a", "/"), 1),
                at(key("a", "/"), 2),
                at(key("", "/"), 1),
            ],
        );
        let shares: Vec<f64> = get(&table, "a")
            .unwrap()
            .targets
            .iter()
            .map(|target| target.share)
            .collect();
        assert!(
            shares
                .iter()
                .zip([0.2, 0.2, 0.6])
                .all(|(a, b)| (a - b).abs() < 1e-9),
            "{shares:?}"
        );
        assert_eq!(
            table.to_fabio_commands(),
            "route add t a/ http://127.0.0.1:3/ tags \"t3\"\n\
             route add s a/ http://127.0.0.1:2/ weight 0.2000 tags \"t2\"\n\
             route add s a/ http://127.0.0.1:1/ weight 0.2000 tags \"t1\"\n\
             route add s / http://127.0.0.1:1/ tags \"t1\"\n"
        );
    }

    #[test]
    fn an_explanation_names_hosts_targets_and_reasons() {
        let mut builder = builder();
        let sick = Contribution {
            admission: Admission::Excluded {
                reason: "sick".into(),
            },
            ..at(key("*.a", "/"), 2)
        };
        let table = apply(
            &mut builder,
            "s",
            vec![at(key("*.a", "/"), 1), sick, at(key("x.a", "/deep"), 1)],
        );
        let explanation = table.explain(Scheme::Http, "x.a", "/", |_| true, 1);
        let hosts: Vec<_> = explanation
            .hosts
            .iter()
            .map(|step| (step.host.as_str(), step.path.is_some()))
            .collect();
        assert_eq!(hosts, [("x.a", false), ("*.a", true), ("", false)]);
        let route = explanation.route.unwrap();
        assert_eq!(
            (
                route.host.as_str(),
                route.targets[0].state,
                route.excluded[0].reason.as_str()
            ),
            ("*.a", "healthy", "sick")
        );
    }
}
