//! Tags of strangers: parsing never panics, and printing what was parsed gives the same again.

use std::collections::HashMap;

use lb::catalog::tag::parse_tag;

/// See [`Target`](super::Target).
pub const SEEDS: &[&[u8]] = &[
    b"example.com/path strip=/path proto=https host=dst",
    b":1234 proto=tcp pxyproto=v2",
    b"*.example.com/ redirect=301,https://example.com$path weight=0.5",
    b"/api auth=main allow=ip:10.0.0.0/8,ip:fe80::/10 strategy=hash:header:X",
    b"${DC}.test/$DC register=x grpcservername=y tlsskipverify=true prepend=/v1",
    b"/p policy=x rate=10/m burst=2 by=ip inflight=1 maxbody=1k timeout=1s retries=1",
    b"/m method=GET,HEAD header=X-Q:a%20b* query=v path=exact priority=-1 sethdr=A:%25 delhdr=B",
    b"a/ sticky=SESSION fallback=maint mirror=shadow:0.25",
    b";\n\t=",
];
/// See [`Target`](super::Target).
pub const WORDS: &[&str] = &[
    " strip=",
    " prepend=",
    " proto=",
    " weight=",
    " host=",
    " redirect=301,",
    " allow=ip:",
    " deny=ip:",
    " auth=",
    " register=",
    " strategy=",
    " pxyproto=",
    " tlsskipverify=true",
    " grpcservername=",
    " policy=",
    " rate=",
    " burst=",
    " by=",
    " inflight=",
    " maxbody=",
    " timeout=",
    " retries=",
    " method=",
    " header=",
    " query=",
    " path=",
    " priority=",
    " sethdr=",
    " delresphdr=",
    "%20",
    " sticky=",
    " fallback=",
    " mirror=a:0.5",
    "$DC",
    "${DC}",
    "${",
    "=",
    " =",
    "http",
    "https",
    "h2c",
    "grpc",
    "tcp",
    "10.0.0.0/8",
    "/path",
    ":80",
    "[::1]:80",
    "*.",
    "{a,b}",
];

/// What follows the prefix.
pub fn run(input: &[u8]) {
    let Ok(tag) = std::str::from_utf8(input) else {
        return;
    };
    let env = HashMap::from([("DC".to_owned(), "dc1".to_owned())]);
    let tag = format!("urlprefix-{tag}");
    if let Some(Ok(parsed)) = parse_tag("urlprefix-", &tag, &env) {
        let printed = format!("urlprefix-{}", parsed.spec);
        let again = parse_tag("urlprefix-", &printed, &env)
            .expect("a route tag")
            .expect("still valid");
        assert_eq!(again.spec, parsed.spec);
    }
}
