//! Which of several certificates a client is shown.
//!
//! A name may have more than one pair: RSA beside ECDSA for old clients, a renewed one beside its
//! predecessor. The client gets one whose key it can verify (`signature_algorithms` of its
//! ClientHello, RFC 8446 section 4.2.3), rather valid now than not, and then the one that ends
//! last. An expired certificate is better than a refused handshake: the client's user may still
//! decide.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::sign::CertifiedKey;

use crate::proxy::tls::pairs::Pair;

/// A pair that may be shown.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    key: Arc<CertifiedKey>,
    not_before: i64,
    not_after: i64,
}

impl Choice {
    /// The choice that a pair is.
    pub(super) fn of(pair: &Pair) -> Self {
        Self {
            key: Arc::clone(&pair.key),
            not_before: pair.not_before,
            not_after: pair.not_after,
        }
    }

    fn is_valid(&self, now: i64) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

/// Whether the client can verify signatures of this key.
type Takes<'a> = &'a dyn Fn(&CertifiedKey) -> bool;

/// The pairs of a name: of itself, then with one leading label more replaced by `*` each time.
pub(super) fn find<'a, T>(
    names: &'a HashMap<String, T>,
    name: &str,
) -> impl Iterator<Item = &'a T> + use<'a, T> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    // At most 127 labels: a DNS name has no more than 253 characters.
    let mut stars = String::new();
    let mut rest = Some(name);
    std::iter::from_fn(move || {
        loop {
            let present = rest.take()?;
            if let Some((_, parent)) = present.split_once('.') {
                rest = Some(parent.to_owned());
            }
            let found = names.get(&format!("{stars}{present}"));
            stars.push_str("*.");
            if found.is_some() {
                return found;
            }
        }
    })
}

/// What to show to a client that names `name` at `now` (unix time, s); none where no pair is for
/// that name. A valid pair of a wildcard goes before an expired one of the name itself.
pub(super) fn pick(
    names: &HashMap<String, Vec<Choice>>,
    name: Option<&str>,
    takes: Takes<'_>,
    now: i64,
) -> Option<Arc<CertifiedKey>> {
    let (mut expired, mut refused) = (None, None);
    for choices in find(names, name?) {
        match best(choices.iter().filter(|choice| takes(&choice.key)), now) {
            Some(choice) if choice.is_valid(now) => return Some(Arc::clone(&choice.key)),
            Some(choice) => expired = expired.or(Some(choice)),
            // The handshake fails with it, and says why.
            None => refused = refused.or(best(choices, now)),
        }
    }
    expired.or(refused).map(|choice| Arc::clone(&choice.key))
}

/// What clients are shown that name no server, or one without a pair.
#[derive(Debug, Default)]
pub(super) struct Defaults {
    /// The first pair, and others of one of its names.
    first: Vec<Choice>,
    others: Vec<Choice>,
}

impl Defaults {
    /// Those of these pairs, the first of which is the default.
    pub(super) fn of(pairs: &[Pair]) -> Self {
        let Some(default) = pairs.first() else {
            return Self::default();
        };
        let is_like = |pair: &&Pair| {
            pair.path == default.path || pair.names.iter().any(|it| default.names.contains(it))
        };
        let (first, others): (Vec<&Pair>, Vec<&Pair>) = pairs.iter().partition(is_like);
        let choices = |pairs: Vec<&Pair>| pairs.into_iter().map(Choice::of).collect();
        Self {
            first: choices(first),
            others: choices(others),
        }
    }

    /// The default for this client.
    pub(super) fn pick(&self, takes: Takes<'_>, now: i64) -> Option<Arc<CertifiedKey>> {
        let taken = |choices| {
            best(
                <[Choice]>::iter(choices).filter(|choice| takes(&choice.key)),
                now,
            )
        };
        let found = taken(&self.first)
            .or_else(|| taken(&self.others))
            .or_else(|| best(&self.first, now));
        found.map(|choice| Arc::clone(&choice.key))
    }
}

/// Rather a valid one, then the one that ends last, then the first.
fn best<'a>(choices: impl IntoIterator<Item = &'a Choice>, now: i64) -> Option<&'a Choice> {
    let rank = |choice: &Choice| (choice.is_valid(now), choice.not_after);
    choices
        .into_iter()
        .reduce(|best, next| if rank(next) > rank(best) { next } else { best })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use rcgen::{CertificateParams, KeyPair};
    use rustls::pki_types::PrivateKeyDer;

    use super::*;

    const NOW: i64 = 1_000;

    fn key() -> Arc<CertifiedKey> {
        let pair = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(Vec::new())
            .unwrap()
            .self_signed(&pair)
            .unwrap();
        let key = PrivateKeyDer::try_from(pair.serialize_der()).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        Arc::new(CertifiedKey::from_der(vec![certificate.der().clone()], key, &provider).unwrap())
    }

    fn pair(name: &str, (not_before, not_after): (i64, i64)) -> Pair {
        Pair {
            path: PathBuf::from(name),
            names: vec![name.to_owned()],
            not_before,
            not_after,
            key: key(),
        }
    }

    const VALID: (i64, i64) = (0, 2_000);
    const LONGER: (i64, i64) = (0, 3_000);
    const EXPIRED: (i64, i64) = (0, 900);
    const LONG_EXPIRED: (i64, i64) = (0, 800);
    const EARLY: (i64, i64) = (1_100, 9_000);

    /// Index of the pair that is picked for `name` by a client that takes all keys but those at
    /// these places.
    fn picked(pairs: &[Pair], name: &str, refused: &[usize]) -> Option<usize> {
        let mut names: HashMap<String, Vec<Choice>> = HashMap::new();
        for pair in pairs {
            names
                .entry(pair.names[0].clone())
                .or_default()
                .push(Choice::of(pair));
        }
        let at = |key: &CertifiedKey| {
            pairs
                .iter()
                .position(|pair| std::ptr::eq(&*pair.key, key))
                .unwrap()
        };
        let found = pick(&names, Some(name), &|key| !refused.contains(&at(key)), NOW);
        found.map(|key| at(&key))
    }

    #[test]
    fn the_pair_that_is_taken_then_valid_then_longest_then_first() {
        // Validity of pairs of one name, what the client does not take, the pair that it is shown.
        type Case<'a> = (&'a [(i64, i64)], &'a [usize], usize);
        let cases: [Case<'_>; 10] = [
            (&[VALID], &[], 0),
            (&[VALID, VALID], &[], 0),
            (&[VALID, VALID], &[0], 1),
            (&[VALID, LONGER], &[], 1),
            (&[EXPIRED, VALID], &[], 1),
            (&[EARLY, VALID], &[], 1),
            (&[EXPIRED, VALID], &[1], 0),
            (&[LONG_EXPIRED, EXPIRED], &[], 1),
            (&[EXPIRED], &[], 0),
            (&[VALID, LONGER], &[0, 1], 1),
        ];
        for (validities, refused, wanted) in cases {
            for name in ["a.test", "*.test"] {
                let pairs: Vec<Pair> = validities
                    .iter()
                    .map(|validity| pair(name, *validity))
                    .collect();
                assert_eq!(
                    picked(&pairs, "A.test.", refused),
                    Some(wanted),
                    "{name} {validities:?} {refused:?}"
                );
            }
        }
        assert_eq!(picked(&[pair("a.test", VALID)], "b.test", &[]), None);
    }

    #[test]
    fn the_name_itself_goes_before_wildcards_unless_its_pair_cannot_serve() {
        let both = |own, wild| {
            [
                pair("a.b.test", own),
                pair("*.b.test", wild),
                pair("*.*.test", VALID),
            ]
        };
        assert_eq!(picked(&both(VALID, LONGER), "a.b.test", &[]), Some(0));
        assert_eq!(picked(&both(EXPIRED, VALID), "a.b.test", &[]), Some(1));
        assert_eq!(picked(&both(VALID, VALID), "a.b.test", &[0]), Some(1));
        assert_eq!(picked(&both(VALID, VALID), "a.b.test", &[0, 1]), Some(2));
        assert_eq!(picked(&both(VALID, VALID), "c.d.test", &[]), Some(2));
        assert_eq!(
            picked(
                &[pair("a.b.test", EXPIRED), pair("*.b.test", EXPIRED)],
                "a.b.test",
                &[]
            ),
            Some(0)
        );
    }

    #[test]
    fn the_default_is_the_first_pair_or_its_like() {
        let named = |name: &str, path: &str, validity| Pair {
            path: path.into(),
            ..pair(name, validity)
        };
        let pairs = [
            named("a", "1", EXPIRED),
            named("b", "2", LONGER),
            named("a", "3", VALID),
            named("a", "4", LONG_EXPIRED),
        ];
        let at = |key: &CertifiedKey| {
            pairs
                .iter()
                .position(|pair| std::ptr::eq(&*pair.key, key))
                .unwrap()
        };
        let default = |refused: &[usize]| {
            Defaults::of(&pairs)
                .pick(&|key| !refused.contains(&at(key)), NOW)
                .map(|key| at(&key))
        };
        assert_eq!(default(&[]), Some(2));
        assert_eq!(default(&[2]), Some(0));
        assert_eq!(default(&[0, 2, 3]), Some(1));
        assert_eq!(default(&[0, 1, 2, 3]), Some(2));
        assert!(Defaults::default().pick(&|_| true, NOW).is_none());
    }
}
