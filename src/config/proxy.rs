//! `[proxy]`: rules of the data path.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderName;

use super::declare::{Checked, section};
use super::key::{DAY, HOUR};
use super::networks::Networks;
use super::reader::Reader;
use super::retry::RetryConfig;
use super::words::words;
use crate::catalog::options::Strategy;
use crate::table::Matcher;

section! {
    /// Rules of the data path: routing, headers, limits and deadlines.
    pub struct ProxyConfig is Once "proxy" {
        /// Worker threads. 0: one per core.
        workers: usize = "0" in (0, 1024) [restart];

        /// How an instance is chosen: p2c (two at random, the less busy one), rr, rnd, least, ewma,
        /// or hash:ip, hash:path, hash:header:NAME, hash:cookie:NAME. A route may have its own
        /// (strategy= in the tag).
        strategy: Strategy = "p2c";

        /// How a route's path is compared: prefix, iprefix (ignoring case) or glob.
        matcher: Matcher = "prefix";

        /// Status when no route matches.
        no_route_status: u16 = "404" in (200, 999);

        /// Page sent with it.
        no_route_page: Option<PathBuf> = unset "no-route.html";

        /// The same as text; no_route_page wins.
        no_route_html: String = unset "<h1>Not here</h1>";

        /// Retry-After of the 503 for a service that is registered but has no healthy instance.
        retry_after: Duration = "1s" in (0, HOUR);

        /// A route whose instances are all out counts as not there: a shorter path or a less
        /// specific host serves, or none. Else its response is that 503.
        fall_through: bool = "false";

        /// Hosts of routes are patterns: *.example.com. false: text, which no host of a request is
        /// when it holds a `*`.
        host_patterns: bool = "true";

        /// Instances get a path as routes are compared with it: without `//`, and where anything
        /// was cleaned, with `/` for `%2F`. Else `//` and `%2F` are sent as they came. `.` and `..`
        /// are never sent.
        merge_slashes: bool = "false";

        /// Responses when an upstream failed: with a line of text, or bare as in Fabio, which has
        /// 500 for an invalid response too.
        upstream_errors: UpstreamErrors = "told";

        /// X-Forwarded-Host and -Port: of the host in the client's request, or of the one that
        /// host= of a tag put in its place.
        forwarded_host: ForwardedHost = "received";

        /// Senders that are believed when they say for which client they send a request, and how
        /// that came: X-Forwarded-*, Forwarded and X-Real-Ip. Networks and addresses of what stands
        /// in front of lb, of its balancers and CDN. From all others these fields are replaced.
        trusted_proxies: Networks = unset "10.0.0.0/8";

        /// The client's address, for allow and deny, by=ip, hash:ip and the access log. forwarded:
        /// the last one in X-Forwarded-For (else Forwarded, else X-Real-Ip) that is not a trusted
        /// proxy's. peer: the sender's; allow and deny then look at every address that a trusted
        /// sender names, too, as in Fabio.
        client_address: ClientAddress = "forwarded";

        /// File with the secret of the cookies that keep clients with instances (sticky= in a tag): 32
        /// bytes of text or more. All lb that serve the same clients need the same. Without it one
        /// is made once and kept in Consul's KV store under lb/sticky_key, where the token may
        /// write there; else each process makes its own.
        sticky_key_file: Option<PathBuf> = unset "sticky.key";

        /// Address for `by=` in the Forwarded header.
        local_ip: Option<String> = unset "10.0.0.1";

        /// Header that gets the sender's address.
        client_ip_header: Option<HeaderName> = unset "X-Client-Ip";

        /// Header that gets a fresh id with each request.
        request_id_header: Option<HeaderName> = unset "X-Request-Id";

        /// Header set on TLS listeners and removed on plain ones.
        tls_header: Option<HeaderName> = unset "X-Tls";

        /// Its value.
        tls_header_value: String = "true";

        /// max-age of Strict-Transport-Security in seconds, on TLS listeners. 0: no such header.
        sts_max_age: u64 = "0" in (0, 10_000_000_000);

        /// Adds includeSubdomains to it.
        sts_subdomains: bool = "false";

        /// Adds preload to it.
        sts_preload: bool = "false";

        /// PEM file of CAs for instances that are reached by TLS. Without it: the system's.
        upstream_ca_file: Option<PathBuf> = unset "upstream-ca.pem";

        /// Limit for a client to send its request head, or a ClientHello, or to finish a TLS
        /// handshake.
        header_timeout: Duration = "10s" in (100, HOUR);

        /// How long an idle client connection is kept. It has to be longer than what a balancer in
        /// front keeps its own: that would send a request on a connection that is just being
        /// closed. AWS ALB keeps 60s, Azure Front Door 90s, Google's balancers 600s (write 620s
        /// behind them).
        idle_timeout: Duration = "75s" in (100, DAY);

        /// How long a client may pause inside a request body, or while not reading the response.
        body_timeout: Duration = "60s" in (100, DAY);

        /// Largest request head in bytes; 431 above it.
        max_header_bytes: usize = "65536" in (1024, 16_777_216);

        /// Most header fields of a request; 431 above it.
        max_headers: usize = "128" in (8, 4096);

        /// Most streams at a time on one HTTP/2 client connection.
        max_streams: u32 = "250" in (1, 100_000);

        /// Most client connections per worker, fewer where the limit of open files is low; more
        /// wait in the kernel's queue.
        max_connections: usize = "65536" in (1, 10_000_000);

        /// Limit to connect to an instance, TLS included.
        connect_timeout: Duration = "1s" in (1, HOUR);

        /// Limit from the request to the first byte of the response; 504 after it. gRPC calls bring
        /// their own.
        response_timeout: Duration = "60s" in (1, DAY);

        /// How long an instance may pause inside a response while the client waits for more; the
        /// response is cut then. Not for websockets, gRPC and text/event-stream. 0s: without end.
        response_idle_timeout: Duration = "10m" in (0, DAY);

        /// Limit for a request as a whole, from its head to the last byte of its response: 504
        /// where no response has begun, else it is cut. Not for websockets and gRPC. 0s: none.
        request_timeout: Duration = "0s" in (0, DAY);

        /// When a GET or HEAD has no first byte after this, it is sent to another instance too,
        /// within the retry budget, and the first response counts. It doubles requests that are
        /// slow by nature. 0s: never; frozen instances are found by health.frozen_after.
        try_timeout: Duration = "0s" in (0, DAY);

        /// How long an idle connection to an instance is kept. It has to be shorter than what the
        /// instances keep theirs: Node.js closes after 5s, nginx after 75s, Go never. For gunicorn
        /// (2s) and Apache httpd (5s, counted in whole seconds) raise theirs, or write 1s here.
        upstream_idle_timeout: Duration = "4s" in (0, DAY);

        /// Has no effect any more: there is one way for all requests. Older files that set it are
        /// still read, with a warning.
        direct: bool = "true";

        /// Most idle connections per instance and worker.
        upstream_max_idle: usize = "256" in (0, 1_000_000);

        /// TCP keep-alive of connections to instances. 0s: the system's.
        keepalive: Duration = "15s" in (0, DAY);

        /// A TCP connection is closed after this time without a byte either way. 0s: never.
        tcp_idle_timeout: Duration = "10m" in (0, 365 * DAY);

        /// TCP and upgraded connections whose instance is gone are cut after this time. 0s: never.
        removed_grace: Duration = "30s" in (0, 365 * DAY);
    } and {
        /// `[retry]`.
        retry: RetryConfig;
    }
}

words! {
    for Matcher {
        Prefix = "prefix",
        IPrefix = "iprefix",
        Glob = "glob",
    }
}

words! {
    /// Responses when an upstream failed.
    pub enum UpstreamErrors {
        /// With a line of text.
        Text = "told",
        /// As in Fabio.
        Bare = "bare",
    }
}

words! {
    /// Which host X-Forwarded-Host and -Port name.
    pub enum ForwardedHost {
        /// The one in the client's request.
        Received = "received",
        /// The one the upstream gets.
        Sent = "sent",
    }
}

words! {
    /// Which address is the client's.
    #[derive(Default)]
    pub enum ClientAddress {
        /// The last one in the forwarding fields that is not a trusted proxy's.
        #[default]
        Forwarded = "forwarded",
        /// The sender's.
        Peer = "peer",
    }
}

impl ProxyConfig {
    /// Responses for upstreams that cannot be used are Fabio's.
    #[must_use]
    pub fn has_bare_errors(&self) -> bool {
        self.upstream_errors == UpstreamErrors::Bare
    }
}

impl Checked for ProxyConfig {
    fn check(&mut self, reader: &mut Reader<'_>) {
        if reader.has("direct") {
            reader.warn(
                "direct",
                "has no effect any more",
                "take it out: there is one way for all requests",
            );
            self.direct = true;
        }
        if http::HeaderValue::from_str(&self.tls_header_value).is_err() {
            reader.wrong(
                "tls_header_value",
                "cannot stand in a header",
                "use printable ASCII characters",
            );
        }
        if self
            .local_ip
            .as_ref()
            .is_some_and(|text| text.parse::<std::net::IpAddr>().is_err())
        {
            reader.wrong(
                "local_ip",
                "is not an IP address",
                "write it like \"10.0.0.1\"",
            );
        }
    }
}
