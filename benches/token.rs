//! The cost of a token: reading it, verifying its signature and its claims; and how a request whose
//! token is known already is decided.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;
use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use criterion::{Criterion, criterion_group, criterion_main};
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderValue};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use lb::config::{Inputs, load};
use lb::jwt::{KeySet, Rules, Token};
use lb::proxy::auth::{Admission, Schemes};
use lb::proxy::tls::UpstreamTls;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("a clock after 1970").as_secs()
}

/// A token as providers make them, some 700 bytes long, and the key that made it.
fn token() -> (String, KeyPair) {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key");
    let header = "{\"alg\":\"ES256\",\"typ\":\"JWT\"}";
    let claims = serde_json::json!({
        "iss": "https://id.example.com/realms/shop", "aud": ["shop-api", "account"], "sub": "8f2c6f0e-6f5b-4d57-9f0c-3c1d9a0e1b77",
        "exp": now() + 36_000, "iat": now(), "jti": "2b1f7c0a-1f5e-4d38-8b0d-1d1c5b7e9a42", "azp": "web", "scope": "openid email profile",
        "realm_access": {"roles": ["offline_access", "uma_authorization", "admin"]}, "email": "ann@example.com", "email_verified": true,
    });
    let message = [header, &claims.to_string()]
        .map(|part| BASE64_URL_SAFE_NO_PAD.encode(part))
        .join(".");
    let key = EncodingKey::from_ec_der(&pair.serialize_der());
    let signature = crypto::sign(message.as_bytes(), &key, Algorithm::ES256).expect("a signature");
    (format!("{message}.{signature}"), pair)
}

fn verify(c: &mut Criterion) {
    let (token, pair) = token();
    let keys = KeySet::parse(pair.public_key_pem().as_bytes(), false).expect("a key");
    let rules = Rules {
        issuer: Some("https://id.example.com/realms/shop".to_owned()),
        audiences: vec!["shop-api".to_owned()],
        required: vec![("realm_access.roles".to_owned(), "admin".to_owned())],
        exp_required: true,
    };
    let now_s = i64::try_from(now()).expect("a time");
    c.bench_function("token/verify/P-256", |b| {
        b.iter(|| {
            let token = Token::read(black_box(&token)).expect("a token");
            assert!(keys.candidates(&token).any(|key| token.is_signed_by(key)));
            let claims = token.claims().expect("claims");
            rules.check(&claims, now_s).expect("good claims")
        });
    });
    c.bench_function("token/read", |b| {
        b.iter(|| Token::read(black_box(&token)).is_ok());
    });
}

fn known(c: &mut Criterion) {
    let (token, pair) = token();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys.pem");
    std::fs::write(&file, pair.public_key_pem()).expect("a file");
    let text = format!(
        "[auth.id]\ntype = \"jwt\"\nissuer = \"https://id.example.com/realms/shop\"\naudiences = [\"shop-api\"]\n\
         keys_file = {file:?}\nclaims_to_headers = {{ sub = \"X-User\" }}\nrequire = {{ \"realm_access.roles\" = \"admin\" }}\n"
    );
    let config = load(&Inputs {
        file: Some(("lb.toml".into(), text)),
        ..Inputs::default()
    })
    .expect("a configuration")
    .config;
    let tls = UpstreamTls::new(None).expect("system roots, or none");
    let schemes = Schemes::load(&config.auth, None, &tls).expect("a scheme");
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("a value");
    headers.insert(AUTHORIZATION, value);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    c.bench_function("token/known", |b| {
        b.iter(|| {
            let admission =
                runtime.block_on(schemes.admit("id", black_box(&headers), HeaderMap::new));
            assert!(matches!(admission, Admission::Granted(Some(_))));
        });
    });
}

criterion_group!(benches, verify, known);
criterion_main!(benches);
