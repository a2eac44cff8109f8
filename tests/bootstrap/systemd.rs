//! `lb bootstrap` over ssh on machines that a real systemd runs. What needs tools or rights that are
//! missing is skipped, loudly.

mod drift;
mod features;
mod life;
mod machine;
mod refused;
mod site;
mod trouble;
