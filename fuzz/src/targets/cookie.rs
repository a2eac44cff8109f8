//! Cookies of strangers, among which that of a route is looked for: what is found is what a plain
//! reading finds, and nothing that is not spelled as lb spells it.

use lb::proxy::http::sticky::tokens;

use super::pair;

/// See [`Target`](super::Target).
pub const SEEDS: &[&[u8]] = &[
    b"lb_instance_547ee750\na=b; lb_instance_547ee750=0123456789abcdef0123456789abcdef; c=d",
    b"S\nS=ffffffffffffffffffffffffffffffff;S=00000000000000000000000000000000",
    b"S\nS=\"0123456789abcdef0123456789abcdef\"",
    b"S\n;;=; S =x; S=0123456789ABCDEF0123456789ABCDEF; SS=1",
    b"S\nS=x;S=x;S=x;S=x;S=x;S=x;S=x;S=x;S=0123456789abcdef0123456789abcdef",
    b"\n\xff=\x00",
];
/// See [`Target`](super::Target).
pub const WORDS: &[&str] = &[
    "S=",
    "; ",
    ";",
    "=",
    "lb_instance_547ee750=",
    "0123456789abcdef0123456789abcdef",
    "0123456789abcdef",
    "0123456789ABCDEF",
    "\"",
    " ",
    "\t",
    "\n",
];

/// The name of the cookie, a line break, and the field.
pub fn run(input: &[u8]) {
    let (name, cookies) = pair(input);
    let Ok(name) = std::str::from_utf8(name) else {
        return;
    };
    if name.contains('=') || name.trim_ascii() != name {
        // No tag can name it.
        return;
    }
    let found: Vec<u128> = tokens(cookies, name).collect();
    let values: Vec<&[u8]> = cookies
        .split(|byte| *byte == b';')
        .filter_map(|pair| {
            let pair = pair.trim_ascii();
            let at = pair.iter().position(|byte| *byte == b'=')?;
            (pair[..at] == *name.as_bytes()).then(|| &pair[at + 1..])
        })
        .take(8)
        .collect();
    let good: Vec<u128> = values
        .iter()
        .filter_map(|value| {
            let text = std::str::from_utf8(value).ok()?;
            let number = u128::from_str_radix(text, 16).ok()?;
            (format!("{number:032x}") == text).then_some(number)
        })
        .collect();
    assert_eq!(found, good, "{name}: {}", cookies.escape_ascii());
}
