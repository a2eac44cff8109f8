//! What to do about an error, in words: for `lb check --live`.

use rustls::AlertDescription;

use super::error::ConsulError;

/// What to do about it, where that is known. `certificate`: a client certificate is configured.
pub(super) fn hint(error: &ConsulError, certificate: bool) -> Option<String> {
    let text = match error {
        ConsulError::Resolve { .. } => "check the host name in consul.address".to_owned(),
        ConsulError::Connect { reason, .. } if reason.contains("refused") => {
            "nothing listens there: is the agent running, and is this its HTTPS port (ports.https, often 8501)?".to_owned()
        }
        ConsulError::Connect { .. } => "check the address, the route to it and firewalls".to_owned(),
        ConsulError::Exhausted { .. } => "raise the limit of open files (LimitNOFILE, ulimit -n)".to_owned(),
        ConsulError::Tls { alert: Some(alert), .. } | ConsulError::Transport { alert: Some(alert), .. } => refusal(*alert, certificate),
        ConsulError::Tls { reason, .. } => handshake_hint(reason)?,
        ConsulError::Status { code: 400, text, .. } if text.contains("HTTPS server") => {
            "this port speaks TLS: write https:// in consul.address".to_owned()
        }
        ConsulError::Transport { reason, .. } if reason.contains("TLS port?") => {
            "this port speaks TLS: write https:// in consul.address".to_owned()
        }
        ConsulError::Status { code: 403, .. } | ConsulError::Rights { .. } => {
            "give the token this policy: service_prefix \"\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" }"
                .to_owned()
        }
        ConsulError::Status { code: 500, text, .. } if text.contains("leader") => {
            "the servers have no leader: is a majority of them running?".to_owned()
        }
        ConsulError::Status { code: 429, .. } => {
            "the agent limits connections per client (limits.http_max_conns_per_client): lower consul.max_connections".to_owned()
        }
        ConsulError::Timeout { .. } => "the agent took the connection but does not respond: is it stopped or overloaded?".to_owned(),
        _ => return None,
    };
    Some(text)
}

fn refusal(alert: AlertDescription, certificate: bool) -> String {
    match alert {
        AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure => demanded(),
        // What agents built with Go before 1.23 say for a missing one too.
        AlertDescription::BadCertificate if !certificate => demanded(),
        AlertDescription::UnknownCA | AlertDescription::BadCertificate => {
            "the agent refuses the client certificate: it must be signed by the CA in the agent's ca_file".to_owned()
        }
        AlertDescription::CertificateExpired => "the client certificate has expired: renew consul.cert_file".to_owned(),
        AlertDescription::UnrecognisedName => {
            "the agent has no certificate for this name: set consul.server_name".to_owned()
        }
        other => format!("the agent ended the handshake with the alert {other:?}"),
    }
}

fn handshake_hint(reason: &str) -> Option<String> {
    let hints = [
        (
            "InvalidContentType",
            "this port speaks plain HTTP: write http://, or use the HTTPS port (ports.https, often 8501)",
        ),
        (
            "BadSignature",
            "signed by another CA of the same name: set consul.ca_file to the cluster's present CA",
        ),
        (
            "UnknownIssuer",
            "the agent's certificate is signed by another CA: set consul.ca_file to the cluster's CA",
        ),
        (
            "not valid for name",
            "the agent's certificate is for other names: set consul.server_name to one of them",
        ),
        (
            "NotValidForName",
            "the agent's certificate is for other names: set consul.server_name to one of them",
        ),
        (
            "expired",
            "the agent's certificate has expired, or this machine's clock is wrong",
        ),
        (
            "Expired",
            "the agent's certificate has expired, or this machine's clock is wrong",
        ),
    ];
    hints
        .iter()
        .find(|(part, _)| reason.contains(part))
        .map(|(_, hint)| (*hint).to_owned())
}

fn demanded() -> String {
    "the agent demands a client certificate (verify_incoming): set consul.cert_file and consul.key_file".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_certificate_is_not_taken_for_a_missing_one() {
        let error = |alert| ConsulError::Transport {
            agent: String::new(),
            reason: String::new(),
            alert: Some(alert),
        };
        let cases = [
            (AlertDescription::CertificateRequired, false, "demands"),
            (AlertDescription::BadCertificate, false, "demands"),
            (AlertDescription::BadCertificate, true, "refuses"),
            (AlertDescription::UnknownCA, true, "refuses"),
            (AlertDescription::CertificateExpired, true, "expired"),
            (AlertDescription::DecodeError, true, "DecodeError"),
        ];
        for (alert, certificate, part) in cases {
            let hint = hint(&error(alert), certificate).unwrap_or_default();
            assert!(hint.contains(part), "{alert:?} {certificate}: {hint}");
        }
    }

    #[test]
    fn what_is_not_understood_gets_no_hint() {
        let error = ConsulError::Tls {
            agent: String::new(),
            reason: "odd".to_owned(),
            alert: None,
        };
        assert_eq!(hint(&error, true), None);
    }
}
