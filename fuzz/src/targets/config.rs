//! Whatever stands in a configuration file, the loader answers with a configuration or with
//! mistakes.

use lb::config::{Inputs, load};

/// See [`Target`](super::Target).
pub const SEEDS: &[&[u8]] = &[
    include_bytes!("../../../config/lb.toml"),
    b"[[listener]]\naddress = \"0.0.0.0:9999\"\nprotocol = \"https\"\ncertificates = \"main\"\n\
      [certificates.main]\nsource = \"file\"\ncert_file = \"a\"\nkey_file = \"b\"\n",
    b"[consul]\naddress = [\"https://a:1\", \"unix:///b\"]\nwait = \"50s\"\n[consul.register]\nenabled = true\n",
    b"[[static.route]]\nservice = \"a\"\nsource = \"b/\"\ntargets = [\"http://10.0.0.1:1\"]\noptions = \"strip=/b\"\n",
    b"[policy.x]\nrate = \"1/s\"\ncors = { origins = [\"*\"] }\nrewrite = [{ from = \"a\", to = \"b\" }]\n\
      error_pages = { \"404\" = \"f\" }\n[tags]\nallow = [\"rate\"]\n",
    b"[proxy]\nstrategy = \"hash:header:X\"\nworkers = 2\n[drain]\ngrace = \"5s\"\n[auth.x]\ntype = \"basic\"\nfile = \"f\"\n",
];
/// See [`Target`](super::Target).
pub const WORDS: &[&str] = &[
    "[proxy]\n",
    "[consul]\n",
    "[[listener]]\n",
    "[admin]\n",
    "[certificates.x]\n",
    "[auth.x]\n",
    "[policy.x]\n",
    "[[policy.x.rewrite]]\n",
    "[tags]\n",
    "[metrics]\n",
    "[log]\n",
    "address = ",
    "protocol = ",
    "\"127.0.0.1:0\"",
    "\"5s\"",
    "\"tcp-dynamic\"",
    "true",
    "\"\"",
    " = ",
    "\n",
    "[]",
    "{}",
    "1e9",
    "-1",
    "0x10",
    "'''",
    "\"\"\"",
    "\\u0000",
    "1979-05-27",
];

/// Any text.
pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let file = Some(("lb.toml".into(), text.to_owned()));
    let _ = load(&Inputs {
        file,
        env: Vec::new(),
        flags: Vec::new(),
        terminal: false,
    });
}
