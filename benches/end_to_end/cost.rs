//! What a process tree has cost so far, from /proc.

use std::fs;

/// Process ids of this process and everything below it.
fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let id = found[next];
        for task in tasks(id) {
            let children =
                fs::read_to_string(format!("/proc/{id}/task/{task}/children")).unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|child| child.parse::<u32>().ok()),
            );
        }
        next += 1;
    }
    found
}

fn tasks(id: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{id}/task"))
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// CPU time of the tree in nanoseconds: what the scheduler counted, user and system, over all
/// threads that live.
pub(crate) fn cpu(root: u32) -> u64 {
    let of = |id: u32, task: u32| -> Option<u64> {
        let line = fs::read_to_string(format!("/proc/{id}/task/{task}/schedstat")).ok()?;
        line.split_whitespace().next()?.parse().ok()
    };
    tree(root)
        .into_iter()
        .flat_map(|id| tasks(id).into_iter().filter_map(move |task| of(id, task)))
        .sum()
}

/// Resident memory of the tree in bytes.
pub(crate) fn resident(root: u32) -> u64 {
    let of = |id: u32| -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.split_whitespace()
            .next()?
            .parse::<u64>()
            .ok()
            .map(|kilobytes| kilobytes * 1024)
    };
    tree(root).into_iter().filter_map(of).sum()
}
