//! Routes whose requests need a signed token: what is forged is refused over HTTP/1.1 and HTTP/2,
//! and keys come, change and go away without a failed request.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderMap, Request};
use hyper::body::Frame;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use serde_json::{Value, json};

use super::support::client::{RawClient, exchange};
use super::support::lb::Lb;
use super::support::upstream::Upstream;
use super::support::web::WebServer;
use super::wire::*;
use crate::support::wait::wait_until;

const ISSUER: &str = "https://id.example.com/realms/shop";

fn encode(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs()
}

/// A key of P-256.
struct Signer {
    pair: KeyPair,
    kid: String,
}

impl Signer {
    fn new(kid: &str) -> Self {
        Self {
            pair: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
            kid: kid.to_owned(),
        }
    }

    fn jwk(&self) -> Value {
        let point = self.pair.public_key_raw();
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "kid": self.kid,
            "x": encode(&point[1..33]), "y": encode(&point[33..]),
        })
    }

    fn key(&self) -> EncodingKey {
        EncodingKey::from_ec_der(&self.pair.serialize_der())
    }

    fn header(&self) -> Value {
        json!({"alg": "ES256", "typ": "JWT", "kid": self.kid})
    }

    /// With this header and these claims, as they are written.
    fn sign_text(&self, header: &str, claims: &str) -> String {
        signed(header, claims, &self.key(), Algorithm::ES256)
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_text(&self.header().to_string(), &claims.to_string())
    }
}

fn signed(header: &str, claims: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", encode(header), encode(claims));
    let signature = crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": ["shop-api"], "sub": "ann", "role": ["user", "admin"], "exp": now() + 600})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

const SCHEME: &str = "[auth.id]\ntype = \"jwt\"\nissuer = \"https://id.example.com/realms/shop\"\naudiences = [\"shop-api\"]\n\
     claims_to_headers = { sub = \"X-User\", role = \"X-Roles\", missing = \"X-Missing\" }\nrequire = { role = \"admin\" }\n";

/// A balancer in front of this instance, whose routes need a token.
fn start(upstream: &Upstream, keys: &str) -> Lb {
    let to = [url("http", upstream.address)];
    let text = listener("http", "")
        + &route("open", "/open", &to, "")
        + &route("shop", "/", &to, "auth=id")
        + &route("two", "/two", &to, "auth=id proto=h2c")
        + SCHEME
        + keys
        + "\n[proxy]\nworkers = 2\n[log]\naccess = \"json\"\nlevel = \"debug\"\n";
    let lb = Lb::start(&config(&text));
    lb.wait_ready();
    lb
}

fn set(signers: &[&Signer]) -> Vec<u8> {
    let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
    json!({ "keys": keys }).to_string().into_bytes()
}

/// Status and challenge over HTTP/1.1, on a connection of its own.
fn http1(lb: &Lb, token: &str) -> (u16, Option<String>) {
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n");
    let response = exchange(lb.address("http"), request).expect("a response");
    let challenge = response.header("www-authenticate").map(str::to_owned);
    (response.status, challenge)
}

/// The same over HTTP/2.
fn http2(lb: &Lb, token: &str, fields: &[(&str, &str)]) -> (u16, HeaderMap, Value) {
    block_on(async {
        let (mut client, _) = h2(lb.address("http")).await;
        let mut request =
            Request::get("http://x/").header("authorization", format!("Bearer {token}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(full("")).unwrap();
        let (parts, body, _) = ask(&mut client, request).await;
        let body = serde_json::from_slice(&body).unwrap_or_default();
        (parts.status.as_u16(), parts.headers, body)
    })
}

/// Values of a field that the instance got.
fn values(body: &Value, name: &str) -> Vec<String> {
    let fields = body["headers"].as_array().unwrap();
    let fields = fields.iter().filter(|field| field[0] == name);
    fields
        .map(|field| field[1].as_str().unwrap().to_owned())
        .collect()
}

/// Tokens that must not pass, and with what status.
fn forged(good: &Signer, stranger: &Signer, rsa: &KeyPair) -> Vec<(String, String, u16)> {
    let mut table: Vec<(String, String, u16)> = Vec::new();
    let mut add = |name: &str, token: String, status: u16| {
        table.push((name.to_owned(), token, status));
    };
    let usual = good.sign(&claims());
    let parts: Vec<&str> = usual.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    let header_text = good.header().to_string();
    let claims_text = claims().to_string();

    // Its form.
    for (name, token) in [
        ("one part", "abc".to_owned()),
        ("two parts", format!("{header}.{payload}")),
        ("no signature", format!("{header}.{payload}.")),
        ("four parts", format!("{usual}.{signature}")),
        ("five parts, as encrypted ones have", format!("{usual}..")),
        ("padding", format!("{usual}==")),
        ("a blank inside", format!("{header}. {payload}.{signature}")),
        (
            "standard base64",
            format!("{header}.{payload}.{}+/", &signature[..84]),
        ),
        (
            "a truncated signature",
            format!("{header}.{payload}.{}", &signature[..80]),
        ),
        ("a longer signature", format!("{usual}AAAA")),
        (
            "a signature of zeros",
            format!("{header}.{payload}.{}", encode([0; 64])),
        ),
        ("a signature of one byte", format!("{header}.{payload}.AA")),
        (
            "the signature of a DER",
            format!("{header}.{payload}.{}", encode([0x30; 70])),
        ),
        ("no header", format!(".{payload}.{signature}")),
        ("no payload", format!("{header}..{signature}")),
        (
            "another payload",
            format!(
                "{header}.{}.{signature}",
                encode(with("sub", json!("eve")).to_string())
            ),
        ),
        (
            "another header",
            format!("{}.{payload}.{signature}", encode("{\"alg\":\"ES256\"}")),
        ),
        (
            "a huge one",
            format!("{header}.{}.{signature}", "A".repeat(20 << 10)),
        ),
        ("a token of dots", "...".to_owned()),
    ] {
        add(name, token, 401);
    }

    // How it says it is signed.
    for algorithm in [
        "none", "None", "NONE", "nOnE", "", "es256", "ES512", "HS256 ", "dir", "RSA1_5",
    ] {
        let mut header = good.header();
        header["alg"] = json!(algorithm);
        let text = header.to_string();
        add(
            &format!("alg {algorithm:?}"),
            good.sign_text(&text, &claims_text),
            401,
        );
        let bare = format!("{}.{}.", encode(&text), encode(&claims_text));
        add(&format!("alg {algorithm:?}, unsigned"), bare, 401);
    }
    for algorithm in ["ES384", "RS256", "PS256", "EdDSA"] {
        let mut header = good.header();
        header["alg"] = json!(algorithm);
        add(
            &format!("the key of ES256 as {algorithm}"),
            good.sign_text(&header.to_string(), &claims_text),
            401,
        );
    }
    // A public key taken for a secret: in every form that it is published in.
    let point = good.pair.public_key_raw().to_vec();
    for (name, secret) in [
        ("the point", point),
        ("PEM", good.pair.public_key_pem().into_bytes()),
        ("the JWK", good.jwk().to_string().into_bytes()),
        ("the set", set(&[good])),
        ("RSA as PEM", rsa.public_key_pem().into_bytes()),
        ("nothing but zeros", vec![0; 32]),
    ] {
        let key = EncodingKey::from_secret(&secret).unwrap();
        for (algorithm, word) in [(Algorithm::HS256, "HS256"), (Algorithm::HS512, "HS512")] {
            for kid in ["good", "rsa"] {
                let header = json!({"alg": word, "kid": kid}).to_string();
                add(
                    &format!("{word} with {name} and {kid}"),
                    signed(&header, &claims_text, &key, algorithm),
                    401,
                );
            }
        }
    }

    // By another key, which the token brings along or names.
    add(
        "another key of the same name",
        stranger.sign_text(&header_text, &claims_text),
        401,
    );
    let injected = [
        ("jwk", stranger.jwk()),
        ("jku", json!("http://127.0.0.1:1/keys")),
        ("x5u", json!("http://127.0.0.1:1/chain")),
        ("x5c", json!(["AAAA"])),
    ];
    for (name, value) in injected {
        let mut header = good.header();
        header[name] = value;
        add(
            &format!("another key by {name}"),
            stranger.sign_text(&header.to_string(), &claims_text),
            401,
        );
    }
    for kid in [
        json!("unknown"),
        json!("../../../../dev/null"),
        json!("good' OR '1'='1"),
        json!("good\u{0}"),
        json!("|cat /etc/passwd"),
        json!("http://127.0.0.1:1/"),
        json!(""),
        json!("GOOD"),
        json!(" good"),
    ] {
        let mut header = good.header();
        header["kid"] = kid.clone();
        add(
            &format!("kid {kid}"),
            stranger.sign_text(&header.to_string(), &claims_text),
            401,
        );
    }
    for kid in [
        json!(null),
        json!(1),
        json!(["good"]),
        json!({"good": 1}),
        json!("k".repeat(1000)),
    ] {
        let mut header = good.header();
        header["kid"] = kid.clone();
        add(
            &format!("kid of another type: {:.20}", kid.to_string()),
            good.sign_text(&header.to_string(), &claims_text),
            401,
        );
    }

    // Headers that demand what is not understood; signed rightly.
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("b64", json!(true)),
        ("zip", json!("DEF")),
        ("enc", json!("A128GCM")),
        ("typ", json!("logout+jwt")),
        ("typ", json!("dpop+jwt")),
        ("typ", json!("JWE")),
        ("typ", json!(7)),
    ] {
        let mut header = good.header();
        header[name] = value.clone();
        add(
            &format!("{name} {value}"),
            good.sign_text(&header.to_string(), &claims_text),
            401,
        );
    }
    for (name, header, claims) in [
        (
            "alg twice",
            r#"{"alg":"ES256","kid":"good","alg":"ES256"}"#.to_owned(),
            claims_text.clone(),
        ),
        (
            "kid twice",
            r#"{"alg":"ES256","kid":"x","kid":"good"}"#.to_owned(),
            claims_text.clone(),
        ),
        (
            "a header that is a list",
            "[]".to_owned(),
            claims_text.clone(),
        ),
        (
            "a header with more behind it",
            format!("{header_text}{{}}"),
            claims_text.clone(),
        ),
        (
            "sub twice",
            header_text.clone(),
            claims_text.replacen("\"sub\"", "\"sub\":\"eve\",\"sub\"", 1),
        ),
        (
            "exp twice",
            header_text.clone(),
            claims_text.replacen("\"exp\"", "\"exp\":1,\"exp\"", 1),
        ),
        (
            "a member twice below",
            header_text.clone(),
            claims_text.replacen("\"sub\"", "\"x\":{\"a\":1,\"a\":2},\"sub\"", 1),
        ),
        (
            "sub twice by an escape",
            header_text.clone(),
            claims_text.replacen("\"sub\"", "\"s\\u0075b\":\"eve\",\"sub\"", 1),
        ),
        (
            "claims that are a list",
            header_text.clone(),
            "[]".to_owned(),
        ),
        (
            "claims that are a text",
            header_text.clone(),
            "\"x\"".to_owned(),
        ),
        ("no claims", header_text.clone(), String::new()),
        (
            "claims that end early",
            header_text.clone(),
            claims_text[..claims_text.len() - 1].to_owned(),
        ),
        (
            "deep claims",
            header_text.clone(),
            format!("{{\"a\":{}{}}}", "[".repeat(500), "]".repeat(500)),
        ),
    ] {
        add(name, good.sign_text(&header, &claims), 401);
    }

    // Claims.
    for (name, value) in [
        ("exp", json!(now() - 60)),
        ("exp", json!(0)),
        ("exp", json!(-1)),
        ("exp", json!("9999999999")),
        ("exp", json!(null)),
        ("exp", json!([9_999_999_999_u64])),
        ("nbf", json!(now() + 120)),
        ("nbf", json!("0")),
        ("iss", json!("https://id.example.com/realms/shop/")),
        ("iss", json!("https://evil.example.com")),
        ("iss", json!([ISSUER])),
        ("iss", json!(null)),
        ("aud", json!("other")),
        ("aud", json!(["other"])),
        ("aud", json!([])),
        ("aud", json!("shop-api other")),
        ("aud", json!({"shop-api": true})),
        ("aud", json!(["SHOP-API"])),
    ] {
        add(
            &format!("{name} {value}"),
            good.sign(&with(name, value)),
            401,
        );
    }
    for name in ["exp", "iss", "aud"] {
        add(&format!("no {name}"), good.sign(&without(name)), 401);
    }
    for role in [
        json!("user"),
        json!(["user"]),
        json!("Admin"),
        json!("user admin"),
        json!({"admin": 1}),
        json!(null),
    ] {
        add(&format!("role {role}"), good.sign(&with("role", role)), 403);
    }
    add("no role", good.sign(&without("role")), 403);
    table
}

#[test]
fn forged_tokens_are_refused_over_both_versions_of_http() {
    let (good, stranger) = (Signer::new("good"), Signer::new("good"));
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let upstream = Upstream::start("u");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, set(&[&good])).unwrap();
    let lb = start(&upstream, &format!("keys_file = {file:?}"));

    let table = forged(&good, &stranger, &rsa);
    assert!(table.len() >= 60, "{}", table.len());
    for (name, token, status) in &table {
        let error = match status {
            403 => "error=\"insufficient_scope\"",
            _ => "error=\"invalid_token\"",
        };
        let (got, challenge) = http1(&lb, token);
        assert_eq!(got, *status, "{name}: {challenge:?}");
        let challenge = challenge.unwrap_or_default();
        assert!(
            challenge.starts_with("Bearer realm=\"id\"") && challenge.contains(error),
            "{name}: {challenge}"
        );
        let (got, headers, _) = http2(&lb, token, &[]);
        assert_eq!(got, *status, "{name} over HTTP/2");
        assert_eq!(headers["www-authenticate"], challenge, "{name}");
    }
    assert_eq!(upstream.requests(), 0, "none of them reached the instance");

    // Other schemes and none: the client is told what is wanted, and no error.
    for field in [
        "",
        "Authorization: Basic YTpi\r\n",
        "Authorization: Bearer\r\n",
        "Authorization: Bearer \r\n",
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{field}\r\n");
        let response = exchange(lb.address("http"), request).unwrap();
        assert_eq!(response.status, 401, "{field}");
        assert_eq!(
            response.header("www-authenticate"),
            Some("Bearer realm=\"id\"")
        );
    }
    // Two of them: which one would the instance believe?
    let token = good.sign(&claims());
    let request = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    assert_eq!(exchange(lb.address("http"), request).unwrap().status, 400);
    let two = [("authorization", format!("Bearer {token}"))];
    assert_eq!(http2(&lb, &token, &[(two[0].0, &two[0].1)]).0, 400);
    assert_eq!(upstream.requests(), 0);

    // gRPC is told in its own terms.
    let grpc = [("content-type", "application/grpc"), ("te", "trailers")];
    for (token, status) in [
        ("x.y.z".to_owned(), "16"),
        (good.sign(&without("role")), "7"),
    ] {
        let (got, headers, _) = http2(&lb, &token, &grpc);
        assert_eq!(
            (got, &headers["grpc-status"]),
            (200, &status.parse().unwrap())
        );
    }

    assert_eq!(http1(&lb, &token).0, 200);
    let secret = token.rsplit('.').next().unwrap();
    lb.wait_stdout("a record of it", |line| line.contains("\"status\":200"));
    assert!(!lb.stderr().contains(secret), "tokens stand in no log");
}

#[test]
fn instances_are_told_claims_and_nothing_that_the_client_made_up() {
    let good = Signer::new("good");
    let upstream = Upstream::start("u");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.pem");
    std::fs::write(&file, good.pair.public_key_pem()).unwrap();
    let lb = start(&upstream, &format!("keys_file = {file:?}"));
    let token = good.sign(&claims());
    let made_up = [
        "X-User: eve",
        "x-user: eve",
        "X_User: eve",
        "x.user: eve",
        "X-USER: eve",
        "X-Roles: root",
        "X_Roles: root",
        "X-Missing: yes",
        "X_Missing: yes",
        "Connection: x-user, x-roles",
    ];
    let request = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nAuthorization: bearer {token}\r\n{}\r\n\r\n",
        made_up.join("\r\n")
    );
    let response = exchange(lb.address("http"), request).unwrap();
    assert_eq!(response.status, 200);
    let body1: Value = serde_json::from_slice(&response.body).unwrap();
    let fields: Vec<(&str, &str)> = made_up[..9]
        .iter()
        .map(|field| field.split_once(": ").unwrap())
        .filter(|(name, _)| name.bytes().all(|byte| !byte.is_ascii_uppercase()))
        .chain([
            ("x-user", "mallory"),
            ("x_roles", "root"),
            ("x-missing", "yes"),
        ])
        .collect();
    // Twice: verified, then remembered.
    for _ in 0..2 {
        let (status, _, body2) = http2(&lb, &token, &fields);
        assert_eq!(status, 200);
        for body in [&body1, &body2] {
            assert_eq!(values(body, "x-user"), ["ann"]);
            assert_eq!(values(body, "x-roles"), ["user,admin"]);
            assert_eq!(values(body, "x-missing"), [""; 0]);
            for name in ["x_user", "x.user", "x_roles", "x_missing"] {
                assert_eq!(values(body, name), [""; 0], "{name}");
            }
            let passed_on = values(body, "authorization").remove(0);
            assert!(passed_on.ends_with(&token), "{passed_on}");
        }
    }

    // Nor behind the body, where a program that merges trailers would find it.
    let (_, _, trailers) = block_on(async {
        let (mut client, _) = h2(lb.address("http")).await;
        let (sender, body) = channel();
        let mut fields = HeaderMap::new();
        for name in ["x-user", "x_user", "x-missing", "x-sum"] {
            fields.insert(name, "made-up".parse().unwrap());
        }
        sender.send(data("hi")).await.unwrap();
        sender.send(Frame::trailers(fields)).await.unwrap();
        drop(sender);
        let request = Request::post("http://x/two/echo")
            .header("authorization", format!("Bearer {token}"))
            .header("te", "trailers");
        ask(&mut client, request.body(body).unwrap()).await
    });
    let names: Vec<&str> = trailers.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["x-sum"]);

    // A claim that would begin another field is not told.
    let (status, _, body) = http2(&lb, &good.sign(&with("sub", json!("a\r\nX-Admin: 1"))), &[]);
    assert_eq!((status, values(&body, "x-user").len()), (200, 0));

    // Without the token, if that is wanted; a reload forgets what was verified.
    let path = lb.folder().join("lb.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(
        &path,
        text.replace(SCHEME, &format!("{SCHEME}forward_token = false\n")),
    )
    .unwrap();
    lb.sighup();
    wait_until("the token is kept back", || {
        values(&http2(&lb, &token, &[]).2, "authorization").is_empty()
    });
    assert_eq!(values(&http2(&lb, &token, &[]).2, "x-user"), ["ann"]);
    std::fs::write(
        &path,
        text.replace("role = \"admin\" }", "role = \"root\" }"),
    )
    .unwrap();
    lb.sighup();
    wait_until("another role is required", || http1(&lb, &token).0 == 403);
}

/// A provider whose keys the test changes, and that is away when it says so.
struct Provider {
    web: WebServer,
    keys: Arc<Mutex<Vec<u8>>>,
    away: Arc<AtomicBool>,
}

impl Provider {
    fn start(keys: Vec<u8>) -> Self {
        let keys = Arc::new(Mutex::new(keys));
        let away = Arc::new(AtomicBool::new(false));
        let (served, gone) = (Arc::clone(&keys), Arc::clone(&away));
        let web = WebServer::start(move |_| match gone.load(SeqCst) {
            true => (500, Vec::new()),
            false => (200, served.lock().unwrap().clone()),
        });
        Self { web, keys, away }
    }

    fn line(&self) -> String {
        format!("jwks_url = \"http://{}/certs\"", self.web.address)
    }

    fn asked(&self) -> usize {
        self.web.seen().len()
    }
}

#[test]
fn keys_are_fetched_change_without_a_failed_request_and_outlive_their_provider() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let upstream = Upstream::start("u");
    let provider = Provider::start(set(&[&old]));
    let lb = start(&upstream, &provider.line());
    let token = old.sign(&claims());
    // The first requests wait for the keys, and fetch them once.
    let first: Vec<u16> = std::thread::scope(|scope| {
        let lb = &lb;
        let token = &token;
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(move || http1(lb, token).0))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(first, [200; 8]);
    assert_eq!(provider.asked(), 1);

    // The provider signs with a new key at once: those that come first wait for it.
    *provider.keys.lock().unwrap() = set(&[&old, &new]);
    let rotated = new.sign(&claims());
    let after: Vec<u16> = std::thread::scope(|scope| {
        let (lb, rotated, token) = (&lb, &rotated, &token);
        let threads: Vec<_> = (0..16)
            .map(|n| scope.spawn(move || http1(lb, if n % 2 == 0 { rotated } else { token }).0))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(after, [200; 16]);
    assert_eq!(provider.asked(), 2);

    // Whatever unknown keys are named, there is no other request so soon.
    let stranger = Signer::new("stranger");
    for n in 0..50 {
        let header = json!({"alg": "ES256", "kid": format!("k{n}")}).to_string();
        assert_eq!(
            http1(&lb, &stranger.sign_text(&header, &claims().to_string())).0,
            401
        );
    }
    assert_eq!(provider.asked(), 2);

    // Away: the known keys are used, for tokens that were not seen yet too.
    provider.away.store(true, SeqCst);
    for signer in [&old, &new] {
        assert_eq!(
            http1(&lb, &signer.sign(&with("jti", json!("another")))).0,
            200
        );
    }
    let read = "lb_auth_keys_last_success_timestamp_seconds{scheme=\"id\"}";
    wait_until("the age of the keys", || {
        lb.metric(read).is_some_and(|at| at > 1e9)
    });
}

#[test]
fn a_provider_that_is_away_at_start_holds_up_its_routes_alone() {
    let good = Signer::new("good");
    let upstream = Upstream::start("u");
    let provider = Provider::start(set(&[&good]));
    provider.away.store(true, SeqCst);
    let lb = start(&upstream, &provider.line());
    let token = good.sign(&claims());
    assert_eq!(http1(&lb, &token).0, 503);
    let open = exchange(lb.address("http"), "GET /open HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert_eq!(open.status, 200);
    // No connection is held up by the keys of another route.
    let mut client = RawClient::connect(lb.address("http"));
    client.send("GET /open HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.response().unwrap().status, 200);
    let errors = "lb_auth_keys_errors_total{scheme=\"id\"}";
    wait_until("errors are counted", || {
        lb.metric(errors).is_some_and(|count| count >= 1.0)
    });
    lb.wait_for_line("what is wrong", |line| {
        line.contains("there are no keys for tokens")
    });
    provider.away.store(false, SeqCst);
    wait_until("it is back", || http1(&lb, &token).0 == 200);
}

#[test]
fn a_changed_file_of_keys_counts_and_takes_its_tokens_along() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let upstream = Upstream::start("u");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, set(&[&old])).unwrap();
    let lb = start(&upstream, &format!("keys_file = {file:?}"));
    let (before, after) = (old.sign(&claims()), new.sign(&claims()));
    assert_eq!((http1(&lb, &before).0, http1(&lb, &after).0), (200, 401));
    std::fs::write(&file, "{").unwrap();
    lb.wait_for_line("what is wrong", |line| {
        line.contains("the known ones stay in use")
    });
    assert_eq!(http1(&lb, &before).0, 200);
    std::fs::write(&file, set(&[&new])).unwrap();
    wait_until("the new key", || http1(&lb, &after).0 == 200);
    assert_eq!(
        http1(&lb, &before).0,
        401,
        "it was verified with a key that is gone"
    );
}
