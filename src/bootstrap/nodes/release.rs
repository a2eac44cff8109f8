//! Official release archives: which checksum is the right one, and that the right people say so.
//!
//! A release is a folder `<url>/<product>/<version>/` with archives per system, a list of their
//! SHA-256 sums, and a signature of that list. List and signature are fetched (by `curl`) and
//! checked (by `gpg`, which knows the one pinned key and nothing else) on the operator's machine;
//! the nodes fetch the archive themselves and hold it to the sum.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::bootstrap::topology::{Cluster, ReleaseKey};

/// How long a list, a signature or a key may take to arrive, or gpg to judge.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where releases come from and whose signature they need. Checked lists are remembered. Cheap to
/// clone.
#[derive(Clone)]
pub struct Releases(Arc<Source>);

struct Source {
    url: String,
    key: ReleaseKey,
    /// Lists whose signature is good, by the name of their release.
    checked: Mutex<HashMap<String, String>>,
}

/// An archive to be installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Archive {
    pub(super) url: String,
    pub(super) sha256: String,
}

impl Releases {
    /// The cluster's source of releases. Fetches nothing.
    #[must_use]
    pub fn new(cluster: &Cluster) -> Self {
        let url = cluster.release_url.trim_end_matches('/').to_owned();
        Self(Arc::new(Source {
            url,
            key: cluster.release_key.clone(),
            checked: Mutex::default(),
        }))
    }

    /// The archive of a product for a system, with the sum that its signed list gives.
    pub(super) async fn archive(
        &self,
        product: &str,
        version: &str,
        os: &str,
        arch: &str,
    ) -> Result<Archive> {
        let release = format!("{product}_{version}");
        let folder = format!("{}/{product}/{version}", self.0.url);
        // Held meanwhile: all nodes need it at once.
        let mut checked = self.0.checked.lock().await;
        let list = match checked.get(&release) {
            Some(list) => list,
            None => {
                let list = self.0.signed_list(&folder, &release).await?;
                checked.entry(release.clone()).or_insert(list)
            }
        };
        let name = format!("{release}_{os}_{arch}.zip");
        let sha256 = sum_in(list, &name)
            .with_context(|| format!("{product} {version} has no archive {name}"))?;
        Ok(Archive {
            url: format!("{folder}/{name}"),
            sha256: sha256.to_owned(),
        })
    }
}

impl Source {
    async fn signed_list(&self, folder: &str, release: &str) -> Result<String> {
        for tool in ["curl", "gpg"] {
            if Command::new(tool)
                .arg("--version")
                .stdin(Stdio::null())
                .output()
                .await
                .is_err()
            {
                bail!(
                    "`{tool}` is needed on this machine to check the releases of {}: install it",
                    self.url
                );
            }
        }
        let work = Work::create()?;
        let list = fetch(&work, "sums", &format!("{folder}/{release}_SHA256SUMS"))
            .await
            .with_context(|| {
                format!(
                    "there is no release {} at {}: is the version right?",
                    release.replace('_', " "),
                    self.url
                )
            })?;
        let key = match &self.key.file {
            Some(file) => file.clone(),
            None => fetch(&work, "key", &self.key.url)
                .await
                .context("cannot fetch the key that releases are signed with")?,
        };
        gpg(&work, &["--import", &key.to_string_lossy()])
            .await
            .and_then(|outcome| {
                if outcome.0 {
                    Ok(())
                } else {
                    bail!("{}", outcome.1)
                }
            })
            .with_context(|| format!("{}: gpg cannot read this key", key.display()))?;
        // A release that was signed by several keys has a signature under the short id of each.
        let short = self.key.fingerprint.get(32..).unwrap_or_default();
        let mut last = None;
        for signature in [
            format!("{release}_SHA256SUMS.sig"),
            format!("{release}_SHA256SUMS.{short}.sig"),
        ] {
            let signature = match fetch(&work, "sig", &format!("{folder}/{signature}")).await {
                Ok(signature) => signature,
                Err(error) => {
                    last = last.or(Some(error));
                    continue;
                }
            };
            let verify = [
                "--status-fd",
                "1",
                "--verify",
                &signature.to_string_lossy(),
                &list.to_string_lossy(),
            ];
            let (_, status) = gpg(&work, &verify).await?;
            match judge(&status, &self.key.fingerprint) {
                Ok(()) => {
                    return std::fs::read_to_string(&list)
                        .context("the list of checksums is not text");
                }
                // What is wrong with the usual signature tells more than that there is no other
                // one.
                Err(reason) => last = Some(anyhow::anyhow!(reason)),
            }
        }
        let reason = last.unwrap_or_else(|| anyhow::anyhow!("they have no signature"));
        Err(reason.context(format!(
            "the checksums of {} are not to be trusted",
            release.replace('_', " ")
        )))
    }
}

/// A folder for one check, gone with it.
struct Work(PathBuf);

impl Work {
    fn create() -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path = std::env::temp_dir().join(format!("lb-release-{:08x}", fastrand::u32(..)));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn fetch(work: &Work, name: &str, url: &str) -> Result<PathBuf> {
    let path = work.0.join(name);
    let mut curl = Command::new("curl");
    // --max-filesize: what is fetched here is short, and a server that sends without end must not
    // fill the disk.
    curl.args([
        "-fsSL",
        "--retry",
        "2",
        "--connect-timeout",
        "15",
        "--max-filesize",
        "1000000",
        "-o",
    ])
    .arg(&path)
    .arg(url);
    let (ok, said) = output(curl).await?;
    if !ok {
        bail!("{url}: {}", said.trim());
    }
    Ok(path)
}

/// Success, and all that it said.
async fn gpg(work: &Work, arguments: &[&str]) -> Result<(bool, String)> {
    let mut gpg = Command::new("gpg");
    gpg.arg("--homedir")
        .arg(home(&work.0)?)
        .args(["--batch", "--no-tty", "--no-auto-key-locate"])
        .args(arguments);
    output(gpg).await
}

/// gpg's own folder, so that it knows no key but ours.
fn home(work: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt as _;
    let home = work.join("gnupg");
    std::fs::DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(&home)?;
    Ok(home)
}

async fn output(mut command: Command) -> Result<(bool, String)> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let name = command
        .as_std()
        .get_program()
        .to_string_lossy()
        .into_owned();
    let output = timeout(PATIENCE, command.output()).await;
    let output =
        output.with_context(|| format!("`{name}` took longer than {} s", PATIENCE.as_secs()))??;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

/// Whether gpg's status lines (doc/DETAILS of GnuPG) tell of a good signature by this key or a
/// subkey of it.
fn judge(status: &str, fingerprint: &str) -> Result<(), String> {
    let lines = || {
        status
            .lines()
            .filter_map(|line| line.strip_prefix("[GNUPG:] "))
    };
    let has = |keyword: &str| lines().any(|line| line.split(' ').next() == Some(keyword));
    if has("BADSIG") {
        return Err("the signature does not fit the list: one of them was changed".to_owned());
    }
    if has("REVKEYSIG") || has("EXPKEYSIG") || has("EXPSIG") {
        return Err(
            "the signature, or the key that made it, has expired or was revoked".to_owned(),
        );
    }
    // VALIDSIG's last field is the primary key's fingerprint.
    let signer = lines().find_map(|line| line.strip_prefix("VALIDSIG ")?.split_whitespace().last());
    match signer {
        Some(signer) if signer.eq_ignore_ascii_case(fingerprint) && has("GOODSIG") => Ok(()),
        Some(signer) => Err(format!("signed by the key {signer}, not by {fingerprint}")),
        None if has("NO_PUBKEY") => {
            let key = lines()
                .find_map(|line| line.strip_prefix("NO_PUBKEY "))
                .unwrap_or("unknown");
            Err(format!(
                "signed by another key ({key}) than {fingerprint}, or the key file does not hold that one"
            ))
        }
        None => Err("gpg finds no signature in what was fetched".to_owned()),
    }
}

/// The sum of a file in a list of lines `SUM  NAME`.
fn sum_in<'a>(list: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = list
        .lines()
        .filter_map(|line| line.split_once(char::is_whitespace));
    let (sum, _) = lines.find(|(_, its)| its.trim_start().trim_start_matches('*') == name)?;
    (sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "AAAA1111";

    #[test]
    fn only_a_good_signature_by_the_pinned_key_counts() {
        let good = "[GNUPG:] GOODSIG X them\n[GNUPG:] VALIDSIG SUB 2026 1 0 4 0 1 10 00 AAAA1111\n";
        assert_eq!(judge(good, OURS), Ok(()));
        for (status, expected) in [
            (
                good.replace("AAAA1111", "BBBB2222"),
                "signed by the key BBBB2222, not by AAAA1111",
            ),
            (good.replace("GOODSIG", "EXPKEYSIG"), "expired"),
            (good.replace("GOODSIG", "REVKEYSIG"), "revoked"),
            (good.replace("GOODSIG X", "SOMETHING"), "not by"),
            ("[GNUPG:] BADSIG X them\n".to_owned(), "changed"),
            (
                "[GNUPG:] ERRSIG X\n[GNUPG:] NO_PUBKEY BBBB\n".to_owned(),
                "another key (BBBB)",
            ),
            (String::new(), "no signature"),
            // What a signer's name or gpg's prose says is not a status.
            (
                "gpg: VALIDSIG AAAA1111 GOODSIG\n".to_owned(),
                "no signature",
            ),
        ] {
            let error = judge(&status, OURS).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_sum_is_found_by_the_whole_name() {
        let sum = "ab".repeat(32);
        let list =
            format!("{sum}  consul_1.8.7_linux_amd64.zip\nshort  consul_1.8.7_linux_arm64.zip\n");
        assert_eq!(
            sum_in(&list, "consul_1.8.7_linux_amd64.zip"),
            Some(sum.as_str())
        );
        for name in [
            "consul_1.8.7_linux_arm64.zip",
            "linux_amd64.zip",
            "consul_1.8.7_linux_amd64",
        ] {
            assert_eq!(sum_in(&list, name), None, "{name}");
        }
    }
}
