//! Errors that say of which node they are, once.

use anyhow::Result;

/// See the module.
pub(super) trait OfNode {
    /// Puts the node's name in front of an error, unless it stands there already: what comes from
    /// the node itself begins with it.
    fn of_node(self, name: &str) -> Self;
}

impl<T> OfNode for Result<T> {
    fn of_node(self, name: &str) -> Self {
        self.map_err(|error| match without_node(&format!("{error:#}"), name) {
            Some(_) => error,
            None => error.context(name.to_owned()),
        })
    }
}

/// What an error says after the node's name, if it begins with it.
pub(super) fn without_node<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.strip_prefix(name)?.strip_prefix(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_said_once() {
        for (text, expected) in [
            ("no room", "n-1: no room"),
            ("n-1: no room", "n-1: no room"),
            ("n-10: no room", "n-1: n-10: no room"),
        ] {
            let error: Result<()> = Err(anyhow::anyhow!("{text}"));
            let told = format!("{:#}", error.of_node("n-1").unwrap_err());
            assert_eq!(told, expected);
        }
    }
}
