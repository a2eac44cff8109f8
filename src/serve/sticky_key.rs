//! Where the key comes from of the cookies that keep clients with instances (`sticky=`): a file, or
//! a secret that all lb share in Consul's KV store, or this process alone.

use std::time::Duration;

use anyhow::Context as _;

use crate::config::ProxyConfig;
use crate::control::ControlHandle;
use crate::sources::key_store::KeyStore;
use crate::table::sticky::StickyKey;

/// Where the secret stands in a store.
const PATH: &str = "lb/sticky_key";
/// Pauses between the first tries; after them the process makes a key of its own.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
];
/// Pause between tries from there on.
const PAUSE: Duration = Duration::from_secs(30);
/// How often it is tried to write: what a token may not do, it may not do later either, and each
/// refusal counts as an error of Consul. Another lb, or a person, may write all the same.
const WRITES_MAX: u32 = 4;
/// Longest time for one try: listeners wait for all of the first ones.
const TRY_MAX: Duration = Duration::from_secs(2);

/// Reads the file that has it, if one is configured. May block.
///
/// # Errors
/// It cannot be read, or holds no secret.
pub(super) fn read(proxy: &ProxyConfig) -> anyhow::Result<Option<StickyKey>> {
    let Some(path) = &proxy.sticky_key_file else {
        return Ok(None);
    };
    let what = || format!("key proxy.sticky_key_file: {}", path.display());
    let secret = std::fs::read(path).with_context(what)?;
    StickyKey::of_secret(&secret).map(Some).with_context(what)
}

/// The same while the process starts: a file that is bad costs what depends on it.
pub(super) fn read_at_start(proxy: &ProxyConfig) -> Option<StickyKey> {
    read(proxy).unwrap_or_else(|error| {
        tracing::error!(
            error = format!("{error:#}"),
            "the secret of sticky cookies cannot be read: until it can, they are made with another"
        );
        None
    })
}

/// Gives the control loop a key once a route wants one and no file has it.
pub(super) async fn keep(control: ControlHandle, store: Option<Box<dyn KeyStore>>) {
    control.lacks_sticky_key().await;
    let Some(store) = store else {
        control.set_sticky_key(own_key().await).await;
        tracing::info!(
            "sticky cookies are made with a key of this process, which ends with it; \
             proxy.sticky_key_file names one that lasts"
        );
        return std::future::pending().await;
    };
    let mut pauses = PAUSES.into_iter();
    let (mut has_own, mut writes_left) = (false, WRITES_MAX);
    loop {
        let shared = shared_key(&*store, &mut writes_left);
        let tried = tokio::time::timeout(TRY_MAX, shared).await;
        let error = match tried {
            Ok(Ok(key)) => {
                control.set_sticky_key(key).await;
                tracing::info!(
                    key = PATH,
                    "sticky cookies are made with the secret in Consul"
                );
                return std::future::pending().await;
            }
            Ok(Err(error)) => error,
            Err(_) => "no response in time".to_owned(),
        };
        let pause = pauses.next();
        if pause.is_none() && !std::mem::replace(&mut has_own, true) {
            control.set_sticky_key(own_key().await).await;
            tracing::warn!(
                key = PATH,
                error,
                "the secret of sticky cookies cannot be kept in Consul: they are made with a key of this process, \
                 which ends with it; give the token key \"{PATH}\" {{ policy = \"write\" }}, or name a file in \
                 proxy.sticky_key_file"
            );
        }
        tokio::time::sleep(pause.unwrap_or(PAUSE)).await;
    }
}

/// The secret of the store; made there if there is none. Whichever lb is first decides.
async fn shared_key(store: &dyn KeyStore, writes_left: &mut u32) -> Result<StickyKey, String> {
    let found = store.read(PATH).await?;
    if !found.text.is_empty() {
        return key_of(&found.text);
    }
    *writes_left = writes_left
        .checked_sub(1)
        .ok_or("it is not there, and could not be written")?;
    let secret = StickyKey::new_secret().map_err(|_| "no randomness".to_owned())?;
    if store.write(PATH, &secret, 0).await? {
        return key_of(&secret);
    }
    key_of(&store.read(PATH).await?.text)
}

fn key_of(secret: &str) -> Result<StickyKey, String> {
    StickyKey::of_secret(secret.as_bytes()).map_err(|error| error.to_string())
}

async fn own_key() -> StickyKey {
    loop {
        let secret = StickyKey::new_secret().ok();
        if let Some(key) = secret.and_then(|secret| StickyKey::of_secret(secret.as_bytes()).ok()) {
            return key;
        }
        tracing::error!("the system gives no randomness for the key of sticky cookies");
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures_util::future::LocalBoxFuture;

    use super::*;
    use crate::sources::key_store::Value;

    /// A store in memory, whose token may write or not.
    #[derive(Default)]
    struct Store {
        text: RefCell<String>,
        read_only: bool,
        /// Another lb writes this when the key was read.
        rival: Option<&'static str>,
    }

    impl KeyStore for Store {
        fn read<'a>(&'a self, key: &'a str) -> LocalBoxFuture<'a, Result<Value, String>> {
            assert_eq!(key, "lb/sticky_key");
            let text = self.text.borrow().clone();
            let version = u64::from(!text.is_empty());
            if let Some(rival) = self.rival {
                rival.clone_into(&mut self.text.borrow_mut());
            }
            Box::pin(async move { Ok(Value { text, version }) })
        }

        fn write<'a>(
            &'a self,
            _key: &'a str,
            text: &'a str,
            version: u64,
        ) -> LocalBoxFuture<'a, Result<bool, String>> {
            Box::pin(async move {
                if self.read_only {
                    return Err("Permission denied".to_owned());
                }
                let free = self.text.borrow().is_empty() && version == 0;
                if free {
                    text.clone_into(&mut self.text.borrow_mut());
                }
                Ok(free)
            })
        }

        fn names<'a>(&'a self, _: &'a str) -> LocalBoxFuture<'a, Result<Vec<String>, String>> {
            Box::pin(async { Ok(Vec::new()) })
        }
    }

    #[tokio::test]
    async fn one_secret_is_made_and_all_use_it() {
        let shared_key = async |store: &Store| shared_key(store, &mut 1).await;
        let store = Store::default();
        let first = shared_key(&store).await.unwrap();
        assert_eq!(store.text.borrow().len(), 64);
        assert_eq!(shared_key(&store).await.unwrap(), first);
        let rival = "0123456789abcdef0123456789abcdef-rival";
        let raced = Store {
            rival: Some(rival),
            ..Store::default()
        };
        assert_eq!(
            shared_key(&raced).await,
            key_of(rival),
            "the first one wins"
        );
        let read_only = Store {
            read_only: true,
            ..Store::default()
        };
        let error = shared_key(&read_only).await.unwrap_err();
        assert_eq!(error, "Permission denied");
        let error = super::shared_key(&read_only, &mut 0).await.unwrap_err();
        assert!(error.contains("could not be written"), "{error}");
        let short = Store {
            text: RefCell::new("short".to_owned()),
            ..Store::default()
        };
        let error = shared_key(&short).await.unwrap_err();
        assert!(error.contains("32 bytes"), "{error}");
    }

    #[test]
    fn a_file_has_it_or_says_why_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sticky.key");
        let mut proxy = ProxyConfig::default();
        assert_eq!(read(&proxy).unwrap(), None);
        proxy.sticky_key_file = Some(path.clone());
        assert!(read(&proxy).is_err() && read_at_start(&proxy).is_none());
        std::fs::write(&path, "short").unwrap();
        let error = format!("{:#}", read(&proxy).unwrap_err());
        assert!(error.contains("proxy.sticky_key_file"), "{error}");
        std::fs::write(&path, "0123456789abcdef0123456789abcdef\n").unwrap();
        assert!(read(&proxy).unwrap().is_some());
    }
}
