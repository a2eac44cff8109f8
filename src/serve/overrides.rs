//! Route commands that a source keeps under keys, as the admin listener changes them.

use futures_util::future::LocalBoxFuture;

use crate::admin::{Override, OverrideStore};
use crate::sources::key_store::CommandKeys;

/// The keys of a source (of Consul, those below `consul.kv_path`, those that merely begin like it
/// included).
pub(super) struct KvOverrides(CommandKeys);

impl KvOverrides {
    pub(super) fn new(keys: CommandKeys) -> Self {
        Self(keys)
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.0.prefix)
    }
}

impl OverrideStore for KvOverrides {
    fn read<'a>(&'a self, key: &'a str) -> LocalBoxFuture<'a, Result<Override, String>> {
        Box::pin(async {
            let found = self.0.store.read(&self.full(key)).await?;
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
                if self.0.store.write(&key, &new.value, version).await? {
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
            let prefix = &*self.0.prefix;
            let names = self.0.store.names(prefix).await?;
            Ok(names
                .iter()
                .filter_map(|name| name.strip_prefix(prefix))
                .map(str::to_owned)
                .collect())
        })
    }
}
