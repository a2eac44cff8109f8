//! What systemd has of a daemon's unit, and the way to bring it to what it shall be. What differs is
//! decided elsewhere (`unit_drift`).

use anyhow::{Context as _, Result, bail};

use super::channel::PATIENCE;
use super::host::Host;
use super::script::quote;
use super::spec::{DropIn, UnitSeen};
use super::unit_drift::{UnitFix, by_hand, set_aside};
use crate::bootstrap::topology::Product;

/// `unit NAME` prints lines `PROPERTY=value`, then `DropIn=path` for each drop-in, and behind it
/// `Sets=NAME` for each of its settings. Drop-ins that systemd has not read yet are looked for in
/// their folders. Needs `mark`, the path of our mark.
///
/// A unit is known by a name that others use, too: without our mark its process is not ours. One
/// that systemd has started again a moment ago may end at every start: whether it does is waited
/// for, or a look at the wrong moment would take it for well.
pub(super) const LOOK: &str = r#"
is_young() {
  awk -F= -v up="$(cut -d' ' -f1 /proc/uptime)" '{ of[$1] = $2 }
    END { exit !(of["ActiveState"] == "active" && of["NRestarts"] > 0 && up - of["ExecMainStartTimestampMonotonic"] / 1000000 < 5) }'
}
unit() {
  n=0
  while :; do
    properties=$(systemctl show -p ActiveState -p MainPID -p UnitFileState -p FragmentPath -p DropInPaths -p NeedDaemonReload \
      -p NRestarts -p ExecMainStartTimestampMonotonic "$1.service" 2>/dev/null)
    [ $n -lt 20 ] && echo "$properties" | is_young || break
    n=$((n + 1))
    sleep 0.5
  done
  echo "$properties"
  pid=$(echo "$properties" | sed -n 's/^MainPID=\([1-9]\)/\1/p')
  if [ -n "$pid" ] && [ -s "$mark" ]; then
    echo "Pid=$pid"
    case $properties in
      *ActiveState=active*) echo "Command=$(cat "/proc/$pid/cmdline" 2>/dev/null | tr '\0' ' ')" ;;
    esac
  fi
  {
    echo "$properties" | sed -n 's/^DropInPaths=//p' | tr ' ' '\n'
    ls -d "/etc/systemd/system/$1.service.d/"*.conf "/run/systemd/system/$1.service.d/"*.conf 2>/dev/null
  } | sort -u | while IFS= read -r path; do
    [ -f "$path" ] || continue
    echo "DropIn=$path"
    sed -n 's/^[[:space:]]*\([A-Za-z]\{1,\}\)[[:space:]]*=.*/Sets=\1/p' "$path"
  done
}
"#;

/// A unit, and the process that it runs for us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) pid: Option<u32>,
    pub(super) seen: UnitSeen,
}

/// Reads what `unit` prints.
pub(super) fn read(lines: &[&str]) -> Result<Unit> {
    let mut unit = Unit::default();
    let seen = &mut unit.seen;
    for line in lines {
        let (name, value) = line
            .split_once('=')
            .with_context(|| format!("`{line}` is not a property"))?;
        match name {
            "Pid" => {
                let pid = value.parse();
                unit.pid = Some(pid.with_context(|| format!("`{value}` is not a number"))?);
            }
            "Command" => {
                let command = value.trim_end();
                seen.command = (!command.is_empty()).then(|| command.to_owned());
            }
            "UnitFileState" => value.clone_into(&mut seen.state),
            "FragmentPath" => value.clone_into(&mut seen.file),
            "NeedDaemonReload" => seen.is_outdated = value == "yes",
            "DropIn" => seen.drop_ins.push(DropIn {
                path: value.to_owned(),
                settings: Vec::new(),
            }),
            "Sets" => {
                let drop_in = seen.drop_ins.last_mut();
                let drop_in =
                    drop_in.with_context(|| format!("`{line}` does not follow a drop-in"))?;
                drop_in.settings.push(value.to_owned());
            }
            _ => {}
        }
    }
    Ok(unit)
}

impl Host {
    /// Brings a unit to what it shall be.
    ///
    /// # Errors
    /// When the node is not reached, or systemd refuses; when something is to be done by hand: then
    /// nothing is done.
    pub async fn fix_unit(&self, product: Product, fixes: &[&UnitFix]) -> Result<()> {
        let mut script = format!("name={product}\n");
        for fix in fixes {
            let line = match fix {
                UnitFix::Reread => String::new(),
                UnitFix::SetAside { path, .. } => format!(
                    "mv -f {path} {aside} || die {path}': cannot be renamed'\n",
                    path = quote(path),
                    aside = quote(&set_aside(path))
                ),
                UnitFix::ByHand { path, settings } => {
                    bail!("{}: {}", self.name, by_hand(product, path, settings))
                }
                UnitFix::Enable { .. } => "systemctl unmask -q --runtime \"$name\" 2>/dev/null\n\
                     systemctl enable -q \"$name\" || die \"cannot enable $name.service\"\n"
                    .to_owned(),
            };
            script.push_str(&line);
        }
        if fixes.is_empty() {
            return Ok(());
        }
        script.push_str("systemctl daemon-reload || die 'systemd cannot read its units'\n");
        self.channel.run(&script, PATIENCE).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_prints_is_read() {
        let printed = "ActiveState=active\nMainPID=812\nUnitFileState=disabled\n\
                       FragmentPath=/etc/systemd/system/consul.service\nDropInPaths=/a.conf\nNeedDaemonReload=yes\n\
                       Pid=812\nCommand=/bin/consul agent -x=1 \nDropIn=/a.conf\nSets=ExecStart\nSets=ExecStart\n\
                       DropIn=/b.conf";
        let lines: Vec<&str> = printed.lines().collect();
        let drop_in = |path: &str, settings: &[&str]| DropIn {
            path: path.to_owned(),
            settings: settings.iter().map(|&name| name.to_owned()).collect(),
        };
        let seen = UnitSeen {
            state: "disabled".to_owned(),
            file: "/etc/systemd/system/consul.service".to_owned(),
            is_outdated: true,
            command: Some("/bin/consul agent -x=1".to_owned()),
            drop_ins: vec![
                drop_in("/a.conf", &["ExecStart", "ExecStart"]),
                drop_in("/b.conf", &[]),
            ],
        };
        let pid = Some(812);
        assert_eq!(read(&lines).unwrap(), Unit { pid, seen });
        // Where there is no systemd to be called.
        assert_eq!(read(&[""][..0]).unwrap(), Unit::default());
    }

    #[test]
    fn nonsense_is_refused() {
        for (lines, expected) in [
            (["Failed to connect to bus"], "is not a property"),
            (["Pid=many"], "`many` is not a number"),
            (["Sets=User"], "`Sets=User` does not follow a drop-in"),
        ] {
            let error = format!("{:#}", read(&lines).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
