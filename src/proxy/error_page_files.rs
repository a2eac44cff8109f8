//! The contents of the files that take the place of failed responses.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;

use crate::catalog::error_pages::{ErrorPages, FILE_BYTES_MAX, content_type};

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorPage {
    /// What the file holds.
    pub content: Bytes,
    /// What it is.
    pub content_type: HeaderValue,
}

/// All of them, by the names of the files.
#[derive(Clone, Debug, Default)]
pub struct ErrorPageFiles(HashMap<Arc<Path>, ErrorPage>);

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ErrorPageError {
    /// It cannot be read.
    #[error("error page {path} cannot be read: {source}")]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is too large.
    #[error("error page {0} is larger than {FILE_BYTES_MAX} bytes: make it smaller")]
    TooLarge(PathBuf),
}

impl ErrorPageFiles {
    /// Reads every file that one of `pages` names; and the files that cannot be used, which are not
    /// among them.
    #[must_use]
    pub fn load<'a>(
        pages: impl Iterator<Item = &'a Arc<ErrorPages>>,
    ) -> (Self, Vec<ErrorPageError>) {
        let (mut files, mut errors) = (HashMap::new(), Vec::new());
        for path in pages.flat_map(|pages| pages.files()) {
            if files.contains_key(path) {
                continue;
            }
            match read(path) {
                Ok(content) => {
                    let page = ErrorPage {
                        content,
                        content_type: content_type(path),
                    };
                    files.insert(Arc::clone(path), page);
                }
                Err(error) => errors.push(error),
            }
        }
        (Self(files), errors)
    }

    /// The page for a response with this status; none where none is named, or it could not be read.
    #[must_use]
    pub fn page(&self, pages: &ErrorPages, status: u16) -> Option<&ErrorPage> {
        self.0.get(pages.file(status)?)
    }
}

fn read(path: &Path) -> Result<Bytes, ErrorPageError> {
    let mut content = Vec::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content));
    match read {
        Ok(_) if content.len() as u64 > FILE_BYTES_MAX => {
            Err(ErrorPageError::TooLarge(path.to_owned()))
        }
        Ok(_) => Ok(content.into()),
        Err(source) => Err(ErrorPageError::Unreadable {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("good.html"), "<p>good").unwrap();
        std::fs::write(path("large"), vec![b'x'; FILE_BYTES_MAX as usize + 1]).unwrap();
        std::fs::write(path("full.txt"), vec![b'x'; FILE_BYTES_MAX as usize]).unwrap();
        let mut pages = ErrorPages::default();
        for (status, name) in [
            ("404", "good.html"),
            ("410", "good.html"),
            ("500", "large"),
            ("501", "absent"),
            ("5xx", "full.txt"),
        ] {
            pages.put(status, path(name)).unwrap();
        }
        let (files, errors) = ErrorPageFiles::load([&Arc::new(pages.clone())].into_iter());
        assert_eq!(errors.len(), 2, "{errors:?}");
        let told = format!("{} {}", errors[0], errors[1]);
        assert!(told.contains("large") && told.contains("absent"), "{told}");
        let page = files.page(&pages, 404).unwrap();
        assert_eq!(page.content, "<p>good");
        assert_eq!(page.content_type, "text/html; charset=utf-8");
        assert_eq!(files.page(&pages, 502).unwrap().content.len(), 1 << 20);
        // No page is better than the wrong one.
        assert_eq!(files.page(&pages, 501), None);
        assert_eq!(files.page(&pages, 403), None);
    }
}
