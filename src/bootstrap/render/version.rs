//! Versions of the programs, as their `version` command tells them: they decide the form of the
//! files.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

/// A release number. Pre-releases count as the release that they lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// First number.
    pub major: u16,
    /// Second number.
    pub minor: u16,
    /// Third number.
    pub patch: u16,
}

impl Version {
    /// From its three numbers.
    #[must_use]
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    /// Reads the output of `consul version` or `nomad version`: `Consul v1.8.7`, `Nomad v2.0.6-dev
    /// (…)`. A bare `1.8.7` is taken too.
    ///
    /// # Errors
    /// When the first line holds no such number; names what was read.
    pub fn parse(output: &str) -> Result<Self> {
        let line = output.lines().next().unwrap_or_default().trim();
        let word = line.split_whitespace().find_map(|word| {
            let number = word.strip_prefix('v').unwrap_or(word);
            number
                .starts_with(|first: char| first.is_ascii_digit())
                .then_some(number)
        });
        let Some(word) = word else {
            bail!("no version in {line:?}: expected a line like \"Consul v1.8.7\"")
        };
        // `-dev`, `-rc1`, `+ent`: what follows the numbers does not change the form of files.
        let numbers = word.split(['-', '+']).next().unwrap_or_default();
        let mut parts = numbers.split('.').map(str::parse::<u16>);
        let mut next = || parts.next().and_then(Result::ok);
        let version = match (next(), next(), next()) {
            (Some(major), Some(minor), Some(patch)) => Some(Self {
                major,
                minor,
                patch,
            }),
            _ => None,
        };
        version.with_context(|| format!("{word:?} is not a version of three numbers (in {line:?})"))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// The oldest Consul whose files are written: its ACL system and its keyring are the present ones.
pub const OLDEST_CONSUL: Version = Version::new(1, 8, 0);
/// The oldest Nomad whose files are written: the first with a keyring of its own, which a gate
/// waits for.
pub const OLDEST_NOMAD: Version = Version::new(1, 4, 0);

/// What is known of the programs before anything is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    /// Of Consul.
    pub consul: Version,
    /// Of Nomad, if there is one.
    pub nomad: Option<Version>,
    /// The lb program of this machine, for Nomad clients to run. None: the clients get no `lb_bin`,
    /// and the jobs of [`super::jobs`] find no place.
    pub lb: Option<PathBuf>,
    /// Whether Nomad clients run as root. Only a local cluster may do without.
    pub privileged: bool,
}

impl Versions {
    /// What is too old to be set up, one sentence each.
    #[must_use]
    pub fn too_old(&self) -> Vec<String> {
        let told = |name: &str, version: Version, oldest: Version| {
            (version < oldest)
                .then(|| format!("{name} {version} is too old: {oldest} or later is needed"))
        };
        let nomad = self
            .nomad
            .and_then(|version| told("Nomad", version, OLDEST_NOMAD));
        told("Consul", self.consul, OLDEST_CONSUL)
            .into_iter()
            .chain(nomad)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_read() {
        for (output, expected) in [
            (
                "Consul v1.8.7\nProtocol 2 spoken by default\n",
                Version::new(1, 8, 7),
            ),
            ("Nomad v2.0.6-dev\n", Version::new(2, 0, 6)),
            (
                "Nomad v1.10.2\nBuildDate 2025-06-09T22:00:49Z\nRevision abc\n",
                Version::new(1, 10, 2),
            ),
            ("Consul v1.22.0+ent", Version::new(1, 22, 0)),
            (
                "Nomad v0.12.3 (2db8abd9620dd41cb7bfe399551ba0f7824b3f61)",
                Version::new(0, 12, 3),
            ),
            ("1.13.9", Version::new(1, 13, 9)),
        ] {
            assert_eq!(Version::parse(output).unwrap(), expected, "{output}");
        }
        for output in [
            "",
            "Consul",
            "Consul v1.8",
            "Consul v1.x.2",
            "Consul v1.99999.0",
            "sh: consul: not found",
        ] {
            let error = Version::parse(output).unwrap_err().to_string();
            assert!(error.contains("version"), "{output}: {error}");
        }
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        assert!(Version::new(1, 9, 10) < Version::new(1, 12, 0));
        assert!(Version::new(1, 22, 9) < Version::new(2, 0, 0));
    }

    #[test]
    fn old_programs_are_named() {
        let mut versions = Versions {
            consul: Version::new(1, 8, 7),
            nomad: Some(Version::new(2, 0, 6)),
            lb: None,
            privileged: true,
        };
        assert!(versions.too_old().is_empty());
        versions.consul = Version::new(1, 7, 9);
        versions.nomad = Some(Version::new(1, 3, 0));
        let told = versions.too_old();
        assert!(
            told[0].contains("1.7.9") && told[0].contains("1.8.0") && told[1].contains("1.3.0"),
            "{told:?}"
        );
    }
}
