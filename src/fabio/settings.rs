//! All keys with the values in force: flag, then environment, then properties file, then default.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use super::flags::CommandLine;
use super::keys::{self, Key, Kind};
use super::machine::Machine;
use super::properties::Properties;
use super::value;

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// On the command line.
    Flag,
    /// In this variable of the environment.
    Env(String),
    /// In this properties file.
    File(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("command line"),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::File(name) => f.write_str(name),
        }
    }
}

/// Something to say at start: it works, but perhaps not as expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Which key of Fabio, or which feature.
    pub key: String,
    /// Where it was given, if it was.
    pub origin: Option<Origin>,
    /// One sentence without its end.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{} ({origin}): {}", self.key, self.text),
            None => write!(f, "{}: {}", self.key, self.text),
        }
    }
}

/// Every key's value. Values fit their keys' kinds.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    given: BTreeMap<&'static str, (String, Origin)>,
    defaults: BTreeMap<&'static str, String>,
}

impl Settings {
    /// Puts everything together. Values of environment and file that do not fit are passed over
    /// with a warning, as Fabio does without one; on the command line they were refused before.
    #[must_use]
    pub fn gather(
        line: &CommandLine,
        env: &[(String, String)],
        file: Option<(&str, &Properties)>,
        machine: &Machine,
    ) -> (Self, Vec<Warning>) {
        let mut settings = Self {
            defaults: machine.defaults(),
            ..Self::default()
        };
        let mut warnings = Vec::new();
        let env: HashMap<String, (&str, &str)> = env
            .iter()
            .map(|(name, value)| (name.to_ascii_uppercase(), (&**name, &**value)))
            .collect();
        for key in keys::all() {
            let flag = line
                .settings
                .iter()
                .rev()
                .find(|(name, _)| *name == key.name);
            let variable = key.name.replace('.', "_").to_ascii_uppercase();
            let (text, origin) = if let Some((_, text)) = flag {
                (text.as_str(), Origin::Flag)
            } else if let Some((name, text)) = env
                .get(&format!("FABIO_{variable}"))
                .or_else(|| env.get(&variable))
            {
                (*text, Origin::Env((*name).to_owned()))
            } else if let Some((name, text)) =
                file.and_then(|(name, file)| Some((name, file.get(key.name)?)))
            {
                (text, Origin::File(name.to_owned()))
            } else {
                continue;
            };
            match value::check(key.kind, text) {
                Ok(()) => drop(settings.given.insert(key.name, (text.to_owned(), origin))),
                Err(problem) => {
                    let text = format!(
                        "{text:?} {problem}; the default ({}) is used",
                        settings.default_of(key)
                    );
                    warnings.push(Warning {
                        key: key.name.to_owned(),
                        origin: Some(origin),
                        text,
                    });
                }
            }
        }
        if let Some((name, file)) = file {
            warnings.extend(unknown(file).map(|(key, text)| Warning {
                key: key.to_owned(),
                origin: Some(Origin::File(name.to_owned())),
                text,
            }));
        }
        // Unless it is given, the router registers under the address of its admin listener.
        let admin = settings.text("ui.addr");
        let admin = admin.split(';').next().unwrap_or_default().to_owned();
        settings
            .defaults
            .insert("registry.consul.register.addr", admin);
        (settings, warnings)
    }

    /// The value in force.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        match (self.given.get(name), keys::find(name)) {
            (Some((text, _)), _) => text,
            (None, Some(key)) => self.default_of(key),
            (None, None) => "",
        }
    }

    /// The default on this machine.
    #[must_use]
    pub fn default_of(&self, key: &Key) -> &str {
        self.defaults
            .get(key.name)
            .map_or(key.default, String::as_str)
    }

    /// Where the value was given; none: it is the default.
    #[must_use]
    pub fn origin(&self, name: &str) -> Option<&Origin> {
        self.given.get(name).map(|(_, origin)| origin)
    }

    /// Whether the value in force is another than the default. Spelling makes no difference: `0`
    /// and `0s` are one.
    #[must_use]
    pub fn differs(&self, key: &Key) -> bool {
        let (text, default) = (self.text(key.name), self.default_of(key));
        match key.kind {
            Kind::Bool => value::boolean(text) != value::boolean(default),
            Kind::Int | Kind::Uint => value::integer(text) != value::integer(default),
            Kind::Span => value::span(text) != value::span(default),
            Kind::List | Kind::Numbers => !value::list(text).eq(value::list(default)),
            Kind::Text | Kind::Secret => text != default,
        }
    }

    /// A value of kind [`Kind::Bool`].
    #[must_use]
    pub fn is_on(&self, name: &str) -> bool {
        value::boolean(self.text(name)).unwrap_or_default()
    }

    /// A value of kind [`Kind::Int`] or [`Kind::Uint`].
    #[must_use]
    pub fn number(&self, name: &str) -> i64 {
        value::integer(self.text(name)).unwrap_or_default()
    }

    /// A value of kind [`Kind::Span`]; negative ones, which Fabio takes for none, are zero.
    #[must_use]
    pub fn time(&self, name: &str) -> Duration {
        value::duration(self.text(name)).unwrap_or_default()
    }

    /// A value of kind [`Kind::List`].
    #[must_use]
    pub fn list(&self, name: &str) -> Vec<String> {
        value::list(self.text(name)).map(str::to_owned).collect()
    }

    /// Keys that were given, with where.
    pub fn given(&self) -> impl Iterator<Item = (&'static Key, &Origin)> {
        keys::all().filter_map(|key| Some((key, self.origin(key.name)?)))
    }
}

/// Keys of the file that Fabio passes over in silence, each once; those of its old versions stay
/// unmentioned.
fn unknown(file: &Properties) -> impl Iterator<Item = (&str, String)> {
    let mut names: Vec<&str> = file
        .keys()
        .filter(|name| keys::find(name).is_none() && !keys::is_of_old(name))
        .collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| {
        let twin = keys::all().find(|key| key.name.eq_ignore_ascii_case(name));
        let advice = twin
            .map(|key| format!("; {} is one", key.name))
            .unwrap_or_default();
        (
            name,
            format!("is not a key of Fabio, and has no effect there either{advice}"),
        )
    })
}

/// A properties file with every key at its default on `machine`.
#[must_use]
pub fn defaults_file(machine: &Machine) -> String {
    let (settings, _) = Settings::gather(&CommandLine::default(), &[], None, machine);
    keys::all()
        .map(|key| {
            format!(
                "# {}\n{}\n",
                key.doc,
                super::properties::entry(key.name, settings.default_of(key))
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(args: &[&str], env: &[(&str, &str)], file: &str) -> (Settings, Vec<String>) {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let env: Vec<_> = env
            .iter()
            .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
            .collect();
        let file = Properties::parse(file, |_| None).unwrap();
        let line = super::super::flags::parse(&args).unwrap();
        let (settings, warnings) =
            Settings::gather(&line, &env, Some(("f", &file)), &Machine::bare());
        (settings, warnings.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn flag_then_environment_then_file_then_default() {
        let env = [
            ("FABIO_PROXY_MATCHER", "iprefix"),
            ("proxy_matcher", "glob"),
            ("PROXY_STRATEGY", "rr"),
        ];
        let file = "proxy.matcher = x\nproxy.strategy = x\nproxy.maxconn = 7\nproxy.addr = :1";
        let (settings, warnings) = gather(&["-proxy.addr", ":2", "-proxy.addr", ":3"], &env, file);
        let texts = [
            "proxy.addr",
            "proxy.matcher",
            "proxy.strategy",
            "proxy.noroutestatus",
        ]
        .map(|key| settings.text(key));
        assert_eq!((texts, warnings), ([":3", "iprefix", "rr", "404"], vec![]));
        assert_eq!(settings.number("proxy.maxconn"), 7);
        let origins = [
            "proxy.addr",
            "proxy.matcher",
            "proxy.maxconn",
            "proxy.noroutestatus",
        ]
        .map(|key| settings.origin(key).map(ToString::to_string));
        let expected = [
            Some("command line"),
            Some("environment FABIO_PROXY_MATCHER"),
            Some("f"),
            None,
        ];
        assert_eq!(origins, expected.map(|text| text.map(str::to_owned)));
    }

    #[test]
    fn what_does_not_fit_is_passed_over_but_not_in_silence() {
        let (settings, warnings) = gather(
            &[],
            &[("FABIO_PROXY_MAXCONN", "many")],
            "proxy.maxconn = 7\nnothing = 1\ntracing.Topic = x\nregistry.consul.pollInterval = 0",
        );
        assert_eq!(settings.number("proxy.maxconn"), 10_000);
        let expected = [
            "proxy.maxconn (environment FABIO_PROXY_MAXCONN): \"many\" is not a whole number; the default (10000) is used",
            "nothing (f): is not a key of Fabio, and has no effect there either",
            "registry.consul.pollInterval (f): is not a key of Fabio, and has no effect there either; registry.consul.pollinterval is one",
        ];
        assert_eq!(warnings, expected);
    }

    #[test]
    fn the_defaults_are_a_file() {
        let file = defaults_file(&Machine::bare());
        let (settings, warnings) = gather(&[], &[], &file);
        assert_eq!(
            (settings.given().count(), warnings),
            (keys::all().count(), vec![])
        );
        assert!(keys::all().all(|key| !settings.differs(key)));
    }

    #[test]
    fn the_registration_follows_the_admin_listener() {
        let (settings, _) = gather(&["-ui.addr", "1.2.3.4:5;cs=x"], &[], "");
        assert_eq!(settings.text("registry.consul.register.addr"), "1.2.3.4:5");
    }
}
