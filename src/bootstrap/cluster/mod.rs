//! The living cluster, as its agents tell of it and take orders over HTTPS: how they are reached,
//! what is true of it, the gates, and what changes it (gossip keys, ACLs, members that go for good).

pub mod acl;
pub mod api;
pub mod client;
pub mod diagnosis;
pub mod facts;
pub mod gates;
pub mod gossip;
pub mod health;
pub mod peers;
pub mod quorum;
pub mod snapshot;
pub mod status;
pub mod view;
