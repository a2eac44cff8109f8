//! Entries of a KV engine, of version 1 or 2: each a pair, in the fields `cert` and `key`.

use std::path::PathBuf;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde_json::Value;

use super::api::Api;
use crate::certificates::error::SourceError;
use crate::certificates::limits::{AT_A_TIME, ENTRIES_MAX};
use crate::certificates::source::{FetchedCertificates, Pems};

pub(in crate::certificates) async fn read(
    api: Api,
    pairs: Option<&str>,
    client_cas: Option<&str>,
) -> Result<FetchedCertificates, SourceError> {
    let mut fetched = FetchedCertificates::default();
    if let Some(path) = pairs {
        fetched.pairs = Some(entries(&api, path, &["cert", "key"]).await?);
    }
    if let Some(path) = client_cas {
        fetched.client_cas = Some(entries(&api, path, &["cert"]).await?);
    }
    Ok(fetched)
}

/// The fields of all entries below a path, as `NAME-FIELD.pem`.
async fn entries(api: &Api, path: &str, fields: &[&str]) -> Result<Pems, SourceError> {
    let mount = mount(api, path).await?;
    let list = mount.path(path, "metadata");
    let Some(response) = api.get(&list, "?list=true").await? else {
        return Ok(Pems::new());
    };
    let names = names(&response);
    if names.len() > ENTRIES_MAX {
        let reason = format!("{} entries, more than {ENTRIES_MAX}", names.len());
        return Err(SourceError::Content { url: list, reason });
    }
    let read = stream::iter(names).map(async |name: String| {
        let response = api
            .get(&mount.path(&format!("{path}/{name}"), "data"), "")
            .await;
        (name, response)
    });
    let read: Vec<_> = read.buffered(AT_A_TIME).collect().await;
    let mut pems = Pems::new();
    for (name, response) in read {
        let file = |field: &str| PathBuf::from(format!("{name}-{field}.pem"));
        match response {
            Ok(response) => {
                for field in fields {
                    if let Some(text) = response
                        .as_ref()
                        .and_then(|response| mount.field(response, field))
                    {
                        pems.insert(file(field), text);
                    }
                }
            }
            // It is there: whether it is a pair is not known, so what was a pair stays one.
            Err(error) => {
                pems.insert(file("cert"), Err(error.to_string()));
            }
        }
    }
    Ok(pems)
}

/// The engine that a path belongs to.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// With its slash, like `secret/`; empty where it is not known.
    at: String,
    versioned: bool,
}

impl Mount {
    /// Where a request has to go: engines of version 2 want to know what for (`data`, `metadata`).
    fn path(&self, path: &str, kind: &str) -> String {
        match (self.versioned, path.strip_prefix(&*self.at)) {
            (true, Some(rest)) => format!("{}{kind}/{rest}", self.at),
            (true, None) => format!("{}{kind}", self.at),
            (false, _) => path.to_owned(),
        }
    }

    /// A field of an entry that was read.
    fn field(&self, response: &Value, name: &str) -> Option<Result<Bytes, String>> {
        let data = if self.versioned {
            "/data/data"
        } else {
            "/data"
        };
        match response.pointer(data)?.get(name)? {
            Value::Null => None,
            Value::String(text) => Some(Ok(Bytes::from(text.clone()))),
            _ => Some(Err(format!("the field {name} is not text"))),
        }
    }
}

async fn mount(api: &Api, path: &str) -> Result<Mount, SourceError> {
    // Servers that do not know this path have no engines of version 2.
    let response = api
        .get(&format!("sys/internal/ui/mounts/{path}"), "")
        .await?;
    Ok(mount_of(response.as_ref()))
}

fn mount_of(response: Option<&Value>) -> Mount {
    let text = |pointer: &str| {
        response
            .and_then(|response| response.pointer(pointer))
            .and_then(Value::as_str)
    };
    Mount {
        at: text("/data/path").unwrap_or_default().to_owned(),
        versioned: text("/data/options/version") == Some("2"),
    }
}

/// Names in a list, without those of folders.
fn names(response: &Value) -> Vec<String> {
    let keys = response.pointer("/data/keys").and_then(Value::as_array);
    let names = keys.into_iter().flatten().filter_map(Value::as_str);
    names
        .filter(|name| !name.is_empty() && !name.ends_with('/'))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_versions_have_their_paths_and_fields() {
        let second = mount_of(Some(
            &json!({ "data": { "path": "secret/", "options": { "version": "2" } } }),
        ));
        assert_eq!(second.path("secret/lb/a", "data"), "secret/data/lb/a");
        assert_eq!(second.path("secret", "metadata"), "secret/metadata");
        let entry = json!({ "data": { "data": { "cert": "C", "key": 1, "x": null } } });
        assert_eq!(second.field(&entry, "cert"), Some(Ok(Bytes::from("C"))));
        assert!(second.field(&entry, "key").unwrap().is_err());
        assert_eq!(
            (second.field(&entry, "x"), second.field(&entry, "y")),
            (None, None)
        );

        let first = mount_of(Some(&json!({ "data": { "path": "kv/", "options": null } })));
        assert_eq!(first.path("kv/lb/a", "data"), "kv/lb/a");
        assert_eq!(
            first.field(&json!({ "data": { "cert": "C" } }), "cert"),
            Some(Ok(Bytes::from("C")))
        );
        assert_eq!(
            mount_of(None),
            Mount {
                at: String::new(),
                versioned: false
            }
        );
    }

    #[test]
    fn folders_are_no_entries() {
        assert_eq!(
            names(&json!({ "data": { "keys": ["a", "b/", "c"] } })),
            ["a", "c"]
        );
        assert!(names(&json!({})).is_empty());
    }
}
