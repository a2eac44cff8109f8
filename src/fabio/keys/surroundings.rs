//! Keys of the admin listener, of metrics, of the runtime, and of BGP.

use super::key::Kind::{Bool, Int, List, Numbers, Secret, Span, Text, Uint};
use super::key::{Key, becomes, nothing};

const CIRCONUS: &str = "left out on purpose: let an agent of Circonus read /metrics in Prometheus form";
const BGP: &str = "left out on purpose: let gobgp, bird or frr announce the address, and withdraw it when /ready fails";
const GO: &str = "a knob of Go's runtime: there is no garbage collector here";
const PROFILE: &str = "`perf` profiles a running lb, without a restart";
const UNUSED: &str = "Fabio does not use it either";

/// In the order of the manual.
pub(super) const KEYS: &[Key] = &[
    becomes("ui.addr", Text, ":9998", "The admin listener.", "admin.address, admin.certificates"),
    becomes("ui.access", Text, "rw", "Whether routes may be changed there: ro or rw.", "admin.writable"),
    becomes("ui.path", Text, "", "Prefix of its paths.", "admin.path"),
    becomes("ui.title", Text, "", "Title of its pages.", "admin.title"),
    becomes("ui.color", Text, "light-green", "Colour of its pages.", "admin.color"),
    becomes(
        "ui.routingtable.source.linkenabled",
        Bool,
        "false",
        "Whether routes are links there.",
        "admin.link_sources",
    ),
    becomes("ui.routingtable.source.newtab", Bool, "true", "Whether those open a new tab.", "admin.link_new_tab"),
    becomes("ui.routingtable.source.scheme", Text, "http", "Scheme of those links.", "admin.link_scheme"),
    becomes("ui.routingtable.source.host", Text, "", "Host of those links.", "admin.link_host"),
    becomes("ui.routingtable.source.port", Text, "", "Port of those links.", "admin.link_port"),
    becomes(
        "metrics.target",
        Text,
        "",
        "Where metrics go: prometheus, statsd_raw, dogstatsd, graphite, stdout, label; separated by commas.",
        "metrics.fabio_names, metrics.statsd, metrics.dogstatsd, metrics.graphite, metrics.stdout",
    ),
    becomes(
        "metrics.prefix",
        Text,
        "{{clean .Hostname}}.{{clean .Exec}}",
        "Prefix of metrics' names.",
        "metrics.prefix",
    ),
    nothing(
        "metrics.names",
        Text,
        "{{clean .Service}}.{{clean .Host}}.{{clean .Path}}.{{clean .TargetURL.Host}}",
        "Template of names of routes' metrics.",
        "Fabio reads it, but always uses the default",
    ),
    becomes("metrics.interval", Span, "30s", "How often metrics are sent.", "metrics.interval"),
    nothing("metrics.timeout", Span, "10s", "Limit for a metrics server to appear.", UNUSED),
    nothing("metrics.retry", Span, "500ms", "Pause between such attempts.", UNUSED),
    becomes("metrics.graphite.addr", Text, "", "Address of a Graphite server.", "metrics.graphite"),
    becomes("metrics.statsd.addr", Text, "", "Address of a StatsD server.", "metrics.statsd"),
    becomes("metrics.dogstatsd.addr", Text, "", "Address of a DogStatsD server.", "metrics.dogstatsd"),
    becomes("metrics.prometheus.path", Text, "/metrics", "Path of a prometheus listener.", "metrics.path"),
    becomes("metrics.prometheus.subsystem", Text, "", "Second part of names.", "metrics.subsystem"),
    becomes(
        "metrics.prometheus.buckets",
        Numbers,
        ".005,.01,.025,.05,.1,.25,.5,1,2.5,5,10",
        "Bounds of histograms in seconds.",
        "metrics.buckets",
    ),
    nothing("metrics.circonus.apikey", Secret, "", "Key of Circonus.", CIRCONUS),
    nothing("metrics.circonus.apiapp", Text, "fabio", "App of that key.", CIRCONUS),
    nothing("metrics.circonus.apiurl", Text, "", "URL of Circonus.", CIRCONUS),
    nothing("metrics.circonus.brokerid", Text, "", "Broker of Circonus.", CIRCONUS),
    nothing("metrics.circonus.checkid", Text, "", "Check of Circonus.", CIRCONUS),
    nothing("metrics.circonus.submissionurl", Text, "", "URL to send to.", CIRCONUS),
    nothing("runtime.gogc", Int, "100", "Garbage collection of Go.", GO),
    becomes("runtime.gomaxprocs", Int, "-1", "Threads that run at a time; -1: one per core.", "proxy.workers"),
    nothing("profile.mode", Text, "", "Profile of the process: cpu, mem, mutex, block or trace.", PROFILE),
    nothing("profile.path", Text, "/tmp", "Where profiles are written.", PROFILE),
    nothing("bgp.enabled", Bool, "false", "Announces addresses by BGP.", BGP),
    nothing("bgp.asn", Uint, "65000", "Number of our system.", BGP),
    nothing("bgp.anycastaddresses", List, "", "Networks to announce.", BGP),
    nothing("bgp.routerid", Text, "", "Our router id.", BGP),
    nothing("bgp.listenport", Int, "179", "Port for BGP.", BGP),
    nothing("bgp.listenaddresses", List, "0.0.0.0", "Addresses for BGP.", BGP),
    nothing("bgp.peers", Secret, "", "Peers, with their passwords.", BGP),
    nothing("bgp.nexthop", Text, "", "Next hop; the router id.", BGP),
    nothing("bgp.enablegrpc", Bool, "false", "Control of the speaker by gRPC.", BGP),
    nothing("bgp.grpclistenaddress", Text, "127.0.0.1:50051", "Address for that.", BGP),
    nothing("bgp.gobgpdcfgfile", Text, "", "Configuration of gobgpd.", BGP),
];
