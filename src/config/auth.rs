//! `[auth.NAME]`: the schemes that routes name with `auth=`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::keys::section;
use super::mistake::Mistake;
use super::raw::Settings;
use super::reader::Reader;

/// A file that is looked at is looked at no oftener than this.
const REFRESH_MIN: Duration = Duration::from_secs(1);

/// One `[auth.NAME]`.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthConfig {
    /// How it decides (`type`).
    pub kind: AuthKind,
}

/// How a scheme decides.
#[derive(Clone, Debug, PartialEq)]
pub enum AuthKind {
    /// By name and password (RFC 7617).
    Basic {
        /// In the format of htpasswd.
        file: PathBuf,
        /// What clients are told; text that may stand in a quoted string of a header.
        realm: String,
        /// How often the file's time stamp is looked at; zero: never.
        refresh: Duration,
    },
}

/// Reads the schemes.
pub(super) fn schemes(settings: &Settings, mistakes: &mut Vec<Mistake>) -> BTreeMap<String, AuthConfig> {
    let section = section("auth").expect("names of sections in this crate are in the table");
    let groups = settings.named.get("auth").into_iter().flatten();
    groups
        .map(|(name, group)| {
            let mut reader = Reader::new(section, format!("auth.{name}"), group, mistakes);
            (name.clone(), AuthConfig { kind: basic(&mut reader, name) })
        })
        .collect()
}

fn basic(reader: &mut Reader<'_>, name: &str) -> AuthKind {
    let file = reader.path("file");
    if file.is_none() {
        reader.wrong("file", "is missing", "name the file with names and passwords, as htpasswd writes it");
    }
    let realm = reader.text("realm").unwrap_or_else(|| name.to_owned());
    if realm.chars().any(|c| c.is_control() || !c.is_ascii() || c == '"' || c == '\\') {
        reader.wrong("realm", "cannot stand in a header", "use printable ASCII characters without \" and \\");
    }
    let refresh = match reader.time("refresh") {
        Duration::ZERO => Duration::ZERO,
        time => time.max(REFRESH_MIN),
    };
    AuthKind::Basic { file: file.unwrap_or_default(), realm, refresh }
}
