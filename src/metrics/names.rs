//! Every metric of `lb`, once: its name, kind and help text.
//!
//! Names and labels are part of the outer surface: dashboards and alerts are written against them.
//! What is written under each name is decided in `text`; how it is counted, in `service` and in the
//! module root.

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

impl Kind {
    /// The word of the TYPE line.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
        }
    }
}

/// One metric family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Full name, prefix included.
    pub name: &'static str,
    /// Kind.
    pub kind: Kind,
    /// One line of help; no backslash, no line break.
    pub help: &'static str,
}

macro_rules! families {
    ($($constant:ident = $kind:ident $name:literal, $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Family = Family { name: $name, kind: Kind::$kind, help: $help };
        )*

        /// All families, in the order in which they are written.
        pub const ALL: &[Family] = &[$($constant),*];
    };
}

families! {
    HTTP_REQUESTS = Counter "lb_http_requests_total", "HTTP requests answered, by service, method and status code.";
    HTTP_REQUEST_DURATION = Histogram "lb_http_request_duration_seconds",
        "Time from the request's head to the end of the answer.";
    UPGRADED_DURATION = Histogram "lb_upgraded_connection_duration_seconds",
        "How long connections lasted that were upgraded to another protocol (websockets); their requests are counted as others.";
    HTTP_IN_FLIGHT = Gauge "lb_http_requests_in_flight", "HTTP requests being served now.";
    PROXY_ERRORS = Counter "lb_proxy_errors_total",
        "Requests that lb answered by itself with an error, by service (empty: none was found) and reason.";
    GRPC_REQUESTS = Counter "lb_grpc_requests_total",
        "Calls of gRPC that ended, by service (empty: none was found) and status; 2 where the server told none.";
    CLIENT_FAULTS = Counter "lb_client_faults_total",
        "Connections and streams ended because of what the client sent or did not send, by listener and fault.";
    NO_ROUTE = Counter "lb_no_route_total", "Requests or connections that met no route, by listener.";
    UPSTREAM_CONNECTS = Counter "lb_upstream_connects_total", "Attempts to connect to an instance, by result.";
    UPSTREAM_RETRIES = Counter "lb_upstream_retries_total", "Requests tried again on another instance, by reason.";
    UPSTREAM_EJECTIONS = Counter "lb_upstream_ejections_total", "Instances taken out because their answers failed.";
    TCP_CONNECTIONS = Counter "lb_tcp_connections_total", "TCP connections accepted.";
    TCP_OPEN = Gauge "lb_tcp_connections_open", "TCP connections open now.";
    BYTES = Counter "lb_bytes_total", "Payload bytes: in is from clients to instances, out is back.";
    REGISTRY_LAST_SUCCESS = Gauge "lb_registry_last_success_timestamp_seconds",
        "Unix time of the last good answer about a service; the empty name is the list of services itself.";
    REGISTRY_ERRORS = Counter "lb_registry_errors_total", "Failed reads of a source of routes, by kind.";
    REGISTRY_REJECTED_TAGS = Gauge "lb_registry_rejected_tags", "Routing tags that could not be understood.";
    TABLE_BUILDS = Counter "lb_table_builds_total", "Routing tables built.";
    TABLE_BUILD_SECONDS = Summary "lb_table_build_seconds", "Time spent building routing tables.";
    TABLE_ROUTES = Gauge "lb_table_routes", "Routes in the present table.";
    CHANGE_TO_TRAFFIC = Histogram "lb_change_to_traffic_seconds",
        "Time from the first sign of a change (an answered watch) to the table that new requests use.";
    TABLE_TARGETS = Gauge "lb_table_targets", "Instances by service and state: healthy, held, ejected or excluded.";
    READY = Gauge "lb_ready", "Whether /ready says that traffic may be sent here: 1 or 0.";
    DRAINING = Gauge "lb_draining", "Whether the process is about to end: 1 from SIGTERM on, else 0.";
    RELOAD_ERRORS = Counter "lb_reload_errors_total",
        "What a reload could not take over and left as it was, by kind: config or certificates.";
    CERTIFICATE_ERRORS = Gauge "lb_certificate_errors",
        "Certificates, keys and CAs that cannot be used or are outside their validity period, by where they come from.";
    LISTENER_SHARED = Gauge "lb_listener_shared",
        "1 while another process listens on the listener's address too and takes a part of its connections, else 0.";
    REGISTERED = Gauge "lb_registered", "1 while all that lb registers of itself in Consul is registered, else 0.";
    CERTIFICATE_EXPIRY = Gauge "lb_certificate_expiry_timestamp_seconds", "Unix time at which a certificate ends.";
    ACCESS_LOG_DROPPED = Counter "lb_access_log_dropped_total", "Access log lines dropped because the reader was slow.";
    LOG_DROPPED = Counter "lb_log_dropped_total",
        "Lines of the program's log dropped because standard error did not take them.";
    BUILD_INFO = Gauge "lb_build_info", "Version and revision of the program; the value is always 1.";
    PROCESS_CPU = Counter "process_cpu_seconds_total", "CPU time spent, user and system.";
    PROCESS_RSS = Gauge "process_resident_memory_bytes", "Memory held in RAM.";
    PROCESS_VIRTUAL = Gauge "process_virtual_memory_bytes", "Address space in use.";
    PROCESS_OPEN_FDS = Gauge "process_open_fds", "File descriptors open now.";
    PROCESS_MAX_FDS = Gauge "process_max_fds", "Most file descriptors the process may open.";
    PROCESS_START = Gauge "process_start_time_seconds", "Unix time at which the process started.";
    PROCESS_THREADS = Gauge "process_threads", "Threads of the process.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_well_formed_and_follow_the_suffix_rule() {
        let mut seen = BTreeSet::new();
        for family in ALL {
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
