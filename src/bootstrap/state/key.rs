//! The CA's key on the disk: plain PKCS #8, or encrypted with a passphrase (scrypt, AES-256), as
//! `openssl pkey` reads it.

use std::io::IsTerminal as _;

use anyhow::{Context as _, Result, bail};
use pkcs8::der::SecretDocument;
use pkcs8::der::pem::LineEnding;
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef};

use crate::bootstrap::security::secrets::Secret;

const PLAIN: &str = "PRIVATE KEY";
const ENCRYPTED: &str = "ENCRYPTED PRIVATE KEY";

/// Whether a PEM text is an encrypted key.
pub(super) fn is_encrypted(pem: &str) -> bool {
    pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----")
}

/// Encrypts a plain key.
pub(super) fn encrypt(pem: &Secret, passphrase: &Secret) -> Result<Secret> {
    if passphrase.reveal().is_empty() {
        bail!("the passphrase is empty");
    }
    // No reason is passed on in this file: it could quote what was read.
    let (_, plain) = SecretDocument::from_pem(pem.reveal())
        .ok()
        .context("the CA's key is not PEM")?;
    let plain = PrivateKeyInfoRef::try_from(plain.as_bytes())
        .ok()
        .context("the CA's key is not PKCS #8")?;
    let encrypted = plain
        .encrypt(passphrase.reveal())
        .ok()
        .context("the CA's key cannot be encrypted")?;
    let text = encrypted
        .to_pem(ENCRYPTED, LineEnding::LF)
        .ok()
        .context("the CA's key cannot be written as PEM")?;
    Ok(Secret::new(text.as_str()))
}

/// The key in the clear. `place` names the file in errors.
pub(super) fn decrypt(pem: &Secret, passphrase: Option<&Secret>, place: &str) -> Result<Secret> {
    if !is_encrypted(pem.reveal()) {
        return Ok(pem.clone());
    }
    let Some(passphrase) = passphrase else {
        bail!(
            "{place} is encrypted: give its passphrase with --passphrase-file FILE or in the environment variable \
             LB_BOOTSTRAP_PASSPHRASE"
        );
    };
    let (_, document) = SecretDocument::from_pem(pem.reveal())
        .ok()
        .with_context(|| format!("{place} is not PEM"))?;
    let encrypted = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes())
        .ok()
        .with_context(|| {
            format!(
                "{place} is not an encrypted key that can be read: make it PKCS #8 with AES \
                 (`openssl pkcs8 -topk8 -v2 aes-256-cbc`)"
            )
        })?;
    let plain = encrypted
        .decrypt(passphrase.reveal())
        .ok()
        .with_context(|| {
            format!(
                "wrong passphrase for {place} (from --passphrase-file or LB_BOOTSTRAP_PASSPHRASE)"
            )
        })?;
    let text = plain
        .to_pem(PLAIN, LineEnding::LF)
        .ok()
        .context("the CA's key cannot be written as PEM")?;
    Ok(Secret::new(text.as_str()))
}

/// Prompts for the passphrase on the terminal, without showing it. None when there is no terminal
/// to prompt on.
///
/// # Errors
/// When the terminal cannot be read, or nothing was typed.
pub(super) fn ask_passphrase(prompt: &str) -> Result<Option<Secret>> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(None);
    }
    let typed = rpassword::prompt_password(prompt)
        .context("cannot read the passphrase from the terminal")?;
    if typed.is_empty() {
        bail!("no passphrase was typed");
    }
    Ok(Some(Secret::new(typed)))
}
