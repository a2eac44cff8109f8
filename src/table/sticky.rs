//! Cookies that keep clients with their instances (`sticky=`): which value stands for which target
//! of a route.
//!
//! A value is a keyed hash of the instance's identity, cut to 128 bits: it tells nothing of the
//! cluster, cannot be made up, and is the same in every worker, table and balancer that has the key.
//! Values are made when a route is compiled; a request costs one look-up in a map.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use aws_lc_rs::{digest, hmac, rand};

use super::Target;
use crate::catalog::options::Proto;
use crate::catalog::sticky::StickyCookie;
use crate::catalog::tag::RouteKey;

/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Fewest bytes of the text that it is made of.
const SECRET_MIN: usize = 32;
/// What the name of a cookie begins with, where its route gives it none.
const NAME_PREFIX: &str = "lb_instance_";

/// The key of the hash. Never shown.
#[derive(Clone)]
pub struct StickyKey(Arc<[u8; KEY_BYTES]>);

/// A secret that is too short to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is shorter than {SECRET_MIN} bytes: write what `openssl rand -hex 32` prints")]
pub struct ShortSecret;

impl StickyKey {
    /// The key that a secret text makes. Blanks and line ends around it do not count.
    ///
    /// # Errors
    /// It could be guessed.
    pub fn of_secret(secret: &[u8]) -> Result<Self, ShortSecret> {
        let secret = secret.trim_ascii();
        if secret.len() < SECRET_MIN {
            return Err(ShortSecret);
        }
        let mut key = [0; KEY_BYTES];
        key.copy_from_slice(digest::digest(&digest::SHA256, secret).as_ref());
        Ok(Self(Arc::new(key)))
    }

    /// A new secret, as text.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn new_secret() -> Result<String, aws_lc_rs::error::Unspecified> {
        let mut secret = [0; KEY_BYTES];
        rand::fill(&mut secret)?;
        Ok(secret.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn hash(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0[..])
    }
}

impl PartialEq for StickyKey {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl fmt::Debug for StickyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StickyKey(…)")
    }
}

/// The value of a cookie, as a number.
pub type StickyToken = u128;

/// What a route with `sticky=` knows of its cookies.
#[derive(Debug)]
pub struct StickyRoute {
    name: Box<str>,
    /// One for each target, in their order.
    tokens: Box<[StickyToken]>,
    by_token: HashMap<StickyToken, u32, foldhash::fast::FixedState>,
}

impl StickyRoute {
    /// Cookies named as `cookie` says, for the targets of a route at `key`.
    pub(super) fn new(
        cookie: &StickyCookie,
        key: &RouteKey,
        targets: &[Target],
        secret: &StickyKey,
    ) -> Self {
        let hash = secret.hash();
        let tokens: Box<[StickyToken]> = targets.iter().map(|it| token(&hash, it)).collect();
        let numbered = tokens.iter().zip(0_u32..);
        Self {
            name: match cookie {
                StickyCookie::Named(name) => Box::from(&**name),
                StickyCookie::OfRoute => name_of(key),
            },
            by_token: numbered.map(|(token, at)| (*token, at)).collect(),
            tokens,
        }
    }

    /// Name of the cookie.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value that stands for the target at this place.
    #[must_use]
    pub fn token(&self, target: usize) -> Option<StickyToken> {
        self.tokens.get(target).copied()
    }

    /// The one of `targets`, those of the route of these cookies, that a client with this value belongs to, if
    /// it may serve at `now_ms` of the process clock.
    #[must_use]
    pub fn kept<'r>(
        &self,
        targets: &'r [Target],
        token: StickyToken,
        now_ms: u64,
    ) -> Option<&'r Target> {
        let target = self.would_keep(targets, token, now_ms)?;
        // On probation one request tries it, and others go elsewhere, as with every pick.
        target.state.begin_trial(now_ms).then_some(target)
    }

    /// As [`Self::kept`], for a request that is not made.
    #[must_use]
    pub fn would_keep<'r>(
        &self,
        targets: &'r [Target],
        token: StickyToken,
        now_ms: u64,
    ) -> Option<&'r Target> {
        let target = targets.get(*self.by_token.get(&token)? as usize)?;
        let serves = target.share > 0.0 && target.options.proto != Proto::Tcp;
        (serves && target.state.is_open(now_ms)).then_some(target)
    }
}

/// What stands for a target: its service, and the identity that its state is known by.
fn token(hash: &hmac::Key, target: &Target) -> StickyToken {
    let (state, mut context) = (&target.state, hmac::Context::with_key(hash));
    let address = state.addr.to_string();
    for part in [
        &**target.service.name(),
        &*state.id.node,
        &*state.id.id,
        &address,
    ] {
        // With its length before it: no two identities have the same text.
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    first_bytes(context.sign().as_ref())
}

fn first_bytes(bytes: &[u8]) -> u128 {
    bytes
        .iter()
        .take(16)
        .fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// A name that two routes of a host do not share.
fn name_of(key: &RouteKey) -> Box<str> {
    let place = digest::digest(&digest::SHA256, format!("{key}").as_bytes());
    let number = first_bytes(place.as_ref()) >> 96;
    format!("{NAME_PREFIX}{number:08x}").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Route;
    use crate::table::fixture::targets;

    fn key() -> StickyKey {
        StickyKey::of_secret(&[b'k'; SECRET_MIN]).unwrap()
    }

    fn place(host: &str, path: &str) -> RouteKey {
        RouteKey {
            host: host.into(),
            path: path.into(),
        }
    }

    #[test]
    fn keys_are_made_of_secrets_and_never_shown() {
        let secret = StickyKey::new_secret().unwrap();
        assert_eq!(secret.len(), 64);
        assert_ne!(secret, StickyKey::new_secret().unwrap());
        let key = StickyKey::of_secret(secret.as_bytes()).unwrap();
        let with_end = StickyKey::of_secret(format!(" {secret}\n").as_bytes());
        assert_eq!(with_end, Ok(key.clone()));
        assert_eq!(format!("{key:?}"), "StickyKey(…)");
        for bad in ["", "secret", &"x".repeat(31), &" ".repeat(64)] {
            assert_eq!(StickyKey::of_secret(bad.as_bytes()), Err(ShortSecret));
        }
    }

    #[test]
    fn names_are_of_the_place() {
        let name = |host, path| name_of(&place(host, path));
        assert_eq!(name("a.test", "/"), name("a.test", "/"));
        assert_ne!(name("a.test", "/"), name("a.test", "/x"));
        assert_ne!(name("a.test", "/"), name("b.test", "/"));
        let known = name("shop.example.com", "/");
        assert_eq!(
            &*known, "lb_instance_547ee750",
            "it stays the same for ever"
        );
    }

    #[test]
    fn a_value_stands_for_one_target_under_one_key() {
        let mut route = Route::without_targets(place("a", "/"));
        route.targets = targets(&[0.5, 0.25, 0.25]);
        let sticky = StickyRoute::new(&StickyCookie::OfRoute, &route.key, &route.targets, &key());
        for at in 0..3 {
            let token = sticky.token(at).unwrap();
            let kept = sticky.kept(&route.targets, token, 0).unwrap();
            assert!(std::ptr::eq(kept, &route.targets[at]));
        }
        assert_eq!(sticky.token(3), None);
        assert!(sticky.kept(&route.targets, 7, 0).is_none());
        let named = StickyCookie::Named("S".into());
        let same = StickyRoute::new(&named, &place("b", "/"), &route.targets[1..], &key());
        assert_eq!((same.name(), same.token(0)), ("S", sticky.token(1)));
        let other = StickyKey::of_secret(&[b'o'; SECRET_MIN]).unwrap();
        let other = StickyRoute::new(&named, &route.key, &route.targets, &other);
        assert!((0..3).all(|at| other.token(at) != sticky.token(at)));
    }

    #[test]
    fn an_instance_that_is_out_keeps_nobody() {
        let mut route = Route::without_targets(place("a", "/"));
        route.targets = targets(&[0.5, 0.5]);
        let sticky = StickyRoute::new(&StickyCookie::OfRoute, &route.key, &route.targets, &key());
        let token = sticky.token(0).unwrap();
        assert!(sticky.kept(&route.targets, token, 0).is_some());
        route.targets[0].state.retire();
        assert!(sticky.kept(&route.targets, token, 0).is_none());
        route.targets[1].share = 0.0;
        assert!(
            sticky
                .kept(&route.targets, sticky.token(1).unwrap(), 0)
                .is_none()
        );
    }
}
