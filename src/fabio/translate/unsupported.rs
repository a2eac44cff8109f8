//! What is not carried out: warnings at start, and comments in the translation.

use super::super::keys::{self, Mapping};
use super::Translator;

impl Translator<'_> {
    pub(super) fn unsupported(&mut self) {
        let with_consul = self.settings.text("registry.backend") == "consul";
        let concerns = |name: &str| with_consul || !name.starts_with("registry.consul.");
        for key in keys::all() {
            let text = match key.mapping {
                Mapping::Becomes(_) => continue,
                Mapping::Nothing(reason) => format!("has no effect: {reason}"),
            };
            if self.settings.differs(key) && concerns(key.name) {
                self.warn(key.name, text);
            }
        }
        self.word("ui.access", &["rw", "ro"]);
        self.word(
            "profile.mode",
            &["", "cpu", "mem", "mutex", "block", "trace"],
        );
    }
}
