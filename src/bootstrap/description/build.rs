//! From what was written to a [`Cluster`]. Pure but for what it looks up among the programs of this
//! machine.

use std::path::PathBuf;

use super::binaries::source;
use super::build_context::{BuildContext, Kind};
use super::keys::{
    CaSettings, CertificateSettings, ClientSettings, ConsulSettings, DnsSettings, LocalSettings,
    NomadSettings, ReleaseSettings, SshSettings, TopSettings,
};
use super::{extra, names, nodes};
use crate::bootstrap::topology::{
    CaFiles, Cluster, Extras, Features, Product, ReleaseKey, Ssh, Target,
};
use crate::config::error::{ConfigError, Findings};
use crate::config::raw::{Placed, RawValue, Settings};
use crate::config::reader::ReadContext;
use crate::config::sections::Sections;

/// Name of the loopback interface.
const LOOPBACK: &str = "lo";

/// Makes the cluster; `mistakes` are those of earlier steps.
pub(super) fn build(
    settings: &Settings,
    context: &BuildContext<'_>,
    mistakes: Vec<ConfigError>,
) -> Result<Cluster, Vec<ConfigError>> {
    let mut findings = Findings {
        mistakes,
        ..Findings::default()
    };
    let mut sections = Sections {
        settings,
        context: ReadContext::default(),
        findings: &mut findings,
    };
    match cluster(&mut sections, context) {
        Some(cluster) if findings.mistakes.is_empty() => Ok(cluster),
        _ => Err(findings.mistakes),
    }
}

fn cluster(sections: &mut Sections<'_>, context: &BuildContext<'_>) -> Option<Cluster> {
    let top: TopSettings = sections.once();
    let local: LocalSettings = sections.once();
    let consul: ConsulSettings = sections.once();
    let nomad: NomadSettings = sections.once();
    let clients: ClientSettings = sections.once();
    let dns: DnsSettings = sections.once();
    let certificates: CertificateSettings = sections.once();
    let releases: ReleaseSettings = sections.once();
    let (kind, nodes, of_nodes) =
        nodes::read(sections, &top, &local, &context.recorded, context.scope);
    let mut added =
        |key: &str, placed: Option<&Placed>, product| extra::read(sections, key, placed, product);
    let extra = Extras {
        consul: added("consul.extra", consul.extra.as_ref(), Product::Consul),
        nomad: added("nomad.extra", nomad.extra.as_ref(), Product::Nomad),
        clients: added("clients.extra", clients.extra.as_ref(), Product::Nomad),
        nodes: of_nodes,
    };
    let features = Features {
        docker: clients.docker,
        cni: clients.cni,
        consul_dns: dns.consul,
    };
    if kind == Kind::Local {
        not_here(sections, features);
    }
    let target = target(sections, kind, context);
    let named = (consul.version.as_deref(), consul.binary.as_deref());
    let consul = source::<ConsulSettings>(sections, Product::Consul, named, kind, context);
    let named = (nomad.version.as_deref(), nomad.binary.as_deref());
    let nomad_source = source::<NomadSettings>(sections, Product::Nomad, named, kind, context);
    let interface = nomad.network_interface;
    let url = |url: &str| url.trim_end_matches('/').to_owned();
    let signing_key = releases.signing_key.as_deref();
    let release_key = ReleaseKey {
        fingerprint: names::plain_fingerprint(&releases.fingerprint),
        file: signing_key
            .and_then(|key| context.path::<ReleaseSettings>(sections, "signing_key", key)),
        url: url(&releases.key_url),
    };
    let ca = top.ca.and_then(|written| ca(sections, &written, context));
    let state = state(sections, top.state.as_deref(), context);
    Some(Cluster {
        name: top.name,
        datacenter: top.datacenter,
        region: top.region,
        domain: top.domain,
        network_interface: interface.or((kind == Kind::Local).then(|| LOOPBACK.to_owned())),
        certificate_days: certificates.days,
        target,
        nodes,
        acl: top
            .acl
            .or(context.recorded.acl)
            .unwrap_or(kind == Kind::Ssh),
        raw_exec: clients.raw_exec,
        features,
        ca,
        consul: consul?,
        nomad: nomad_source,
        telemetry: top.telemetry,
        extra,
        release_url: url(&releases.url),
        release_key,
        state: state?,
    })
}

/// Nodes of this machine share its packages and its resolver with all else.
fn not_here(sections: &mut Sections<'_>, features: Features) {
    let problem =
        "is for the ssh target, and all nodes of this cluster are processes of this machine";
    let advice = "take it away, and install here by hand what jobs need";
    if features.docker {
        sections.wrong::<ClientSettings>("docker", problem, advice);
    }
    if features.cni {
        sections.wrong::<ClientSettings>("cni", problem, advice);
    }
    if features.consul_dns {
        let advice = "take it away: agents of this machine answer on port 8600 of their addresses";
        sections.wrong::<DnsSettings>("consul", problem, advice);
    }
}

/// The CA that was brought along.
fn ca(
    sections: &mut Sections<'_>,
    written: &Placed,
    context: &BuildContext<'_>,
) -> Option<CaFiles> {
    let advice = "write ca = { cert_file = \"ca.pem\", key_file = \"ca-key.pem\" }";
    let RawValue::Table(keys) = &written.value else {
        sections.wrong::<TopSettings>("ca", "is not a table", advice);
        return None;
    };
    let files: CaSettings = sections.table("ca", &written.place, keys);
    let mut file = |name: &str, written: Option<String>| match written {
        Some(path) => context.path::<CaSettings>(sections, name, &path),
        // A mistake, noted already.
        None if keys.contains_key(name) => None,
        None => {
            sections.wrong::<TopSettings>("ca", &format!("lacks {name}"), advice);
            None
        }
    };
    let (cert, key) = (
        file("cert_file", files.cert_file),
        file("key_file", files.key_file),
    );
    Some(CaFiles {
        cert: cert?,
        key: key?,
    })
}

/// How machines are reached. What stands below `[ssh]` is checked on the local target, too, where
/// it means nothing.
fn target(sections: &mut Sections<'_>, kind: Kind, context: &BuildContext<'_>) -> Target {
    let ssh: SshSettings = sections.once();
    let identity = ssh.identity_file.as_deref();
    let identity =
        identity.and_then(|path| context.path::<SshSettings>(sections, "identity_file", path));
    let is_root = ssh.user.as_deref() == Some("root");
    let mut options = Vec::new();
    let mut option = |flag: &str, value: Option<String>| {
        options.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
    };
    option("-l", ssh.user);
    option("-p", ssh.port.map(|port| port.to_string()));
    option(
        "-i",
        identity.map(|path| path.to_string_lossy().into_owned()),
    );
    option("-J", ssh.jump);
    options.extend(ssh.options);
    match kind {
        Kind::Local => Target::Local,
        Kind::Ssh => Target::Ssh(Ssh {
            options,
            sudo: ssh.sudo.unwrap_or(!is_root),
            parallel: ssh.parallel,
            runner: ssh.runner,
        }),
    }
}

fn state(
    sections: &mut Sections<'_>,
    written: Option<&str>,
    context: &BuildContext<'_>,
) -> Option<PathBuf> {
    match written {
        Some(path) => context.path::<TopSettings>(sections, "state", path),
        // A mistake, noted already.
        None if sections.settings.has("state") => None,
        None => {
            if context.state.is_none() {
                let problem = "has no place: neither XDG_STATE_HOME nor HOME names a folder";
                sections.wrong::<TopSettings>("state", problem, "name one with --state DIR");
            }
            context.state.clone()
        }
    }
}
