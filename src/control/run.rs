//! The loop: drain what is ready, evaluate what it touched, build once, publish, tell.
//!
//! ```text
//! updates ─┐                                   ┌─> SharedTable ─> workers
//! requests ┼─> mark dirty ─> evaluate ─> build ┤
//! deadline ┘                                   └─> metrics, log, then series of vanished services removed
//! ```
//!
//! Updates that are ready together go into one table without any sleep: while a build runs, the
//! next ones queue up.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, watch};

use super::change::Changed;
use super::handle::{ControlHandle, ControlRequest, REQUESTS_MAX};
use super::service::{Counts, EvaluationContext, Service, reason_of_ejection, tag_env};
use super::tags::{TagRules, unknown_auth, unknown_certificate, unknown_policy};
use super::teller::Teller;
use super::transitions::{Evaluated, Reasons, all_gone, transitions};
use super::{ControlSettings, InstanceStatus, Readiness, RejectedPlace, ServiceStatus};
use crate::catalog::command::{Command, CommandError};
use crate::catalog::command_list::CommandList;
use crate::catalog::source::SourceName;
use crate::catalog::tag::{RouteKey, place_of, place_of_line};
use crate::catalog::{Instance, InstanceId, Registration, ServiceName};
use crate::journal::{Draft, Ejection, Kind};
use crate::metrics::Metrics;
use crate::sources::Update;
use crate::table::explain::{Asked, would_match};
use crate::table::sticky::StickyKey;
use crate::table::{Clock, CommandTarget, SharedTable, TableBuilder};

/// Most updates that go into one table: a source that never pauses must not keep tables from being
/// built.
const UPDATES_PER_BUILD_MAX: usize = 100_000;

/// Most rejected commands of one update that are logged one by one; all are in the list of
/// services.
const LOGGED_ERRORS_MAX: usize = 20;

/// How long a service that a tag names may be missing before that is told: its source may be about
/// to find it.
const MISSING_MAX: Duration = Duration::from_secs(5);

type ServiceKey = (SourceName, ServiceName);

/// The one writer of tables.
#[derive(Debug)]
pub struct Control {
    settings: ControlSettings,
    /// Variables in places of tags.
    env: HashMap<String, String>,
    clock: Clock,
    metrics: Metrics,
    table: SharedTable,
    builder: TableBuilder,
    /// Sources that ever named a service.
    sources: BTreeSet<SourceName>,
    services: BTreeMap<ServiceKey, Service>,
    /// When services have to be evaluated again although nothing was heard; few have such a time.
    deadlines: BTreeMap<ServiceKey, Instant>,
    /// Services to evaluate before the next build.
    dirty: BTreeSet<ServiceKey>,
    /// Names that may have left for good.
    vanished: BTreeSet<ServiceName>,
    /// Sources whose commands were replaced since the last build, with the number of commands.
    commands_changed: BTreeMap<SourceName, usize>,
    command_errors: BTreeMap<SourceName, Arc<[CommandError]>>,
    /// The commands of each source as they came last.
    commands: BTreeMap<SourceName, CommandList>,
    /// Remarks on commands, by the service that they name.
    command_remarks: BTreeSet<(ServiceName, String)>,
    synced: BTreeSet<SourceName>,
    /// Sources that have synced since the last table. They count as synced once the next table is
    /// live, so that what came together with the sync counts as known from the start.
    newly_synced: BTreeSet<SourceName>,
    started: Instant,
    /// When the earliest change that is not published yet could first be seen.
    seen_at: Option<Instant>,
    readiness: Arc<watch::Sender<Readiness>>,
    /// The key of cookies that keep clients with instances, where the settings have none.
    found_sticky_key: Option<StickyKey>,
    lacks_sticky_key: Arc<watch::Sender<bool>>,
    requests: mpsc::Receiver<ControlRequest>,
    /// From the workers.
    ejections: Option<mpsc::Receiver<Ejection>>,
    /// Services that tags of others name: since when they are missing, until that is told.
    missing: BTreeMap<ServiceName, Option<Instant>>,
    /// Their names, for the sources.
    named: watch::Sender<Arc<BTreeSet<ServiceName>>>,
    teller: Teller,
}

impl Control {
    /// A control loop that will report ready once all `sources` have synced, and the handle to it.
    /// `clock` is the one the workers use.
    #[must_use]
    pub fn new(
        settings: ControlSettings,
        sources: &[SourceName],
        clock: Clock,
        metrics: Metrics,
        table: SharedTable,
    ) -> (Self, ControlHandle) {
        let waiting_for = sources.iter().map(|source| (*source).to_owned()).collect();
        let readiness = Arc::new(watch::Sender::new(Readiness {
            waiting_for,
            draining: false,
        }));
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let lacks_sticky_key = Arc::new(watch::Sender::new(false));
        sources
            .iter()
            .for_each(|source| metrics.journal().sources().expect(source, None));
        let control = Self {
            env: env(&settings),
            builder: builder(&settings, &metrics),
            settings,
            clock,
            ejections: metrics.journal().take_ejections(),
            missing: BTreeMap::new(),
            named: watch::Sender::default(),
            teller: Teller::new(metrics.journal().clone()),
            metrics,
            table,
            sources: BTreeSet::new(),
            services: BTreeMap::new(),
            deadlines: BTreeMap::new(),
            dirty: BTreeSet::new(),
            vanished: BTreeSet::new(),
            commands_changed: BTreeMap::new(),
            command_errors: BTreeMap::new(),
            commands: BTreeMap::new(),
            command_remarks: BTreeSet::new(),
            synced: BTreeSet::new(),
            newly_synced: BTreeSet::new(),
            started: Instant::now(),
            seen_at: None,
            readiness: Arc::clone(&readiness),
            found_sticky_key: None,
            lacks_sticky_key: Arc::clone(&lacks_sticky_key),
            requests,
        };
        (
            control,
            ControlHandle {
                requests: sender,
                readiness,
                lacks_sticky_key,
            },
        )
    }

    /// The services that tags and commands name beside their own, as they come and go: sources have
    /// to follow them whatever their own tags are.
    #[must_use]
    pub fn named_services(&self) -> watch::Receiver<Arc<BTreeSet<ServiceName>>> {
        self.named.subscribe()
    }

    /// Runs until all sources and all handles are gone. Dropping the future stops it between two
    /// tables.
    pub async fn run(mut self, mut updates: mpsc::Receiver<Update>) {
        let (mut sources_live, mut handles_live) = (true, true);
        while sources_live || handles_live {
            let deadline = self.next_deadline();
            tokio::select! {
                update = updates.recv(), if sources_live => match update {
                    Some(update) => self.take(update, &mut updates),
                    None => sources_live = false,
                },
                request = self.requests.recv(), if handles_live => match request {
                    Some(request) => self.respond(request),
                    None => handles_live = false,
                },
                Some(ejection) = next(&mut self.ejections) => self.take_ejections(&ejection),
                () = sleep_until(deadline) => self.mark_due(Instant::now()),
            }
            self.advance(Instant::now());
        }
    }

    /// This update, and all others that are ready.
    fn take(&mut self, first: Update, updates: &mut mpsc::Receiver<Update>) {
        self.apply(first);
        for _ in 1..UPDATES_PER_BUILD_MAX {
            match updates.try_recv() {
                Ok(update) => self.apply(update),
                Err(_) => return,
            }
        }
    }

    /// This ejection, and all others that are known.
    fn take_ejections(&mut self, first: &Ejection) {
        let now = Instant::now();
        let take = |teller: &mut Teller, builder: &TableBuilder, ejection: &Ejection| {
            let id = InstanceId {
                node: Arc::clone(&ejection.node),
                id: Arc::clone(&ejection.id),
            };
            teller.ejected(ejection, builder.state(&id, ejection.address), now);
        };
        take(&mut self.teller, &self.builder, first);
        while let Some(Ok(ejection)) = self.ejections.as_mut().map(mpsc::Receiver::try_recv) {
            take(&mut self.teller, &self.builder, &ejection);
        }
    }

    fn apply(&mut self, update: Update) {
        match update {
            Update::Service {
                source,
                snapshot,
                seen_at,
            } => {
                self.sources.insert(source);
                self.see(source, seen_at);
                let key = (source, Arc::clone(&snapshot.name));
                match self.services.get_mut(&key) {
                    Some(service) => service.snapshot = snapshot,
                    None => drop(self.services.insert(key.clone(), Service::new(snapshot))),
                }
                self.dirty.insert(key);
            }
            Update::Gone {
                source,
                service,
                seen_at,
            } => {
                self.see(source, seen_at);
                let key = (source, service);
                if let Some(service) = self.services.remove(&key) {
                    self.builder.remove_service(source, &key.1);
                    self.note_gone(&service);
                }
                self.dirty.remove(&key);
                self.deadlines.remove(&key);
                // Even if commands still name it: its tags are gone.
                self.metrics.control().rejected_tags.remove(&key.1);
                self.vanished.insert(key.1);
            }
            Update::Commands {
                source,
                commands,
                errors,
                seen_at,
            } => {
                self.see(source, seen_at);
                let since_ms = self.since_ms(source, Instant::now());
                self.commands_changed.insert(source, commands.len());
                self.commands.insert(source, commands.clone());
                self.remark_on_commands();
                self.builder.apply_commands(source, commands, since_ms);
                self.take_errors(source, errors);
            }
            Update::Synced { source } => drop(self.newly_synced.insert(source)),
        }
    }

    /// Notes when a change could first be seen. What a source sends before it has synced is not a
    /// change.
    fn see(&mut self, source: SourceName, at: Instant) {
        if self.synced.contains(source) {
            self.seen_at = Some(self.seen_at.map_or(at, |before| before.min(at)));
        }
    }

    /// All instances of a service left with it.
    fn note_gone(&mut self, service: &Service) {
        let Some(seen) = &service.seen else { return };
        let before = Evaluated {
            snapshot: &seen.snapshot,
            verdicts: service.verdicts(),
        };
        let of_traffic = |id: &_, addr| self.teller.of_traffic(id, addr);
        let gone = all_gone(before, "deregistered, and its service with it", of_traffic);
        self.teller.note(gone, self.clock.now_ms());
        self.teller
            .note_usable(&seen.snapshot.name, true, seen.serving, 0, 0);
    }

    fn take_errors(&mut self, source: SourceName, errors: Arc<[CommandError]>) {
        if self
            .command_errors
            .get(source)
            .is_some_and(|known| *known == errors)
        {
            return;
        }
        // Lines move, and stay as wrong as they were.
        let known = self
            .command_errors
            .get(source)
            .map_or(&[][..], |known| known);
        let known: HashSet<(&str, &str)> = known
            .iter()
            .map(|error| (&*error.text, &*error.reason))
            .collect();
        let is_new = |error: &&CommandError| !known.contains(&(&*error.text, &*error.reason));
        // An event for each of some thousands would push everything else out of the journal.
        for error in errors.iter().filter(is_new).take(LOGGED_ERRORS_MAX) {
            let reason = format!("{}: {}: {}", error.place(), error.text, error.reason);
            self.teller.event(
                Draft::new(Kind::Tag)
                    .of(source)
                    .states("new", "rejected")
                    .because(&reason),
            );
            tracing::warn!(
                source,
                place = error.place(),
                text = error.text,
                reason = error.reason,
                "route command rejected"
            );
        }
        let count = errors.len() as u64;
        set_or_remove(
            &mut self.metrics.control().rejected_tags,
            &Arc::from(source),
            count,
        );
        self.command_errors.insert(source, errors);
    }

    /// Checks which authentication schemes the routes of commands name, and reports those that have
    /// become unknown.
    fn remark_on_commands(&mut self) {
        let mut remarks = BTreeSet::new();
        for command in self.commands.values().flat_map(|commands| commands.iter()) {
            let Command::Add(add) = &**command else {
                continue;
            };
            let options = &add.spec.options;
            let unknown = [
                unknown_auth(&self.settings.auth, options),
                unknown_policy(&self.settings.policies, options),
                unknown_certificate(&self.settings.certificates, options),
            ];
            for remark in unknown.into_iter().flatten() {
                let key = &add.spec.key;
                remarks.insert((
                    Arc::clone(&add.service),
                    format!("{}{}: {remark}", key.host, key.path),
                ));
            }
        }
        for (service, remark) in remarks
            .difference(&self.command_remarks)
            .take(LOGGED_ERRORS_MAX)
        {
            tracing::warn!(%service, remark, "route accepted with warning");
        }
        self.command_remarks = remarks;
    }

    /// Instances that are there at the start are at full share at once.
    fn since_ms(&self, source: SourceName, now: Instant) -> u64 {
        if self.synced.contains(source) {
            self.clock.at(now)
        } else {
            0
        }
    }

    /// Evaluates what is dirty, publishes a table if anything changed, and tells.
    fn advance(&mut self, now: Instant) {
        let started = Instant::now();
        let dirty = std::mem::take(&mut self.dirty);
        let mut changed = Changed::default();
        let commands_changed = std::mem::take(&mut self.commands_changed);
        commands_changed
            .iter()
            .for_each(|(source, count)| changed.note(source, &format!("{count} commands")));
        self.vanished
            .iter()
            .for_each(|name| changed.note(name, "gone"));
        dirty
            .iter()
            .for_each(|key| self.evaluate(key, now, &mut changed));
        self.follow_named(now, &mut changed);
        self.tell_missing(now);
        let seen_at = self.seen_at.take();
        if self.builder.is_dirty() {
            self.publish(started, dirty.len(), &changed);
            if let Some(seen_at) = seen_at {
                self.metrics
                    .control()
                    .change_to_traffic
                    .observe(seen_at.elapsed().as_secs_f64());
            }
        }
        if !commands_changed.is_empty() {
            let starting = |source: &str| !self.synced.contains(source);
            self.teller.note_commands(
                self.builder.command_services(),
                starting,
                self.clock.at(now),
            );
        }
        self.teller.look(now, self.clock.at(now));
        let touched = self.teller.tell();
        self.builder.retire();
        self.vanished
            .extend(self.builder.take_gone_command_services());
        let touched = touched.iter().map(|name| Arc::from(name.as_str()));
        self.count_targets(
            dirty
                .iter()
                .map(|(_, name)| Arc::clone(name))
                .chain(touched)
                .collect(),
        );
        self.forget_vanished();
        self.note_synced();
    }

    fn evaluate(&mut self, key: &ServiceKey, now: Instant, changed: &mut Changed) {
        let since_ms = self.since_ms(key.0, now);
        let Some(service) = self.services.get_mut(key) else {
            return;
        };
        let rejected_before = std::mem::take(&mut service.tags.rejected);
        let remarks_before = std::mem::take(&mut service.tags.remarks);
        let held_before = service.held.clone();
        let (seen_before, verdicts_before) = (service.seen.take(), service.take_verdicts());
        let around = EvaluationContext {
            settings: &self.settings,
            tag_rules: TagRules {
                prefix: self.settings.tag_prefix_of(key.0),
                env: &self.env,
                matcher: self.settings.matcher,
                auth: &self.settings.auth,
                allowed: &self.settings.allowed,
                policies: &self.settings.policies,
                certificates: &self.settings.certificates,
            },
            builder: &self.builder,
            clock: self.clock,
            now,
            starting: !self.synced.contains(key.0),
        };
        let (contributions, named) = service.evaluate(&around);
        let seen = service.see();
        changed.service(&key.1, seen_before.as_ref(), &seen);
        let before = seen_before.as_ref().map(|seen| Evaluated {
            snapshot: &seen.snapshot,
            verdicts: &verdicts_before,
        });
        let reasons = Reasons {
            rules: &self.settings.rules,
            outputs: self.metrics.journal().outputs(),
        };
        let after = Evaluated {
            snapshot: &seen.snapshot,
            verdicts: service.verdicts(),
        };
        let of_traffic = |id: &_, addr| self.teller.of_traffic(id, addr);
        let found = transitions(before, after, reasons, around.starting, of_traffic);
        self.teller.note(found, self.clock.at(now));
        // Services of a start are told of together, when their source has synced.
        if !(around.starting && before.is_none()) {
            let (was, registered) = (
                seen_before.as_ref().map_or(0, |seen| seen.serving),
                seen.snapshot.instances.len(),
            );
            self.teller
                .note_usable(&key.1, before.is_some(), was, seen.serving, registered);
        }
        service.seen = Some(seen);
        match service.next_deadline {
            Some(at) => drop(self.deadlines.insert(key.clone(), at)),
            None => drop(self.deadlines.remove(key)),
        }
        for (tag, reason) in service
            .tags
            .rejected
            .iter()
            .filter(|(tag, _)| !rejected_before.contains_key(*tag))
        {
            tracing::warn!(service = %key.1, tag, reason, "route tag rejected");
            let event = Draft::new(Kind::Tag).of(&key.1).states("new", "rejected");
            self.teller
                .event(event.because(&format!("{tag}: {reason}")));
        }
        for tag in rejected_before
            .keys()
            .filter(|tag| !service.tags.rejected.contains_key(*tag))
        {
            let event = Draft::new(Kind::Tag).of(&key.1).states("rejected", "gone");
            self.teller
                .event(event.because(&format!("{tag}: not registered any more, or accepted now")));
        }
        for remark in service.tags.remarks.difference(&remarks_before) {
            tracing::warn!(service = %key.1, remark, "route tag accepted with warning");
            self.teller.event(
                Draft::new(Kind::Tag)
                    .of(&key.1)
                    .states("new", "remark")
                    .because(remark),
            );
        }
        match (&held_before, &service.held) {
            (None, Some(held)) => tracing::warn!(service = %key.1, "{held}"),
            (Some(_), None) => tracing::info!(service = %key.1, "no instance is held any more"),
            _ => {}
        }
        set_or_remove(
            &mut self.metrics.control().rejected_tags,
            &key.1,
            service.tags.rejected.len() as u64,
        );
        self.builder
            .apply_service(key.0, &key.1, contributions, since_ms);
        self.builder.apply_named(key.0, &key.1, named, since_ms);
    }

    /// Has the services that have come to be named in tags of others evaluated, and tells sources
    /// which they are.
    fn follow_named(&mut self, now: Instant, changed: &mut Changed) {
        let changes = self.builder.take_named_changes();
        if changes.is_empty() {
            return;
        }
        for name in changes {
            let keys: Vec<ServiceKey> = self
                .sources
                .iter()
                .map(|source| (*source, Arc::clone(&name)))
                .collect();
            for key in keys {
                self.evaluate(&key, now, changed);
            }
            if !self.builder.is_named(&name) {
                // It may have had series although it was never there.
                self.vanished.insert(name);
            }
        }
        let names: BTreeSet<ServiceName> = self.builder.named_services().cloned().collect();
        self.missing.retain(|name, _| names.contains(name));
        for name in &names {
            self.missing.entry(Arc::clone(name)).or_insert(Some(now));
        }
        self.named.send_replace(Arc::new(names));
    }

    /// Says once of each service that tags of others name that it is not there.
    fn tell_missing(&mut self, now: Instant) {
        for (name, since) in &mut self.missing {
            let in_catalog =
                |source: &SourceName| self.services.contains_key(&(*source, Arc::clone(name)));
            let is_there = self.sources.iter().any(in_catalog)
                || self.builder.command_services().contains(name);
            match *since {
                _ if is_there => *since = Some(now),
                Some(at) if now.saturating_duration_since(at) >= MISSING_MAX => {
                    *since = None;
                    tracing::warn!(
                        service = %name,
                        "a tag names this service as fallback= or mirror=, and no such service is registered: \
                         it gets nothing until it is"
                    );
                    let event = Draft::new(Kind::Tag).of(name).states("new", "missing");
                    self.teller
                        .event(event.because("named as fallback= or mirror=, and not registered"));
                }
                _ => {}
            }
        }
    }

    fn publish(&mut self, started: Instant, services: usize, changed: &Changed) {
        let table = self.builder.build();
        let routes = table.len();
        self.table.publish(table);
        self.lacks_sticky_key
            .send_replace(self.builder.lacks_sticky_key());
        let took = started.elapsed();
        let mut figures = self.metrics.control();
        figures.table_builds += 1;
        figures.table_build_seconds += took.as_secs_f64();
        figures.table_routes = routes as u64;
        drop(figures);
        let changes = self.builder.changes();
        tracing::info!(
            services,
            routes,
            added = changes.added,
            changed = changes.changed,
            removed = changes.removed,
            what = changed.to_string(),
            took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            "routing table changed"
        );
    }

    /// Writes the numbers of targets of some services.
    fn count_targets(&self, names: BTreeSet<ServiceName>) {
        let now_ms = self.clock.now_ms();
        let mut totals: Vec<(ServiceName, Counts)> = Vec::with_capacity(names.len());
        for name in names {
            let of_catalog = self
                .sources
                .iter()
                .filter_map(|source| self.services.get(&(*source, Arc::clone(&name))));
            let mut total = of_catalog
                .map(|service| service.counts(&self.builder, now_ms))
                .fold(Counts::default(), add);
            for target in self.builder.command_services().targets(&name) {
                match target.excluded {
                    Some(_) => total.excluded += 1,
                    None if target.state.is_ejected(now_ms) => total.ejected += 1,
                    None => total.healthy += 1,
                }
            }
            totals.push((name, total));
        }
        let mut figures = self.metrics.control();
        for (name, total) in totals {
            let Counts {
                healthy,
                excluded,
                ejected,
                held,
            } = total;
            for (state, count) in [
                ("healthy", healthy),
                ("excluded", excluded),
                ("ejected", ejected),
                ("held", held),
            ] {
                figures
                    .table_targets
                    .insert((Arc::clone(&name), state), count);
            }
        }
    }

    fn forget_vanished(&mut self) {
        for name in std::mem::take(&mut self.vanished) {
            let in_catalog = self
                .sources
                .iter()
                .any(|source| self.services.contains_key(&(*source, Arc::clone(&name))));
            if !in_catalog && !self.builder.command_services().contains(&name) {
                self.metrics.remove_service(&name);
            }
        }
    }

    fn note_synced(&mut self) {
        for source in std::mem::take(&mut self.newly_synced) {
            if !self.synced.insert(source) {
                continue;
            }
            let of_catalog = self.services.keys().filter(|(of, _)| *of == source).count();
            let of_commands = self.builder.command_services();
            let is_own = |name: &&ServiceName| {
                of_commands
                    .targets(name)
                    .any(|target| *target.state.id.node == *source)
            };
            let services = of_catalog + of_commands.names().filter(is_own).count();
            tracing::info!(
                source,
                services,
                took_ms = millis(self.started.elapsed()),
                "source has synced"
            );
            // What belongs to the service mesh was never to be used.
            let is_target =
                |it: &Instance| !matches!(it.registration, Registration::NotATarget { .. });
            let is_down = |service: &Service| {
                let seen = service.seen.as_ref();
                seen.is_some_and(|seen| {
                    seen.serving == 0 && seen.snapshot.instances.iter().any(is_target)
                })
            };
            let own = self.services.iter().filter(|((of, _), _)| *of == source);
            let down: Vec<&str> = own
                .filter(|(_, service)| is_down(service))
                .map(|((_, name), _)| &**name)
                .collect();
            self.teller.synced(source, &down);
        }
        self.readiness.send_if_modified(|readiness| {
            let before = readiness.waiting_for.len();
            readiness
                .waiting_for
                .retain(|source| !self.synced.contains(source.as_str()));
            readiness.waiting_for.len() != before
        });
    }

    fn respond(&mut self, request: ControlRequest) {
        // The requester may be gone; nothing else needs the response.
        match request {
            ControlRequest::Services(answer) => drop(answer.send(self.statuses())),
            ControlRequest::Rejected(asked, answer) => drop(answer.send(self.rejected(&asked))),
            ControlRequest::RefreshTargets(answer) => {
                let names = self
                    .services
                    .keys()
                    .map(|(_, name)| name)
                    .chain(self.builder.command_services().names());
                self.count_targets(names.cloned().collect());
                let _ = answer.send(());
            }
            ControlRequest::Settings(settings, answer) => {
                self.env = env(&settings);
                self.settings = *settings;
                self.builder
                    .set_defaults(self.settings.matcher, self.settings.strategy.clone());
                self.builder.set_fall_through(self.settings.fall_through);
                self.builder.set_host_patterns(self.settings.host_patterns);
                self.builder.set_policies(&self.settings.policies);
                self.set_sticky_key();
                self.dirty.extend(self.services.keys().cloned());
                self.remark_on_commands();
                self.advance(Instant::now());
                let _ = answer.send(());
            }
            ControlRequest::StickyKey(key, answer) => {
                self.found_sticky_key = Some(key);
                self.set_sticky_key();
                self.advance(Instant::now());
                let _ = answer.send(());
            }
        }
    }

    fn set_sticky_key(&mut self) {
        let of_file = self.settings.sticky_key.as_ref();
        let key = of_file.or(self.found_sticky_key.as_ref()).cloned();
        self.builder.set_sticky_key(key);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.deadlines
            .values()
            .copied()
            .chain(self.teller.next_look())
            .chain(self.next_missing())
            .min()
    }

    /// When the next missing service is told of.
    fn next_missing(&self) -> Option<Instant> {
        let since = self.missing.values().flatten();
        since.map(|since| *since + MISSING_MAX).min()
    }

    fn mark_due(&mut self, now: Instant) {
        let due = self.deadlines.iter().filter(|(_, at)| **at <= now);
        self.dirty.extend(due.map(|(key, _)| key.clone()));
    }

    /// What makes no route, and would match this if it did.
    fn rejected(&self, asked: &Asked) -> Vec<RejectedPlace> {
        let ControlSettings {
            matcher,
            host_patterns,
            ..
        } = &self.settings;
        let matching = |key: &RouteKey| would_match(*matcher, *host_patterns, key, asked);
        let of_tags = self.services.iter().flat_map(|((source, name), service)| {
            let tag_prefix = self.settings.tag_prefix_of(source);
            let env = tag_env(&self.env, &service.snapshot);
            service
                .tags
                .rejected
                .iter()
                .filter_map(move |(tag, reason)| {
                    let key = place_of(tag_prefix, tag, &env)?;
                    Some(RejectedPlace {
                        service: Arc::clone(name),
                        text: tag.clone(),
                        reason: reason.clone(),
                        key,
                    })
                })
        });
        let of_commands = self.command_errors.iter().flat_map(|(source, errors)| {
            errors.iter().filter_map(|error| {
                let (key, text) = (
                    place_of_line(&error.text)?,
                    format!("{}: {}", error.place(), error.text),
                );
                Some(RejectedPlace {
                    service: Arc::from(*source),
                    text,
                    reason: error.reason.clone(),
                    key,
                })
            })
        });
        of_tags
            .chain(of_commands)
            .filter(|rejected| matching(&rejected.key))
            .collect()
    }

    fn statuses(&self) -> Vec<ServiceStatus> {
        let now_ms = self.clock.now_ms();
        let successes = self.metrics.control().registry_success.clone();
        let reasons = Reasons {
            rules: &self.settings.rules,
            outputs: self.metrics.journal().outputs(),
        };
        let last_success = |name: &str| successes.get(name).and_then(|seconds| unix_time(*seconds));
        let of_catalog = self
            .services
            .iter()
            .map(|((source, name), service)| ServiceStatus {
                name: Arc::clone(name),
                source,
                last_success: last_success(name),
                instances: service.statuses(&self.builder, now_ms, reasons),
                rejected: service
                    .tags
                    .rejected
                    .iter()
                    .map(|(tag, reason)| (tag.clone(), reason.clone()))
                    .collect(),
                unknown_options: service.tags.remarks.iter().cloned().collect(),
                held: service.held.clone(),
            });
        let of_commands = self.builder.command_services().names().map(|name| {
            let mut targets = self.builder.command_services().targets(name).peekable();
            let from = |target: &CommandTarget| {
                self.command_errors
                    .keys()
                    .find(|source| ***source == *target.state.id.node)
            };
            ServiceStatus {
                name: Arc::clone(name),
                source: targets
                    .peek()
                    .copied()
                    .and_then(from)
                    .copied()
                    .unwrap_or("commands"),
                last_success: None,
                instances: targets
                    .map(|target| command_status(target, now_ms))
                    .collect(),
                rejected: Vec::new(),
                unknown_options: self
                    .command_remarks
                    .iter()
                    .filter(|(service, _)| service == name)
                    .map(|(_, remark)| remark.clone())
                    .collect(),
                held: None,
            }
        });
        let of_errors = self
            .command_errors
            .iter()
            .filter(|(_, errors)| !errors.is_empty())
            .map(|(source, errors)| {
                let line = |error: &CommandError| {
                    (
                        format!("{}: {}", error.place(), error.text),
                        error.reason.clone(),
                    )
                };
                ServiceStatus {
                    name: Arc::from(*source),
                    source,
                    last_success: None,
                    instances: Vec::new(),
                    rejected: errors.iter().map(line).collect(),
                    unknown_options: Vec::new(),
                    held: None,
                }
            });
        let mut all: Vec<ServiceStatus> = of_catalog.chain(of_commands).chain(of_errors).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

fn command_status(target: &CommandTarget, now_ms: u64) -> InstanceStatus {
    let state = &target.state;
    let (word, reason) = match &target.excluded {
        Some(reason) => ("excluded", Some(reason.to_string())),
        None if state.is_ejected(now_ms) => ("ejected", Some(reason_of_ejection(state, now_ms))),
        None => ("healthy", None),
    };
    InstanceStatus {
        id: state.id.clone(),
        address: state.addr.to_string(),
        state: word,
        reason,
        tags: Vec::new(),
        in_flight: state.in_flight.load(Relaxed),
        failures: state.failures.load(Relaxed),
    }
}

/// Without a channel: never.
async fn next(ejections: &mut Option<mpsc::Receiver<Ejection>>) -> Option<Ejection> {
    match ejections {
        Some(ejections) => ejections.recv().await,
        None => std::future::pending().await,
    }
}

fn builder(settings: &ControlSettings, metrics: &Metrics) -> TableBuilder {
    let mut builder =
        TableBuilder::new(settings.matcher, settings.strategy.clone(), metrics.clone());
    builder.set_fall_through(settings.fall_through);
    builder.set_host_patterns(settings.host_patterns);
    builder.set_policies(&settings.policies);
    builder.set_sticky_key(settings.sticky_key.clone());
    builder
}

fn env(settings: &ControlSettings) -> HashMap<String, String> {
    settings
        .datacenter
        .iter()
        .map(|name| ("DC".to_owned(), name.clone()))
        .collect()
}

fn add(a: Counts, b: Counts) -> Counts {
    Counts {
        healthy: a.healthy + b.healthy,
        excluded: a.excluded + b.excluded,
        ejected: a.ejected + b.ejected,
        held: a.held + b.held,
    }
}

fn set_or_remove(counts: &mut BTreeMap<Arc<str>, u64>, name: &Arc<str>, count: u64) {
    if count == 0 {
        counts.remove(name);
    } else {
        counts.insert(Arc::clone(name), count);
    }
}

fn unix_time(seconds: f64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Without a deadline: never.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Mutex;

    use super::*;
    use crate::catalog::allowed_options::AllowedOptions;
    use crate::catalog::command::{Command, parse_commands};
    use crate::catalog::eligibility::Rules;
    use crate::catalog::options::Strategy;
    use crate::catalog::policies::NamedPolicies;
    use crate::catalog::{
        Check, CheckScope, CheckStatus, Endpoint, Instance, InstanceId, Registration,
        ServiceSnapshot, Weights,
    };
    use crate::table::{Matcher, Route, Scheme};

    fn settings() -> ControlSettings {
        ControlSettings {
            tag_prefix: "urlprefix-".into(),
            tag_prefixes: BTreeMap::new(),
            rules: Rules {
                accept_status: vec![CheckStatus::Passing],
                checks_required_all: true,
                require_check: false,
                node_checks_all: true,
                weights: true,
                check_grace: Duration::from_secs(2),
                critical_hold: Duration::ZERO,
            },
            matcher: Matcher::Prefix,
            strategy: Strategy::P2c,
            fall_through: false,
            host_patterns: true,
            datacenter: Some("dc1".into()),
            eject_after: 5,
            auth: BTreeSet::from(["known".to_owned()]),
            allowed: AllowedOptions::default(),
            policies: NamedPolicies::default(),
            sticky_key: None,
            certificates: BTreeSet::new(),
        }
    }

    fn instance(id: &str, port: u16, status: CheckStatus, tags: &[&str]) -> Instance {
        Instance {
            id: InstanceId {
                node: "n1".into(),
                id: id.into(),
            },
            endpoint: Endpoint::Addr(([127, 0, 0, 1], port).into()),
            tags: tags.iter().map(|tag| Arc::from(*tag)).collect(),
            checks: vec![Check {
                id: "alive".into(),
                scope: CheckScope::Service,
                status,
            }],
            weights: Weights::default(),
            registration: Registration::default(),
        }
    }

    fn update(name: &str, instances: Vec<Instance>) -> Update {
        Update::Service {
            source: "consul",
            snapshot: Arc::new(ServiceSnapshot {
                name: name.into(),
                datacenter: None,
                instances,
            }),
            seen_at: Instant::now(),
        }
    }

    struct Bench {
        updates: mpsc::Sender<Update>,
        handle: ControlHandle,
        table: SharedTable,
        metrics: Metrics,
    }

    impl Bench {
        /// Runs `test` beside a control loop.
        fn run<F: Future<Output = ()>>(settings: ControlSettings, test: impl FnOnce(Bench) -> F) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap();
            let (metrics, table) = (Metrics::default(), SharedTable::default());
            let (updates, receiver) = mpsc::channel(100);
            let (control, handle) = Control::new(
                settings,
                &["consul"],
                Clock::start(),
                metrics.clone(),
                table.clone(),
            );
            let bench = Bench {
                updates,
                handle,
                table,
                metrics,
            };
            runtime.block_on(async { tokio::join!(control.run(receiver), test(bench)) });
        }

        /// Sends, and returns when the control loop has taken it in.
        async fn send(&self, update: Update) {
            self.updates.send(update).await.unwrap();
            while self.updates.capacity() < self.updates.max_capacity() {
                self.handle.refresh_targets().await;
            }
            self.handle.refresh_targets().await;
        }

        fn route(&self, host: &str, path: &str) -> Option<Arc<Route>> {
            self.table
                .load()
                .lookup(Scheme::Http, host, path, |_| true)
                .cloned()
        }

        async fn status(&self, name: &str) -> ServiceStatus {
            self.handle
                .services()
                .await
                .into_iter()
                .find(|status| &*status.name == name)
                .unwrap()
        }
    }

    use CheckStatus::{Critical, Passing};

    #[test]
    fn from_registration_to_route_and_away() {
        Bench::run(settings(), |bench| async move {
            assert!(!bench.handle.readiness().is_ready());
            bench
                .send(update(
                    "web",
                    vec![instance("a", 1, Passing, &["urlprefix-$DC.test/", "v1"])],
                ))
                .await;
            bench.send(Update::Synced { source: "consul" }).await;
            bench.handle.synced().await;
            assert!(bench.handle.readiness().is_ready());
            let route = bench.route("dc1.test", "/x").unwrap();
            assert_eq!((route.targets.len(), &*route.targets[0].tags[0]), (1, "v1"));
            let state = Arc::clone(&route.targets[0].state);

            // Sick: the route stays, without targets.
            bench
                .send(update(
                    "web",
                    vec![instance("a", 1, Critical, &["urlprefix-$DC.test/", "v1"])],
                ))
                .await;
            let route = bench.route("dc1.test", "/x").unwrap();
            assert_eq!(
                (route.targets.len(), &*route.excluded[0].reason),
                (0, "check alive is critical")
            );
            assert_eq!(bench.status("web").await.instances[0].state, "excluded");
            assert_eq!(
                bench.metrics.control().table_targets[&("web".into(), "excluded")],
                1
            );

            // Well again: the same state.
            bench
                .send(update(
                    "web",
                    vec![instance("a", 1, Passing, &["urlprefix-$DC.test/", "v1"])],
                ))
                .await;
            assert!(Arc::ptr_eq(
                &bench.route("dc1.test", "/").unwrap().targets[0].state,
                &state
            ));

            bench
                .send(Update::Gone {
                    source: "consul",
                    service: "web".into(),
                    seen_at: Instant::now(),
                })
                .await;
            assert!(bench.route("dc1.test", "/x").is_none());
            assert!(state.retired.load(Relaxed));
            assert!(bench.metrics.control().table_targets.is_empty());
            assert_eq!(bench.metrics.control().table_routes, 0);
            bench.handle.set_draining();
            assert!(!bench.handle.readiness().is_ready());
        });
    }

    #[test]
    fn what_comes_together_with_the_first_sync_needs_no_grace() {
        Bench::run(settings(), |bench| async move {
            let mut bare = instance("a", 1, CheckStatus::Passing, &["urlprefix-a.test/"]);
            bare.checks.clear();
            // Both wait in the channel before the loop turns once.
            bench
                .updates
                .send(update("web", vec![bare.clone()]))
                .await
                .unwrap();
            bench
                .updates
                .send(Update::Synced { source: "consul" })
                .await
                .unwrap();
            bench.handle.synced().await;
            assert_eq!(bench.route("a.test", "/").unwrap().targets.len(), 1);

            let mut late = instance("b", 2, CheckStatus::Passing, &["urlprefix-a.test/"]);
            late.checks.clear();
            bench.send(update("web", vec![bare, late])).await;
            assert_eq!(
                bench.route("a.test", "/").unwrap().targets.len(),
                1,
                "the new one waits for its checks"
            );
        });
    }

    #[test]
    fn a_bad_tag_is_rejected_alone_and_keeps_what_it_was() {
        Bench::run(settings(), |bench| async move {
            let good = ["urlprefix-a.test/", "urlprefix-b.test/"];
            bench
                .send(update("web", vec![instance("a", 1, Passing, &good)]))
                .await;
            let bad = ["urlprefix-a.test/ weight=much", "urlprefix-c.test/"];
            // A new instance of the service, with the same typo.
            bench
                .send(update(
                    "web",
                    vec![
                        instance("a", 1, Passing, &bad),
                        instance("b", 2, Passing, &bad),
                    ],
                ))
                .await;
            assert_eq!(bench.route("a.test", "/").unwrap().targets.len(), 2);
            assert!(bench.route("b.test", "/").is_none());
            assert_eq!(bench.route("c.test", "/").unwrap().targets.len(), 2);
            let status = bench.status("web").await;
            assert_eq!(status.rejected.len(), 1);
            assert!(
                status.rejected[0]
                    .1
                    .ends_with("the route it made before, a.test/, is kept"),
                "{status:?}"
            );
            assert_eq!(bench.metrics.control().rejected_tags["web"], 1);

            bench
                .send(update(
                    "new",
                    vec![instance(
                        "c",
                        3,
                        Passing,
                        &["urlprefix-", "urlprefix-d.test/"],
                    )],
                ))
                .await;
            assert!(bench.route("d.test", "/").is_some());
            assert_eq!(bench.status("new").await.rejected.len(), 1);
            bench
                .send(update("web", vec![instance("a", 1, Passing, &good)]))
                .await;
            assert!(!bench.metrics.control().rejected_tags.contains_key("web"));
        });
    }

    #[test]
    fn a_tag_with_an_option_that_may_not_stand_there_makes_no_route() {
        Bench::run(settings(), |bench| async move {
            let tags = ["urlprefix-a.test/ strip=/x", "urlprefix-b.test/ prepend=/y"];
            let web = || update("web", vec![instance("a", 1, Passing, &tags)]);
            bench.send(web()).await;
            assert!(bench.route("b.test", "/").is_some());
            let allow = |names: &[&str]| ControlSettings {
                allowed: AllowedOptions::read(
                    &names.iter().map(ToString::to_string).collect::<Vec<_>>(),
                )
                .unwrap(),
                ..settings()
            };
            // The good tag of before is not one that may stay.
            bench.handle.update_settings(allow(&["strip"])).await;
            assert!(bench.route("a.test", "/").is_some());
            assert!(bench.route("b.test", "/").is_none());
            let rejected = bench.status("web").await.rejected;
            assert_eq!(rejected.len(), 1);
            assert_eq!(rejected[0].0, tags[1]);
            assert!(
                rejected[0].1.contains("`prepend`") && rejected[0].1.contains("tags.allow"),
                "{rejected:?}"
            );
            assert_eq!(bench.metrics.control().rejected_tags["web"], 1);
            bench.handle.update_settings(allow(&["*"])).await;
            assert!(bench.route("b.test", "/").is_some());
            // What others than tags say is not held to it.
            bench.handle.update_settings(allow(&[])).await;
            let line = "route add cmd c.test/ http://127.0.0.1:1/ opts \"strip=/x\"";
            let commands = parse_commands(line).0.into();
            bench
                .send(Update::Commands {
                    source: "file",
                    commands,
                    errors: Arc::default(),
                    seen_at: Instant::now(),
                })
                .await;
            assert!(bench.route("c.test", "/").is_some());
        });
    }

    #[test]
    fn a_scheme_that_is_not_there_is_remarked_on_until_it_is() {
        Bench::run(settings(), |bench| async move {
            let tags = [
                "urlprefix-a.test/ auth=none",
                "urlprefix-b.test/ auth=known",
            ];
            bench
                .send(update("web", vec![instance("a", 1, Passing, &tags)]))
                .await;
            let (commands, _) =
                parse_commands("route add fixed c.test/ http://127.0.0.1:9/ opts \"auth=none\"");
            bench
                .send(Update::Commands {
                    source: "routes_file",
                    commands: commands.into(),
                    errors: [].into(),
                    seen_at: Instant::now(),
                })
                .await;
            // It stands in the table all the same: falling through to a shorter route could open
            // it.
            assert!(bench.route("a.test", "/").is_some() && bench.route("c.test", "/").is_some());
            for (service, place) in [("web", "urlprefix-a.test/ auth=none"), ("fixed", "c.test/")] {
                let remarks = bench.status(service).await.unknown_options;
                assert_eq!(remarks.len(), 1, "{remarks:?}");
                assert!(
                    remarks[0].starts_with(&format!("{place}: auth=none: there is no [auth.none]")),
                    "{remarks:?}"
                );
            }
            let auth = BTreeSet::from(["known".to_owned(), "none".to_owned()]);
            bench
                .handle
                .update_settings(ControlSettings { auth, ..settings() })
                .await;
            for service in ["web", "fixed"] {
                assert_eq!(bench.status(service).await.unknown_options, [""; 0]);
            }
        });
    }

    #[test]
    fn commands_lie_over_tags() {
        Bench::run(settings(), |bench| async move {
            bench
                .send(update(
                    "web",
                    vec![instance("a", 1, Passing, &["urlprefix-a.test/"])],
                ))
                .await;
            let (commands, errors) = parse_commands(
                "route add fixed b.test/ http://127.0.0.1:9/\nroute del web a.test/\nroute nonsense",
            );
            let commands = Update::Commands {
                source: "routes_file",
                commands: commands.into(),
                errors: errors.into(),
                seen_at: Instant::now(),
            };
            bench.send(commands).await;
            assert!(bench.route("a.test", "/").is_none());
            assert_eq!(bench.route("b.test", "/").unwrap().targets.len(), 1);
            assert_eq!(bench.status("fixed").await.source, "routes_file");
            assert_eq!(bench.status("routes_file").await.rejected.len(), 1);
            let none = Update::Commands {
                source: "routes_file",
                commands: [].into(),
                errors: [].into(),
                seen_at: Instant::now(),
            };
            bench.send(none).await;
            assert!(bench.route("a.test", "/").is_some() && bench.route("b.test", "/").is_none());
            assert!(
                !bench
                    .metrics
                    .control()
                    .table_targets
                    .keys()
                    .any(|(name, _)| &**name == "fixed")
            );
        });
    }

    #[test]
    fn an_unresolved_name_keeps_its_place_and_says_why() {
        let hold = Duration::from_secs(600);
        let settings = ControlSettings {
            rules: Rules {
                critical_hold: hold,
                ..settings().rules
            },
            ..settings()
        };
        Bench::run(settings, |bench| async move {
            let reason = "name no.invalid does not resolve: no such name";
            let endpoint = Endpoint::Unresolved {
                host: "no.invalid".into(),
                port: 80,
                reason: reason.into(),
            };
            let lost = Instance {
                endpoint: endpoint.clone(),
                ..instance("b", 2, Passing, &["urlprefix-a.test/x"])
            };
            let (mut commands, _) =
                parse_commands("route add fixed a.test/noname http://no.invalid:80");
            if let Command::Add(add) = &mut commands[0] {
                add.endpoint = endpoint;
            }
            bench
                .send(update(
                    "web",
                    vec![
                        instance("a", 1, Passing, &["urlprefix-a.test/"]),
                        lost.clone(),
                    ],
                ))
                .await;
            let commands = Update::Commands {
                source: "static",
                commands: commands.into(),
                errors: [].into(),
                seen_at: Instant::now(),
            };
            bench.send(commands).await;
            for path in ["/noname", "/x"] {
                let route = bench.route("a.test", path).unwrap();
                assert_eq!((&*route.key.path, route.targets.len()), (path, 0));
                assert_eq!(&*route.excluded[0].reason, reason);
            }
            for (service, at) in [("fixed", 0), ("web", 1)] {
                let status = bench.status(service).await.instances[at].clone();
                assert_eq!(
                    (status.state, status.reason.as_deref()),
                    ("excluded", Some(reason)),
                    "{service}"
                );
            }
            assert_eq!(
                bench.metrics.control().table_targets[&("fixed".into(), "excluded")],
                1
            );
            assert_eq!(
                bench.metrics.control().table_targets[&("fixed".into(), "healthy")],
                0
            );

            // That instance cannot be reached anyway, so it must not end the hold of the others.
            bench
                .send(update(
                    "web",
                    vec![instance("a", 1, Critical, &["urlprefix-a.test/"]), lost],
                ))
                .await;
            assert!(bench.status("web").await.held.is_some());
            assert_eq!(bench.route("a.test", "/").unwrap().targets.len(), 1);
        });
    }

    /// Collects what is logged.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        /// How many lines there are with all these parts.
        fn count(&self, parts: &[&str]) -> usize {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines()
                .filter(|line| parts.iter().all(|part| line.contains(part)))
                .count()
        }
    }

    #[test]
    fn the_log_names_each_thing_once() {
        let lines = Lines::default();
        // A place in the code that another thread logs from for the first time, while a subscriber
        // comes up, may stay silent for good (tracing decides that once): so every place is visited
        // before.
        what_is_logged(&lines, false);
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        what_is_logged(&lines, true);
    }

    fn what_is_logged(lines: &Lines, heard: bool) {
        let count = |parts: &[&str], expected: usize| {
            assert_eq!(
                lines.count(parts),
                if heard { expected } else { 0 },
                "{parts:?}"
            );
        };
        Bench::run(settings(), |bench| async move {
            let odd = ["urlprefix-a.test/ foo=bar"];
            bench
                .send(update("web", vec![instance("a", 1, Passing, &odd)]))
                .await;
            // Again, with another instance: the option is known to be unknown.
            bench
                .send(update(
                    "web",
                    vec![
                        instance("a", 1, Passing, &odd),
                        instance("b", 2, Passing, &odd),
                    ],
                ))
                .await;
            count(&["WARN", "web", "foo=bar"], 1);
            count(
                &["routing table changed", "web: instances +1 -0, serving 1"],
                1,
            );
            count(
                &["routing table changed", "web: instances +1 -0, serving 2"],
                1,
            );
            bench
                .send(update(
                    "web",
                    vec![instance("a", 1, Passing, &["urlprefix-a.test/"])],
                ))
                .await;
            bench
                .send(update("web", vec![instance("a", 1, Passing, &odd)]))
                .await;
            count(&["WARN", "web", "foo=bar"], 2);

            bench.send(Update::Synced { source: "consul" }).await;
            bench.send(Update::Synced { source: "consul" }).await;
            count(&["INFO", "synced", "consul", "services=1", "took_ms="], 1);

            for text in [
                "route nonsense",
                "route add x b.test/ http://127.0.0.1:9/\nroute nonsense\nroute worse",
            ] {
                let (commands, errors) = parse_commands(text);
                let commands = Update::Commands {
                    source: "file",
                    commands: commands.into(),
                    errors: errors.into(),
                    seen_at: Instant::now(),
                };
                bench.send(commands).await;
            }
            count(&["WARN", "route nonsense"], 1);
            count(&["WARN", "route worse"], 1);
            count(&["routing table changed", "file: 1 commands"], 1);
            bench
                .send(Update::Gone {
                    source: "consul",
                    service: "web".into(),
                    seen_at: Instant::now(),
                })
                .await;
            count(&["routing table changed", "web: gone"], 1);
        });
    }

    /// The events about instances and services, as `KIND NAME INSTANCE: FROM -> TO: REASON`.
    fn told(metrics: &Metrics) -> Vec<String> {
        let events = metrics.journal().events().list(None);
        let line = |event: &Arc<crate::journal::Event>| {
            let what = &event.what;
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            let state = |state: &Option<std::borrow::Cow<'static, str>>| {
                state.as_deref().unwrap_or_default().to_owned()
            };
            let (kind, service, instance) =
                (what.kind.word(), text(&what.service), text(&what.instance));
            format!(
                "{kind} {service} {instance}: {} -> {}: {}",
                state(&what.from),
                state(&what.to),
                text(&what.reason)
            )
        };
        events.iter().map(line).collect()
    }

    #[test]
    fn every_change_of_an_instance_is_an_event_with_its_reason() {
        Bench::run(settings(), |bench| async move {
            let tag = ["urlprefix-a.test/"];
            bench
                .send(update(
                    "web",
                    vec![
                        instance("a", 1, Passing, &tag),
                        instance("b", 2, Critical, &tag),
                    ],
                ))
                .await;
            bench
                .send(update(
                    "down",
                    vec![instance("c", 3, Critical, &["urlprefix-c.test/"])],
                ))
                .await;
            bench.send(Update::Synced { source: "consul" }).await;
            let at_start = [
                "instance web n1/b: new -> excluded: check alive is critical",
                "instance down n1/c: new -> excluded: check alive is critical",
                "source consul : waiting -> ok: first complete answer",
                "service down : new -> down: none of its instances is usable",
            ];
            assert_eq!(told(&bench.metrics), at_start);
            let since = |bench: &Bench, count: usize| told(&bench.metrics).split_off(count);

            // The output belongs to the reason, and is not part of what is compared.
            let key = (Arc::from("n1"), Arc::from("a"), Arc::from("alive"));
            let refused = "Get http://10.0.0.1: connection refused\n".to_owned();
            bench
                .metrics
                .journal()
                .outputs()
                .set(&"web".into(), [(key, refused)]);
            let builds = bench.metrics.control().table_builds;
            bench
                .send(update(
                    "web",
                    vec![
                        instance("a", 1, Critical, &tag),
                        instance("b", 2, Critical, &tag),
                    ],
                ))
                .await;
            let reason = "check alive is critical: Get http://10.0.0.1: connection refused";
            let expected = [
                format!("instance web n1/a: healthy -> excluded: {reason}"),
                "service web : up -> down: none of 2 instances is usable".to_owned(),
            ];
            assert_eq!(since(&bench, 4), expected);
            assert_eq!(
                bench.status("web").await.instances[0].reason.as_deref(),
                Some(reason)
            );
            assert_eq!(bench.metrics.control().table_builds, builds + 1);

            bench
                .send(update("web", vec![instance("b", 2, Passing, &tag)]))
                .await;
            let expected = [
                "instance web n1/a: excluded -> gone: deregistered",
                "instance web n1/b: excluded -> healthy: its checks are accepted again",
                "service web : down -> up: 1 of 1 instances are usable",
            ];
            assert_eq!(since(&bench, 6), expected);

            bench
                .send(update(
                    "web",
                    vec![instance(
                        "b",
                        2,
                        Passing,
                        &["urlprefix-a.test/", "urlprefix-"],
                    )],
                ))
                .await;
            bench
                .send(Update::Gone {
                    source: "consul",
                    service: "web".into(),
                    seen_at: Instant::now(),
                })
                .await;
            let last = since(&bench, 9);
            assert!(
                last[0].starts_with("tag web : new -> rejected: urlprefix-: "),
                "{last:?}"
            );
            let expected = [
                "instance web n1/b: healthy -> gone: deregistered, and its service with it",
                "service web : up -> gone: it is not registered any more",
            ];
            assert_eq!(last[1..], expected);
        });
    }

    #[test]
    fn ejections_of_workers_and_names_of_commands_are_told_as_well() {
        Bench::run(settings(), |bench| async move {
            bench
                .send(update(
                    "web",
                    vec![instance("a", 1, Passing, &["urlprefix-a.test/"])],
                ))
                .await;
            bench.send(Update::Synced { source: "consul" }).await;
            let state = Arc::clone(&bench.route("a.test", "/").unwrap().targets[0].state);
            state.failures.store(5, Relaxed);
            state.ejected_until_ms.store(u64::MAX, Relaxed);
            bench.metrics.journal().ejected(Ejection {
                service: "web".into(),
                node: "n1".into(),
                id: "a".into(),
                address: state.addr,
                failures: 5,
                why: None,
                for_ms: 5000,
            });
            while !told(&bench.metrics)
                .iter()
                .any(|line| line.contains("ejected"))
            {
                tokio::task::yield_now().await;
            }
            let expected =
                "instance web n1/a: healthy -> ejected: 5 failures in a row; no requests for 5.0 s";
            assert_eq!(told(&bench.metrics).last().unwrap(), expected);
            bench
                .send(update(
                    "web",
                    vec![instance("a", 1, Critical, &["urlprefix-a.test/"])],
                ))
                .await;
            let lines = told(&bench.metrics);
            assert_eq!(
                lines[lines.len() - 2],
                "instance web n1/a: ejected -> excluded: check alive is critical"
            );

            let commands = |text: &str, lost: bool| {
                let (mut commands, _) = parse_commands(text);
                if let Some(Command::Add(add)) = commands.first_mut().filter(|_| lost) {
                    let (host, reason) = (
                        "x.test".into(),
                        "name x.test does not resolve: no such name".into(),
                    );
                    add.endpoint = Endpoint::Unresolved {
                        host,
                        port: 9,
                        reason,
                    };
                }
                Update::Commands {
                    source: "static",
                    commands: commands.into(),
                    errors: [].into(),
                    seen_at: Instant::now(),
                }
            };
            let before = lines.len();
            let add = "route add fixed b.test/ http://127.0.0.1:9/";
            bench.send(commands(add, false)).await;
            bench.send(Update::Synced { source: "static" }).await;
            bench.send(commands(add, true)).await;
            bench.send(commands("", false)).await;
            bench.send(commands(add, false)).await;
            let id = "static/fixed@http://127.0.0.1:9/";
            let reason = "name x.test does not resolve: no such name";
            let expected = [
                "source static : waiting -> ok: first complete answer".to_owned(),
                format!("instance fixed {id}: healthy -> gone: {reason}"),
                format!("instance fixed {id}: new -> excluded: {reason}"),
                "service fixed : up -> down: none of 1 instances is usable".to_owned(),
                format!(
                    "instance fixed {id}: excluded -> gone: no route command names it any more"
                ),
                format!("instance fixed {id}: new -> healthy: added by a route command"),
                "service fixed : new -> up: 1 of 1 instances are usable".to_owned(),
            ];
            assert_eq!(told(&bench.metrics).split_off(before), expected);
        });
    }

    #[test]
    fn a_hold_ends_by_itself() {
        let hold = Duration::from_millis(40);
        let settings = ControlSettings {
            rules: Rules {
                critical_hold: hold,
                ..settings().rules
            },
            ..settings()
        };
        Bench::run(settings, |bench| async move {
            bench
                .send(update(
                    "web",
                    vec![instance("a", 1, Passing, &["urlprefix-a.test/"])],
                ))
                .await;
            bench
                .send(update(
                    "web",
                    vec![instance("a", 1, Critical, &["urlprefix-a.test/"])],
                ))
                .await;
            let status = bench.status("web").await;
            assert!(status.held.is_some());
            let InstanceStatus { state, reason, .. } = &status.instances[0];
            assert_eq!(*state, "held");
            assert!(
                reason.as_deref().unwrap().contains("kept for now"),
                "{reason:?}"
            );
            assert_eq!(bench.route("a.test", "/").unwrap().targets.len(), 1);
            while bench.status("web").await.held.is_some() {
                tokio::task::yield_now().await;
            }
            assert_eq!(bench.route("a.test", "/").unwrap().targets.len(), 0);
        });
    }

    #[test]
    fn new_settings_rebuild_every_route() {
        Bench::run(settings(), |bench| async move {
            bench
                .send(update(
                    "web",
                    vec![instance(
                        "a",
                        1,
                        Passing,
                        &["urlprefix-a.test/Foo", "other-b.test/"],
                    )],
                ))
                .await;
            assert!(bench.route("a.test", "/foo").is_none());
            bench
                .handle
                .update_settings(ControlSettings {
                    matcher: Matcher::IPrefix,
                    ..settings()
                })
                .await;
            assert!(bench.route("a.test", "/foo").is_some());
            bench
                .handle
                .update_settings(ControlSettings {
                    tag_prefix: "other-".into(),
                    ..settings()
                })
                .await;
            assert!(
                bench.route("a.test", "/Foo").is_none() && bench.route("b.test", "/").is_some()
            );
        });
    }
}
