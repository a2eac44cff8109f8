//! `lb`: arguments in, exit code out.

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use lb::admin;
use lb::check::{self, Finding, Report, Severity};
use lb::cli::{self, Action, CheckArgs, ConfigArgs, ExplainArgs, RoutesArgs, RoutesFormat};
use lb::config::{self, Loaded};
use lb::registry::consul::{self, probe::ProbeStep};
use lb::serve::RunOptions;

/// Failed at run time.
const FAILED: u8 = 1;
/// Wrong usage or configuration.
const WRONG: u8 = 2;

/// The data path allocates a little on every request; this allocator does that without locks or system calls.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
        Action::Demo(args) => {
            lb::demo::run(lb::demo::DemoOptions { consul: args.consul })?;
            Ok(0)
        }
        Action::Check(args) => check_all(&args, cli.json),
        Action::Routes(args) => routes(&args, cli.json),
        Action::Explain(args) => explain(&args, cli.json),
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
    let Some(loaded) = loaded.filter(|_| report.exit_code() == 0) else { return Ok(report.exit_code()) };
    let options = RunOptions { config: args.config.clone(), flags: args.settings.clone() };
    lb::serve::run(loaded.config, &options)?;
    Ok(0)
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
    let live = match (args.live, consul) {
        (true, Some(consul)) => Some(block_on(consul::probe::probe(consul))?),
        (true, None) => bail!("--live: no Consul is configured"),
        (false, _) => None,
    };
    if json {
        let mut document = report.to_json();
        if let Some(steps) = &live {
            document["live"] = steps.iter().map(step_json).collect();
        }
        let mut text = serde_json::to_string_pretty(&document).context("report as JSON")?;
        text.push('\n');
        print(text.as_bytes())?;
    } else {
        show(&report);
        for step in live.iter().flatten() {
            say(&step_text(step));
        }
        say(&format!("{}\n", report.summary()));
    }
    let reachable = live.iter().flatten().all(|step| step.ok);
    Ok(if reachable { report.exit_code() } else { report.exit_code().max(FAILED) })
}

fn step_json(step: &ProbeStep) -> serde_json::Value {
    serde_json::json!({ "step": step.name, "ok": step.ok, "detail": step.detail, "hint": step.hint })
}

fn step_text(step: &ProbeStep) -> String {
    let mark = if step.ok { "ok    " } else { "FAILED" };
    let hint = step.hint.as_ref().map(|hint| format!("       {hint}\n")).unwrap_or_default();
    format!("{mark} {}: {}\n{hint}", step.name, step.detail)
}

fn routes(args: &RoutesArgs, json: bool) -> Result<u8> {
    let format = match (json, args.format) {
        (true, _) | (false, RoutesFormat::Json) => admin::client::RoutesFormat::Json,
        (false, RoutesFormat::Table) => admin::client::RoutesFormat::Table,
        (false, RoutesFormat::Fabio) => admin::client::RoutesFormat::Fabio,
    };
    print(block_on(admin::client::routes(&args.admin, format))??.as_bytes())
}

fn explain(args: &ExplainArgs, json: bool) -> Result<u8> {
    let answer = admin::client::explain(&args.admin, &args.url, &args.method, &args.header, json);
    print(block_on(answer)??.as_bytes())
}

fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    Ok(runtime.block_on(future))
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
