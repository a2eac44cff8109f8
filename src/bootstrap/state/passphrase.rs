//! The passphrase of the CA key: given in a file or a variable, else typed on the terminal. What it
//! opens is the business of `state`.

use std::cell::RefCell;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::key::ask_passphrase;
use crate::bootstrap::security::secrets::Secret;

/// Variable that holds the passphrase itself.
const VARIABLE: &str = "LB_BOOTSTRAP_PASSPHRASE";

/// The passphrase of `--passphrase-file`, else of the variable's value; None when neither is given.
/// The line break at the file's end is not a part of it. Reads the file.
///
/// # Errors
/// When it is empty, not UTF-8, or the file cannot be read.
fn given(file: Option<&Path>, variable: Option<OsString>) -> Result<Option<Secret>> {
    let (text, place) = match (file, variable) {
        (Some(path), _) => {
            let place = format!("--passphrase-file {}", path.display());
            (
                std::fs::read_to_string(path).with_context(|| format!("{place} cannot be read"))?,
                place,
            )
        }
        (None, Some(value)) => match value.into_string() {
            Ok(text) => (text, VARIABLE.to_owned()),
            Err(_) => bail!("{VARIABLE} is not UTF-8; take another passphrase"),
        },
        (None, None) => return Ok(None),
    };
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() {
        bail!("{place} holds no passphrase; write one, or leave it away for a key without");
    }
    Ok(Some(Secret::new(line)))
}

/// Where the passphrase of the CA key comes from.
#[derive(Clone, Debug)]
pub(in crate::bootstrap) struct Passphrase {
    file: Option<PathBuf>,
    /// What was typed: a rotation needs it several times.
    typed: RefCell<Option<Secret>>,
    /// Nothing is to be encrypted with it.
    withheld: bool,
}

impl Passphrase {
    /// With `--passphrase-file`, if it was given.
    pub(in crate::bootstrap) fn new(file: Option<PathBuf>) -> Self {
        Self {
            file,
            typed: RefCell::default(),
            withheld: false,
        }
    }

    /// One that is not given, whatever the flag and the variable say.
    pub(in crate::bootstrap) fn withheld() -> Self {
        Self {
            file: None,
            typed: RefCell::default(),
            withheld: true,
        }
    }

    /// The passphrase that a backup is encrypted with: given, else typed on a terminal.
    pub(in crate::bootstrap) fn for_backup(&self) -> Result<Secret> {
        if let Some(given) = given(self.file.as_deref(), std::env::var_os(VARIABLE))? {
            return Ok(given);
        }
        let typed = self.ask("passphrase of the backup: ")?;
        typed.with_context(|| {
            format!(
                "a backup is encrypted: give its passphrase with --passphrase-file FILE or in the environment \
                 variable {VARIABLE}"
            )
        })
    }

    /// The passphrase, if one was given; typed on a terminal when the key is encrypted and none
    /// was given.
    pub(in crate::bootstrap) fn for_key(&self, encrypted: Option<bool>) -> Result<Option<Secret>> {
        if self.withheld {
            return Ok(None);
        }
        match given(self.file.as_deref(), std::env::var_os(VARIABLE))? {
            Some(given) => Ok(Some(given)),
            None if encrypted == Some(true) => self.ask("passphrase of the CA key: "),
            None => Ok(None),
        }
    }

    fn ask(&self, prompt: &str) -> Result<Option<Secret>> {
        let mut typed = self.typed.borrow_mut();
        if typed.is_none() {
            *typed = ask_passphrase(prompt)?;
        }
        Ok(typed.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_wins_over_the_variable_and_loses_its_line_break() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p");
        for (text, expected) in [
            ("a b\n", "a b"),
            ("a b", "a b"),
            ("a b\r\n", "a b"),
            (" a\n\n", " a\n"),
        ] {
            std::fs::write(&file, text).unwrap();
            let found = given(Some(&file), Some("variable".into()))
                .unwrap()
                .unwrap();
            assert_eq!(found.reveal(), expected, "{text:?}");
        }
        assert_eq!(
            given(None, Some("variable".into()))
                .unwrap()
                .unwrap()
                .reveal(),
            "variable"
        );
        assert_eq!(given(None, None).unwrap(), None);
    }

    #[test]
    fn nothing_is_not_taken_for_a_passphrase() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p");
        assert!(
            given(Some(&file), None)
                .unwrap_err()
                .to_string()
                .contains("cannot be read")
        );
        std::fs::write(&file, "\n").unwrap();
        assert!(
            given(Some(&file), None)
                .unwrap_err()
                .to_string()
                .contains("holds no passphrase")
        );
        assert!(
            given(None, Some("".into()))
                .unwrap_err()
                .to_string()
                .starts_with(VARIABLE)
        );
    }
}
