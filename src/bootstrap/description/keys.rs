//! The keys of `cluster.toml`, each declared once: reading, messages and the shipped file are made
//! of this.

use std::path::Path;

use super::build_context::Kind;
use super::names;
use crate::bootstrap::topology::Runner;
use crate::config::declare::{Checked, Declared as _, section};
use crate::config::error::ConfigError;
use crate::config::file;
use crate::config::raw::{Placed, RawValue, Settings};
use crate::config::reader::Reader;
use crate::config::schema::Schema;
use crate::config::words::words;

/// What `cluster.toml` may hold.
pub(super) const SCHEMA: Schema = Schema {
    sections: &[
        TopSettings::SECTION,
        LocalSettings::SECTION,
        SshSettings::SECTION,
        ConsulSettings::SECTION,
        NomadSettings::SECTION,
        ClientSettings::SECTION,
        DnsSettings::SECTION,
        CertificateSettings::SECTION,
        ReleaseSettings::SECTION,
    ],
    moved: &[],
    // A cluster is not to be made of what may have been meant.
    takes_misplaced: false,
    shown_in: "config/cluster.toml",
};

/// Reads the text of a file; mistakes are added to the list.
pub(super) fn read(path: &Path, text: &str, mistakes: &mut Vec<ConfigError>) -> Settings {
    // Nothing is only warned of: see the schema.
    file::read(&SCHEMA, path.into(), text, mistakes, &mut Vec::new())
}

const PLACE: &str =
    "use lower-case letters, digits, - and _: certificates and agents carry it as it is";
const PATH: &str = "write the path of a file or folder, or take the line away";
const VERSION: &str = "write it in full, like \"1.22.1\" and without v";
const URL: &str = "write it like \"https://releases.example.com\"";
const SSH_WORD: &str = "write it as you would after ssh";
/// What to write where a node's address belongs.
pub(super) const ADDRESS: &str = "agents bind an address, not a name: write the address, and the name as ssh in { address = \"…\", ssh = \"…\" }";

words! {
    for Kind {
        Local = "local",
        Ssh = "ssh",
    }
}

words! {
    for Runner {
        Systemd = "systemd",
        Process = "process",
    }
}

section! {
    /// The keys at the top of the file.
    pub(super) struct TopSettings is Top "" {
        /// How the nodes are reached. local: all are processes of this machine. ssh: each is a
        /// systemd Linux behind your own `ssh`, with its agent, configuration and known hosts.
        /// Unset: ssh when an address is not on loopback.
        target: Option<Kind> = unset "local";

        /// The nodes that run Consul servers: 1, 3 or 5, because an even number outlives no more
        /// failures. A list, or on the local target a count; unset there: 3 of each role. An
        /// element is an address that the other nodes reach the machine by, or a table: name
        /// (default: consul-N, nomad-server-N, nomad-client-N from 0), address, ssh (host or alias
        /// to give to ssh; default: the address), dynamic_ports (of clients: what Nomad gives to
        /// tasks), extra (as in [consul] and [nomad]: { consul = { … }, nomad = { … } }).
        consul_servers: Option<Placed> = unset r#"["10.0.0.11", "10.0.0.12", "10.0.0.13"]"#;

        /// The nodes that run Nomad servers: 1, 3 or 5, or 0 when nomad_clients is, or with --only
        /// consul.
        nomad_servers: Option<Placed> = unset r#"["10.0.0.14", { address = "10.0.0.15" }, { name = "chief", address = "10.0.0.16", ssh = "chief.example" }]"#;

        /// The nodes that run jobs: Nomad clients, any number.
        nomad_clients: Option<Placed> = unset r#"["10.0.0.17", "10.0.0.18", { address = "10.0.0.19", dynamic_ports = "20000-32000" }]"#;

        /// In the place of the three lists: a file with what `terraform output -json` prints, see
        /// deploy/terraform.
        inventory: Option<String> = unset "terraform.json" where (names::path, PATH);

        /// Name of the cluster, for people.
        name: String = "lb" where (names::label, "use lower-case letters, digits and -");

        /// Consul's datacenter, and Nomad's.
        datacenter: String = "dc1" where (names::datacenter, PLACE);

        /// Nomad's region.
        region: String = "global" where (names::datacenter, PLACE);

        /// Consul's DNS domain.
        domain: String = "consul"
            where (names::domain, "write it like \"consul\", without a dot at the end");

        /// ACLs in Consul and Nomad: default deny, with a token for each that needs one. Unset: as
        /// it was when the cluster was made, until `lb bootstrap acl enable`; for a new one true on
        /// machines of your own, and false on the local target.
        acl: Option<bool> = unset "true";

        /// A CA of your own to sign the two intermediates, Consul's and Nomad's. Its key is read when
        /// these are made, and stays where it is. Unset: a CA is made.
        ca: Option<Placed> = unset r#"{ cert_file = "ca.pem", key_file = "ca-key.pem" }"#;

        /// Whether Consul, Nomad and lb show their metrics to Prometheus. `lb bootstrap scrape` prints
        /// its configuration.
        telemetry: bool = "true";

        /// Folder of the CA, the keys, the tokens and the plan applied. Keep it: without it the
        /// cluster cannot be looked after. Unset: the name of this file with .state in the place of
        /// .toml.
        state: Option<String> = unset "cluster.state" where (names::path, PATH);
    }
}

section! {
    /// The local target.
    pub(super) struct LocalSettings is Once "local" {
        /// Within 127.0.0.0/8. The nodes get .11 and upwards, in the order Consul servers, Nomad
        /// servers, Nomad clients. Clusters side by side need a network each. Unset: 127.0.1.0/24,
        /// or the network of the nodes that are there.
        network: Option<String> = unset "127.0.1.0/24"
            where (names::loopback_network, "write it like \"127.0.1.0/24\"");
    }
}

section! {
    /// The ssh target.
    pub(super) struct SshSettings is Once "ssh" {
        /// User to log in as. Unset: what ssh takes.
        user: Option<String> = unset "admin" where (names::ssh_word, SSH_WORD);

        /// Port. Unset: what ssh takes.
        port: Option<u16> = unset "22" in (1, 65_535);

        /// Private key. Unset: your agent, and what ssh takes.
        identity_file: Option<String> = unset "~/.ssh/id_ed25519" where (names::path, PATH);

        /// Host to jump by, as after ssh -J.
        jump: Option<String> = unset "bastion.example"
            where (names::ssh_word, "write it as you would after ssh -J");

        /// More options for ssh, word by word.
        options: Vec<String> = unset "-o,ConnectTimeout=10";

        /// Whether commands go through `sudo -n`. Unset: true, unless user is root.
        sudo: Option<bool> = unset "true";

        /// How many nodes are worked on at once.
        parallel: usize = "4" in (1, 64);

        /// What keeps the programs running: systemd, or process for hosts without it.
        runner: Runner = "systemd";
    }
}

section! {
    /// Where Consul comes from: version or binary, not both. With neither: the consul on PATH (of a
    /// Linux machine, when it is to be copied).
    pub(super) struct ConsulSettings is Once "consul" {
        /// Release that the nodes fetch; checksum and signature are checked. For the ssh target.
        version: Option<String> = unset "1.22.1" where (names::version, VERSION);

        /// A file of this machine: run in place on the local target, copied to the nodes on the ssh
        /// target.
        binary: Option<String> = unset "/usr/local/bin/consul" where (names::path, PATH);

        /// Merged into the configuration of every Consul agent, under the names that it has there:
        /// tables by their keys, all else replaced. Not what lb decides itself: names, addresses,
        /// ports, TLS, ACLs, gossip keys, roles and joining.
        extra: Option<Placed> = unset r#"{ log_level = "WARN", limits = { http_max_conns_per_client = 400 } }"#;
    }
}

section! {
    /// Where Nomad comes from, in the same way.
    pub(super) struct NomadSettings is Once "nomad" {
        /// Release, as for Consul.
        version: Option<String> = unset "2.0.5" where (names::version, VERSION);

        /// A file of this machine, as for Consul.
        binary: Option<String> = unset "/usr/local/bin/nomad" where (names::path, PATH);

        /// Interface whose address Nomad clients give to tasks. Unset: lo on the local target, else
        /// the one that has the node's address.
        network_interface: Option<String> = unset "eth0"
            where (names::interface, "write a name that `ip link` prints");

        /// The same as of Consul, for every Nomad agent.
        extra: Option<Placed> = unset r#"{ log_level = "WARN" }"#;
    }
}

section! {
    /// Nomad clients.
    pub(super) struct ClientSettings is Once "clients" {
        /// The same for Nomad clients alone. What stands here goes before [nomad] extra, and a
        /// node's own before both.
        extra: Option<Placed> = unset r#"{ client = { node_class = "web", reserved = { memory = 512 } } }"#;

        /// Whether jobs may run programs as they are, as root (driver raw_exec). The shipped job of
        /// lb needs it; without it systemd runs lb on every client.
        raw_exec: bool = "true";

        /// Whether clients have Docker, from the packages of their distribution (apt or dnf), and
        /// Nomad its driver docker. For the ssh target. Packages stay when this is taken away.
        docker: bool = "false";

        /// Whether clients have the CNI plugins for network mode bridge, in the same way.
        cni: bool = "false";
    }
}

section! {
    /// Names of Consul on the nodes.
    pub(super) struct DnsSettings is Once "dns" {
        /// Whether every node looks up Consul's domain (`hello.service.consul`) in its own agent,
        /// through systemd-resolved. For the ssh target, on machines where systemd-resolved runs. With
        /// ACLs, what shows no token may read services and nodes then, for DNS knows no tokens.
        consul: bool = "false";
    }
}

section! {
    /// Certificates of nodes, operator and lb.
    pub(super) struct CertificateSettings is Once "certificates" {
        /// How long they are valid, in days: 7 to 1825, so that a long weekend without rotation does
        /// not end the cluster, and no certificate outlives half of the CA. `lb bootstrap status`
        /// shows what is left, `rotate-certs` makes new ones.
        days: u32 = "365" in (7, 1825);
    }
}

section! {
    /// Where releases come from, for `version`.
    pub(super) struct ReleaseSettings is Once "releases" {
        /// Base URL.
        url: String = "https://releases.hashicorp.com" where (names::url, URL);

        /// File with the OpenPGP key that signs them. Unset: fetched from key_url.
        signing_key: Option<String> = unset "hashicorp.asc" where (names::path, PATH);

        /// Fingerprint that the key must have, wherever it comes from: HashiCorp's, as
        /// hashicorp.com/security has it.
        fingerprint: String = "C874011F0AB405110D02105534365D9472D7468F"
            where (names::fingerprint, "write its 40 hexadecimal digits");

        /// Where the key is published.
        key_url: String = "https://www.hashicorp.com/.well-known/pgp-key.txt"
            where (names::url, URL);
    }
}

section! {
    /// A node of the three lists that is written as a table.
    pub(super) struct NodeSettings is List "node" {
        /// Its name.
        name: Option<String> = unset "chief" where (
            names::label,
            "use lower-case letters, digits and -: it is part of certificates and of DNS"
        );

        /// The address that the other nodes reach it by.
        address: Option<String> = unset "10.0.0.16" where (names::address, ADDRESS);

        /// Where ssh is to go.
        ssh: Option<String> = unset "chief.example"
            where (names::ssh_word, "write a host, or an alias of your ssh configuration");

        /// What Nomad gives to tasks.
        dynamic_ports: Option<String> = unset "20000-32000"
            where (names::port_range, "write it like \"20000-32000\"");

        /// Configuration of its agents alone.
        extra: Option<Placed> = unset r#"{ nomad = { client = { node_class = "gpu" } } }"#;
    }
}

impl Checked for TopSettings {}
impl Checked for LocalSettings {}
section! {
    /// A CA that was brought along.
    pub(super) struct CaSettings is List "ca" {
        /// Its certificate.
        cert_file: Option<String> = unset "ca.pem" where (names::path, PATH);

        /// Its key.
        key_file: Option<String> = unset "ca-key.pem" where (names::path, PATH);
    }
}

impl Checked for ConsulSettings {}
impl Checked for CaSettings {}
impl Checked for NomadSettings {}
impl Checked for ClientSettings {}
impl Checked for DnsSettings {}
impl Checked for CertificateSettings {}
impl Checked for ReleaseSettings {}

impl Checked for SshSettings {
    fn check(&mut self, reader: &mut Reader<'_>) {
        // One text could be one word or several.
        if matches!(reader.written("options"), Some(RawValue::Text(_))) {
            reader.wrong("options", "is not a list", "write [\"…\", \"…\"]");
        }
    }
}

/// Ports that the agents listen on.
const AGENT_PORTS: [u16; 8] = [4646, 4647, 4648, 8300, 8301, 8302, 8501, 8600];

impl Checked for NodeSettings {
    fn check(&mut self, reader: &mut Reader<'_>) {
        let range = self.dynamic_ports.as_deref().and_then(names::ports);
        let taken = range.and_then(|(first, last)| {
            let mut ports = AGENT_PORTS.iter();
            ports.find(|port| (first..=last).contains(*port))
        });
        if let Some(port) = taken {
            reader.wrong(
                "dynamic_ports",
                &format!("holds port {port}, which an agent listens on"),
                "take a range above 8600, like \"20000-32000\"",
            );
            self.dynamic_ports = None;
        }
    }
}
