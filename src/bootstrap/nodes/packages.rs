//! Packages of the machine's own distribution that clients need for containers: looked for by what
//! they bring, however it came there, and installed by apt or dnf.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;

use super::channel::PATIENCE;
use super::command::{ShellCommand, lines};
use super::host::Host;
use super::package::{CNI_FOLDERS, Package};
use super::script::quote;

/// How long a package manager may take to fetch its lists, or a package with all that it needs.
const FETCH: Duration = Duration::from_secs(600);

/// `there NAME`: whether the machine has it, and runs what of it has to run. `brought NAME`: whether
/// no package has to be installed for it. Takes `folders`.
pub(super) const THERE: &str = r#"
brought() {
  case $1 in
    docker) has dockerd ;;
    iptables) has iptables ;;
    cni) for d in $folders; do [ ! -x "$d/bridge" ] || return 0; done; return 1 ;;
  esac
}
there() {
  brought "$1" || return 1
  [ "$1" = docker ] && [ -d /run/systemd/system ] || return 0
  systemctl is-active -q docker.service && systemctl is-enabled -q docker.service docker.socket 2>/dev/null
}
"#;

/// Defines `can NAME…`, which prints the first of the packages that the manager could install. What
/// the machine knows of packages is left as it is: where that is not enough, lists are fetched into
/// a folder that is removed afterwards.
const CAN: &str = r#"
lists=
fetch_lists() {
  [ -z "$lists" ] || return 0
  lists=$(mktemp -d) && mkdir "$lists/partial" || return 1
  apt_with update >/dev/null 2>&1
}
apt_with() { apt-get -qq -o Dir::State::lists="$lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= "$@"; }
can() {
  for package in "$@"; do
    if has apt-get; then
      if apt-get -qq -s install "$package" >/dev/null 2>&1; then echo "$package"; return 0; fi
      fetch_lists
      if apt_with -s install "$package" >/dev/null 2>&1; then echo "$package"; return 0; fi
    elif [ -n "$(dnf -q repoquery --available "$package" 2>/dev/null)" ]; then echo "$package"; return 0
    fi
  done
  return 1
}
done_with_lists() { [ -z "$lists" ] || rm -rf "$lists"; }
"#;

/// Takes `package` and `lists_are_known`. Files that packages bring are for all to read.
const INSTALL: &str = r#"
umask 022
export DEBIAN_FRONTEND=noninteractive
install_by() {
  if has apt-get; then
    apt-get -qq -y --no-install-recommends -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold install "$1"
  else dnf -q -y install "$1"
  fi
}
get() {
  if ! said=$(install_by "$1" 2>&1); then
    if has apt-get; then apt-get -qq update >/dev/null 2>&1; fi
    said=$(install_by "$1" 2>&1) || die "the package $1 cannot be installed: $(echo "$said" | tail -n 5)"
  fi
}
"#;

/// Takes nothing; what Docker's package does not everywhere do itself.
const START_DOCKER: &str = r#"
if [ -d /run/systemd/system ]; then
  systemctl enable -q --now docker.service ||
    die "docker.service does not start: $(journalctl -q -o cat --no-pager -n 5 -u docker.service)"
fi
"#;

/// Sets what [`THERE`] takes.
pub(super) fn folders() -> String {
    format!("folders={}\n", quote(&CNI_FOLDERS.join(" ")))
}

/// Prints the names of those that are there.
pub(super) fn look(wanted: &[Package]) -> String {
    wanted.iter().fold(String::new(), |mut script, package| {
        let name = package.name();
        let _ = writeln!(script, "if there {name}; then echo {name}; fi");
        script
    })
}

/// Those of these names.
pub(super) fn read(lines: &[&str]) -> Vec<Package> {
    let is_named = |package: &Package| lines.contains(&package.name());
    Package::ALL.into_iter().filter(is_named).collect()
}

impl Host {
    /// Packages of which nothing is there and that the machine cannot get; what is to be said of each.
    /// Changes nothing.
    ///
    /// # Errors
    /// When the node is not reached.
    pub async fn unobtainable(&self, wanted: &[Package]) -> Result<Vec<String>> {
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut script = format!("{}{THERE}{CAN}", folders());
        for package in wanted {
            let (name, [apt, dnf]) = (package.name(), package.packages());
            let _ = writeln!(
                script,
                "if ! brought {name}; then\n\
                 if has apt-get; then can {apt} >/dev/null || echo 'apt finds no package for {name} ({apt})'\n\
                 elif has dnf; then can {dnf} >/dev/null || echo 'dnf finds no package for {name} ({dnf})'\n\
                 else echo 'it has neither apt-get nor dnf to install {name} with'; fi; fi"
            );
        }
        script.push_str("done_with_lists\n");
        let mut command = ShellCommand::new("");
        let found = command.section("packages", &script, lines);
        command.run(&self.channel, FETCH).await?.get(&found)
    }

    /// Installs what is missing of these, and starts what has to run.
    ///
    /// # Errors
    /// When the node is not reached, or its package manager fails; with what that said.
    pub async fn install_packages(&self, wanted: &[Package]) -> Result<()> {
        if wanted.is_empty() {
            return Ok(());
        }
        let mut script = format!("{}{THERE}{CAN}{INSTALL}", folders());
        for package in wanted {
            let (name, [apt, dnf]) = (package.name(), package.packages());
            let _ = writeln!(
                script,
                "if ! brought {name}; then\n\
                 if has apt-get; then package=$(can {apt}); else package=$(can {dnf}); fi\n\
                 [ -n \"$package\" ] || die 'there is no package for {name}'\n\
                 get \"$package\"\nfi"
            );
            if *package == Package::Docker {
                script.push_str(START_DOCKER);
            }
        }
        script.push_str("done_with_lists\n");
        (self.channel.run(&script, FETCH + PATIENCE).await).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a script with programs in a folder that stand for those of a machine; what it prints.
    fn sh(programs: &[(&str, &str)], script: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        for (name, body) in programs {
            let path = folder.path().join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        }
        let script = format!(
            "PATH={}:/usr/bin:/bin\nhas() {{ [ -x {0}/\"$1\" ]; }}\n{script}",
            folder.path().display()
        );
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    #[test]
    fn the_first_package_that_can_be_installed_is_taken() {
        // Prints nothing but succeeds for packages of this name.
        let apt = |known: &str| format!("for a; do last=$a; done; [ \"$last\" = {known} ]");
        let dnf =
            |known: &str| format!("for a; do last=$a; done; [ \"$last\" != {known} ] || echo x");
        for (program, body, asked, expected) in [
            (
                "apt-get",
                apt("docker.io"),
                "docker.io docker-ce",
                "docker.io\n",
            ),
            (
                "apt-get",
                apt("docker-ce"),
                "docker.io docker-ce",
                "docker-ce\n",
            ),
            ("apt-get", apt("other"), "docker.io docker-ce", ""),
            (
                "dnf",
                dnf("docker-ce"),
                "moby-engine docker-ce",
                "docker-ce\n",
            ),
            ("dnf", dnf("other"), "moby-engine docker-ce", ""),
        ] {
            let script = format!("{CAN}\ncan {asked}; done_with_lists");
            assert_eq!(
                sh(&[(program, &body)], &script),
                expected,
                "{program} {asked}"
            );
        }
    }

    #[test]
    fn what_is_there_is_told_by_what_it_brings() {
        let folder = tempfile::tempdir().unwrap();
        let look = |programs: &[(&str, &str)]| {
            let script = format!(
                "folders='/nowhere {}'\n{THERE}\nbrought docker && echo docker; {}",
                folder.path().display(),
                look(&[Package::CniPlugins, Package::Iptables])
            );
            sh(programs, &script)
        };
        assert_eq!(look(&[]), "");
        assert_eq!(
            look(&[("iptables", ""), ("dockerd", "")]),
            "docker\niptables\n"
        );
        std::fs::write(folder.path().join("bridge"), "").unwrap();
        assert_eq!(look(&[]), "", "not a program");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path().join("bridge"), mode).unwrap();
        assert_eq!(look(&[]), "cni\n");
        assert_eq!(
            read(&["iptables", "docker"]),
            [Package::Docker, Package::Iptables]
        );
    }
}
