//! `.consul` on a node: a drop-in of systemd-resolved that resolves by the node's own agent the names of
//! Consul's domain. See <https://www.freedesktop.org/software/systemd/man/latest/resolved.conf.html>.

use anyhow::Result;

use super::channel::PATIENCE;
use super::command::ShellCommand;
use super::host::Host;
use super::script::quote;

/// Folder of the drop-ins.
pub const RESOLVER_FOLDER: &str = "/etc/systemd/resolved.conf.d";
/// Ours.
pub const RESOLVER_FILE: &str = "/etc/systemd/resolved.conf.d/lb-consul.conf";

/// Prints what keeps it from being of use. A server with a port needs systemd 246. All servers of the
/// section `[Resolve]` are used for all names alike, so that another one there and
/// Consul's agent would respond for each other.
pub(super) const LOOK: &str = r#"
if ! [ -d /run/systemd/system ] || ! systemctl is-active -q systemd-resolved.service; then
  echo 'systemd-resolved does not run there'
else
  version=$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')
  [ "${version:-0}" -ge 246 ] || echo "its systemd-resolved ($version) takes no server with a port; 246 does"
  grep -qs '^nameserver 127\.0\.0\.5[34]' /etc/resolv.conf ||
    echo 'names are not looked up through systemd-resolved there: /etc/resolv.conf names another server than 127.0.0.53'
  for file in /etc/systemd/resolved.conf /etc/systemd/resolved.conf.d/*.conf; do
    [ "$file" != /etc/systemd/resolved.conf.d/lb-consul.conf ] || continue
    if grep -qs '^ *DNS= *[^ ]' "$file"; then
      echo "$file sets DNS=, whose servers and Consul would answer for each other: set them for an interface there"
    fi
  done
fi
"#;

/// Takes `run` and `stamp`. Prints `done` where something was to be done.
const TAKE_UP: &str = r#"
if [ "$(cat "$run/resolver" 2>/dev/null)" = "$stamp" ] && systemctl is-active -q systemd-resolved; then return 0; fi
systemctl restart systemd-resolved || die 'systemd-resolved does not start'
echo "$stamp" >"$run/resolver.new" && mv -f "$run/resolver.new" "$run/resolver" || return 1
echo done
"#;

/// What makes systemd-resolved forget a drop-in that was removed.
pub(super) const FORGET: &str = "systemctl try-restart systemd-resolved 2>/dev/null\n";

impl Host {
    /// Has systemd-resolved read its drop-in, unless it has. Whether it had to be started anew.
    ///
    /// # Errors
    /// When the node is not reached, or systemd-resolved does not start.
    pub async fn take_up_resolver(&self, stamp: &str) -> Result<bool> {
        let names = format!("run={} stamp={}", quote(&self.layout.run), quote(stamp));
        let mut command = ShellCommand::new(&names);
        let done = command.section("done", TAKE_UP, |lines| Ok(lines.contains(&"done")));
        command.run(&self.channel, PATIENCE).await?.get(&done)
    }
}
