//! From what was written to a [`Cluster`]: defaults, and the keys that are neither nodes nor
//! programs. Pure but for what it asks the programs of this machine.

use std::path::PathBuf;

use super::binaries::source;
use super::build_context::{BuildContext, Kind};
use super::names;
use super::nodes;
use super::raw::{Raw, Value};
use super::reader::Reader;
use crate::bootstrap::topology::{CaFiles, Cluster, Product, ReleaseKey, Runner, Ssh, Target};
use crate::config::error::ConfigError;

/// Official releases.
const RELEASES: &str = "https://releases.hashicorp.com";
/// The key that they are signed with, as HashiCorp publishes it
/// (<https://www.hashicorp.com/security>).
const FINGERPRINT: &str = "C874011F0AB405110D02105534365D9472D7468F";
/// Where that key is published.
const KEY_URL: &str = "https://www.hashicorp.com/.well-known/pgp-key.txt";
/// Name of the loopback interface.
const LOOPBACK: &str = "lo";
/// Shortest life of a leaf certificate, in days: below it, a long weekend without rotation ends the
/// cluster.
const CERTIFICATE_DAYS_MIN: u16 = 7;
/// Longest: half of the CA's.
const CERTIFICATE_DAYS_MAX: u16 = 1825;

/// Makes the cluster; `mistakes` are those of earlier steps.
pub(super) fn build(
    raw: &Raw,
    context: &BuildContext<'_>,
    mistakes: Vec<ConfigError>,
) -> Result<Cluster, Vec<ConfigError>> {
    let mut reader = Reader::new(raw, context.folder, context.home);
    reader.mistakes = mistakes;
    let (kind, nodes) = nodes::read(&mut reader, &context.recorded, context.scope);
    let target = target(&mut reader, kind);
    let consul = source(&mut reader, Product::Consul, kind, context);
    let nomad = source(&mut reader, Product::Nomad, kind, context);
    let letters = "use lower-case letters, digits and -";
    let name = reader.checked("name", names::label, letters);
    let place =
        "use lower-case letters, digits, - and _: certificates and agents carry it as it is";
    let datacenter = reader.checked("datacenter", names::datacenter, place);
    let region = reader.checked("region", names::datacenter, place);
    let domain = reader.checked(
        "domain",
        names::domain,
        "write it like \"consul\", without a dot at the end",
    );
    let interface = reader.checked(
        "nomad.network_interface",
        names::interface,
        "write a name that `ip link` prints",
    );
    let days = reader.whole(
        "certificates.days",
        CERTIFICATE_DAYS_MIN,
        CERTIFICATE_DAYS_MAX,
    );
    let acl = reader
        .truth("acl")
        .or(context.recorded.acl)
        .unwrap_or(kind == Kind::Ssh);
    let raw_exec = reader.truth("clients.raw_exec").unwrap_or(true);
    let ca = ca(&mut reader);
    let release_url = url(&mut reader, "releases.url", RELEASES);
    let release_key = release_key(&mut reader);
    let state = state(&mut reader, context);
    match (consul, state) {
        (Some(consul), Some(state)) if reader.mistakes.is_empty() => Ok(Cluster {
            name: name.unwrap_or_else(|| "lb".to_owned()),
            datacenter: datacenter.unwrap_or_else(|| "dc1".to_owned()),
            region: region.unwrap_or_else(|| "global".to_owned()),
            domain: domain.unwrap_or_else(|| "consul".to_owned()),
            network_interface: interface.or((kind == Kind::Local).then(|| LOOPBACK.to_owned())),
            certificate_days: u32::from(days.unwrap_or(365)),
            target,
            nodes,
            acl,
            raw_exec,
            ca,
            consul,
            nomad,
            release_url,
            release_key,
            state,
        }),
        _ => Err(reader.mistakes),
    }
}

/// How machines are reached. What stands below `[ssh]` is checked on the local target, too, where
/// it means nothing.
fn target(reader: &mut Reader<'_>, kind: Kind) -> Target {
    let word = "write it as you would after ssh";
    let user = reader.checked("ssh.user", names::ssh_word, word);
    let port = reader.whole("ssh.port", 1, u16::MAX);
    let identity = reader.path("ssh.identity_file");
    let jump = reader.checked(
        "ssh.jump",
        names::ssh_word,
        "write it as you would after ssh -J",
    );
    let sudo = reader.truth("ssh.sudo");
    let parallel = reader.whole("ssh.parallel", 1, 64);
    let runner = reader.one_of(
        "ssh.runner",
        &[("systemd", Runner::Systemd), ("process", Runner::Process)],
    );
    let mut options = Vec::new();
    let mut option = |flag: &str, value: Option<String>| {
        options.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
    };
    option("-l", user.clone());
    option("-p", port.map(|port| port.to_string()));
    option(
        "-i",
        identity.map(|path| path.to_string_lossy().into_owned()),
    );
    option("-J", jump);
    options.extend(reader.texts("ssh.options"));
    match kind {
        Kind::Local => Target::Local,
        Kind::Ssh => Target::Ssh(Ssh {
            options,
            sudo: sudo.unwrap_or(user.as_deref() != Some("root")),
            parallel: usize::from(parallel.unwrap_or(4)),
            runner: runner.unwrap_or_default(),
        }),
    }
}

/// The CA that was brought along.
fn ca(reader: &mut Reader<'_>) -> Option<CaFiles> {
    let spanned = reader.spanned("ca")?;
    let advice = "write ca = { cert_file = \"ca.pem\", key_file = \"ca-key.pem\" }";
    let Value::Table(keys) = &spanned.value else {
        reader.wrong("ca", "is not a table", advice);
        return None;
    };
    for (name, value) in keys {
        if !["cert_file", "key_file"].contains(&name.as_str()) {
            reader.wrong_at(
                &format!("ca.{name}"),
                Some(value),
                "is not a known key",
                advice,
            );
        }
    }
    let mut file = |name: &str| match keys.get(name) {
        Some(value) => reader.path_at(&format!("ca.{name}"), value),
        None => {
            reader.wrong("ca", format!("lacks {name}"), advice);
            None
        }
    };
    let (cert, key) = (file("cert_file"), file("key_file"));
    Some(CaFiles {
        cert: cert?,
        key: key?,
    })
}

fn url(reader: &mut Reader<'_>, key: &str, default: &str) -> String {
    let url = reader.checked(key, names::url, &format!("write it like \"{default}\""));
    url.as_deref()
        .unwrap_or(default)
        .trim_end_matches('/')
        .to_owned()
}

fn release_key(reader: &mut Reader<'_>) -> ReleaseKey {
    let fingerprint = reader.text("releases.fingerprint").and_then(|text| {
        let fingerprint = names::fingerprint(&text);
        if fingerprint.is_none() {
            reader.wrong(
                "releases.fingerprint",
                "is not a fingerprint",
                "write its 40 hexadecimal digits",
            );
        }
        fingerprint
    });
    ReleaseKey {
        fingerprint: fingerprint.unwrap_or_else(|| FINGERPRINT.to_owned()),
        file: reader.path("releases.signing_key"),
        url: url(reader, "releases.key_url", KEY_URL),
    }
}

fn state(reader: &mut Reader<'_>, context: &BuildContext<'_>) -> Option<PathBuf> {
    if reader.spanned("state").is_some() {
        return reader.path("state");
    }
    if context.state.is_none() {
        let problem = "has no place: neither XDG_STATE_HOME nor HOME names a folder";
        reader.wrong("state", problem, "name one with --state DIR");
    }
    context.state.clone()
}
