//! Registrations that are parts of Consul's service mesh (Connect) and no targets for requests in
//! the clear. Pure.
//!
//! Consul and Nomad copy the tags of a service to its sidecar proxy, routing tags included. The
//! proxy's port takes connections of the mesh alone: mutual TLS with certificates that Consul
//! issues (Consul's page "Service Mesh Proxy Overview"; the kinds are those of the page "Register
//! Agent Service").

use super::wire::Service;

/// Most characters of an unknown kind that are shown.
const SHOWN_MAX: usize = 60;

/// Why no plain request or connection can be sent to this registration; none for a usual instance.
pub(super) fn not_a_target(service: &Service) -> Option<String> {
    let proxies = [
        &service.proxy.destination_service_name,
        &service.proxy_destination,
    ];
    let reason = match service.kind.as_str() {
        "connect-proxy" => {
            "Connect proxy (sidecar): it takes only mutual TLS of the service mesh".to_owned()
        }
        "mesh-gateway" => {
            "Connect mesh gateway: it takes only mutual TLS of the service mesh".to_owned()
        }
        "terminating-gateway" => {
            "Connect terminating gateway: it takes only mutual TLS of the service mesh".to_owned()
        }
        "ingress-gateway" => {
            "Connect ingress gateway: it is configured in the mesh, not by tags".to_owned()
        }
        "api-gateway" => {
            "Connect API gateway: it is configured in the mesh, not by tags".to_owned()
        }
        "" if proxies.iter().any(|name| !name.is_empty()) => {
            "Connect proxy: it takes only mutual TLS of the service mesh".to_owned()
        }
        "" if service.connect.native => {
            "Connect native: it takes only mutual TLS of the service mesh".to_owned()
        }
        "" => return None,
        other => {
            let kind: String = other.chars().take(SHOWN_MAX).collect();
            format!(
                "Kind `{}`: not a usual instance, so it may take no plain requests",
                kind.escape_debug()
            )
        }
    };
    Some(reason)
}

/// Whether the reason why an instance gets no traffic is one of these.
#[must_use]
pub fn is_of_mesh(reason: &str) -> bool {
    reason.starts_with("Connect ") || reason.starts_with("Kind `")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(fields: &str) -> Option<String> {
        not_a_target(&serde_json::from_str(&format!(r#"{{"ID":"a","Port":1{fields}}}"#)).unwrap())
    }

    #[test]
    fn parts_of_the_mesh_are_recognized() {
        let usual = [
            "",
            r#","Kind":"""#,
            r#","Kind":null,"Connect":null,"Proxy":null"#,
            r#","Connect":{},"Proxy":{"MeshGateway":{},"Expose":{}}"#,
            r#","Connect":{"Native":false,"SidecarService":{"Port":20000}}"#,
            r#","Proxy":{"DestinationServiceName":""},"ProxyDestination":"""#,
        ];
        for fields in usual {
            assert_eq!(reason(fields), None, "{fields}");
        }
        assert!(!is_of_mesh("check Connect is critical"));
        let cases = [
            (
                r#","Kind":"connect-proxy","Proxy":{"DestinationServiceName":"web"}"#,
                "Connect proxy (sidecar)",
            ),
            (
                r#","Kind":"connect-proxy","ProxyDestination":"web""#,
                "Connect proxy (sidecar)",
            ),
            (
                r#","Proxy":{"DestinationServiceName":"web"}"#,
                "Connect proxy",
            ),
            (r#","ProxyDestination":"web""#, "Connect proxy"),
            (r#","Kind":"mesh-gateway""#, "mesh gateway"),
            (r#","Kind":"terminating-gateway""#, "terminating gateway"),
            (r#","Kind":"ingress-gateway""#, "ingress gateway"),
            (r#","Kind":"api-gateway""#, "API gateway"),
            (r#","Connect":{"Native":true}"#, "Connect native"),
            (r#","Kind":"x-\u001b[0m""#, "Kind `x-\\u{1b}[0m`"),
            (r#","Kind":" ""#, "Kind ` `"),
            (r#","Kind":"Connect-Proxy""#, "Kind `Connect-Proxy`"),
        ];
        for (fields, part) in cases {
            let reason = reason(fields).unwrap_or_default();
            assert!(
                reason.contains(part) && is_of_mesh(&reason),
                "{fields}: {reason}"
            );
        }
    }
}
