//! What Prometheus needs to scrape the cluster: its configuration, and the files that this names.
//!
//! The certificate is lb's: a client of Consul's agents and of lb, with the rights of its token
//! alone where ACLs are on. Nomad's agents take none that could not also run jobs while ACLs are
//! off, so that then they are left out.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::bootstrap::render::LB_METRICS_PORT;
use crate::bootstrap::security::secrets::Secret;
use crate::bootstrap::state::{State, Tokens};
use crate::bootstrap::topology::{Cluster, Product, Role, Scope};

/// Folder of all of it, in the state folder.
const FOLDER: &str = "scrape";
const CONFIG: &str = "prometheus.yml";
const CA: &str = "ca.pem";
const CERT: &str = "cert.pem";
const KEY: &str = "key.pem";
const CONSUL_TOKEN: &str = "consul-token";
const NOMAD_CERT: &str = "nomad-cert.pem";
const NOMAD_KEY: &str = "nomad-key.pem";

/// One job: what is scraped, how, and where.
struct Job {
    name: &'static str,
    path: &'static str,
    /// Whether the agent gives Prometheus's format only where the request names it.
    format: bool,
    cert: &'static str,
    key: &'static str,
    token: Option<&'static str>,
    /// Node and address.
    targets: Vec<(String, String)>,
}

/// The whole `scrape_configs:` document. `folder` holds the files that it names.
#[must_use]
pub(in crate::bootstrap) fn document(
    cluster: &Cluster,
    scope: Scope,
    folder: &Path,
    with_token: bool,
) -> String {
    let mut text = format!(
        "# Prometheus, for the cluster {}. Written by lb bootstrap.\n",
        cluster.name.escape_debug()
    );
    let has_nomad = scope.includes(Product::Nomad) && cluster.servers(Product::Nomad).count() > 0;
    if has_nomad && !cluster.acl {
        text.push_str(
            "# Nomad's agents are left out: without ACLs a certificate that they take may run jobs.\n",
        );
    }
    text.push_str("scrape_configs:\n");
    for job in jobs(cluster, scope, with_token) {
        write_job(&mut text, &job, folder);
    }
    text
}

fn jobs(cluster: &Cluster, scope: Scope, with_token: bool) -> Vec<Job> {
    let agents = |product: Product| {
        let nodes = cluster.nodes.iter();
        let nodes = nodes.filter(move |node| node.products().contains(&product));
        nodes
            .map(move |node| (node.name.clone(), node.https(product).to_string()))
            .collect()
    };
    let mut jobs = vec![Job {
        name: "consul",
        path: "/v1/agent/metrics",
        format: true,
        cert: CERT,
        key: KEY,
        token: with_token.then_some(CONSUL_TOKEN),
        targets: agents(Product::Consul),
    }];
    if scope.includes(Product::Nomad) {
        if cluster.acl {
            jobs.push(Job {
                name: "nomad",
                path: "/v1/metrics",
                format: true,
                cert: NOMAD_CERT,
                key: NOMAD_KEY,
                token: None,
                targets: agents(Product::Nomad),
            });
        }
        let lb = |node: &crate::bootstrap::topology::Node| {
            let address = std::net::SocketAddr::new(node.address, LB_METRICS_PORT);
            (node.name.clone(), address.to_string())
        };
        jobs.push(Job {
            name: "lb",
            path: "/metrics",
            format: false,
            cert: CERT,
            key: KEY,
            token: None,
            targets: cluster.of_role(Role::NomadClient).map(lb).collect(),
        });
    }
    jobs.retain(|job| !job.targets.is_empty());
    jobs
}

fn write_job(text: &mut String, job: &Job, folder: &Path) {
    let file = |name: &str| quoted(&folder.join(name).to_string_lossy());
    let _ = write!(
        text,
        "  - job_name: {}\n    scheme: https\n    metrics_path: {}\n",
        job.name, job.path
    );
    if job.format {
        text.push_str("    params:\n      format: [prometheus]\n");
    }
    let _ = write!(
        text,
        "    tls_config:\n      ca_file: {}\n      cert_file: {}\n      key_file: {}\n",
        file(CA),
        file(job.cert),
        file(job.key)
    );
    if let Some(token) = job.token {
        let _ = write!(
            text,
            "    authorization:\n      credentials_file: {}\n",
            file(token)
        );
    }
    text.push_str("    static_configs:\n");
    for (node, target) in &job.targets {
        let _ = write!(
            text,
            "      - targets: [{}]\n        labels:\n          node: {}\n",
            quoted(target),
            quoted(node)
        );
    }
}

/// A text of YAML: JSON's are among them.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Where the files are.
#[must_use]
pub(in crate::bootstrap) fn folder(state: &State) -> PathBuf {
    state.path(FOLDER)
}

/// Writes the document and its files; what is right already is left alone. Returns the paths of
/// what was written; nothing without telemetry.
///
/// # Errors
/// When a certificate is missing or a file cannot be written.
pub(in crate::bootstrap) fn write(
    state: &mut State,
    cluster: &Cluster,
    scope: Scope,
) -> Result<Vec<PathBuf>> {
    if !cluster.telemetry {
        return Ok(Vec::new());
    }
    let missing = || {
        format!(
            "{} has no certificates yet: run `lb bootstrap up`",
            state.dir().display()
        )
    };
    let issued = state.pairs(cluster)?.with_context(missing)?;
    let ca = state.ca_bundle()?.with_context(missing)?;
    let tokens = state.tokens()?;
    let token = consul_token(cluster, &tokens);
    let document = document(cluster, scope, &folder(state), token.is_some());
    let mut files: Vec<(&str, Secret)> = vec![
        (CONFIG, Secret::new(document)),
        (CA, Secret::new(ca)),
        (CERT, Secret::new(issued.lb.cert)),
        (KEY, issued.lb.key),
    ];
    if let Some(token) = token {
        files.push((CONSUL_TOKEN, token));
    }
    if cluster.acl && scope.includes(Product::Nomad) {
        files.push((NOMAD_CERT, Secret::new(issued.operator.nomad.cert)));
        files.push((NOMAD_KEY, issued.operator.nomad.key));
    }
    let mut written = Vec::new();
    for (name, content) in files {
        let name = format!("{FOLDER}/{name}");
        if state.put(&name, content.reveal().as_bytes())? {
            written.push(state.path(&name));
        }
    }
    Ok(written)
}

/// The token of requests to agents where ACLs are on, once there is such a token.
#[must_use]
pub(in crate::bootstrap) fn consul_token(cluster: &Cluster, tokens: &Tokens) -> Option<Secret> {
    let token = tokens.scrape.as_ref().filter(|_| cluster.acl);
    token.map(|token| token.secret.clone())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::bootstrap::state::Token;
    use crate::bootstrap::state::tests::full;

    #[test]
    fn prometheus_takes_it_with_its_files() {
        for acl in [false, true] {
            let (_folder, mut state, mut cluster) = full();
            cluster.acl = acl;
            cluster.name = "a \"b\": c".to_owned();
            let tokens = Tokens {
                scrape: Some(Token {
                    accessor: "id".to_owned(),
                    secret: Secret::new("token"),
                }),
                ..Tokens::default()
            };
            state.save_tokens(&tokens).unwrap();
            write(&mut state, &cluster, Scope::All).unwrap();
            assert!(write(&mut state, &cluster, Scope::All).unwrap().is_empty());
            let path = folder(&state).join(CONFIG);
            let text = std::fs::read_to_string(&path).unwrap();
            let jobs: Vec<&str> = text
                .lines()
                .filter_map(|line| line.trim().strip_prefix("- job_name: "))
                .collect();
            let wanted: &[&str] = match acl {
                true => &["consul", "nomad", "lb"],
                false => &["consul", "lb"],
            };
            assert_eq!(jobs, wanted);
            for part in [
                "targets: [\"127.0.32.11:8501\"]\n        labels:\n          node: \"consul-0\"",
                "targets: [\"127.0.32.17:9997\"]",
            ] {
                assert!(text.contains(part), "{part}: {text}");
            }
            assert_eq!(text.contains("credentials_file"), acl);
            assert_eq!(folder(&state).join(NOMAD_KEY).exists(), acl);
            for name in std::fs::read_dir(folder(&state)).unwrap() {
                use std::os::unix::fs::PermissionsExt as _;
                let name = name.unwrap();
                let mode = name.metadata().unwrap().permissions().mode() & 0o777;
                assert_eq!(mode, 0o600, "{}", name.path().display());
            }
            let checked = Command::new("promtool")
                .args(["check", "config"])
                .arg(&path)
                .output();
            let Ok(output) = checked else {
                eprintln!("SKIPPED: no promtool on PATH");
                continue;
            };
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(output.status.success(), "{said}\n{text}");
        }
    }

    #[test]
    fn without_telemetry_there_is_nothing() {
        let (_folder, mut state, mut cluster) = full();
        cluster.telemetry = false;
        assert!(write(&mut state, &cluster, Scope::All).unwrap().is_empty());
        assert!(!folder(&state).exists());
    }
}
