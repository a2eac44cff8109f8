//! Puts the load of a case on a door, by wrk and h2load where they can, by clients of our own where
//! not.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::cases::{Case, Kind, Setting};
use crate::outcome::Outcome;
use crate::{clients, mixed, tools};

/// Loads `port` for this long. `folder` takes scripts; `ca` is what TLS clients trust.
pub(crate) fn run(
    case: &Case,
    port: u16,
    length: Duration,
    folder: &Path,
    ca: &[u8],
) -> Result<Outcome, String> {
    let seconds = length.as_secs().max(1);
    match case.kind {
        // wrk counts whole seconds.
        Kind::Http {
            path,
            post: false,
            close: false,
        } if length.as_secs() == 0 => Ok(clients::http(port, path, 64, length)),
        Kind::Http { path, post, close } => {
            let mut script = String::new();
            if post {
                script.push_str("wrk.method = \"POST\"\nwrk.body = string.rep(\"x\", 10240)\n");
            }
            if close {
                script.push_str("wrk.headers[\"Connection\"] = \"close\"\n");
            }
            let scheme = if case.name.starts_with("tls") {
                "https"
            } else {
                "http"
            };
            let connections = if path == "/1m" { 8 } else { 64 };
            wrk(
                &format!("{scheme}://127.0.0.1:{port}{path}"),
                connections,
                seconds,
                &script,
                folder,
            )
        }
        Kind::Hosts(count) => {
            let script = format!(
                "local all, i = {{}}, 0\n\
                 init = function(args)\n for n = 0, {count} - 1 do\n  wrk.headers[\"Host\"] = \"h\" .. n .. \".bench.test\"\n  \
                 all[n] = wrk.format(\"GET\", \"/64\")\n end\nend\n\
                 request = function()\n i = (i + 7919) % {count}\n return all[i]\nend\n"
            );
            wrk(
                &format!("http://127.0.0.1:{port}/64"),
                64,
                seconds,
                &script,
                folder,
            )
        }
        Kind::H2 {
            grpc,
            connections,
            streams,
        } => h2load(port, grpc, [connections, streams], seconds, folder),
        Kind::Handshake { at_once } => Ok(clients::handshakes(port, ca, at_once, length)),
        Kind::Tcp { bulk } => Ok(clients::tcp(port, bulk, length)),
        Kind::Rate(per_second) => Ok(clients::rate(port, per_second, length)),
        Kind::Mixed {
            usual,
            other,
            every,
        } => Ok(mixed::run(port, usual, other, every, length)),
        Kind::Set(setting) => {
            // For a client that takes none, compression never comes into question.
            let asks = setting == Setting::Compression;
            let script = if asks {
                "wrk.headers[\"Accept-Encoding\"] = \"gzip, br, zstd\"\n"
            } else {
                ""
            };
            wrk(
                &format!("http://127.0.0.1:{port}/64"),
                64,
                seconds,
                script,
                folder,
            )
        }
        Kind::Idle(_) | Kind::Tail { .. } => Err("measured in a way of its own".to_owned()),
    }
}

fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(text)
    }
}

fn wrk(
    url: &str,
    connections: u32,
    seconds: u64,
    script: &str,
    folder: &Path,
) -> Result<Outcome, String> {
    let program = tools::find("wrk").ok_or("wrk is not installed (make bench-tools)")?;
    let file = folder.join("load.lua");
    fs::write(&file, script).map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command
        .args([
            "-t1",
            &format!("-c{connections}"),
            &format!("-d{seconds}s"),
            "-s",
        ])
        .arg(file)
        .arg(url);
    wrk_outcome(&output(&mut command)?)
}

/// Reads wrk's report: `N requests in`, `Socket errors: connect A, read B, write C, timeout D`,
/// `Non-2xx or 3xx responses: N`.
fn wrk_outcome(text: &str) -> Result<Outcome, String> {
    let all: u64 = text
        .lines()
        .find_map(|line| line.trim().split_once(" requests in")?.0.parse().ok())
        .ok_or_else(|| format!("wrk said: {text}"))?;
    let rest = |start: &str| {
        text.lines()
            .find_map(|line| line.trim().strip_prefix(start))
    };
    let numbers = |text: &str| {
        text.split(|c: char| !c.is_ascii_digit())
            .filter_map(|n| n.parse::<u64>().ok())
            .sum()
    };
    let wrong: u64 = rest("Non-2xx or 3xx responses:").map_or(0, numbers);
    let broken: u64 = rest("Socket errors:").map_or(0, numbers);
    Ok(Outcome {
        good: all.saturating_sub(wrong),
        failed: wrong + broken,
        by_proxy: 0,
    })
}

fn h2load(
    port: u16,
    grpc: bool,
    [connections, streams]: [u32; 2],
    seconds: u64,
    folder: &Path,
) -> Result<Outcome, String> {
    let program = tools::find("h2load").ok_or("h2load is not installed (make bench-tools)")?;
    let mut command = Command::new(program);
    command.args([
        "-t1",
        &format!("-c{connections}"),
        &format!("-m{streams}"),
        "-D",
        &seconds.to_string(),
    ]);
    if grpc {
        // One uncompressed message of 64 bytes: protobuf field 1, 62 bytes.
        let file = folder.join("message");
        let mut message = vec![0, 0, 0, 0, 64, 0x0a, 62];
        message.resize(5 + 64, b'x');
        fs::write(&file, message).map_err(|error| error.to_string())?;
        command
            .args([
                "-H",
                "content-type: application/grpc",
                "-H",
                "te: trailers",
                "-d",
            ])
            .arg(file);
        command.arg(format!("http://127.0.0.1:{port}/bench.Echo/Call"));
    } else {
        command.arg(format!("https://localhost:{port}/64"));
    }
    h2load_outcome(&output(&mut command)?)
}

/// Reads h2load's report: `requests: N total, N started, N done, N succeeded, N failed, N errored,
/// N timeout`.
fn h2load_outcome(text: &str) -> Result<Outcome, String> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("requests: "));
    let line = line.ok_or_else(|| format!("h2load said: {text}"))?;
    let count = |word: &str| {
        let part = line.split(", ").find_map(|part| part.strip_suffix(word));
        part.and_then(|part| part.trim().parse::<u64>().ok())
            .unwrap_or(0)
    };
    // What errored is among what failed.
    Ok(Outcome {
        good: count("succeeded"),
        failed: count("failed") + count("timeout"),
        by_proxy: 0,
    })
}
