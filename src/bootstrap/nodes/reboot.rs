//! A machine is started anew, and it can be told when it was.

use anyhow::Result;

use super::channel::PATIENCE;
use super::command::{ShellCommand, some_word};
use super::host::Host;

/// What is another after a start: the kernel's id of it, and, for a container that shares its kernel
/// with others, when its first process began.
const BOOT: &str = r#"echo "$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)/$(sed 's/^.*) //' /proc/1/stat | cut -d' ' -f20)""#;

/// Goes on once the connection that it came by is closed.
const REBOOT: &str = r#"
if [ -d /run/systemd/system ] && has systemctl; then how='systemctl reboot'
elif has reboot; then how=reboot
elif has shutdown; then how='shutdown -r now'
else die 'there is neither systemctl nor reboot nor shutdown: start the machine anew by hand'
fi
setsid -f sh -c "sleep 1; $how" </dev/null >/dev/null 2>&1 || nohup sh -c "sleep 1; $how" </dev/null >/dev/null 2>&1 &
"#;

impl Host {
    /// Something that is another after each start of the machine.
    ///
    /// # Errors
    /// When the node is not reached.
    pub async fn boot(&self) -> Result<String> {
        let mut command = ShellCommand::new("");
        let boot = command.section("boot", BOOT, some_word);
        command.run(&self.channel, PATIENCE).await?.get(&boot)
    }

    /// Has the machine start anew, a moment later.
    ///
    /// # Errors
    /// When the node is not reached, or has no command for it.
    pub async fn reboot(&self) -> Result<()> {
        self.channel.run(REBOOT, PATIENCE).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_same_start_is_the_same() {
        let host = Host::example();
        let boot = host.boot().await.unwrap();
        assert!(boot.len() > 3, "{boot}");
        assert_eq!(host.boot().await.unwrap(), boot);
    }
}
