//! A shell command whose output is read section by section: each section is declared with its
//! script and, next to it, the parser of what the script prints.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::channel::Channel;

/// What begins the heading of a section.
const HEADING: &str = "::";

/// A script in sections, to be run on one node in one round trip.
pub(super) struct ShellCommand {
    script: String,
}

/// A part of a command, and how to read what it prints.
pub(super) struct Section<'p, T> {
    name: String,
    parse: Parse<'p, T>,
}

type Parse<'p, T> = Box<dyn Fn(&[&str]) -> Result<T> + Send + Sync + 'p>;

/// What a command printed on a node.
pub(super) struct Output {
    node: String,
    sections: BTreeMap<String, Vec<String>>,
}

impl ShellCommand {
    /// Without a section yet. `setup` sets variables and functions for all of them.
    pub(super) fn new(setup: &str) -> Self {
        Self {
            script: format!("{setup}\n"),
        }
    }

    /// Adds a section. Where the script returns early, those after it are missing.
    pub(super) fn section<'p, T>(
        &mut self,
        name: impl Into<String>,
        script: &str,
        parse: impl Fn(&[&str]) -> Result<T> + Send + Sync + 'p,
    ) -> Section<'p, T> {
        let (name, parse) = (name.into(), Box::new(parse));
        let _ = writeln!(self.script, "echo {HEADING}{name}\n{script}");
        Section { name, parse }
    }

    /// Runs it. It succeeds unless a section fails on purpose.
    ///
    /// # Errors
    /// When the node is not reached, or the script fails; with what it said.
    pub(super) async fn run(&self, channel: &Channel, patience: Duration) -> Result<Output> {
        let printed = channel
            .run(&format!("{}return 0", self.script), patience)
            .await?;
        Ok(Output::read(channel.node(), &printed))
    }
}

impl Output {
    /// What stands before the first heading (a greeting of the machine) is dropped.
    pub(super) fn read(node: &str, printed: &str) -> Self {
        let mut sections: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut current = None;
        for line in printed.lines() {
            if let Some(name) = line.strip_prefix(HEADING) {
                sections.entry(name.to_owned()).or_default();
                current = Some(name);
            } else if let Some(lines) = current.and_then(|name| sections.get_mut(name)) {
                lines.push(line.to_owned());
            }
        }
        Self {
            node: node.to_owned(),
            sections,
        }
    }

    /// What a section says.
    ///
    /// # Errors
    /// When it is missing or not understood; names node and section.
    pub(super) fn get<T>(&self, section: &Section<'_, T>) -> Result<T> {
        let (node, name) = (&self.node, &section.name);
        let Some(lines) = self.sections.get(name) else {
            bail!("{node}: unexpected output: the section `{name}` is missing");
        };
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        (section.parse)(&lines)
            .with_context(|| format!("{node}: unexpected output in the section `{name}`"))
    }
}

/// All lines.
pub(super) fn lines(lines: &[&str]) -> Result<Vec<String>> {
    Ok(lines.iter().map(|&line| line.to_owned()).collect())
}

/// The first line without blanks around it; None where there is nothing.
pub(super) fn word(lines: &[&str]) -> Result<Option<String>> {
    let first = lines.first().map(|line| line.trim());
    Ok(first.filter(|line| !line.is_empty()).map(str::to_owned))
}

/// The same, where there has to be something.
pub(super) fn some_word(lines: &[&str]) -> Result<String> {
    word(lines)?.context("it is empty")
}

/// The first line as a number; None where there is nothing.
pub(super) fn number<T: FromStr>(lines: &[&str]) -> Result<Option<T>> {
    let Some(word) = word(lines)? else {
        return Ok(None);
    };
    match word.parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => bail!("`{word}` is not a number"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_section_is_read_by_its_own_parser() {
        let mut command = ShellCommand::new("x=7");
        let count = command.section("count", "echo $x", number::<u32>);
        let names = command.section("names", "echo a; echo ' b '", lines);
        let nothing = command.section("nothing", "false", word);
        let output = command
            .run(&Channel::local("n"), Duration::from_secs(9))
            .await
            .unwrap();
        assert_eq!(output.get(&count).unwrap(), Some(7));
        assert_eq!(output.get(&names).unwrap(), ["a", " b "]);
        assert_eq!(output.get(&nothing).unwrap(), None);
    }

    #[tokio::test]
    async fn a_command_that_fails_tells_what_it_said() {
        let mut command = ShellCommand::new("");
        command.section("a", "die 'no room'", lines);
        let error = command
            .run(&Channel::local("n"), Duration::from_secs(9))
            .await
            .err()
            .unwrap();
        assert_eq!(error.to_string(), "n: no room");
    }

    #[test]
    fn what_is_not_understood_names_node_and_section() {
        let mut command = ShellCommand::new("");
        let count = command.section("count", "", number::<u32>);
        let need = command.section("need", "", some_word);
        for (printed, section, expected) in [
            (
                "Welcome\n::count\nmany\n::need\nx\n",
                "count",
                "n: unexpected output in the section `count`: `many` is not a number",
            ),
            (
                "::count\n1\n::need\n \n",
                "need",
                "n: unexpected output in the section `need`: it is empty",
            ),
            (
                "::count\n1\n",
                "need",
                "n: unexpected output: the section `need` is missing",
            ),
            (
                "7\n",
                "count",
                "n: unexpected output: the section `count` is missing",
            ),
        ] {
            let output = Output::read("n", printed);
            let error = match section {
                "count" => output.get(&count).map(drop).unwrap_err(),
                _ => output.get(&need).map(drop).unwrap_err(),
            };
            assert_eq!(format!("{error:#}"), expected, "{printed:?}");
        }
    }
}
