//! The sample services.

use std::ops::Range;

use super::sample::Kind;

#[derive(Clone, Debug)]
pub(super) struct SampleService {
    pub(super) name: &'static str,
    pub(super) route: &'static str,
    pub(super) kind: Kind,
    /// Instances at the start.
    pub(super) members: u32,
    /// An instance takes this long for a response.
    pub(super) latency_ms: Range<u64>,
}

impl SampleService {
    pub(super) fn tags(&self) -> Vec<String> {
        vec![
            format!("urlprefix-{0} strip={0}", self.route),
            "demo".to_owned(),
        ]
    }
}

pub(super) const SERVICES: [SampleService; 3] = [
    SampleService {
        name: "shop",
        route: "/shop",
        kind: Kind::Shop,
        members: 3,
        latency_ms: 2..8,
    },
    SampleService {
        name: "api",
        route: "/api",
        kind: Kind::Api,
        members: 4,
        latency_ms: 5..25,
    },
    SampleService {
        name: "time",
        route: "/time",
        kind: Kind::Time,
        members: 2,
        latency_ms: 0..2,
    },
];

/// What is registered of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registration {
    /// Its id, as `shop-1`.
    pub id: String,
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// Whether its check passes. Consul finds out by itself.
    pub passing: bool,
}
