//! lb as a unit of systemd, on clients where Nomad runs no programs as they are.
//!
//! Certificates, token and configuration are watched by lb itself; only another program or another
//! unit needs a restart, which drains.

use std::time::Duration;

use anyhow::Result;

use super::channel::PATIENCE;
use super::command::ShellCommand;
use super::host::Host;
use super::script::quote;
use crate::bootstrap::topology::Runner;

/// How long lb may take to drain, to start and to know its routes.
const READY: Duration = Duration::from_secs(180);

/// Takes `run` and `stamp`. Prints `done` where something was to be done. `Type=notify`: a start
/// returns when lb is ready.
const RUN: &str = r#"
if [ "$(cat "$run/lb.restart" 2>/dev/null)" = "$stamp" ] &&
  systemctl is-active -q lb.service && systemctl is-enabled -q lb.service; then return 0; fi
systemctl daemon-reload || die 'systemd cannot read its units'
systemctl enable -q lb.service || die 'cannot enable lb.service'
systemctl reset-failed -q lb.service 2>/dev/null
if ! systemctl restart lb.service; then
  echo 'lb.service did not stay up; its last words:' >&2
  journalctl -q -o cat --no-pager -n 20 -u lb.service >&2
  return 1
fi
echo "$stamp" >"$run/lb.restart.new" && mv -f "$run/lb.restart.new" "$run/lb.restart" || return 1
echo done
"#;

const STOP: &str = r#"
systemctl cat lb.service >/dev/null 2>&1 || return 0
systemctl disable -q --now lb.service || die 'cannot stop lb.service'
"#;

impl Host {
    /// Whether lb can be a unit here.
    #[must_use]
    pub fn has_units(&self) -> bool {
        self.runner == Runner::Systemd && self.layout.units.is_some()
    }

    /// Sees to it that the unit runs, with what this stamp stands for. Whether it had to be started
    /// or restarted.
    ///
    /// # Errors
    /// When the node is not reached, or lb does not stay up; with the last lines of its log.
    pub async fn run_lb(&self, stamp: &str) -> Result<bool> {
        let names = format!("run={} stamp={}", quote(&self.layout.run), quote(stamp));
        let mut command = ShellCommand::new(&names);
        let done = command.section("done", RUN, |lines| Ok(lines.contains(&"done")));
        let output = command.run(&self.channel, READY).await?;
        output.get(&done)
    }

    /// Stops the unit, if there is one, and keeps it from being started with the machine.
    ///
    /// # Errors
    /// When the node is not reached, or systemd refuses.
    pub async fn stop_lb(&self) -> Result<()> {
        match self.has_units() {
            true => self.channel.run(STOP, READY + PATIENCE).await.map(drop),
            false => Ok(()),
        }
    }
}
