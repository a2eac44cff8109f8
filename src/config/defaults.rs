//! Defaults of the configuration's parts, read from the table of keys so that there is one place
//! for them.

use super::build::{self, Surroundings};
use super::raw::Settings;
use super::*;

impl Default for Config {
    /// What `lb run` uses without file, flags and environment (and without a terminal).
    fn default() -> Self {
        build::build(
            &Settings::default(),
            Surroundings::default(),
            &mut Vec::new(),
            &mut Vec::new(),
        )
    }
}

impl Default for ConsulConfig {
    fn default() -> Self {
        Config::default()
            .consul
            .expect("without static sources there is a Consul section")
    }
}

impl Default for RegisterConfig {
    fn default() -> Self {
        ConsulConfig::default().register
    }
}

impl Default for RoutingConfig {
    fn default() -> Self {
        Config::default().routing
    }
}

impl Default for ProxyConfig {
    fn default() -> Self {
        build::proxy_and_retry(&Settings::default(), &mut Vec::new(), &mut Vec::new())
    }
}

impl Default for CompressionConfig {
    fn default() -> Self {
        Config::default().compression
    }
}

impl Default for DnsConfig {
    fn default() -> Self {
        Config::default().dns
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        Config::default().admin
    }
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Config::default().metrics
    }
}

impl Default for DrainConfig {
    fn default() -> Self {
        Config::default().drain
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Config::default().log
    }
}

impl Default for ListenerConfig {
    fn default() -> Self {
        Config::default()
            .listeners
            .into_iter()
            .next()
            .expect("there is always a listener")
    }
}
