//! Prometheus's way to the metrics of a cluster: what the written configuration names, and no more.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::cluster::Nine;

/// A job of the written configuration.
struct Job {
    name: String,
    path: String,
    params: &'static str,
    files: Vec<(&'static str, PathBuf)>,
    token: Option<PathBuf>,
    targets: Vec<String>,
}

/// Every job's every target gives metrics of the kind that belongs there, by the files that the
/// configuration names. `jobs`: their names, with one metric of each.
pub(super) fn gives_metrics(nine: &Nine, jobs: &[(&str, &str)]) {
    let done = nine.run(&["scrape"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let printed = done.stdout;
    let file = nine.state().join("scrape/prometheus.yml");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), printed);
    let checked = Command::new("promtool")
        .args(["check", "config"])
        .arg(&file)
        .output();
    if let Ok(output) = checked {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}\n{printed}");
    }
    let found = read(&printed);
    let names: Vec<&str> = found.iter().map(|job| job.name.as_str()).collect();
    let wanted: Vec<&str> = jobs.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, wanted);
    for (job, (_, metric)) in found.iter().zip(jobs) {
        let count = match job.name.as_str() {
            "consul" => 9,
            "nomad" => 6,
            _ => 3,
        };
        assert_eq!(job.targets.len(), count, "{}", job.name);
        for target in &job.targets {
            nine.wait(&format!("{metric} of {} at {target}", job.name), || {
                let text = scraped(job, target, true)?;
                text.contains(metric).then_some(())
            });
            assert!(
                scraped(job, target, false).is_none(),
                "{} at {target} without a certificate",
                job.name
            );
        }
    }
}

/// The body of a response with status 200.
fn scraped(job: &Job, target: &str, with_files: bool) -> Option<String> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--fail", "--max-time", "10"]);
    for (flag, path) in &job.files {
        if with_files || *flag == "--cacert" {
            command.arg(flag).arg(path);
        }
    }
    if let Some(token) = &job.token {
        let token = std::fs::read_to_string(token).unwrap();
        command.args(["--header", &format!("Authorization: Bearer {token}")]);
    }
    let url = format!("https://{target}{}{}", job.path, job.params);
    let output = command.arg(url).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

fn read(document: &str) -> Vec<Job> {
    let (_, jobs) = document.split_once("scrape_configs:\n").unwrap();
    jobs.split("  - job_name: ").skip(1).map(job).collect()
}

fn job(text: &str) -> Job {
    let value = |key: &str| {
        let found = text.lines().find_map(|line| line.trim().strip_prefix(key));
        found.map(|value| value.trim().trim_matches('"').to_owned())
    };
    let file = |key: &str| {
        let path = PathBuf::from(value(key).unwrap());
        assert!(path.is_absolute() && Path::exists(&path), "{key} {path:?}");
        path
    };
    let targets = text.lines().filter_map(|line| {
        let line = line.trim().strip_prefix("- targets: [\"")?;
        Some(line.trim_end_matches("\"]").to_owned())
    });
    Job {
        name: text.lines().next().unwrap().to_owned(),
        path: value("metrics_path:").unwrap(),
        params: match text.contains("format: [prometheus]") {
            true => "?format=prometheus",
            false => "",
        },
        files: vec![
            ("--cacert", file("ca_file:")),
            ("--cert", file("cert_file:")),
            ("--key", file("key_file:")),
        ],
        token: value("credentials_file:").map(PathBuf::from),
        targets: targets.collect(),
    }
}
