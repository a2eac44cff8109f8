//! Credentials whose slow hash was computed already, and what came out.
//!
//! Nothing of them is kept: the key is a hash under a secret of this process, of user, password and
//! the line of the file. A changed line is another key, so a changed password is verified anew, and
//! an old one counts no more.

use std::collections::HashSet;
use std::fmt;
use std::mem;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256};

/// Credentials kept, per kind and generation.
const GOOD_MAX: usize = 4096;
const BAD_MAX: usize = 1024;

/// Stands for user, password and stored secret.
pub(super) type Key = [u8; 32];

/// The memory of one scheme.
pub(super) struct Verified {
    secret: [[u8; 16]; 2],
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    good: Generations<GOOD_MAX>,
    /// Of its own, so that wrong guesses do not displace credentials that are right.
    bad: Generations<BAD_MAX>,
}

impl Default for Verified {
    fn default() -> Self {
        let random = || *uuid::Uuid::new_v4().as_bytes();
        Self {
            secret: [random(), random()],
            kept: Mutex::default(),
        }
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verified").finish_non_exhaustive()
    }
}

impl Verified {
    /// The key of these credentials.
    pub(super) fn key(&self, user: &[u8], password: &[u8], stored: &[u8]) -> Key {
        let mut hasher = Context::new(&SHA256);
        hasher.update(self.secret.as_flattened());
        for part in [user, password, stored] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let mut key = Key::default();
        key.copy_from_slice(hasher.finish().as_ref());
        key
    }

    /// What is known of them.
    pub(super) fn recall(&self, key: &Key) -> Option<bool> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.good.recall(key) {
            return Some(true);
        }
        kept.bad.recall(key).then_some(false)
    }

    /// Keeps what was found out.
    pub(super) fn note(&self, key: Key, good: bool) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if good {
            kept.good.note(key)
        } else {
            kept.bad.note(key)
        }
    }
}

/// The newest `MAX` keys at least, twice that at most: what is not used while a whole generation
/// fills is dropped with the next one.
#[derive(Default)]
struct Generations<const MAX: usize> {
    young: HashSet<Key>,
    old: HashSet<Key>,
}

impl<const MAX: usize> Generations<MAX> {
    fn recall(&mut self, key: &Key) -> bool {
        if self.young.contains(key) {
            return true;
        }
        let found = self.old.remove(key);
        if found {
            self.note(*key);
        }
        found
    }

    fn note(&mut self, key: Key) {
        if self.young.len() >= MAX {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(number: usize) -> Key {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&(number as u64).to_le_bytes());
        key
    }

    #[test]
    fn what_was_found_out_is_known_until_anything_changes() {
        let verified = Verified::default();
        let key = verified.key(b"ann", b"secret", b"$2y$line");
        assert_eq!(verified.recall(&key), None);
        verified.note(key, true);
        assert_eq!(
            verified.recall(&verified.key(b"ann", b"secret", b"$2y$line")),
            Some(true)
        );
        // Another user, password or line; and parts that are joined the same way but cut elsewhere.
        for (user, password, stored) in [
            (&b"bob"[..], &b"secret"[..], &b"$2y$line"[..]),
            (b"ann", b"Secret", b"$2y$line"),
            (b"ann", b"secret", b"$2y$else"),
            (b"anns", b"ecret", b"$2y$line"),
        ] {
            assert_eq!(verified.recall(&verified.key(user, password, stored)), None);
        }
        assert_ne!(
            Verified::default().key(b"ann", b"secret", b"$2y$line"),
            key,
            "each scheme has a secret of its own"
        );
    }

    #[test]
    fn guesses_take_bounded_room_and_displace_no_other_user() {
        let verified = Verified::default();
        verified.note([9; 32], true);
        for number in 0..10 * BAD_MAX {
            verified.note(numbered(number), false);
        }
        assert_eq!(verified.recall(&[9; 32]), Some(true));
        assert_eq!(verified.recall(&numbered(10 * BAD_MAX - 1)), Some(false));
        let kept = verified.kept.lock().unwrap();
        assert!(kept.bad.young.len() + kept.bad.old.len() <= 2 * BAD_MAX);
    }

    #[test]
    fn what_is_used_stays() {
        let verified = Verified::default();
        verified.note(numbered(0), true);
        for number in 1..5 * GOOD_MAX {
            verified.note(numbered(number), true);
            if number % 1000 == 0 {
                assert_eq!(verified.recall(&numbered(0)), Some(true), "{number}");
            }
        }
        assert_eq!(verified.recall(&numbered(1)), None);
    }
}
