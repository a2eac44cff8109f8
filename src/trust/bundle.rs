//! CA certificates of a PEM file, read one by one: what cannot be used costs itself and not its
//! neighbours.
//!
//! A certificate outside its validity period stays a trust anchor: the period of an anchor is not
//! part of path validation (RFC 5280 section 6.1), and a restart must not trust less than the
//! process before it. It is reported all the same.

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer, X509Certificate};

const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
const END: &[u8] = b"-----END CERTIFICATE-----";

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    /// What can be used, in the order of the file.
    pub certificates: Vec<CertificateDer<'static>>,
    /// What was left out, and why.
    pub left_out: Vec<String>,
    /// What is used although it is outside its validity period.
    pub out_of_date: Vec<String>,
}

impl Bundle {
    /// Why `text`, which this was read from, has no certificate that can be used.
    #[must_use]
    pub fn why_empty(&self, text: &[u8]) -> String {
        match self.left_out.is_empty() {
            true => nothing_in(text).to_owned(),
            false => self.left_out.join(", "),
        }
    }
}

/// Reads a PEM text. `now` is the unix time in seconds.
#[must_use]
pub fn read(text: &[u8], now: i64) -> Bundle {
    let mut bundle = Bundle::default();
    let mut rest = text;
    for number in 1.. {
        let Some(begin) = memchr::memmem::find(rest, BEGIN) else {
            break;
        };
        let block = &rest[begin..];
        // A block without its own end must not swallow the next one.
        let next = memchr::memmem::find(&block[BEGIN.len()..], BEGIN)
            .map_or(block.len(), |at| at + BEGIN.len());
        let Some(end) = memchr::memmem::find(&block[..next], END) else {
            bundle
                .left_out
                .push(format!("certificate {number} has no end"));
            rest = &block[next..];
            continue;
        };
        let end = end + END.len();
        rest = &block[end..];
        match usable(&block[..end]) {
            Ok(certificate) => {
                let problem = validity(&certificate, now);
                bundle
                    .out_of_date
                    .extend(problem.map(|problem| format!("certificate {number} {problem}")));
                bundle.certificates.push(certificate);
            }
            Err(reason) => bundle
                .left_out
                .push(format!("certificate {number} cannot be used: {reason}")),
        }
    }
    bundle
}

/// What a file that holds no certificate seems to be, for messages.
#[must_use]
pub fn nothing_in(text: &[u8]) -> &'static str {
    match text {
        [] => "is empty",
        // A SEQUENCE with a length of two bytes: how certificates in DER begin.
        [0x30, 0x82, ..] => "is DER and not PEM; convert it with `openssl x509 -inform der`",
        _ => "holds no certificate (PEM, BEGIN CERTIFICATE)",
    }
}

/// What is wrong with the validity period of a certificate at `now` (unix time, s), if anything is.
#[must_use]
pub fn validity(certificate: &CertificateDer<'_>, now: i64) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let (from, until) = (
        certificate.validity().not_before,
        certificate.validity().not_after,
    );
    let subject = certificate.subject();
    if now < from.timestamp() {
        Some(format!("({subject}) is not valid before {from}"))
    } else if now > until.timestamp() {
        Some(format!("({subject}) expired on {until}"))
    } else {
        None
    }
}

fn usable(block: &[u8]) -> Result<CertificateDer<'static>, String> {
    let certificate = CertificateDer::from_pem_slice(block).map_err(|error| error.to_string())?;
    X509Certificate::from_der(&certificate).map_err(|error| error.to_string())?;
    RootCertStore::empty()
        .add(certificate.clone())
        .map_err(|error| error.to_string())?;
    Ok(certificate)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    /// 2030-01-01.
    const NOW: i64 = 1_893_456_000;

    fn made(from: i32, until: i32) -> String {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        (params.not_before, params.not_after) =
            (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
        params
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .pem()
    }

    #[test]
    fn a_bad_certificate_costs_itself() {
        let (good, old, early) = (made(2020, 2040), made(2020, 2029), made(2031, 2040));
        let garbage = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
        let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let cut = &good[..good.len() / 2];
        // Text, certificates used, left out, out of date.
        let cases = [
            (good.clone(), 1, 0, 0),
            (format!("# comment\n{good}{old}"), 2, 0, 1),
            (format!("{early}{good}"), 2, 0, 1),
            (format!("{garbage}{good}"), 1, 1, 0),
            (format!("{good}{no_certificate}{good}"), 2, 1, 0),
            (format!("{cut}\n{good}"), 1, 1, 0),
            (format!("{good}{cut}"), 1, 1, 0),
            (garbage.to_owned(), 0, 1, 0),
            (String::new(), 0, 0, 0),
        ];
        let why = |text: &str| read(text.as_bytes(), NOW).why_empty(text.as_bytes());
        assert!(
            why(garbage).starts_with("certificate 1 cannot be used: "),
            "{}",
            why(garbage)
        );
        assert_eq!(why(""), "is empty");
        for (text, used, left_out, out_of_date) in cases {
            let found = read(text.as_bytes(), NOW);
            let counts = (
                found.certificates.len(),
                found.left_out.len(),
                found.out_of_date.len(),
            );
            assert_eq!(counts, (used, left_out, out_of_date), "{found:?}");
        }
    }

    #[test]
    fn what_is_no_pem_is_named() {
        let der = CertificateDer::from_pem_slice(made(2020, 2040).as_bytes()).unwrap();
        assert!(nothing_in(&der).contains("DER"));
        assert!(nothing_in(b"").contains("empty"));
        assert!(nothing_in(b"text").contains("no certificate"));
    }

    #[test]
    fn both_ends_of_the_period_are_seen() {
        let at = |pem: &str| {
            validity(
                &CertificateDer::from_pem_slice(pem.as_bytes()).unwrap(),
                NOW,
            )
        };
        assert_eq!(at(&made(2020, 2040)), None);
        assert!(at(&made(2020, 2029)).unwrap().contains("expired on"));
        assert!(
            at(&made(2031, 2040))
                .unwrap()
                .contains("is not valid before")
        );
    }
}
