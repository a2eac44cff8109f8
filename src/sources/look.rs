//! What `lb check` looks at for a source.

use std::path::Path;

/// Something that the configuration of a source names, under its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look<'a> {
    /// A file that has to be readable.
    File(&'static str, &'a Path),
    /// A file with a token: readable, not empty, and closed to others.
    Token(&'static str, &'a Path),
    /// CA certificates.
    Authorities(&'static str, Pem<'a>),
    /// A folder of files with CA certificates.
    AuthoritiesBelow(&'static str, &'a Path),
    /// A client certificate with its private key. Half a pair is a mistake of the configuration;
    /// whether the half is sound is worth knowing as well.
    ClientPair {
        /// Key of the configuration, and the chain.
        cert: Option<(&'static str, Pem<'a>)>,
        /// Key of the configuration, and the private key.
        key: Option<(&'static str, Pem<'a>)>,
    },
    /// A file of route commands.
    CommandFile(&'static str, &'a Path),
    /// Route commands in the configuration itself.
    Commands(&'static str, &'a str),
}

/// Where a PEM text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pem<'a> {
    /// In a file.
    File(&'a Path),
    /// In the configuration itself.
    Text(&'a str),
}

impl<'a> Pem<'a> {
    /// That of a key for a file and a key for a text, with the name of the one that is set; the file
    /// goes first.
    #[must_use]
    pub fn of(
        (file_key, file): (&'static str, &'a Option<std::path::PathBuf>),
        (text_key, text): (&'static str, Option<&'a str>),
    ) -> Option<(&'static str, Self)> {
        match (file, text) {
            (Some(path), _) => Some((file_key, Self::File(path))),
            (None, Some(text)) => Some((text_key, Self::Text(text))),
            (None, None) => None,
        }
    }
}
