//! Files of a web server: a list of their names, one a line, and the files beside it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::header::{ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED};
use http::{HeaderName, HeaderValue, StatusCode, Uri};

use super::error::SourceError;
use super::limits::{AT_A_TIME, ENTRIES_MAX, TEXT_BYTES_MAX};
use super::source::{FetchedCertificates, Pems};
use crate::config::Secret;
use crate::http_client::trust::Trust;
use crate::http_client::{self, Client, Limits, Request, shown};

/// Bounds of one request.
const LIMITS: Limits = Limits {
    time: Duration::from_secs(15),
    bytes: TEXT_BYTES_MAX,
};

/// How names of files with pairs end; CAs may lie in any file.
const PAIRS: &str = ".pem";
const CAS: &str = "";

pub(super) struct Source {
    client: Option<Client>,
    list: Option<Uri>,
    client_cas: Option<Uri>,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// What was fetched last, by URL: fetched again only if it changed.
    seen: HashMap<Uri, Seen>,
}

#[derive(Clone)]
struct Seen {
    body: Bytes,
    /// `If-None-Match` or `If-Modified-Since`.
    condition: Option<(HeaderName, HeaderValue)>,
}

impl Source {
    pub(super) fn new(
        url: &Secret,
        client_ca_url: Option<&Secret>,
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Self {
        // The configuration has looked at them.
        let parsed = |url: &Secret| url.reveal().parse().ok();
        Self {
            client: None,
            list: parsed(url),
            client_cas: client_ca_url.and_then(parsed),
            headers,
            seen: HashMap::new(),
        }
    }

    pub(super) async fn read(&mut self) -> Result<FetchedCertificates, SourceError> {
        if self.client.is_none() {
            self.client = Some(Client::new(&*Trust::default().client_config()?, None)?);
        }
        let mut seen = HashMap::new();
        let pairs = match self.list.clone() {
            Some(list) => Some(self.folder(&list, PAIRS, &mut seen).await?),
            None => None,
        };
        let client_cas = match self.client_cas.clone() {
            Some(list) => Some(self.folder(&list, CAS, &mut seen).await?),
            None => None,
        };
        self.seen = seen;
        Ok(FetchedCertificates { pairs, client_cas })
    }

    /// The files that a list names.
    async fn folder(
        &self,
        list: &Uri,
        suffix: &str,
        seen: &mut HashMap<Uri, Seen>,
    ) -> Result<Pems, SourceError> {
        let fetched = self.fetch(list).await?;
        let content = |reason: String| SourceError::Content {
            url: shown(list),
            reason,
        };
        let names = names(&fetched.body, suffix).map_err(content)?;
        seen.insert(list.clone(), fetched);
        let files = stream::iter(names).map(async |name| {
            let fetched = match beside(list, &name) {
                Some(url) => self
                    .fetch(&url)
                    .await
                    .map(|fetched| (url, fetched))
                    .map_err(|error| error.to_string()),
                None => Err("is not the name of a file beside the list".to_owned()),
            };
            (PathBuf::from(name), fetched)
        });
        let files: Vec<_> = files.buffered(AT_A_TIME).collect().await;
        let mut pems = Pems::new();
        for (name, fetched) in files {
            let text = fetched.map(|(url, fetched)| {
                let body = fetched.body.clone();
                seen.insert(url, fetched);
                body
            });
            pems.insert(name, text);
        }
        Ok(pems)
    }

    async fn fetch(&self, url: &Uri) -> Result<Seen, SourceError> {
        let Some(client) = &self.client else {
            return Err(SourceError::Content {
                url: shown(url),
                reason: "no client".to_owned(),
            });
        };
        let before = self.seen.get(url);
        let mut headers = self.headers.clone();
        headers.extend(before.and_then(|seen| seen.condition.clone()));
        let response = client
            .send(
                Request {
                    headers,
                    ..Request::get(url.clone())
                },
                LIMITS,
            )
            .await?;
        match (response.status(), before) {
            (StatusCode::NOT_MODIFIED, Some(before)) => Ok(before.clone()),
            (StatusCode::OK, _) => {
                let headers = response.headers();
                let condition = [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)]
                    .into_iter()
                    .find_map(|(validator, field)| Some((field, headers.get(validator)?.clone())));
                Ok(Seen {
                    condition,
                    body: response.into_body(),
                })
            }
            (status, _) => Err(SourceError::Status {
                url: shown(url),
                status,
            }),
        }
    }
}

/// The names in a list that end in `suffix`.
fn names(list: &[u8], suffix: &str) -> Result<Vec<String>, String> {
    let text = std::str::from_utf8(list).map_err(|_| "the list is not text in UTF-8".to_owned())?;
    let lines = text
        .lines()
        .map(|line| line.trim().trim_start_matches('/'))
        .filter(|line| !line.is_empty());
    let mut names: Vec<String> = lines
        .filter(|line| line.ends_with(suffix))
        .map(str::to_owned)
        .collect();
    names.sort_unstable();
    names.dedup();
    if names.len() > ENTRIES_MAX {
        return Err(format!(
            "the list has {} files, more than {ENTRIES_MAX}",
            names.len()
        ));
    }
    Ok(names)
}

/// The URL of a file in the folder of the list. What lets us read the list (a password, a query)
/// lets us read the file.
fn beside(list: &Uri, name: &str) -> Option<Uri> {
    // Dots that are percent-encoded lead out of the folder too.
    let odd = |segment: &str| {
        let plain = percent_encoding::percent_decode_str(segment).decode_utf8_lossy();
        matches!(&*plain, "" | "." | "..")
    };
    if name.contains(['?', '#', '\\', ':']) || name.split('/').any(odd) {
        return None;
    }
    let query = list
        .query()
        .map_or(String::new(), |query| format!("?{query}"));
    http_client::onward(list, &format!("{name}{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_hold_names_of_files() {
        let list = "b-cert.pem\r\nb-key.pem\n\n /a.pem \nREADME\na.pem\nsub/c.pem";
        assert_eq!(
            names(list.as_bytes(), PAIRS).unwrap(),
            ["a.pem", "b-cert.pem", "b-key.pem", "sub/c.pem"]
        );
        assert!(names(b"\xff", CAS).is_err());
        assert_eq!(names(b"ca.crt", CAS).unwrap(), ["ca.crt"]);
        let many: String = (0..=ENTRIES_MAX).map(|at| format!("{at}.pem\n")).collect();
        assert!(
            names(many.as_bytes(), PAIRS)
                .unwrap_err()
                .contains("1001 files")
        );
    }

    #[test]
    fn files_lie_beside_their_list() {
        let list: Uri = "https://u:p@h:1/x/list?key=v".parse().unwrap();
        let cases = [
            ("a.pem", Some("https://u:p@h:1/x/a.pem?key=v")),
            ("s/a.pem", Some("https://u:p@h:1/x/s/a.pem?key=v")),
            ("../a.pem", None),
            ("a/%2e%2E/b.pem", None),
            ("http://other/a.pem", None),
            ("a.pem?b", None),
            ("//other/a.pem", None),
        ];
        for (name, wanted) in cases {
            assert_eq!(
                beside(&list, name).map(|url| url.to_string()).as_deref(),
                wanted,
                "{name}"
            );
        }
    }
}
