//! TXT records for dns-01, set by a program of the operator's.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::failure::{Failure, Kind};

/// How long one run may take.
const TIME: Duration = Duration::from_secs(60);
/// How much of what it says is kept.
const WORDS_MAX: usize = 500;

/// A record that is there, and is taken away when this is dropped: whatever becomes of the order.
#[derive(Debug)]
pub(super) struct Record {
    program: PathBuf,
    name: String,
    value: String,
    is_there: bool,
}

impl Record {
    pub(super) async fn present(
        program: &Path,
        host: &str,
        value: String,
    ) -> Result<Self, Failure> {
        let host = host.strip_prefix("*.").unwrap_or(host);
        let record = Self {
            program: program.to_owned(),
            name: format!("_acme-challenge.{host}"),
            value,
            is_there: true,
        };
        // A run that failed may have set it all the same.
        run(program, "present", &record.name, &record.value).await?;
        Ok(record)
    }

    pub(super) async fn clean_up(mut self) {
        self.is_there = false;
        tell(run(&self.program, "cleanup", &self.name, &self.value).await);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.is_there {
            return;
        }
        let Ok(handle) = Handle::try_current() else {
            return;
        };
        let program = std::mem::take(&mut self.program);
        let (name, value) = (
            std::mem::take(&mut self.name),
            std::mem::take(&mut self.value),
        );
        handle.spawn(async move { tell(run(&program, "cleanup", &name, &value).await) });
    }
}

fn tell(result: Result<(), Failure>) {
    if let Err(error) = result {
        tracing::warn!(%error, "a DNS record was not taken away; do it by hand");
    }
}

async fn run(program: &Path, action: &str, name: &str, value: &str) -> Result<(), Failure> {
    let shown = program.display();
    let failed = |reason: String| {
        Failure::new(
            Kind::Hook,
            format!("certificates dns.exec: {shown} {action} {name}: {reason}"),
        )
    };
    let child = Command::new(program)
        .args([action, name, value])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let output = timeout(TIME, child.wait_with_output())
        .await
        .map_err(|_| failed(format!("is not done after {} s", TIME.as_secs())))?
        .map_err(|error| failed(error.to_string()))?;
    let words: String = String::from_utf8_lossy(&output.stderr)
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(WORDS_MAX)
        .collect();
    if !output.status.success() {
        return Err(failed(format!("{}: {words}", output.status)));
    }
    if !words.is_empty() {
        tracing::info!(program = %shown, action, name, words, "the program for DNS records said something");
    }
    Ok(())
}
