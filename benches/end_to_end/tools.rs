//! Programs on PATH, and what the machine is.

use std::path::PathBuf;
use std::process::Command;

/// Where this program is on PATH; the folders of system programs are looked into as well.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// The cores this process may use.
pub(crate) fn cores() -> Vec<usize> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap_or("0");
    list.trim().split(',').flat_map(range).collect()
}

/// `3` or `0-3`, as in a list of cores.
fn range(text: &str) -> std::ops::RangeInclusive<usize> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse().unwrap_or(0);
    number(first)..=number(last)
}

/// Why CPU time cannot be measured per core here, if so.
pub(crate) fn unfit() -> Option<&'static str> {
    if !std::path::Path::new("/proc/self/schedstat").exists() {
        return Some("/proc/PID/schedstat is missing: CPU time is read from there, on Linux");
    }
    find("taskset")
        .is_none()
        .then_some("taskset (of util-linux) is missing: it binds programs to a core")
}

/// Binds this process, and what it starts from now on, to a core, and lets it have many open files.
pub(crate) fn pin_self(core: usize) {
    let id = std::process::id().to_string();
    // Where that is not allowed, the case of many idle connections tells how many failed.
    let _ = Command::new("prlimit")
        .args(["--pid", &id, "--nofile=40000:40000"])
        .output();
    let done = Command::new("taskset")
        .args(["-pc", &core.to_string(), &id])
        .output();
    assert!(
        done.is_ok_and(|output| output.status.success()),
        "taskset (of util-linux) is needed to bind to a core"
    );
}

/// Kernel, processor and load, for the result.
pub(crate) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo");
    let model = processor
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    format!(
        "Linux {}, {} cores, {}, load {}",
        read("/proc/sys/kernel/osrelease").trim(),
        cores().len(),
        model.map_or("?", |model| model.trim_start_matches(['\t', ' ', ':'])),
        read("/proc/loadavg")
            .split_whitespace()
            .take(3)
            .collect::<Vec<_>>()
            .join(" "),
    )
}
