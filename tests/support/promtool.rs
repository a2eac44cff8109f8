//! Prometheus's own check of a text of metrics.

use std::io::Write as _;
use std::process::{Command, Stdio};

/// What `promtool check metrics` objects to in this text. None where there is no promtool, which is
/// then said on standard error.
pub fn complaints(test: &str, text: &str) -> Option<Vec<String>> {
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        // Not by `eprintln`, which is captured where a test passes.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED {test}: it needs `promtool` on PATH"
        );
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    // 3: it could be read, but there are complaints.
    assert!(
        matches!(output.status.code(), Some(0 | 3)),
        "{said}\nin\n{text}"
    );
    Some(
        said.lines()
            .filter(|line| !line.trim().is_empty())
            .map(str::to_owned)
            .collect(),
    )
}
