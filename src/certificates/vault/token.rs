//! Tokens: where they are, what they are wrapped in, and how they stay valid.
//!
//! A wrapped token can be unwrapped once. So what came out of it is kept for the life of the
//! process, shared by all sources that use it, and renewed until it cannot be.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::api::{Api, Base};
use crate::certificates::error::SourceError;
use crate::certificates::limits::BACKOFF;
use crate::config::TokenPlace;
use crate::sources::backoff::Backoff;

/// Shortest pause between renewals, so that a token that is granted for a second is not renewed in
/// a tight loop.
const RENEWAL_PAUSE_MIN: Duration = Duration::from_millis(500);

/// Tokens in use, by where they were found.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<HashMap<String, Known>>);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens(***)")
    }
}

struct Known {
    /// As it was found.
    found: String,
    /// As it is used.
    token: HeaderValue,
    renewal: JoinHandle<()>,
}

impl Drop for Known {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

impl Tokens {
    /// The token to use now.
    pub(super) async fn token(
        &self,
        base: &Arc<Base>,
        place: &TokenPlace,
    ) -> Result<HeaderValue, SourceError> {
        let found = find(place)?;
        let config = &base.config;
        let key = format!(
            "{} {:?} {}",
            config.address,
            config.namespace,
            name_of(place, &found)
        );
        let mut known = self.0.lock().await;
        if let Some(known) = known.get(&key).filter(|known| known.found == found) {
            return Ok(known.token.clone());
        }
        let token = unwrapped(base, header(&found)?).await?;
        let renewal = tokio::spawn(keep_alive(Api::new(Arc::clone(base), token.clone())));
        known.insert(
            key,
            Known {
                found,
                token: token.clone(),
                renewal,
            },
        );
        Ok(token)
    }
}

/// What a token is kept under: its place, so that a new one there takes the place of the old one;
/// or itself.
fn name_of(place: &TokenPlace, found: &str) -> String {
    match place {
        TokenPlace::File(path) => format!("file {}", path.display()),
        TokenPlace::Env(name) => format!("env {name}"),
        TokenPlace::Text(_) | TokenPlace::Nowhere => format!("text {found}"),
    }
}

fn find(place: &TokenPlace) -> Result<String, SourceError> {
    let missing = |reason: String| SourceError::Token(reason);
    let text = match place {
        TokenPlace::Nowhere => {
            return Err(missing(
                "set VAULT_TOKEN, or token or token_file in [vault]".to_owned(),
            ));
        }
        TokenPlace::Text(text) => text.reveal().to_owned(),
        TokenPlace::File(path) => std::fs::read_to_string(path)
            .map_err(|error| missing(format!("{}: {error}", path.display())))?,
        TokenPlace::Env(name) => std::env::var(name)
            .map_err(|_| missing(format!("the environment variable {name} is not set")))?,
    };
    match text.trim() {
        "" => Err(missing("it is empty".to_owned())),
        token => Ok(token.to_owned()),
    }
}

fn header(token: &str) -> Result<HeaderValue, SourceError> {
    let mut value = HeaderValue::from_str(token).map_err(|_| {
        SourceError::Token("it holds characters that cannot stand in a header".to_owned())
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The token inside, if it is a wrapped one.
async fn unwrapped(base: &Arc<Base>, token: HeaderValue) -> Result<HeaderValue, SourceError> {
    let api = Api::new(Arc::clone(base), token.clone());
    match api.post("sys/wrapping/unwrap", None).await {
        Ok(response) => match response
            .pointer("/auth/client_token")
            .and_then(Value::as_str)
        {
            Some(inside) => {
                tracing::info!("vault: the token was a wrapped one and is unwrapped");
                header(inside)
            }
            None => Err(SourceError::Token(
                "what it wraps is not a token".to_owned(),
            )),
        },
        // Not a wrapped one (400), or one without the right to look that up (403). If it is not
        // valid, the next request shows it.
        Err(SourceError::Vault { status, .. }) if status.is_client_error() => Ok(token),
        Err(error) => Err(error),
    }
}

/// Renews a token at half of its life, as long as that is possible.
async fn keep_alive(api: Api) {
    let mut rng = fastrand::Rng::new();
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    let mut life = loop {
        match api.get("auth/token/lookup-self", "").await {
            Ok(response) => {
                match first_life(response.as_ref().and_then(|response| response.get("data"))) {
                    Life::Endless => return,
                    Life::Ends(after) => {
                        tracing::warn!(
                            after_s = after.as_secs(),
                            "vault: the token ends then, and cannot be renewed"
                        );
                        return;
                    }
                    Life::Renewable(life) => break life,
                }
            }
            Err(error @ SourceError::Vault { status, .. }) if status.is_client_error() => {
                tracing::warn!(%error, "vault: the token cannot be looked up and is not renewed");
                return;
            }
            Err(_) => sleep(backoff.failed(&mut rng).max(RENEWAL_PAUSE_MIN)).await,
        }
    };
    backoff.succeeded();
    loop {
        sleep((life.now / 2).max(RENEWAL_PAUSE_MIN)).await;
        let wanted = json!({ "increment": life.whole.as_secs() });
        life.now = loop {
            match api.post("auth/token/renew-self", Some(&wanted)).await {
                Ok(response) => {
                    backoff.succeeded();
                    match renewed(response.get("auth")) {
                        Some(lease) => break lease,
                        None => {
                            tracing::warn!("vault: the token cannot be renewed any more");
                            return;
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "vault: the token was not renewed");
                    if matches!(
                        error,
                        SourceError::Vault {
                            status: StatusCode::FORBIDDEN,
                            ..
                        }
                    ) {
                        return;
                    }
                    sleep(backoff.failed(&mut rng).max(RENEWAL_PAUSE_MIN)).await;
                }
            }
        };
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Endless,
    /// In this time, whatever is done.
    Ends(Duration),
    Renewable(Lease),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease {
    now: Duration,
    /// What it was made for.
    whole: Duration,
}

/// What `lookup-self` says.
fn first_life(data: Option<&Value>) -> Life {
    let field = |name: &str| data.and_then(|data| data.get(name));
    let seconds =
        |name: &str| Duration::from_secs(field(name).and_then(Value::as_u64).unwrap_or_default());
    let now = seconds("ttl");
    match field("renewable").and_then(Value::as_bool) {
        Some(true) => Life::Renewable(Lease {
            now,
            whole: seconds("creation_ttl").max(now),
        }),
        _ if now.is_zero() => Life::Endless,
        _ => Life::Ends(now),
    }
}

/// What `renew-self` grants; none when it was the last time.
fn renewed(auth: Option<&Value>) -> Option<Duration> {
    let renewable = auth?.get("renewable")?.as_bool()?;
    let lease = auth?.get("lease_duration")?.as_u64()?;
    (renewable && lease > 0).then(|| Duration::from_secs(lease))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn lives_are_read_from_responses() {
        let seconds = Duration::from_secs;
        let lease = |now, whole| {
            Life::Renewable(Lease {
                now: seconds(now),
                whole: seconds(whole),
            })
        };
        let cases = [
            (
                json!({ "ttl": 0, "renewable": false, "expire_time": null }),
                Life::Endless,
            ),
            (
                json!({ "ttl": 60, "renewable": false }),
                Life::Ends(seconds(60)),
            ),
            (
                json!({ "ttl": 50, "creation_ttl": 60, "renewable": true }),
                lease(50, 60),
            ),
            (json!({}), Life::Endless),
        ];
        for (data, wanted) in cases {
            assert_eq!(first_life(Some(&data)), wanted, "{data}");
        }
        assert_eq!(
            renewed(Some(&json!({ "renewable": true, "lease_duration": 7 }))),
            Some(seconds(7))
        );
        assert_eq!(
            renewed(Some(&json!({ "renewable": false, "lease_duration": 7 }))),
            None
        );
        assert_eq!(renewed(None), None);
    }

    #[test]
    fn places_hold_tokens_or_say_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let file = TokenPlace::File(path.clone());
        assert!(
            find(&file).unwrap_err().to_string().contains("token: "),
            "names the file"
        );
        std::fs::write(&path, " a\n").unwrap();
        assert_eq!(find(&file).unwrap(), "a");
        std::fs::write(&path, "\n").unwrap();
        assert!(
            find(&file)
                .unwrap_err()
                .to_string()
                .ends_with("it is empty")
        );
        assert_eq!(find(&TokenPlace::Text(Secret::new("b"))).unwrap(), "b");
        assert!(
            find(&TokenPlace::Nowhere)
                .unwrap_err()
                .to_string()
                .contains("VAULT_TOKEN")
        );
        assert!(
            find(&TokenPlace::Env("LB_NOT_SET".to_owned()))
                .unwrap_err()
                .to_string()
                .contains("LB_NOT_SET")
        );
    }
}
