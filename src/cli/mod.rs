//! The command line: subcommands and flags, nothing else.
//!
//! Flags for configuration keys are made from the table of keys, so that help, completions and the
//! manual page know each of them.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{
    Arg, ArgAction, ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser, Subcommand,
    ValueEnum,
};

use crate::config::keys::{Kind, SECTIONS, Section, Shape};

mod bootstrap;

pub use bootstrap::{
    AclAction, AclArgs, BackupArgs, BootstrapAction, BootstrapArgs, ClusterArgs, DownArgs, Only,
    RebootArgs, RemoveNodeArgs, ReplaceNodeArgs, RestoreArgs, RotateCertsArgs, UpArgs, UpgradeArgs,
};

/// A dynamic load balancer fed by the Consul catalog.
#[derive(Debug, Parser)]
#[command(
    name = "lb",
    version,
    arg_required_else_help = true,
    subcommand_required = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Action,
    /// Print results as JSON (check, routes, explain, services, events, version; of bootstrap:
    /// plan, status, doctor, env).
    #[arg(long, global = true)]
    pub json: bool,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Run the router in the foreground.
    ///
    /// Without a file: defaults and the CONSUL_* environment. Every configuration key is a flag.
    Run(ConfigArgs),
    /// Show it all at work on this machine, with nothing to install.
    ///
    /// Starts three small services with several instances each and the router in front; instances
    /// come, go and turn sick by themselves. Ctrl-C ends all of it.
    Demo(DemoArgs),
    /// Find every mistake at once: configuration, certificates, tags in Nomad job files.
    ///
    /// Exit code 2 with any error, 0 with warnings alone (2 with --strict).
    Check(CheckArgs),
    /// Print the live routing table.
    Routes(RoutesArgs),
    /// Tell which route and which targets a request would meet, and why.
    Explain(ExplainArgs),
    /// Print the services: instances with their state, why they are out, rejected tags, and how
    /// fresh the knowledge is.
    Services(ServicesArgs),
    /// Print what happened: instances that came, left or changed their state, and why; sources,
    /// reloads, certificates.
    ///
    /// The running lb keeps the last 1,000 events.
    Events(EventsArgs),
    /// Serve as Fabio did: with its flags, its environment and its properties file.
    ///
    /// Takes what stands behind a `fabio` on the command line today, like `-proxy.addr :9999 -cfg
    /// fabio.properties`, and the FABIO_* variables. `lb fabio -print-config` prints what that is
    /// in lb's own configuration, for `lb run`; `lb fabio -help` lists the flags. A binary that is
    /// called `fabio` does the same without the word.
    #[command(disable_help_flag = true)]
    Fabio(FabioArgs),
    /// Bring up a Consul and Nomad cluster with mTLS everywhere, and look after it.
    ///
    /// Without a word: up. It can be run again at any time, and goes on where an earlier run ended.
    Bootstrap(BootstrapArgs),
    /// Serve as one instance of a small service, to try things on.
    ///
    /// It responds to every path with what it is, to /health with 200, and ends as a good instance
    /// does: no new connections, running requests finished. Nothing is registered anywhere.
    Sample(SampleArgs),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man,
    /// Print the version.
    Version,
}

/// Where the configuration comes from.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigArgs {
    /// Configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Any key, also of named sections: --set certificates.main.cert_file=site.pem
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
    /// Flags of keys, as dotted path and value, `set` included.
    #[arg(skip)]
    pub settings: Vec<(String, String)>,
}

/// Arguments of `demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Use the consul found on PATH: a TLS-only agent with throw-away certificates.
    #[arg(long)]
    pub consul: bool,
}

/// Arguments of `check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Also dial Consul step by step: resolve, connect, TLS, token, first read.
    #[arg(long)]
    pub live: bool,
    /// Warnings are errors.
    #[arg(long)]
    pub strict: bool,
    /// Nomad job files, and files of route commands.
    #[arg(value_name = "JOB")]
    pub jobs: Vec<PathBuf>,
}

/// Form of `routes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RoutesFormat {
    /// For people.
    #[default]
    Table,
    /// As `/api/routes`.
    Json,
    /// Fabio's route language.
    Fabio,
}

/// How to reach the admin listener of a running lb.
#[derive(Clone, Debug, Args)]
pub struct AdminArgs {
    /// The admin listener of the lb.
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:9998",
        env = "LB_ADMIN_URL"
    )]
    pub admin: String,
    /// CAs to trust there, with https. Without it: the system's.
    #[arg(long, value_name = "FILE")]
    pub admin_ca: Option<PathBuf>,
    /// Certificate to show there.
    #[arg(long, value_name = "FILE")]
    pub admin_cert: Option<PathBuf>,
    /// Its key. Without it: in the same file.
    #[arg(long, value_name = "FILE", requires = "admin_cert")]
    pub admin_key: Option<PathBuf>,
}

/// Arguments of `routes`.
#[derive(Clone, Debug, Args)]
pub struct RoutesArgs {
    /// Which lb.
    #[command(flatten)]
    pub lb: AdminArgs,
    /// Form of the output.
    #[arg(long, value_enum, default_value_t)]
    pub format: RoutesFormat,
}

/// Arguments of `explain`.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// URL as a client would write it.
    pub url: String,
    /// Request method.
    #[arg(long, value_name = "M", default_value = "GET")]
    pub method: String,
    /// Request header; may be repeated.
    #[arg(long, value_name = "K: V")]
    pub header: Vec<String>,
    /// Address that the request comes from, for allow=, deny= and hash:ip [default: that of this
    /// command, as the running lb sees it].
    #[arg(long, value_name = "IP")]
    pub from: Option<std::net::IpAddr>,
    /// Which lb.
    #[command(flatten)]
    pub lb: AdminArgs,
}

/// Arguments of `services`.
#[derive(Clone, Debug, Args)]
pub struct ServicesArgs {
    /// Which lb.
    #[command(flatten)]
    pub lb: AdminArgs,
}

/// Arguments of `events`.
#[derive(Clone, Debug, Args)]
pub struct EventsArgs {
    /// Only later ones: number of an event, RFC 3339 time, Unix time, or an age like 15m.
    #[arg(long, value_name = "SINCE")]
    pub since: Option<String>,
    /// Which lb.
    #[command(flatten)]
    pub lb: AdminArgs,
}

/// Arguments of `fabio`: the words as they are.
#[derive(Clone, Debug, Args)]
pub struct FabioArgs {
    /// Fabio's flags.
    #[arg(
        value_name = "FABIO FLAGS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub words: Vec<OsString>,
}

/// Arguments of `sample`.
#[derive(Clone, Debug, Args)]
pub struct SampleArgs {
    /// Where to listen [default: what Nomad gave to the port `http`].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<std::net::SocketAddr>,
    /// Name of the service.
    #[arg(long, default_value = "sample")]
    pub name: String,
    /// Name of the node.
    #[arg(long)]
    pub node: Option<String>,
    /// The version that it claims to be.
    #[arg(long, value_name = "TEXT", default_value = "v1")]
    pub version_text: String,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, like --set consul.wait=30s".to_owned()),
    }
}

/// Sections whose keys have no flag of their own: their names are the user's.
fn is_repeated(section: &Section) -> bool {
    matches!(section.shape, Shape::List | Shape::Named)
}

/// The whole command, with a flag for every key.
#[must_use]
pub fn command() -> Command {
    Cli::command()
        .mut_subcommand("run", with_keys)
        .mut_subcommand("check", with_keys)
}

fn with_keys(mut command: Command) -> Command {
    for section in SECTIONS {
        if is_repeated(section) {
            let value = if section.name == "static.route" {
                "ROUTE"
            } else {
                "NAME_OR_ADDR;KEY=VALUE;…"
            };
            let arg = Arg::new(section.name)
                .long(section.name)
                .value_name(value)
                .action(ArgAction::Append);
            command = command.arg(
                arg.help(section.doc)
                    .help_heading("Listeners, certificates, static routes"),
            );
            continue;
        }
        let old_names = section.moved().map(|key| (key, true));
        let keys = section.keys.iter().map(|key| (key, false));
        for (key, is_old_name) in keys.chain(old_names) {
            let path = section.path(key);
            let mut arg = Arg::new(path.clone())
                .long(path)
                .value_name(key.kind.placeholder())
                .action(ArgAction::Set);
            if section.name.is_empty() && key.name.contains('_') {
                // As flags are usually written.
                arg = arg.visible_alias(key.name.replace('_', "-"));
            }
            if key.kind == Kind::Bool {
                arg = arg.num_args(0..=1).default_missing_value("true");
            }
            let default = key
                .default
                .filter(|text| !text.is_empty())
                .map(|text| format!(" [default: {text}]"));
            let heading = if section.name.is_empty() {
                "Top of the file".to_owned()
            } else {
                format!("[{}]", section.name)
            };
            let help = format!("{}{}", key.doc, default.unwrap_or_default());
            let arg = arg.help(help).help_heading(heading).hide_short_help(true);
            command = command.arg(arg.hide(is_old_name));
        }
    }
    command
}

/// Reads the command line. ConfigErrors come back as clap's errors: exit code 2, or 0 for `--help`.
///
/// # Errors
/// What clap says about wrong usage, and requests for help.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let args: Vec<OsString> = args.into_iter().collect();
    // Words behind `fabio` are Fabio's alone: not even `-h` or `--proxy.addr` is read here.
    if let Some(words) = words_of_fabio(&args) {
        return Ok(Cli {
            command: Action::Fabio(FabioArgs {
                words: words.to_vec(),
            }),
            json: false,
        });
    }
    let matches = command().try_get_matches_from(named_keys(args))?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    if cli.json && !has_result(&cli.command) {
        let name = words(&matches);
        let problem = format!("'--json' makes no sense for '{name}', which prints no such result");
        return Err(command().error(ErrorKind::ArgumentConflict, problem));
    }
    if let Action::Bootstrap(args) = &cli.command
        && let Some(flag) = args.misplaced_flag()
    {
        let problem = format!(
            "'{flag}' makes no sense for '{}'; it belongs to 'bootstrap up'",
            words(&matches)
        );
        return Err(command().error(ErrorKind::ArgumentConflict, problem));
    }
    if let (Action::Run(config) | Action::Check(CheckArgs { config, .. }), Some((_, matches))) =
        (&mut cli.command, matches.subcommand())
    {
        config.settings = settings(matches);
        config.settings.append(&mut config.set);
    }
    Ok(cli)
}

/// What stands behind `lb fabio`, or behind a program that is called `fabio`.
fn words_of_fabio(args: &[OsString]) -> Option<&[OsString]> {
    let (program, words) = args.split_first()?;
    if std::path::Path::new(program)
        .file_name()
        .is_some_and(|name| name == "fabio")
    {
        return Some(words);
    }
    let (first, words) = words.split_first()?;
    (first == "fabio").then_some(words)
}

/// Whether the subcommand prints something that has a form in JSON.
fn has_result(action: &Action) -> bool {
    match action {
        Action::Check(_)
        | Action::Routes(_)
        | Action::Explain(_)
        | Action::Services(_)
        | Action::Events(_)
        | Action::Version => true,
        Action::Bootstrap(args) => args.has_result(),
        Action::Run(_)
        | Action::Fabio(_)
        | Action::Demo(_)
        | Action::Sample(_)
        | Action::Completions { .. }
        | Action::Man => false,
    }
}

/// The subcommand as typed: `run`, `bootstrap status`.
fn words(matches: &ArgMatches) -> String {
    let mut words = Vec::new();
    let mut at = matches;
    while let Some((name, below)) = at.subcommand() {
        words.push(name);
        at = below;
    }
    words.join(" ")
}

fn settings(matches: &ArgMatches) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for section in SECTIONS {
        let paths: Vec<String> = match is_repeated(section) {
            true => vec![section.name.to_owned()],
            false => {
                let keys = section.keys.iter().chain(section.moved());
                keys.map(|key| section.path(key)).collect()
            }
        };
        for path in paths {
            for value in matches.get_many::<String>(&path).into_iter().flatten() {
                found.push((path.clone(), value.clone()));
            }
        }
    }
    found
}

/// `--certificates.main.path X` and `--listener.0.protocol tcp` name what only the user knows; they
/// become `--set`.
fn named_keys(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let prefixes: Vec<String> = SECTIONS
        .iter()
        .filter(|section| is_repeated(section))
        .map(|section| format!("--{}.", section.name))
        .collect();
    let mut out = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            out.push(arg);
            out.extend(args);
            break;
        }
        let named = arg.to_str().filter(|text| {
            prefixes
                .iter()
                .any(|prefix| text.starts_with(prefix.as_str()))
        });
        match named.map(|text| text.trim_start_matches('-').to_owned()) {
            Some(text) if text.contains('=') => out.push(format!("--set={text}").into()),
            Some(text) => {
                let mut setting = OsString::from(format!("--set={text}="));
                setting.push(args.next().unwrap_or_default());
                out.push(setting);
            }
            None => out.push(arg),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_settings(args: &[&str]) -> Vec<(String, String)> {
        let args = ["lb", "run"].iter().chain(args).map(OsString::from);
        match parse(args).unwrap().command {
            Action::Run(config) => config.settings,
            other => panic!("{other:?}"),
        }
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn keys_are_flags() {
        let found = run_settings(&[
            "--consul.address",
            "https://a:1",
            "--proxy.workers=3",
            "--consul.stale",
        ]);
        let expected = [
            pair("consul.address", "https://a:1"),
            pair("consul.stale", "true"),
            pair("proxy.workers", "3"),
        ];
        assert_eq!(found, expected);
        let found = run_settings(&["--consul.require_check", "--routing.weights=false"]);
        let expected = [
            pair("consul.require_check", "true"),
            pair("routing.weights", "false"),
        ];
        assert_eq!(found, expected, "the old name of a key that has moved");
        let found = run_settings(&[
            "--consul.stale=false",
            "--listener",
            ":1",
            "--listener",
            ":2;protocol=tcp",
        ]);
        let expected = [
            pair("consul.stale", "false"),
            pair("listener", ":1"),
            pair("listener", ":2;protocol=tcp"),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn named_sections_are_flags_too() {
        let found = run_settings(&[
            "--certificates.main.cert_file",
            "a.pem",
            "--listener.0.protocol=tcp",
        ]);
        assert_eq!(
            found,
            [
                pair("certificates.main.cert_file", "a.pem"),
                pair("listener.0.protocol", "tcp")
            ]
        );
        assert_eq!(
            run_settings(&["--set", "consul.wait=1s"]),
            [pair("consul.wait", "1s")]
        );
    }

    #[test]
    fn words_of_fabio_are_left_alone() {
        let words =
            |args: &[&str]| match parse(args.iter().map(OsString::from)).map(|cli| cli.command) {
                Ok(Action::Fabio(args)) => args.words,
                other => panic!("{args:?}: {other:?}"),
            };
        let flags = ["-proxy.addr", ":1", "--cfg=x", "-h", "--json", "--", "-v"];
        assert_eq!(words(&[&["lb", "fabio"][..], &flags].concat()), flags);
        assert_eq!(
            words(&[&["/usr/local/bin/fabio"][..], &flags].concat()),
            flags
        );
        assert!(words(&["fabio"]).is_empty());
        assert!(matches!(
            parse(["lb", "run", "--set", "a=fabio"].map(OsString::from))
                .unwrap()
                .command,
            Action::Run(_)
        ));
    }

    #[test]
    fn json_is_for_results() {
        let parsed = |args: &[&str]| parse(["lb"].iter().chain(args).map(OsString::from));
        for args in [
            &["demo", "--json"][..],
            &["--json", "run"],
            &["man", "--json"],
        ] {
            let error = parsed(args).unwrap_err();
            assert!(
                error.exit_code() == 2 && error.to_string().contains("--json"),
                "{error}"
            );
        }
        for args in [
            &["check", "--json"][..],
            &["--json", "routes"],
            &["version", "--json"],
        ] {
            assert!(parsed(args).unwrap().json, "{args:?}");
        }
    }

    #[test]
    fn wrong_usage_is_exit_code_two() {
        for args in [
            &["lb", "run", "--consul.adress", "x"][..],
            &["lb", "fly"],
            &["lb", "run", "--set", "x"],
        ] {
            let error = parse(args.iter().map(OsString::from)).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
        }
        let error = parse(
            ["lb", "run", "--consul.adress", "x"]
                .iter()
                .map(OsString::from),
        )
        .unwrap_err();
        assert!(error.to_string().contains("--consul.address"), "{error}");
    }
}
