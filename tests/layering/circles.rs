//! Holds the direction between the files of one module: no circles but those recorded here.

use std::collections::BTreeSet;
use std::path::Path;

use crate::files::Files;
use crate::rust_files;

/// Sets of files that name each other in a circle today, with why that is so. Open them, do not add
/// to them.
const CIRCLES: &[(&[&str], &str)] = &[(
    &["src/serve/workers.rs", "src/serve/workers/dynamic.rs"],
    "ports that come and go change the state of all workers",
)];

/// Modules that are not held to it yet.
const NOT_YET: &[&str] = &[];

/// Crates beside the library, each looked at as a whole.
const CRATES: &[&str] = &["benches/end_to_end", "benches/catalog_change"];

#[test]
fn files_of_a_module_name_each_other_in_one_direction() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |folder: &str| Files::read(&top.join(folder), top, &rust_files(&top.join(folder)));
    let library = read("src");
    let crates: Vec<Files> = CRATES.iter().map(|folder| read(folder)).collect();
    let modules: Vec<&str> = library
        .roots()
        .into_iter()
        .filter(|module| !NOT_YET.contains(module))
        .collect();
    assert!(
        modules.len() > 10,
        "only {modules:?} found: the scan looks in the wrong place"
    );

    let in_library = modules.into_iter().flat_map(|module| {
        library
            .circles(Some(module))
            .into_iter()
            .map(|one| (&library, one))
    });
    let in_crates = crates
        .iter()
        .flat_map(|files| files.circles(None).into_iter().map(move |one| (files, one)));
    let found: Vec<(&Files, BTreeSet<&str>)> = in_library.chain(in_crates).collect();
    let recorded: Vec<BTreeSet<&str>> = CIRCLES
        .iter()
        .map(|(files, _)| files.iter().copied().collect())
        .collect();

    let mut wrong = Vec::new();
    for (files, circle) in &found {
        if !recorded.contains(circle) {
            let arrows = files.arrows_within(circle).join("\n      ");
            wrong.push(format!(
                "a circle that is not recorded: {circle:?}\n      {arrows}"
            ));
        }
    }
    for circle in recorded {
        if !found.iter().any(|(_, one)| *one == circle) {
            wrong.push(format!(
                "a circle that is gone, or another one now; take it off the list: {circle:?}"
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} wrong circles between files of a module:\n  {}\nMove what both sides need into a file of its own; CIRCLES \
         (tests/layering/circles.rs) holds those of old and must not grow.",
        wrong.len(),
        wrong.join("\n  ")
    );
}
