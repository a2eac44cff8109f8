//! A node as the scripts take it: where its things lie, what runs its daemons, and the way there.

use std::net::IpAddr;

use super::channel::Channel;
use crate::bootstrap::topology::{Layout, Runner};

/// File in [`Layout::run`] that holds the id of the cluster to which the node belongs.
pub(super) const MARK: &str = "cluster-id";

/// See the module.
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) address: IpAddr,
    pub(super) layout: Layout,
    pub(super) runner: Runner,
    /// It is the machine of this process: owners are left alone.
    pub(super) local: bool,
    pub(super) channel: Channel,
}

#[cfg(test)]
impl Machine {
    /// A machine behind ssh as far as scripts go; what is run there is run here.
    pub(super) fn example() -> Self {
        Self {
            name: "consul-0".to_owned(),
            address: [127, 0, 34, 1].into(),
            layout: Layout::system(),
            runner: Runner::Process,
            local: false,
            channel: Channel::local("consul-0"),
        }
    }
}
