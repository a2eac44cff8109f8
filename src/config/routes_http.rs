//! `[routes_http]`: an endpoint that is polled for route commands.

use std::path::PathBuf;
use std::time::Duration;

use super::declare::{Checked, section};
use super::key::{DAY, HOUR};
use super::mask::without_secrets;
use super::reader::Reader;
use super::secret::Secret;
use super::url::check_web_url;
use super::value::Headers;

section! {
    /// An endpoint that responds with routes: a JSON list of objects with cmd, service, src, dst,
    /// weight, tags and opts, each meaning what such a command means in the route language. A
    /// source of its own beside Consul and the others. While it gives no such list, the last one
    /// stays in force.
    pub struct RoutesHttpConfig is Once "routes_http" [restart] {
        /// The URL to GET. Responses up to 64 MiB are taken.
        url: Secret = unset "https://routes.example.com/lb" => without_secrets;

        /// Sent with each request to the URL's host.
        headers: Headers = unset "Authorization: Bearer 1234";

        /// Time from one response to the next request.
        refresh: Duration = "10s" in (100, DAY);

        /// Limit for one request.
        timeout: Duration = "5s" in (100, HOUR);

        /// CAs of its certificate. Without it: the system's.
        ca_file: Option<PathBuf> = unset "routes-ca.pem";

        /// Takes any certificate.
        skip_verify: bool = "false";
    }
}

impl Checked for RoutesHttpConfig {
    /// Without a URL the section is as if it were not there.
    fn prepare(reader: &mut Reader<'_>) {
        if reader.has("url") {
            return;
        }
        let others = ["headers", "refresh", "timeout", "ca_file", "skip_verify"];
        if let Some(key) = others.iter().find(|key| reader.has(key)) {
            reader.warn(key, "has no effect without a URL", "set routes_http.url");
        }
        others.iter().for_each(|key| reader.leave_out(key));
    }

    fn check(&mut self, reader: &mut Reader<'_>) {
        let example = "https://routes.example.com/lb";
        self.url = check_web_url(reader, "url", self.url.clone(), example).unwrap_or_default();
    }
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
        assert!(read("refresh = \"1ms\"").is_ok());
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
