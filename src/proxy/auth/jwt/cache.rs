//! Tokens that were verified already, and what they let their requests do.
//!
//! Nothing of them is kept: the key is a hash under a secret of this process. It belongs to one set
//! of keys and goes with it.

use std::collections::HashMap;
use std::fmt;
use std::mem;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};

use crate::proxy::auth::admission::Granted;

/// Tokens kept, per generation. There are two: what is not used while one fills is dropped.
const TOKENS_MAX: usize = 4096;
/// Longest values for instances that are kept with a token, in bytes together: with those of all
/// tokens they take some 16 MB at most.
const VALUES_MAX: usize = 2048;

pub(super) type Digest = [u8; 32];

/// What a token lets its request do.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// Pass, with these fields.
    Passes(Option<Box<Granted>>),
    /// Not pass, though nothing about it is wrong.
    Insufficient,
}

/// The memory of one set of keys.
#[derive(Default)]
pub(super) struct Cache {
    secret: Secret,
    kept: Mutex<Kept>,
}

struct Secret([[u8; 16]; 2]);

impl Default for Secret {
    fn default() -> Self {
        let random = || *uuid::Uuid::new_v4().as_bytes();
        Self([random(), random()])
    }
}

#[derive(Default)]
struct Kept {
    young: HashMap<Digest, Entry, foldhash::fast::RandomState>,
    old: HashMap<Digest, Entry, foldhash::fast::RandomState>,
}

#[derive(Clone)]
struct Entry {
    verdict: Verdict,
    until_s: i64,
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").finish_non_exhaustive()
    }
}

impl Cache {
    pub(super) fn digest(&self, token: &str) -> Digest {
        let mut hasher = Context::new(&SHA256);
        hasher.update(self.secret.0.as_flattened());
        hasher.update(token.as_bytes());
        let mut digest = Digest::default();
        digest.copy_from_slice(hasher.finish().as_ref());
        digest
    }

    /// What is known of a token that is still valid at `now_s`.
    pub(super) fn recall(&self, digest: &Digest, now_s: i64) -> Option<Verdict> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = kept.young.get(digest) {
            return (now_s < entry.until_s).then(|| entry.verdict.clone());
        }
        let entry = kept.old.remove(digest)?;
        if now_s >= entry.until_s {
            return None;
        }
        let verdict = entry.verdict.clone();
        kept.put(*digest, entry);
        Some(verdict)
    }

    pub(super) fn note(&self, digest: Digest, verdict: &Verdict, until_s: i64) {
        if let Verdict::Passes(Some(granted)) = verdict
            && granted.length() > VALUES_MAX
        {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = verdict.clone();
        kept.put(digest, Entry { verdict, until_s });
    }
}

impl Kept {
    fn put(&mut self, digest: Digest, entry: Entry) {
        if self.young.len() >= TOKENS_MAX {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(digest, entry);
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn passes(length: usize) -> Verdict {
        let value = HeaderValue::from_str(&"x".repeat(length)).unwrap();
        let name = HeaderName::from_static("x-user");
        Verdict::Passes(Some(Box::new(Granted::setting(vec![(name, Some(value))]))))
    }

    #[test]
    fn a_token_is_known_until_its_end_and_room_is_bounded() {
        let cache = Cache::default();
        let token = cache.digest("a.b.c");
        assert!(cache.recall(&token, 0).is_none());
        cache.note(token, &passes(3), 100);
        assert!(matches!(cache.recall(&token, 99), Some(Verdict::Passes(_))));
        assert!(cache.recall(&token, 100).is_none());
        assert!(cache.recall(&cache.digest("a.b.d"), 0).is_none());
        assert_ne!(token, Cache::default().digest("a.b.c"));
        for number in 0..10 * TOKENS_MAX {
            let digest = cache.digest(&number.to_string());
            cache.note(digest, &Verdict::Insufficient, 100);
            // What is used stays.
            if number % 1000 == 0 {
                assert!(cache.recall(&token, 0).is_some(), "{number}");
            }
        }
        let kept = cache.kept.lock().unwrap();
        assert!(kept.young.len() + kept.old.len() <= 2 * TOKENS_MAX);
        drop(kept);
        let long = cache.digest("long");
        cache.note(long, &passes(VALUES_MAX + 1), 100);
        assert!(cache.recall(&long, 0).is_none());
    }
}
