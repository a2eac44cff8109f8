//! What `doctor` looks up on a node: which of the others' ports it reaches, its clock, and the largest
//! packet of its interface. Changes nothing, and needs nothing there but bash.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use super::channel::PATIENCE;
use super::command::{ShellCommand, number, some_word, word};
use super::host::Host;
use super::preflight::{milliseconds, since_epoch, skew_ms};
use super::script::quote;

/// How long a port may take to be reached, in seconds.
const PORT_PATIENCE: u64 = 3;
/// How many ports are tried at once.
const AT_ONCE: usize = 32;

/// `reach NUMBER ADDRESS PORT`: prints the number and how it went, once it is known. bash says why a
/// port is refused in words of its own language.
const REACH: &str = r#"
reach() {
  said=$(LC_ALL=C timeout "$patience" bash -c "exec 3<>/dev/tcp/$2/$3" 2>&1)
  case $? in
    0) echo "$1 reached" ;;
    124) echo "$1 silent" ;;
    *) case $said in
         *refused*) echo "$1 refused" ;;
         *) echo "$1 unreachable" ;;
       esac ;;
  esac
}
"#;

/// Takes `address`. The name of the interface that has it, and its MTU.
const MTU: &str = r#"
device=$(ip -o addr 2>/dev/null | awk -v address="$address" '{ split($4, a, "/"); if (a[1] == address) { print $2; exit } }')
# Loopback has all of its network, and shows one address of it.
[ -n "$device" ] || case $address in 127.*) device=lo ;; esac
"#;

/// How a port was reached from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Something listens there.
    Yes,
    /// The machine says that nothing listens there.
    Refused,
    /// Nothing came back.
    Silent,
    /// There is no way there.
    Unreachable,
}

/// What a node was found to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// How far its clock is ahead of ours at the least, in milliseconds; behind: negative.
    pub clock_skew_ms: i64,
    /// The interface with the node's address, if it was found.
    pub interface: Option<String>,
    /// Its MTU.
    pub mtu: Option<u32>,
    /// Of each port that was named, in order; None: bash is missing.
    pub ports: Option<Vec<Reached>>,
}

impl Host {
    /// Looks at the node, and from it at the ports of others.
    ///
    /// # Errors
    /// When the node is not reached.
    pub async fn probe(&self, targets: &[SocketAddr]) -> Result<Probe> {
        // Dialled before the clock is looked at, or the time that takes would be in the comparison.
        self.channel.run("return 0", PATIENCE).await?;
        let address = quote(&self.address.to_string());
        let mut command = ShellCommand::new(&format!("address={address}\n{MTU}"));
        let clock = command.section("clock", "date +%s.%N", |lines| {
            milliseconds(&some_word(lines)?)
        });
        let interface = command.section("interface", "echo \"$device\"", word);
        // /sys of a container may be that of its host.
        let mtu = "link=$(ip -o link show dev \"$device\" 2>/dev/null | sed -n 's/.* mtu \\([0-9]*\\) .*/\\1/p')\n\
                   if [ -n \"$link\" ]; then echo \"$link\"; else cat \"/sys/class/net/$device/mtu\" 2>/dev/null; fi";
        let mtu = command.section("mtu", mtu, number);
        let before = since_epoch();
        let output = command.run(&self.channel, PATIENCE).await?;
        let after = since_epoch();
        Ok(Probe {
            clock_skew_ms: skew_ms(output.get(&clock)?, before, after),
            interface: output.get(&interface)?,
            mtu: output.get(&mtu)?,
            ports: self.reach(targets).await?,
        })
    }

    async fn reach(&self, targets: &[SocketAddr]) -> Result<Option<Vec<Reached>>> {
        let mut script = format!(
            "has bash && has timeout || return 0\necho yes\npatience={PORT_PATIENCE}\n{REACH}"
        );
        for (number, target) in targets.iter().enumerate() {
            let (address, port) = (target.ip(), target.port());
            let _ = writeln!(script, "reach {number} {address} {port} &");
            if (number + 1) % AT_ONCE == 0 {
                script.push_str("wait\n");
            }
        }
        script.push_str("wait\n");
        let rounds = u32::try_from(targets.len() / AT_ONCE + 1).unwrap_or(u32::MAX);
        let patience = PATIENCE + Duration::from_secs(PORT_PATIENCE) * rounds;
        let count = targets.len();
        let mut command = ShellCommand::new("");
        let reached = command.section("reached", &script, move |lines| Ok(read(lines, count)));
        command.run(&self.channel, patience).await?.get(&reached)
    }
}

/// Lines in any order; what is missing was not reached.
fn read(lines: &[&str], count: usize) -> Option<Vec<Reached>> {
    let (_, lines) = lines.split_first()?;
    let mut reached = vec![Reached::Unreachable; count];
    for line in lines {
        let Some((number, how)) = line.split_once(' ') else {
            continue;
        };
        let how = match how {
            "reached" => Reached::Yes,
            "refused" => Reached::Refused,
            "silent" => Reached::Silent,
            _ => Reached::Unreachable,
        };
        if let Some(place) = number.parse().ok().and_then(|n: usize| reached.get_mut(n)) {
            *place = how;
        }
    }
    Some(reached)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn answers_come_in_any_order() {
        assert_eq!(read(&[], 2), None);
        assert_eq!(
            read(
                &["yes", "2 silent", "0 reached", "1 refused", "7 reached"],
                4
            ),
            Some(vec![
                Reached::Yes,
                Reached::Refused,
                Reached::Silent,
                Reached::Unreachable
            ])
        );
    }

    #[tokio::test]
    async fn a_port_is_reached_where_something_listens() {
        let there = TcpListener::bind("127.0.0.1:0").unwrap();
        let gone = TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = gone.local_addr().unwrap();
        drop(gone);
        let targets = [there.local_addr().unwrap(), closed];
        let probe = Host::example().probe(&targets).await.unwrap();
        assert_eq!(probe.ports, Some(vec![Reached::Yes, Reached::Refused]));
        assert_eq!(probe.interface.as_deref(), Some("lo"));
        assert!(probe.mtu.is_some_and(|mtu| mtu > 1000), "{probe:?}");
        assert!(probe.clock_skew_ms.abs() < 1000, "{probe:?}");
    }
}
