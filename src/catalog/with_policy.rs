//! What a target's options come to with the policy that they name, and which connections they let pass.

use std::net::IpAddr;
use std::sync::Arc;

use super::options::RouteOptions;
use super::policies::{NamedPolicies, Policies};

impl RouteOptions {
    /// Whether a TCP connection from this address may pass: by the tag's access rule, by that of its
    /// policy, and because nothing protects the route that a connection cannot be held to.
    #[must_use]
    pub fn permit_connection(&self, from: IpAddr) -> bool {
        self.access.permits(from)
            && self
                .policies
                .as_ref()
                .is_none_or(|policies| policies.not_for_tcp().is_none() && policies.permits(from))
    }

    /// The authentication schemes that have to let a request in, in their order: that of the policy,
    /// and that of the tag if it is another.
    pub fn auth_schemes(&self) -> impl Iterator<Item = &str> {
        let of_policy = self.policies.as_ref().and_then(|it| it.auth.as_ref());
        let own = self.auth.as_ref().filter(|own| Some(*own) != of_policy);
        of_policy.into_iter().chain(own).map(|name| &**name)
    }

    /// The options as they are carried out: with the policy that they name. The tag's own win one by
    /// one, but widen nothing that the policy allows: of two limits the stricter holds, and clients
    /// must satisfy both.
    #[must_use]
    pub fn with_policy(&self, policies: &NamedPolicies) -> Self {
        let mut options = self.clone();
        let Some(name) = &self.policy else {
            return options;
        };
        let own = self.policies.as_deref().cloned().unwrap_or_default();
        let closed = |why: String| Policies {
            closed: Some(why.into()),
            ..own.clone()
        };
        let merged = match policies.get(name) {
            None => closed(format!(
                "policy={name}: there is no [policy.{name}] in the configuration"
            )),
            Some(policy) => {
                options.auth = self.auth.clone().or_else(|| policy.auth.clone());
                policy.and(own)
            }
        };
        options.policies = Some(Arc::new(merged));
        options
    }
}
