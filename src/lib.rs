//! A dynamic load balancer fed by the Consul catalog.

pub mod admin;
pub mod catalog;
pub mod config;
pub mod control;
pub mod log;
pub mod metrics;
pub mod proxy;
pub mod registry;
pub mod table;
