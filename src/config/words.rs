//! Words of a setting: an enum and the word of each variant, said once.

/// A type whose values are words in the configuration. Made by [`words!`].
pub(crate) trait Words: Copy + PartialEq + 'static {
    /// All of them, in the order of their declaration.
    const ALL: &'static [Self];
    /// Their words, in the same order.
    const WORDS: &'static [&'static str];

    /// The word of this one.
    fn word(self) -> &'static str;

    /// The one with this word.
    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|it| it.word() == word)
    }
}

/// Declares an enum with a word for each variant; or, for an enum of another module, the words
/// alone (`words! { for Matcher { Prefix = "prefix", … } }`).
///
/// ```text
/// words! {
///     /// When the door is open.
///     pub enum Opening {
///         /// Always.
///         Always = "always",
///         /// On working days.
///         Working = "working-days",
///     }
/// }
/// Opening::Working.as_str() == "working-days"
/// ```
macro_rules! words {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// Its word in the configuration.
            #[must_use]
            $vis fn as_str(self) -> &'static str {
                $crate::config::words::Words::word(self)
            }
        }

        $crate::config::words::words! { for $name { $($variant = $word,)+ } }
    };
    (for $name:ident { $($variant:ident = $word:literal,)+ }) => {
        impl $crate::config::words::Words for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),+];
            const WORDS: &'static [&'static str] = &[$($word),+];

            fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
    };
}
pub(crate) use words;

#[cfg(test)]
mod tests {
    use super::*;

    words! {
        /// When the door is open.
        enum Opening {
            /// Always.
            Always = "always",
            /// On working days.
            Working = "working-days",
        }
    }

    #[test]
    fn words_lead_to_variants_and_back() {
        assert_eq!(Opening::WORDS, ["always", "working-days"]);
        for (variant, word) in Opening::ALL.iter().zip(Opening::WORDS) {
            assert_eq!(variant.as_str(), *word);
            assert_eq!(Opening::from_word(word), Some(*variant));
        }
        assert_eq!(Opening::from_word("never"), None);
    }
}
