//! Tags of strangers: parsing never panics, and printing what was parsed gives the same again.
//! Run with `cargo +nightly fuzz run tag`.
#![no_main]

use std::collections::HashMap;

use lb::catalog::tag::parse_tag;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|tag: &str| {
    let env = HashMap::from([("DC".to_owned(), "dc1".to_owned())]);
    let tag = format!("urlprefix-{tag}");
    if let Some(Ok(parsed)) = parse_tag("urlprefix-", &tag, &env) {
        let printed = format!("urlprefix-{}", parsed.spec);
        let again = parse_tag("urlprefix-", &printed, &env).expect("a route tag").expect("still valid");
        assert_eq!(again.spec, parsed.spec);
    }
});
