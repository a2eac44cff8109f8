//! Which requests may use a route with `auth=NAME`: the schemes of `[auth.NAME]`, as all workers
//! share them.
//!
//! ```text
//! Authorization ─► user and secret of the file ─► verified before? ─► permit ─► verified on a thread of its own
//!      │ none, wrong: 401                              └─ no lock is held, no worker waits ─┘
//! ```
//! Or a service decides (`external`), or a signed token lets it in (`jwt`).
//!
//! A password hash is made to be slow. So none is computed on a worker, only so many at a time
//! anywhere, and none twice for the same credentials; a client whose request comes while too many
//! wait is told to come back.
//!
//! A route that names a scheme which is not configured refuses every request; the control loop has
//! logged that when it came.

mod admission;
mod basic;
mod error;
mod external;
mod hash_permits;
mod htpasswd;
mod jwt;
mod md5_crypt;
mod verified;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;

pub use admission::{Admission, Denied, Granted};
pub use basic::Basic;
pub use error::AuthError;

use crate::config::{AuthConfig, AuthKind};
use crate::proxy::tls::UpstreamTls;
use external::External;
use hash_permits::HashPermits;
use jwt::Jwt;
pub use jwt::KeysReport;

/// All schemes, by name.
#[derive(Debug, Default)]
pub struct Schemes {
    by_name: BTreeMap<String, Scheme>,
    hash_permits: Arc<HashPermits>,
}

#[derive(Clone, Debug)]
enum Scheme {
    Basic(Arc<Basic>),
    External(Arc<External>),
    Jwt(Arc<Jwt>),
}

impl Schemes {
    /// The schemes of a configuration. Those of `present` that did not change are taken over, with
    /// what they know. Without `present` the process starts: a file that cannot be read then lets
    /// no user in until it can.
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
                AuthKind::Basic {
                    file,
                    realm,
                    refresh,
                } => {
                    let old = match present.and_then(|present| present.by_name.get(name)) {
                        Some(Scheme::Basic(old)) if old.is_of(file, realm, *refresh) => {
                            Some(Arc::clone(old))
                        }
                        _ => None,
                    };
                    match old {
                        Some(old) => Scheme::Basic(old),
                        None if present.is_none() => {
                            Scheme::Basic(Arc::new(Basic::open(name, file, realm, *refresh)))
                        }
                        None => Scheme::Basic(Arc::new(Basic::load(name, file, realm, *refresh)?)),
                    }
                }
                AuthKind::External(external) => {
                    Scheme::External(Arc::new(External::new(name, external, tls)?))
                }
                AuthKind::Jwt(jwt) => match present.and_then(|present| present.by_name.get(name)) {
                    Some(Scheme::Jwt(old)) if old.is_of(jwt) => Scheme::Jwt(Arc::clone(old)),
                    _ => Scheme::Jwt(Arc::new(Jwt::new(name, jwt, tls, present.is_none())?)),
                },
            };
            by_name.insert(name.clone(), scheme);
        }
        Ok(Self {
            by_name,
            hash_permits: present
                .map(|present| Arc::clone(&present.hash_permits))
                .unwrap_or_default(),
        })
    }

    /// Reads all files again, as at a reload.
    pub fn read_again(&self) {
        self.basic().for_each(Basic::read_again);
        // What is wrong with one is told by itself, and what is known of it stays.
        self.jwt().for_each(|scheme| drop(scheme.read_file(true)));
    }

    /// Looks at files whose time has come, and reads those that changed. To be called every second
    /// or so.
    pub fn refresh(&self, now: Instant) {
        self.basic().for_each(|scheme| scheme.refresh(now));
        self.jwt().for_each(|scheme| drop(scheme.read_file(false)));
    }

    /// Begins to fetch the keys whose time has come. To be called every second or so, within a
    /// runtime; never blocks.
    pub fn fetch_due(&self, now: Instant) {
        self.jwt().for_each(|scheme| scheme.fetch_due(now));
    }

    /// How the keys of schemes with tokens are, by name.
    pub fn keys(&self) -> impl Iterator<Item = (&str, KeysReport)> {
        let schemes = self.by_name.iter();
        schemes.filter_map(|(name, scheme)| match scheme {
            Scheme::Jwt(jwt) => Some((&**name, jwt.report())),
            Scheme::Basic(_) | Scheme::External(_) => None,
        })
    }

    /// Whether there are files to look at.
    #[must_use]
    pub fn has_files(&self) -> bool {
        self.basic().next().is_some() || self.jwt().any(|scheme| scheme.has_file())
    }

    fn basic(&self) -> impl Iterator<Item = &Basic> {
        self.by_name.values().filter_map(|scheme| match scheme {
            Scheme::Basic(basic) => Some(&**basic),
            Scheme::External(_) | Scheme::Jwt(_) => None,
        })
    }

    fn jwt(&self) -> impl Iterator<Item = &Arc<Jwt>> {
        self.by_name.values().filter_map(|scheme| match scheme {
            Scheme::Jwt(jwt) => Some(jwt),
            Scheme::Basic(_) | Scheme::External(_) => None,
        })
    }

    /// What kind of scheme has this name: `basic`, `external` or `jwt`; none: it is not configured.
    #[must_use]
    pub fn kind(&self, name: &str) -> Option<&'static str> {
        self.by_name.get(name).map(|scheme| match scheme {
            Scheme::Basic(_) => "basic",
            Scheme::External(_) => "external",
            Scheme::Jwt(_) => "jwt",
        })
    }

    /// Decides whether a request with these fields may use a route with `auth=name`. `sent` makes
    /// those that an instance would get. Cancel safe.
    pub async fn admit(
        &self,
        name: &str,
        headers: &HeaderMap,
        sent: impl FnOnce() -> HeaderMap,
    ) -> Admission {
        match self.by_name.get(name) {
            Some(Scheme::Basic(scheme)) => scheme.admit(headers, &self.hash_permits).await,
            Some(Scheme::External(scheme)) => scheme.admit(sent()).await,
            Some(Scheme::Jwt(scheme)) => scheme.admit(headers).await,
            None => Admission::Unknown,
        }
    }
}
