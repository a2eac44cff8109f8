//! The tokens with which a node's Consul agent looks after services that it was given before there
//! were tokens, or while there was another.
//!
//! An agent keeps the token of a registration beside it, in its data folder, and tells the catalog
//! of the service's end and of its checks with that token. Nomad registers a service again only
//! when the service changes, not when its own token does: so under default deny a registration
//! without a token would stay in the catalog as it is, whatever becomes of the instance (as
//! `agent/local/state.go` of Consul and `service_client.go` of Nomad have it). The agent reads these files at its start alone.

use anyhow::Result;

use super::channel::PATIENCE;
use super::host::Host;
use super::script::{document, quote};
use crate::bootstrap::security::secrets::Secret;

/// Takes `data` and `rules`, which hold the token and so are in a file, not on a command line.
const GIVE: &str = r#"
for file in "$data"/services/* "$data"/checks/*; do
  case $file in *.tmp) continue ;; esac
  [ -f "$file" ] || continue
  sed -f "$rules" "$file" >"$file.tmp" || die "$file: cannot be read"
  cmp -s "$file.tmp" "$file" || cat "$file.tmp" >"$file" || die "$file: cannot be written"
  rm -f "$file.tmp"
done
rm -f "$rules"
"#;

impl Host {
    /// Gives this token to what Nomad registered without one, or with one of `old`, at the node's
    /// Consul agent, which must not run.
    ///
    /// # Errors
    /// When the node is not reached, or a file cannot be written.
    pub async fn give_service_token(&self, token: &Secret, old: &[&Secret]) -> Result<()> {
        let rule = rules(token, old);
        let script = format!(
            "data={} rules={}\ndecode >\"$rules\" {}{GIVE}",
            quote(&self.layout.consul_data),
            quote(&format!("{}/service-token.sed", self.layout.run)),
            document(rule.as_bytes()),
        );
        self.channel.run(&script, PATIENCE).await.map(drop)
    }
}

/// For `sed`. A registration without a token is Nomad's only if its name says so.
fn rules(token: &Secret, old: &[&Secret]) -> String {
    let new = escaped(token.reveal());
    let mut rules = format!("/\"_nomad-/s/\"Token\":\"\"/\"Token\":\"{new}\"/\n");
    for old in old {
        let old = escaped(old.reveal());
        rules.push_str(&format!("s/\"Token\":\"{old}\"/\"Token\":\"{new}\"/\n"));
    }
    rules
}

/// As `s` has it. Tokens are letters, digits and `-`; others do no harm.
fn escaped(token: &str) -> String {
    token.chars().fold(String::new(), |mut text, character| {
        if matches!(character, '\\' | '/' | '&' | '\n') {
            text.push('\\');
        }
        text.push(character);
        text
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn nomads_registrations_get_the_token_and_no_other() {
        let [new, old] = ["n-1/&", "o-1"].map(Secret::new);
        let lines = [
            r#"{"Token":"","Service":{"ID":"_nomad-task-a"}}"#,
            r#"{"Token":"o-1","Service":{"ID":"_nomad-task-b"}}"#,
            r#"{"Check":{"ServiceID":"_nomad-task-c"},"Token":"","Source":"api"}"#,
            r#"{"Token":"","Service":{"ID":"web"}}"#,
            r#"{"Token":"theirs","Service":{"ID":"_nomad-task-d"}}"#,
        ];
        let mut sed = Command::new("sed")
            .args(["-e", &rules(&new, &[&old])])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = sed.stdin.take().unwrap();
        input.write_all(lines.join("\n").as_bytes()).unwrap();
        drop(input);
        let said = String::from_utf8(sed.wait_with_output().unwrap().stdout).unwrap();
        let wanted = [
            r#"{"Token":"n-1/&","Service":{"ID":"_nomad-task-a"}}"#,
            r#"{"Token":"n-1/&","Service":{"ID":"_nomad-task-b"}}"#,
            r#"{"Check":{"ServiceID":"_nomad-task-c"},"Token":"n-1/&","Source":"api"}"#,
            lines[3],
            lines[4],
        ];
        assert_eq!(said.trim_end(), wanted.join("\n"));
    }
}
