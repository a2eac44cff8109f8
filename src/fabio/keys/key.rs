//! One key of Fabio: its type, its default, and what becomes of it.

/// What a value has to look like. The names are Fabio's flags', the grammar is Go's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// Text that is shown nowhere but in the translated configuration.
    Secret,
    /// `true`, `false`, `1`, `0`, `t`, `f` and their capitals.
    Bool,
    /// A whole number, also `0x…`.
    Int,
    /// A whole number that is not negative.
    Uint,
    /// A duration like `1.5s`, `1h30m` or `0`.
    Span,
    /// Texts separated by commas.
    List,
    /// Numbers separated by commas.
    Numbers,
}

impl Kind {
    /// What stands for the value in usage texts; empty for a flag that needs none.
    #[must_use]
    pub fn placeholder(self) -> &'static str {
        match self {
            Self::Text | Self::Secret => "TEXT",
            Self::Bool => "",
            Self::Int | Self::Uint => "N",
            Self::Span => "DURATION",
            Self::List => "LIST",
            Self::Numbers => "NUMBERS",
        }
    }
}

/// What becomes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// It is carried out: by these keys of `lb`, separated by commas.
    Becomes(&'static str),
    /// It has no effect, and will have none; the reason.
    Nothing(&'static str),
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name as a flag and in the properties file.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// Its default as one would write it; [`crate::fabio::Machine`] knows those that differ between
    /// machines.
    pub default: &'static str,
    /// One sentence: what it does in Fabio.
    pub doc: &'static str,
    /// What becomes of it.
    pub mapping: Mapping,
}

pub(super) const fn becomes(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
    ours: &'static str,
) -> Key {
    Key {
        name,
        kind,
        default,
        doc,
        mapping: Mapping::Becomes(ours),
    }
}

pub(super) const fn nothing(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
    why: &'static str,
) -> Key {
    Key {
        name,
        kind,
        default,
        doc,
        mapping: Mapping::Nothing(why),
    }
}
