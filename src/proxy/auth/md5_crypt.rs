//! MD5-crypt as FreeBSD's `crypt` ($1$) and Apache ($apr1$) have it: what `htpasswd` writes by
//! default. No kept crate has it; described in the comments of Apache's `apr_md5.c` and in
//! passlib's documentation.

use md5::{Digest as _, Md5};

/// Salts longer than this are cut.
const SALT_MAX: usize = 8;
const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The text of the hash, without magic and salt: 22 characters. `magic` is `$1$` or `$apr1$`.
pub(super) fn md5_crypt(password: &[u8], salt: &[u8], magic: &[u8]) -> [u8; 22] {
    let salt = &salt[..salt.len().min(SALT_MAX)];
    let inner = digest(&[password, salt, password]);
    let mut first = Md5::new();
    first.update(password);
    first.update(magic);
    first.update(salt);
    let mut left = password.len();
    while left > 0 {
        let taken = left.min(16);
        first.update(&inner[..taken]);
        left -= taken;
    }
    // One byte per bit of the length: a zero, or the first of the password.
    let mut bits = password.len();
    while bits > 0 {
        first.update(if bits & 1 == 1 {
            &[0][..]
        } else {
            &password[..1]
        });
        bits >>= 1;
    }
    let mut state: [u8; 16] = first.finalize().into();
    for round in 0..1000 {
        let (odd, by3, by7) = (round % 2 == 1, round % 3 != 0, round % 7 != 0);
        state = digest(&[
            if odd { password } else { &state },
            if by3 { salt } else { &[] },
            if by7 { password } else { &[] },
            if odd { &state } else { password },
        ]);
    }
    encode(&state)
}

fn digest(parts: &[&[u8]]) -> [u8; 16] {
    let mut hasher = Md5::new();
    parts.iter().for_each(|part| hasher.update(part));
    hasher.finalize().into()
}

/// Crypt's base64: three bytes from places of its own become four characters, lowest bits first.
fn encode(state: &[u8; 16]) -> [u8; 22] {
    let mut text = [0; 22];
    let places = [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]];
    for (group, [a, b, c]) in text.chunks_mut(4).zip(places) {
        put(
            group,
            u32::from(state[a]) << 16 | u32::from(state[b]) << 8 | u32::from(state[c]),
        );
    }
    put(&mut text[20..], u32::from(state[11]));
    text
}

fn put(text: &mut [u8], mut bits: u32) {
    for character in text {
        *character = ALPHABET[(bits & 63) as usize];
        bits >>= 6;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `openssl passwd -apr1` and `-1`.
    #[test]
    fn hashes_are_those_of_openssl() {
        let cases = [
            (
                "myPassword",
                "awGUKYXYkXQ1p0y8DzbYi/",
                "MiXoHv4vuovfCM15AJppx0",
            ),
            ("", "Db9xgJxlZyUmNPIPuEnSS/", "c0pj1KOqm/By9p29YIUwS/"),
            ("a", "vrcrQnUIMyu5O/PLKe5Lw0", "il8IZlvp2C5iFTs1xi6iN0"),
            (
                "exactly16bytes!!",
                "7qgebp22Wril77nyDReK11",
                "Qh4dcstxTd1qTK8pZo4P00",
            ),
        ];
        for (password, apr1, md5) in cases {
            assert_eq!(
                md5_crypt(password.as_bytes(), b"r31x5678", b"$apr1$"),
                *apr1.as_bytes(),
                "{password:?}"
            );
            assert_eq!(
                md5_crypt(password.as_bytes(), b"r31x5678ignored", b"$1$"),
                *md5.as_bytes(),
                "{password:?}"
            );
        }
    }
}
