//! What stands on each node: users, folders, programs, files, daemons, from the description of the
//! cluster, its certificates and its keys. Pure: nothing is read, nothing is written.
//!
//! ```text
//!   consul.d/  consul.hcl join.hcl encrypt.hcl ca.pem cert.pem key.pem                                every node
//!   nomad.d/   nomad.hcl join.hcl [encrypt.hcl] [consul-token.hcl] ca.pem cert.pem key.pem
//!              consul-ca.pem consul-cert.pem consul-key.pem                                   Nomad servers and clients
//!   lb/        lb.toml [token] ca.pem cert.pem key.pem [metrics.pem metrics-key.pem]          Nomad clients
//! ```
//!
//! Files are cut by what a change of them makes necessary: what is rotated under a running agent
//! (gossip keys, Consul's certificates), and what counts at a start alone (which servers to join),
//! has files of its own, so that neither a rotation nor a new node looks like a reason to restart.
//! `nodes` carries it out, `plan` decides when.

mod consul;
mod hcl;
pub mod jobs;
mod lb;
mod nomad;
mod program;
mod systemd;
#[cfg(test)]
mod tests;
mod version;

pub use lb::METRICS_PORT as LB_METRICS_PORT;
pub use version::{OLDEST_CONSUL, OLDEST_NOMAD, Version, Versions};

use program::Program;

use super::topology::{BinarySource, Cluster, Layout, Node, Product, Role, Runner, Scope, Target};
use crate::bootstrap::nodes::spec::{DaemonSpec, DirSpec, Effect, FileSpec, NodeSpec, Owner};
use crate::bootstrap::nodes::{Package, RESOLVER_FILE, RESOLVER_FOLDER};
use crate::bootstrap::security::secrets::{NodePairs, Pair, Shared};

/// All that the node shall have. With [`Scope::ConsulOnly`], and where no Nomad is known, Consul
/// alone.
#[must_use]
pub fn node(
    cluster: &Cluster,
    node: &Node,
    pairs: &NodePairs,
    shared: &Shared,
    versions: &Versions,
    scope: Scope,
) -> NodeSpec {
    let layout = cluster.layout(node);
    let mut spec = NodeSpec::default();
    let mut builder = SpecBuilder {
        cluster,
        layout: &layout,
        spec: &mut spec,
    };
    builder.ground();
    builder.consul(node, pairs, shared, versions);
    let pair = pairs
        .nomad
        .as_ref()
        .filter(|_| node.products().contains(&Product::Nomad));
    if let (Scope::All, Some(source), Some(pair), Some(_)) =
        (scope, &cluster.nomad, pair, versions.nomad)
    {
        let lb = versions
            .lb
            .as_ref()
            .filter(|_| node.role == Role::NomadClient);
        let lb = lb.map(|path| Program::new("lb", &BinarySource::File(path.clone()), &layout));
        let at_consul = pairs.nomad_at_consul.as_ref();
        builder.nomad(node, source, pair, at_consul, shared, versions, lb.as_ref());
        if let Some(lb) = lb {
            builder.lb(node, &pairs.consul, shared, lb);
        }
    }
    spec
}

/// The node being furnished.
struct SpecBuilder<'a> {
    cluster: &'a Cluster,
    layout: &'a Layout,
    spec: &'a mut NodeSpec,
}

impl SpecBuilder<'_> {
    /// What every node has, whatever runs there.
    fn ground(&mut self) {
        if self.cluster.is_local() {
            // The node's folder, and the one that holds all of them.
            let folders: Vec<String> = std::path::Path::new(&self.layout.run)
                .ancestors()
                .skip(1)
                .take(2)
                .map(|path| path.to_string_lossy().into_owned())
                .collect();
            for folder in folders.into_iter().rev() {
                self.directory(&folder, 0o700, Owner::Root);
            }
        }
        self.directory(&self.layout.run, 0o700, Owner::Root);
    }

    fn consul(&mut self, node: &Node, pairs: &NodePairs, shared: &Shared, versions: &Versions) {
        let (owner, config) = (Owner::Consul, &self.layout.consul_config);
        self.user(owner);
        self.directory(config, 0o750, owner);
        self.directory(&self.layout.consul_data, 0o750, owner);
        let program = Program::new("consul", &self.cluster.consul, self.layout);
        let text = consul::agent(
            self.cluster,
            node,
            self.layout,
            versions.consul,
            shared.acl_open,
        );
        self.file(
            config,
            "consul.hcl",
            text,
            0o640,
            owner,
            Effect::Restart(Product::Consul),
        );
        self.file(
            config,
            "join.hcl",
            consul::join(self.cluster, node),
            0o640,
            owner,
            Effect::None,
        );
        self.secret(
            config,
            "encrypt.hcl",
            consul::encrypt(&shared.consul_gossip),
            owner,
            Effect::None,
        );
        self.certificates(
            config,
            "",
            &shared.trusted.consul,
            &pairs.consul,
            owner,
            Effect::Reload(Product::Consul),
        );
        let command = vec![
            program.path.clone(),
            "agent".to_owned(),
            format!("-config-dir={config}"),
        ];
        if self.cluster.features.consul_dns {
            self.directory(RESOLVER_FOLDER, 0o755, Owner::Root);
            let text = consul::resolver(self.cluster, node);
            let (folder, name) = RESOLVER_FILE.rsplit_once('/').unwrap_or_default();
            self.file(folder, name, text, 0o644, Owner::Root, Effect::Resolver);
        } else if self.layout.units.is_some() {
            self.spec.gone.push(RESOLVER_FILE.to_owned());
        }
        self.daemon(DaemonSpec {
            product: Product::Consul,
            command,
            user: owner,
            keeps_children: false,
        });
        self.spec.binaries.push(program.into_spec());
    }

    #[allow(clippy::too_many_arguments, reason = "what a node gets, each once")]
    fn nomad(
        &mut self,
        node: &Node,
        source: &BinarySource,
        pair: &Pair,
        at_consul: Option<&Pair>,
        shared: &Shared,
        versions: &Versions,
        lb: Option<&Program>,
    ) {
        let client = node.role == Role::NomadClient;
        let owner = if client { Owner::Root } else { Owner::Nomad };
        let config = &self.layout.nomad_config;
        self.user(owner);
        self.directory(config, 0o700, owner);
        self.directory(&self.layout.nomad_data, 0o700, owner);
        let program = Program::new("nomad", source, self.layout);
        let own_pair = at_consul.is_some();
        let text = nomad::agent(self.cluster, node, self.layout, versions, lb, own_pair);
        self.file(
            config,
            "nomad.hcl",
            text,
            0o600,
            owner,
            Effect::Restart(Product::Nomad),
        );
        self.file(
            config,
            "join.hcl",
            nomad::join(self.cluster, node),
            0o600,
            owner,
            Effect::None,
        );
        if client && self.cluster.features.docker {
            self.spec.packages.push(Package::Docker);
        }
        if client && self.cluster.features.cni {
            (self.spec.packages).extend([Package::CniPlugins, Package::Iptables]);
        }
        if !client {
            self.secret(
                config,
                "encrypt.hcl",
                nomad::encrypt(&shared.nomad_gossip),
                owner,
                Effect::None,
            );
        }
        if let Some(token) = shared
            .nomad_consul_token
            .as_ref()
            .filter(|_| self.cluster.acl)
        {
            self.secret(
                config,
                "consul-token.hcl",
                nomad::token(token),
                owner,
                Effect::Restart(Product::Nomad),
            );
        }
        // SIGHUP renews what Nomad shows to others, but not what it talks to Consul with: its
        // Consul client keeps CA and certificate of the start (seen with 2.0.6: `failed to verify
        // certificate` after a CA change). Tasks outlive the restart of their agent.
        let effect = Effect::Restart(Product::Nomad);
        self.certificates(config, "", &shared.trusted.nomad, pair, owner, effect);
        if let Some(pair) = at_consul {
            let trusted = &shared.trusted.consul;
            self.certificates(config, "consul-", trusted, pair, owner, effect);
        }
        let command = ["agent", "-config", config].map(str::to_owned);
        let command = std::iter::once(program.path.clone())
            .chain(command)
            .collect();
        self.daemon(DaemonSpec {
            product: Product::Nomad,
            command,
            user: owner,
            keeps_children: client,
        });
        self.spec.binaries.push(program.into_spec());
    }

    /// lb's files are its own user's. The folder is root's, so that lb cannot put others there.
    fn lb(&mut self, node: &Node, agent: &Pair, shared: &Shared, program: Program) {
        let (owner, folder) = (Owner::Lb, &self.layout.lb);
        self.user(owner);
        self.directory(folder, 0o755, Owner::Root);
        let starter = lb::starter(self.cluster, &program.path);
        let (run, effect) = (&self.layout.run, Effect::None);
        self.file(run, lb::STARTER, starter, 0o755, Owner::Root, effect);
        let token = shared.lb_consul_token.as_ref().filter(|_| self.cluster.acl);
        self.file(
            folder,
            "lb.toml",
            lb::config(self.cluster, node, token.is_some()),
            0o600,
            owner,
            Effect::None,
        );
        if let Some(token) = token {
            self.secret(
                folder,
                "token",
                format!("{}\n", token.reveal()),
                owner,
                Effect::None,
            );
        }
        let trusted = &shared.trusted.consul;
        self.certificates(folder, "", trusted, &shared.lb, owner, Effect::None);
        if self.cluster.telemetry {
            let Pair { cert, key } = agent.clone();
            self.file(folder, lb::METRICS_CERT, cert, 0o644, owner, Effect::None);
            let key = key.reveal().to_owned();
            self.secret(folder, lb::METRICS_KEY, key, owner, Effect::None);
        }
        let systemd =
            matches!(&self.cluster.target, Target::Ssh(ssh) if ssh.runner == Runner::Systemd);
        if let (Some(units), true, false) = (&self.layout.units, systemd, self.cluster.raw_exec) {
            let unit = systemd::lb_unit();
            self.file(units, "lb.service", unit, 0o644, Owner::Root, effect);
        }
        self.spec.binaries.push(program.into_spec());
    }

    fn certificates(
        &mut self,
        folder: &str,
        prefix: &str,
        ca: &str,
        pair: &Pair,
        owner: Owner,
        effect: Effect,
    ) {
        for (name, text) in [("ca.pem", ca), ("cert.pem", &pair.cert)] {
            let name = format!("{prefix}{name}");
            self.file(folder, &name, text.to_owned(), 0o644, owner, effect);
        }
        let key = pair.key.reveal().to_owned();
        self.secret(folder, &format!("{prefix}key.pem"), key, owner, effect);
    }

    fn daemon(&mut self, daemon: DaemonSpec) {
        let systemd =
            matches!(&self.cluster.target, Target::Ssh(ssh) if ssh.runner == Runner::Systemd);
        if let Some(folder) = self.layout.units.as_ref().filter(|_| systemd) {
            let name = format!("{}.service", daemon.product.name());
            let text = systemd::unit(&daemon, self.layout);
            self.file(
                folder,
                &name,
                text,
                0o644,
                Owner::Root,
                Effect::Restart(daemon.product),
            );
        }
        self.spec.daemons.push(daemon);
    }

    /// Users are made on machines of the cluster alone: locally all runs as the caller.
    fn user(&mut self, user: Owner) {
        if !self.cluster.is_local() && user != Owner::Root {
            self.spec.users.push(user);
        }
    }

    fn directory(&mut self, path: &str, mode: u32, owner: Owner) {
        self.spec.directories.push(DirSpec {
            path: path.to_owned(),
            mode,
            owner,
        });
    }

    fn secret(&mut self, folder: &str, name: &str, text: String, owner: Owner, effect: Effect) {
        self.push(folder, name, text, 0o600, owner, effect, true);
    }

    fn file(
        &mut self,
        folder: &str,
        name: &str,
        text: String,
        mode: u32,
        owner: Owner,
        effect: Effect,
    ) {
        self.push(folder, name, text, mode, owner, effect, false);
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of a file, each once")]
    fn push(
        &mut self,
        folder: &str,
        name: &str,
        text: String,
        mode: u32,
        owner: Owner,
        effect: Effect,
        secret: bool,
    ) {
        let path = format!("{folder}/{name}");
        self.spec.files.push(FileSpec {
            path,
            content: text.into_bytes(),
            mode,
            owner,
            effect,
            secret,
        });
    }
}
