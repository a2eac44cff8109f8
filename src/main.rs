//! `lb`: arguments in, exit code out.

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use lb::check::{self, Finding, Report, Severity};
use lb::cli::{self, Action, CheckArgs, ConfigArgs};
use lb::config::{self, Loaded};

/// Failed at run time.
const FAILED: u8 = 1;
/// Wrong usage or configuration.
const WRONG: u8 = 2;

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are asked for and go to standard output; the rest to standard error.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(WRONG));
        }
    };
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("lb: {error:#}\n"));
            ExitCode::from(FAILED)
        }
    }
}

fn dispatch(cli: cli::Cli) -> Result<u8> {
    match cli.command {
        Action::Run(args) => run(&args),
        // DISPATCH: lb::demo::run(args)
        Action::Demo(_) => bail!("not connected: demo"),
        Action::Check(args) => check_all(&args, cli.json),
        // DISPATCH: lb::admin::client::routes(args, cli.json)
        Action::Routes(_) => bail!("not connected: routes"),
        // DISPATCH: lb::admin::client::explain(args, cli.json)
        Action::Explain(_) => bail!("not connected: explain"),
        Action::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut cli::command(), "lb", &mut script);
            print(&script)
        }
        Action::Man => print(&lb::manual::page()?),
        Action::Version => print(version(cli.json).as_bytes()),
    }
}

fn run(args: &ConfigArgs) -> Result<u8> {
    let (findings, loaded) = load(args);
    let report = Report::new(findings);
    show(&report);
    let Some(_loaded) = loaded.filter(|_| report.exit_code() == 0) else { return Ok(report.exit_code()) };
    // DISPATCH: lb::serve::run(loaded.config, args.clone()); `load` serves reloads too
    bail!("not connected: run")
}

/// The configuration and everything found in it and in the files it names.
fn load(args: &ConfigArgs) -> (Vec<Finding>, Option<Loaded>) {
    match config::read(args.config.as_deref(), args.settings.clone()) {
        Err(mistakes) => {
            (mistakes.0.iter().map(|mistake| Finding::from_mistake(mistake, Severity::Error)).collect(), None)
        }
        Ok(loaded) => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
            let warnings = loaded.warnings.iter().map(|mistake| Finding::from_mistake(mistake, Severity::Warning));
            let files = check::files::check_files(&loaded.config, i64::try_from(now).unwrap_or(i64::MAX));
            (warnings.chain(files).collect(), Some(loaded))
        }
    }
}

fn check_all(args: &CheckArgs, json: bool) -> Result<u8> {
    let (mut findings, loaded) = load(&args.config);
    let mut jobs = Vec::new();
    for path in &args.jobs {
        match std::fs::read_to_string(path) {
            Ok(text) => jobs.push((path.display().to_string(), text)),
            Err(error) => findings.push(Finding::unreadable(path, &error)),
        }
    }
    let consul = loaded.as_ref().and_then(|loaded| loaded.config.consul.as_ref());
    let prefix = consul.map_or("urlprefix-", |consul| &consul.tag_prefix);
    findings.extend(check::lints::check_jobs(&jobs, prefix));
    let report = Report::new(findings);
    if args.live {
        // DISPATCH: lb::registry::consul::probe(loaded.config.consul), its steps printed and added to the report
        show(&report);
        bail!("not connected: check --live");
    }
    if json {
        let mut text = serde_json::to_string_pretty(&report.to_json()).context("report as JSON")?;
        text.push('\n');
        print(text.as_bytes())?;
    } else {
        show(&report);
        say(&format!("{}\n", report.summary()));
    }
    Ok(report.exit_code())
}

/// Writes findings for people.
fn show(report: &Report) {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    say(&report.to_text(colour));
}

/// Writes to standard error; when that is closed there is nobody left to tell.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Writes a result to standard output; a reader that went away is no failure.
fn print(bytes: &[u8]) -> Result<u8> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush())?;
    Ok(0)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

fn version(json: bool) -> String {
    let (version, revision) = (env!("CARGO_PKG_VERSION"), option_env!("LB_REVISION").unwrap_or("unknown"));
    match json {
        true => format!("{}\n", serde_json::json!({ "version": version, "revision": revision })),
        false => format!("lb {version} ({revision})\n"),
    }
}
