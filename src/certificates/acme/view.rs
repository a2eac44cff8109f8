//! What is known of each name. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::challenge::Challenge;
use super::port::NameState;
use super::record::{OrderRecord, Seal, Stored, Unreadable};
use super::store::Texts;
use crate::certificates::source::Pems;

/// Certificates and orders, as the store has them and as this process has seen them before.
#[derive(Debug, Default)]
pub(super) struct View {
    certificates: BTreeMap<String, Known>,
    pub(super) orders: BTreeMap<String, OrderRecord>,
    /// Both shelves were read.
    pub(super) is_complete: bool,
}

/// A certificate.
#[derive(Clone, Debug, Default)]
struct Known {
    /// As the store has it.
    text: bytes::Bytes,
    /// The last one that was good. It stays when the store has nothing better.
    served: Option<Stored>,
    /// What is wrong with the one in the store.
    problem: Option<Unreadable>,
    is_stored: bool,
}

/// What is to be done about a certificate.
#[derive(Clone, Copy, Debug)]
pub(super) enum Standing<'a> {
    /// There is none.
    Missing,
    /// There is one that this lb cannot use and must not replace.
    Locked(&'a str),
    /// There is one.
    Good(&'a Stored),
}

impl View {
    /// Takes what the shelf of certificates holds now.
    pub(super) fn take_certificates(&mut self, texts: &Texts, seal: &Seal) {
        for (host, known) in &mut self.certificates {
            // What was taken away is served on until it is issued anew.
            known.is_stored = texts.contains_key(host);
        }
        for (host, text) in texts {
            self.take_certificate(host, text.clone(), seal);
        }
    }

    /// The same for one of them.
    pub(super) fn take_certificate(&mut self, host: &str, text: bytes::Bytes, seal: &Seal) {
        let known = self.certificates.entry(host.to_owned()).or_default();
        known.is_stored = true;
        // One that could not be decrypted is tried again: the passphrase may be another by now.
        if known.text == text && known.served.is_some() && known.problem.is_none() {
            return;
        }
        match Stored::decode(&text, host, seal) {
            Ok(stored) => (known.served, known.problem) = (Some(stored), None),
            Err(problem) => known.problem = Some(problem),
        }
        known.text = text;
    }

    /// Takes what the shelf of orders holds now. What is not understood is not an order.
    pub(super) fn take_orders(&mut self, texts: &Texts) {
        self.orders = texts
            .iter()
            .filter_map(|(host, text)| Some((host.clone(), OrderRecord::decode(text)?)))
            .collect();
    }

    /// The pairs for handshakes, by host.
    pub(super) fn pems(&self) -> Pems {
        let pem = |known: &Known| match (&known.problem, &known.served) {
            (Some(problem), _) => Some(Err(format!("its value in the store {problem}"))),
            (None, Some(stored)) => Some(Ok(stored.pem.clone())),
            (None, None) => None,
        };
        self.certificates
            .iter()
            .filter_map(|(host, known)| Some((PathBuf::from(host), pem(known)?)))
            .collect()
    }

    pub(super) fn standing(&self, host: &str) -> Standing<'_> {
        match self.certificates.get(host) {
            Some(Known {
                problem: Some(Unreadable::Locked(reason)),
                ..
            }) => Standing::Locked(reason),
            Some(Known {
                served: Some(stored),
                is_stored: true,
                ..
            }) => Standing::Good(stored),
            _ => Standing::Missing,
        }
    }

    /// The one that is served.
    fn served(&self, host: &str) -> Option<&Stored> {
        self.certificates.get(host)?.served.as_ref()
    }

    pub(super) fn challenges(&self) -> impl Iterator<Item = (&String, &Challenge)> {
        self.orders
            .iter()
            .filter_map(|(host, order)| Some((host, order.challenge.as_ref()?)))
    }

    /// What is to be said of the names that are `wanted`, refused, or have a certificate.
    /// `troubles`: what failed here and is not in the store.
    pub(super) fn states(
        &self,
        wanted: &BTreeSet<String>,
        refused: &BTreeSet<String>,
        troubles: &BTreeMap<String, (String, i64)>,
    ) -> Vec<NameState> {
        let mut names: BTreeSet<&String> = wanted.iter().chain(refused).collect();
        names.extend(self.certificates.keys());
        let state = |host: &String| {
            let order = self.orders.get(host);
            let served = self.served(host);
            let failure = order.and_then(|order| order.failure.as_ref());
            let trouble = troubles.get(host);
            let (state, reason) = if refused.contains(host) {
                let reason = "a wildcard needs challenge = \"dns-01\"";
                ("refused", Some(reason.to_owned()))
            } else if let Standing::Locked(reason) = self.standing(host) {
                (
                    "failing",
                    Some(format!("its certificate in the store {reason}")),
                )
            } else if let Some((reason, _)) = trouble {
                ("failing", Some(reason.clone()))
            } else if let Some(failure) = failure {
                ("failing", Some(failure.reason.clone()))
            } else if order.is_some() {
                ("ordering", None)
            } else if served.is_none() {
                ("waiting", None)
            } else if wanted.contains(host) {
                ("valid", None)
            } else {
                ("unused", None)
            };
            NameState {
                name: host.clone(),
                state,
                reason,
                not_after: served.map(|it| it.validity.not_after),
                next_try: trouble
                    .map(|(_, at)| *at)
                    .or(failure.map(|failure| failure.retry_at)),
            }
        };
        names.into_iter().map(state).collect()
    }
}
