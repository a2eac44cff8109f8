//! Tokens of strangers: reading never panics, none is signed by a key that no token can have been
//! signed with, and none that asks for what is not understood is read.

use std::sync::LazyLock;

use lb::jwt::{KeySet, Rules, Token};

/// See [`Target`](super::Target).
pub const SEEDS: &[&[u8]] = &[
    // {"alg":"ES256","typ":"JWT"} and {"sub":"ann","exp":9999999999}
    b"eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbm4iLCJleHAiOjk5OTk5OTk5OTl9.c2ln",
    // {"alg":"RS256","kid":"a"} and {"aud":["x"],"nbf":1.5}
    b"eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.eyJhdWQiOlsieCJdLCJuYmYiOjEuNX0.c2ln",
    // {"alg":"none"} and {}
    b"eyJhbGciOiJub25lIn0.e30.",
    // {"alg":"ES256","crit":["b64"]}
    b"eyJhbGciOiJFUzI1NiIsImNyaXQiOlsiYjY0Il19.e30.c2ln",
    // The parts as they are before they are encoded: see `run`.
    b"{\"alg\":\"ES256\",\"kid\":\"a\"} {\"iss\":\"i\",\"aud\":[\"x\"],\"exp\":1e10,\"role\":[\"admin\"]}",
    b"{\"alg\":\"ES256\",\"alg\":\"none\"} {}",
    b"..",
];
/// See [`Target`](super::Target).
pub const WORDS: &[&str] = &[
    ".",
    "\"alg\":",
    "\"ES256\"",
    "\"none\"",
    "\"HS256\"",
    "\"kid\":",
    "\"crit\":",
    "\"b64\":false",
    "\"typ\":\"JWT\"",
    "\"exp\":",
    "\"nbf\":",
    "\"aud\":",
    "\"iss\":",
    "\"role\":",
    "9999999999",
    "1e999",
    "-1",
    "null",
    "[",
    "]",
    "{",
    "}",
    ",",
    "\\u0000",
    "eyJhbGciOiJFUzI1NiJ9",
    "e30",
    "==",
];

/// A key that made no token: its point is that of the standard's generator (SEC 2, section 2.4.2),
/// with both coordinates as they stand there.
static KEYS: LazyLock<KeySet> = LazyLock::new(|| {
    let set = br#"{"kty":"EC","crv":"P-256","x":"axfR8uEsQkf4vOblY6RA8ncDfYEt6zOg9KE5RdiYwpY","y":"T-NC4v4af5uO5-tKfA-eFivOM1drMV7Oy7ZAaDe_UfU"}"#;
    KeySet::parse(set, false).expect("a key")
});

/// A token; or, where there is a blank between two parts, these encoded as one.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    look(text);
    if let Some((header, payload)) = text.split_once(' ') {
        look(&format!("{}.{}.c2ln", encode(header), encode(payload)));
    }
}

fn look(text: &str) {
    let Ok(token) = Token::read(text) else { return };
    assert_eq!(text.matches('.').count(), 2);
    assert!(!KEYS.candidates(&token).any(|key| token.is_signed_by(key)));
    let rules = Rules {
        issuer: Some("i".to_owned()),
        audiences: vec!["x".to_owned()],
        required: vec![("role".to_owned(), "admin".to_owned())],
        exp_required: true,
    };
    if let Ok(claims) = token.claims()
        && let Ok(until) = rules.check(&claims, 1_000_000)
    {
        assert!(until > 1_000_000);
        assert!(claims.get("iss").is_some() && claims.get("aud").is_some());
    }
}

/// Base64url without padding, by hand: the engine of the balancer is what is tested.
fn encode(text: &str) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        for at in 0..=chunk.len() {
            out.push(char::from(LETTERS[(bits >> (18 - 6 * at) & 63) as usize]));
        }
    }
    out
}
