//! The route tags of one service, read anew at each update, with a memory for tags that broke.
//!
//! A tag that cannot be understood costs nothing but itself. If the instance had a good tag at the
//! same position among its route tags before, or else the service had, that one stays in force: a
//! typo in a new job version must not take the running route away.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::catalog::allowed_options::{AllowedOptions, forbidden_text};
use crate::catalog::glob::Glob;
use crate::catalog::options::RouteOptions;
use crate::catalog::policies::NamedPolicies;
use crate::catalog::tag::{RouteKey, parse_tag, plain_tags};
use crate::catalog::{Instance, InstanceId};
use crate::table::Matcher;

#[derive(Debug)]
pub(super) struct GoodTag {
    pub(super) key: RouteKey,
    pub(super) options: Arc<RouteOptions>,
    /// What to tell about it: unknown options, and warnings.
    remarks: Vec<String>,
}

/// The routes that the tags of one instance name.
#[derive(Debug)]
pub(super) struct InstanceTags {
    pub(super) routes: Vec<Arc<GoodTag>>,
    pub(super) plain: Arc<[Arc<str>]>,
}

/// How tags are to be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct TagRules<'a> {
    pub(super) prefix: &'a str,
    /// Variables in places: `DC`.
    pub(super) env: &'a HashMap<String, String>,
    pub(super) matcher: Matcher,
    /// Authentication schemes that there are.
    pub(super) auth: &'a BTreeSet<String>,
    /// Options that tags may carry.
    pub(super) allowed: &'a AllowedOptions,
    /// Policies that there are.
    pub(super) policies: &'a NamedPolicies,
    /// Sources of certificates that there are.
    pub(super) certificates: &'a BTreeSet<String>,
}

/// What to tell of a route with these options whose authentication scheme is not configured.
pub(super) fn unknown_auth(auth: &BTreeSet<String>, options: &RouteOptions) -> Option<String> {
    let name = options
        .auth
        .as_deref()
        .filter(|name| !auth.contains(*name))?;
    Some(format!(
        "auth={name}: there is no [auth.{name}] in the configuration, so every request is refused"
    ))
}

/// What to tell of a route with these options whose policy is not configured.
pub(super) fn unknown_policy(policies: &NamedPolicies, options: &RouteOptions) -> Option<String> {
    let name = options.policy.as_ref()?;
    (!policies.contains_key(name)).then(|| {
        format!(
            "policy={name}: there is no [policy.{name}] in the configuration, so every request is refused"
        )
    })
}

/// What to tell of a route with these options whose client certificate is not configured, or is
/// never shown.
pub(super) fn unknown_certificate(
    certificates: &BTreeSet<String>,
    options: &RouteOptions,
) -> Option<String> {
    let name = options.client_certificate.as_deref()?;
    if !options.proto.is_tls() {
        return Some(format!(
            "cert={name}: is shown to no instance without proto=https, h2 or grpcs"
        ));
    }
    (!certificates.contains(name)).then(|| {
        format!(
            "cert={name}: there is no [certificates.{name}] in the configuration, so every request is refused"
        )
    })
}

/// What is remembered of one service's tags.
#[derive(Debug, Default)]
pub(super) struct TagMemory {
    /// Last good tag by position, of each registered instance.
    by_instance: HashMap<InstanceId, Vec<Option<Arc<GoodTag>>>>,
    /// Last good tag by position, of the service.
    by_position: Vec<Option<Arc<GoodTag>>>,
    /// Tags that are registered and could not be understood, with the reason.
    pub(super) rejected: BTreeMap<String, String>,
    /// Unknown options and other remarks on good tags.
    pub(super) remarks: BTreeSet<String>,
}

impl TagMemory {
    /// Reads the tags of all instances, in their order.
    pub(super) fn read(
        &mut self,
        rules: TagRules<'_>,
        instances: &[Instance],
    ) -> Vec<InstanceTags> {
        let before = std::mem::take(&mut self.by_instance);
        let before_of_service = self.by_position.clone();
        self.rejected.clear();
        self.remarks.clear();
        // Instances of a service mostly carry the same tags.
        let mut parsed: HashMap<&str, Option<Result<Arc<GoodTag>, String>>> = HashMap::new();
        let mut plain: Arc<[Arc<str>]> = Arc::default();
        let mut all = Vec::with_capacity(instances.len());
        for instance in instances {
            let own_before = before.get(&instance.id);
            let mut positions = Vec::new();
            for tag in &instance.tags {
                let Some(result) = parsed.entry(tag).or_insert_with(|| parse(rules, tag)) else {
                    continue;
                };
                let at = positions.len();
                positions.push(match result {
                    Ok(good) => Some(Arc::clone(good)),
                    Err(reason) => {
                        let known = own_before
                            .or(Some(&before_of_service))
                            .and_then(|list| list.get(at)?.clone())
                            // What may not stand in a tag any more does not stay for that.
                            .filter(|good| rules.allowed.forbidden(&good.options).is_none());
                        self.reject(tag, reason, known.as_deref());
                        known
                    }
                });
            }
            self.remember(&positions);
            let own_plain = plain_tags(rules.prefix, &instance.tags);
            if *own_plain != *plain {
                plain = own_plain.into();
            }
            all.push(InstanceTags {
                routes: positions.iter().flatten().cloned().collect(),
                plain: Arc::clone(&plain),
            });
            self.by_instance.insert(instance.id.clone(), positions);
        }
        all
    }

    fn reject(&mut self, tag: &str, reason: &str, known: Option<&GoodTag>) {
        let kept = known.map(|good| {
            format!(
                "; the route it made before, {}{}, is kept",
                good.key.host, good.key.path
            )
        });
        self.rejected.insert(
            tag.to_owned(),
            format!("{reason}{}", kept.unwrap_or_default()),
        );
    }

    fn remember(&mut self, positions: &[Option<Arc<GoodTag>>]) {
        if self.by_position.len() < positions.len() {
            self.by_position.resize(positions.len(), None);
        }
        for (slot, good) in self.by_position.iter_mut().zip(positions) {
            if let Some(good) = good {
                self.remarks.extend(good.remarks.iter().cloned());
                *slot = Some(Arc::clone(good));
            }
        }
    }
}

/// None when the tag is not a route tag.
fn parse(rules: TagRules<'_>, tag: &str) -> Option<Result<Arc<GoodTag>, String>> {
    let parsed = match parse_tag(rules.prefix, tag, rules.env)? {
        Ok(parsed) => parsed,
        Err(error) => return Some(Err(error.fault.to_string())),
    };
    if let Some(option) = rules.allowed.forbidden(&parsed.spec.options) {
        return Some(Err(forbidden_text(option)));
    }
    let key = parsed.spec.key;
    let host = (!Glob::is_literal(&key.host)).then_some(&key.host);
    let matchers = parsed.spec.options.matchers.as_ref();
    let matcher = rules.matcher.of_route(matchers.and_then(|own| own.path()));
    let path = (matcher == Matcher::Glob).then_some(&key.path);
    if let Some(error) = host
        .into_iter()
        .chain(path)
        .find_map(|pattern| Glob::new(pattern).err())
    {
        return Some(Err(error.to_string()));
    }
    let unknown_auth = unknown_auth(rules.auth, &parsed.spec.options);
    let unknown_policy = unknown_policy(rules.policies, &parsed.spec.options);
    let remarks = parsed
        .unknown
        .into_iter()
        .chain(parsed.warnings)
        .chain(unknown_auth)
        .chain(unknown_policy)
        .chain(unknown_certificate(
            rules.certificates,
            &parsed.spec.options,
        ));
    let remarks = remarks.map(|remark| format!("{tag}: {remark}")).collect();
    Some(Ok(Arc::new(GoodTag {
        key,
        options: Arc::new(parsed.spec.options),
        remarks,
    })))
}
