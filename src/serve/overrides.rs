//! Route commands in Consul's KV store, as the admin listener changes them.

use futures_util::future::LocalBoxFuture;

use crate::admin::{Override, OverrideStore};
use crate::sources::consul::KeyEditor;

/// The keys below `consul.kv_path`, those that merely begin like it included.
pub(super) struct KvOverrides {
    editor: KeyEditor,
    prefix: String,
}

impl KvOverrides {
    /// `prefix`: what all keys begin with.
    pub(super) fn new(editor: KeyEditor, prefix: String) -> Self {
        Self { editor, prefix }
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

impl OverrideStore for KvOverrides {
    fn read<'a>(&'a self, key: &'a str) -> LocalBoxFuture<'a, Result<Override, String>> {
        Box::pin(async {
            let found = self
                .editor
                .read(&self.full(key))
                .await
                .map_err(|error| error.to_string())?;
            Ok(Override {
                value: found.text,
                version: found.version,
            })
        })
    }

    /// A key that does not exist is made whatever version is named, as Fabio does: its own reader
    /// tells one of it, too.
    fn write<'a>(
        &'a self,
        key: &'a str,
        new: Override,
    ) -> LocalBoxFuture<'a, Result<bool, String>> {
        Box::pin(async move {
            let key = self.full(key);
            for version in [0, new.version] {
                if self
                    .editor
                    .write(&key, &new.value, version)
                    .await
                    .map_err(|error| error.to_string())?
                {
                    return Ok(true);
                }
                if new.version == 0 {
                    break;
                }
            }
            Ok(false)
        })
    }

    fn keys(&self) -> LocalBoxFuture<'_, Result<Vec<String>, String>> {
        Box::pin(async {
            let names = self
                .editor
                .names(&self.prefix)
                .await
                .map_err(|error| error.to_string())?;
            Ok(names
                .iter()
                .filter_map(|name| name.strip_prefix(&self.prefix))
                .map(str::to_owned)
                .collect())
        })
    }
}
