//! Users, folders and files of a node, and the mark that says whose node it is.

use std::fmt::Write as _;

use anyhow::{Result, bail};

use super::channel::PATIENCE;
use super::host::{Host, MARK};
use super::resolver::{self, RESOLVER_FILE};
use super::script::{document, quote, quote_all};
use super::spec::{DirSpec, FileSpec, Owner};
use crate::bootstrap::topology::{Layout, Runner};

/// Functions of the scripts here.
///
/// `put` works beside the target under a name that it makes itself (`set -C`: never through a link
/// planted there). On a machine of the cluster it reaches the disk before it has its name, or a
/// power cut could leave an empty key there.
pub(super) const PUT: &str = r#"
put() {
  path=$1 mode=$2 owner=$3
  dir=${path%/*}
  [ -d "$dir" ] || die "$path: there is no folder $dir"
  new="$dir/.${path##*/}.lb-new"
  rm -f "$new"
  (set -C; decode >"$new") || die "$path: cannot write $new"
  chmod "$mode" "$new" || die "$path: cannot set its mode"
  [ -z "$owner" ] || chown "$owner:$owner" "$new" || die "$path: cannot give it to $owner"
  [ ! -d "$path" ] || die "$path: is a folder"
  [ -z "$owner" ] || sync "$new" 2>/dev/null
  mv -f "$new" "$path" || die "$path: cannot rename $new"
}
"#;

const USERS: &str = r#"
shell=/bin/false
for s in /usr/sbin/nologin /sbin/nologin; do [ -x "$s" ] && shell=$s; done
for user in "$@"; do
  id -u "$user" >/dev/null 2>&1 && continue
  group=$(grep -c "^$user:" /etc/group)
  has useradd || die "cannot make the system user $user: useradd is not there"
  own=--user-group
  [ "$group" = 0 ] || own="-g $user"
  useradd --system $own --no-create-home --home-dir /nonexistent --shell "$shell" "$user" >/dev/null ||
    die "cannot make the system user $user"
done
"#;

pub(super) const DIRECTORY: &str = r#"
dir() {
  path=$1 mode=$2 owner=$3
  if [ ! -d "$path" ]; then
    [ ! -e "$path" ] || die "$path: is in the way of a folder"
    mkdir -p "$path" || die "$path: cannot make it"
  fi
  chmod "$mode" "$path" || die "$path: cannot set its mode"
  [ -z "$owner" ] || chown "$owner:$owner" "$path" || die "$path: cannot give it to $owner"
}
"#;

impl Host {
    /// The owner as scripts take it: empty where owners are left alone.
    pub(super) fn owner(&self, owner: Owner) -> &'static str {
        if self.local { "''" } else { owner.name() }
    }
}

impl Host {
    /// Marks the node as one of this cluster.
    ///
    /// # Errors
    /// When it carries the mark of another one.
    pub async fn claim(&self, cluster_id: &str) -> Result<()> {
        let run = &self.layout.run;
        let script = format!(
            "{PUT}\n{DIRECTORY}\nrun={} id={}\n\
         here=$(cat \"$run/{MARK}\" 2>/dev/null)\n\
         [ \"$here\" != \"$id\" ] || return 0\n\
         [ -z \"$here\" ] || die \"$run/{MARK}: this node belongs to the cluster $here, not to $id\"\n\
         [ -d \"$run\" ] || dir \"$run\" 755 {}\n\
         put \"$run/{MARK}\" 644 {} {}",
            quote(run),
            quote(cluster_id),
            self.owner(Owner::Root),
            self.owner(Owner::Root),
            document(format!("{cluster_id}\n").as_bytes()),
        );
        self.channel.run(&script, PATIENCE).await.map(drop)
    }

    /// Makes the system users that are missing: own group, no shell, no home. Nothing on the local
    /// target.
    ///
    /// # Errors
    /// When the node is not reached, or has no tool to make users.
    pub async fn ensure_users(&self, users: &[Owner]) -> Result<()> {
        let names: Vec<&str> = users
            .iter()
            .filter(|&&user| user != Owner::Root)
            .map(|user| user.name())
            .collect();
        if self.local || names.is_empty() {
            return Ok(());
        }
        self.channel
            .run(&format!("set -- {}\n{USERS}", quote_all(names)), PATIENCE)
            .await
            .map(drop)
    }

    /// Makes folders, and gives those that exist the right mode and owner.
    ///
    /// # Errors
    /// When the node is not reached, or a path is taken by something else.
    pub async fn ensure_directories(&self, dirs: &[DirSpec]) -> Result<()> {
        if dirs.is_empty() {
            return Ok(());
        }
        let mut script = DIRECTORY.to_owned();
        for dir in dirs {
            let _ = writeln!(
                script,
                "dir {} {:o} {}",
                quote(&dir.path),
                dir.mode,
                self.owner(dir.owner)
            );
        }
        self.channel.run(&script, PATIENCE).await.map(drop)
    }

    /// Writes files, each at once: under another name first, with mode and owner, and renamed. One
    /// round trip.
    ///
    /// # Errors
    /// When the node is not reached, or a folder is missing.
    pub async fn write(&self, files: &[&FileSpec]) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let mut script = PUT.to_owned();
        for file in files {
            let (path, owner) = (quote(&file.path), self.owner(file.owner));
            let _ = write!(
                script,
                "put {path} {:o} {owner} {}",
                file.mode,
                document(&file.content)
            );
        }
        script.push_str(reread_units(
            self,
            files.iter().map(|file| file.path.as_str()),
        ));
        self.channel.run(&script, PATIENCE).await.map(drop)
    }

    /// Removes files and folders inside the layout's folders.
    ///
    /// # Errors
    /// When a path lies elsewhere (then nothing is removed), or the node is not reached.
    pub async fn remove(&self, paths: &[String]) -> Result<()> {
        if let Some(path) = paths.iter().find(|path| !is_inside(&self.layout, path)) {
            bail!(
                "{}: {path}: lies outside the folders of the cluster, so it is not removed",
                self.name
            );
        }
        if paths.is_empty() {
            return Ok(());
        }
        let paths = || paths.iter().map(String::as_str);
        let mut script = format!(
            "rm -rf {} || die 'not all could be removed'\n{}",
            quote_all(paths()),
            reread_units(self, paths())
        );
        if paths().any(|path| path == RESOLVER_FILE) {
            script.push_str(resolver::FORGET);
        }
        self.channel.run(&script, PATIENCE).await.map(drop)
    }
}

/// What makes systemd read changed units, if there are any.
fn reread_units<'a>(host: &Host, mut paths: impl Iterator<Item = &'a str>) -> &'static str {
    let units = host
        .layout
        .units
        .as_deref()
        .filter(|_| host.runner == Runner::Systemd);
    match units {
        Some(units) if paths.any(|path| below(units, path)) => {
            "systemctl daemon-reload || die 'systemd cannot read its units'\n"
        }
        _ => "",
    }
}

/// Whether a path lies inside one of the layout's folders; of the folder of units, our own alone.
fn is_inside(layout: &Layout, path: &str) -> bool {
    let folders = [
        &layout.consul_config,
        &layout.consul_data,
        &layout.nomad_config,
        &layout.nomad_data,
        &layout.lb,
        &layout.run,
    ];
    let is_plain = path
        .split('/')
        .skip(1)
        .all(|part| !part.is_empty() && part != "." && part != "..");
    let is_unit = |units: &String| UNITS.iter().any(|unit| path == format!("{units}/{unit}"));
    is_plain
        && (path == RESOLVER_FILE
            || folders.iter().any(|folder| below(folder, path))
            || layout.units.as_ref().is_some_and(is_unit))
}

/// Units that are ours.
pub(super) const UNITS: [&str; 3] = ["consul.service", "nomad.service", "lb.service"];

fn below(folder: &str, path: &str) -> bool {
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_in_our_folders_may_be_removed() {
        let layout = Layout::system();
        for path in [
            "/etc/consul.d/old.hcl",
            "/opt/nomad/alloc/x",
            "/etc/systemd/system/consul.service",
        ] {
            assert!(is_inside(&layout, path), "{path}");
        }
        for path in [
            "/",
            "",
            "etc/consul.d/x",
            "/etc",
            "/etc/consul.d",
            "/etc/consul.d/",
            "/etc/consul.data",
            "/etc/consul.d/../passwd",
            "/etc/consul.d//x",
            "/etc/consul.d/./x",
            "/etc/systemd/system/sshd.service",
            "/usr/local/bin/consul",
        ] {
            assert!(!is_inside(&layout, path), "{path}");
        }
    }
}
