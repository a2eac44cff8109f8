//! `[policy.NAME]`: what routes that name it with `policy=` do to requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::auth::AuthConfig;
use super::declare::{Checked, section};
use super::error::nearest;
use super::policy_parts;
use super::raw::{Entry, Placed, RawValue};
use super::reader::Reader;
use super::sections::Sections;
use crate::catalog::policies::{Policies, PolicyOption};

section! {
    /// Limits and field changes for routes with policy=NAME in their tag. An option of the tag wins
    /// over its policy's, but widens nothing: of two limits the stricter holds, and clients must
    /// satisfy both access rules. A name that is not configured here refuses every request (503).
    /// docs/tags.md says what each limit does.
    pub struct PolicyConfig is Named "policy" {
        /// Requests per second (/s), minute (/m) or hour (/h), for each key; others get 429.
        rate: Option<String> = unset "100/s";

        /// How many may come at once before the rate holds. Without it: one second's worth.
        burst: Option<u32> = unset "50" in (1, 1_000_000_000);

        /// What has a rate of its own: ip, header:NAME or route. Without it: ip.
        by: Option<String> = unset "header:X-Tenant";

        /// Most requests at once; others get 503.
        inflight: Option<u32> = unset "200" in (1, 1_000_000_000);

        /// Longest body of a request, in bytes or with k, m or g behind it; longer ones get 413.
        body_max: Option<String> = unset "10m";

        /// How long a response may take, all attempts together; then 504.
        timeout: Option<String> = unset "5s";

        /// How many attempts may follow the first one.
        retries: Option<u32> = unset "1" in (0, 100);

        /// Fields of requests on their way to instances.
        request_headers: Option<Placed> = unset "{ set = { X-Team = \"shop\" }, remove = [\"X-Debug\"] }";

        /// Fields of responses to clients, also of those that lb makes itself.
        response_headers: Option<Placed> = unset "{ set = { X-Frame-Options = \"DENY\" }, remove = [\"Server\"] }";

        /// Only clients with these addresses, or in these networks; others get 403.
        allow: Option<Vec<String>> = unset "10.0.0.0/8";

        /// No clients with these addresses, or in these networks.
        deny: Option<Vec<String>> = unset "10.1.0.0/16";

        /// The [auth.NAME] that lets requests in.
        auth: Option<String> = unset "main";

        /// Sites that may use the routes from a browser: origins (exact, with * for a label of the
        /// host, or "*"), methods, headers, expose, credentials (not with "*") and max_age. lb
        /// responds to preflights itself, and replaces what instances say of it.
        cors: Option<Placed> = unset "{ origins = [\"https://*.example.com\"], methods = [\"GET\", \"PUT\"], headers = [\"X-Token\"], credentials = true, max_age = \"10m\" }";

        /// Regular expressions, and what takes the place of their matches in the path ($1: the first
        /// group), one after another. Before strip and prepend of the tag; the query stays.
        rewrite: Option<Placed> = unset "[{ from = \"^/old/(.*)\", to = \"/new/$1\" }]";

        /// Files (up to 1 MiB) that replace the content of failed responses, lb's own and those of
        /// instances: by status, or by its class.
        error_pages: Option<Placed> = unset "{ \"404\" = \"404.html\", \"5xx\" = \"sorry.html\" }";
    } and {
        /// All of it, as routes carry it out.
        policies: Arc<Policies>;
    }
}

impl Checked for PolicyConfig {
    fn check(&mut self, reader: &mut Reader<'_>) {
        let number = |value: Option<u32>| value.map(|value| value.to_string());
        let mut options: Vec<PolicyOption> = [
            ("rate", "rate", self.rate.clone()),
            ("burst", "burst", number(self.burst)),
            ("by", "by", self.by.clone()),
            ("inflight", "inflight", number(self.inflight)),
            ("body_max", "maxbody", self.body_max.clone()),
            ("timeout", "timeout", self.timeout.clone()),
            ("retries", "retries", number(self.retries)),
        ]
        .into_iter()
        .filter_map(|(key, option, value)| Some((key, option, value?)))
        .collect();
        for (key, value, set, remove) in [
            ("request_headers", &self.request_headers, "sethdr", "delhdr"),
            (
                "response_headers",
                &self.response_headers,
                "setresphdr",
                "delresphdr",
            ),
        ] {
            let Some(value) = value else { continue };
            match edits(value, set, remove) {
                Some(edits) => {
                    options.extend(
                        edits
                            .into_iter()
                            .map(|(option, value)| (key, option, value)),
                    );
                }
                None => reader.wrong(
                    key,
                    "is not written as changes of fields are",
                    "write it like { set = { X-Team = \"shop\" }, remove = [\"X-Debug\"] }",
                ),
            }
        }
        let cors = self.cors.clone();
        let cors = cors.and_then(|value| policy_parts::cors(reader, &value));
        let rewrite = self.rewrite.clone();
        let rewrite = rewrite.and_then(|value| policy_parts::rewrite(reader, &value));
        let error_pages = self.error_pages.clone();
        let error_pages = error_pages.and_then(|value| policy_parts::error_pages(reader, &value));
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        match Policies::read(&options, &list(&self.allow), &list(&self.deny)) {
            Ok(mut policies) => {
                policies.auth = self.auth.as_deref().map(Arc::from);
                (policies.cors, policies.rewrite) = (cors, rewrite);
                policies.error_pages = error_pages;
                self.policies = Arc::new(policies);
            }
            Err((key, fault)) => reader.wrong(key, "cannot be carried out", &fault),
        }
    }
}

/// Checks that the schemes are there which policies name.
pub(super) fn check_auth(
    sections: &mut Sections<'_>,
    policies: &BTreeMap<String, PolicyConfig>,
    schemes: &BTreeMap<String, AuthConfig>,
) {
    for (name, policy) in policies {
        let Some(scheme) = &policy.auth else { continue };
        if schemes.contains_key(scheme) {
            continue;
        }
        let group = sections.settings.named.get("policy");
        let entry = group.and_then(|groups| groups.get(name)?.entries.get("auth"));
        let placed = entry.map(Entry::placed);
        let advice = match nearest(scheme, schemes.keys().map(String::as_str)) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("add [auth.{scheme}], or take the key out"),
        };
        let path = format!("policy.{name}.auth");
        sections.wrong_at(&path, placed.as_ref(), "is not an [auth.NAME]", &advice);
    }
}

/// The options of a tag that mean the same as these changes; none where they are not written so.
/// Values are as they are: what an option would decode is encoded.
fn edits(
    value: &Placed,
    set: &'static str,
    remove: &'static str,
) -> Option<Vec<(&'static str, String)>> {
    let RawValue::Table(table) = &value.value else {
        return None;
    };
    let encode = |text: &str| text.replace('%', "%25");
    let mut options = Vec::new();
    for (key, value) in table {
        match (&**key, &value.value) {
            ("set", RawValue::Table(fields)) => {
                for (name, value) in fields {
                    let RawValue::Text(value) = &value.value else {
                        return None;
                    };
                    options.push((set, format!("{}:{}", encode(name), encode(value))));
                }
            }
            ("remove", RawValue::List(names)) => {
                for name in names {
                    let RawValue::Text(name) = &name.value else {
                        return None;
                    };
                    options.push((remove, encode(name)));
                }
            }
            _ => return None,
        }
    }
    Some(options)
}
