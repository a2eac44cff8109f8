//! `lb fabio`: started with Fabio's flags, environment and properties file, `lb` serves as Fabio
//! did.
//!
//! ```text
//! flags ─┐
//! env ───┼─► Settings (every key of the table) ─► translate ─► TOML ─► config::load ─► what `lb run` runs
//! file ──┘                                            └─► warnings: what is not carried out
//! ```
//! The detour by text is on purpose: `--print-config` shows exactly what runs.

pub(crate) mod compound;
pub(crate) mod document;
pub(crate) mod fetch;
pub mod flags;
pub mod keys;
pub(crate) mod machine;
pub(crate) mod metrics;
pub mod properties;
pub mod settings;
pub mod shadow;
pub(crate) mod translate;
pub(crate) mod value;

use std::path::PathBuf;

use crate::config::{self, Inputs, Loaded};
use flags::{CommandLine, FlagError};
pub use machine::{Machine, is_global_unicast, outward};
use properties::Properties;
use settings::{Settings, Warning};
use translate::Translation;

/// What a command line wants.
#[derive(Clone, Debug)]
pub enum Request {
    /// The version, and nothing else.
    Version,
    /// The usage text, and nothing else.
    Help,
    /// The translation, and nothing else.
    PrintConfig(Source),
    /// To compare the table of these settings with that of the Fabio at this address.
    Shadow(Source, String),
    /// To serve.
    Serve(Source),
}

/// Where the settings come from; they can be read again.
#[derive(Clone, Debug)]
pub struct Source {
    line: CommandLine,
    env: Vec<(String, String)>,
    machine: Machine,
}

/// Why there is no configuration. All of these end with exit code 1, as in Fabio.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The properties file cannot be had.
    #[error(transparent)]
    Fetch(#[from] fetch::FetchError),
    /// The properties file is none.
    #[error("-cfg {0}: {1}")]
    Properties(String, properties::PropertiesError),
    /// Settings that make no sense.
    #[error("{}", lines(.0))]
    Refused(Vec<Warning>),
    /// The translation is not a configuration of `lb`.
    #[error("these settings make no configuration of lb:\n{0}")]
    Config(config::ConfigErrors),
}

fn lines(warnings: &[Warning]) -> String {
    warnings
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Reads the command line (the words behind the program's name). Touches nothing else.
///
/// # Errors
/// What Fabio refuses too; [`FlagError`] says which exit code it has.
pub fn request(
    args: &[String],
    env: Vec<(String, String)>,
    machine: Machine,
) -> Result<Request, FlagError> {
    let line = flags::parse(args)?;
    if line.version {
        return Ok(Request::Version);
    }
    if line.help {
        return Ok(Request::Help);
    }
    let (print_config, shadow) = (line.print_config, line.shadow.clone());
    let source = Source { line, env, machine };
    Ok(match (print_config, shadow) {
        (true, _) => Request::PrintConfig(source),
        (false, Some(url)) => Request::Shadow(source, url),
        (false, None) => Request::Serve(source),
    })
}

impl Source {
    /// Files that are part of the settings.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let file = self
            .line
            .file
            .as_ref()
            .filter(|location| !fetch::is_url(location));
        file.map(|path| self.machine.folder.join(path))
            .into_iter()
            .collect()
    }

    /// The configuration as TOML, to be kept. Reads the properties file, and blocks meanwhile.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn translate(&self) -> Result<Translation, SourceError> {
        let (settings, mut translation) = self.translated()?;
        let wins = |name: &str| name.starts_with("CONSUL_") && !passes(name, &settings);
        for (name, _) in self
            .env
            .iter()
            .filter(|(name, value)| wins(name) && !value.is_empty())
        {
            let text =
                "is set here; Fabio does not use it, but under `lb run` it may win over the file"
                    .to_owned();
            translation.warnings.push(Warning {
                key: name.clone(),
                origin: None,
                text,
            });
        }
        Ok(translation)
    }

    /// The configuration that the translation is, and the warnings. Variables of `lb`
    /// (`LB_…`) win over it.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn load(&self, terminal: bool) -> Result<(Loaded, Vec<Warning>), SourceError> {
        let (settings, translation) = self.translated()?;
        let file = Some((self.machine.folder.join("fabio.toml"), translation.toml));
        let env = self
            .env
            .iter()
            .filter(|(name, _)| passes(name, &settings))
            .cloned()
            .collect();
        let loaded = config::load(&Inputs {
            file,
            env,
            flags: Vec::new(),
            terminal,
        })
        .map_err(SourceError::Config)?;
        Ok((loaded, translation.warnings))
    }

    fn translated(&self) -> Result<(Settings, Translation), SourceError> {
        let file = match &self.line.file {
            Some(location) => {
                let text = fetch::text(location)?;
                let lookup = |name: &str| {
                    self.env
                        .iter()
                        .find(|(known, _)| known == name)
                        .map(|(_, value)| value.clone())
                };
                let parsed = Properties::parse(&text, lookup);
                Some((
                    location,
                    parsed.map_err(|error| SourceError::Properties(location.clone(), error))?,
                ))
            }
            None => None,
        };
        let file = file
            .as_ref()
            .map(|(location, file)| (location.as_str(), file));
        let (settings, mut warnings) = Settings::gather(&self.line, &self.env, file, &self.machine);
        let mut translation =
            translate::translate(&settings, &self.machine).map_err(SourceError::Refused)?;
        warnings.append(&mut translation.warnings);
        Ok((
            settings,
            Translation {
                warnings,
                ..translation
            },
        ))
    }
}

/// Whether a variable of the environment reaches our configuration. Fabio's library for Consul
/// fills from `CONSUL_*` what no key gives, and nothing else; under `lb run` those variables would
/// win.
fn passes(name: &str, settings: &Settings) -> bool {
    let unset = |key: &str| settings.text(key).is_empty();
    match name {
        "CONSUL_HTTP_ADDR" | "CONSUL_HTTP_SSL" => {
            with_consul(settings) && unset("registry.consul.addr")
        }
        "CONSUL_HTTP_TOKEN" | "CONSUL_HTTP_TOKEN_FILE" => {
            with_consul(settings) && unset("registry.consul.token")
        }
        "CONSUL_NAMESPACE" => with_consul(settings) && unset("registry.consul.namespace"),
        "CONSUL_CACERT" => with_consul(settings) && unset("registry.consul.tls.cafile"),
        "CONSUL_CAPATH" => with_consul(settings) && unset("registry.consul.tls.capath"),
        "CONSUL_CLIENT_CERT" => with_consul(settings) && unset("registry.consul.tls.certfile"),
        "CONSUL_CLIENT_KEY" => with_consul(settings) && unset("registry.consul.tls.keyfile"),
        "CONSUL_TLS_SERVER_NAME" | "CONSUL_PARTITION" | "CONSUL_HTTP_AUTH" => with_consul(settings),
        "CONSUL_HTTP_SSL_VERIFY" => {
            with_consul(settings) && !settings.is_on("registry.consul.tls.insecureskipverify")
        }
        // Fabio's library for Vault reads all of them.
        name => name.starts_with("LB_") || name.starts_with("VAULT_"),
    }
}

fn with_consul(settings: &Settings) -> bool {
    settings.text("registry.backend") == "consul"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(args: &[&str], env: &[(&str, &str)]) -> Source {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        match request(&args, env, Machine::bare()) {
            Ok(Request::Serve(source) | Request::PrintConfig(source)) => source,
            other => panic!("{args:?}: {other:?}"),
        }
    }

    const CONSUL: [(&str, &str); 4] = [
        ("CONSUL_HTTP_ADDR", "10.0.0.9:1"),
        ("CONSUL_HTTP_TOKEN", "from-consul"),
        ("LB_PROXY_STRATEGY", "p2c"),
        ("LB_SERVICE_HOST", "x"),
    ];

    #[test]
    fn consuls_variables_fill_what_no_key_gives() {
        let consul = |args: &[&str]| source(args, &CONSUL).load(false).unwrap().0.config.consul;
        let found = consul(&[]).unwrap();
        assert_eq!(
            (
                found.addresses,
                found.token.as_ref().map(|token| token.reveal())
            ),
            (
                vec!["http://localhost:8500".into()].into(),
                Some("from-consul")
            )
        );
        let found = consul(&["-registry.consul.addr=", "-registry.consul.token", "own"]).unwrap();
        assert_eq!(
            (
                found.addresses,
                found.token.as_ref().map(|token| token.reveal())
            ),
            (vec!["http://10.0.0.9:1".into()].into(), Some("own"))
        );
        assert_eq!(
            consul(&["-registry.backend=file", "-registry.file.path=r"]),
            None
        );
    }

    #[test]
    fn our_own_variables_win() {
        let loaded = source(&["-proxy.strategy", "rr"], &CONSUL)
            .load(false)
            .unwrap()
            .0;
        assert_eq!(loaded.config.proxy.strategy, "p2c".parse().unwrap());
    }

    #[test]
    fn a_variable_that_wins_over_the_printed_file_is_reported() {
        let warnings = |args: &[&str]| {
            let warnings = source(args, &CONSUL).translate().unwrap().warnings;
            warnings
                .iter()
                .filter(|warning| warning.key.starts_with("CONSUL_"))
                .count()
        };
        assert_eq!(
            (warnings(&[]), warnings(&["-registry.consul.addr="])),
            (1, 0)
        );
    }

    #[test]
    fn the_file_is_part_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "proxy.noroutestatus = ${STATUS}\nx = \\u12").unwrap();
        let path = path.to_str().unwrap();
        let error = source(&["-cfg", path], &[])
            .translate()
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(&format!("-cfg {path}: line 2: ")),
            "{error}"
        );
        std::fs::write(path, "proxy.noroutestatus = ${STATUS}").unwrap();
        let source = source(&["-cfg", path], &[("STATUS", "418")]);
        assert_eq!(
            source.load(false).unwrap().0.config.proxy.no_route_status,
            418
        );
        assert_eq!(source.files(), [PathBuf::from(path)]);
    }
}
