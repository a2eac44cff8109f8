//! What is not carried out: warnings at start, and comments in the translation.

use super::super::keys::{self, ACTIVE, Fate};
use super::super::value;
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
        self.word("ui.access", &["rw", "ro"]);
        self.word("profile.mode", &["", "cpu", "mem", "mutex", "block", "trace"]);
    }
}
