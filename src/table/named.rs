//! Services that routes name beside their own (`fallback=`, `mirror=`): where they are named, and
//! their instances.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::draft::{Admission, Draft};
use crate::catalog::ServiceName;
use crate::catalog::options::RouteOptions;
use crate::catalog::source::SourceName;
use crate::catalog::tag::RouteKey;

/// An instance of such a service.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NamedDraft {
    pub(super) draft: Draft,
    /// Whether it has a route tag of its own, whose options say how it is spoken to.
    pub(super) tagged: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct NamedServices {
    /// How often each is named at each place.
    places: HashMap<ServiceName, HashMap<RouteKey, usize>, foldhash::fast::FixedState>,
    instances:
        HashMap<ServiceName, BTreeMap<SourceName, Vec<NamedDraft>>, foldhash::fast::FixedState>,
    /// Named or not named any more since the last call of [`Self::take_changes`].
    changes: BTreeSet<ServiceName>,
}

/// What a route has of its fallback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// The service that its tag names.
    pub service: ServiceName,
    /// What became of it.
    pub state: FallbackState,
}

/// What became of a fallback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FallbackState {
    /// The route's own instances serve.
    Idle,
    /// Instances of this service serve: of the one that is named, or of one that it falls back to.
    Serves(ServiceName),
    /// None may serve there either; why, in words for the operator.
    Unusable(Arc<str>),
}

impl NamedServices {
    /// Options at this place came.
    pub(super) fn name(&mut self, key: &RouteKey, options: &RouteOptions) {
        for service in options.other_services() {
            let places = self.places.entry(Arc::clone(service)).or_default();
            if places.is_empty() {
                self.changes.insert(Arc::clone(service));
            }
            *places.entry(key.clone()).or_default() += 1;
        }
    }

    /// Options at this place left.
    pub(super) fn forget(&mut self, key: &RouteKey, options: &RouteOptions) {
        for service in options.other_services() {
            let Some(places) = self.places.get_mut(service) else {
                continue;
            };
            if let Some(count) = places.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    places.remove(key);
                }
            }
            if places.is_empty() {
                self.places.remove(service);
                self.changes.insert(Arc::clone(service));
            }
        }
    }

    pub(super) fn is_named(&self, service: &str) -> bool {
        self.places.contains_key(service)
    }

    /// Their names, in no order.
    pub(super) fn names(&self) -> impl Iterator<Item = &ServiceName> {
        self.places.keys()
    }

    pub(super) fn take_changes(&mut self) -> BTreeSet<ServiceName> {
        std::mem::take(&mut self.changes)
    }

    /// Replaces the instances of a service, and returns those from before.
    pub(super) fn replace(
        &mut self,
        source: SourceName,
        service: &ServiceName,
        new: Vec<NamedDraft>,
    ) -> Vec<NamedDraft> {
        let old = self
            .instances
            .get_mut(service)
            .and_then(|parts| parts.remove(source));
        if !new.is_empty() {
            let parts = self.instances.entry(Arc::clone(service)).or_default();
            parts.insert(source, new);
        } else if self.instances.get(service).is_some_and(BTreeMap::is_empty) {
            self.instances.remove(service);
        }
        old.unwrap_or_default()
    }

    pub(super) fn instances(&self, service: &str) -> impl Iterator<Item = &NamedDraft> {
        let parts = self.instances.get(service).into_iter();
        parts.flat_map(|parts| parts.values().flatten())
    }

    /// Places that a change of a service makes different: where it is named, and where one is named
    /// that falls back to it.
    pub(super) fn concerned(&self, service: &ServiceName) -> BTreeSet<RouteKey> {
        let mut services = vec![Arc::clone(service)];
        let mut places = BTreeSet::new();
        let mut at = 0;
        while let Some(service) = services.get(at).cloned() {
            at += 1;
            let named_at = self.places.get(&service).into_iter();
            places.extend(named_at.flat_map(HashMap::keys).cloned());
            for (other, parts) in &self.instances {
                let mut drafts = parts.values().flatten();
                let leads_here =
                    |it: &NamedDraft| it.draft.options.fallback.as_ref() == Some(&service);
                if !services.contains(other) && drafts.any(leads_here) {
                    services.push(Arc::clone(other));
                }
            }
        }
        places
    }
}

/// What serves a route at which none of `drafts` may: the instances of the fallback that is named
/// there, spoken to under the options of the tag that names it. `instances`: those of a service.
pub(super) fn resolve(
    drafts: &[Draft],
    instances: impl Fn(&ServiceName) -> Vec<NamedDraft>,
) -> (Vec<Draft>, Option<Fallback>) {
    let Some((by, first)) = drafts
        .iter()
        .find_map(|draft| Some((draft, draft.options.fallback.as_ref()?)))
    else {
        return (Vec::new(), None);
    };
    let fallback = |state| {
        Some(Fallback {
            service: Arc::clone(first),
            state,
        })
    };
    if drafts.iter().any(is_eligible) {
        return (Vec::new(), fallback(FallbackState::Idle));
    }
    let mut seen: Vec<ServiceName> = drafts.iter().map(|it| Arc::clone(&it.service)).collect();
    seen.dedup();
    let mut service = Arc::clone(first);
    let mut way = vec![Arc::clone(&service)];
    loop {
        let unusable = |what: &str| {
            let way: Vec<&str> = way.iter().map(|name| &**name).collect();
            let why = format!("fallback={}: {what}", way.join(" -> "));
            (Vec::new(), fallback(FallbackState::Unusable(why.into())))
        };
        if seen.contains(&service) {
            return unusable("it leads back to where it began");
        }
        let there = instances(&service);
        if there.is_empty() {
            return unusable("no such service is registered");
        }
        let serving: Vec<Draft> = there
            .iter()
            .filter(|named| is_eligible(&named.draft))
            .map(|named| under(&by.options, named))
            .collect();
        if !serving.is_empty() {
            return (serving, fallback(FallbackState::Serves(service)));
        }
        let next = there
            .iter()
            .find_map(|named| named.draft.options.fallback.clone());
        let Some(next) = next else {
            return unusable("no instance of it may serve");
        };
        seen.push(std::mem::replace(&mut service, next));
        way.push(Arc::clone(&service));
    }
}

/// The instance under the options of the tag that names it.
pub(super) fn under(options: &Arc<RouteOptions>, named: &NamedDraft) -> Draft {
    let own = &named.draft.options;
    let options = if named.tagged && !options.is_spoken_as(own) {
        Arc::new(options.spoken_as(own))
    } else {
        Arc::clone(options)
    };
    Draft {
        options,
        fixed: None,
        ..named.draft.clone()
    }
}

fn is_eligible(draft: &Draft) -> bool {
    matches!(draft.admission, Admission::Eligible { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::InstanceId;
    use crate::catalog::command::parse_commands;
    use crate::catalog::option_text::{Context, parse_options};
    use crate::catalog::options::Strategy;
    use crate::metrics::Metrics;
    use crate::table::{Contribution, Matcher, NamedInstance, Route, Scheme, TableBuilder};

    const SOURCE: SourceName = "consul";

    fn options(text: &str) -> Arc<RouteOptions> {
        Arc::new(parse_options(text, Context::Tag).unwrap().options)
    }

    fn place(host: &str) -> RouteKey {
        RouteKey {
            host: host.into(),
            path: "/".into(),
        }
    }

    fn admission(serves: bool) -> Admission {
        if serves {
            Admission::Eligible { weight: 1 }
        } else {
            Admission::Excluded {
                reason: "sick".into(),
            }
        }
    }

    /// Services of one instance each: name, port, whether it may serve, the options of its tag at
    /// the place of its name, if it has one.
    struct Catalog(TableBuilder);

    impl Catalog {
        fn new() -> Self {
            let metrics = Metrics::default();
            Self(TableBuilder::new(Matcher::Prefix, Strategy::P2c, metrics))
        }

        fn set(&mut self, name: &str, port: u16, serves: bool, tag: Option<&str>) {
            let instance = InstanceId {
                node: "n".into(),
                id: name.into(),
            };
            let addr = ([127, 0, 0, 1], port).into();
            let own = tag.map(options);
            let contribution = own.clone().map(|options| Contribution {
                key: place(name),
                instance: instance.clone(),
                addr,
                options,
                tags: Arc::default(),
                admission: admission(serves),
            });
            let named = NamedInstance {
                instance,
                addr,
                own,
                tags: Arc::default(),
                admission: admission(serves),
            };
            let (name, contributions) =
                (ServiceName::from(name), contribution.into_iter().collect());
            self.0.apply_service(SOURCE, &name, contributions, 0);
            let named = if self.0.is_named(&name) {
                vec![named]
            } else {
                Vec::new()
            };
            self.0.apply_named(SOURCE, &name, named, 0);
        }

        fn route(&mut self, host: &str) -> Option<Arc<Route>> {
            let table = self.0.build();
            self.0.retire();
            table.lookup(Scheme::Http, host, "/", |_| true).cloned()
        }

        fn ports(&mut self, host: &str) -> Vec<u16> {
            let route = self.route(host).expect("a route");
            let ports = route.targets.iter().map(|target| target.state.addr.port());
            ports.collect()
        }

        fn state(&mut self, host: &str) -> FallbackState {
            self.route(host).unwrap().fallback.clone().unwrap().state
        }
    }

    #[test]
    fn a_fallback_serves_while_nothing_else_may() {
        let mut catalog = Catalog::new();
        catalog.set("web", 1, true, Some("fallback=maint strip=/x rate=5"));
        catalog.set("maint", 9, true, None);
        assert_eq!(catalog.ports("web"), [1]);
        assert_eq!(catalog.state("web"), FallbackState::Idle);
        catalog.set("web", 1, false, Some("fallback=maint strip=/x rate=5"));
        assert_eq!(catalog.ports("web"), [9]);
        assert_eq!(catalog.state("web"), FallbackState::Serves("maint".into()));
        let route = catalog.route("web").unwrap();
        let options = &route.targets[0].options;
        assert!(options.strip.as_deref() == Some("/x") && options.policies.is_some());
        assert_eq!(&**route.targets[0].service.name(), "maint");
        assert_eq!(route.excluded.len(), 1, "the route's own are still shown");
        // The fallback comes and goes by itself.
        catalog.set("maint", 9, false, None);
        assert_eq!(catalog.ports("web"), [0_u16; 0]);
        let why = "fallback=maint: no instance of it may serve".into();
        assert_eq!(catalog.state("web"), FallbackState::Unusable(why));
        catalog.set("maint", 10, true, None);
        assert_eq!(catalog.ports("web"), [10]);
        catalog.0.remove_service(SOURCE, &"maint".into());
        let why = "fallback=maint: no such service is registered".into();
        assert_eq!(catalog.state("web"), FallbackState::Unusable(why));
        catalog.set("web", 1, true, Some("fallback=maint"));
        assert_eq!(catalog.ports("web"), [1]);
    }

    #[test]
    fn fallbacks_follow_one_another_and_loops_end() {
        let mut catalog = Catalog::new();
        catalog.set("a", 1, false, Some("fallback=b"));
        catalog.set("b", 2, false, Some("fallback=c"));
        catalog.set("c", 3, true, Some(""));
        assert_eq!((catalog.ports("a"), catalog.ports("b")), (vec![3], vec![3]));
        assert_eq!(catalog.state("a"), FallbackState::Serves("c".into()));
        // What changes far down the chain is seen at its beginning.
        catalog.set("c", 3, false, Some("fallback=a"));
        assert_eq!((catalog.ports("a"), catalog.ports("b")), (vec![], vec![]));
        let why = "fallback=b -> c -> a: it leads back to where it began".into();
        assert_eq!(catalog.state("a"), FallbackState::Unusable(why));
        catalog.set("c", 4, true, Some("fallback=a"));
        assert_eq!(catalog.ports("a"), [4]);
        catalog.set("self", 5, false, Some("fallback=self"));
        assert!(matches!(catalog.state("self"), FallbackState::Unusable(_)));
    }

    #[test]
    fn only_what_is_named_is_kept_and_it_is_told() {
        let mut catalog = Catalog::new();
        let told = |catalog: &mut Catalog| {
            catalog
                .0
                .take_named_changes()
                .into_iter()
                .collect::<Vec<_>>()
        };
        catalog.set("maint", 9, true, None);
        assert!(!catalog.0.is_named("maint") && told(&mut catalog).is_empty());
        catalog.set("web", 1, true, Some("fallback=maint mirror=shadow:0.5"));
        assert_eq!(told(&mut catalog), ["maint".into(), "shadow".into()]);
        catalog.set("web", 1, true, Some("fallback=maint"));
        assert_eq!(told(&mut catalog), ["shadow".into()]);
        catalog.0.remove_service(SOURCE, &"web".into());
        assert_eq!(told(&mut catalog), ["maint".into()]);
        assert_eq!(catalog.0.named_services().count(), 0);
        let (commands, errors) =
            parse_commands("route add s h/ http://127.0.0.1:1/ opts \"fallback=other\"");
        assert!(errors.is_empty(), "{errors:?}");
        catalog.0.apply_commands("routes_file", commands.into(), 0);
        assert_eq!(told(&mut catalog), ["other".into()]);
        catalog.0.apply_commands("routes_file", [].into(), 0);
        assert_eq!(told(&mut catalog), ["other".into()]);
        assert_eq!(catalog.0.named_services().count(), 0);
    }

    #[test]
    fn a_tag_of_its_own_says_how_an_instance_is_spoken_to() {
        use crate::catalog::options::Proto;
        for (route, own, expected) in [
            ("", Some("proto=h2c strip=/own"), Proto::H2c),
            ("proto=grpc", None, Proto::Grpc),
            ("proto=grpc", Some(""), Proto::Http),
            ("proto=tcp", Some(""), Proto::Tcp),
            ("", Some("proto=tcp"), Proto::Http),
        ] {
            let mut catalog = Catalog::new();
            catalog.set("web", 1, false, Some(&format!("fallback=maint {route}")));
            catalog.set("maint", 9, true, own);
            let table = catalog.0.build();
            let routes = table.routes();
            let web = routes.iter().find(|it| it.key.host == "web").unwrap();
            let options = &web.targets[0].options;
            assert_eq!(options.proto, expected, "{route} {own:?}");
            assert_eq!(options.strip, None, "fields and paths are the route's");
        }
    }

    #[test]
    fn mirrors_have_the_instances_that_may_serve() {
        let mut catalog = Catalog::new();
        catalog.set("web", 1, true, Some("mirror=shadow:0.5 strip=/x"));
        let route = catalog.route("web").unwrap();
        let [mirror] = &*route.mirrors else {
            panic!("{:?}", route.mirrors)
        };
        assert!(mirror.is_of(&route.targets[0]) && mirror.next(0).is_none());
        catalog.set("shadow", 9, true, None);
        let route = catalog.route("web").unwrap();
        let target = route.mirrors[0].next(0).unwrap();
        assert_eq!(target.state.addr.port(), 9);
        assert_eq!(target.options.strip.as_deref(), Some("/x"));
        let taken = (0..10).filter(|_| route.mirrors[0].takes_next()).count();
        assert_eq!(taken, 5);
        // The count goes on in the next table.
        catalog.set("shadow", 9, false, None);
        let next = catalog.route("web").unwrap();
        assert!(!next.mirrors[0].takes_next() && next.mirrors[0].takes_next());
        assert!(next.mirrors[0].next(0).is_none());
    }
}
