//! What the token may see of the catalog, judged by the list of services.
//!
//! Consul filters responses for a token without rights, and does not refuse them. So emptiness is
//! compared with the catalog, which lists the service `consul` for every token that may read it.
//! What the token may read is looked up where that is in doubt (`rights`). Pure.

use std::collections::BTreeSet;

use super::settings::Reader;
use super::wire::ServiceList;
use crate::catalog::ServiceName;

/// Registered by every Consul cluster that works, in the default namespace.
pub(super) const CONSUL: &str = "consul";

/// The reader that saw `consul` in the list.
#[derive(Debug, Default)]
pub(super) struct WholeSeenBy(Option<Reader>);

impl WholeSeenBy {
    /// Notes what a list shows to this reader; returns whether the same reader saw `consul` before.
    pub(super) fn note(&mut self, sight: Visibility, reader: Reader) -> bool {
        let before = self.0.as_ref() == Some(&reader);
        if sight == Visibility::Whole {
            self.0 = Some(reader);
        }
        before
    }
}

/// What a token may see, judged by one response of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visibility {
    /// `consul` is there.
    Whole,
    /// Something, but not `consul`: a token for some services only.
    Part,
    Nothing,
}

/// Judges what the token may see.
#[must_use]
pub(crate) fn sight(list: &ServiceList) -> Visibility {
    if list.contains_key(CONSUL) {
        Visibility::Whole
    } else if list.is_empty() {
        Visibility::Nothing
    } else {
        Visibility::Part
    }
}

/// Names of the services that carry a routing tag: one that starts with `tag_prefix` after spaces
/// are trimmed.
#[must_use]
pub(crate) fn routed(list: &ServiceList, tag_prefix: &str) -> BTreeSet<ServiceName> {
    list.iter()
        .filter(|(_, tags)| {
            tags.iter()
                .flatten()
                .any(|tag| tag.trim().starts_with(tag_prefix))
        })
        .map(|(name, _)| ServiceName::from(name.as_str()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> ServiceList {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_list_shows_how_much_of_the_catalog_may_be_seen() {
        let whole = sight(&list(r#"{"consul":[],"web":["x"]}"#));
        let part = sight(&list(r#"{"web":["x"]}"#));
        let nothing = sight(&list("{}"));
        assert_eq!(
            (whole, part, nothing),
            (Visibility::Whole, Visibility::Part, Visibility::Nothing)
        );
    }

    #[test]
    fn routed_services_carry_the_prefix_after_trimming() {
        let list = list(
            r#"{"a":["urlprefix-/a"],"b":["x","  urlprefix-/b "],"c":["my-urlprefix-/c"],"d":null,"e":[]}"#,
        );
        let names: Vec<_> = routed(&list, "urlprefix-").into_iter().collect();
        assert_eq!(names, ["a".into(), "b".into()]);
    }
}
