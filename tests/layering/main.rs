//! Holds the direction between modules: which part may name which. The list is the one in
//! docs/architecture.md. `circles` holds the direction between the files of one module, `words` the
//! words of docs/style.md.

#![allow(
    clippy::unwrap_used,
    reason = "test code: a failure here fails the test"
)]

mod circles;
mod files;
mod text;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use text::{code, identifier};

/// A module, and what it may name beside itself. Those absent from the list may name nothing.
const ARROWS: &[(&str, &[&str])] = &[
    ("accept_encoding", &[]),
    ("catalog", &[]),
    ("journal", &[]),
    ("jwt", &[]),
    ("metrics", &["journal"]),
    ("trust", &[]),
    ("system", &[]),
    ("sample", &["system"]),
    ("http_client", &["trust"]),
    ("log", &["catalog", "config", "system"]),
    ("config", &["catalog", "table"]),
    ("table", &["catalog", "metrics"]),
    (
        "sources",
        &[
            "catalog",
            "metrics",
            "config",
            "trust",
            "http_client",
            "journal",
            "system",
        ],
    ),
    (
        "control",
        &[
            "sources", "catalog", "table", "metrics", "config", "journal",
        ],
    ),
    (
        "proxy",
        &[
            "accept_encoding",
            "table",
            "catalog",
            "metrics",
            "config",
            "log",
            "trust",
            "http_client",
            "journal",
            "jwt",
            "system",
        ],
    ),
    (
        "admin",
        &[
            "accept_encoding",
            "table",
            "control",
            "catalog",
            "metrics",
            "config",
            "http_client",
            "journal",
            "system",
        ],
    ),
    (
        "check",
        &[
            "config",
            "catalog",
            "trust",
            "sources",
            "http_client",
            "jwt",
        ],
    ),
    ("bootstrap", &["config", "cli", "trust", "system"]),
    (
        "certificates",
        &["catalog", "config", "sources", "http_client", "system"],
    ),
    ("fabio", &["config", "metrics", "http_client"]),
    ("cli", &["config"]),
    ("manual", &["cli", "config"]),
];

/// Where everything is put together: these see all modules, and none but the binary may name them.
const ROOTS: &[&str] = &["serve", "demo", "lib", "main"];

#[test]
fn modules_name_only_what_they_may() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    let mut files = 0;
    for file in rust_files(&root) {
        files += 1;
        let relative = file
            .strip_prefix(&root)
            .unwrap()
            .to_string_lossy()
            .replace('\\', "/");
        let module = relative
            .split('/')
            .next()
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned();
        if ROOTS.contains(&module.as_str()) {
            continue;
        }
        let Some(allowed) = arrows.get(module.as_str()) else {
            wrong.push(format!(
                "src/{relative}: module `{module}` has no row in ARROWS (tests/layering/main.rs)"
            ));
            continue;
        };
        for (line, named) in named_modules(&fs::read_to_string(&file).unwrap()) {
            if named != module && !allowed.contains(&named.as_str()) {
                wrong.push(format!(
                    "src/{relative}:{line}: `{module}` must not name `{named}`"
                ));
            }
        }
    }
    assert!(
        files > 10,
        "only {files} source files found under {}: the scan looks in the wrong place",
        root.display()
    );
    assert!(
        wrong.is_empty(),
        "{} wrong dependencies between modules:\n  {}\nMove the code, pass the value in from `serve`, or argue a new \
         arrow in docs/architecture.md and tests/layering/main.rs.",
        wrong.len(),
        wrong.join("\n  ")
    );
}

#[test]
fn arrows_have_no_cycle() {
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    for (start, _) in ARROWS {
        let mut seen = BTreeSet::new();
        let mut stack: Vec<&str> = arrows[start].to_vec();
        while let Some(module) = stack.pop() {
            assert_ne!(
                module, *start,
                "`{start}` depends on itself by way of the arrows"
            );
            if seen.insert(module) {
                stack.extend(arrows.get(module).copied().unwrap_or_default());
            }
        }
    }
}

#[test]
fn the_document_has_the_same_arrows() {
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/architecture.md"))
            .unwrap();
    let (_, table) = text
        .split_once("\n| module | may name |\n|---|---|\n")
        .unwrap();
    let written: Vec<&str> = table
        .lines()
        .take_while(|line| line.starts_with('|'))
        .collect();
    let rows: Vec<String> = ARROWS
        .iter()
        .map(|(module, allowed)| {
            let right = if allowed.is_empty() {
                "nothing".to_owned()
            } else {
                allowed.join(", ")
            };
            format!("| `{module}` | {right} |")
        })
        .collect();
    assert_eq!(
        written, rows,
        "docs/architecture.md and ARROWS (tests/layering/main.rs) differ"
    );
}

#[test]
fn the_scan_sees_every_form() {
    let text = "use crate::table::{Route, Target};\nuse crate::{catalog, metrics::Metrics};\n\
                fn f(x: crate::config::Config) {}\n// use crate::proxy::x;\n/// [`crate::admin`]\n\
                use crate::{\n    control::Status,\n    sources::{a, b::{c}, d},\n};\n\
                pub(crate) fn g() {}\n#[cfg(test)]\nmod tests {\n    use crate::serve::x;\n}\n";
    let found: Vec<(usize, String)> = named_modules(text);
    let found: Vec<(usize, &str)> = found
        .iter()
        .map(|(line, name)| (*line, name.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            (1, "table"),
            (2, "catalog"),
            (2, "metrics"),
            (3, "config"),
            (6, "control"),
            (6, "sources")
        ]
    );
}

/// Modules named by `crate::…` paths, with their line. Comments and tests are left out: tests may
/// look anywhere.
fn named_modules(text: &str) -> Vec<(usize, String)> {
    let code = code(text);
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = code[from..].find("crate::").map(|at| at + from) {
        from = at + "crate::".len();
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[from..];
        if let Some(group) = rest.strip_prefix('{') {
            found.extend(first_segments(group).into_iter().map(|name| (line, name)));
        } else {
            found.push((line, identifier(rest)));
        }
    }
    found
}

/// First path segments of the entries of a `{…}` group, whose opening brace is already cut off.
fn first_segments(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut names = Vec::new();
    let mut entry_start = true;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => entry_start = true,
            c if entry_start && depth == 0 && !c.is_whitespace() => {
                names.push(identifier(&group[at..]));
                entry_start = false;
            }
            _ => {}
        }
    }
    names
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}
