//! Policies of strangers, and what strangers send to them. Lines of the input: options of a tag, an
//! origin that is listed, the origin of a request, an expression, what stands for it, a path.

use http::HeaderMap;
use lb::catalog::cors::{Cors, CorsRules};
use lb::catalog::option_text::{Context, parse_options};
use lb::catalog::path_rewrite::PathRewrite;
use lb::catalog::policies::NamedPolicies;
use lb::proxy::http::path::{made, normalise};

/// See [`Target`](super::Target).
pub const SEEDS: &[&[u8]] = &[
    b"rate=100/s burst=5 by=header:X-Tenant inflight=2 maxbody=10m timeout=5s retries=0 policy=p auth=a\n\
      https://*.example.com\nhttps://a.example.com\n^/files(.*)$\n/data/$1\n/files../x",
    b"sethdr=A:b%20c delhdr=D setresphdr=E:%3a delresphdr=F\nhttp://[::1]:80\nhttp://[::1]\n\
      (?P<n>a+)|%2f\n/${n}$$\n/a%2Fb/%61",
    b"allow=ip:10.0.0.0/8 rate=0 burst=x\n*\nnull\n\n\n/",
];
/// See [`Target`](super::Target).
pub const WORDS: &[&str] = &[
    " rate=",
    " burst=",
    " by=header:",
    " by=route",
    " inflight=",
    " maxbody=",
    " timeout=",
    " retries=",
    " sethdr=",
    " delhdr=",
    " setresphdr=",
    " policy=",
    "/s",
    "/h",
    "%20",
    "%2e%2e",
    "%2F",
    "%00",
    "https://",
    "*.",
    ":443",
    "$1",
    "${1}",
    "$$",
    "(.*)",
    "[^/]+",
    "..",
    "/../",
    "//",
    "\n",
];

/// See the top.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let mut lines = text.split('\n');
    let mut line = || lines.next().unwrap_or_default();
    options(line());
    origins(line(), line());
    paths(line(), line(), line());
}

/// Whatever is read can be told, with a policy that is not there too: then it lets nothing pass.
fn options(text: &str) {
    let Ok(parsed) = parse_options(text, Context::Tag) else {
        return;
    };
    let options = parsed.options.with_policy(&NamedPolicies::default());
    let told = options.policy_texts();
    let closed = options
        .policies
        .as_ref()
        .is_some_and(|it| it.closed.is_some());
    assert!(options.policy.is_none() || closed, "{told:?}");
}

/// No origin is let in that is not in its listed form, but for case and the usual port.
fn origins(listed: &str, origin: &str) {
    let rules = CorsRules {
        origins: vec![listed.to_owned()],
        credentials: true,
        ..CorsRules::default()
    };
    let Ok(cors) = Cors::new(&rules) else { return };
    let mut fields = HeaderMap::new();
    cors.put(Some(origin.as_bytes()), false, &mut fields);
    let Some(allowed) = fields.get("access-control-allow-origin") else {
        return;
    };
    assert_eq!(allowed.as_bytes(), origin.as_bytes());
    let labels = |text: &str| text.split('.').count();
    assert_eq!(labels(listed), labels(origin), "{listed} {origin}");
    assert!(!origin.contains(['*', '/', '@', '#', '?']) || origin.matches('/').count() == 2);
}

/// What a rule makes is a path without dot segments, or none.
fn paths(from: &str, to: &str, path: &str) {
    let mut rewrite = PathRewrite::default();
    if rewrite.add(from, to).is_err() {
        return;
    }
    let Ok(normal) = normalise(path, false) else {
        return;
    };
    let Some(written) = rewrite.apply(&normal.wire) else {
        return;
    };
    assert!(written.starts_with('/') && !written.starts_with("//") && written.is_ascii());
    if let Ok(path) = made(&written) {
        assert_eq!(path.wire, written);
        let mut segments = path.decoded.split('/');
        assert!(
            segments.all(|segment| segment != "." && segment != ".."),
            "{written}"
        );
    }
}
