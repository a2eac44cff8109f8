//! The way to a node: `sh` on this machine, or `ssh` with one connection that all commands share.
//!
//! `ssh` is the user's own, with its configuration, agent, known hosts and jump hosts. The first
//! command to a node dials and stays behind as master of the connection; prompts that `ssh` has for
//! a person come then, one node after the other. Later commands go through the master's socket,
//! prompt for nothing, and are out of reach of Ctrl-C, so that what was begun on a node is ended.

use std::fs::File;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::control::ControlDir;
use super::dialer::{Dialer, Tunnel};
use super::script;
use crate::bootstrap::topology::{Node, Ssh};

/// How long a command may take that has nothing to wait for.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How long dialling may take, a person typing a password included.
const DIAL_PATIENCE: Duration = Duration::from_secs(120);
/// Longest output that is read.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Exit status of `ssh` when it is the connection that failed.
const SSH_FAILED: i32 = 255;

/// The node does not respond, whatever the reason: switched off, cut off, or without its sshd. A
/// node that responds and refuses is something else: a key, a user or a name is wrong then.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreachable(String);

/// How commands reach a node.
#[derive(Clone)]
pub(super) struct Channel {
    node: String,
    way: Way,
}

#[derive(Clone)]
enum Way {
    Local,
    Ssh(Remote),
}

#[derive(Clone)]
struct Remote {
    /// Where ssh is to go.
    destination: String,
    /// The user's options.
    options: Vec<String>,
    sudo: bool,
    control: ControlDir,
    socket: String,
    /// Whether the connection stands, as far as is known.
    dialled: Arc<Mutex<bool>>,
}

/// What a command reads.
enum Input<'a> {
    Text(&'a str),
    File(File),
}

impl Channel {
    /// This machine.
    pub(super) fn local(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            way: Way::Local,
        }
    }

    /// A machine behind ssh.
    pub(super) fn ssh(node: &Node, ssh: &Ssh, control: &ControlDir) -> Self {
        Self {
            node: node.name.clone(),
            way: Way::Ssh(Remote {
                destination: node.ssh.clone().unwrap_or_else(|| node.address.to_string()),
                options: ssh.options.clone(),
                sudo: ssh.sudo,
                control: control.clone(),
                socket: control.socket(&node.name),
                dialled: Arc::new(Mutex::new(false)),
            }),
        }
    }

    /// Makes the connection that commands and streams share, unless it stands.
    pub(super) async fn dial(&self) -> Result<()> {
        match &self.way {
            Way::Local => Ok(()),
            Way::Ssh(remote) => remote
                .dial()
                .await
                .with_context(|| format!("{}: no connection by ssh", self.node)),
        }
    }

    /// How to open streams to what the node reaches. Each makes a connection of its own for as long
    /// as none stands.
    pub(super) fn dialer(&self) -> Dialer {
        match &self.way {
            Way::Local => Dialer::Direct,
            Way::Ssh(remote) => Dialer::Ssh(Tunnel {
                arguments: remote.arguments(false, true),
                destination: remote.destination.clone(),
            }),
        }
    }

    /// Name of the node.
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// What to call the way in messages.
    pub(super) fn describe(&self) -> String {
        match &self.way {
            Way::Local => "this machine".to_owned(),
            Way::Ssh(remote) => format!("ssh {}", remote.destination),
        }
    }

    /// Runs a script body (see [`script::whole`]); what it prints.
    pub(super) async fn run(&self, body: &str, patience: Duration) -> Result<String> {
        self.answer(None, Input::Text(&script::whole(body)), patience)
            .await
    }

    /// Copies a file of this machine to a path of the node, over what is there. Of use before a
    /// rename only.
    pub(super) async fn copy(&self, file: File, path: &str, patience: Duration) -> Result<()> {
        let command = format!(
            "sh -c 'umask 077; rm -f \"$0\"; cat >\"$0\"' {}",
            script::quote(path)
        );
        self.answer(Some(&command), Input::File(file), patience)
            .await
            .map(drop)
    }

    async fn answer(
        &self,
        command: Option<&str>,
        input: Input<'_>,
        patience: Duration,
    ) -> Result<String> {
        let command = command.unwrap_or("sh");
        let mut process = match &self.way {
            Way::Local => {
                let mut process = Command::new("sh");
                if command != "sh" {
                    process.args(["-c", command]);
                }
                // What is meant for the user's own `consul` and `nomad` would be taken by agents
                // started here, too.
                let foreign = |name: &str| {
                    ["CONSUL_", "NOMAD_", "VAULT_"]
                        .iter()
                        .any(|its| name.starts_with(its))
                };
                for (name, _) in
                    std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(foreign))
                {
                    process.env_remove(name);
                }
                process
            }
            Way::Ssh(remote) => {
                self.dial().await?;
                let mut process = Command::new("ssh");
                process
                    .args(remote.arguments(false, true))
                    .arg("--")
                    .arg(&remote.destination);
                process.arg(if remote.sudo {
                    format!("sudo -n {command}")
                } else {
                    command.to_owned()
                });
                process
            }
        };
        process.process_group(0);
        let result = match timeout(patience, talk(process, input)).await {
            Ok(result) => result.with_context(|| {
                format!("{}: cannot run a command by {}", self.node, self.describe())
            })?,
            Err(_) => bail!(
                "{}: no response by {} within {} s",
                self.node,
                self.describe(),
                patience.as_secs()
            ),
        };
        let said = result.error.trim();
        if let Way::Ssh(remote) = &self.way
            && result.status.code() == Some(SSH_FAILED)
        {
            *remote.dialled.lock().await = false;
            bail!(Unreachable(format!(
                "{}: the connection by ssh {} failed: {}",
                self.node,
                remote.destination,
                or_silence(said)
            )));
        }
        if !result.status.success() {
            if said.starts_with("sudo:") {
                bail!(
                    "{}: {said} (commands go through `sudo -n`, which cannot prompt: allow this user sudo without a \
                     password, or log in as root with sudo = false)",
                    self.node
                );
            }
            bail!("{}: {}", self.node, or_silence(said));
        }
        Ok(result.answer)
    }
}

fn or_silence(said: &str) -> &str {
    if said.is_empty() {
        "it failed without a word"
    } else {
        said
    }
}

struct Talk {
    status: ExitStatus,
    answer: String,
    error: String,
}

/// Runs a command to its end.
async fn talk(mut process: Command, input: Input<'_>) -> std::io::Result<Talk> {
    let (stdin, text) = match input {
        Input::Text(text) => (Stdio::piped(), text),
        Input::File(file) => (Stdio::from(file), ""),
    };
    let mut child = process
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (pipe, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut pipe) = pipe {
            // A shell that ends early stops reading; its exit status tells more than the broken
            // pipe.
            let _ = pipe.write_all(text.as_bytes()).await;
        }
    };
    let (mut answer, mut error) = (Vec::new(), Vec::new());
    let read_out = async {
        match out {
            Some(out) => out.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await,
            None => Ok(0),
        }
    };
    let read_err = async {
        match err {
            Some(err) => err.take(ANSWER_BYTES_MAX).read_to_end(&mut error).await,
            None => Ok(0),
        }
    };
    let ((), read_out, read_err) = tokio::join!(write, read_out, read_err);
    read_out?;
    read_err?;
    let status = child.wait().await?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Talk {
        status,
        answer: text(answer),
        error: text(error),
    })
}

impl Remote {
    /// Options of a call. `dial`: it may become the master, which holds on to its standard error
    /// for good. `quiet`: no prompts.
    fn arguments(&self, dial: bool, quiet: bool) -> Vec<String> {
        let option = |text: String| ["-o".to_owned(), text];
        let batch = if quiet {
            "BatchMode=yes"
        } else {
            "BatchMode=no"
        };
        let master = if dial {
            "ControlMaster=auto"
        } else {
            "ControlMaster=no"
        };
        let ours = [
            master,
            &format!("ControlPath={}", self.socket),
            "ControlPersist=600",
            batch,
            // Settings for the user's own log-ins, which would break a command.
            "RequestTTY=no",
            "RemoteCommand=none",
            "PermitLocalCommand=no",
        ]
        .map(str::to_owned);
        // ssh takes the first value it meets, so the user's options win over these.
        let otherwise = [
            "ConnectTimeout=10",
            "ServerAliveInterval=5",
            "ServerAliveCountMax=3",
            "LogLevel=ERROR",
        ]
        .map(str::to_owned);
        let ours = ours.into_iter().flat_map(option);
        ours.chain(self.options.iter().cloned())
            .chain(otherwise.into_iter().flat_map(option))
            .collect()
    }

    /// Makes the connection that commands share, unless it stands.
    async fn dial(&self) -> Result<()> {
        let mut dialled = self.dialled.lock().await;
        if *dialled {
            return Ok(());
        }
        let mut outcome = self.call(true).await;
        if let Err(error) = &outcome
            && self.control.is_interactive()
            && needs_a_person(&error.to_string())
        {
            let _one_at_a_time = self.control.prompt().await;
            outcome = self.call(false).await;
        }
        outcome?;
        *dialled = true;
        Ok(())
    }

    async fn call(&self, quiet: bool) -> Result<()> {
        if self.destination.starts_with('-') {
            bail!(
                "`{}` is not a host: it begins with `-`, which ssh takes for an option",
                self.destination
            );
        }
        // The master outlives this call and keeps its standard error open: a pipe would never end.
        let log = format!("{}.log", self.socket);
        let stderr = File::create(&log).with_context(|| format!("cannot write {log}"))?;
        let mut process = Command::new("ssh");
        process
            .args(self.arguments(true, quiet))
            .arg("--")
            .arg(&self.destination)
            .arg("true");
        process
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .kill_on_drop(true);
        if quiet {
            process.process_group(0);
        }
        let mut child = process
            .spawn()
            .context("cannot start `ssh`: is it installed?")?;
        let status = match timeout(DIAL_PATIENCE, child.wait()).await {
            Ok(status) => status?,
            Err(_) => bail!(Unreachable(format!(
                "{}: not connected within {} s",
                self.destination,
                DIAL_PATIENCE.as_secs()
            ))),
        };
        if !status.success() {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            let text = format!(
                "ssh {}: {}{}",
                self.destination,
                or_silence(&essence(&said)),
                advice(&said)
            );
            if advice(&said).is_empty() && status.code() == Some(SSH_FAILED) {
                bail!(Unreachable(text));
            }
            bail!(text);
        }
        Ok(())
    }
}

/// What ssh said, without the banner around a changed host key, and ready for a sentence to follow.
fn essence(said: &str) -> String {
    let telling = |line: &&str| {
        !said.contains("IDENTIFICATION HAS CHANGED")
            || line.contains("Offending")
            || line.contains("verification failed")
    };
    let lines: Vec<&str> = said.lines().map(str::trim).filter(telling).collect();
    lines.join("\n").trim().trim_end_matches('.').to_owned()
}

/// What to do about it, where ssh itself does not say.
fn advice(said: &str) -> &'static str {
    if said.contains("IDENTIFICATION HAS CHANGED") {
        ". Its host key is not the one you know: if the machine was made anew, take the old key out (ssh-keygen -R)"
    } else if said.contains("Host key verification failed") {
        ". Its host key is not known yet: log in once by hand, and compare it"
    } else if said.contains("Permission denied") {
        ". Try the same by hand: the user ([ssh] user), the key (identity_file) or the agent is not the right one"
    } else {
        ""
    }
}

/// Whether ssh failed because it could not prompt a person.
fn needs_a_person(error: &str) -> bool {
    [
        "Permission denied",
        "Host key verification failed",
        "Too many authentication failures",
    ]
    .iter()
    .any(|text| error.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(options: &[&str]) -> Remote {
        let control = ControlDir::create().unwrap();
        Remote {
            destination: "db-1".to_owned(),
            options: options.iter().map(|&option| option.to_owned()).collect(),
            sudo: true,
            socket: control.socket("n"),
            control,
            dialled: Arc::default(),
        }
    }

    #[test]
    fn options_of_the_user_win_where_they_may() {
        let arguments =
            remote(&["-o", "ConnectTimeout=99", "-o", "BatchMode=no"]).arguments(true, true);
        let position = |text: &str| {
            arguments
                .iter()
                .position(|argument| argument == text)
                .unwrap()
        };
        assert!(position("BatchMode=yes") < position("BatchMode=no"));
        assert!(position("ConnectTimeout=99") < position("ConnectTimeout=10"));
    }

    #[tokio::test]
    async fn a_local_command_answers_or_tells_why_not() {
        let channel = Channel::local("consul-0");
        assert_eq!(
            channel.run("echo hello", PATIENCE).await.unwrap(),
            "hello\n"
        );
        let error = channel
            .run("echo no room >&2; exit 3", PATIENCE)
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "consul-0: no room");
        let error = channel.run("exit 3", PATIENCE).await.unwrap_err();
        assert!(error.to_string().contains("without a word"), "{error}");
        let error = channel
            .run("sleep 60", Duration::from_millis(50))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("no response"), "{error}");
    }

    #[test]
    fn a_banner_is_cut_to_what_it_says() {
        for (said, expected) in [
            (
                "Host key verification failed.\r\n",
                "Host key verification failed",
            ),
            (
                "@@@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\n@@@@@\nIT IS POSSIBLE\n\
                 Offending ED25519 key in /k:3\nHost key verification failed.\n",
                "Offending ED25519 key in /k:3\nHost key verification failed",
            ),
            (
                "connect to host x port 22: No route to host\n",
                "connect to host x port 22: No route to host",
            ),
            ("", ""),
        ] {
            assert_eq!(essence(said), expected, "{said:?}");
        }
    }

    #[tokio::test]
    async fn a_node_that_does_not_answer_is_told_from_one_that_refuses() {
        let mut remote = remote(&["-o", "BatchMode=yes"]);
        remote.destination = "127.0.34.250".to_owned();
        remote.options.extend(["-p", "1"].map(str::to_owned));
        let refused = remote.dial().await.unwrap_err().context("db-1");
        assert!(refused.is::<Unreachable>(), "{refused:#}");
    }

    #[tokio::test]
    async fn an_option_is_not_taken_for_a_host() {
        let mut remote = remote(&[]);
        remote.destination = "-oProxyCommand=touch x".to_owned();
        assert!(
            remote
                .dial()
                .await
                .unwrap_err()
                .to_string()
                .contains("is not a host")
        );
    }
}
