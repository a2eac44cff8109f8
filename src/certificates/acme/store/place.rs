//! What is kept where: shelves, the places on them, and changes of them.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::certificates::acme::failure::{Failure, Kind};

/// Texts by the last part of their keys.
pub(in super::super) type Texts = BTreeMap<String, Bytes>;

/// What stands together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Shelf {
    Certificates,
    Orders,
}

impl Shelf {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Certificates => "certificates",
            Self::Orders => "orders",
        }
    }
}

/// One key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Place<'a> {
    Account,
    Of(Shelf, &'a str),
}

/// A change of one key; no text: it goes.
#[derive(Clone, Debug)]
pub(in super::super) struct Write<'a> {
    pub(in super::super) place: Place<'a>,
    pub(in super::super) text: Option<String>,
}

impl<'a> Write<'a> {
    pub(in super::super) fn put(place: Place<'a>, text: String) -> Self {
        Self {
            place,
            text: Some(text),
        }
    }

    pub(in super::super) fn delete(place: Place<'a>) -> Self {
        Self { place, text: None }
    }
}

pub(super) fn failed(reason: impl Into<String>) -> Failure {
    Failure::new(Kind::Store, reason)
}

/// A host as a part of a key or the name of a file.
pub(super) fn part_of(host: &str) -> String {
    host.replace('*', "_wildcard")
}

pub(super) fn host_of(part: &str) -> String {
    part.replace("_wildcard", "*")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_has_a_name_that_any_file_system_takes() {
        assert_eq!(part_of("*.a.test"), "_wildcard.a.test");
        assert_eq!(host_of(&part_of("*.a.test")), "*.a.test");
    }
}
