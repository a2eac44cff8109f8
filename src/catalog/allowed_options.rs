//! Which options tags may carry (`tags.allow`): the authors of tags need not be the operators of the
//! balancer.

use std::collections::BTreeSet;

use super::option_text;
use super::options::RouteOptions;

/// Stands for all options.
const ALL: &str = "*";
/// What says how `rate` counts comes with it.
const OF_RATE: [&str; 2] = ["burst", "by"];

/// The options that tags may carry; all of them by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedOptions(Option<BTreeSet<&'static str>>);

impl AllowedOptions {
    /// Those of a list of names; `*` stands for all.
    ///
    /// # Errors
    /// A name that no option has, and the nearest one that is.
    pub fn read(names: &[String]) -> Result<Self, (String, Option<&'static str>)> {
        let mut allowed = BTreeSet::new();
        let mut all = false;
        for name in names {
            match option_text::known(name) {
                Some("rate") => allowed.extend(OF_RATE.into_iter().chain(["rate"])),
                Some(known) => drop(allowed.insert(known)),
                None if name == ALL => all = true,
                None => return Err((name.clone(), option_text::nearest(name))),
            }
        }
        Ok(Self((!all).then_some(allowed)))
    }

    /// The first of these options that tags may not carry. One that has no meaning at all is not
    /// looked at: it has no effect.
    #[must_use]
    pub fn forbidden(&self, options: &RouteOptions) -> Option<&'static str> {
        let allowed = self.0.as_ref()?;
        let names = options.raw.iter();
        names
            .filter_map(|(name, _)| option_text::known(name))
            .find(|name| !allowed.contains(name))
    }
}

/// What is said of a tag with an option that tags may not carry.
#[must_use]
pub fn forbidden_text(option: &str) -> String {
    format!(
        "option `{option}` is not one that tags may carry: leave it out, or add it to tags.allow of the configuration"
    )
}

#[cfg(test)]
mod tests {
    use super::super::option_text::{Context, parse_options};
    use super::*;

    fn allowed(names: &[&str]) -> Result<AllowedOptions, (String, Option<&'static str>)> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        AllowedOptions::read(&names)
    }

    #[test]
    fn what_is_not_listed_is_forbidden() {
        for (names, options, forbidden) in [
            (&["*"][..], "rate=1 auth=a sethdr=A:1", None),
            (&["*", "strip"], "auth=a", None),
            (&[], "", None),
            (&[], "strip=/a", Some("strip")),
            (&["strip"], "strip=/a", None),
            (&["strip"], "strip=/a prepend=/b", Some("prepend")),
            (&["rate"], "rate=1/s burst=2 by=route", None),
            (&["burst"], "rate=1/s burst=2", Some("rate")),
            (&["burst"], "burst=2", None),
            (&["strip"], "Strip=/a", None),
            (&["strip"], "no-such-option=1 auth=a", Some("auth")),
        ] {
            let options = parse_options(options, Context::Tag).unwrap().options;
            let allowed = allowed(names).unwrap();
            assert_eq!(allowed.forbidden(&options), forbidden, "{names:?}");
        }
    }

    #[test]
    fn every_option_can_be_listed_and_nothing_else() {
        for name in option_text::KNOWN {
            assert!(allowed(&[name]).is_ok(), "{name}");
        }
        for (name, near) in [("ratee", Some("rate")), ("qqqqqq", None), ("", None)] {
            assert_eq!(allowed(&["strip", name]), Err((name.to_owned(), near)));
        }
    }
}
