//! The terminal of a command: results to standard output, messages and questions to standard error.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Result, bail};

use crate::bootstrap::exit::UsageError;

/// Has the operator confirm what cannot be undone. Without a terminal `--yes` has to be given.
pub(super) fn confirm(question: &str, yes: bool) -> Result<bool> {
    if yes {
        return Ok(true);
    }
    if !std::io::stdin().is_terminal() {
        bail!(UsageError(format!(
            "{question} There is no terminal to confirm it on: add --yes"
        )));
    }
    write!(std::io::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Writes a result to standard output.
pub(super) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())?;
    Ok(())
}

/// Writes to standard error; when that is closed the text is lost.
pub(super) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

pub(super) fn is_terminal() -> bool {
    std::io::stderr().is_terminal()
}
