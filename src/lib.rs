//! A dynamic load balancer fed by the Consul catalog.

pub mod catalog;
pub mod check;
pub mod cli;
pub mod config;
pub mod control;
pub mod manual;
pub mod metrics;
pub mod registry;
pub mod table;
