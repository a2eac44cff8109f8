//! Route commands: parsing never panics, each line gives commands or an error, and printed commands
//! stay what they are.

use lb::catalog::command::parse_commands;

/// See [`Target`](super::Target).
pub const SEEDS: &[&[u8]] = &[
    b"route add web example.com/path http://10.0.0.1:8080/",
    b"route add web :1234 tcp://10.0.0.1:8080 weight 0.5 tags \"a,b\" opts \"proto=tcp pxyproto=true\"",
    b"route del web\nroute del web example.com/ http://10.0.0.1:1/\nroute del tags \"a,b\"",
    b"route weight web example.com/ weight 0.25 tags \"canary\"\n# a remark\n",
    b"route add x /a http://a:1/ opts \"= strip=/a\"",
];
/// See [`Target`](super::Target).
pub const WORDS: &[&str] = &[
    "route add ",
    "route del ",
    "route weight ",
    "weight ",
    "tags \"",
    "opts \"",
    "\"",
    "http://10.0.0.1:1/",
    "tcp://",
    "https://[::1]:2/",
    "strip=/a",
    "redirect=301",
    "allow=ip:10.0.0.0/8",
    "host=dst",
    "proto=https",
    "\n",
    "# ",
    "0.5",
];

/// Any text.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    for command in parse_commands(text).0 {
        let printed = command.to_string();
        let (again, _) = parse_commands(&printed);
        assert_eq!(again.len(), 1, "{printed}");
        assert_eq!(again[0].to_string(), printed);
    }
}
