//! Keys of the data path and of the logs.

use super::key::Kind::{Bool, Int, Secret, Span, Text};
use super::key::{Key, becomes, nothing};

const MESSAGES: &str =
    "messages pass through in pieces, whatever their size; nothing holds a whole one in memory";
const FLUSH: &str = "every piece of a response is passed on as soon as it is there";
const HSTS: &str = "Part of Strict-Transport-Security on TLS listeners.";

/// In the order of the manual.
pub(super) const KEYS: &[Key] = &[
    nothing(
        "insecure",
        Bool,
        "false",
        "Silences the warning about running as root.",
        "lb does not warn of it; a service manager or the capability cap_net_bind_service gives low ports without root",
    ),
    becomes(
        "proxy.addr",
        Text,
        ":9999",
        "Listeners: ADDR;option=value;…, separated by commas.",
        "listener.N.address, listener.N.protocol, listener.N.certificates, listener.N.proxy_protocol, \
         listener.N.proxy_protocol_timeout, listener.N.strict_sni",
    ),
    becomes(
        "proxy.cs",
        Secret,
        "",
        "Certificate sources: cs=NAME;type=TYPE;cert=…, separated by commas.",
        "certificates.NAME.source, certificates.NAME.cert_file, certificates.NAME.key_file, certificates.NAME.path, \
         certificates.NAME.url, certificates.NAME.kv_path, certificates.NAME.issue_path, certificates.NAME.headers, \
         certificates.NAME.refresh, certificates.NAME.renew_before, certificates.NAME.token_file, \
         certificates.NAME.token_env, certificates.NAME.client_ca_file, certificates.NAME.client_ca_url, \
         certificates.NAME.client_ca_kv_path, certificates.NAME.client_ca_upgrade_cn",
    ),
    becomes(
        "proxy.auth",
        Secret,
        "",
        "Authentication schemes: name=NAME;type=basic;file=PATH.",
        "auth.NAME.type, auth.NAME.file, auth.NAME.realm, auth.NAME.refresh, auth.NAME.endpoint, \
         auth.NAME.set_headers, auth.NAME.append_headers",
    ),
    becomes(
        "proxy.localip",
        Text,
        "",
        "Address for by= in Forwarded; first global address.",
        "proxy.local_ip",
    ),
    becomes(
        "proxy.strategy",
        Text,
        "rnd",
        "How a target is chosen: rnd or rr.",
        "proxy.strategy",
    ),
    becomes(
        "proxy.matcher",
        Text,
        "prefix",
        "How paths are compared: prefix, iprefix or glob.",
        "proxy.matcher",
    ),
    becomes(
        "proxy.noroutestatus",
        Int,
        "404",
        "Status when no route matches.",
        "proxy.no_route_status",
    ),
    becomes(
        "proxy.shutdownwait",
        Span,
        "0s",
        "How long running requests may take at the end.",
        "drain.timeout",
    ),
    becomes(
        "proxy.deregistergraceperiod",
        Span,
        "0s",
        "How long to go on serving after the registration is removed.",
        "drain.grace",
    ),
    becomes(
        "proxy.dialtimeout",
        Span,
        "30s",
        "Limit to connect to a target.",
        "proxy.connect_timeout",
    ),
    becomes(
        "proxy.responseheadertimeout",
        Span,
        "0s",
        "Limit for the head of a response; 0: none.",
        "proxy.response_timeout",
    ),
    becomes(
        "proxy.keepalivetimeout",
        Span,
        "0s",
        "TCP keep-alive of connections to targets.",
        "proxy.keepalive",
    ),
    becomes(
        "proxy.idleconntimeout",
        Span,
        "15s",
        "How long an idle connection to a target is kept.",
        "proxy.upstream_idle_timeout",
    ),
    becomes(
        "proxy.readtimeout",
        Span,
        "0s",
        "Limit to read a request, for listeners without rt.",
        "proxy.header_timeout, proxy.body_timeout, proxy.idle_timeout",
    ),
    becomes(
        "proxy.writetimeout",
        Span,
        "0s",
        "Limit to write a response, for listeners without wt.",
        "proxy.request_timeout",
    ),
    nothing(
        "proxy.flushinterval",
        Span,
        "1s",
        "How often event streams are flushed.",
        FLUSH,
    ),
    nothing(
        "proxy.globalflushinterval",
        Span,
        "0s",
        "How often other responses are flushed.",
        FLUSH,
    ),
    becomes(
        "proxy.maxconn",
        Int,
        "10000",
        "Most idle connections per target.",
        "proxy.upstream_max_idle",
    ),
    becomes(
        "proxy.header.clientip",
        Text,
        "",
        "Header that gets the client's address.",
        "proxy.client_ip_header",
    ),
    becomes(
        "proxy.header.tls",
        Text,
        "",
        "Header that is set on TLS listeners.",
        "proxy.tls_header",
    ),
    becomes(
        "proxy.header.tls.value",
        Text,
        "",
        "Value of that header.",
        "proxy.tls_header_value",
    ),
    becomes(
        "proxy.header.requestid",
        Text,
        "",
        "Header that gets a fresh id.",
        "proxy.request_id_header",
    ),
    becomes(
        "proxy.header.sts.maxage",
        Int,
        "0",
        HSTS,
        "proxy.sts_max_age",
    ),
    becomes(
        "proxy.header.sts.subdomains",
        Bool,
        "false",
        HSTS,
        "proxy.sts_subdomains",
    ),
    becomes(
        "proxy.header.sts.preload",
        Bool,
        "false",
        HSTS,
        "proxy.sts_preload",
    ),
    becomes(
        "proxy.gzip.contenttype",
        Text,
        "",
        "Content types to compress, as a regular expression.",
        "proxy.compression.content_types",
    ),
    nothing(
        "proxy.grpcmaxrxmsgsize",
        Int,
        "4194304",
        "Largest gRPC message from a target, in bytes.",
        MESSAGES,
    ),
    nothing(
        "proxy.grpcmaxtxmsgsize",
        Int,
        "4194304",
        "Largest gRPC message to a target, in bytes.",
        MESSAGES,
    ),
    nothing(
        "proxy.grpcshutdowntimeout",
        Span,
        "2s",
        "How long calls may run on a connection whose target is gone.",
        "running calls are finished; the connection closes after the last one",
    ),
    becomes(
        "log.access.target",
        Text,
        "",
        "Access log: stdout, or nothing.",
        "log.access",
    ),
    becomes(
        "log.access.format",
        Text,
        "common",
        "Form of the access log.",
        "log.access",
    ),
    becomes(
        "log.level",
        Text,
        "INFO",
        "TRACE, DEBUG, INFO, WARN, ERROR or FATAL.",
        "log.level",
    ),
    nothing(
        "log.routes.format",
        Text,
        "delta",
        "How changes of the table are logged: delta, all or detail.",
        "the table is not logged; `lb routes`, `lb explain` and /api/services show it, with what is left out and why",
    ),
    nothing(
        "proxy.log.routes",
        Text,
        "",
        "Old name of log.routes.format.",
        "deprecated in Fabio; as log.routes.format",
    ),
    nothing(
        "aws.apigw.cert.cn",
        Text,
        "",
        "Old name of caupgcn in proxy.cs.",
        "deprecated in Fabio, where it has no effect either",
    ),
    becomes(
        "glob.matching.disabled",
        Bool,
        "false",
        "Takes hosts of routes as plain text.",
        "proxy.host_patterns",
    ),
    nothing(
        "glob.cache.size",
        Int,
        "1000",
        "How many compiled patterns are kept.",
        "patterns are compiled once, when a route appears",
    ),
];
