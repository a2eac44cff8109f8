//! `lb bootstrap` over ssh, as a user runs it, on machines made of namespaces. What needs tools or
//! rights that are missing is skipped, loudly.

mod away;
mod nine;
mod obstacles;
mod site;
mod three;
