//! What a route does to requests beside sending them on, in words for the operator.

use std::time::Duration;

use http::HeaderName;

use super::access::Access;
use super::field_edits::FieldEdits;
use super::options::RouteOptions;
use super::policies::{Policies, Rate, RateKey};

impl RouteOptions {
    /// Every policy that requests meet, in the order in which they do; those of the tag and those of
    /// the policy that it names, together.
    #[must_use]
    pub fn policy_texts(&self) -> Vec<String> {
        let mut texts = Vec::new();
        let mut put = |text: Option<String>| texts.extend(text);
        put(self.policy.as_ref().map(|name| format!("policy={name}")));
        put(access_text(&self.access));
        let none = Policies::default();
        let policies = self.policies.as_deref().unwrap_or(&none);
        policies.access_texts().for_each(|text| put(Some(text)));
        put(policies.closed.as_ref().map(|why| format!("closed: {why}")));
        put(policies.cors.as_ref().map(|_| "cors".to_owned()));
        put(policies.rate.as_ref().map(rate_text));
        for name in self.auth_schemes() {
            put(Some(format!("auth={name}")));
        }
        let most = |name: &str, most: Option<u64>| most.map(|most| format!("{name}={most}"));
        put(most("maxbody", policies.body_max));
        put(most("inflight", policies.in_flight_max.map(u64::from)));
        put(policies.timeout.map(|time| format!("timeout={time:?}")));
        put(most("retries", policies.retries.map(u64::from)));
        put(policies.rewrite.as_ref().map(|_| "rewrite".to_owned()));
        put(fields_text("request", &policies.request_fields));
        put(fields_text("response", &policies.response_fields));
        put(policies
            .error_pages
            .as_ref()
            .map(|_| "error_pages".to_owned()));
        texts
    }
}

impl Policies {
    /// Which clients a named policy lets use its routes.
    pub fn access_texts(&self) -> impl Iterator<Item = String> {
        let both = [&self.access.0, &self.access.1];
        both.into_iter().filter_map(access_text)
    }
}

fn access_text(access: &Access) -> Option<String> {
    let (word, networks) = match access {
        Access::Open => return None,
        Access::Closed => return Some("allow: no client, because it cannot be read".to_owned()),
        Access::Allow(networks) => ("allow", networks),
        Access::Deny(networks) => ("deny", networks),
    };
    let networks: Vec<String> = networks.iter().map(|net| format!("ip:{net}")).collect();
    Some(format!("{word}={}", networks.join(",")))
}

fn rate_text(rate: &Rate) -> String {
    let by = match &rate.by {
        RateKey::Ip => "ip".to_owned(),
        RateKey::Header(name) => format!("header:{name}"),
        RateKey::Route => "route".to_owned(),
    };
    format!(
        "rate: one each {:?}, burst={}, by={by}",
        Duration::from_nanos(rate.interval_ns),
        rate.burst
    )
}

fn fields_text(whose: &str, edits: &FieldEdits) -> Option<String> {
    let names: Vec<&str> = edits.names().map(HeaderName::as_str).collect();
    (!names.is_empty()).then(|| format!("{whose} fields: {}", names.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::super::option_text::{Context, parse_options};
    use super::*;

    #[test]
    fn every_policy_is_told_in_its_order() {
        let text = "retries=0 timeout=5s inflight=3 maxbody=1k auth=inner rate=4/m burst=2 by=route \
            deny=ip:10.0.0.0/8 sethdr=A:1 delhdr=B setresphdr=C:1 policy=p strip=/x weight=0.5";
        let options = parse_options(text, Context::Tag).unwrap().options;
        let options_of = [
            ("rate", "rate", "1/s".to_owned()),
            ("r", "setresphdr", "D:1".to_owned()),
        ];
        let mut policies = Policies::read(&options_of, &["192.0.2.0/24".to_owned()], &[]).unwrap();
        policies.auth = Some("outer".into());
        let named = BTreeMap::from([(Arc::from("p"), Arc::new(policies))]);
        let told = options.with_policy(&named).policy_texts();
        let expected = [
            "policy=p",
            "deny=ip:10.0.0.0/8",
            "allow=ip:192.0.2.0/24",
            "rate: one each 15s, burst=2, by=route",
            "auth=outer",
            "auth=inner",
            "maxbody=1024",
            "inflight=3",
            "timeout=5s",
            "retries=0",
            "request fields: b, a",
            "response fields: d, c",
        ];
        assert_eq!(told, expected);
        let plain = parse_options("strip=/x", Context::Tag).unwrap().options;
        assert_eq!(plain.policy_texts(), [""; 0]);
        let closed = parse_options("rate=x allow=y", Context::Tag)
            .unwrap()
            .options;
        let told = closed.policy_texts();
        assert!(
            told.len() == 2 && told[1].starts_with("closed: rate `x`"),
            "{told:?}"
        );
    }
}
