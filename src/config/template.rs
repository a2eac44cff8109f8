//! The shipped files, `config/lb.toml` and its like: every key with its description and default,
//! made from the tables of keys.

use super::key::{Key, Kind, Section, Shape};
use super::keys::{EMPTY_SWITCHES, SECTIONS};

const INTRO: &str = "\
# Configuration of lb: every key, with its default. Lines that begin with `#` and a key show a default, or an example
# where there is none; take the `#` away to change it.
#
# Order: flag, then environment, then this file, then default. Every key is a flag of `lb run` (--consul.wait 30s) and
# a variable (LB_CONSUL_WAIT=30s). Paths in this file are relative to the folder it lies in.
# Durations: 250ms, 10s, 1m30s. `lb check --config FILE` finds every mistake at once.
";

/// Longest line of a description.
const WIDTH: usize = 116;

/// The text of `config/lb.toml`.
#[must_use]
pub fn template() -> String {
    write_file(INTRO, SECTIONS, EMPTY_SWITCHES)
}

/// The text of a file with these sections. `switches`: those that mean something although they are
/// empty, so that they are commented out.
pub(crate) fn write_file(intro: &str, sections: &[Section], switches: &[&str]) -> String {
    let mut out = intro.to_owned();
    for section in sections {
        out.push('\n');
        write_section(&mut out, section, switches.contains(&section.name));
    }
    out
}

/// A section with its keys.
pub(super) fn write_section(out: &mut String, section: &Section, is_switch: bool) {
    comment(out, section.doc);
    match section.shape {
        Shape::Top => {}
        Shape::Once if is_switch => line(out, &format!("#[{}]", section.name)),
        Shape::Once => line(out, &format!("[{}]", section.name)),
        // The default listener stands as it is; certificates and static routes have no default.
        Shape::List if section.name == "listener" => line(out, "[[listener]]"),
        Shape::List => line(out, &format!("#[[{}]]", section.name)),
        Shape::Named => line(out, &format!("#[{}.main]", section.name)),
    }
    for key in section.keys {
        comment(out, key.doc);
        // An entry of a list needs its address, so that one is not commented out.
        let mark = if section.name == "listener" && key.name == "address" {
            ""
        } else {
            "#"
        };
        line(out, &format!("{mark}{} = {}", key.name, literal(key)));
    }
}

/// The value shown for a key: its default or its example, as TOML.
fn literal(key: &Key) -> String {
    let text = key.default.unwrap_or(key.example);
    match key.kind {
        Kind::Bool | Kind::Count(..) | Kind::Free => text.to_owned(),
        Kind::Numbers => format!("[{}]", text.replace(',', ", ")),
        Kind::List
        | Kind::Headers
        | Kind::Sockets
        | Kind::Ports
        | Kind::Networks
        | Kind::Words(_) => {
            let items: Vec<String> = text
                .split(',')
                .filter(|item| !item.is_empty())
                .map(|item| format!("{item:?}"))
                .collect();
            format!("[{}]", items.join(", "))
        }
        _ => format!("{text:?}"),
    }
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn comment(out: &mut String, doc: &str) {
    let mut width = 0;
    for word in doc.split_whitespace() {
        if width > 0 && width + 1 + word.len() > WIDTH {
            out.push('\n');
            width = 0;
        }
        out.push_str(if width == 0 { "# " } else { " " });
        out.push_str(word);
        width += 1 + word.len() + usize::from(width == 0);
    }
    if width > 0 {
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Inputs, load};
    use super::*;

    fn load_text(text: String) -> Config {
        load(&Inputs {
            file: Some(("lb.toml".into(), text)),
            ..Inputs::default()
        })
        .unwrap()
        .config
    }

    #[test]
    fn the_shipped_file_is_what_the_table_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/lb.toml");
        if std::env::var_os("LB_TEST_WRITE").is_some() {
            std::fs::write(path, template()).unwrap();
        }
        let shipped = std::fs::read_to_string(path).unwrap();
        assert!(
            shipped == template(),
            "config/lb.toml is stale: run LB_TEST_WRITE=1 cargo test --lib template"
        );
    }

    #[test]
    fn it_parses_to_the_defaults() {
        assert_eq!(load_text(template()), Config::default());
    }

    #[test]
    fn it_parses_to_the_defaults_with_every_default_written_out() {
        let mut text = String::new();
        let mut section = super::super::keys::section("");
        for row in template().lines() {
            if let Some(name) = row.strip_prefix('[') {
                section = super::super::keys::section(name.trim_matches(['[', ']']));
            } else if row.starts_with("#[") {
                section = None;
            }
            let name = row
                .strip_prefix('#')
                .and_then(|row| row.split_once(" = "))
                .map(|(name, _)| name);
            let key = section
                .zip(name)
                .and_then(|(section, name)| section.key(name));
            let row = if key.is_some_and(|key| key.default.is_some()) {
                &row[1..]
            } else {
                row
            };
            text.push_str(row);
            text.push('\n');
        }
        assert!(
            text.contains("\nwait = \"50s\"") && text.contains("\nprotocol = \"http\""),
            "{text}"
        );
        assert_eq!(load_text(text), Config::default());
    }
}
