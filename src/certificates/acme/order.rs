//! One order, from its begin (or from where another lb left it) to a certificate in the store.
//!
//! ```text
//! new order ─► its place and key kept ─► challenge kept ─► "ready" ─► validated ─► CSR ─► certificate kept
//! ```
//! Each step is kept before the next one, so that the next holder of the lock goes on with the same
//! order.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeStatus, ChallengeType, Identifier, NewOrder, Order,
    OrderStatus, RetryPolicy,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::challenge::Challenge;
use super::failure::{Failure, Kind};
use super::hook::Record;
use super::record::{OrderRecord, Seal, Stored, certificate_text};
use super::store::{Lock, Place, Shelf, Store, Write};
use crate::config::{AcmeChallenge, AcmeConfig};

/// How often a pending order is looked at, unless the CA says when, and for how long. The order goes
/// on after that with the next try.
const POLL: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(500))
    .backoff(1.4)
    .timeout(Duration::from_secs(120));

/// What orders share.
pub(super) struct Desk<'a> {
    pub(super) config: &'a AcmeConfig,
    pub(super) seal: &'a Seal,
    pub(super) store: &'a Store,
    pub(super) lock: &'a Lock,
    /// Called when an order is at another step.
    pub(super) note: &'a dyn Fn(&str, &OrderRecord),
}

/// Orders a certificate for `host`; `replaces`: the one that it takes the place of, as the CA calls
/// it. Returns what the store holds by now.
pub(super) async fn run(
    desk: &Desk<'_>,
    account: &Account,
    host: &str,
    replaces: Option<String>,
) -> Result<String, Failure> {
    let place = Place::Of(Shelf::Orders, host);
    // What another lb left is known to the store alone, for all this one has heard.
    let kept = desk.store.read(place).await?;
    let kept = kept.and_then(|text| OrderRecord::decode(&text));
    let (mut order, mut record, key) = match Box::pin(resumed(desk, account, host, kept)).await? {
        Some(found) => found,
        None => Box::pin(begun(desk, account, host, replaces)).await?,
    };
    let mut dns = None;
    if order.state().status == OrderStatus::Pending {
        dns = Box::pin(prove(desk, &mut order, &mut record, host)).await?;
        let polled = order.poll_ready(&POLL).await;
        let refused = match polled {
            Ok(OrderStatus::Ready | OrderStatus::Valid | OrderStatus::Processing) => None,
            Ok(_) => Some(why_invalid(&mut order).await),
            Err(error) => Some(match Failure::from(error) {
                failure if failure.kind == Kind::Refused => why_invalid(&mut order).await,
                failure => failure,
            }),
        };
        if let Some(refused) = refused {
            if let Some(dns) = dns {
                dns.clean_up().await;
            }
            return Err(refused);
        }
    }
    if let Some(dns) = dns {
        dns.clean_up().await;
    }
    if order.state().status == OrderStatus::Ready {
        order.finalize_csr(&csr(host, &key)?).await?;
    }
    let chain = order.poll_certificate(&POLL).await?;
    Stored::new(&chain, &key)
        .map_err(|error| Failure::new(Kind::Server, format!("the CA's certificate {error}")))?;
    let text = certificate_text(&chain, &key, host, desk.seal)
        .map_err(|error| Failure::new(Kind::Passphrase, error.to_string()))?;
    desk.lock
        .write(&[
            Write::put(Place::Of(Shelf::Certificates, host), text.clone()),
            Write::delete(place),
        ])
        .await?;
    Ok(text)
}

type Open = (Order, OrderRecord, String);

/// The order that a record tells of, if the CA still has it.
async fn resumed(
    desk: &Desk<'_>,
    account: &Account,
    host: &str,
    kept: Option<OrderRecord>,
) -> Result<Option<Open>, Failure> {
    let Some(record) = kept.filter(|record| record.failure.is_none()) else {
        return Ok(None);
    };
    let (Some(url), Some(Ok(key))) = (&record.url, record.key(host, desk.seal)) else {
        return Ok(None);
    };
    match account.order(url.clone()).await.map_err(Failure::from) {
        Ok(mut order) => {
            if order.state().status == OrderStatus::Invalid {
                return Ok(None);
            }
            tracing::info!(host, order = url, "an order that was begun before goes on");
            Ok(Some((order, record, key)))
        }
        // The CA does not have it any more.
        Err(failure) if failure.kind == Kind::Refused => Ok(None),
        Err(failure) => Err(failure),
    }
}

async fn begun(
    desk: &Desk<'_>,
    account: &Account,
    host: &str,
    replaces: Option<String>,
) -> Result<Open, Failure> {
    let key = KeyPair::generate()
        .map_err(|error| Failure::new(Kind::Server, format!("no key could be made: {error}")))?
        .serialize_pem();
    let identifiers = [Identifier::Dns(host.to_owned())];
    let mut new = NewOrder::new(&identifiers);
    if let Some(id) = replaces.as_deref().and_then(identifier) {
        new = new.replaces(id);
    }
    desk.lock.check()?;
    let order = account.new_order(&new).await?;
    let record = OrderRecord::pending(order.url(), &key, host, desk.seal)
        .map_err(|error| Failure::new(Kind::Passphrase, error.to_string()))?;
    keep(desk, host, &record).await?;
    tracing::info!(host, order = order.url(), "certificate ordered");
    Ok((order, record, key))
}

fn identifier(id: &str) -> Option<instant_acme::CertificateIdentifier<'_>> {
    let (authority, serial) = id.split_once('.')?;
    Some(instant_acme::CertificateIdentifier {
        authority_key_identifier: authority.into(),
        serial: serial.into(),
    })
}

async fn keep(desk: &Desk<'_>, host: &str, record: &OrderRecord) -> Result<(), Failure> {
    let place = Place::Of(Shelf::Orders, host);
    desk.lock.write(&[Write::put(place, record.text())]).await?;
    (desk.note)(host, record);
    Ok(())
}

/// Gets everything ready for the CA's look, and tells it.
async fn prove(
    desk: &Desk<'_>,
    order: &mut Order,
    record: &mut OrderRecord,
    host: &str,
) -> Result<Option<Record>, Failure> {
    let wanted = match desk.config.challenge {
        AcmeChallenge::Http01 => ChallengeType::Http01,
        AcmeChallenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
        AcmeChallenge::Dns01 => ChallengeType::Dns01,
    };
    let mut dns = None;
    let mut authorizations = order.authorizations();
    while let Some(next) = authorizations.next().await {
        let mut authorization = next?;
        if authorization.status != AuthorizationStatus::Pending {
            continue;
        }
        let Some(mut challenge) = authorization.challenge(wanted.clone()) else {
            let word = desk.config.challenge.as_str();
            let reason = format!("the ACME server offers no {word} for {host}");
            return Err(Failure::new(Kind::Refused, reason));
        };
        let answer = challenge.key_authorization();
        record.challenge = match desk.config.challenge {
            AcmeChallenge::Http01 => Some(Challenge::Http {
                token: challenge.token.clone(),
                authorization: answer.as_str().to_owned(),
            }),
            AcmeChallenge::TlsAlpn01 => Some(Challenge::Tls {
                authorization: answer.as_str().to_owned(),
            }),
            AcmeChallenge::Dns01 => None,
        };
        match (&record.challenge, &desk.config.dns_hook) {
            (Some(_), _) => keep(desk, host, record).await?,
            (None, Some(program)) => {
                dns = Some(Record::present(program, host, answer.dns_value()).await?);
            }
            (None, None) => {
                let reason = "dns-01 without dns.exec";
                return Err(Failure::new(Kind::Hook, reason));
            }
        }
        if challenge.status == ChallengeStatus::Pending {
            challenge.set_ready().await?;
        }
    }
    Ok(dns)
}

/// What the CA found at the host.
async fn why_invalid(order: &mut Order) -> Failure {
    let mut authorizations = order.authorizations();
    while let Some(next) = authorizations.next().await {
        let Ok(mut authorization) = next else {
            continue;
        };
        let Ok(state) = authorization.refresh().await else {
            continue;
        };
        let problem = state.challenges.iter().find_map(|it| it.error.as_ref());
        if let Some(problem) = problem {
            let mut failure = Failure::of_problem(problem, problem.status.unwrap_or(403), None);
            failure.kind = Kind::Refused;
            failure.reason = format!("the host could not be validated: {}", failure.reason);
            return failure;
        }
    }
    Failure::new(
        Kind::Refused,
        "the ACME server gave the order up without a reason",
    )
}

fn csr(host: &str, key: &str) -> Result<Vec<u8>, Failure> {
    let failed = |error: rcgen::Error| {
        Failure::new(Kind::Server, format!("no request could be made: {error}"))
    };
    let key = KeyPair::from_pem(key).map_err(failed)?;
    let mut params = CertificateParams::new(vec![host.to_owned()]).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params
        .serialize_request(&key)
        .map_err(failed)?
        .der()
        .to_vec())
}
