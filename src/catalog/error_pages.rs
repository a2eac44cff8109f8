//! Pages that take the place of failed responses (`error_pages` of `[policy.NAME]`): which file
//! stands for which status.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH,
    CONTENT_LOCATION, CONTENT_RANGE, CONTENT_TYPE, ETAG, LAST_MODIFIED, TRAILER, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Largest file, in bytes: all of them are kept in memory.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// Fields that tell about the content of a response, and not about the response: with another
/// content they would be wrong.
const OF_CONTENT: [HeaderName; 16] = [
    ACCEPT_RANGES,
    CONTENT_DISPOSITION,
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    CONTENT_LENGTH,
    CONTENT_LOCATION,
    CONTENT_RANGE,
    CONTENT_TYPE,
    ETAG,
    LAST_MODIFIED,
    TRAILER,
    TRANSFER_ENCODING,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("repr-digest"),
];

/// The kinds of files by the ending of their names.
const TYPES: [(&str, &str); 10] = [
    ("html", "text/html; charset=utf-8"),
    ("htm", "text/html; charset=utf-8"),
    ("txt", "text/plain; charset=utf-8"),
    ("json", "application/json"),
    ("xml", "application/xml"),
    ("svg", "image/svg+xml"),
    ("css", "text/css; charset=utf-8"),
    ("js", "text/javascript; charset=utf-8"),
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
];

/// Which file stands for which status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorPages {
    by_code: BTreeMap<u16, Arc<Path>>,
    /// By the hundreds: 4 and 5.
    by_class: BTreeMap<u16, Arc<Path>>,
}

impl ErrorPages {
    /// Puts the file for `status`, `404` or `5xx`.
    ///
    /// # Errors
    /// What is wrong with the status.
    pub fn put(&mut self, status: &str, file: PathBuf) -> Result<(), &'static str> {
        let digits = status.bytes().all(|byte| byte.is_ascii_digit());
        match (status, status.parse()) {
            ("4xx", _) => drop(self.by_class.insert(4, file.into())),
            ("5xx", _) => drop(self.by_class.insert(5, file.into())),
            (_, Ok(code @ 400..=599)) if digits => drop(self.by_code.insert(code, file.into())),
            _ => return Err("is neither a status from 400 to 599 nor 4xx or 5xx"),
        }
        Ok(())
    }

    /// The file for a response with this status: of the code, else of its class.
    #[must_use]
    pub fn file(&self, status: u16) -> Option<&Arc<Path>> {
        let class = || self.by_class.get(&(status / 100));
        self.by_code.get(&status).or_else(class)
    }

    /// All files.
    pub fn files(&self) -> impl Iterator<Item = &Arc<Path>> {
        self.by_code.values().chain(self.by_class.values())
    }
}

/// The Content-Type of a file, by its ending.
#[must_use]
pub fn content_type(file: &Path) -> HeaderValue {
    let ending = file.extension().and_then(|ending| ending.to_str());
    let ending = ending.unwrap_or_default().to_ascii_lowercase();
    let found = TYPES.iter().find(|(known, _)| *known == ending);
    HeaderValue::from_static(found.map_or("application/octet-stream", |(_, kind)| kind))
}

/// Makes the fields of a response fit for another content of this type.
pub fn replace_content(fields: &mut HeaderMap, content_type: &HeaderValue) {
    for name in &OF_CONTENT {
        fields.remove(name);
    }
    fields.insert(CONTENT_TYPE, content_type.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_goes_before_its_class() {
        let mut pages = ErrorPages::default();
        for (status, file) in [("404", "404.html"), ("4xx", "4.html"), ("503", "503.html")] {
            pages.put(status, file.into()).unwrap();
        }
        for (status, expected) in [
            (404, Some("404.html")),
            (403, Some("4.html")),
            (499, Some("4.html")),
            (503, Some("503.html")),
            (502, None),
            (200, None),
            (304, None),
            (604, None),
        ] {
            let found = pages.file(status).and_then(|path| path.to_str());
            assert_eq!(found, expected, "{status}");
        }
        assert_eq!(pages.files().count(), 3);
        for status in [
            "", "200", "399", "600", "6xx", "3xx", "4XX", "+404", "40", "4x",
        ] {
            assert!(pages.put(status, "x".into()).is_err(), "{status}");
        }
    }

    #[test]
    fn files_have_a_type_by_their_ending() {
        for (file, kind) in [
            ("a/404.html", "text/html; charset=utf-8"),
            ("404.HTM", "text/html; charset=utf-8"),
            ("e.json", "application/json"),
            ("e.tar.gz", "application/octet-stream"),
            ("page", "application/octet-stream"),
        ] {
            assert_eq!(content_type(Path::new(file)), kind, "{file}");
        }
    }

    #[test]
    fn what_is_said_of_the_content_goes_and_the_rest_stays() {
        let mut fields = HeaderMap::new();
        for name in &OF_CONTENT {
            fields.append(name, HeaderValue::from_static("x"));
        }
        for name in [
            "www-authenticate",
            "set-cookie",
            "retry-after",
            "cache-control",
            "vary",
        ] {
            fields.append(name, HeaderValue::from_static("kept"));
        }
        replace_content(&mut fields, &HeaderValue::from_static("text/plain"));
        assert_eq!(fields.len(), 6);
        assert_eq!(fields[CONTENT_TYPE], "text/plain");
    }
}
