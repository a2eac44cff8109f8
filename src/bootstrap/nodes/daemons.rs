//! Starting, stopping and watching over the daemons of a node, by systemd or as plain processes in
//! the background.
//!
//! A plain process has a session of its own, so that neither the end of this program nor Ctrl-C
//! reaches it, and a file with its id. Ids are reused: a process counts as the daemon only if its
//! command line names the daemon's configuration folder.

use std::time::Duration;

use anyhow::Result;

use super::channel::PATIENCE;
use super::command::ShellCommand;
use super::host::{Host, MARK};
use super::script::{quote, quote_all};
use super::spec::{DaemonSpec, Stamps};
use crate::bootstrap::topology::{Product, Runner};

/// Functions of the process runner. `running PRODUCT CONFIG` prints the daemon's process id, if it
/// runs.
pub(super) const RUNNING: &str = r#"
running() {
  pid=$(cat "$run/$1.pid" 2>/dev/null)
  case $pid in ''|*[!0-9]*) return 1 ;; esac
  case $(cat "/proc/$pid/cmdline" 2>/dev/null | tr '\0' ' ') in *"$2"*) echo "$pid" ;; *) return 1 ;; esac
}
"#;

/// Log files are put aside at a start when they are longer than this.
const LOG_BYTES_MAX: u64 = 32 << 20;

/// Takes `run`, `name`, `config`, `user` (empty: the one we are) and the command as `$@`.
///
/// The process writes its own id to descriptor 3 before it becomes the daemon, so it needs no right
/// to that file. On a busy machine that may take seconds. A shell's `&` would have it ignore
/// SIGINT. What our own caller left open is closed, too; above descriptor 9 only bash can do that.
const START_PROCESS: &str = r#"
if running "$name" "$config" >/dev/null; then return 0; fi
log="$run/$name.log"
size=0
if [ -e "$log" ]; then size=$(($(wc -c <"$log"))); fi
if [ "$size" -gt "$max" ]; then mv -f "$log" "$log.1"; size=0; fi
if [ -n "$user" ] && [ "$(id -un)" != "$user" ]; then
  has setpriv || die "cannot run $name as $user: setpriv is not there"
  set -- setpriv --reuid "$user" --regid "$user" --init-groups -- "$@"
fi
become='echo $$ >&3; exec 3>&-; for fd in /proc/self/fd/*; do
  fd=${fd##*/}
  case $fd in [0-9]|\*) ;; *) [ -z "${BASH_VERSION:-}" ] || eval "exec $fd>&-" ;; esac
done; exec "$@"'
sh=sh
if has bash; then sh=bash; fi
rm -f "$run/$name.pid"
cd /
umask 022
setsid -f "$sh" -c "$become" sh "$@" </dev/null >>"$log" 2>&1 3>"$run/$name.pid" 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-
n=0
while [ ! -s "$run/$name.pid" ] && [ $n -lt 200 ]; do
  sleep 0.05
  n=$((n + 1))
done
n=0
while [ $n -lt 6 ] && running "$name" "$config" >/dev/null; do
  sleep 0.05
  n=$((n + 1))
done
running "$name" "$config" >/dev/null && return 0
echo "$name ended as soon as it was started; its last words ($log):" >&2
tail -c +$((size + 1)) "$log" | tail -n 20 >&2
return 1
"#;

/// A unit that waits to be started again is not started by `start` before its time, but by
/// `restart`. It may have ended at every start: then it is watched for longer.
const START_UNIT: &str = r#"
if [ "$(systemctl show -p NeedDaemonReload "$name")" = NeedDaemonReload=yes ]; then systemctl daemon-reload; fi
[ "$(systemctl is-enabled "$name" 2>/dev/null)" = enabled ] || systemctl enable -q "$name" || die "cannot enable $name.service"
systemctl is-active -q "$name" && return 0
rounds=0
case $(systemctl show -p NRestarts "$name") in NRestarts=[1-9]*) rounds=16 ;; esac
systemctl reset-failed -q "$name" 2>/dev/null
systemctl restart --no-block "$name" || die "cannot start $name.service"
while :; do
  sleep 0.3
  state=$(systemctl show -p ActiveState -p SubState "$name" | cut -d= -f2 | tr '\n' ' ')
  case $state in active*|reloading*|"activating start"*) ;; *) break ;; esac
  [ $rounds -gt 0 ] || return 0
  rounds=$((rounds - 1))
done
echo "$name.service did not stay up (${state% }); its last words:" >&2
journalctl -q -o cat --no-pager -n 20 -u "$name" >&2
return 1
"#;

/// Takes `rounds` of 0.1 s. Prints `killed` where SIGINT was not enough.
const STOP_PROCESS: &str = r#"
pid=$(running "$name" "$config") || { rm -f "$run/$name.pid"; return 0; }
kill -INT "$pid" 2>/dev/null
n=0
while running "$name" "$config" >/dev/null; do
  if [ $n -eq "$rounds" ]; then
    echo killed
    if [ "$keeps" = no ]; then kill -KILL "-$pid" 2>/dev/null; fi
    kill -KILL "$pid" 2>/dev/null
  fi
  [ $n -lt $((rounds + 50)) ] || die "$name (pid $pid) survives SIGKILL"
  n=$((n + 1))
  sleep 0.1
done
rm -f "$run/$name.pid"
"#;

const STOP_UNIT: &str = r#"
case $(systemctl show -p ActiveState "$name") in *=inactive|*=failed) return 0 ;; esac
[ -s "$mark" ] || die "$name.service runs, but $mark is missing: it may not be ours, so it is not stopped"
systemctl stop --no-block "$name" || die "cannot stop $name.service"
n=0
while :; do
  case $(systemctl show -p ActiveState "$name") in *=inactive|*=failed) return 0 ;; esac
  if [ $n -eq "$rounds" ]; then
    echo killed
    if [ "$keeps" = no ]; then who=all; else who=main; fi
    systemctl kill --kill-who="$who" -s KILL "$name"
  fi
  [ $n -lt $((rounds + 50)) ] || die "$name.service survives SIGKILL"
  n=$((n + 1))
  sleep 0.1
done
"#;

/// A unit that was never written, or is gone already, cannot be enabled.
const DISABLE_UNIT: &str = r#"
case $(systemctl is-enabled "$name" 2>/dev/null) in
  enabled|enabled-runtime) systemctl disable -q "$name" || die "cannot disable $name.service" ;;
esac
"#;

/// The command that prints the daemon's process id, or nothing. Needs [`RUNNING`] and `run`.
///
/// Units are known by names that others use, too: where our mark is missing, none is ours.
pub(super) fn print_pid(host: &Host, product: Product) -> String {
    let name = product.name();
    match host.runner {
        Runner::Process => format!("running {name} {}", quote(host.layout.config(product))),
        Runner::Systemd => {
            format!(
                "[ ! -s \"$run/{MARK}\" ] || systemctl show -p MainPID {name} 2>/dev/null | sed -n \
                 's/^MainPID=\\([1-9]\\)/\\1/p'"
            )
        }
    }
}

/// Variables and functions for a script about a daemon.
fn about(host: &Host, product: Product) -> String {
    let (run, config) = (quote(&host.layout.run), quote(host.layout.config(product)));
    format!(
        "run={run} name={} config={config} max={LOG_BYTES_MAX}\nmark=\"$run/{MARK}\"\n{RUNNING}",
        product.name()
    )
}

impl Host {
    /// Starts a daemon, unless it runs.
    ///
    /// # Errors
    /// When it ends at once; with the last lines of its log.
    pub async fn start(&self, daemon: &DaemonSpec) -> Result<()> {
        let about = about(self, daemon.product);
        let script = match self.runner {
            Runner::Process => {
                let user = if self.local { "" } else { daemon.user.name() };
                let command = quote_all(daemon.command.iter().map(String::as_str));
                format!(
                    "{about}user={}\nset -- {command}\n{START_PROCESS}",
                    quote(user)
                )
            }
            Runner::Systemd => format!("{about}{START_UNIT}"),
        };
        self.channel.run(&script, PATIENCE).await.map(drop)
    }

    /// Stops a daemon by SIGINT; by SIGKILL, and a warning in the log, when it still runs after
    /// `patience`.
    ///
    /// # Errors
    /// When it cannot be stopped.
    pub async fn stop(&self, daemon: &DaemonSpec, patience: Duration) -> Result<()> {
        let body = match self.runner {
            Runner::Process => STOP_PROCESS,
            Runner::Systemd => STOP_UNIT,
        };
        let keeps = if daemon.keeps_children { "yes" } else { "no" };
        let about = about(self, daemon.product);
        let rounds = patience.as_millis() / 100;
        let mut command = ShellCommand::new(&format!("{about}rounds={rounds} keeps={keeps}"));
        let killed = command.section("killed", body, |lines| Ok(lines.contains(&"killed")));
        let output = command.run(&self.channel, patience * 2 + PATIENCE).await?;
        if output.get(&killed)? {
            let seconds = patience.as_secs();
            tracing::warn!(
                "{}: {} did not end within {seconds} s of SIGINT and was killed",
                self.name,
                daemon.product
            );
        }
        Ok(())
    }

    /// Keeps a stopped daemon from being started with the machine, until [`Host::start`] is called
    /// again.
    ///
    /// # Errors
    /// When the node is not reached, or systemd refuses.
    pub async fn disable(&self, daemon: &DaemonSpec) -> Result<()> {
        match self.runner {
            Runner::Process => Ok(()),
            Runner::Systemd => {
                let script = format!("{}{DISABLE_UNIT}", about(self, daemon.product));
                self.channel.run(&script, PATIENCE).await.map(drop)
            }
        }
    }

    /// Takes away the gossip keys that a stopped agent keeps with its data, so that it starts with
    /// the one of its configuration.
    ///
    /// # Errors
    /// When the node is not reached.
    pub async fn forget_gossip_keys(&self, product: Product) -> Result<()> {
        let data = self.layout.data(product);
        let files = match product {
            Product::Consul => ["serf/local.keyring", "serf/remote.keyring"].as_slice(),
            Product::Nomad => &["server/serf.keyring"],
        };
        let paths: Vec<String> = files.iter().map(|file| format!("{data}/{file}")).collect();
        let script = format!("rm -f {}", quote_all(paths.iter().map(String::as_str)));
        self.channel.run(&script, PATIENCE).await.map(drop)
    }

    /// Has a daemon read its certificates and keys again (SIGHUP).
    ///
    /// # Errors
    /// When it does not run.
    pub async fn reload(&self, daemon: &DaemonSpec) -> Result<()> {
        let body = match self.runner {
            Runner::Process => {
                "pid=$(running \"$name\" \"$config\") || die \"$name does not run, so it cannot be reloaded\"\nkill -HUP $pid"
            }
            Runner::Systemd => "systemctl kill --kill-who=main -s HUP \"$name\"",
        };
        self.channel
            .run(&format!("{}{body}", about(self, daemon.product)), PATIENCE)
            .await
            .map(drop)
    }

    /// Notes on the node what its daemon has been started with. A stamp that is `None` is removed.
    ///
    /// # Errors
    /// When the node is not reached.
    pub async fn stamp(&self, product: Product, stamps: &Stamps) -> Result<()> {
        let mut script = about(self, product);
        for (kind, stamp) in [("restart", &stamps.restart), ("reload", &stamps.reload)] {
            let line = match stamp {
                Some(stamp) => format!(
                    "echo {} >\"$run/$name.{kind}.new\" && mv -f \"$run/$name.{kind}.new\" \"$run/$name.{kind}\" || return 1\n",
                    quote(stamp)
                ),
                None => format!("rm -f \"$run/$name.{kind}\" || return 1\n"),
            };
            script.push_str(&line);
        }
        self.channel.run(&script, PATIENCE).await.map(drop)
    }

    /// The last lines of a daemon's log.
    ///
    /// # Errors
    /// When the node is not reached.
    pub async fn log(&self, product: Product, lines: usize) -> Result<String> {
        let body = match self.runner {
            Runner::Process => {
                format!("[ -e \"$run/$name.log\" ] || return 0\ntail -n {lines} \"$run/$name.log\"")
            }
            Runner::Systemd => format!("journalctl -q -o cat --no-pager -n {lines} -u \"$name\""),
        };
        self.channel
            .run(&format!("{}{body}", about(self, product)), PATIENCE)
            .await
    }
}
