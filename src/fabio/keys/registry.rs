//! Keys of the sources of routes, and of the registration of the router itself.

use super::Kind::{Bool, Int, List, Secret, Span, Text};
use super::{Key, becomes, later, nothing};

const START: &str = "lb waits for Consul as long as it takes, with growing pauses, and says on /ready why it waits";
const REGISTER: &str = "registration of the router itself";
const CUSTOM: &str = "the custom registry; with registry.backend=custom lb does not start";
const STATIC: &str = "the static registry; with registry.backend=static lb does not start (a file works)";

/// In the order of the manual.
pub(super) const KEYS: &[Key] = &[
    becomes(
        "registry.backend",
        Text,
        "consul",
        "Where routes come from: consul, file, static or custom.",
        "consul.address, routes_file",
    ),
    nothing("registry.timeout", Span, "10s", "How long to wait for the registry at start.", START),
    nothing("registry.retry", Span, "500ms", "Pause between attempts at start.", START),
    later("registry.static.routes", Text, "", "Routes as text, for the static registry.", STATIC),
    later("registry.static.noroutehtml", Text, "", "Page when no route matches, as text.", STATIC),
    becomes("registry.file.path", Text, "", "File of routes, for the file registry.", "routes_file"),
    becomes("registry.file.noroutehtmlpath", Text, "", "File of the no-route page.", "proxy.no_route_page"),
    later("registry.custom.host", Text, "", "Host of the custom registry.", CUSTOM),
    later("registry.custom.scheme", Text, "https", "Scheme of its URL.", CUSTOM),
    later("registry.custom.path", Text, "", "Path of its URL.", CUSTOM),
    later("registry.custom.queryparams", Text, "", "Query of its URL.", CUSTOM),
    later("registry.custom.checkTLSSkipVerify", Bool, "false", "Accept any certificate of it.", CUSTOM),
    later("registry.custom.timeout", Span, "5s", "Limit for a request to it.", CUSTOM),
    later("registry.custom.pollinterval", Span, "10s", "How often it is asked.", CUSTOM),
    later("registry.custom.noroutehtml", Text, "", "File of the no-route page.", CUSTOM),
    becomes("registry.consul.addr", Text, "localhost:8500", "The agent; https:// in front for TLS.", "consul.address"),
    becomes("registry.consul.token", Secret, "", "ACL token.", "consul.token"),
    becomes("registry.consul.namespace", Text, "", "Namespace (Consul Enterprise).", "consul.namespace"),
    becomes("registry.consul.tls.keyfile", Text, "", "Private key for Consul.", "consul.key_file"),
    becomes("registry.consul.tls.certfile", Text, "", "Client certificate for Consul.", "consul.cert_file"),
    becomes("registry.consul.tls.cafile", Text, "", "CAs of Consul's certificates.", "consul.ca_file"),
    becomes("registry.consul.tls.capath", Text, "", "Folder of such CAs.", "consul.ca_path"),
    becomes(
        "registry.consul.tls.insecureskipverify",
        Bool,
        "false",
        "Accept any certificate of Consul.",
        "consul.skip_verify",
    ),
    becomes(
        "registry.consul.kvpath",
        Text,
        "/fabio/config",
        "Where routes are kept by hand in the KV store.",
        "consul.kv_path",
    ),
    later(
        "registry.consul.noroutehtmlpath",
        Text,
        "/fabio/noroute.html",
        "Where the no-route page is kept in the KV store.",
        "a no-route page in the KV store; proxy.no_route_page names a file",
    ),
    becomes("registry.consul.tagprefix", Text, "urlprefix-", "What tags of routes start with.", "consul.tag_prefix"),
    becomes(
        "registry.consul.service.status",
        List,
        "passing",
        "Check states that count as healthy.",
        "consul.accept_status",
    ),
    becomes(
        "registry.consul.checksRequired",
        Text,
        "one",
        "Whether one check in such a state is enough, or all have to be.",
        "consul.checks_required",
    ),
    nothing(
        "registry.consul.serviceMonitors",
        Int,
        "1",
        "How many services are read at the same time.",
        "each service has a watch of its own, and only what changed is read",
    ),
    nothing(
        "registry.consul.pollinterval",
        Span,
        "0s",
        "Pause between reads, instead of waiting for changes.",
        "changes are waited for, which is quicker and costs Consul less",
    ),
    becomes(
        "registry.consul.requireConsistent",
        Bool,
        "true",
        "Reads that the leader confirms with the other servers.",
        "consul.stale",
    ),
    becomes("registry.consul.allowStale", Bool, "false", "Reads that any server may answer.", "consul.stale"),
    later("registry.consul.register.enabled", Bool, "true", "Registers the router in Consul.", REGISTER),
    later("registry.consul.register.name", Text, "fabio", "Name of that service.", REGISTER),
    later("registry.consul.register.addr", Text, ":9998", "Address of that service; that of ui.addr.", REGISTER),
    later("registry.consul.register.tags", List, "", "Tags of that service.", REGISTER),
    later("registry.consul.register.checkInterval", Span, "1s", "How often Consul checks it.", REGISTER),
    later("registry.consul.register.checkTimeout", Span, "3s", "Limit for such a check.", REGISTER),
    later("registry.consul.register.checkTLSSkipVerify", Bool, "false", "Accept any certificate there.", REGISTER),
    nothing(
        "registry.consul.register.checkDeregisterCriticalServiceAfter",
        Text,
        "",
        "When a dead router is removed.",
        "deprecated in Fabio, where it has no effect either",
    ),
];
