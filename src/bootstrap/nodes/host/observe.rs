//! What a node has of all that its specification names, in one round trip.
//!
//! Paths are numbered in the script's answer, so that no name has to be read back. The sums of
//! programs, which take long, are remembered on the node for as long as the file does not change;
//! those of this machine's programs are computed once per run.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use anyhow::{Context as _, Result};
use tokio::sync::Mutex;

use super::super::spec::{DaemonSeen, NodeSpec, Observed, Owner, Seen, Stamps};
use super::channel::{Channel, PATIENCE};
use super::script::{Sections, quote, quote_all};
use super::{Inner, daemons};
use crate::bootstrap::topology::Product;

const LOOK: &str = r#"
seen() {
  if [ -d "$2" ]; then set -- "$1" "$2" -
  elif [ -f "$2" ]; then set -- "$1" "$2" "$(sum "$2")"
  else return 0; fi
  echo "$1 $(look "$2") $3"
}
program() {
  [ -f "$2" ] || return 0
  print=$(print_of "$2")
  known=$(sed -n "s/^$print //p" "$run/sums" 2>/dev/null | tail -n 1)
  if [ -z "$known" ]; then
    known=$(sum "$2")
    if [ -d "$run" ]; then
      { tail -n 20 "$run/sums" 2>/dev/null; echo "$print $known"; } >"$run/sums.new" && mv -f "$run/sums.new" "$run/sums"
    fi
  fi
  echo "$1 $(look "$2") $known"
}
"#;

pub(super) async fn run(host: &Inner, spec: &NodeSpec) -> Result<Observed> {
    let asked = asked(spec);
    let answer = host
        .channel
        .run(&script(host, spec, &asked), PATIENCE)
        .await?;
    let mut observed = read(&answer, spec, &asked)
        .with_context(|| format!("{}: unexpected answer to an observation", host.name))?;
    if host.local {
        observed.users.clone_from(&spec.users);
        for (path, owner) in spec
            .files
            .iter()
            .map(|file| (&file.path, file.owner))
            .chain(spec.directories.iter().map(|dir| (&dir.path, dir.owner)))
        {
            if let Some(seen) = observed.paths.get_mut(path) {
                owner.name().clone_into(&mut seen.owner);
            }
        }
        for binary in &spec.binaries {
            if let Some(seen) = program_of_this_machine(&binary.path).await? {
                observed.paths.insert(binary.path.clone(), seen);
            }
        }
    }
    Ok(observed)
}

/// Paths in the order of their numbers.
fn asked(spec: &NodeSpec) -> Vec<&str> {
    let files = spec.files.iter().map(|file| file.path.as_str());
    let dirs = spec.directories.iter().map(|dir| dir.path.as_str());
    files
        .chain(dirs)
        .chain(spec.binaries.iter().map(|binary| binary.path.as_str()))
        .collect()
}

fn script(host: &Inner, spec: &NodeSpec, asked: &[&str]) -> String {
    let mut script = format!(
        "run={}\n{LOOK}{}\n",
        quote(&host.layout.run),
        daemons::RUNNING
    );
    let programs = if host.local {
        asked.len() - spec.binaries.len()..asked.len()
    } else {
        0..0
    };
    script.push_str("echo ::paths\n");
    for (number, path) in asked
        .iter()
        .enumerate()
        .filter(|(number, _)| !programs.contains(number))
    {
        let is_program = number >= asked.len() - spec.binaries.len();
        let _ = writeln!(
            script,
            "{} {number} {}",
            if is_program { "program" } else { "seen" },
            quote(path)
        );
    }
    let users = spec.users.iter().map(|user| user.name());
    let _ = writeln!(
        script,
        "echo ::users\nfor u in {}; do if id -u \"$u\" >/dev/null 2>&1; then echo \"$u\"; fi; done",
        quote_all(users)
    );
    for daemon in &spec.daemons {
        let name = daemon.product.name();
        let _ = writeln!(
            script,
            "echo ::{name}.pid\n{}",
            daemons::print_pid(host, daemon.product)
        );
        for stamp in ["restart", "reload"] {
            let _ = writeln!(
                script,
                "echo ::{name}.{stamp}\ncat \"$run/{name}.{stamp}\" 2>/dev/null"
            );
        }
    }
    script.push_str("return 0");
    script
}

fn read(answer: &str, spec: &NodeSpec, asked: &[&str]) -> Result<Observed> {
    let answer = Sections::parse(answer);
    let mut observed = Observed::default();
    for line in answer.lines("paths") {
        let [number, mode, owner, sum] = line.split(' ').collect::<Vec<_>>()[..] else {
            anyhow::bail!("`{line}`");
        };
        let path = number
            .parse()
            .ok()
            .and_then(|number: usize| asked.get(number))
            .with_context(|| line.to_string())?;
        let mode = u32::from_str_radix(mode, 8).with_context(|| format!("`{line}`: its mode"))?;
        let sha256 = if sum == "-" { "" } else { sum }.to_owned();
        observed.paths.insert(
            (*path).to_owned(),
            Seen {
                sha256,
                mode,
                owner: owner.to_owned(),
            },
        );
    }
    let is_there = |user: &&Owner| answer.lines("users").contains(&user.name());
    observed.users = spec.users.iter().filter(is_there).copied().collect();
    for daemon in &spec.daemons {
        observed
            .daemons
            .insert(daemon.product, seen_daemon(&answer, daemon.product));
    }
    Ok(observed)
}

fn seen_daemon(answer: &Sections<'_>, product: Product) -> DaemonSeen {
    let of = |what: &str| answer.first(&format!("{}.{what}", product.name()));
    let stamp = |what| of(what).map(str::to_owned);
    DaemonSeen {
        pid: of("pid").and_then(|pid| pid.parse().ok()),
        stamps: Stamps {
            restart: stamp("restart"),
            reload: stamp("reload"),
        },
    }
}

/// What is known of this machine's programs, by what changes when the file does.
static PROGRAMS: LazyLock<Mutex<HashMap<String, String>>> = LazyLock::new(Mutex::default);

/// A program of this machine; None when it is not there. Its sum is computed once per run.
pub(super) async fn program_of_this_machine(path: &str) -> Result<Option<Seen>> {
    let machine = Channel::local("this machine");
    let path = quote(path);
    // Held while the sum is computed: many nodes ask for the same program at once.
    let mut programs = PROGRAMS.lock().await;
    let script = format!("[ -f {path} ] || return 0\nprint_of {path}\nlook {path}");
    let answer = machine.run(&script, PATIENCE).await?;
    let mut lines = answer.lines();
    let (Some(print), Some((mode, owner))) = (
        lines.next(),
        lines.next().and_then(|line| line.split_once(' ')),
    ) else {
        return Ok(None);
    };
    let sha256 = match programs.get(print) {
        Some(sum) => sum.clone(),
        None => {
            let sum = machine
                .run(&format!("sum {path}"), PATIENCE)
                .await?
                .trim()
                .to_owned();
            programs.insert(print.to_owned(), sum.clone());
            sum
        }
    };
    let mode = u32::from_str_radix(mode, 8).with_context(|| format!("mode of {path}: {mode}"))?;
    Ok(Some(Seen {
        sha256,
        mode,
        owner: owner.to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use super::super::super::spec::{DaemonSpec, DirSpec};
    use super::*;

    fn spec() -> NodeSpec {
        NodeSpec {
            users: vec![Owner::Consul, Owner::Nomad],
            directories: ["/a", "/b"]
                .map(|path| DirSpec {
                    path: path.into(),
                    mode: 0o750,
                    owner: Owner::Root,
                })
                .into(),
            daemons: vec![DaemonSpec {
                product: Product::Consul,
                command: vec![],
                user: Owner::Consul,
                keeps_children: false,
            }],
            ..NodeSpec::default()
        }
    }

    #[test]
    fn an_answer_is_read() {
        let spec = spec();
        let answer = "::paths\n1 750 consul -\n::users\nconsul\n::consul.pid\n812\n::consul.restart\nabc\n::consul.reload\n";
        let observed = read(answer, &spec, &asked(&spec)).unwrap();
        let seen = Seen {
            sha256: String::new(),
            mode: 0o750,
            owner: "consul".into(),
        };
        assert_eq!(
            observed.paths.into_iter().collect::<Vec<_>>(),
            [("/b".to_owned(), seen)]
        );
        assert_eq!(observed.users, [Owner::Consul]);
        let stamps = Stamps {
            restart: Some("abc".into()),
            reload: None,
        };
        assert_eq!(
            observed.daemons[&Product::Consul],
            DaemonSeen {
                pid: Some(812),
                stamps
            }
        );
    }

    #[test]
    fn nonsense_is_an_error() {
        let spec = spec();
        for line in [
            "7 750 consul -",
            "x 750 consul -",
            "0 9z consul -",
            "0 750 consul",
        ] {
            assert!(
                read(&format!("::paths\n{line}\n"), &spec, &asked(&spec)).is_err(),
                "{line}"
            );
        }
    }
}
