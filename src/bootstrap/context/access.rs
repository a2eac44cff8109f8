//! What the operator gets: the environment of the command-line tools, a PKCS #12 file for the
//! browser, and a one-file configuration for `lb run`.
//!
//! The texts are made here from what the state holds; the tools' variables are those of
//! <https://developer.hashicorp.com/consul/commands> and
//! <https://developer.hashicorp.com/nomad/docs/commands>.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use p12_keystore::{
    Certificate, KeyStore, KeyStoreEntry, MacAlgorithm, Pkcs12ImportPolicy, PrivateKey,
    PrivateKeyChain,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::scrape;
use crate::bootstrap::security::pki;
use crate::bootstrap::security::secrets::{Pair, Secret};
use crate::bootstrap::state::State;
use crate::bootstrap::topology::{Cluster, PerProduct, Product, Scope};

/// Name of the file with the exports, in the state folder.
pub(in crate::bootstrap) const ENV_FILE: &str = "env";
/// Name of the browser's file, in the state folder.
pub(in crate::bootstrap) const PFX_FILE: &str = "client.pfx";
/// Name of the file with its password, in the state folder.
pub(in crate::bootstrap) const PFX_PASSWORD_FILE: &str = "client.pfx.password";
/// Name of the configuration for `lb run`, in the state folder.
pub(in crate::bootstrap) const BUNDLE_FILE: &str = "lb.toml";

/// Rounds of the password's derivation. The password is random and long, so this is for form's
/// sake; browsers take a moment with more.
const PFX_ROUNDS: u32 = 10_000;

/// What the tools need to reach the cluster as the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::bootstrap) struct Access {
    variables: Vec<(&'static str, Secret)>,
}

impl Access {
    /// Of this cluster: its first Consul server, and its first Nomad server unless only Consul is
    /// there.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub(in crate::bootstrap) fn new(
        cluster: &Cluster,
        scope: Scope,
        state: &State,
    ) -> Result<Self> {
        let tokens = state.tokens()?;
        let mut variables = Vec::new();
        let products = match scope {
            Scope::All => &[Product::Consul, Product::Nomad][..],
            Scope::ConsulOnly => &[Product::Consul][..],
        };
        for &product in products {
            let Some(server) = cluster.servers(product).next() else {
                continue;
            };
            let names = match product {
                Product::Consul => [
                    "CONSUL_HTTP_ADDR",
                    "CONSUL_CACERT",
                    "CONSUL_CLIENT_CERT",
                    "CONSUL_CLIENT_KEY",
                    "CONSUL_HTTP_TOKEN",
                ],
                Product::Nomad => [
                    "NOMAD_ADDR",
                    "NOMAD_CACERT",
                    "NOMAD_CLIENT_CERT",
                    "NOMAD_CLIENT_KEY",
                    "NOMAD_TOKEN",
                ],
            };
            let address = Secret::new(format!("https://{}", server.https(product)));
            let files = state.operator_files(product)?;
            let files = files.map(|name| Secret::new(state.path(&name).to_string_lossy()));
            let token = tokens.operator_of(product);
            let values = std::iter::once(address)
                .chain(files)
                .chain(token.map(|token| token.secret.clone()));
            variables.extend(names.into_iter().zip(values));
        }
        Ok(Self { variables })
    }

    /// Name and value of each variable, in order.
    pub(in crate::bootstrap) fn variables(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.variables
            .iter()
            .map(|(name, value)| (*name, value.reveal()))
    }

    /// Lines for a POSIX shell: `. env`, or `eval "$(lb bootstrap env)"`.
    #[must_use]
    pub(in crate::bootstrap) fn shell(&self) -> String {
        self.variables()
            .fold(String::new(), |mut text, (name, value)| {
                let _ = writeln!(text, "export {name}={}", quoted(value));
                text
            })
    }

    /// The same as a JSON object.
    #[must_use]
    pub(in crate::bootstrap) fn json(&self) -> serde_json::Value {
        self.variables()
            .map(|(name, value)| (name.to_owned(), serde_json::Value::from(value)))
            .collect()
    }
}

/// Writes all that the operator gets into the state folder; what is right already is left alone.
/// Returns the paths of what was written.
///
/// # Errors
/// When a certificate is missing or a file cannot be written.
pub(in crate::bootstrap) fn write_all(
    state: &mut State,
    cluster: &Cluster,
    scope: Scope,
) -> Result<Vec<PathBuf>> {
    let missing = || {
        format!(
            "{} has no certificates yet: run `lb bootstrap up`",
            state.dir().display()
        )
    };
    let issued = state.pairs(cluster)?.with_context(missing)?;
    let ca = state.ca_bundle()?.with_context(missing)?;
    let at_consul = state.trusted(Product::Consul)?.with_context(missing)?;
    let tokens = state.tokens()?;
    let mut written = Vec::new();
    let access = Access::new(cluster, scope, state)?;
    if state.put(ENV_FILE, access.shell().as_bytes())? {
        written.push(state.path(ENV_FILE));
    }
    if ensure_pfx(state, chains(&issued.operator, &ca, scope)?)? {
        written.extend([state.path(PFX_FILE), state.path(PFX_PASSWORD_FILE)]);
    }
    let bundle = bundle(
        cluster,
        &issued.lb,
        &at_consul,
        tokens.lb.as_ref().map(|token| &token.secret),
    );
    if state.put(BUNDLE_FILE, bundle.reveal().as_bytes())? {
        written.push(state.path(BUNDLE_FILE));
    }
    written.extend(scrape::write(state, cluster, scope)?);
    Ok(written)
}

/// Sees to it that `client.pfx` holds these pairs. Its password is made once and kept. Says whether
/// it was written.
///
/// # Errors
/// When the pair cannot be read or a file cannot be written.
pub(in crate::bootstrap) fn ensure_pfx(
    state: &mut State,
    chains: Vec<(&str, PrivateKeyChain)>,
) -> Result<bool> {
    let password = match state
        .text(PFX_PASSWORD_FILE)?
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
    {
        Some(password) => Secret::new(password),
        None => {
            let password = password()?;
            state.put(
                PFX_PASSWORD_FILE,
                format!("{}\n", password.reveal()).as_bytes(),
            )?;
            password
        }
    };
    if let Ok(found) = std::fs::read(state.path(PFX_FILE))
        && let Ok(store) =
            KeyStore::from_pkcs12(&found, password.reveal(), Pkcs12ImportPolicy::Relaxed)
    {
        let of_alias = |alias: &str| match store.entry(alias) {
            Some(KeyStoreEntry::PrivateKeyChain(chain)) => Some(chain.certs()),
            _ => None,
        };
        let is_there =
            |(alias, chain): &(&str, PrivateKeyChain)| of_alias(alias) == Some(chain.certs());
        if store.entries_len() == chains.len() && chains.iter().all(is_there) {
            return Ok(false);
        }
    }
    state.put(PFX_FILE, &pfx(chains, &password)?)
}

/// A PKCS #12 file: AES-256 and HMAC-SHA-256, which browsers and OpenSSL 1.1 and later read.
fn pfx(chains: Vec<(&str, PrivateKeyChain)>, password: &Secret) -> Result<Vec<u8>> {
    let mut store = KeyStore::new();
    for (alias, chain) in chains {
        store.add_entry(alias, KeyStoreEntry::PrivateKeyChain(chain));
    }
    let writer = store
        .writer(password.reveal())
        .mac_algorithm(MacAlgorithm::HmacSha256);
    let written = writer
        .encryption_iterations(PFX_ROUNDS)
        .mac_iterations(PFX_ROUNDS)
        .write();
    written.map_err(|error| anyhow::anyhow!("cannot make {PFX_FILE}: {error}"))
}

/// The pair towards each program; the browser shows each the one that it takes. One where one CA
/// signs for both. Programs that read the first alone get Consul's.
fn chains(
    operator: &PerProduct<Pair>,
    ca_bundle: &str,
    scope: Scope,
) -> Result<Vec<(&'static str, PrivateKeyChain)>> {
    let mut chains = vec![("lb cluster operator", chain(&operator.consul, ca_bundle)?)];
    if scope.includes(Product::Nomad) && operator.nomad != operator.consul {
        let chain = chain(&operator.nomad, ca_bundle)?;
        chains.push(("lb cluster operator at nomad", chain));
    }
    Ok(chains)
}

/// From the leaf up to the CA at the top.
fn chain(operator: &Pair, ca_bundle: &str) -> Result<PrivateKeyChain> {
    let key = PrivateKeyDer::from_pem_slice(operator.key.reveal().as_bytes()).ok();
    let key = key.context("the operator's key cannot be read: certs/operator-key.pem")?;
    let key = PrivateKey::from_der(key.secret_der())
        .ok()
        .context("the operator's key is not PKCS #8")?;
    let info =
        pki::describe(&operator.cert).context("the operator's certificate certs/operator.pem")?;
    let mut pems = pki::split(&operator.cert);
    let last = pems.last().map(|pem| pki::describe(pem)).transpose()?;
    let last = last.context("the operator's certificate certs/operator.pem")?;
    let root = pki::split(ca_bundle)
        .into_iter()
        .find(|ca| pki::describe(ca).is_ok_and(|ca| ca.key_id == last.issuer_key_id))
        .context("the operator's certificate is signed by none of the CAs in ca.pem")?;
    pems.push(root);
    let mut certs = Vec::new();
    for pem in pems {
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .ok()
            .context("not a certificate")?;
        certs.push(
            Certificate::from_der(&der)
                .map_err(|error| anyhow::anyhow!("not a certificate: {error}"))?,
        );
    }
    Ok(PrivateKeyChain::new(info.serial.as_bytes(), key, certs))
}

/// 24 letters and digits without those that look alike.
fn password() -> Result<Secret> {
    // 32 of them, so that every five bits of randomness are one.
    const ALPHABET: &[u8; 32] = b"abcdefghjkmnpqrstuvwxyz023456789";
    let mut bytes = [0; 24];
    pki::random(&mut bytes)?;
    Ok(Secret::new(
        bytes
            .iter()
            .map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
            .collect::<String>(),
    ))
}

/// A whole configuration for `lb run --config`: all Consul servers, certificates and token in the
/// file itself, so that it can be carried to where lb is to run.
#[must_use]
pub(in crate::bootstrap) fn bundle(
    cluster: &Cluster,
    lb: &Pair,
    ca_bundle: &str,
    token: Option<&Secret>,
) -> Secret {
    let addresses: Vec<String> = cluster
        .servers(Product::Consul)
        .map(|node| format!("https://{}", node.https(Product::Consul)))
        .collect();
    let mut text = format!(
        "# lb for the cluster {}: lb run --config {BUNDLE_FILE}\n\
         # It holds a private key: keep it to yourself. `lb bootstrap env` writes it anew when certificates change;\n\
         # a running lb takes the new file up by itself.\n\n\
         [consul]\naddress = {}\n",
        cluster.name.escape_debug(),
        toml::Value::from(addresses.join(",")),
    );
    if let Some(token) = token {
        let _ = writeln!(text, "token = {}", toml::Value::from(token.reveal()));
    }
    for (key, pem) in [
        ("ca_pem", ca_bundle),
        ("cert_pem", &lb.cert),
        ("key_pem", lb.key.reveal()),
    ] {
        let _ = write!(text, "{key} = \"\"\"\n{}\n\"\"\"\n", pem.trim());
    }
    Secret::new(text)
}

/// One word for a POSIX shell.
pub(in crate::bootstrap) fn quoted(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/.:_-@%+,=[]".contains(c);
    if !value.is_empty() && value.chars().all(plain) && !value.contains('[') {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;
    use crate::bootstrap::state::tests::full;
    use crate::bootstrap::state::{Token, Tokens};
    use crate::config::{Inputs, load};

    fn token(secret: &str) -> Option<Token> {
        Some(Token {
            accessor: "id".to_owned(),
            secret: Secret::new(secret),
        })
    }

    #[test]
    fn a_shell_reads_back_what_was_meant() {
        let (_folder, mut state, cluster) = full();
        let dir = state.dir().display().to_string();
        let without = Access::new(&cluster, Scope::ConsulOnly, &state).unwrap();
        assert_eq!(
            without.shell(),
            format!(
                "export CONSUL_HTTP_ADDR=https://127.0.32.11:8501\nexport CONSUL_CACERT={dir}/consul-ca.pem\n\
                 export CONSUL_CLIENT_CERT={dir}/certs/operator.pem\nexport CONSUL_CLIENT_KEY={dir}/certs/operator-key.pem\n"
            )
        );
        let tokens = Tokens {
            consul_management: token("root"),
            operator: token("it's $HOME"),
            ..Tokens::default()
        };
        state.save_tokens(&tokens).unwrap();
        let access = Access::new(&cluster, Scope::All, &state).unwrap();
        let script = format!(
            "{}printf '%s|%s|%s|%s' \"$CONSUL_HTTP_TOKEN\" \"$NOMAD_ADDR\" \"$NOMAD_CACERT\" \"$NOMAD_CLIENT_CERT\"",
            access.shell()
        );
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(
            said,
            format!(
                "it's $HOME|https://127.0.32.14:4646|{dir}/nomad-ca.pem|{dir}/certs/operator-nomad.pem"
            )
        );
        assert_eq!(
            access.json()["CONSUL_HTTP_ADDR"],
            "https://127.0.32.11:8501"
        );
        assert!(
            access.json().get("NOMAD_TOKEN").is_none() && !format!("{access:?}").contains("HOME")
        );
    }

    #[test]
    fn openssl_opens_the_browsers_file_and_it_stays_the_same() {
        let (_folder, mut state, cluster) = full();
        assert_eq!(
            write_all(&mut state, &cluster, Scope::All).unwrap().len(),
            // Four, and four for Prometheus.
            8
        );
        assert_eq!(
            write_all(&mut state, &cluster, Scope::All).unwrap(),
            Vec::<PathBuf>::new()
        );
        let read = |password: &Path| {
            let mut command = Command::new("openssl");
            command
                .args(["pkcs12", "-info", "-nodes", "-in"])
                .arg(state.path(PFX_FILE));
            command
                .arg("-passin")
                .arg(format!("file:{}", password.display()))
                .output()
                .unwrap()
        };
        let output = read(&state.path(PFX_PASSWORD_FILE));
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(
            (
                text.matches("BEGIN CERTIFICATE").count(),
                text.matches("BEGIN PRIVATE KEY").count()
            ),
            (6, 2)
        );
        assert!(String::from_utf8_lossy(&output.stderr).contains("AES-256-CBC"));
        assert!(
            !read(&state.path("ca.pem")).status.success(),
            "another password"
        );
        // A new pair: a new file under the same password.
        let password = state.text(PFX_PASSWORD_FILE).unwrap();
        std::fs::remove_file(state.path("certs/operator.pem")).unwrap();
        let authority = state
            .ensure_authorities(None, std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        let soon =
            std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_900_000_000);
        state.ensure_pairs(&cluster, &authority, soon).unwrap();
        let written = write_all(&mut state, &cluster, Scope::All).unwrap();
        assert!(written.contains(&state.path(PFX_FILE)), "{written:?}");
        assert_eq!(state.text(PFX_PASSWORD_FILE).unwrap(), password);
    }

    #[test]
    fn the_bundle_is_a_configuration_of_lb() {
        let (_folder, state, cluster) = full();
        let (lb, ca) = (
            state.pairs(&cluster).unwrap().unwrap().lb,
            state.trusted(Product::Consul).unwrap().unwrap(),
        );
        let text = bundle(&cluster, &lb, &ca, Some(&Secret::new("tok\"en")));
        let file = Some(("lb.toml".into(), text.reveal().to_owned()));
        let loaded = load(&Inputs {
            file,
            ..Inputs::default()
        })
        .unwrap();
        let consul = loaded.config.consul.unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        assert_eq!(consul.addresses, ["https://127.0.32.11:8501"]);
        assert_eq!(
            consul.token.as_ref().map(|token| token.reveal()),
            Some("tok\"en")
        );
        assert_eq!(consul.cert_pem.unwrap().trim(), lb.cert.trim());
        assert_eq!(
            consul.key_pem.unwrap().reveal().trim(),
            lb.key.reveal().trim()
        );
        assert_eq!(consul.ca_pem.unwrap().trim(), ca.trim());
    }
}
