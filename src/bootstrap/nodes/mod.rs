//! The nodes: what each shall have (`spec`), the difference to what it has (`plan`), and the way to
//! look and act there (`host`).

pub mod host;
pub mod plan;
pub mod spec;
