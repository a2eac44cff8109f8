//! `[routes_http]`: an endpoint that is asked for route commands.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::mistake::Mistake;
use super::reader::Reader;
use super::secret::Secret;
use super::sources::web_url;

/// How to ask for routes.
#[derive(Clone, Debug, PartialEq)]
pub struct RoutesHttpConfig {
    /// Where: an `http://` or `https://` URL (`url`).
    pub url: Secret,
    /// Sent along (`headers`).
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Time from one answer to the next request (`refresh`).
    pub refresh: Duration,
    /// Limit for one request (`timeout`).
    pub timeout: Duration,
    /// PEM bundle of CAs; none: the system's (`ca_file`).
    pub ca_file: Option<PathBuf>,
    /// Accept any server certificate (`skip_verify`).
    pub skip_verify: bool,
}

/// Reads the section; none without a URL.
pub(super) fn routes_http(
    reader: &mut Reader<'_>,
    warnings: &mut Vec<Mistake>,
) -> Option<RoutesHttpConfig> {
    if !reader.has("url") {
        if let Some(key) = ["headers", "refresh", "timeout", "ca_file", "skip_verify"]
            .iter()
            .find(|key| reader.has(key))
        {
            warnings.push(reader.about(key, "has no effect without a URL", "set routes_http.url"));
        }
        return None;
    }
    Some(RoutesHttpConfig {
        url: web_url(reader, "url", "https://routes.example.com/lb").unwrap_or_default(),
        headers: reader.headers("headers"),
        refresh: reader.time("refresh"),
        timeout: reader.time("timeout"),
        ca_file: reader.path("ca_file"),
        skip_verify: reader.bool("skip_verify"),
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Inputs, load};
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let file = Some(("lb.toml".into(), format!("[routes_http]\n{text}\n")));
        load(&Inputs {
            file,
            ..Inputs::default()
        })
        .map(|loaded| loaded.config)
        .map_err(|mistakes| mistakes.to_string())
    }

    #[test]
    fn an_endpoint_is_a_source_beside_which_consul_is_left_out() {
        let config =
            read("url = \"https://u:hush@routes.test/lb?key=hush\"\nheaders = [\"X-Key: hush\"]")
                .unwrap();
        assert_eq!(config.consul, None);
        let shown = config.to_masked_json().to_string();
        assert!(
            !shown.contains("hush") && shown.contains("routes.test/lb"),
            "{shown}"
        );
        let found = config.routes_http.unwrap();
        assert!(!format!("{found:?}").contains("key=hush"), "{found:?}");
        assert_eq!(
            (found.refresh, found.timeout),
            (Duration::from_secs(10), Duration::from_secs(5))
        );
        let idle = read("refresh = \"3s\"").unwrap();
        assert_eq!(
            idle,
            Config::default(),
            "without a URL, all is as if the section were not there"
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, problem) in [
            ("url = \"routes.test/lb\"", "is not a URL"),
            ("url = \"ftp://routes.test/\"", "is not a URL"),
            ("url = \"http://h/\"\nrefresh = \"1ms\"", "refresh"),
        ] {
            let mistakes = read(text).unwrap_err();
            assert!(mistakes.contains(problem), "{text}: {mistakes}");
        }
    }
}
