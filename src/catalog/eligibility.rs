//! Which registered instances may get traffic.
