//! Building blocks of the scripts: quoting, contents that travel inside a script, the tools that
//! differ between systems, and the answer of a script as sections.
//!
//! The scripts keep to what dash and BusyBox's ash know. Where GNU, BusyBox and BSD tools differ,
//! [`PRELUDE`] has one name for it.

use std::collections::BTreeMap;
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
if stat -c %a / >/dev/null 2>&1; then
  look() { stat -L -c '%a %U' "$1"; }
  print_of() { stat -L -c '%d:%i:%s:%Y:%Z' "$1"; }
else
  look() { stat -L -f '%Lp %Su' "$1"; }
  print_of() { stat -L -f '%d:%i:%z:%m:%c' "$1"; }
fi
sum() {
  if has sha256sum; then sha256sum <"$1"; else shasum -a 256 <"$1"; fi | cut -d' ' -f1
}
decode() {
  if has base64; then base64 -d 2>/dev/null || base64 -D; else openssl base64 -d; fi
}
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
    // Lines of base64 have a greatest length in some decoders; 76 suits all.
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(76));
        let _ = writeln!(text, "{line}");
        rest = more;
    }
    text.push_str("LB_END\n");
    text
}

/// The answer of a script: lines below `::NAME` headings. What stands before the first heading is
/// dropped.
pub(super) struct Sections<'a>(BTreeMap<&'a str, Vec<&'a str>>);

impl<'a> Sections<'a> {
    /// Reads an answer.
    pub(super) fn parse(text: &'a str) -> Self {
        let mut sections: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut current = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("::") {
                sections.entry(name).or_default();
                current = Some(name);
            } else if let Some(lines) = current.and_then(|name| sections.get_mut(name)) {
                lines.push(line);
            }
        }
        Self(sections)
    }

    /// Lines of a section; none when it is absent.
    pub(super) fn lines(&self, name: &str) -> &[&'a str] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// The first line of a section, if it is not empty.
    pub(super) fn first(&self, name: &str) -> Option<&'a str> {
        self.lines(name)
            .first()
            .copied()
            .map(str::trim)
            .filter(|line| !line.is_empty())
    }
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

    #[test]
    fn an_answer_falls_into_sections() {
        let answer = Sections::parse("Welcome to this machine\n::a\n1\n2\n::empty\n::b\n 3 \n");
        assert_eq!(answer.lines("a"), ["1", "2"]);
        assert_eq!(
            (answer.first("a"), answer.first("b")),
            (Some("1"), Some("3"))
        );
        assert_eq!(
            (answer.first("empty"), answer.first("absent")),
            (None, None)
        );
        assert!(Sections::parse("").lines("a").is_empty());
    }
}
