//! Names of header fields that a program behind us could take for another's.
//!
//! Pure. CGI and what came after it (WSGI, Rack, PHP) hand fields to programs as variables:
//! `X-Auth-User`, `X_Auth_User` and `X.Auth.User` all become `HTTP_X_AUTH_USER`, and it is chance
//! which of them wins. So where a field is written by us, the client's fields whose names are alike
//! go.

/// Bytes of a name that no such mapping touches; any other stands for any other.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-'
}

/// Whether a name has a byte that makes it like another's: only such names need [`alike`].
#[must_use]
pub fn is_odd(name: &[u8]) -> bool {
    // Without early exit: names are short, and most are looked at to their end.
    name.iter().fold(false, |odd, &byte| odd | !is_plain(byte))
}

/// Whether the names are the same but for case, and for which punctuation stands in them.
#[must_use]
pub fn alike(one: &[u8], other: &[u8]) -> bool {
    let fold = |byte: u8| {
        if byte.is_ascii_alphanumeric() {
            byte.to_ascii_lowercase()
        } else {
            b'-'
        }
    };
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|(&one, &other)| fold(one) == fold(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn punctuation_and_case_make_no_difference() {
        for name in [
            "X-Auth-User",
            "x_auth_user",
            "X.Auth.User",
            "X-Auth_User",
            "X~AUTH|USER",
            "x-auth-user",
        ] {
            assert!(alike(name.as_bytes(), b"x-auth-user"), "{name}");
            assert_eq!(
                is_odd(name.as_bytes()),
                name.contains(['_', '.', '~']),
                "{name}"
            );
        }
        for name in [
            "xauthuser",
            "x-auth-users",
            "x--auth-user",
            "y-auth-user",
            "",
        ] {
            assert!(!alike(name.as_bytes(), b"x-auth-user"), "{name}");
        }
    }
}
