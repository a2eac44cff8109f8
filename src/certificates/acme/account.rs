//! The account at the CA: one for all lb that share a store.

use instant_acme::{Account, ExternalAccountKey, NewAccount};

use super::failure::{Failure, Kind};
use super::record::{self, Seal, Unreadable};
use super::server::Server;
use super::store::{Lock, Place, Store, Write};
use crate::config::{AcmeConfig, hmac_key};

/// Takes the account of the store, or makes one and keeps it there before it is used. The lock has
/// to be held.
pub(super) async fn open(
    config: &AcmeConfig,
    seal: &Seal,
    store: &Store,
    lock: &Lock,
) -> Result<Account, Failure> {
    let server = || Ok::<_, Failure>(Account::builder_with_http(Box::new(Server::new(config)?)));
    if let Some(text) = store.read(Place::Account).await? {
        let credentials = record::account(&text, seal).map_err(|error| match error {
            Unreadable::Locked(reason) => {
                Failure::new(Kind::Passphrase, format!("the stored account {reason}"))
            }
            Unreadable::Damaged(reason) => Failure::new(
                Kind::Account,
                format!("the stored account {reason}: delete it to have a new one made"),
            ),
        })?;
        return Ok(server()?.from_credentials(credentials).await?);
    }
    let contact = config.email.as_ref().map(|it| format!("mailto:{it}"));
    let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
    let external = external(config)?;
    let new = NewAccount {
        contact: &contact,
        terms_of_service_agreed: true,
        only_return_existing: false,
    };
    lock.check()?;
    let (account, credentials) = server()?
        .create(&new, config.directory.clone(), external.as_ref())
        .await
        .map_err(|error| {
            // What is refused here is the account, whatever the words.
            let mut failure = Failure::from(error);
            if failure.kind == Kind::Refused {
                failure.kind = Kind::Account;
            }
            failure
        })?;
    let text = record::account_text(&credentials, seal)
        .map_err(|error| Failure::new(Kind::Passphrase, error.to_string()))?;
    lock.write(&[Write::put(Place::Account, text)]).await?;
    tracing::info!(account = account.id(), "ACME account made");
    Ok(account)
}

/// The account of the store is none at the CA: the next look makes a new one.
pub(super) async fn forget(lock: &Lock) -> Result<(), Failure> {
    lock.write(&[Write::delete(Place::Account)]).await
}

fn external(config: &AcmeConfig) -> Result<Option<ExternalAccountKey>, Failure> {
    let Some((kid, file)) = &config.external_account else {
        return Ok(None);
    };
    let failed = |reason: String| {
        Failure::new(
            Kind::Account,
            format!("eab_hmac_file {}: {reason}", file.display()),
        )
    };
    let text = std::fs::read(file).map_err(|error| failed(error.to_string()))?;
    let key = hmac_key(&text).ok_or_else(|| failed("is not base64url".to_owned()))?;
    Ok(Some(ExternalAccountKey::new(kid.clone(), &key)))
}
