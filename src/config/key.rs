//! What a declaration says of a key and of its section: name, kind, default, text.

/// What a value has to look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// Text that is never shown.
    Secret,
    /// A path; in a file, relative to that file's folder.
    Path,
    /// `true` or `false`.
    Bool,
    /// A whole number within bounds.
    Count(u64, u64),
    /// A duration within bounds, in milliseconds.
    Time(u64, u64),
    /// `IP:PORT`; `:PORT` means every IPv4 address.
    Socket,
    /// Ports and ranges of ports.
    Ports,
    /// A list of texts.
    List,
    /// URLs, separated by commas, or as a list.
    Urls,
    /// A list of `IP:PORT`.
    Sockets,
    /// A list of addresses and networks.
    Networks,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A list of these words, not empty.
    Words(&'static [&'static str]),
    /// The name of an HTTP header.
    Header,
    /// A list of `Name: value`; the values are never shown.
    Headers,
    /// A balancing strategy.
    Strategy,
    /// A list of positive numbers, ascending.
    Numbers,
    /// Anything, with the places of its parts: lists and tables that have rules of their own.
    Free,
}

impl Kind {
    /// This kind with bounds; durations have theirs in milliseconds.
    pub(crate) const fn within(self, min: u64, max: u64) -> Self {
        match self {
            Self::Count(..) => Self::Count(min, max),
            Self::Time(..) => Self::Time(min, max),
            _ => panic!("only numbers and durations have bounds"),
        }
    }

    /// One of these words, in place of any text.
    pub(crate) const fn among(self, words: &'static [&'static str]) -> Self {
        match self {
            Self::Text => Self::Word(words),
            _ => panic!("only texts can be words"),
        }
    }

    /// In words, for messages: what to write.
    #[must_use]
    pub fn expected(self) -> String {
        let time = |ms| super::format_duration(std::time::Duration::from_millis(ms));
        match self {
            Self::Text | Self::Secret => "write a text in quotes".to_owned(),
            Self::Path => "write a path in quotes".to_owned(),
            Self::Bool => "write true or false".to_owned(),
            Self::Count(min, u64::MAX) => format!("write a whole number from {min}"),
            Self::Count(min, max) => format!("write a whole number from {min} to {max}"),
            Self::Time(min, max) => format!(
                "write a number with its unit, like \"250ms\", \"10s\" or \"1m30s\", from {} to {}",
                time(min),
                time(max)
            ),
            Self::Socket => {
                "write an address and a port, like \"0.0.0.0:9999\" or \"[::1]:9999\"".to_owned()
            }
            Self::Ports => {
                "write a port or a range of ports, or a list of them, like \"10000-10999\""
                    .to_owned()
            }
            Self::List => "write a list of texts, like [\"a\", \"b\"]".to_owned(),
            Self::Urls => "write URLs in quotes, separated by commas".to_owned(),
            Self::Sockets => "write a list of addresses, like [\"127.0.0.1:8600\"]".to_owned(),
            Self::Networks => {
                "write a list of networks and addresses, like [\"10.0.0.0/8\", \"192.0.2.1\"]"
                    .to_owned()
            }
            Self::Word(words) => format!("write one of: {}", words.join(", ")),
            Self::Words(words) => format!("write a list of: {}", words.join(", ")),
            Self::Header => "write the name of a header, like \"X-Client-Ip\"".to_owned(),
            Self::Headers => {
                "write a list of headers, like [\"Authorization: Bearer 1234\"]".to_owned()
            }
            Self::Strategy => format!("write {}", crate::catalog::strategy::words()),
            Self::Numbers => {
                "write a list of positive numbers that rise, like [0.1, 0.5, 2.5]".to_owned()
            }
            Self::Free => "write a value".to_owned(),
        }
    }

    /// What stands for the value in usage texts.
    #[must_use]
    pub fn placeholder(self) -> &'static str {
        match self {
            Self::Text => "TEXT",
            Self::Secret => "SECRET",
            Self::Path => "PATH",
            Self::Bool => "BOOL",
            Self::Count(..) => "N",
            Self::Time(..) => "DURATION",
            Self::Socket => "ADDR",
            Self::Urls => "URL,…",
            Self::Ports => "PORTS",
            Self::List | Self::Headers | Self::Sockets | Self::Networks | Self::Words(_) => "LIST",
            Self::Word(_) => "WORD",
            Self::Header => "HEADER",
            Self::Strategy => "STRATEGY",
            Self::Numbers => "NUMBERS",
            Self::Free => "VALUE",
        }
    }
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name inside the section.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// Its default as one would write it in a flag; none: unset.
    pub default: Option<&'static str>,
    /// Shown in `lb.toml` when there is no default.
    pub example: &'static str,
    /// What its text is held to beyond its kind.
    pub check: Option<Check>,
    /// One paragraph for users.
    pub doc: &'static str,
}

/// What the text of a key is held to, said in its declaration by `where`.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// What is wrong with the text, to be read after it.
    pub refuse: fn(&str) -> Result<(), &'static str>,
    /// What to do about it.
    pub advice: &'static str,
}

impl Check {
    /// For a key of this kind.
    pub(crate) const fn of(
        kind: Kind,
        refuse: fn(&str) -> Result<(), &'static str>,
        advice: &'static str,
    ) -> Self {
        assert!(matches!(kind, Kind::Text), "only texts have a check");
        Self { refuse, advice }
    }
}

/// How often a section may stand in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Keys at the top of the file, before any section.
    Top,
    /// `[name]`
    Once,
    /// `[[name]]`, any number, in order.
    List,
    /// `[name.NAME]`, any number, by name.
    Named,
}

/// Keys that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Dotted name; empty at the top.
    pub name: &'static str,
    /// How it is written.
    pub shape: Shape,
    /// One paragraph for users.
    pub doc: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

impl Section {
    /// The full path of a key; a placeholder stands for the name or number of a repeated section.
    #[must_use]
    pub fn path(&self, key: &Key) -> String {
        match self.shape {
            Shape::Top => key.name.to_owned(),
            Shape::Once => format!("{}.{}", self.name, key.name),
            Shape::List => format!("{}.N.{}", self.name, key.name),
            Shape::Named => format!("{}.NAME.{}", self.name, key.name),
        }
    }
}

/// Keys that have moved from one section to another.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// The section that they were in.
    pub from: &'static str,
    /// The section that they are in.
    pub to: &'static str,
    /// Their names, the same in both.
    pub keys: &'static [&'static str],
}

/// The environment variable of a dotted path.
#[must_use]
pub fn env_name(path: &str) -> String {
    format!("LB_{}", path.replace('.', "_").to_ascii_uppercase())
}

/// Milliseconds, for bounds of durations.
pub(super) const SECOND: u64 = 1_000;
pub(super) const MINUTE: u64 = 60 * SECOND;
pub(super) const HOUR: u64 = 60 * MINUTE;
pub(super) const DAY: u64 = 24 * HOUR;
