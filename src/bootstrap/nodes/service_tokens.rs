//! The tokens with which a node's Consul agent looks after services that it was given before there
//! were tokens.
//!
//! An agent keeps the token of a registration beside it, in its data folder, and tells the catalog
//! of the service's end and of its checks with that token. Nomad registers a service again only
//! when the service changes, not when its own token does: so under default deny a registration
//! without a token would stay in the catalog as it is, whatever becomes of the instance (seen in
//! the sources of Consul 1.8 and Nomad 1.x). The agent reads these files at its start alone.

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
  grep -q '"Token":""' "$file" || continue
  grep -q '"_nomad-' "$file" || continue
  sed -f "$rules" "$file" >"$file.tmp" || die "$file: cannot be read"
  cat "$file.tmp" >"$file" || die "$file: cannot be written"
  rm -f "$file.tmp"
done
rm -f "$rules"
"#;

impl Host {
    /// Gives this token to what Nomad registered without one at the node's Consul agent, which must
    /// not run.
    ///
    /// # Errors
    /// When the node is not reached, or a file cannot be written.
    pub async fn give_service_token(&self, token: &Secret) -> Result<()> {
        let rule = format!(
            "s/\"Token\":\"\"/\"Token\":\"{}\"/\n",
            escaped(token.reveal())
        );
        let script = format!(
            "data={} rules={}\ndecode >\"$rules\" {}{GIVE}",
            quote(&self.layout.consul_data),
            quote(&format!("{}/service-token.sed", self.layout.run)),
            document(rule.as_bytes()),
        );
        self.channel.run(&script, PATIENCE).await.map(drop)
    }
}

/// As the right side of `s` has it. Tokens are letters, digits and `-`; others do no harm.
fn escaped(token: &str) -> String {
    token.chars().fold(String::new(), |mut text, character| {
        if matches!(character, '\\' | '/' | '&' | '\n') {
            text.push('\\');
        }
        text.push(character);
        text
    })
}
