//! `/api/manual` and `/manual`: route commands that are kept in a store, read and changed by hand.
//!
//! A change names the version that it was made from, so that two people cannot overwrite each other
//! unseen. A browser that was led here by another site is refused: it would bring the rights of its
//! user.

use futures_util::future::LocalBoxFuture;
use http::HeaderMap;
use http::header::{HOST, ORIGIN};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::html::{fill, push_element, push_html};
use super::routes_page::push_frame;
use crate::config::AdminConfig;

const TEMPLATE: &str = include_str!("overrides.html");

/// Where route commands are kept. A key is what stands behind the store's own prefix: empty, or
/// `/…`.
pub trait OverrideStore {
    /// The commands of a key and their version; empty and 0 when there are none.
    fn read<'a>(&'a self, key: &'a str) -> LocalBoxFuture<'a, Result<Override, String>>;
    /// Replaces them, if their version is this one, or if there are none; whether that was so.
    fn write<'a>(&'a self, key: &'a str, new: Override)
    -> LocalBoxFuture<'a, Result<bool, String>>;
    /// All keys there are.
    fn keys(&self) -> LocalBoxFuture<'_, Result<Vec<String>, String>>;
}

/// Route commands of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Override {
    /// The commands, one a line.
    #[serde(default)]
    pub value: String,
    /// Which change they are of. A text in JSON: it may be larger than what JavaScript counts.
    #[serde(
        default,
        serialize_with = "as_text",
        deserialize_with = "text_or_number"
    )]
    pub version: u64,
}

impl Override {
    /// Reads what a client sent: an object, and nothing else that serde would take for one.
    pub(super) fn from_json(body: &[u8]) -> Result<Self, serde_json::Error> {
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body)?;
        serde_json::from_value(object.into())
    }
}

fn as_text<S: serde::Serializer>(version: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(version)
}

fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u64),
        Text(String),
    }
    match Written::deserialize(deserializer)? {
        Written::Number(number) => Ok(number),
        Written::Text(text) => text
            .parse()
            .map_err(|_| D::Error::custom(format!("version {text:?} is not a number"))),
    }
}

/// The key that a path names, decoded. None for one that could leave the prefix of the store on its
/// way.
pub(super) fn key(path: &str) -> Option<String> {
    let key = percent_decode_str(path).decode_utf8().ok()?.into_owned();
    let segments = || key.split('/').skip(1);
    let last = segments().count();
    // The end may be empty: `/api/manual/` is a key of its own.
    let sound = |(at, segment): (usize, &str)| {
        !matches!(segment, "." | "..") && (!segment.is_empty() || at + 1 == last)
    };
    (segments().enumerate().all(sound) && !key.contains(char::is_control)).then_some(key)
}

/// Whether a browser sends this on behalf of another site. Programs send none of these headers.
pub(super) fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap_or_default())
    };
    let elsewhere =
        text("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none"));
    let host = text(HOST.as_str()).unwrap_or_default();
    let of_other = text(ORIGIN.as_str()).is_some_and(|origin| {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        !authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
    });
    elsewhere || of_other
}

/// The page for the key behind `path`, with links to all that are kept.
pub(super) fn render(path: &str, keys: &[String], config: &AdminConfig, nonce: &str) -> String {
    fill(TEMPLATE, |html, marker| match marker {
        "API" => {
            push_html(html, &config.path);
            html.push_str("/api/manual");
            push_html(html, path);
        }
        "PATHS" => {
            for key in keys {
                let name = if key.is_empty() { "default" } else { key };
                // What stands beside the path, and not below it, counts as well, but no page leads
                // there.
                if !(key.is_empty() || key.starts_with('/')) {
                    push_element(html, "li class=\"mono\"", "li", name);
                    continue;
                }
                html.push_str("<li><a class=\"mono\" href=\"");
                push_html(html, &config.path);
                html.push_str("/manual");
                push_html(html, &utf8_percent_encode(key, KEY).to_string());
                html.push_str("\">");
                push_html(html, name);
                html.push_str("</a></li>");
            }
        }
        other => push_frame(html, other, config, nonce),
    })
}

/// What may stand in a path: slashes part the segments of a key.
const KEY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_below_the_prefix() {
        let cases = [
            ("", Some("")),
            ("/", Some("/")),
            ("/a", Some("/a")),
            ("/a/b%20c/", Some("/a/b c/")),
            ("/%C3%A9", Some("/é")),
            ("/../x", None),
            ("/a/%2e%2e/x", None),
            ("/a/.", None),
            ("//a", None),
            ("/a%2F%2Fb", None),
            ("/%00", None),
            ("/%ff", None),
        ];
        for (path, expected) in cases {
            assert_eq!(key(path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn versions_are_texts_and_may_be_numbers() {
        let read = |text: &str| {
            Override::from_json(text.as_bytes())
                .ok()
                .map(|read| (read.value, read.version))
        };
        let new = |value: &str, version| Some((value.to_owned(), version));
        assert_eq!(
            read(r#"{"value":"x","version":"18446744073709551615"}"#),
            new("x", u64::MAX)
        );
        assert_eq!(read(r#"{"value":"x","version":7,"more":1}"#), new("x", 7));
        assert_eq!(read(r#"{"value":"x"}"#), new("x", 0));
        for wrong in [
            "",
            "[]",
            r#"{"value":1}"#,
            r#"{"version":"x"}"#,
            r#"{"version":"-1"}"#,
            r#"{"version":""}"#,
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        let written = serde_json::to_string(&Override {
            value: "a".to_owned(),
            version: 3,
        })
        .unwrap();
        assert_eq!(written, r#"{"value":"a","version":"3"}"#);
    }

    #[test]
    fn browsers_of_other_sites_are_told_apart() {
        let foreign = |headers: &[(&'static str, &'static str)]| {
            let map = headers
                .iter()
                .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            is_foreign(&map.collect())
        };
        assert!(!foreign(&[("host", "lb:9998")]));
        assert!(!foreign(&[
            ("host", "lb:9998"),
            ("origin", "http://LB:9998"),
            ("sec-fetch-site", "same-origin")
        ]));
        assert!(foreign(&[
            ("host", "lb:9998"),
            ("origin", "http://evil.test")
        ]));
        assert!(foreign(&[("host", "lb:9998"), ("origin", "http://lb:1")]));
        assert!(foreign(&[("host", "lb:9998"), ("origin", "null")]));
        assert!(foreign(&[
            ("host", "lb:9998"),
            ("sec-fetch-site", "cross-site")
        ]));
        assert!(foreign(&[("origin", "http://lb:9998")]));
    }

    #[test]
    fn the_page_takes_no_markup_from_keys() {
        let attack = "/<script>\"'{{NONCE}}";
        let config = AdminConfig {
            writable: true,
            ..AdminConfig::default()
        };
        let html = render(
            attack,
            &[String::new(), attack.to_owned()],
            &config,
            "NONCE123",
        );
        assert_eq!(html.matches("<script").count(), 1, "{html}");
        assert_eq!(html.matches("NONCE123").count(), 2, "{html}");
        assert!(
            html.contains("data-api=\"/api/manual/&lt;script&gt;&quot;&#39;{{NONCE}}\""),
            "{html}"
        );
        assert!(
            html.contains("href=\"/manual/%3Cscript%3E%22%27%7B%7BNONCE%7D%7D\""),
            "{html}"
        );
        assert!(html.contains(">default</a>"), "{html}");
        let html = render("", &["-x<".to_owned()], &config, "NONCE123");
        assert!(html.contains("<li class=\"mono\">-x&lt;</li>"), "{html}");
    }
}
