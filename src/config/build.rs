//! From [`Settings`] to [`Config`]: every section read, and the checks that need more than one.

use super::error::Findings;
use super::keys::{EMPTY_SWITCHES, SOURCE_SWITCHES};
use super::raw::Settings;
use super::reader::ReadContext;
use super::sections::Sections;
use super::*;

/// Builds the configuration; what is wrong or odd goes to `findings`.
pub(crate) fn build(settings: &Settings, context: ReadContext, findings: &mut Findings) -> Config {
    let given = |section| settings.present.contains(section) || settings.once.contains_key(section);
    let has_other_source = SOURCE_SWITCHES.iter().any(|path| settings.has(path))
        || EMPTY_SWITCHES.iter().copied().any(given);
    let has_consul =
        given("consul") || given("consul.register") || context.consul.any || !has_other_source;
    let context = ReadContext {
        has_consul,
        ..context
    };
    // Mistakes in `VAULT_*` count only where Vault is used.
    let mut of_vault = Findings::default();
    let vault = Sections {
        settings,
        context,
        findings: &mut of_vault,
    }
    .once();
    let mut sections = Sections {
        settings,
        context,
        findings,
    };
    let routes_http = sections.once();
    let certificates: BTreeMap<String, CertificateConfig> = sections.named();
    if settings.present.contains("vault") || certificates.values().any(|it| it.source.uses_vault())
    {
        sections.findings.mistakes.append(&mut of_vault.mistakes);
    }
    let top = sections.once();
    let mut config = Config {
        routes_http: settings.has("routes_http.url").then_some(routes_http),
        certificates,
        vault,
        routing: sections.once(),
        tags: sections.once(),
        dns: sections.once(),
        auth: sections.named(),
        policies: sections.named(),
        proxy: ProxyConfig {
            retry: sections.once(),
            ..sections.once()
        },
        compression: sections.once(),
        health: sections.once(),
        admin: sections.once(),
        metrics: sections.once(),
        drain: sections.once(),
        fleet: sections.once(),
        log: sections.once(),
        ..top
    };
    if has_consul {
        let register = sections.once();
        config.consul = Some(ConsulConfig {
            register,
            ..sections.once()
        });
    }
    let register = config.register();
    let registers = register.map(|register| (register.enabled, &*register.name));
    sections.with::<FleetConfig, _>(|reader| fleet::check(&config.fleet, registers, reader));
    if given("nomad") {
        config.nomad = Some(sections.once());
    }
    let has_store = config
        .consul
        .as_ref()
        .is_some_and(|it| it.kv_path.is_some());
    sections.with::<AdminConfig, _>(|reader| {
        admin::check(reader, &config.admin, &config.certificates, has_store);
    });
    sections.with::<MetricsConfig, _>(|reader| {
        metrics::check(reader, &config.metrics, &config.admin, &config.certificates);
    });
    policy::check_auth(&mut sections, &config.policies, &config.auth);
    config.static_routes = static_route::routes(&mut sections);
    config.listeners = listener::listeners(
        &mut sections,
        &config.certificates,
        &config.admin,
        &config.metrics,
    );
    config
}

/// The number of keys there are: what tests of completeness compare with.
#[cfg(test)]
pub(crate) fn key_count() -> usize {
    super::keys::SECTIONS
        .iter()
        .map(|section| section.keys.len())
        .sum()
}
