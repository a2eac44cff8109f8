//! A dynamic load balancer fed by the Consul catalog.

pub mod admin;
pub mod bootstrap;
pub mod catalog;
pub mod certificates;
pub mod check;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod fabio;
pub mod journal;
pub mod log;
pub mod manual;
pub mod metrics;
pub mod proxy;
pub mod sample;
pub mod serve;
pub mod sources;
pub mod system;
pub mod table;
pub mod trust;
pub mod web;
