//! Where consul and nomad come from: named, found on PATH, or a release that the nodes fetch.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::build_context::{BuildContext, Kind, Programs};
use crate::bootstrap::topology::{BinarySource, Cluster, Product};
use crate::config::declare::Declared;
use crate::config::sections::Sections;

/// The real ones.
pub(super) struct Installed {
    /// PATH.
    pub(super) path: Option<OsString>,
    /// Folder that relative entries of it are meant from.
    pub(super) folder: PathBuf,
    /// As [`std::env::consts::OS`] has it.
    pub(super) os: &'static str,
}

impl Programs for Installed {
    fn find(&self, name: &str) -> Option<PathBuf> {
        let folders = std::env::split_paths(self.path.as_ref()?);
        // An empty entry means the current folder, which is not meant for a daemon of a cluster.
        let files = folders.filter(|folder| !folder.as_os_str().is_empty());
        files
            .map(|folder| self.folder.join(folder).join(name))
            .find(|file| self.check(file).is_ok())
    }

    fn check(&self, path: &Path) -> Result<(), String> {
        let metadata =
            std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
        match metadata {
            other if !other.is_file() => Err("is not a file".to_owned()),
            file if !is_executable(&file) => Err("is not executable".to_owned()),
            _ => Ok(()),
        }
    }

    fn run_on_linux(&self) -> bool {
        self.os == "linux"
    }
}

/// For commands that run none of them: what is not there is no mistake.
pub(super) struct Unneeded<'a>(pub(super) &'a Installed);

impl Programs for Unneeded<'_> {
    fn find(&self, name: &str) -> Option<PathBuf> {
        self.0.find(name).or_else(|| Some(PathBuf::from(name)))
    }

    fn check(&self, _: &Path) -> Result<(), String> {
        Ok(())
    }

    fn run_on_linux(&self) -> bool {
        true
    }
}

fn is_executable(metadata: &std::fs::Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.permissions().mode() & 0o111 != 0
}

/// Where the program of the section `S` comes from, by its keys as far as they are right; None when
/// there is none, which is a mistake for Consul alone.
pub(super) fn source<S: Declared>(
    sections: &mut Sections<'_>,
    product: Product,
    (version, binary): (Option<&str>, Option<&str>),
    kind: Kind,
    context: &BuildContext<'_>,
) -> Option<BinarySource> {
    let programs = context.programs;
    let mut has = |key| sections.with::<S, _>(|reader| reader.has(key));
    match (has("version"), has("binary")) {
        (true, true) => {
            let problem =
                format!("stands beside {product}.binary, and only one of them can be meant");
            sections.wrong::<S>("version", &problem, "take one of them away");
            None
        }
        (true, false) if kind == Kind::Local => {
            let problem =
                "is for machines behind ssh: the local target runs the binaries of this machine";
            let advice = format!(
                "take it away, and name another file by {product}.binary or --{product}-bin"
            );
            sections.wrong::<S>("version", problem, &advice);
            None
        }
        (true, false) => version.map(|it| BinarySource::Release(it.to_owned())),
        (false, true) => {
            let path = context.path::<S>(sections, "binary", binary?)?;
            match programs.check(&path) {
                Ok(()) => Some(BinarySource::File(path)),
                Err(problem) => {
                    let advice =
                        format!("name the {product} program of this machine, not its folder");
                    sections.wrong::<S>("binary", &problem, &advice);
                    None
                }
            }
        }
        (false, false) => {
            let found = programs
                .find(product.name())
                .filter(|_| kind == Kind::Local || programs.run_on_linux());
            let recorded = || match context.recorded.sources.get(product.name()) {
                Some(BinarySource::File(path)) if programs.check(path).is_err() => None,
                recorded => recorded.cloned(),
            };
            let source = found.map(BinarySource::File).or_else(recorded);
            if source.is_none() && product == Product::Consul {
                let (problem, advice) = missing(product, kind == Kind::Local);
                sections.wrong_at(product.name(), None, &problem, &advice);
            }
            source
        }
    }
}

/// What to say about a program that was not found, and how to name one.
fn missing(product: Product, local: bool) -> (String, String) {
    let name = product.name();
    let named = format!("name it with --{name}-bin FILE or binary = \"FILE\" below [{name}]");
    if local {
        (
            format!("is not on PATH: there is no {name} program to run"),
            format!("install it, or {named}"),
        )
    } else {
        let advice =
            format!("write version = \"…\" below [{name}] for the nodes to fetch it, or {named}");
        (
            format!("has neither version nor binary, and no {name} for Linux is on PATH"),
            advice,
        )
    }
}

/// What to say when a command needs Nomad and [`Cluster::nomad`] is none.
#[must_use]
pub fn no_nomad(cluster: &Cluster) -> String {
    let (problem, advice) = missing(Product::Nomad, cluster.is_local());
    format!("nomad {problem}; {advice}. `--only consul` brings up Consul alone, on all nodes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn path_is_searched_for_what_can_be_run() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, mode: u32| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        file("a/consul", 0o644);
        file("b/consul", 0o755);
        file("c/consul", 0o755);
        std::fs::create_dir_all(dir.path().join("a/nomad")).unwrap();
        let path = std::env::join_paths(["", "a", "missing", "b", "c"]).unwrap();
        let programs = Installed {
            path: Some(path),
            folder: dir.path().to_owned(),
            os: "linux",
        };
        assert_eq!(programs.find("consul"), Some(dir.path().join("b/consul")));
        assert_eq!(programs.find("nomad"), None);
        for (name, expected) in [
            ("a/consul", "is not executable"),
            ("a", "is not a file"),
            ("x", "cannot be read: "),
        ] {
            let said = programs.check(&dir.path().join(name)).unwrap_err();
            assert!(said.starts_with(expected), "{name}: {said}");
        }
        let programs = Installed {
            path: None,
            folder: dir.path().to_owned(),
            os: "linux",
        };
        assert_eq!(programs.find("consul"), None);
    }
}
