//! Defaults of the configuration's parts, read from their declarations so that there is one place
//! for them.

use super::build;
use super::error::Findings;
use super::raw::Settings;
use super::reader::ReadContext;
use super::*;

impl Default for Config {
    /// What `lb run` uses without file, flags and environment (and without a terminal).
    fn default() -> Self {
        build::build(
            &Settings::default(),
            ReadContext::default(),
            &mut Findings::default(),
        )
    }
}

/// Sections as they are when nothing of them is written.
macro_rules! defaults {
    ($($section:ty),+ $(,)?) => {
        $(impl Default for $section {
            fn default() -> Self {
                sections::defaults()
            }
        })+
    };
}

defaults!(
    AdminConfig,
    CertificateConfig,
    CompressionConfig,
    ConsulConfig,
    DnsConfig,
    DrainConfig,
    FleetConfig,
    HealthSettings,
    ListenerConfig,
    LogConfig,
    MetricsConfig,
    ProxyConfig,
    RegisterConfig,
    RetryConfig,
    RoutingConfig,
    TagsConfig,
    VaultConfig,
);
