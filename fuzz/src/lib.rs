//! What strangers write (requests, tags, route commands, PROXY headers) or people write wrongly
//! (configuration), read from whatever bytes. Each target is a plain function of bytes that panics
//! when it finds something.
//!
//! They are run in two ways: by [`engine`], for some seconds each, as a part of the test command,
//! on any machine; and by libFuzzer, which sees what code an input reaches, for as long as one
//! likes (`scripts/fuzz TARGET`).

pub mod engine;
pub mod targets;
