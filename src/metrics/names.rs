//! Every metric of `lb`, once: its name, kind, labels and help text.
//!
//! Names and labels are part of the outer surface: dashboards and alerts are written against them.
//! Which samples a family has is decided in `collectors`; how they are counted, in `service` and in
//! the module root.

use std::collections::HashMap;

use prometheus::core::Desc;
use prometheus::proto::MetricType;

/// How Prometheus is to read a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises (until a restart).
    Counter,
    /// Rises and falls.
    Gauge,
    /// Buckets, sum and count.
    Histogram,
    /// Sum and count without quantiles.
    Summary,
}

impl From<Kind> for MetricType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::COUNTER,
            Kind::Gauge => Self::GAUGE,
            Kind::Histogram => Self::HISTOGRAM,
            Kind::Summary => Self::SUMMARY,
        }
    }
}

/// One metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Family<'a> {
    /// Full name, prefix included.
    pub name: &'a str,
    pub kind: Kind,
    /// Names of its labels, in the order in which they are written.
    pub labels: &'a [&'a str],
    /// One line of help; no backslash, no line break.
    pub help: &'a str,
}

impl Family<'_> {
    /// What a registry knows the family by.
    ///
    /// # Errors
    /// A name or a label with characters that Prometheus does not allow there.
    pub(crate) fn desc(&self) -> prometheus::Result<Desc> {
        Desc::new(
            self.name.to_owned(),
            self.help.to_owned(),
            self.labels.iter().map(|&label| label.to_owned()).collect(),
            HashMap::new(),
        )
    }
}

macro_rules! families {
    (
        $(#[$doc:meta])*
        $list:ident:
        $($constant:ident = $kind:ident $name:literal [$($label:literal),*], $help:literal;)*
    ) => {
        $(
            #[doc = $help]
            pub(crate) const $constant: $crate::metrics::names::Family<'static> = $crate::metrics::names::Family {
                name: $name,
                kind: $crate::metrics::names::Kind::$kind,
                labels: &[$($label),*],
                help: $help,
            };
        )*

        $(#[$doc])*
        pub(crate) const $list: &[$crate::metrics::names::Family<'static>] = &[$($constant),*];
    };
}

pub(crate) use families;

families! {
    /// Families with a series for each service.
    SERVICES:
    HTTP_REQUESTS = Counter "lb_http_requests_total" ["service", "method", "code"],
        "HTTP requests that got a response, by service, method and status code.";
    HTTP_REQUEST_DURATION = Histogram "lb_http_request_duration_seconds" ["service"],
        "Time from the request's head to the end of the response.";
    UPGRADED_DURATION = Histogram "lb_upgraded_connection_duration_seconds" ["service"],
        "How long connections lasted that were upgraded to another protocol (websockets); their requests are counted as others.";
    HTTP_IN_FLIGHT = Gauge "lb_http_requests_in_flight" ["service"],
        "HTTP requests being served now.";
    PROXY_ERRORS = Counter "lb_proxy_errors_total" ["service", "reason"],
        "Requests that lb itself responded to with an error, by service (empty: none was found) and reason.";
    RATE_LIMITED = Counter "lb_rate_limited_total" ["service"],
        "Requests refused because they came faster than the rate of their route, by service.";
    GRPC_REQUESTS = Counter "lb_grpc_requests_total" ["service", "status"],
        "Calls of gRPC that ended, by service (empty: none was found) and status; 2 where the server sent none.";
    UPSTREAM_CONNECTS = Counter "lb_upstream_connects_total" ["service", "result"],
        "Attempts to connect to an instance, by result.";
    UPSTREAM_RETRIES = Counter "lb_upstream_retries_total" ["service", "reason"],
        "Requests tried again on another instance, by reason.";
    UPSTREAM_EJECTIONS = Counter "lb_upstream_ejections_total" ["service"],
        "Instances taken out because their responses failed.";
    MIRRORED = Counter "lb_mirror_requests_total" ["service"],
        "Copies of requests made for the service (mirror= in a tag), dropped ones included.";
    MIRROR_DROPPED = Counter "lb_mirror_dropped_total" ["service"],
        "Copies of requests that the service did not get: too many under way, a body above 64 KiB, or no instance that takes them.";
    TCP_CONNECTIONS = Counter "lb_tcp_connections_total" ["service"], "TCP connections accepted.";
    TCP_OPEN = Gauge "lb_tcp_connections_open" ["service"], "TCP connections open now.";
    BYTES = Counter "lb_bytes_total" ["service", "direction"],
        "Payload bytes: in is from clients to instances, out is back.";
}

families! {
    /// Families with a series for each listener.
    LISTENERS:
    NO_ROUTE = Counter "lb_no_route_total" ["listener"],
        "Requests or connections that met no route, by listener.";
    CLIENT_FAULTS = Counter "lb_client_faults_total" ["listener", "fault"],
        "Connections and streams ended because of what the client sent or did not send, by listener and fault.";
}

families! {
    /// Families of the control loop: sources, table, certificates, reloads.
    CONTROL:
    REGISTRY_LAST_SUCCESS = Gauge "lb_registry_last_success_timestamp_seconds" ["service"],
        "Unix time of the last good response about a service; the empty name is the list of services itself.";
    REGISTRY_ERRORS = Counter "lb_registry_errors_total" ["kind"],
        "Failed reads of a source of routes, by kind.";
    REGISTRY_REJECTED_TAGS = Gauge "lb_registry_rejected_tags" ["service"],
        "Routing tags that could not be understood.";
    TABLE_BUILDS = Counter "lb_table_builds_total" [], "Routing tables built.";
    TABLE_BUILD_SECONDS = Summary "lb_table_build_seconds" [],
        "Time spent building routing tables.";
    TABLE_ROUTES = Gauge "lb_table_routes" [], "Routes in the present table.";
    TABLE_TARGETS = Gauge "lb_table_targets" ["service", "state"],
        "Instances by service and state: healthy, held, ejected or excluded.";
    CHANGE_TO_TRAFFIC = Histogram "lb_change_to_traffic_seconds" [],
        "Time from the first sign of a change (a response to a watch) to the table that new requests use.";
    READY = Gauge "lb_ready" [], "Whether /ready says that traffic may be sent here: 1 or 0.";
    DRAINING = Gauge "lb_draining" [],
        "Whether the process is about to end: 1 from SIGTERM on, else 0.";
    RELOAD_ERRORS = Counter "lb_reload_errors_total" ["kind"],
        "What a reload could not take over and left as it was, by kind: config or certificates.";
    CERTIFICATE_ERRORS = Gauge "lb_certificate_errors" ["source"],
        "Certificates, keys and CAs that cannot be used or are outside their validity period, by where they come from.";
    CERTIFICATE_EXPIRY = Gauge "lb_certificate_expiry_timestamp_seconds" ["source", "name"],
        "Unix time at which a certificate ends.";
    AUTH_KEYS_LAST_SUCCESS = Gauge "lb_auth_keys_last_success_timestamp_seconds" ["scheme"],
        "Unix time at which the keys of [auth.NAME] with type jwt were read the last time.";
    AUTH_KEYS_ERRORS = Counter "lb_auth_keys_errors_total" ["scheme"],
        "How often the keys of [auth.NAME] with type jwt could not be fetched or read.";
    ACME_ORDERS = Counter "lb_acme_orders_total" ["result"],
        "Orders of certificates at an ACME server that came to their end, by result: issued or failed.";
    ACME_FAILURES = Counter "lb_acme_failures_total" ["kind"],
        "What kept certificates from being ordered: refused or limited (by the ACME server), server, store, lock, account, passphrase, hook.";
    LISTENER_SHARED = Gauge "lb_listener_shared" ["listener"],
        "1 while another process listens on the listener's address too and takes a part of its connections, else 0.";
    FLEET_SIZE = Gauge "lb_fleet_size" [],
        "How many healthy lb of [fleet] share the limits, as Consul says.";
    REGISTERED = Gauge "lb_registered" [],
        "1 while all that lb registers of itself in Consul is registered, else 0.";
}

families! {
    /// Families of the program: its version and its logs.
    PROGRAM:
    BUILD_INFO = Gauge "lb_build_info" ["version", "revision"],
        "Version and revision of the program; the value is always 1.";
    ACCESS_LOG_DROPPED = Counter "lb_access_log_dropped_total" [],
        "Access log lines dropped because the reader was slow.";
    LOG_DROPPED = Counter "lb_log_dropped_total" [],
        "Lines of the program's log dropped because standard error did not take them.";
}

families! {
    /// Families of the process, as the operating system sees it.
    PROCESS:
    PROCESS_CPU = Counter "process_cpu_seconds_total" [], "CPU time spent, user and system.";
    PROCESS_RSS = Gauge "process_resident_memory_bytes" [], "Memory held in RAM.";
    PROCESS_VIRTUAL = Gauge "process_virtual_memory_bytes" [], "Address space in use.";
    PROCESS_OPEN_FDS = Gauge "process_open_fds" [], "File descriptors open now.";
    PROCESS_MAX_FDS = Gauge "process_max_fds" [], "Most file descriptors the process may open.";
    PROCESS_START = Gauge "process_start_time_seconds" [],
        "Unix time at which the process started.";
    PROCESS_THREADS = Gauge "process_threads" [], "Threads of the process.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_well_formed_and_follow_the_suffix_rule() {
        let mut seen = BTreeSet::new();
        for family in [SERVICES, LISTENERS, CONTROL, PROGRAM, PROCESS].concat() {
            assert!(seen.insert(family.name), "{} twice", family.name);
            assert!(
                family
                    .name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_'),
                "{}",
                family.name
            );
            assert_eq!(
                family.kind == Kind::Counter,
                family.name.ends_with("_total"),
                "{}",
                family.name
            );
            assert!(
                !family.help.contains(['\\', '\n']) && family.help.ends_with('.'),
                "{}",
                family.name
            );
        }
    }
}
