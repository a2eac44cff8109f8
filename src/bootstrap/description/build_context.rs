//! What the parts of a description need to know beside its text.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::bootstrap::topology::{BinarySource, Scope};
use crate::config::declare::Declared;
use crate::config::sections::Sections;

/// What a description means depends on this.
pub(super) struct BuildContext<'a> {
    /// Folder that paths are relative to, absolute.
    pub(super) folder: &'a Path,
    /// What `~/` stands for.
    pub(super) home: Option<&'a Path>,
    /// State folder when none is named; None when there is no place for one.
    pub(super) state: Option<PathBuf>,
    /// Programs of this machine.
    pub(super) programs: &'a dyn Programs,
    /// What holds where the description says nothing.
    pub(super) recorded: Recorded,
    /// What part of it the command is about.
    pub(super) scope: Scope,
}

impl BuildContext<'_> {
    /// The path at a key of this section, absolute: relative ones are meant from the folder of the
    /// file, `~/` from the user's.
    pub(super) fn path<S: Declared>(
        &self,
        sections: &mut Sections<'_>,
        key: &str,
        text: &str,
    ) -> Option<PathBuf> {
        match (text.strip_prefix("~/"), self.home) {
            (Some(rest), Some(home)) => Some(home.join(rest)),
            (Some(_), None) => {
                let problem = "begins with ~, and HOME is not set";
                sections.wrong::<S>(key, problem, "write the whole path");
                None
            }
            (None, _) => Some(plain(&self.folder.join(text))),
        }
    }
}

/// The path without `.` in it.
pub(super) fn plain(path: &Path) -> PathBuf {
    path.components()
        .filter(|part| !matches!(part, std::path::Component::CurDir))
        .collect()
}

/// What was applied of a cluster before, of that which need not be said a second time.
#[derive(Clone, Debug, Default)]
pub(super) struct Recorded {
    /// There is a cluster already.
    pub(super) is_living: bool,
    /// Whether ACLs are on.
    pub(super) acl: Option<bool>,
    /// Addresses of the nodes by name. They hold on the local target, where addresses are given out
    /// by position.
    pub(super) addresses: BTreeMap<String, IpAddr>,
    /// Where its programs came from, by name. They serve where neither the description nor PATH has
    /// one.
    pub(super) sources: BTreeMap<String, BinarySource>,
}

/// Programs of this machine. A trait, so that descriptions can be read without them.
pub(super) trait Programs {
    /// The program of this name on PATH, absolute.
    fn find(&self, name: &str) -> Option<PathBuf>;
    /// Whether the file can be run.
    ///
    /// # Errors
    /// What is wrong with it, to be read after its path.
    fn check(&self, path: &Path) -> Result<(), String>;
    /// Whether they can be copied to the nodes.
    fn run_on_linux(&self) -> bool;
}

/// How the nodes are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Local,
    Ssh,
}

#[cfg(test)]
mod tests {
    use super::super::binaries::{Installed, Unneeded};
    use super::super::keys::TopSettings;
    use super::*;
    use crate::config::error::Findings;
    use crate::config::raw::Settings;
    use crate::config::reader::ReadContext;

    #[test]
    fn paths_are_relative_to_the_file() {
        let installed = Installed {
            path: None,
            folder: "/".into(),
            os: "linux",
        };
        for (written, home, expected) in [
            ("x", None, Some("/f/x")),
            ("./x/./y", None, Some("/f/x/y")),
            ("../x", None, Some("/f/../x")),
            ("/x", None, Some("/x")),
            ("~/x", Some("/home/a"), Some("/home/a/x")),
            ("~/x", None, None),
        ] {
            let context = BuildContext {
                folder: Path::new("/f"),
                home: home.map(Path::new),
                state: None,
                programs: &Unneeded(&installed),
                recorded: Recorded::default(),
                scope: Scope::All,
            };
            let mut findings = Findings::default();
            let mut sections = Sections {
                settings: &Settings::default(),
                context: ReadContext::default(),
                findings: &mut findings,
            };
            let found = context.path::<TopSettings>(&mut sections, "state", written);
            assert_eq!(found, expected.map(PathBuf::from), "{written}");
            let told = usize::from(expected.is_none());
            assert_eq!(findings.mistakes.len(), told, "{written}");
        }
    }
}
