//! Which scheme a value of Authorization or WWW-Authenticate names, as far as that matters to a
//! connection.

/// Whether a value of Authorization or WWW-Authenticate names such a scheme.
#[must_use]
pub fn is_of_connection(value: &[u8]) -> bool {
    let scheme = value
        .trim_ascii()
        .split(|byte| matches!(byte, b' ' | b'\t'))
        .next()
        .unwrap_or_default();
    scheme.eq_ignore_ascii_case(b"ntlm") || scheme.eq_ignore_ascii_case(b"negotiate")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_are_told_apart() {
        for value in [
            "NTLM",
            "ntlm TlRMTVNTUAAB",
            "Negotiate",
            "negotiate YII=",
            " NTLM x",
            "Negotiate\tx",
        ] {
            assert!(is_of_connection(value.as_bytes()), "{value}");
        }
        for value in [
            "Basic realm=\"x\"",
            "Bearer ntlm",
            "",
            "NTLMv2 x",
            "Digest a=b",
        ] {
            assert!(!is_of_connection(value.as_bytes()), "{value}");
        }
    }
}
