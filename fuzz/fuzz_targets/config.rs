//! Whatever stands in a configuration file, the loader answers with a configuration or with mistakes.

#![no_main]

use lb::config::{Inputs, load};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let file = Some(("lb.toml".into(), text.to_owned()));
    let _ = load(&Inputs { file, env: Vec::new(), flags: Vec::new(), terminal: false });
});
