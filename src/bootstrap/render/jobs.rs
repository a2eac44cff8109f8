//! The jobs that `up --with-sample` runs: the files of `deploy/nomad`, with this cluster's names
//! filled in.
//!
//! Nomad itself turns the text into a job (`/v1/jobs/parse`), so that there is one source for
//! people and for us.

use serde_json::{Value, json};

use crate::bootstrap::topology::Cluster;

const HELLO: &str = include_str!("../../../deploy/nomad/hello.nomad.hcl");
const LB: &str = include_str!("../../../deploy/nomad/lb.nomad.hcl");

/// Body for `POST /v1/jobs/parse` that gives the sample service. The response goes to `/v1/jobs` by
/// PUT, as `{"Job": …}`. Source:
/// <https://developer.hashicorp.com/nomad/api-docs/jobs#parse-job>.
#[must_use]
pub fn hello(cluster: &Cluster) -> Value {
    parse_request(HELLO, &cluster.datacenter)
}

/// Body for `POST /v1/jobs/parse` that gives lb itself as a system job.
#[must_use]
pub fn lb_system(cluster: &Cluster) -> Value {
    parse_request(LB, &cluster.datacenter)
}

fn parse_request(text: &str, datacenter: &str) -> Value {
    let variables = format!("datacenters = [{}]\n", super::hcl::quoted(datacenter));
    json!({ "JobHCL": text, "Variables": variables, "Canonicalize": true })
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::Command;

    use super::*;

    fn shipped() -> Vec<PathBuf> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/nomad");
        let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        paths
    }

    #[test]
    fn lb_has_nothing_to_say_about_the_shipped_jobs() {
        let texts: Vec<(String, String)> = shipped()
            .into_iter()
            .map(|path| {
                (
                    path.display().to_string(),
                    std::fs::read_to_string(path).unwrap(),
                )
            })
            .collect();
        assert_eq!(texts.len(), 3);
        let findings = crate::check::lints::check_jobs(&texts, "urlprefix-", None);
        assert!(findings.is_empty(), "{findings:?}");
    }

    #[test]
    fn the_datacenter_is_filled_in() {
        for text in [HELLO, LB] {
            let body = parse_request(text, "east-1");
            assert_eq!(body["Variables"], "datacenters = [\"east-1\"]\n");
            assert_eq!(body["JobHCL"], text);
            assert!(text.contains("variable \"datacenters\""));
        }
    }

    #[test]
    fn nomad_reads_the_shipped_jobs() {
        let nomad = std::env::var_os("NOMAD_BIN").unwrap_or_else(|| "nomad".into());
        if !Command::new(&nomad)
            .arg("version")
            .output()
            .is_ok_and(|output| output.status.success())
        {
            eprintln!("SKIPPED: no nomad on PATH");
            return;
        }
        for path in shipped() {
            for words in [
                &["fmt", "-check", "-list=false"][..],
                &["job", "run", "-output"],
            ] {
                // No server gets a request: the address leads nowhere.
                let output = Command::new(&nomad)
                    .args(words)
                    .arg(&path)
                    .env("NOMAD_ADDR", "http://127.0.0.1:1")
                    .output()
                    .unwrap();
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(
                    output.status.success(),
                    "nomad {words:?} {}: {said}",
                    path.display()
                );
                if words[0] == "job" {
                    let job: Value = serde_json::from_slice(&output.stdout).unwrap();
                    let text = job.to_string();
                    // What the clients fill in is left for them.
                    assert!(!text.contains("$${"), "{text}");
                    assert!(text.contains("${meta.bind}"), "{text}");
                }
            }
        }
    }
}
