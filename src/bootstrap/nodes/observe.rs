//! What a node has of all that its specification names, in one round trip.
//!
//! Paths are numbered in the script's output, so that no name has to be read back. The sums of
//! programs, which take long, are remembered on the node for as long as the file does not change;
//! those of this machine's programs are computed once per run.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::LazyLock;

use anyhow::{Context as _, Result, bail};
use tokio::sync::Mutex;

use super::channel::{Channel, PATIENCE};
use super::command::{Output, Section, ShellCommand, number, some_word, word};
use super::daemons;
use super::host::{Host, MARK};
use super::package::Package;
use super::packages;
use super::script::{quote, quote_all};
use super::spec::{DaemonSeen, NodeSpec, Observed, Owner, Seen, Stamps};
use super::units;
use crate::bootstrap::topology::{Product, Runner};

/// Functions of the script here. `seen NUMBER PATH` and `program NUMBER PATH` print a line about
/// what is there.
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

impl Host {
    /// What the node has of all that `spec` names. One round trip.
    ///
    /// On the local target owners are ignored: the owner that the specification names is reported.
    ///
    /// # Errors
    /// When the node is not reached, or something cannot be read.
    pub async fn observe(&self, spec: &NodeSpec) -> Result<Observed> {
        let (command, observation) = Observation::declare(self, spec);
        let output = command.run(&self.channel, PATIENCE).await?;
        let mut observed = observation.read(&output)?;
        if self.local {
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
}

/// The sections of an observation.
struct Observation<'s> {
    paths: Section<'s, BTreeMap<String, Seen>>,
    users: Section<'s, Vec<Owner>>,
    packages: Section<'static, Vec<Package>>,
    daemons: Vec<(Product, DaemonSections)>,
}

struct DaemonSections {
    process: Process,
    restart: Section<'static, Option<String>>,
    reload: Section<'static, Option<String>>,
}

/// What tells whether a daemon runs.
enum Process {
    Plain(Section<'static, Option<u32>>),
    Unit(Section<'static, units::Unit>),
}

impl<'s> Observation<'s> {
    fn declare(host: &Host, spec: &'s NodeSpec) -> (ShellCommand, Self) {
        let run = quote(&host.layout.run);
        let mut command = ShellCommand::new(&format!(
            "run={run} mark={run}/{MARK}\n{LOOK}{}{}{}{}",
            daemons::RUNNING,
            units::LOOK,
            packages::folders(),
            packages::THERE
        ));
        let paths = paths(spec);
        let script = look_at(host, spec, &paths);
        let paths = command.section("paths", &script, move |lines| {
            lines.iter().map(|line| read_path(line, &paths)).collect()
        });
        let names = quote_all(spec.users.iter().map(|user| user.name()));
        let users = command.section(
            "users",
            &format!(
                "for u in {names}; do if id -u \"$u\" >/dev/null 2>&1; then echo \"$u\"; fi; done"
            ),
            |lines| {
                let is_there = |user: &&Owner| lines.contains(&user.name());
                Ok(spec.users.iter().filter(is_there).copied().collect())
            },
        );
        let script = packages::look(&spec.packages);
        let packages = command.section("packages", &script, |lines| Ok(packages::read(lines)));
        let daemons = spec.daemons.iter().map(|daemon| {
            let (product, name) = (daemon.product, daemon.product.name());
            let process = match host.runner {
                Runner::Process => {
                    let pid = daemons::print_pid(host, product);
                    Process::Plain(command.section(format!("{name}.pid"), &pid, number))
                }
                Runner::Systemd => {
                    let script = format!("unit {name}");
                    Process::Unit(command.section(format!("{name}.unit"), &script, units::read))
                }
            };
            let mut stamp = |kind: &str| {
                let script = format!("cat \"$run/{name}.{kind}\" 2>/dev/null");
                command.section(format!("{name}.{kind}"), &script, word)
            };
            let (restart, reload) = (stamp("restart"), stamp("reload"));
            let sections = DaemonSections {
                process,
                restart,
                reload,
            };
            (product, sections)
        });
        let daemons = daemons.collect();
        let observation = Self {
            paths,
            users,
            packages,
            daemons,
        };
        (command, observation)
    }

    fn read(&self, output: &Output) -> Result<Observed> {
        let daemons = self.daemons.iter().map(|(product, sections)| {
            let (pid, unit) = match &sections.process {
                Process::Plain(pid) => (output.get(pid)?, None),
                Process::Unit(section) => {
                    let unit = output.get(section)?;
                    (unit.pid, Some(unit.seen))
                }
            };
            let seen = DaemonSeen {
                pid,
                unit,
                stamps: Stamps {
                    restart: output.get(&sections.restart)?,
                    reload: output.get(&sections.reload)?,
                },
            };
            anyhow::Ok((*product, seen))
        });
        Ok(Observed {
            users: output.get(&self.users)?,
            packages: output.get(&self.packages)?,
            paths: output.get(&self.paths)?,
            daemons: daemons.collect::<Result<_>>()?,
        })
    }
}

/// Paths in the order of their numbers; programs last.
fn paths(spec: &NodeSpec) -> Vec<&str> {
    let files = spec.files.iter().map(|file| file.path.as_str());
    let dirs = spec.directories.iter().map(|dir| dir.path.as_str());
    files
        .chain(spec.gone.iter().map(String::as_str))
        .chain(dirs)
        .chain(spec.binaries.iter().map(|binary| binary.path.as_str()))
        .collect()
}

fn look_at(host: &Host, spec: &NodeSpec, paths: &[&str]) -> String {
    let first_program = paths.len() - spec.binaries.len();
    // Programs of this machine are looked at otherwise.
    let count = if host.local {
        first_program
    } else {
        paths.len()
    };
    let mut script = String::new();
    for (number, path) in paths.iter().enumerate().take(count) {
        let function = if number < first_program {
            "seen"
        } else {
            "program"
        };
        let _ = writeln!(script, "{function} {number} {}", quote(path));
    }
    script
}

/// A line: the number of a path, mode, owner, and sum, which is `-` for a folder.
fn read_path(line: &str, paths: &[&str]) -> Result<(String, Seen)> {
    let [number, mode, owner, sum] = line.split(' ').collect::<Vec<_>>()[..] else {
        bail!("`{line}` does not have four words");
    };
    let path = number
        .parse()
        .ok()
        .and_then(|number: usize| paths.get(number))
        .with_context(|| format!("`{line}` is about none of the paths"))?;
    let seen = Seen {
        sha256: if sum == "-" { "" } else { sum }.to_owned(),
        mode: mode_of(mode)?,
        owner: owner.to_owned(),
    };
    Ok(((*path).to_owned(), seen))
}

fn mode_of(text: &str) -> Result<u32> {
    u32::from_str_radix(text, 8).with_context(|| format!("`{text}` is not a mode"))
}

/// What is known of this machine's programs, by what changes when the file does.
static PROGRAMS: LazyLock<Mutex<HashMap<String, String>>> = LazyLock::new(Mutex::default);

/// A program of this machine; None when it is not there. Its sum is computed once per run.
pub(super) async fn program_of_this_machine(path: &str) -> Result<Option<Seen>> {
    let machine = Channel::local("this machine");
    let path = quote(path);
    // Held while the sum is computed: many nodes need that of the same program at once.
    let mut programs = PROGRAMS.lock().await;
    let mut command = ShellCommand::new("");
    let print = command.section(
        "print",
        &format!("[ ! -f {path} ] || print_of {path}"),
        word,
    );
    let look = command.section(
        "look",
        &format!("[ ! -f {path} ] || look {path}"),
        |lines| {
            let Some(line) = word(lines)? else {
                return Ok(None);
            };
            let (mode, owner) = line
                .split_once(' ')
                .with_context(|| format!("`{line}` does not have two words"))?;
            Ok(Some((mode_of(mode)?, owner.to_owned())))
        },
    );
    let output = command.run(&machine, PATIENCE).await?;
    let (Some(print), Some((mode, owner))) = (output.get(&print)?, output.get(&look)?) else {
        return Ok(None);
    };
    let sha256 = match programs.get(&print) {
        Some(sum) => sum.clone(),
        None => {
            let mut command = ShellCommand::new("");
            let sum = command.section("sum", &format!("sum {path}"), some_word);
            let sum = command.run(&machine, PATIENCE).await?.get(&sum)?;
            programs.insert(print, sum.clone());
            sum
        }
    };
    Ok(Some(Seen {
        sha256,
        mode,
        owner,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::nodes::spec::{DaemonSpec, DirSpec};

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

    fn read(printed: &str) -> Result<Observed> {
        let spec = spec();
        let (_, observation) = Observation::declare(&Host::example(), &spec);
        observation.read(&Output::read("consul-0", printed))
    }

    #[test]
    fn an_output_is_read() {
        let printed = "::paths\n1 750 consul -\n::users\nconsul\n::packages\ncni\n::consul.pid\n812\n::consul.restart\nabc\n::consul.reload\n";
        let observed = read(printed).unwrap();
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
        assert_eq!(observed.packages, [Package::CniPlugins]);
        let stamps = Stamps {
            restart: Some("abc".into()),
            reload: None,
        };
        assert_eq!(
            observed.daemons[&Product::Consul],
            DaemonSeen {
                pid: Some(812),
                stamps,
                unit: None,
            }
        );
    }

    #[test]
    fn nonsense_is_an_error_that_tells_where_it_was_said() {
        for (line, expected) in [
            (
                "7 750 consul -",
                "`7 750 consul -` is about none of the paths",
            ),
            (
                "x 750 consul -",
                "`x 750 consul -` is about none of the paths",
            ),
            ("0 9z consul -", "`9z` is not a mode"),
            ("0 750 consul", "`0 750 consul` does not have four words"),
        ] {
            let printed = format!(
                "::users\n::packages\n::consul.pid\n::consul.restart\n::consul.reload\n::paths\n{line}\n"
            );
            let error = format!("{:#}", read(&printed).unwrap_err());
            let expected =
                format!("consul-0: unexpected output in the section `paths`: {expected}");
            assert!(error.starts_with(&expected), "{error}");
        }
    }
}
