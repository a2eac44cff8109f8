//! Finds and reads the description that is meant, and lays the flags over it. The only reader of
//! files here.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::binaries::{Installed, Unneeded};
use super::build::build;
use super::build_context::{BuildContext, Programs, Recorded, plain};
use super::inventory;
use super::keys::{self, TopSettings};
use super::nodes::ROLES;
use super::request::{Described, Request};
use crate::bootstrap::state::State;
use crate::bootstrap::topology::Product;
use crate::config::error::{ConfigError, ConfigErrors, Findings, Location as SourceLocation};
use crate::config::raw::{RawValue, Settings};
use crate::config::reader::ReadContext;
use crate::config::sections::Sections;

/// Where a description lies when none is named, in this order.
const USUAL: [&str; 2] = ["cluster.toml", "config/cluster.toml"];

/// Largest inventory taken from standard input, in bytes.
const STDIN_MAX: u64 = 16 << 20;

/// What this process inherited.
#[derive(Clone, Debug)]
pub(super) struct Process {
    /// Current folder, absolute.
    pub(super) folder: PathBuf,
    /// HOME.
    pub(super) home: Option<PathBuf>,
    /// XDG_STATE_HOME.
    pub(super) state_home: Option<PathBuf>,
    /// PATH.
    pub(super) path: Option<OsString>,
    /// As [`std::env::consts::OS`] has it.
    pub(super) os: &'static str,
}

impl Process {
    pub(super) fn current() -> Result<Self, ConfigErrors> {
        let folder = std::env::current_dir().map_err(|error| {
            let problem = format!("the current folder cannot be told: {error}");
            failed(
                SourceLocation::Absent,
                problem,
                "change into one that exists",
            )
        })?;
        // The base directory specification has relative values ignored.
        let folder_of = |name| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        Ok(Self {
            folder,
            home: folder_of("HOME"),
            state_home: folder_of("XDG_STATE_HOME"),
            path: std::env::var_os("PATH"),
            os: std::env::consts::OS,
        })
    }

    /// State of a cluster of this machine that has no file to lie beside.
    fn local_state(&self) -> Option<PathBuf> {
        let base = self
            .state_home
            .clone()
            .or_else(|| Some(self.home.as_ref()?.join(".local/state")))?;
        Some(base.join("lb/local"))
    }
}

/// Reads the description that is meant. Reads files, standard input (`--inventory -`), PATH, HOME,
/// XDG_STATE_HOME.
///
/// # Errors
/// Every mistake in it.
pub fn describe(request: &Request) -> Result<Described, ConfigErrors> {
    describe_for(request, &Process::current()?)
}

/// The same for a process that inherited this.
pub(super) fn describe_for(
    request: &Request,
    process: &Process,
) -> Result<Described, ConfigErrors> {
    let mut findings = Findings::default();
    let file = file(request, process)?;
    let mut settings = match &file {
        Some(path) => {
            let text = read_file(
                &process.folder.join(path),
                path,
                &SourceLocation::Flag("--cluster".to_owned()),
            )?;
            keys::read(path, &text, &mut findings.mistakes)
        }
        None => Settings::default(),
    };
    let beside = file.as_deref().map(|path| process.folder.join(path));
    let folder = beside
        .as_deref()
        .and_then(Path::parent)
        .unwrap_or(&process.folder);
    overlay(&mut settings, request, process, &mut findings.mistakes);
    take_inventory(&mut settings, folder, &mut findings);
    let mistakes = findings.mistakes;
    let installed = Installed {
        path: process.path.clone(),
        folder: process.folder.clone(),
        os: process.os,
    };
    let unneeded = Unneeded(&installed);
    let programs: &dyn Programs = if request.without_programs {
        &unneeded
    } else {
        &installed
    };
    let mut context = BuildContext {
        folder,
        home: process.home.as_deref(),
        state: match (&beside, &request.inventory) {
            (Some(path), _) => Some(plain(&path.with_extension("state"))),
            (None, Some(path)) if path.as_os_str() != "-" => {
                Some(plain(&process.folder.join(path).with_extension("state")))
            }
            (None, Some(_)) => Some(process.folder.join("cluster.state")),
            (None, None) => process.local_state(),
        },
        programs: &unneeded,
        // Whether it lives is known only once its state was found.
        recorded: Recorded {
            is_living: true,
            ..Recorded::default()
        },
        scope: request.scope,
    };
    let source = match (&file, &request.inventory) {
        (Some(path), _) => path.display().to_string(),
        (None, Some(path)) => format!("--inventory {}", path.display()),
        (None, None) => "--local".to_owned(),
    };
    let named = |product: Product| {
        ["version", "binary"]
            .iter()
            .any(|key| settings.has(&format!("{product}.{key}")))
    };
    let unnamed = Product::ALL
        .into_iter()
        .filter(|&product| !named(product))
        .collect();
    // Where the state is has to be known before what it says can be heeded.
    context.recorded = match build(&settings, &context, mistakes.clone()) {
        Ok(first) => recorded(&first.state).unwrap_or_default(),
        Err(_) => Recorded::default(),
    };
    context.programs = programs;
    match build(&settings, &context, mistakes) {
        Ok(cluster) => Ok(Described {
            cluster,
            source,
            scope: request.scope,
            unnamed,
        }),
        Err(mut mistakes) => {
            mistakes.sort_by_key(|mistake| match &mistake.place {
                SourceLocation::File(path, line) => (0, path.to_path_buf(), *line),
                SourceLocation::Env(_) | SourceLocation::Flag(_) => (1, PathBuf::new(), 0),
                SourceLocation::Absent => (2, PathBuf::new(), 0),
            });
            Err(ConfigErrors(mistakes))
        }
    }
}

/// What is noted of the cluster in this folder. A note that cannot be read is told when the folder
/// is opened.
fn recorded(state: &Path) -> Option<Recorded> {
    let applied = State::glance(state)?;
    let addresses = applied
        .nodes
        .iter()
        .map(|node| (node.name.clone(), node.address))
        .collect();
    let sources = applied
        .sources
        .into_iter()
        .map(|(name, source)| (name, source.into()))
        .collect();
    Some(Recorded {
        is_living: true,
        acl: Some(applied.acl),
        addresses,
        sources,
    })
}

/// The file that is meant, if there is to be one.
fn file(request: &Request, process: &Process) -> Result<Option<PathBuf>, ConfigErrors> {
    if request.file.is_some() || request.local {
        return Ok(request.file.clone());
    }
    let usual = USUAL.iter().find(|name| process.folder.join(name).exists());
    match (usual, &request.inventory) {
        (Some(name), _) => Ok(Some(PathBuf::from(name))),
        (None, Some(_)) => Ok(None),
        (None, None) => {
            let problem = format!("there is neither {} nor {} here", USUAL[0], USUAL[1]);
            let advice = "name the description with --cluster FILE, or take --local for nine nodes on this machine";
            Err(failed(SourceLocation::Absent, problem, advice))
        }
    }
}

/// A flag wins over the file: it takes the place of its key, and of keys that mean the same thing.
fn overlay(
    settings: &mut Settings,
    request: &Request,
    process: &Process,
    mistakes: &mut Vec<ConfigError>,
) {
    let flag = |name: &str| SourceLocation::Flag(name.to_owned());
    let text = |text: &str| RawValue::Text(text.to_owned());
    if request.local {
        settings.replace("target", text("local"), flag("--local"));
    }
    if request.acl {
        settings.replace("acl", RawValue::Bool(true), flag("--acl"));
    }
    if let Some(network) = request.network {
        let network = text(&network.to_string());
        settings.replace("local.network", network, flag("--network"));
    }
    let mut path =
        |settings: &mut Settings, key: &'static str, name: &str, path: &Option<PathBuf>| {
            let Some(path) = path else { return };
            match process.folder.join(path).to_str() {
                Some(path) => settings.replace(key, text(path), flag(name)),
                None => {
                    let problem = format!("{} is not UTF-8", path.display());
                    let advice = "take another path";
                    mistakes.push(ConfigError::new("", flag(name), problem, advice));
                }
            }
        };
    path(settings, "state", "--state", &request.state);
    if let Some(inventory) = &request.inventory {
        ROLES.iter().for_each(|(_, key, _)| settings.remove(key));
        if inventory.as_os_str() == "-" {
            settings.replace("inventory", text("-"), flag("--inventory"));
        } else {
            path(settings, "inventory", "--inventory", &request.inventory);
        }
    }
    let products = [
        (
            ("consul.binary", "--consul-bin", &request.consul_bin),
            (
                "consul.version",
                "--consul-version",
                &request.consul_version,
            ),
        ),
        (
            ("nomad.binary", "--nomad-bin", &request.nomad_bin),
            ("nomad.version", "--nomad-version", &request.nomad_version),
        ),
    ];
    for ((binary_key, binary_flag, binary), (version_key, version_flag, version)) in products {
        if binary.is_some() || version.is_some() {
            settings.remove(binary_key);
            settings.remove(version_key);
        }
        path(settings, binary_key, binary_flag, binary);
        if let Some(version) = version {
            settings.replace(version_key, text(version), flag(version_flag));
        }
    }
}

/// Puts the nodes of the inventory, if one is named, in the place of the lists.
fn take_inventory(settings: &mut Settings, folder: &Path, findings: &mut Findings) {
    let Some(place) = settings.entry("inventory").map(|entry| entry.place.clone()) else {
        return;
    };
    let mut sections = Sections {
        settings,
        context: ReadContext::default(),
        findings,
    };
    let lists = ROLES.iter().map(|(_, key, _)| key);
    if let Some(key) = lists.copied().find(|key| sections.settings.has(key)) {
        let problem = format!("stands beside {key}, and only one of them can be meant");
        let advice = "take the lists of nodes away, or the inventory";
        return sections.wrong::<TopSettings>("inventory", &problem, advice);
    }
    let name: Option<String> = sections.with::<TopSettings, _>(|reader| reader.peek("inventory"));
    let Some(name) = name else {
        return;
    };
    let (shown, text) = match name.as_str() {
        "-" => (PathBuf::from("standard input"), read_stdin(&place)),
        name => (
            PathBuf::from(name),
            read_file(&folder.join(name), Path::new(name), &place),
        ),
    };
    match text {
        Ok(text) => {
            for (key, placed) in inventory::read(&shown, &text, &mut findings.mistakes) {
                settings.replace(key, placed.value, placed.place);
            }
            // A list of machines means machines, even when some roles have none.
            if !settings.has("target") {
                settings.replace("target", RawValue::Text("ssh".to_owned()), place);
            }
        }
        Err(ConfigErrors(unread)) => findings.mistakes.extend(unread),
    }
}

fn read_file(path: &Path, shown: &Path, place: &SourceLocation) -> Result<String, ConfigErrors> {
    std::fs::read_to_string(path).map_err(|error| {
        let problem = format!("{} cannot be read: {error}", shown.display());
        let advice = "name a file that exists and is text";
        failed(place.clone(), problem, advice)
    })
}

fn read_stdin(place: &SourceLocation) -> Result<String, ConfigErrors> {
    let mut text = String::new();
    let mut input = std::io::stdin().lock().take(STDIN_MAX);
    input.read_to_string(&mut text).map_err(|error| {
        let problem = format!("standard input cannot be read: {error}");
        let advice = "pipe `terraform output -json` into it";
        failed(place.clone(), problem, advice)
    })?;
    Ok(text)
}

/// A mistake that ends the reading; it is not about a single key.
fn failed(place: SourceLocation, problem: String, advice: &str) -> ConfigErrors {
    ConfigErrors(vec![ConfigError::new("", place, problem, advice)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootstrap::topology::{BinarySource, Scope, Target};
    use std::os::unix::fs::PermissionsExt as _;

    /// A folder with a consul in it.
    struct Desk {
        dir: tempfile::TempDir,
    }

    impl Desk {
        fn new(files: &[(&str, &str)]) -> Self {
            let desk = Self {
                dir: tempfile::tempdir().unwrap(),
            };
            for (name, text) in files.iter().chain(&[("bin/consul", "")]) {
                let path = desk.path(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, text).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
            desk
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn process(&self) -> Process {
            Process {
                folder: self.dir.path().to_owned(),
                home: Some(self.path("home")),
                state_home: None,
                path: Some("bin".into()),
                os: "linux",
            }
        }

        fn good(&self, request: &Request) -> Described {
            describe_for(request, &self.process()).unwrap_or_else(|mistakes| panic!("{mistakes}"))
        }

        fn said(&self, request: &Request) -> String {
            describe_for(request, &self.process())
                .unwrap_err()
                .to_string()
        }
    }

    const MACHINES: &str = "consul_servers = [\"10.0.0.1\"]\nnomad_servers = [\"10.0.0.2\"]\n";

    fn inventory(address: &str) -> String {
        format!(
            "{{\"inventory\": {{\"value\": {{\"consul_servers\": [\n{{\"address\": \"{address}\"}}]}}}}}}"
        )
    }

    #[test]
    fn local_needs_no_file_and_heeds_none() {
        let desk = Desk::new(&[("cluster.toml", MACHINES)]);
        let request = Request {
            local: true,
            scope: Scope::ConsulOnly,
            ..Request::default()
        };
        let found = desk.good(&request);
        assert_eq!(
            (
                found.source.as_str(),
                found.scope,
                found.cluster.nodes.len()
            ),
            ("--local", Scope::ConsulOnly, 9)
        );
        assert_eq!(found.cluster.state, desk.path("home/.local/state/lb/local"));
        assert_eq!(
            found.cluster.consul,
            BinarySource::File(desk.path("bin/consul"))
        );
        let with = |change: &dyn Fn(&mut Process)| {
            let mut process = desk.process();
            change(&mut process);
            describe_for(&request, &process)
        };
        let found = with(&|process| process.state_home = Some("/var/x".into())).unwrap();
        assert_eq!(found.cluster.state, Path::new("/var/x/lb/local"));
        let said = with(&|process| process.home = None)
            .unwrap_err()
            .to_string();
        assert!(
            said.starts_with("configuration: state has no place") && said.contains("--state DIR"),
            "{said}"
        );
    }

    #[test]
    fn who_runs_no_program_needs_none() {
        let desk = Desk::new(&[]);
        std::fs::remove_file(desk.path("bin/consul")).unwrap();
        let request = Request {
            local: true,
            ..Request::default()
        };
        assert!(desk.said(&request).contains("consul"));
        assert_eq!(
            desk.good(&Request {
                without_programs: true,
                ..request
            })
            .cluster
            .nodes
            .len(),
            9
        );
    }

    #[test]
    fn the_usual_files_are_found_in_their_order() {
        let desk = Desk::new(&[("config/cluster.toml", MACHINES)]);
        let found = desk.good(&Request::default());
        assert_eq!(
            (found.source.as_str(), found.cluster.nodes.len()),
            ("config/cluster.toml", 2)
        );
        assert_eq!(found.cluster.state, desk.path("config/cluster.state"));
        std::fs::write(desk.path("cluster.toml"), "consul_servers = 1").unwrap();
        let found = desk.good(&Request::default());
        assert_eq!(
            (found.source.as_str(), found.cluster.nodes.len()),
            ("cluster.toml", 7)
        );
        assert_eq!(found.cluster.state, desk.path("cluster.state"));
        let said = Desk::new(&[]).said(&Request::default());
        for word in [
            "cluster.toml",
            "config/cluster.toml",
            "--cluster FILE",
            "--local",
        ] {
            assert!(said.contains(word), "{said}");
        }
    }

    #[test]
    fn flags_win_over_the_file() {
        let text = "acl = false\nstate = \"s\"\n[consul]\nversion = \"1.8.7\"\n[local]\nnetwork = \"127.0.1.0/24\"\n";
        let desk = Desk::new(&[("d/x.toml", text), ("n", "")]);
        let request = Request {
            file: Some("d/x.toml".into()),
            local: true,
            state: Some("t".into()),
            network: Some("127.0.7.0/24".parse().unwrap()),
            consul_bin: Some("bin/consul".into()),
            nomad_bin: Some("n".into()),
            acl: true,
            ..Request::default()
        };
        let cluster = desk.good(&request).cluster;
        assert_eq!(cluster.state, desk.path("t"));
        assert_eq!(cluster.consul, BinarySource::File(desk.path("bin/consul")));
        assert_eq!(cluster.nomad, Some(BinarySource::File(desk.path("n"))));
        assert_eq!(cluster.nodes[0].address.to_string(), "127.0.7.11");
        assert!(cluster.acl);
        let version = Request {
            consul_bin: None,
            consul_version: Some("1.9.0".into()),
            ..request.clone()
        };
        let said = desk.said(&version);
        assert!(
            said.starts_with(
                "flag --consul-version: consul.version = \"1.9.0\" is for machines behind"
            ),
            "{said}"
        );
        let both = Request {
            consul_version: Some("1.9.0".into()),
            ..request.clone()
        };
        assert!(desk.said(&both).contains("stands beside consul.binary"));
        let missing = Request {
            nomad_bin: Some("m".into()),
            ..request
        };
        let said = desk.said(&missing);
        assert!(
            said.starts_with("flag --nomad-bin: nomad.binary = ")
                && said.contains("cannot be read"),
            "{said}"
        );
    }

    #[test]
    fn a_version_on_the_command_line_replaces_the_binary_of_the_file() {
        let text = format!("{MACHINES}[consul]\nbinary = \"/nowhere\"\n");
        let desk = Desk::new(&[("cluster.toml", &text)]);
        let request = Request {
            consul_version: Some("1.8.7".into()),
            ..Request::default()
        };
        assert_eq!(
            desk.good(&request).cluster.consul,
            BinarySource::Release("1.8.7".to_owned())
        );
        let request = Request {
            network: Some("127.0.7.0/24".parse().unwrap()),
            ..request
        };
        let said = desk.said(&request);
        assert!(
            said.starts_with(
                "flag --network: local.network = \"127.0.7.0/24\" is for the local target"
            ),
            "{said}"
        );
    }

    #[test]
    fn an_inventory_is_read_from_the_file_the_flag_or_alone() {
        let one = inventory("10.0.0.1");
        let two = inventory("10.0.0.2");
        let desk = Desk::new(&[
            ("d/c.toml", "inventory = \"i.json\"\n"),
            ("d/i.json", &one),
            ("two.json", &two),
        ]);
        let address = |request: &Request| {
            let found = desk.good(request);
            assert!(matches!(found.cluster.target, Target::Ssh(_)));
            (
                found.cluster.nodes[0].address.to_string(),
                found.cluster.state,
                found.source,
            )
        };
        let mut request = Request {
            file: Some("d/c.toml".into()),
            ..Request::default()
        };
        let expected = (
            "10.0.0.1".to_owned(),
            desk.path("d/c.state"),
            "d/c.toml".to_owned(),
        );
        assert_eq!(address(&request), expected);
        request.inventory = Some("two.json".into());
        assert_eq!(address(&request).0, "10.0.0.2");
        request.file = None;
        let expected = (
            "10.0.0.2".to_owned(),
            desk.path("two.state"),
            "--inventory two.json".to_owned(),
        );
        assert_eq!(address(&request), expected);
        std::fs::write(desk.path("cluster.toml"), MACHINES).unwrap();
        assert_eq!(
            address(&request).0,
            "10.0.0.2",
            "the flag stands for the lists of the file"
        );
    }

    #[test]
    fn what_is_wrong_with_an_inventory_is_told_with_the_rest() {
        let desk = Desk::new(&[
            ("cluster.toml", "inventory = \"i.json\"\nacl = 3\n"),
            ("i.json", &inventory("x")),
            ("both.toml", &format!("{MACHINES}inventory = \"i.json\"\n")),
            ("number.toml", "inventory = 3\nconsul_servers = 1"),
            ("missing.toml", "inventory = \"nowhere.json\""),
            (
                "local.toml",
                "target = \"local\"\ninventory = \"good.json\"",
            ),
            ("good.json", &inventory("10.0.0.1")),
        ]);
        let said = desk.said(&Request::default());
        let rows: Vec<&str> = said.lines().collect();
        assert_eq!(rows.len(), 2, "{said}");
        assert!(
            rows[0].starts_with("cluster.toml:2: acl = 3 is neither true nor false"),
            "{said}"
        );
        assert!(
            rows[1].starts_with("i.json:2: consul_servers[0].address = \"x\" is not an IP address"),
            "{said}"
        );
        for (file, expected) in [
            (
                "both.toml",
                "both.toml:3: inventory = \"i.json\" stands beside consul_servers, and only one of them",
            ),
            ("number.toml", "number.toml:1: inventory = 3 "),
            (
                "missing.toml",
                "missing.toml:1: nowhere.json cannot be read: ",
            ),
            (
                "local.toml",
                "good.json:2: consul_servers[0] = \"10.0.0.1\" is not in 127.0.0.0/8",
            ),
            (
                "absent.toml",
                "flag --cluster: absent.toml cannot be read: ",
            ),
        ] {
            let said = desk.said(&Request {
                file: Some(file.into()),
                ..Request::default()
            });
            assert!(said.starts_with(expected), "{file}: {said}");
        }
    }
}
