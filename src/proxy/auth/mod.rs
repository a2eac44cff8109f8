//! Who may use a route with `auth=NAME`: the schemes of `[auth.NAME]`, as all workers share them.
//!
//! ```text
//! Authorization ─► user and secret of the file ─► verified before? ─► a turn ─► verified on a thread of its own
//!      │ none, wrong: 401, "ask"                       └─ no lock is held, no worker waits ─┘
//! ```
//! Or a service is asked (`external`).
//!
//! A password hash is made to be slow. So none is computed on a worker, only so many at a time anywhere, and none twice
//! for the same credentials; whoever comes while too many wait is told to come back.
//!
//! A route that names a scheme which is not configured refuses every request; the control loop has logged that when it came.

mod basic;
mod external;
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
pub use external::{Denied, Granted};

use crate::config::{AuthConfig, AuthKind};
use crate::proxy::error::ProxyError;
use crate::proxy::tls::UpstreamTls;
use external::External;
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
    /// Its endpoint cannot be asked.
    #[error("auth.{name}.endpoint is no URL")]
    Endpoint {
        /// The scheme.
        name: String,
    },
}

/// What a scheme says of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may pass, maybe with other fields.
    Granted(Option<Box<Granted>>),
    /// It may not; the value of `WWW-Authenticate`, which no 401 may be without (RFC 9110 section 15.5.2).
    Refused(HeaderValue),
    /// It may not, and this is what the client is told.
    Denied(Box<Denied>),
    /// Too many requests wait to be decided.
    Busy,
    /// The service that decides did not answer.
    Unavailable,
    /// There is no such scheme.
    Unknown,
}

impl Admission {
    /// What the proxy itself answers to one that may not pass, with the challenge that belongs to it. (What a service told
    /// goes to clients of HTTP as it is, and not to those of gRPC.) `bare_errors`: as Fabio answers.
    #[must_use]
    pub fn refusal(&self, bare_errors: bool) -> (ProxyError, Option<HeaderValue>) {
        match self {
            Self::Refused(challenge) => (ProxyError::Unauthorized, Some(challenge.clone())),
            // With a challenge, which Fabio forgets.
            Self::Unknown if bare_errors => {
                (ProxyError::Unauthorized, Some(HeaderValue::from_static("Basic realm=\"lb\"")))
            }
            Self::Unknown => (ProxyError::AuthUnknown, None),
            Self::Busy => (ProxyError::AuthBusy, None),
            Self::Unavailable => (ProxyError::AuthUnavailable, None),
            Self::Granted(_) | Self::Denied(_) => (ProxyError::Unauthorized, None),
        }
    }
}

/// All schemes, by name.
#[derive(Debug, Default)]
pub struct Schemes {
    by_name: BTreeMap<String, Scheme>,
    turns: Arc<Turns>,
}

#[derive(Clone, Debug)]
enum Scheme {
    Basic(Arc<Basic>),
    External(Arc<External>),
}

impl Schemes {
    /// The schemes of a configuration. Those of `present` that did not change are taken over, with what they know. Without
    /// `present` the process starts: a file that cannot be read then lets nobody in until it can.
    ///
    /// # Errors
    /// The first new scheme whose file cannot be read.
    pub fn load(
        config: &BTreeMap<String, AuthConfig>,
        present: Option<&Self>,
        tls: &UpstreamTls,
    ) -> Result<Self, AuthError> {
        let mut by_name = BTreeMap::new();
        for (name, scheme) in config {
            let scheme = match &scheme.kind {
                AuthKind::Basic { file, realm, refresh } => {
                    let old = match present.and_then(|present| present.by_name.get(name)) {
                        Some(Scheme::Basic(old)) if old.is_of(file, realm, *refresh) => Some(Arc::clone(old)),
                        _ => None,
                    };
                    match old {
                        Some(old) => Scheme::Basic(old),
                        None if present.is_none() => Scheme::Basic(Arc::new(Basic::open(name, file, realm, *refresh))),
                        None => Scheme::Basic(Arc::new(Basic::load(name, file, realm, *refresh)?)),
                    }
                }
                AuthKind::External(external) => Scheme::External(Arc::new(External::new(name, external, tls)?)),
            };
            by_name.insert(name.clone(), scheme);
        }
        Ok(Self { by_name, turns: present.map(|present| Arc::clone(&present.turns)).unwrap_or_default() })
    }

    /// Reads all files again, as at a reload.
    pub fn read_again(&self) {
        self.basic().for_each(Basic::read_again);
    }

    /// Looks at files whose time has come, and reads those that changed. To be called every second or so.
    pub fn refresh(&self, now: Instant) {
        self.basic().for_each(|scheme| scheme.refresh(now));
    }

    /// Whether there are files to look at.
    #[must_use]
    pub fn has_files(&self) -> bool {
        self.basic().next().is_some()
    }

    fn basic(&self) -> impl Iterator<Item = &Basic> {
        self.by_name.values().filter_map(|scheme| match scheme {
            Scheme::Basic(basic) => Some(&**basic),
            Scheme::External(_) => None,
        })
    }

    /// What kind of scheme has this name: `basic` or `external`; none: it is not configured.
    #[must_use]
    pub fn kind(&self, name: &str) -> Option<&'static str> {
        self.by_name.get(name).map(|scheme| match scheme {
            Scheme::Basic(_) => "basic",
            Scheme::External(_) => "external",
        })
    }

    /// Decides whether a request with these fields may use a route with `auth=name`. `sent` makes those that an
    /// instance would get. Cancel safe.
    pub async fn admit(&self, name: &str, headers: &HeaderMap, sent: impl FnOnce() -> HeaderMap) -> Admission {
        match self.by_name.get(name) {
            Some(Scheme::Basic(scheme)) => scheme.admit(headers, &self.turns).await,
            Some(Scheme::External(scheme)) => scheme.admit(sent()).await,
            None => Admission::Unknown,
        }
    }
}
