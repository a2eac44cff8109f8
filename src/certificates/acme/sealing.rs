//! Private keys under a passphrase: scrypt makes the key, AES-256-GCM seals the text.
//!
//! ```text
//! -----BEGIN LB ENCRYPTED TEXT-----
//! base64 of: version, log2(N), salt (16), nonce (12), ciphertext with its tag (16)
//! -----END LB ENCRYPTED TEXT-----
//! ```
//! What the text is for (a host's key, the account) is authenticated with it: two values of a store
//! cannot change places. The salt is that of a text that was opened before, so that one derivation
//! serves the whole store; a nonce is random, and a store holds far fewer than the 2^32 texts for
//! which that is safe.

use std::cell::RefCell;
use std::collections::HashMap;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::config::Secret;

const BEGIN: &str = "-----BEGIN LB ENCRYPTED TEXT-----";
const END: &str = "-----END LB ENCRYPTED TEXT-----";
const VERSION: u8 = 1;
const SALT_LEN: usize = 16;
const HEADER_LEN: usize = 2 + SALT_LEN;
/// log2 of scrypt's N: 32 MiB, and a tenth of a second. It is derived on a thread that serves
/// certificates to handshakes.
const COST: u8 = 15;
/// A text may take no more: 256 MiB.
const COST_MAX: u8 = 18;
/// Salts for which keys are kept.
const KEYS_MAX: usize = 8;
const LINE: usize = 64;

/// Why a text cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SealError {
    /// It is not in the form of such a text.
    #[error("is not a text that lb has encrypted")]
    Damaged,
    /// It is of another form.
    #[error("is encrypted in a form of a newer lb: use that one")]
    Newer,
    /// The key does not fit, or the text was changed.
    #[error(
        "cannot be decrypted: wrong passphrase in key_passphrase_file, or the text was changed"
    )]
    WrongPassphrase,
    /// No key can be made.
    #[error("no key can be derived from the passphrase")]
    NoKey,
}

type Header = [u8; HEADER_LEN];

/// Seals and opens with one passphrase.
#[derive(Debug)]
pub(super) struct Sealer {
    passphrase: Secret,
    keys: RefCell<HashMap<Header, LessSafeKey>>,
    /// The header that new texts get.
    header: RefCell<Option<Header>>,
}

impl Sealer {
    pub(super) fn new(passphrase: Secret) -> Self {
        Self {
            passphrase,
            keys: RefCell::default(),
            header: RefCell::default(),
        }
    }

    /// `purpose` has to be the same when it is opened.
    pub(super) fn seal(&self, text: &str, purpose: &str) -> Result<String, SealError> {
        let known = *self.header.borrow();
        let header = match known {
            Some(header) => header,
            None => {
                let mut header = [0; HEADER_LEN];
                (header[0], header[1]) = (VERSION, COST);
                rand::fill(&mut header[2..]).map_err(|_| SealError::NoKey)?;
                *self.header.borrow_mut() = Some(header);
                header
            }
        };
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| SealError::NoKey)?;
        let mut sealed = text.as_bytes().to_vec();
        self.with_key(header, |key| {
            let nonce = Nonce::assume_unique_for_key(nonce);
            key.seal_in_place_append_tag(nonce, aad(header, purpose), &mut sealed)
                .map_err(|_| SealError::NoKey)
        })?;
        let bytes = [&header[..], &nonce, &sealed].concat();
        let base64 = BASE64_STANDARD.encode(bytes);
        let mut out = format!("{BEGIN}\n");
        for line in base64.as_bytes().chunks(LINE) {
            out.push_str(&String::from_utf8_lossy(line));
            out.push('\n');
        }
        out.push_str(END);
        out.push('\n');
        Ok(out)
    }

    pub(super) fn open(&self, text: &str, purpose: &str) -> Result<String, SealError> {
        let body = text
            .trim()
            .strip_prefix(BEGIN)
            .and_then(|rest| rest.strip_suffix(END))
            .ok_or(SealError::Damaged)?;
        let base64: String = body.split_ascii_whitespace().collect();
        let bytes = BASE64_STANDARD
            .decode(base64)
            .map_err(|_| SealError::Damaged)?;
        if bytes.first().is_some_and(|version| *version > VERSION) {
            return Err(SealError::Newer);
        }
        let (header, rest) = bytes
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(SealError::Damaged)?;
        let (nonce, sealed) = rest
            .split_first_chunk::<NONCE_LEN>()
            .ok_or(SealError::Damaged)?;
        if header[0] != VERSION || header[1] > COST_MAX {
            return Err(SealError::Damaged);
        }
        let mut sealed = sealed.to_vec();
        let plain = self.with_key(*header, |key| {
            let nonce = Nonce::assume_unique_for_key(*nonce);
            key.open_in_place(nonce, aad(*header, purpose), &mut sealed)
                .map(|plain| plain.to_vec())
                .map_err(|_| SealError::WrongPassphrase)
        })?;
        let plain = String::from_utf8(plain).map_err(|_| SealError::Damaged)?;
        if header[1] == COST {
            self.header.borrow_mut().get_or_insert(*header);
        }
        Ok(plain)
    }

    fn with_key<T>(
        &self,
        header: Header,
        act: impl FnOnce(&LessSafeKey) -> Result<T, SealError>,
    ) -> Result<T, SealError> {
        let mut keys = self.keys.borrow_mut();
        if let Some(key) = keys.get(&header) {
            return act(key);
        }
        let params = scrypt::Params::new(header[1], 8, 1).map_err(|_| SealError::Damaged)?;
        let mut bytes = [0; 32];
        let passphrase = self.passphrase.reveal().as_bytes();
        scrypt::scrypt(passphrase, &header[2..], &params, &mut bytes)
            .map_err(|_| SealError::NoKey)?;
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| SealError::NoKey)?;
        if keys.len() >= KEYS_MAX {
            keys.clear();
        }
        act(keys.entry(header).or_insert(LessSafeKey::new(key)))
    }
}

/// Where a sealed text begins within a longer one.
pub(super) fn begin_of(text: &str) -> Option<usize> {
    text.find(BEGIN)
}

fn aad(header: Header, purpose: &str) -> Aad<Vec<u8>> {
    Aad::from([&header[..], purpose.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(passphrase: &str) -> Sealer {
        Sealer::new(Secret::new(passphrase))
    }

    #[test]
    fn only_the_same_passphrase_and_purpose_open_it() {
        let one = sealer("one");
        let sealed = one.seal("key\n", "a.test").unwrap();
        assert!(!sealed.contains("key"));
        let other = sealer("one");
        assert_eq!(other.open(&sealed, "a.test").as_deref(), Ok("key\n"));
        for (sealer, purpose) in [(&sealer("two"), "a.test"), (&one, "b.test")] {
            assert_eq!(
                sealer.open(&sealed, purpose),
                Err(SealError::WrongPassphrase)
            );
        }
        // The salt of what was opened serves for what is sealed.
        let second = other.seal("key\n", "a.test").unwrap();
        assert_ne!(second, sealed);
        assert_eq!(
            second.lines().nth(1).map(|it| &it[..20]),
            sealed.lines().nth(1).map(|it| &it[..20])
        );
    }

    #[test]
    fn damage_is_told_from_a_newer_form() {
        let one = sealer("one");
        let sealed = one.seal("key", "a").unwrap();
        let newer = format!("{BEGIN}\n{}\n{END}", BASE64_STANDARD.encode([9; 90]));
        let costly = format!(
            "{BEGIN}\n{}\n{END}",
            BASE64_STANDARD.encode([1, 30, 0].repeat(30))
        );
        for (text, wanted) in [
            ("", SealError::Damaged),
            ("key", SealError::Damaged),
            (&format!("{BEGIN}\n?\n{END}"), SealError::Damaged),
            (&format!("{BEGIN}\nAQ8=\n{END}"), SealError::Damaged),
            (&sealed[..sealed.len() - 40], SealError::Damaged),
            (&newer, SealError::Newer),
            (&costly, SealError::Damaged),
        ] {
            assert_eq!(one.open(text, "a"), Err(wanted), "{text}");
        }
    }
}
