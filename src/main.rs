//! `lb`: arguments in, exit code out.

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use lb::admin;
use lb::check::{self, Finding, Report, Severity};
use lb::cli::{
    self, Action, AdminArgs, CheckArgs, ConfigArgs, ExplainArgs, FabioArgs, RoutesArgs,
    RoutesFormat,
};
use lb::config::{self, Config, Draft, LogFormat};
use lb::fabio::flags::FlagError;
use lb::fabio::settings::Warning;
use lb::fabio::{self, Machine, Source};
use lb::log::say;
use lb::serve::{RunOptions, Signals};
use lb::sources::{self, ProbeStep};
use lb::system::unix_now;

/// Failed at run time.
const FAILED: u8 = 1;
/// Wrong usage or configuration.
const WRONG: u8 = 2;
/// What was compared differs.
const DIFFERS: u8 = 3;

/// The data path allocates a little on every request; this allocator does that without locks or
/// system calls.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let _flush = lb::log::FlushAtEnd;
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are results and go to standard output; the rest to standard error.
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
            lb::demo::run(lb::demo::DemoOptions {
                consul: args.consul,
            })?;
            Ok(0)
        }
        Action::Sample(args) => {
            let cli::SampleArgs {
                listen,
                name,
                node,
                version_text: version,
            } = args;
            lb::sample::run(&lb::sample::SampleOptions {
                listen,
                name,
                node,
                version,
            })?;
            Ok(0)
        }
        Action::Fabio(args) => as_fabio(&args),
        Action::Check(args) => check_all(&args, cli.json),
        Action::Routes(args) => routes(&args, cli.json),
        Action::Explain(args) => explain(&args, cli.json),
        Action::Services(args) => {
            print(block_on(admin::client::services(&access(&args.lb), cli.json))??.as_bytes())
        }
        Action::Events(args) => {
            let access = access(&args.lb);
            let events = admin::client::events(&access, args.since.as_deref(), cli.json);
            print(block_on(events)??.as_bytes())
        }
        Action::Bootstrap(args) => lb::bootstrap::run(&args, cli.json),
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
    let signals = Signals::listen()?;
    let (mut findings, draft) = load(args);
    // A file that is bad at the start is taken as calmly as one that turns bad later: a reboot must
    // not find less than what ran before it.
    findings.extend(warnings_of_files(&draft.config));
    let report = Report::new(findings);
    if report.exit_code() != 0 {
        show_and_end(&report);
        return Ok(report.exit_code());
    }
    let Ok(loaded) = draft.finish() else {
        return Ok(WRONG);
    };
    let log = lb::log::init(&loaded.config.log)?;
    match loaded.config.log.format {
        // What reads the log as JSON must be able to read all of it.
        LogFormat::Json => log_warnings(&report),
        LogFormat::Text => show(&report),
    }
    let (path, flags) = (args.config.clone(), args.settings.clone());
    let read = move || match config::read(path.as_deref(), flags.clone()) {
        Ok(loaded) => Ok(loaded.config),
        Err(mistakes) => Err(anyhow!("{mistakes}")),
    };
    let options = RunOptions {
        files: args.config.iter().cloned().collect(),
        read: Arc::new(read),
        log,
    };
    lb::serve::run(loaded.config, &options, signals)?;
    Ok(0)
}

/// Shows why a command that would serve does not; a standard error that nothing reads does not keep
/// it from ending.
fn show_and_end(report: &Report) {
    // Without it the report is written at once.
    let _ = lb::log::init(&Config::default().log);
    show(report);
}

/// `lb fabio`: exit codes are Fabio's.
fn as_fabio(args: &FabioArgs) -> Result<u8> {
    let words: Vec<String> = args
        .words
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let env = std::env::vars_os()
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .collect();
    match fabio::request(&words, env, Machine::here()) {
        Ok(fabio::Request::Version) => print(
            format!(
                "{} lb-{}\n",
                env!("CARGO_PKG_VERSION"),
                lb::metrics::build_info::REVISION
            )
            .as_bytes(),
        ),
        // Go's flags, and so Fabio, write it there.
        Ok(fabio::Request::Help) => {
            say(&fabio::flags::usage("lb fabio"));
            Ok(0)
        }
        Ok(fabio::Request::PrintConfig(source)) => match source.translate() {
            Ok(translation) => {
                translation
                    .warnings
                    .iter()
                    .for_each(|warning| say(&format!("warning: {warning}\n")));
                print(translation.toml.as_bytes())
            }
            Err(error) => Ok(failed(&error)),
        },
        Ok(fabio::Request::Shadow(source, url)) => shadow(&source, &url),
        Ok(fabio::Request::Serve(source)) => serve_as_fabio(source),
        Err(error @ FlagError::Usage(_)) => {
            say(&format!("{error}\n`lb fabio -help` lists all flags\n"));
            Ok(WRONG)
        }
        Err(error) => Ok(failed(&error)),
    }
}

/// Differences on standard output; how much was compared, for people.
fn shadow(source: &Source, url: &str) -> Result<u8> {
    let (loaded, warnings) = match source.load(std::io::stderr().is_terminal()) {
        Ok(loaded) => loaded,
        Err(error) => return Ok(failed(&error)),
    };
    let matters = |warning: &&Warning| {
        warning.key.starts_with("registry.") || warning.key.starts_with("proxy.")
    };
    warnings
        .iter()
        .filter(matters)
        .for_each(|warning| say(&format!("warning: {warning}\n")));
    let comparison = lb::serve::shadow(loaded.config, url)?;
    let lines: String = comparison
        .differences
        .iter()
        .map(|line| format!("{line}\n"))
        .collect();
    print(lines.as_bytes())?;
    say(&format!(
        "{} targets in both tables, {} differences\n",
        comparison.same,
        comparison.differences.len()
    ));
    Ok(if comparison.is_equal() { 0 } else { DIFFERS })
}

fn failed(error: &dyn std::error::Error) -> u8 {
    say(&format!("lb fabio: {error}\n"));
    FAILED
}

fn serve_as_fabio(source: Source) -> Result<u8> {
    let signals = Signals::listen()?;
    let terminal = std::io::stderr().is_terminal();
    let (loaded, warnings) = match source.load(terminal) {
        Ok(loaded) => loaded,
        Err(error) => return Ok(failed(&error)),
    };
    let mut findings: Vec<Finding> = loaded
        .warnings
        .iter()
        .map(|warning| Finding::from_mistake(warning, Severity::Warning))
        .collect();
    // Fabio refuses to start without its files of routes and users. Certificates are taken as
    // calmly as by `lb run`.
    let refuses = |finding: &Finding| {
        finding.subject == "routes_file" || finding.subject.starts_with("auth.")
    };
    findings.extend(
        files_of(&loaded.config)
            .into_iter()
            .map(|finding| match refuses(&finding) {
                true => finding,
                false => finding.as_warning(),
            }),
    );
    let report = Report::new(findings);
    if report.exit_code() != 0 {
        show_and_end(&report);
        return Ok(FAILED);
    }
    let log = lb::log::init(&loaded.config.log)?;
    warnings.iter().for_each(log_left_out);
    log_warnings(&report);
    let files = source.files();
    let read = move || Ok(source.load(terminal)?.0.config);
    lb::serve::run(
        loaded.config,
        &RunOptions {
            files,
            read: Arc::new(read),
            log,
        },
        signals,
    )?;
    Ok(0)
}

fn log_left_out(warning: &Warning) {
    let origin = warning.origin.as_ref().map(ToString::to_string);
    tracing::warn!(key = warning.key, origin, "{}", warning.text);
}

/// Warnings and remarks as lines of the log.
fn log_warnings(report: &Report) {
    for finding in report.findings() {
        if finding.severity == Severity::Remark {
            tracing::info!(
                file = finding.file,
                line = finding.line,
                subject = finding.subject,
                advice = finding.advice,
                "{}",
                finding.problem
            );
            continue;
        }
        tracing::warn!(
            file = finding.file,
            line = finding.line,
            subject = finding.subject,
            value = finding.value,
            advice = finding.advice,
            "{}",
            finding.problem
        );
    }
}

/// The configuration as far as it goes, and everything found in it.
fn load(args: &ConfigArgs) -> (Vec<Finding>, Draft) {
    let draft = config::read_draft(args.config.as_deref(), args.settings.clone());
    let finding = |severity| move |mistake| Finding::from_mistake(mistake, severity);
    let mut findings: Vec<Finding> = draft
        .mistakes
        .iter()
        .map(finding(Severity::Error))
        .collect();
    findings.extend(draft.warnings.iter().map(finding(Severity::Warning)));
    findings.extend(draft.remarks.iter().map(finding(Severity::Remark)));
    (findings, draft)
}

/// The same as [`files_of`], as warnings.
fn warnings_of_files(config: &Config) -> impl Iterator<Item = Finding> {
    files_of(config).into_iter().map(Finding::as_warning)
}

/// What there is to say about the files that a configuration names.
fn files_of(config: &Config) -> Vec<Finding> {
    let mut findings = check::files::check_files(config, unix_now());
    findings.iter_mut().for_each(name_variable);
    findings
}

/// Says which of Consul's own variables names a file, where it is one of them.
fn name_variable(finding: &mut Finding) {
    let Some(variable) = config::consul_variable(&finding.subject) else {
        return;
    };
    let value = std::env::var_os(variable).filter(|value| !value.is_empty());
    if value.is_some_and(|value| std::path::Path::new(&finding.file).starts_with(value)) {
        finding.subject = format!("{} ({variable})", finding.subject);
    }
}

fn check_all(args: &CheckArgs, json: bool) -> Result<u8> {
    let (mut findings, draft) = load(&args.config);
    findings.extend(files_of(&draft.config));
    let mut jobs = Vec::new();
    for path in &args.jobs {
        match std::fs::read_to_string(path) {
            Ok(text) if check::files::are_commands(&text) => {
                findings.extend(check::files::check_commands(
                    &path.display().to_string(),
                    "",
                    &text,
                ));
            }
            Ok(text) => jobs.push((path.display().to_string(), text)),
            Err(error) => findings.push(Finding::unreadable(path, &error)),
        }
    }
    let prefix = &draft.config.routing.tag_prefix;
    let given = args.config.config.is_some() || !draft.config.auth.is_empty();
    findings.extend(check::lints::check_jobs(
        &jobs,
        prefix,
        given.then_some(&draft.config),
    ));
    findings.extend(check::unconfigured::check(&draft.config));
    let report = Report::new(findings);
    let report = if args.strict { report.strict() } else { report };
    let live = match args.live {
        false => None,
        true => Some(block_on(probe(&draft))?),
    };
    if json {
        let mut document = report.to_json();
        if let Some(steps) = &live {
            document["live"] = steps.iter().map(step_json).collect();
        }
        let mut text =
            serde_json::to_string_pretty(&document).context("cannot write the report as JSON")?;
        text.push('\n');
        print(text.as_bytes())?;
    } else {
        let mut text = report.to_text(colour_wanted(&std::io::stdout()));
        text.extend(live.iter().flatten().map(step_text));
        text.push_str(&format!("{}\n", report.summary()));
        print(text.as_bytes())?;
    }
    let reachable = live.iter().flatten().all(|step| step.ok);
    Ok(if reachable {
        report.exit_code()
    } else {
        report.exit_code().max(FAILED)
    })
}

/// Tries to read every source that is dialled.
async fn probe(draft: &Draft) -> Vec<ProbeStep> {
    let mut steps = Vec::new();
    for source in sources::list() {
        if let Some(probe) = source.probe(draft) {
            steps.extend(probe.await);
        }
    }
    steps.extend(check::keys::probe(&draft.config).await);
    if steps.is_empty() {
        let hint = "add [consul], or set CONSUL_HTTP_ADDR".to_owned();
        steps.push(ProbeStep::failed(
            "config",
            "no Consul is configured",
            Some(hint),
        ));
    }
    steps
}

fn step_json(step: &ProbeStep) -> serde_json::Value {
    serde_json::json!({ "step": step.name, "ok": step.ok, "detail": step.detail, "hint": step.hint })
}

fn step_text(step: &ProbeStep) -> String {
    let mark = if step.ok { "ok    " } else { "FAILED" };
    let hint = step
        .hint
        .as_ref()
        .map(|hint| format!("       {hint}\n"))
        .unwrap_or_default();
    format!("{mark} {}: {}\n{hint}", step.name, step.detail)
}

fn routes(args: &RoutesArgs, json: bool) -> Result<u8> {
    let format = match (json, args.format) {
        (true, _) | (false, RoutesFormat::Json) => admin::client::RoutesFormat::Json,
        (false, RoutesFormat::Table) => admin::client::RoutesFormat::Table,
        (false, RoutesFormat::Fabio) => admin::client::RoutesFormat::Fabio,
    };
    print(block_on(admin::client::routes(&access(&args.lb), format))??.as_bytes())
}

fn explain(args: &ExplainArgs, json: bool) -> Result<u8> {
    let access = access(&args.lb);
    let question = admin::client::Question {
        url: &args.url,
        method: &args.method,
        headers: &args.header,
        from: args.from,
    };
    print(block_on(admin::client::explain(&access, &question, json))??.as_bytes())
}

fn access(args: &AdminArgs) -> admin::client::Access {
    let AdminArgs {
        admin: url,
        admin_ca: ca,
        admin_cert: cert,
        admin_key: key,
    } = args.clone();
    admin::client::Access { url, ca, cert, key }
}

fn block_on<T>(future: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    Ok(runtime.block_on(future))
}

/// Writes findings for people, beside whatever the command's result is.
fn show(report: &Report) {
    say(&report.to_text(colour_wanted(&std::io::stderr())));
}

/// Colour is for people (<https://no-color.org>: set and not empty means none).
fn colour_wanted(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Writes a result to standard output; a reader that went away is not a failure.
fn print(bytes: &[u8]) -> Result<u8> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush())?;
    Ok(0)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

fn version(json: bool) -> String {
    let (version, revision) = (env!("CARGO_PKG_VERSION"), lb::metrics::build_info::REVISION);
    match json {
        true => format!(
            "{}\n",
            serde_json::json!({ "version": version, "revision": revision })
        ),
        false => format!("lb {version} ({revision})\n"),
    }
}
