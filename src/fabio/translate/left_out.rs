//! What is not carried out: warnings at start, and comments in the translation.

use super::super::keys::{self, ACTIVE, Fate};
use super::super::{compound, value};
use super::Translator;

impl Translator<'_> {
    pub(super) fn left_out(&mut self) {
        let with_consul = self.settings.text("registry.backend") == "consul";
        let concerns = |name: &str| with_consul || !name.starts_with("registry.consul.");
        for key in keys::all() {
            let differs = self.settings.differs(key);
            let (text, tells) = match key.fate {
                Fate::Becomes(_) => continue,
                Fate::Nothing(reason) => (format!("has no effect: {reason}"), differs),
                Fate::NotYet(what) => {
                    (format!("is not carried out yet: {what}"), differs || ACTIVE.contains(&key.name))
                }
            };
            let switched_off =
                ACTIVE.contains(&key.name) && value::boolean(self.settings.text(key.name)) == Some(false);
            if tells && concerns(key.name) && !switched_off {
                self.warn(key.name, text);
            }
        }
        self.authentication();
        self.word("ui.access", &["rw", "ro"]);
    }

    /// Fabio refuses schemes that make no sense; so the same settings are refused here.
    fn authentication(&mut self) {
        let key = "proxy.auth";
        let groups = match compound::parse(self.settings.text(key)) {
            Ok(groups) => groups,
            Err(error) => return self.refuse(key, error.to_string()),
        };
        for group in groups {
            let part = |name: &str| group.get(name).unwrap_or_default();
            let problem = match (part("name"), part("type"), part("file")) {
                ("", ..) => "a scheme has no name=".to_owned(),
                (name, "", _) => format!("scheme {name} has no type="),
                (name, "basic", "") => format!("scheme {name} has no file="),
                (name, "basic", _) => match part("refresh") {
                    "" => continue,
                    text if value::span(text).is_some() => continue,
                    text => format!("scheme {name}: refresh={text} is not a duration"),
                },
                (name, other, _) => format!("scheme {name}: type={other} is not known"),
            };
            self.refuse(key, problem);
        }
    }
}
