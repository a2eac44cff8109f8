//! Why there is no certificate, and what that says about the next try.

use std::error::Error;
use std::time::Instant;

use instant_acme::Problem;

use crate::system::unix_now;

/// What failed. Its word is a label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// The CA says something about the name: it could not be validated, or is not allowed.
    Refused,
    /// The CA wants fewer requests.
    Limited,
    /// The CA cannot be reached, or has trouble of its own.
    Server,
    /// The store cannot be read or written.
    Store,
    /// Another lb may hold the lock by now.
    Lock,
    /// The account cannot be used.
    Account,
    /// What is stored cannot be decrypted.
    Passphrase,
    /// The program that sets DNS records failed.
    Hook,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Limited => "limited",
            Self::Server => "server",
            Self::Store => "store",
            Self::Lock => "lock",
            Self::Account => "account",
            Self::Passphrase => "passphrase",
            Self::Hook => "hook",
        }
    }

    /// Whether the order is over. Else it goes on where it stopped.
    pub(super) fn ends_the_order(self) -> bool {
        matches!(self, Self::Refused | Self::Limited)
    }
}

/// A failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub(super) struct Failure {
    pub(super) kind: Kind,
    pub(super) reason: String,
    /// The earliest time (unix, s) at which the server wants to hear of it again.
    pub(super) retry_at: Option<i64>,
}

impl Failure {
    pub(super) fn new(kind: Kind, reason: impl Into<String>) -> Self {
        Self {
            kind,
            reason: reason.into(),
            retry_at: None,
        }
    }

    /// What a problem document says, which came with this status.
    pub(super) fn of_problem(problem: &Problem, status: u16, retry_at: Option<i64>) -> Self {
        let kind = problem
            .r#type
            .as_deref()
            .and_then(|it| it.strip_prefix("urn:ietf:params:acme:error:"));
        let kind = match kind {
            Some("rateLimited") => Kind::Limited,
            Some("accountDoesNotExist" | "externalAccountRequired" | "userActionRequired") => {
                Kind::Account
            }
            Some("badNonce" | "serverInternal") => Kind::Server,
            _ if status == 429 => Kind::Limited,
            _ if status >= 500 => Kind::Server,
            _ => Kind::Refused,
        };
        let words = [problem.detail.as_deref(), problem.r#type.as_deref()];
        let mut reason = words
            .into_iter()
            .flatten()
            .next()
            .unwrap_or_default()
            .to_owned();
        for part in &problem.subproblems {
            if let Some(detail) = &part.detail {
                reason = format!("{reason}; {detail}");
            }
        }
        Self {
            kind,
            reason: format!("the ACME server responded {status}: {}", shortened(&reason)),
            retry_at,
        }
    }
}

impl From<instant_acme::Error> for Failure {
    fn from(error: instant_acme::Error) -> Self {
        use instant_acme::Error as Acme;
        match error {
            Acme::Api(problem) => {
                let status = problem.status.unwrap_or(400);
                Self::of_problem(&problem, status, None)
            }
            Acme::Other(inner) => match inner.downcast::<Self>() {
                Ok(own) => *own,
                Err(other) => Self::new(Kind::Server, causes(&*other)),
            },
            Acme::Timeout(next) => Self {
                retry_at: next.map(|at| {
                    let seconds = at.saturating_duration_since(Instant::now()).as_secs();
                    unix_now().saturating_add_unsigned(seconds)
                }),
                ..Self::new(
                    Kind::Server,
                    "the ACME server has not finished the order yet",
                )
            },
            other => Self::new(Kind::Server, format!("the ACME server: {other}")),
        }
    }
}

fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// One line, not endless: it goes into logs and the store.
fn shortened(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(500)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_say_what_is_to_be_done() {
        let cases = [
            ("rateLimited", 429, Kind::Limited),
            ("rateLimited", 403, Kind::Limited),
            ("", 429, Kind::Limited),
            ("serverInternal", 500, Kind::Server),
            ("", 503, Kind::Server),
            ("badNonce", 400, Kind::Server),
            ("accountDoesNotExist", 400, Kind::Account),
            ("rejectedIdentifier", 400, Kind::Refused),
            ("unauthorized", 403, Kind::Refused),
            ("dns", 400, Kind::Refused),
            ("unheardOf", 400, Kind::Refused),
        ];
        for (word, status, wanted) in cases {
            let problem = Problem {
                r#type: Some(format!("urn:ietf:params:acme:error:{word}")),
                detail: Some("words\nof it".to_owned()),
                status: None,
                subproblems: Vec::new(),
            };
            let failure = Failure::of_problem(&problem, status, Some(7));
            assert_eq!(
                (failure.kind, failure.retry_at),
                (wanted, Some(7)),
                "{word}"
            );
            assert!(failure.reason.ends_with("words of it"), "{failure}");
        }
    }
}
