//! Building blocks of the scripts: quoting, contents that travel inside a script, and what every
//! script may use.
//!
//! The scripts keep to what POSIX demands of `sh`, and to the core utilities of Linux.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Names that every script may use.
///
/// `look FILE` prints mode and owner, `print_of FILE` what changes when the file does, `sum FILE`
/// its SHA-256, `decode` turns base64 into bytes, `die TEXT` ends the script.
const PRELUDE: &str = r#"
set -u
umask 077
PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
has() { command -v "$1" >/dev/null 2>&1; }
die() { echo "$*" >&2; exit 1; }
look() { stat -L -c '%a %U' "$1"; }
print_of() { stat -L -c '%d:%i:%s:%Y:%Z' "$1"; }
sum() { sha256sum <"$1" | cut -d' ' -f1; }
decode() { base64 -d; }
"#;

/// A script that is read whole before it runs, and whose commands cannot read it as their input.
///
/// `body` ends in success unless it says otherwise.
pub(super) fn whole(body: &str) -> String {
    format!("{PRELUDE}\nmain() {{\n{body}\n}}\nmain </dev/null\nexit $?\n")
}

/// Text as one word of sh.
pub(super) fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Words of sh.
pub(super) fn quote_all<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    texts.into_iter().map(quote).collect::<Vec<_>>().join(" ")
}

/// Contents as a here-document for `decode`, to stand behind a command. It cannot be mistaken for
/// script, whatever it holds.
pub(super) fn document(content: &[u8]) -> String {
    let mut text = String::from("<<'LB_END'\n");
    let encoded = STANDARD.encode(content);
    let mut rest = encoded.as_str();
    // As long as base64 itself makes its lines.
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(76));
        let _ = writeln!(text, "{line}");
        rest = more;
    }
    text.push_str("LB_END\n");
    text
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    fn sh(script: &str) -> (bool, String) {
        let mut child = Command::new("sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(script.as_bytes())
            .unwrap();
        let out = child.wait_with_output().unwrap();
        (
            out.status.success(),
            String::from_utf8_lossy(&out.stdout).into_owned(),
        )
    }

    #[test]
    fn any_text_is_one_word() {
        for text in [
            "plain",
            "",
            "a b",
            "it's",
            "$(reboot)",
            "`x`",
            "\"q\" \\ *",
            "line\nbreak",
            "-n",
        ] {
            assert_eq!(sh(&format!("printf '%s' {}", quote(text))).1, text);
        }
        assert_eq!(
            sh(&format!("set -- {}; echo $#", quote_all(["a b", "c"]))).1,
            "2\n"
        );
    }

    #[test]
    fn contents_arrive_as_they_are() {
        for content in [
            "",
            "x",
            "no newline at the end",
            "LB_END\nrm -rf x\n",
            "$HOME `id`\n",
            &"long ".repeat(5000),
        ] {
            let script = whole(&format!("decode {}", document(content.as_bytes())));
            assert_eq!(sh(&script), (true, content.to_owned()));
        }
    }

    #[test]
    fn a_script_cut_off_does_nothing() {
        let script = whole("echo done");
        for cut in [script.len() / 2, script.find("\n}\nmain").unwrap() + 2] {
            assert_eq!(sh(&script[..cut]).1, "", "{}", &script[..cut]);
        }
        assert_eq!(sh(&script), (true, "done\n".to_owned()));
        // Nor can a command of it swallow what follows.
        assert_eq!(sh(&whole("cat; echo after")).1, "after\n");
        assert!(!sh(&whole("die gone")).0);
    }
}
