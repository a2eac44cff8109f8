//! The command line as Fabio reads it: Go's flags, and `-cfg` and `-v` picked out before.
//!
//! ```text
//! -key value   --key value   -key=value   -bool   -bool=false
//! ```
//! Reading ends at `--` or at the first word that is not a flag; what follows is passed over, as in
//! Fabio.

use super::keys::{self, Kind};
use super::value;

/// What a command line says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandLine {
    /// Keys and values, in their order.
    pub settings: Vec<(&'static str, String)>,
    /// Path or URL of the properties file.
    pub file: Option<String>,
    /// The version is wanted and nothing else.
    pub version: bool,
    /// The usage text is wanted and nothing else.
    pub help: bool,
    /// `-print-config`: the translation is wanted and nothing else. Ours, not Fabio's.
    pub print_config: bool,
    /// `-shadow URL`: a comparison with the Fabio there is wanted and nothing else. Ours, not
    /// Fabio's.
    pub shadow: Option<String>,
}

/// What is wrong with a command line, and which exit code that has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// No such flag, or a value that does not fit: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// `-cfg` without a file: exit code 1, as Fabio has it.
    #[error("-cfg needs the path or URL of a properties file")]
    NoFile,
}

/// Reads the words behind the program's name.
///
/// # Errors
/// What is wrong, in the words of Go's flag package, which people search for.
pub fn parse(args: &[String]) -> Result<CommandLine, FlagError> {
    let mut line = CommandLine::default();
    let mut rest = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        // Two dashes before a single letter make a flag like others, which Fabio reads and forgets.
        if matches!(&**arg, "-v" | "-version" | "--version") {
            return Ok(CommandLine {
                version: true,
                ..line
            });
        }
        match without_dashes(arg).map(|flag| flag.split_once('=').unwrap_or((flag, ""))) {
            Some(("cfg", _)) if !arg.contains('=') => {
                let file = args.next().ok_or(FlagError::NoFile)?;
                line.file = Some(file.clone()).filter(|file| !file.is_empty());
            }
            Some(("cfg", file)) => {
                let quote = file
                    .chars()
                    .next()
                    .filter(|c| matches!(c, '\'' | '"'))
                    .unwrap_or('\0');
                let file = file.trim_matches(quote);
                if file.is_empty() {
                    return Err(FlagError::NoFile);
                }
                line.file = Some(file.to_owned());
            }
            _ => rest.push(arg.as_str()),
        }
    }
    flags(&rest, &mut line)?;
    Ok(line)
}

fn without_dashes(arg: &str) -> Option<&str> {
    let flag = arg.strip_prefix('-')?;
    Some(flag.strip_prefix('-').unwrap_or(flag))
}

fn flags(args: &[&str], line: &mut CommandLine) -> Result<(), FlagError> {
    let usage = |text: String| Err(FlagError::Usage(text));
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let Some(flag) = without_dashes(arg).filter(|_| *arg != "-") else {
            return Ok(());
        };
        if flag.is_empty() {
            return Ok(());
        }
        if flag.starts_with(['-', '=']) {
            return usage(format!("bad flag syntax: {arg}"));
        }
        let (name, given) = match flag.split_once('=') {
            Some((name, given)) => (name, Some(given)),
            None => (flag, None),
        };
        match name {
            "h" | "help" => line.help = true,
            "print-config" => line.print_config = is_on(name, given)?,
            "shadow" => match given
                .or_else(|| args.next().copied())
                .filter(|url| !url.is_empty())
            {
                Some(url) => line.shadow = Some(url.to_owned()),
                None => return usage(format!("flag needs an argument: -{name}")),
            },
            "v" | "version" => drop(is_on(name, given)?),
            _ => {
                let Some(key) = keys::find(name) else {
                    return usage(format!(
                        "flag provided but not defined: -{name}{}",
                        meant(name)
                    ));
                };
                let text = match (given, key.kind) {
                    (Some(given), _) => given.to_owned(),
                    (None, Kind::Bool) => "true".to_owned(),
                    (None, _) => match args.next() {
                        Some(next) => (*next).to_owned(),
                        None => return usage(format!("flag needs an argument: -{name}")),
                    },
                };
                if let Err(problem) = value::check(key.kind, &text) {
                    return usage(format!(
                        "invalid value {text:?} for flag -{name}: it {problem}"
                    ));
                }
                line.settings.push((key.name, text));
            }
        }
    }
    Ok(())
}

fn is_on(name: &str, given: Option<&str>) -> Result<bool, FlagError> {
    let wrong = || {
        FlagError::Usage(format!(
            "invalid boolean value {:?} for -{name}",
            given.unwrap_or_default()
        ))
    };
    given.map_or(Some(true), value::boolean).ok_or_else(wrong)
}

/// The nearest flag, if one is near.
fn meant(name: &str) -> String {
    let near = keys::all()
        .map(|key| (strsim::damerau_levenshtein(name, key.name), key.name))
        .min();
    match near {
        Some((distance, key)) if distance <= 2 || key.eq_ignore_ascii_case(name) => {
            format!("; did you mean -{key}?")
        }
        _ => String::new(),
    }
}

/// What `-help` and wrong usage print.
#[must_use]
pub fn usage(program: &str) -> String {
    let mut text = format!(
        "Usage of {program}:\n  -cfg FILE\n    \tPath or URL of a properties file.\n  -v, -version\n    \tShow the version.\n  \
         -print-config\n    \tPrint what these settings are in lb's own configuration (TOML), and end.\n  \
         -shadow URL\n    \tCompare the routing table of the Fabio whose ui.addr is URL with ours, print the differences, and end \
         (exit code 3 if there are any).\n"
    );
    for key in keys::all() {
        let placeholder = key.kind.placeholder();
        let blank = if placeholder.is_empty() { "" } else { " " };
        let default = if key.default.is_empty() {
            String::new()
        } else {
            format!(" (default {})", key.default)
        };
        let mapping = match key.mapping {
            keys::Mapping::Becomes(_) => "",
            keys::Mapping::Nothing(_) => " [no effect]",
        };
        text.push_str(&format!(
            "  -{}{blank}{placeholder}\n    \t{}{default}{mapping}\n",
            key.name, key.doc
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Pairs = &'static [(&'static str, &'static str)];

    fn read(args: &[&str]) -> Result<CommandLine, FlagError> {
        parse(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
    }

    fn settings(args: &[&str]) -> Vec<(&'static str, String)> {
        read(args)
            .unwrap_or_else(|error| panic!("{args:?}: {error}"))
            .settings
    }

    #[test]
    fn flags_are_gos() {
        let cases: &[(&[&str], Pairs)] = &[
            (&["-proxy.addr", ":1"], &[("proxy.addr", ":1")]),
            (&["--proxy.addr=:1"], &[("proxy.addr", ":1")]),
            (&["-proxy.addr="], &[("proxy.addr", "")]),
            (
                &["-proxy.addr", "-insecure"],
                &[("proxy.addr", "-insecure")],
            ),
            (
                &["-insecure", "-proxy.maxconn=5"],
                &[("insecure", "true"), ("proxy.maxconn", "5")],
            ),
            (&["-insecure=f"], &[("insecure", "f")]),
            (&["-insecure", "false", "-x"], &[("insecure", "true")]),
            (&["-insecure", "--", "-x"], &[("insecure", "true")]),
            (&["-", "-x"], &[]),
            (
                &["-proxy.cs", "cs=a;type=file"],
                &[("proxy.cs", "cs=a;type=file")],
            ),
            (
                &["-proxy.maxconn=1", "-proxy.maxconn=2"],
                &[("proxy.maxconn", "1"), ("proxy.maxconn", "2")],
            ),
            (&["-v=true"], &[]),
        ];
        for (args, expected) in cases {
            let expected: Vec<_> = expected
                .iter()
                .map(|(key, value)| (*key, (*value).to_owned()))
                .collect();
            assert_eq!(settings(args), expected, "{args:?}");
        }
    }

    #[test]
    fn what_fabio_refuses_is_refused_with_exit_code_two() {
        let cases: &[(&[&str], &str)] = &[
            (&["-nothing"], "flag provided but not defined: -nothing"),
            (&["-proxy.adr", "x"], "did you mean -proxy.addr?"),
            (
                &["-registry.consul.pollInterval=0"],
                "did you mean -registry.consul.pollinterval?",
            ),
            (&["-proxy.addr"], "flag needs an argument: -proxy.addr"),
            (&["---x"], "bad flag syntax: ---x"),
            (&["-=x"], "bad flag syntax: -=x"),
            (&["-insecure=yes"], "is neither true nor false"),
            (&["-proxy.maxconn", "many"], "is not a whole number"),
            (&["-proxy.dialtimeout", "30"], "is not a duration"),
        ];
        for (args, part) in cases {
            match read(args) {
                Err(FlagError::Usage(text)) => assert!(text.contains(part), "{args:?}: {text}"),
                other => panic!("{args:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_file_and_the_version_are_found_anywhere() {
        for args in [
            &["-cfg", "f"][..],
            &["--cfg=f"],
            &["-cfg='f'"],
            &["-cfg=\"f\""],
            &["x", "-cfg", "f"],
        ] {
            assert_eq!(read(args).unwrap().file.as_deref(), Some("f"), "{args:?}");
        }
        for args in [&["-cfg"][..], &["-cfg="], &["-cfg=''"]] {
            assert_eq!(read(args), Err(FlagError::NoFile), "{args:?}");
        }
        for args in [&["-cfg", ""][..], &["--v"]] {
            assert_eq!(read(args), Ok(CommandLine::default()), "{args:?}");
        }
        for args in [&["-v"][..], &["--version"], &["-x", "-version"]] {
            assert!(read(args).unwrap().version, "{args:?}");
        }
        assert!(read(&["-print-config"]).unwrap().print_config && read(&["--help"]).unwrap().help);
    }

    #[test]
    fn the_usage_text_has_every_key() {
        let text = usage("fabio");
        for key in keys::all() {
            assert!(text.contains(&format!("  -{}", key.name)), "{}", key.name);
        }
    }

    proptest! {
        #[test]
        fn any_words_are_read_without_panic(args in prop::collection::vec("-{0,3}(cfg|v|insecure|proxy.addr|x)?=?.{0,5}", 0..6)) {
            let _ = parse(&args);
        }
    }
}
