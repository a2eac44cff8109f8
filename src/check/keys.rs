//! Dials the URLs that keys for tokens come from (`lb check --live`).

use std::time::Duration;

use crate::config::{AuthKind, Config, JwtAuth, JwtKeys};
use crate::http_client::trust::Trust;
use crate::http_client::{Client, Limits, Request};
use crate::jwt::KeySet;
use crate::sources::ProbeStep;

/// Largest set of keys, in bytes.
const BYTES_MAX: usize = 1 << 20;

/// A step for each scheme whose keys are fetched.
pub async fn probe(config: &Config) -> Vec<ProbeStep> {
    let mut steps = Vec::new();
    for (name, scheme) in &config.auth {
        let AuthKind::Jwt(jwt) = &scheme.kind else {
            continue;
        };
        let JwtKeys::Url { url, ca_file } = &jwt.keys else {
            continue;
        };
        let ca_file = ca_file.as_ref().or(config.proxy.upstream_ca_file.as_ref());
        let trust = Trust {
            ca_file: ca_file.map(AsRef::as_ref),
            ..Trust::default()
        };
        steps.push(match fetch(jwt, url.reveal(), trust).await {
            Ok(keys) => ProbeStep::good(
                "keys",
                format!("[auth.{name}]: {} keys, {} left out", keys.len(), keys.left_out),
            ),
            Err(error) => ProbeStep::failed(
                "keys",
                format!("[auth.{name}]: {error}"),
                Some(format!(
                    "see auth.{name}.jwks_url and auth.{name}.ca_file; until there are keys its routes respond 503"
                )),
            ),
        });
    }
    steps
}

async fn fetch(jwt: &JwtAuth, url: &str, trust: Trust<'_>) -> Result<KeySet, String> {
    let url = url.parse().map_err(|_| "its jwks_url is not a URL")?;
    let tls = trust.client_config().map_err(|error| error.to_string())?;
    let client = Client::new(&tls, None).map_err(|error| error.to_string())?;
    let limits = Limits {
        time: jwt.timeout.max(Duration::from_secs(1)),
        bytes: BYTES_MAX,
    };
    let response = client.send(Request::get(url), limits).await;
    let response = response.map_err(|error| error.to_string())?;
    if !response.status().is_success() {
        return Err(format!("the response has status {}", response.status()));
    }
    KeySet::parse(response.body(), false).map_err(|error| error.to_string())
}
