//! Dotted paths of keys: `consul.wait`, `listener.0.address`.

use super::keys::{Key, SECTIONS, Section, Shape};
use super::schema::is_name;

/// What a dotted path means.
#[derive(Clone, Debug)]
pub(crate) enum Slot {
    /// A key of a section that stands once.
    Scalar(&'static Section, &'static Key),
    /// The short form of a whole repeated section.
    Short(&'static Section),
    /// A key of the n-th repetition.
    Item(&'static Section, usize, &'static Key),
    /// A key of a repetition by name.
    Named(&'static Section, String, &'static Key),
}

/// Finds out what a dotted path means: `consul.wait`, `listener`, `listener.0.address`,
/// `certificates.main.path`.
pub(crate) fn resolve(path: &str) -> Option<Slot> {
    for section in SECTIONS {
        match section.shape {
            Shape::Top => {
                if let Some(key) = section.key(path) {
                    return Some(Slot::Scalar(section, key));
                }
            }
            Shape::Once => {
                let key = path
                    .strip_prefix(section.name)
                    .and_then(|rest| rest.strip_prefix('.'));
                if let Some(key) = key.and_then(|name| section.key(name)) {
                    return Some(Slot::Scalar(section, key));
                }
            }
            Shape::List | Shape::Named => {
                let Some(rest) = path.strip_prefix(section.name) else {
                    continue;
                };
                if rest.is_empty() {
                    return Some(Slot::Short(section));
                }
                let Some((which, key)) = rest
                    .strip_prefix('.')
                    .and_then(|rest| rest.rsplit_once('.'))
                else {
                    continue;
                };
                let Some(key) = section.key(key) else {
                    continue;
                };
                if section.shape == Shape::Named && is_name(which) {
                    return Some(Slot::Named(section, which.to_owned(), key));
                }
                if let (Shape::List, Ok(at)) = (section.shape, which.parse()) {
                    return Some(Slot::Item(section, at, key));
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_find_their_slot() {
        assert!(
            matches!(resolve("consul.wait"), Some(Slot::Scalar(s, k)) if s.name == "consul" && k.name == "wait")
        );
        assert!(matches!(resolve("routes_file"), Some(Slot::Scalar(..))));
        assert!(matches!(resolve("listener"), Some(Slot::Short(_))));
        assert!(
            matches!(resolve("static.route.2.source"), Some(Slot::Item(s, 2, _)) if s.name == "static.route")
        );
        assert!(
            matches!(resolve("certificates.a-b.path"), Some(Slot::Named(_, name, _)) if name == "a-b")
        );
        for path in [
            "",
            "consul",
            "consul.",
            "consul.x",
            "listener.x.address",
            "certificates..path",
            "certificates.path",
        ] {
            assert!(resolve(path).is_none(), "{path}");
        }
    }
}
