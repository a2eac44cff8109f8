//! Single keys of the KV store, read and changed for the admin listener.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::client::{ConsulResponse, Mode};
use super::error::ConsulError;
use super::keys;
use super::shared::Shared;
use crate::sources::key_store::{KeyStore, Value};

/// Reads and writes keys on the connections of the watches.
pub(super) struct KeyEditor {
    shared: Arc<Shared>,
}

/// As Consul writes it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Wire {
    /// Base64; null for a key without a value.
    value: Option<String>,
    modify_index: u64,
}

impl KeyEditor {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// What the leader knows of a key; empty when there is none.
    ///
    /// # Errors
    /// Consul cannot be reached, or refuses.
    async fn read(&self, key: &str) -> Result<Value, ConsulError> {
        let path = keys::of(key);
        let response = self.get(&path).await?;
        let found: Vec<Wire> = decode(&path, &response)?;
        let Some(wire) = found.into_iter().next() else {
            return Ok(Value {
                text: String::new(),
                version: response.index.unwrap_or(0),
            });
        };
        let bytes = BASE64_STANDARD
            .decode(wire.value.unwrap_or_default())
            .map_err(|error| ConsulError::Decode {
                path,
                reason: error.to_string(),
            })?;
        Ok(Value {
            text: String::from_utf8_lossy(&bytes).trim().to_owned(),
            version: wire.modify_index,
        })
    }

    /// Changes a key whose last change is `version`; 0: one that does not exist. Whether it was so.
    ///
    /// # Errors
    /// As [`KeyEditor::read`]; whether the change was made is not known then.
    async fn write(&self, key: &str, text: &str, version: u64) -> Result<bool, ConsulError> {
        let path = keys::of(key);
        let body = Bytes::copy_from_slice(text.as_bytes());
        let response = self
            .shared
            .client
            .put(&path, &format!("cas={version}"), body)
            .await;
        let response = response.inspect_err(|error| self.shared.count(error))?;
        decode(&path, &response)
    }

    /// All keys that begin with `prefix`, in the order of their names.
    ///
    /// # Errors
    /// As [`KeyEditor::read`].
    async fn names(&self, prefix: &str) -> Result<Vec<String>, ConsulError> {
        let path = format!("{}?keys", keys::of(prefix));
        let mut names: Vec<String> = decode(&path, &self.get(&path).await?)?;
        names.sort_unstable();
        Ok(names)
    }

    async fn get(&self, path: &str) -> Result<ConsulResponse, ConsulError> {
        let response = self.shared.client.get(path, Mode::Default, None).await;
        response.inspect_err(|error| self.shared.count(error))
    }
}

impl KeyStore for KeyEditor {
    fn read<'a>(&'a self, key: &'a str) -> LocalBoxFuture<'a, Result<Value, String>> {
        Box::pin(async move { in_words(self.read(key).await) })
    }

    fn write<'a>(
        &'a self,
        key: &'a str,
        text: &'a str,
        version: u64,
    ) -> LocalBoxFuture<'a, Result<bool, String>> {
        Box::pin(async move { in_words(self.write(key, text, version).await) })
    }

    fn names<'a>(&'a self, prefix: &'a str) -> LocalBoxFuture<'a, Result<Vec<String>, String>> {
        Box::pin(async move { in_words(self.names(prefix).await) })
    }
}

fn in_words<T>(result: Result<T, ConsulError>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

fn decode<T: DeserializeOwned>(path: &str, response: &ConsulResponse) -> Result<T, ConsulError> {
    let failed = |error: serde_json::Error| ConsulError::Decode {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    serde_json::from_slice(&response.body).map_err(failed)
}
