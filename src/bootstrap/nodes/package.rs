//! What packages of a machine's distribution bring, and what they are called.

/// Something that a package brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Package {
    /// Docker's daemon.
    Docker,
    /// The CNI reference plugins.
    CniPlugins,
    /// iptables, with which Nomad and the plugins make the rules of bridges.
    Iptables,
}

impl Package {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Docker, Self::CniPlugins, Self::Iptables];

    /// What it is called in plans, messages and scripts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::CniPlugins => "cni",
            Self::Iptables => "iptables",
        }
    }

    /// Names of packages that bring it, the first that there is counts: for apt, then for dnf.
    pub(super) fn packages(self) -> [&'static str; 2] {
        match self {
            Self::Docker => ["docker.io docker-ce", "moby-engine docker-ce docker"],
            Self::CniPlugins => ["containernetworking-plugins", "containernetworking-plugins"],
            Self::Iptables => ["iptables", "iptables-nft iptables"],
        }
    }
}

/// Where distributions and people keep CNI plugins.
pub const CNI_FOLDERS: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];
