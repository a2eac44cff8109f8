//! Who may use a route with `auth=NAME`: the schemes of `[auth.NAME]`, as all workers share them.
//!
//! ```text
//! Authorization ─► user and secret of the file ─► verified before? ─► a turn ─► verified on a thread of its own
//!      │ none, wrong: 401, "ask"                       └─ no lock is held, no worker waits ─┘
//! ```
//! A password hash is made to be slow. So none is computed on a worker, only so many at a time anywhere, and none twice
//! for the same credentials; whoever comes while too many wait is told to come back.
//!
//! A route that names a scheme which is not configured lets nobody in.

mod basic;
mod htpasswd;
mod md5_crypt;
mod turns;
mod verified;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderValue};

pub use basic::Basic;

use crate::config::{AuthConfig, AuthKind};
use turns::Turns;

/// Why a scheme cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// Its file cannot be read.
    #[error("auth.{name}.file: cannot read {}: {source}", path.display())]
    File {
        /// The scheme.
        name: String,
        /// Its file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What a scheme says of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may pass.
    Granted,
    /// It may not; the value of `WWW-Authenticate`, if the scheme asks for credentials.
    Refused(Option<HeaderValue>),
    /// Too many requests wait to be decided.
    Busy,
}

/// All schemes, by name.
#[derive(Debug, Default)]
pub struct Schemes {
    by_name: BTreeMap<String, Arc<Basic>>,
    turns: Arc<Turns>,
}

impl Schemes {
    /// The schemes of a configuration. Those of `present` that did not change are taken over, with what they know.
    ///
    /// # Errors
    /// The first new scheme whose file cannot be read.
    pub fn load(config: &BTreeMap<String, AuthConfig>, present: Option<&Self>) -> Result<Self, AuthError> {
        let mut by_name = BTreeMap::new();
        for (name, scheme) in config {
            let AuthKind::Basic { file, realm, refresh } = &scheme.kind;
            let old = present.and_then(|present| present.by_name.get(name));
            let basic = match old.filter(|old| old.is_of(file, realm, *refresh)) {
                Some(old) => Arc::clone(old),
                None => Arc::new(Basic::load(name, file, realm, *refresh)?),
            };
            by_name.insert(name.clone(), basic);
        }
        Ok(Self { by_name, turns: present.map(|present| Arc::clone(&present.turns)).unwrap_or_default() })
    }

    /// Reads all files again, as at a reload.
    pub fn read_again(&self) {
        self.by_name.values().for_each(|scheme| scheme.read_again());
    }

    /// Looks at files whose time has come, and reads those that changed. To be called every second or so.
    pub fn refresh(&self, now: Instant) {
        self.by_name.values().for_each(|scheme| scheme.refresh(now));
    }

    /// Decides whether a request with these fields may use a route with `auth=name`. Cancel safe.
    pub async fn admit(&self, name: &str, headers: &HeaderMap) -> Admission {
        match self.by_name.get(name) {
            Some(scheme) => scheme.admit(headers, &self.turns).await,
            None => {
                tracing::debug!(scheme = name, "a route names an authentication scheme that is not configured");
                Admission::Refused(None)
            }
        }
    }
}
