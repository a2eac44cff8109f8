//! Machines with systemd on a network of their own, and the operator of a cluster on them.

use std::net::SocketAddr;
use std::ops::Deref;

use crate::support::operator::Operator;
use crate::support::sshd::{Keys, Network, start_all};
use crate::support::systemd_machine::{SystemdMachine, is_possible};
use crate::support::turn::Turn;

/// See the module.
pub struct Site {
    /// The machines, in the order of their addresses: `.11` and upwards.
    pub machines: Vec<SystemdMachine>,
    operator: Operator,
    prefix: String,
    _keys: Keys,
    _network: Network,
    _turn: Turn,
}

impl Site {
    /// Starts so many machines; None, and a word on standard error, where that is not possible.
    /// `third` is the third part of their addresses.
    pub fn start(test: &str, third: u8, count: u16) -> Option<Self> {
        if !is_possible(test, &["consul", "curl"]) {
            return None;
        }
        let turn = Turn::of("machines with systemd");
        let prefix = format!("10.88.{third}");
        let keys = Keys::make();
        let network = Network::make(&format!("lbd{third}"), &format!("{prefix}.1/24"));
        let machines = start_all(&prefix, count, |number, address| {
            SystemdMachine::start(&network, &keys, number, address)
        });
        let hosts: Vec<(String, SocketAddr)> = machines
            .iter()
            .map(|machine| (machine.address.ip().to_string(), machine.address))
            .collect();
        let hosts: Vec<(&str, SocketAddr)> = hosts
            .iter()
            .map(|(alias, address)| (alias.as_str(), *address))
            .collect();
        let mut operator = Operator::new();
        operator.config = keys.client(&hosts);
        Some(Self {
            machines,
            operator,
            prefix,
            _keys: keys,
            _network: network,
            _turn: turn,
        })
    }

    /// Address of the machine with this index.
    pub fn address(&self, index: usize) -> String {
        format!("{}.{}", self.prefix, 11 + index)
    }
}

impl Deref for Site {
    type Target = Operator;

    fn deref(&self) -> &Operator {
        &self.operator
    }
}
