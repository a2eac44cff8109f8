//! What tests of other modules hold a text to.

use std::io::Write as _;
use std::process::{Command, Stdio};

/// Prometheus's own check, where it is installed; our own rules otherwise. It also complains about
/// names that are not to its taste: `bearable` are parts of complaints that are passed over.
pub(crate) fn promtool(text: &str, bearable: &[&str]) {
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!(
            "\n*** SKIPPED: promtool is not on PATH; the text is checked by our own rules only ***\n"
        );
        check_format(text);
        return;
    };
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    // 3: it could be read, but there are complaints.
    assert!(
        matches!(output.status.code(), Some(0 | 3)),
        "{said}\nin\n{text}"
    );
    let complaints: Vec<&str> = said
        .lines()
        .filter(|line| !line.trim().is_empty() && !bearable.iter().any(|part| line.contains(part)))
        .collect();
    assert!(complaints.is_empty(), "{complaints:?}\nin\n{text}");
}

/// Every line is a header or a sample of the family last announced, and no series comes twice.
pub(crate) fn check_format(text: &str) {
    assert!(text.ends_with('\n'));
    let mut family = "";
    let mut series = std::collections::BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# ") {
            let mut words = rest.splitn(3, ' ');
            assert!(matches!(words.next(), Some("HELP" | "TYPE")), "{line}");
            family = words.next().unwrap();
            assert!(!words.next().unwrap().is_empty());
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok() || value == "+Inf", "{line}");
        assert!(name.starts_with(family), "{line} under {family}");
        assert!(series.insert(name), "{name} twice");
    }
}
