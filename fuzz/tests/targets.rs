//! Runs each target for some seconds: `LB_FUZZ_SECONDS` (3), from `LB_FUZZ_SEED` (the time).

use std::time::{Duration, SystemTime};

use lb_fuzz::engine;
use lb_fuzz::targets::{ALL, Target};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn run(name: &str) {
    let target: Target = *ALL
        .iter()
        .find(|target| target.name == name)
        .expect("a target of this name");
    let limit = Duration::from_secs(number("LB_FUZZ_SECONDS").unwrap_or(3));
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("a clock after 1970");
    let seed = number("LB_FUZZ_SEED").unwrap_or(u64::try_from(now.as_micros()).unwrap_or(0));
    match engine::run(&target, limit, seed) {
        Ok(runs) => {
            println!("{name}: {runs} inputs, seed {seed}");
            assert!(runs > 100, "only {runs} inputs in {limit:?}");
        }
        Err(finding) => panic!(
            "{}\nfor b\"{}\"\nAdd it to the seeds of fuzz/src/targets/{name}.rs and mend it (LB_FUZZ_SEED={seed}).",
            finding.what,
            finding.input.escape_ascii()
        ),
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })*

        #[test]
        fn every_target_is_run_and_has_its_binary() {
            let names = [$(stringify!($name)),*];
            assert_eq!(names.to_vec(), ALL.map(|target| target.name));
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets");
            let files = std::fs::read_dir(folder).expect("the folder of binaries");
            let mut files: Vec<String> =
                files.map(|file| file.expect("a file").file_name().to_string_lossy().replace(".rs", "")).collect();
            files.sort();
            assert_eq!(files, names);
        }
    };
}

targets! {
    command config cookie glob h1_request h1_response h1_stream policy proxy_protocol tag token
}
