//! `[tags]`: which options tags may carry.

use super::declare::{Checked, section};
use super::reader::Reader;
use crate::catalog::allowed_options::AllowedOptions;

section! {
    /// What tags of instances may say. Other sources of routes are not held to it: files, [[static.route]]
    /// and route commands.
    pub struct TagsConfig is Once "tags" {
        /// Options that tags may carry, by name; "*" stands for all of them. A tag with another one makes no
        /// route, and is reported. rate brings burst and by.
        allow: Vec<String> = "*";
    } and {
        /// The same, as tags are compared with it.
        allowed: AllowedOptions;
    }
}

impl Checked for TagsConfig {
    fn check(&mut self, reader: &mut Reader<'_>) {
        match AllowedOptions::read(&self.allow) {
            Ok(allowed) => self.allowed = allowed,
            Err((name, near)) => reader.wrong(
                "allow",
                &format!("holds {name:?}, which is not an option of tags"),
                &match near {
                    Some(near) => format!("did you mean {near:?}?"),
                    None => {
                        "docs/tags.md lists all options; \"*\" stands for all of them".to_owned()
                    }
                },
            ),
        }
    }
}
