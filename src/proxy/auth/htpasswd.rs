//! Files of names and passwords as `htpasswd` writes them: `NAME:SECRET`, one a line.
//!
//! A secret is recognised by its beginning; what begins with none of them is the password itself.
//! Lines that cannot be read are reported by number and let no user in; the others count.

use std::collections::HashMap;
use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{self, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha_crypt::{PasswordVerifier as _, ShaCrypt};

use crate::proxy::auth::md5_crypt::md5_crypt;

const SHA1_LEN: usize = 20;

/// What a password is compared with.
#[derive(Clone, PartialEq, Eq)]
enum Secret {
    /// `$2y$…`, also `$2a$`, `$2b$`, `$2x$`.
    Bcrypt,
    /// `$5$…` and `$6$…`.
    ShaCrypt,
    /// `$apr1$SALT$HASH` and `$1$SALT$HASH`.
    Md5 {
        magic: &'static str,
        salt: Box<str>,
        hash: Box<str>,
    },
    /// `{SHA}…`, and `{SSHA}…` with its salt.
    Sha1 {
        digest: [u8; SHA1_LEN],
        salt: Box<[u8]>,
    },
    Plain,
}

/// The secret of one user.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Stored {
    /// As it stands in the file.
    text: Box<str>,
    secret: Secret,
}

impl fmt::Debug for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The users of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Users {
    by_name: HashMap<Box<str>, Stored>,
    /// What the passwords of users that do not exist are compared with, so that the time does not
    /// tell which users exist.
    decoy: Option<Stored>,
}

/// A line that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub(super) struct BadLine {
    line: usize,
    reason: &'static str,
}

impl Users {
    /// Reads a file's text. The last line of a name counts.
    pub(super) fn parse(text: &str) -> (Self, Vec<BadLine>) {
        let (mut users, mut bad) = (Self::default(), Vec::new());
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match parse_line(line) {
                Ok((name, stored)) => {
                    users.by_name.insert(name.into(), stored);
                }
                Err(reason) => bad.push(BadLine {
                    line: at + 1,
                    reason,
                }),
            }
        }
        users.decoy = users
            .by_name
            .values()
            .find(|stored| stored.is_slow())
            .cloned();
        (users, bad)
    }

    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }

    /// The secret of a user, and whether it is truly that user's.
    pub(super) fn find(&self, name: &str) -> Option<(&Stored, bool)> {
        match self.by_name.get(name) {
            Some(stored) => Some((stored, true)),
            None => self.decoy.as_ref().map(|decoy| (decoy, false)),
        }
    }
}

fn parse_line(line: &str) -> Result<(&str, Stored), &'static str> {
    let (name, text) = line
        .split_once(':')
        .ok_or("it has no colon between name and password")?;
    if name.is_empty() {
        return Err("it has no name");
    }
    if text.contains(':') {
        return Err("it has more than one colon");
    }
    Ok((
        name,
        Stored {
            secret: parse_secret(text)?,
            text: text.into(),
        },
    ))
}

fn parse_secret(text: &str) -> Result<Secret, &'static str> {
    if ["$2a$", "$2b$", "$2x$", "$2y$"]
        .iter()
        .any(|prefix| text.starts_with(prefix))
    {
        return text
            .parse::<bcrypt::HashParts>()
            .map(|_| Secret::Bcrypt)
            .map_err(|_| "its bcrypt hash is broken");
    }
    if text.starts_with("$5$") || text.starts_with("$6$") {
        let mut fields: Vec<&str> = text[3..].split('$').collect();
        // Optional, in front of salt and hash.
        if fields
            .first()
            .is_some_and(|field| field.starts_with("rounds="))
        {
            fields.remove(0);
        }
        let length = if text.starts_with("$5$") { 43 } else { 86 };
        return match &fields[..] {
            [_, hash] if hash.len() == length => Ok(Secret::ShaCrypt),
            _ => Err("its SHA-crypt hash is broken"),
        };
    }
    for magic in ["$apr1$", "$1$"] {
        if let Some(rest) = text.strip_prefix(magic) {
            let (salt, hash) = rest
                .split_once('$')
                .filter(|(_, hash)| hash.len() == 22)
                .ok_or("its MD5 hash is broken")?;
            return Ok(Secret::Md5 {
                magic,
                salt: salt.into(),
                hash: hash.into(),
            });
        }
    }
    for (prefix, salted) in [("{SHA}", false), ("{SSHA}", true)] {
        if let Some(rest) = text.strip_prefix(prefix) {
            let bytes = STANDARD
                .decode(rest)
                .map_err(|_| "its SHA hash is not base64")?;
            let (digest, salt) = bytes
                .split_first_chunk::<SHA1_LEN>()
                .ok_or("its SHA hash is too short")?;
            if !salted && !salt.is_empty() {
                return Err("its SHA hash is too long");
            }
            return Ok(Secret::Sha1 {
                digest: *digest,
                salt: salt.into(),
            });
        }
    }
    Ok(Secret::Plain)
}

impl Stored {
    /// Whether comparing takes so long that it must not be done on a worker.
    pub(super) fn is_slow(&self) -> bool {
        matches!(
            self.secret,
            Secret::Bcrypt | Secret::ShaCrypt | Secret::Md5 { .. }
        )
    }

    /// As it stands in the file.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether this is the password.
    pub(super) fn matches(&self, password: &[u8]) -> bool {
        match &self.secret {
            Secret::Bcrypt => bcrypt::verify(password, &self.text).unwrap_or(false),
            Secret::ShaCrypt => ShaCrypt::default()
                .verify_password(password, &*self.text)
                .is_ok(),
            Secret::Md5 { magic, salt, hash } => same(
                &md5_crypt(password, salt.as_bytes(), magic.as_bytes()),
                hash.as_bytes(),
            ),
            Secret::Sha1 { digest, salt } => {
                let mut found = digest::Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                found.update(password);
                found.update(salt);
                same(found.finish().as_ref(), digest)
            }
            Secret::Plain => same(password, self.text.as_bytes()),
        }
    }
}

/// Compares hashes of the two: how long that takes tells nothing of where they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    let [a, b] = [a, b].map(|bytes| digest::digest(&SHA256, bytes));
    verify_slices_are_equal(a.as_ref(), b.as_ref()).is_ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "\
# people
plain:secret
sha:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=
ssha:{SSHA}gVK8WC9YyFT1gMsQHTGCgT3sSv5zYWx0
apr1:$apr1$r31x5678$awGUKYXYkXQ1p0y8DzbYi/
md5:$1$r31x5678$MiXoHv4vuovfCM15AJppx0
sha256:$5$abcdef$vCd9FNgcBK0f6IfiKaBFbbXe/aeUiQcDmWXJK8T5zS7
sha512:$6$saltsalt$TVLlQcbpFVof5W3Yz4DTP6gRstiNuHwwTt6GLc1E5n0U0aDehy0S5knV8wiOQSpT0Y77vwPZN.Pq.H91p5hVO1
bcrypt:$2y$04$BCRYPT

  twice:old
twice:new
";

    fn file() -> Users {
        let bcrypt = bcrypt::hash("secret", 4)
            .unwrap()
            .replacen("$2b$", "$2y$", 1);
        let (users, bad) = Users::parse(&FILE.replace("$2y$04$BCRYPT", &bcrypt));
        assert_eq!(bad, []);
        users
    }

    #[test]
    fn every_kind_of_secret_knows_its_password() {
        let users = file();
        let passwords = [
            ("plain", "secret", false),
            ("sha", "secret", false),
            ("ssha", "secret", false),
            ("apr1", "myPassword", true),
            ("md5", "myPassword", true),
            ("sha256", "secret", true),
            ("sha512", "secret", true),
            ("bcrypt", "secret", true),
            ("twice", "new", false),
        ];
        for (name, password, slow) in passwords {
            let (stored, truly) = users.find(name).unwrap();
            assert!(truly && stored.matches(password.as_bytes()), "{name}");
            assert_eq!(stored.is_slow(), slow, "{name}");
            for wrong in ["", "Secret", "secret ", "old", stored.text()] {
                assert!(
                    wrong == password || !stored.matches(wrong.as_bytes()),
                    "{name} {wrong:?}"
                );
            }
        }
        assert_eq!(users.len(), passwords.len());
    }

    #[test]
    fn a_user_that_does_not_exist_costs_as_much_as_one_that_does() {
        let users = file();
        let (decoy, truly) = users.find("nobody").unwrap();
        assert!(decoy.is_slow() && !truly);
        assert!(Users::parse("a:plain").0.find("nobody").is_none());
    }

    #[test]
    fn lines_that_cannot_be_read_are_named_and_let_no_user_in() {
        let lines = [
            ("nobody", "no colon"),
            (":secret", "no name"),
            ("a:b:c", "more than one colon"),
            ("a:$2y$10$short", "bcrypt"),
            ("a:$6$saltonly", "SHA-crypt"),
            ("a:$apr1$saltonly", "MD5"),
            ("a:{SHA}!", "not base64"),
            ("a:{SSHA}AAAA", "too short"),
            ("a:{SHA}gVK8WC9YyFT1gMsQHTGCgT3sSv5zYWx0", "too long"),
        ];
        for (line, part) in lines {
            let (users, bad) = Users::parse(&format!("ok:x\n{line}\n"));
            assert_eq!(users.len(), 1, "{line}");
            assert!(
                matches!(&bad[..], [one] if one.to_string().starts_with("line 2: ") && one.reason.contains(part)),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        assert!(!format!("{:?}", file()).contains("secret"));
    }

    proptest! {
        #[test]
        fn no_line_and_no_password_panics(
            text in "(a|b):([$]2y[$]|[$]5[$]|[$]6[$]|[$]apr1[$]|[{]SHA[}]|[{]SSHA[}]|)[ -~é$]{0,70}",
            password in ".{0,80}",
        ) {
            let (users, _) = Users::parse(&text);
            if let Some((stored, _)) = users.find("a").filter(|(stored, _)| !stored.is_slow()) {
                stored.matches(password.as_bytes());
            }
        }
    }
}
