//! The table of configuration keys: what `section!` makes of every declaration, put together.
//!
//! From it come the check for unknown keys, the environment names, the flags, the commented
//! `config/lb.toml` and the man page. A section that is not here does not exist.

use super::declare::Declared;
use super::schema::Schema;

pub use super::key::{Key, Kind, Moved, Section, Shape, env_name};

/// What a configuration file of lb may hold.
pub(crate) const SCHEMA: Schema = Schema {
    sections: SECTIONS,
    moved: MOVED,
    takes_misplaced: true,
    shown_in: "config/lb.toml",
};

/// All keys that have moved. Each means the same under its old name as under its new one.
pub const MOVED: &[Moved] = &[Moved {
    from: "consul",
    to: "routing",
    keys: &[
        "tag_prefix",
        "accept_status",
        "checks_required",
        "require_check",
        "node_checks",
        "weights",
        "check_grace",
        "critical_hold",
    ],
}];

/// Keys, and sections of repetitions, that turn a source on. Where one of them, or of
/// [`EMPTY_SWITCHES`], is set, Consul is used only if `[consul]` is there too.
pub const SOURCE_SWITCHES: &[&str] = &["routes_file", "routes", "routes_http.url", "static.route"];

/// Sections that turn a source on although they may be empty.
pub const EMPTY_SWITCHES: &[&str] = &["nomad"];

/// Every section, in the order of `config/lb.toml`.
pub const SECTIONS: &[Section] = &[
    super::Config::SECTION,
    super::RoutesHttpConfig::SECTION,
    super::ConsulConfig::SECTION,
    super::RegisterConfig::SECTION,
    super::NomadConfig::SECTION,
    super::ListenerConfig::SECTION,
    super::CertificateConfig::SECTION,
    super::AuthConfig::SECTION,
    super::PolicyConfig::SECTION,
    super::VaultConfig::SECTION,
    super::StaticRouteConfig::SECTION,
    super::RoutingConfig::SECTION,
    super::TagsConfig::SECTION,
    super::ProxyConfig::SECTION,
    super::CompressionConfig::SECTION,
    super::RetryConfig::SECTION,
    super::HealthSettings::SECTION,
    super::DnsConfig::SECTION,
    super::AdminConfig::SECTION,
    super::MetricsConfig::SECTION,
    super::DrainConfig::SECTION,
    super::FleetConfig::SECTION,
    super::LogConfig::SECTION,
];

/// The section of that name.
#[must_use]
pub fn section(name: &str) -> Option<&'static Section> {
    SCHEMA.section(name)
}

impl Section {
    /// The key of that name, or the one that has moved from here to another section.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        SCHEMA.key(self, name)
    }

    /// The keys that have moved from here to another section; they are still taken here.
    pub fn moved(&self) -> impl Iterator<Item = &'static Key> {
        SCHEMA.moved(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_key_is_documented_and_its_environment_name_is_its_own() {
        let mut names = BTreeSet::new();
        for section in SECTIONS {
            for key in section.keys {
                let path = section.path(key);
                assert!(
                    key.doc.ends_with('.') || key.doc.ends_with(')'),
                    "{path}: {}",
                    key.doc
                );
                assert!(key.default.is_some() || !key.example.is_empty(), "{path}");
                assert!(
                    names.insert(env_name(&path)),
                    "{path} shares its environment name"
                );
            }
        }
    }

    #[test]
    fn fields_of_the_access_log_are_listed() {
        let doc = section("log")
            .and_then(|log| log.key("access"))
            .unwrap()
            .doc;
        let listed: BTreeSet<&str> = doc.split(['$', ',', ' ']).collect();
        let missing: Vec<_> = super::super::ACCESS_FIELDS
            .iter()
            .filter(|(name, _)| !listed.contains(name))
            .collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn environment_names_follow_the_path() {
        assert_eq!(env_name("consul.ca_file"), "LB_CONSUL_CA_FILE");
        assert_eq!(env_name("routes_file"), "LB_ROUTES_FILE");
    }
}
