//! What the options of a route mean for the services that it names beside its own.

use super::ServiceName;
use super::options::{Proto, RouteOptions};

impl RouteOptions {
    /// Services that it names beside its own.
    pub fn other_services(&self) -> impl Iterator<Item = &ServiceName> {
        let mirror = self.mirror.iter().map(|mirror| &mirror.service);
        self.fallback.iter().chain(mirror)
    }

    /// Whether an instance is spoken to as these options of its own tag say.
    #[must_use]
    pub fn is_spoken_as(&self, own: &Self) -> bool {
        self.proto == own.proto
            && self.tls_skip_verify == own.tls_skip_verify
            && self.grpc_server_name == own.grpc_server_name
            && self.proxy_protocol == own.proxy_protocol
    }

    /// These options for an instance of another service, whose own tag says how it is spoken to.
    /// Requests and connections stay what they are.
    #[must_use]
    pub fn spoken_as(&self, own: &Self) -> Self {
        if (self.proto == Proto::Tcp) != (own.proto == Proto::Tcp) {
            return self.clone();
        }
        Self {
            proto: own.proto,
            tls_skip_verify: own.tls_skip_verify,
            grpc_server_name: own.grpc_server_name.clone(),
            proxy_protocol: own.proxy_protocol,
            ..self.clone()
        }
    }

    /// What of it has no effect where there are no requests, in words.
    pub(super) fn idle_on_tcp(&self) -> Option<String> {
        let idle = [
            self.sticky
                .as_ref()
                .map(|cookie| format!("sticky={cookie}")),
            self.mirror
                .as_ref()
                .map(|mirror| format!("mirror={mirror}")),
        ];
        let idle: Vec<String> = idle.into_iter().flatten().collect();
        (!idle.is_empty()).then(|| {
            format!(
                "`{}` has no effect on a TCP route, which has connections and no requests",
                idle.join(" ")
            )
        })
    }
}
