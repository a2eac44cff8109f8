//! Every family under Fabio's names: the last part of its name with dots, as Fabio's own reports
//! have it; its kind, its labels (in the order of their names) and its help text.

use crate::metrics::names::families;

families! {
    /// Counters without labels. The first is always there, the others once something was counted.
    PLAIN:
    NOT_FOUND = Counter "notfound" [], "Requests and connections without a route.";
    TCP_CONN = Counter "tcp.conn" [], "TCP connections.";
    TCP_CONN_FAIL = Counter "tcp.connfail" [], "TCP connections for which no target could be reached.";
    TCP_NO_ROUTE = Counter "tcp.noroute" [], "TCP connections without a route.";
    SNI_CONN = Counter "tcp_sni.conn" [], "TLS connections passed on by server name.";
    SNI_CONN_FAIL = Counter "tcp_sni.connfail" [], "Of those, without a name or a target in reach.";
    SNI_NO_ROUTE = Counter "tcp_sni.noroute" [], "Of those, without a route.";
    GRPC_CONN = Counter "grpc.conn" [], "Client connections of gRPC.";
    GRPC_NO_ROUTE = Counter "grpc.noroute" [], "gRPC calls without a route.";
}

families! {
    /// All others.
    OTHERS:
    REQUESTS = Histogram "requests" ["service"], "Time of forwarded requests, by service.";
    STATUS = Histogram "http.status" ["code", "service"],
        "Time of forwarded requests, by status code and service.";
    ROUTE = Histogram "route" ["host", "path", "service", "target"],
        "Time of forwarded requests and calls, by target of a route.";
    ROUTE_RX = Counter "route.rx" ["host", "path", "service", "target"],
        "Bytes of TCP connections to the client, by target of a route.";
    ROUTE_TX = Counter "route.tx" ["host", "path", "service", "target"],
        "Bytes of TCP connections from the client, by target of a route.";
    REDIRECTS = Counter "http.redirect.count" ["code"], "Requests that got a redirect, by code.";
    WEBSOCKETS = Gauge "ws.conn" [], "Open websockets and other upgraded connections.";
    CALLS = Histogram "grpc.requests" [], "Time of gRPC calls.";
    CALL_STATUS = Histogram "grep.status" ["code"],
        "Time of gRPC calls, by status (the name is Fabio's).";
}
