//! From [`Settings`] to [`Config`]: every section read, and the checks that need more than one.

use super::declare::Declared;
use super::keys::SOURCE_SWITCHES;
use super::mistake::{Findings, Place};
use super::raw::{Group, Settings};
use super::reader::{ReadContext, Reader};
use super::*;

/// Reads sections, and notes what is wrong with them.
pub(super) struct Sections<'a> {
    pub(super) settings: &'a Settings,
    pub(super) context: ReadContext,
    pub(super) findings: &'a mut Findings,
}

impl Sections<'_> {
    /// A section that stands once.
    fn once<S: Declared>(&mut self) -> S {
        self.with::<S, _>(S::read)
    }

    /// What `read` makes of a section that stands once.
    fn with<S: Declared, T>(&mut self, read: impl FnOnce(&mut Reader<'_>) -> T) -> T {
        let name = S::SECTION.name;
        let absent = Group::new(Place::Absent);
        let group = self.settings.once.get(name).unwrap_or(&absent);
        read(&mut self.reader::<S>(name.to_owned(), group))
    }

    /// Every repetition of a `[[section]]`, by what `finish` makes of it.
    pub(super) fn each<S: Declared, T>(
        &mut self,
        mut finish: impl FnMut(S, &mut Reader<'_>) -> Option<T>,
    ) -> Vec<T> {
        let name = S::SECTION.name;
        let groups = self.settings.lists.get(name).into_iter().flatten();
        let numbered = groups.enumerate();
        numbered
            .filter_map(|(at, group)| {
                let mut reader = self.reader::<S>(format!("{name}.{at}"), group);
                finish(S::read(&mut reader), &mut reader)
            })
            .collect()
    }

    /// Every repetition of a `[section.NAME]`.
    fn named<S: Declared>(&mut self) -> BTreeMap<String, S> {
        let section = S::SECTION.name;
        let groups = self.settings.named.get(section).into_iter().flatten();
        groups
            .map(|(name, group)| {
                let mut reader = self.reader::<S>(format!("{section}.{name}"), group);
                (name.clone(), S::read(&mut reader))
            })
            .collect()
    }

    fn reader<'a, S: Declared>(&'a mut self, path: String, group: &'a Group) -> Reader<'a> {
        Reader::new(&S::SECTION, path, group, self.context, self.findings)
    }
}

/// Builds the configuration; what is wrong or odd goes to `findings`.
pub(crate) fn build(settings: &Settings, context: ReadContext, findings: &mut Findings) -> Config {
    let given = |section| settings.present.contains(section) || settings.once.contains_key(section);
    let has_other_source = SOURCE_SWITCHES.iter().any(|path| settings.has(path));
    let has_consul =
        given("consul") || given("consul.register") || context.consul.any || !has_other_source;
    let context = ReadContext {
        has_consul,
        ..context
    };
    // What `VAULT_*` say concerns only those who use it here.
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
    let mut config = Config {
        routes_http: settings.has("routes_http.url").then_some(routes_http),
        certificates: sections.named(),
        vault,
        routing: sections.once(),
        dns: sections.once(),
        auth: sections.named(),
        proxy: sections.once(),
        compression: sections.once(),
        health: sections.once(),
        admin: sections.once(),
        metrics: sections.once(),
        drain: sections.once(),
        log: sections.once(),
        ..sections.once()
    };
    config.proxy.retry = sections.once();
    let uses_vault = |it: &CertificateConfig| it.source.uses_vault();
    if settings.present.contains("vault") || config.certificates.values().any(uses_vault) {
        sections.findings.mistakes.append(&mut of_vault.mistakes);
    }
    if has_consul {
        let register = sections.once();
        config.consul = Some(ConsulConfig {
            register,
            ..sections.once()
        });
    }
    sections.with::<AdminConfig, _>(|reader| admin::check(reader, &config, &config.certificates));
    config.static_routes = static_route::routes(&mut sections);
    config.listeners = listener::listeners(&mut sections, &config);
    config
}

/// A section of which nothing is written.
pub(super) fn defaults<S: Declared>() -> S {
    let mut sections = Sections {
        settings: &Settings::default(),
        context: ReadContext::default(),
        findings: &mut Findings::default(),
    };
    sections.once()
}

/// The number of keys there are: what tests of completeness compare with.
#[cfg(test)]
pub(crate) fn key_count() -> usize {
    super::keys::SECTIONS
        .iter()
        .map(|section| section.keys.len())
        .sum()
}
