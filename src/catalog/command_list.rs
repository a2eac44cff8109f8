//! Route commands as they travel from a source to the table: an ordered list, and the text it was
//! read from.
//!
//! Lists are long (60,000 commands and more) and change by a line. So a text is compared with the
//! one before, and only lines that are new are parsed; the others keep the very command they had,
//! by which all that follows recognises them without looking inside. Pure.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use smallvec::SmallVec;

use super::command::{Command, CommandError, parse_line};

/// Commands in order; a later one acts on what earlier ones added. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct CommandList(Arc<[Arc<Command>]>);

impl Deref for CommandList {
    type Target = [Arc<Command>];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl PartialEq for CommandList {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.len() == other.len()
                && self
                    .iter()
                    .zip(other.iter())
                    .all(|(one, other)| same(one, other)))
    }
}

/// Whether both are one command, or two that say the same.
#[must_use]
pub fn same(one: &Arc<Command>, other: &Arc<Command>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}

impl FromIterator<Arc<Command>> for CommandList {
    fn from_iter<I: IntoIterator<Item = Arc<Command>>>(commands: I) -> Self {
        Self(commands.into_iter().collect())
    }
}

impl From<Vec<Command>> for CommandList {
    fn from(commands: Vec<Command>) -> Self {
        commands.into_iter().map(Arc::new).collect()
    }
}

impl<const N: usize> From<[Command; N]> for CommandList {
    fn from(commands: [Command; N]) -> Self {
        commands.into_iter().map(Arc::new).collect()
    }
}

/// A text of route commands, one a line, that is read again whenever it has changed.
#[derive(Debug, Default)]
pub struct CommandText {
    text: String,
    /// What the lines of `text` say, in their order.
    lines: Vec<Line>,
}

/// What one line says; empty for comments and blank lines.
#[derive(Clone, Debug, Default)]
struct Line {
    commands: SmallVec<[Arc<Command>; 1]>,
    /// Few have one.
    fault: Option<Arc<Fault>>,
}

/// Why a line makes no command, or remarks on it.
#[derive(Debug)]
struct Fault {
    text: String,
    reasons: Vec<String>,
}

impl CommandText {
    /// The text as it was read last; empty before.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Reads another text. Lines that both have are not parsed again.
    pub fn replace(&mut self, text: String) {
        let old: Vec<&str> = self.text.lines().collect();
        let new: Vec<&str> = text.lines().collect();
        let (head, tail) = common_ends(&old, &new, |one, other| one == other);
        let between = old[head..old.len() - tail].iter().zip(&self.lines[head..]);
        let known: HashMap<&str, &Line> = between.map(|(text, line)| (*text, line)).collect();
        let read = |text: &&str| {
            known
                .get(text)
                .map_or_else(|| Line::read(text), |line| (*line).clone())
        };
        let fresh = new[head..new.len() - tail].iter().map(read);
        let kept = &self.lines;
        let lines = kept[..head]
            .iter()
            .cloned()
            .chain(fresh)
            .chain(kept[kept.len() - tail..].iter().cloned());
        self.lines = lines.collect();
        self.text = text;
    }

    /// The commands of all lines.
    pub fn commands(&self) -> impl Iterator<Item = &Arc<Command>> {
        self.lines.iter().flat_map(|line| &line.commands)
    }

    /// What cannot be understood, and remarks, as by
    /// [`parse_commands`](super::command::parse_commands).
    pub fn errors(&self) -> impl Iterator<Item = CommandError> {
        let faults = self
            .lines
            .iter()
            .enumerate()
            .filter_map(|(index, line)| Some((index, line.fault.as_ref()?)));
        faults.flat_map(|(index, fault)| {
            fault
                .reasons
                .iter()
                .map(move |reason| CommandError::at(index + 1, fault.text.clone(), reason.clone()))
        })
    }
}

impl Line {
    fn read(text: &str) -> Self {
        let text = text.trim();
        let (commands, reasons) = parse_line(text);
        let fault = (!reasons.is_empty()).then(|| {
            Arc::new(Fault {
                text: text.to_owned(),
                reasons,
            })
        });
        Self {
            commands: commands.into_iter().map(Arc::new).collect(),
            fault,
        }
    }
}

/// How many items both have at the beginning, and how many of the rest at the end.
pub fn common_ends<T>(old: &[T], new: &[T], same: impl Fn(&T, &T) -> bool) -> (usize, usize) {
    let head = old
        .iter()
        .zip(new)
        .take_while(|(old, new)| same(old, new))
        .count();
    let (old, new) = (old[head..].iter().rev(), new[head..].iter().rev());
    (
        head,
        old.zip(new).take_while(|(old, new)| same(old, new)).count(),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::command::parse_commands;

    fn add(number: usize) -> String {
        format!("route add s{number} /{number} http://10.0.0.1:80/")
    }

    fn read(text: &mut CommandText, lines: &[String]) -> CommandList {
        text.replace(lines.join("\n"));
        text.commands().cloned().collect()
    }

    /// How many commands of `after` were parsed for it.
    fn parsed(before: &CommandList, after: &CommandList) -> usize {
        after
            .iter()
            .filter(|new| !before.iter().any(|old| Arc::ptr_eq(old, new)))
            .count()
    }

    #[test]
    fn only_lines_that_are_new_are_parsed() {
        let mut text = CommandText::default();
        let mut lines: Vec<String> = (0..1000).map(add).collect();
        let first = read(&mut text, &lines);
        assert_eq!(first.len(), 1000);
        lines[500] = add(1000);
        let second = read(&mut text, &lines);
        assert_eq!((parsed(&first, &second), second.len()), (1, 1000));
        // At both ends at once, and one less between.
        (lines[0], lines[997]) = (add(1001), add(1002));
        lines.remove(10);
        let third = read(&mut text, &lines);
        assert_eq!((parsed(&second, &third), third.len()), (2, 999));
        assert_eq!(parsed(&third, &read(&mut text, &lines)), 0);
        lines.reverse();
        let turned = read(&mut text, &lines);
        assert_eq!(
            parsed(&third, &turned),
            0,
            "in another order, and nothing new"
        );
    }

    #[test]
    fn equal_lists_are_equal_wherever_they_come_from() {
        let list = |text: &str| CommandList::from(parse_commands(text).0);
        let two = format!("{}\n{}", add(1), add(2));
        assert_eq!(list(&two), list(&two));
        assert_ne!(list(&two), list(&add(1)));
        assert_ne!(list(&two), list(&format!("{}\n{}", add(2), add(1))));
    }

    proptest! {
        #[test]
        fn a_text_read_again_says_what_it_says_when_read_at_once(
            texts in prop::collection::vec(
                prop::collection::vec(prop_oneof!["route add [ab] /[ab] http://10.0.0.1:8[01]/", "", "# [ab]", " route [ab]",
                    "route add s / http://x/ opts \"colour=red\"", "route del a 10.0.0.1:80"], 0..8),
                1..6,
            ),
        ) {
            let mut again = CommandText::default();
            for lines in texts {
                let text = lines.join("\n");
                again.replace(text.clone());
                let (commands, errors) = parse_commands(&text);
                prop_assert_eq!(again.commands().cloned().collect::<CommandList>(), CommandList::from(commands));
                prop_assert_eq!(again.errors().collect::<Vec<_>>(), errors);
                prop_assert_eq!(again.text(), text);
            }
        }
    }
}
