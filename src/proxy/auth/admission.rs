//! What a scheme says of a request, whatever its kind.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::config::ExternalAuth;
use crate::proxy::error::ProxyError;
use crate::proxy::http::headers::remove_lookalikes;

/// What a scheme says of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may pass, maybe with other fields.
    Granted(Option<Box<Granted>>),
    /// It may not; the value of `WWW-Authenticate`, which no 401 may be without (RFC 9110 section
    /// 15.5.2).
    Refused(HeaderValue),
    /// It may not, whatever credentials of this kind it brings; the value of `WWW-Authenticate`.
    Forbidden(HeaderValue),
    /// It may not, and this is what the client is told.
    Denied(Box<Denied>),
    /// Too many requests wait to be decided.
    Busy,
    /// The service that decides did not respond.
    Unavailable,
    /// There are no keys to verify it with.
    KeysMissing,
    /// There is no such scheme.
    Unknown,
}

impl Admission {
    /// The proxy's own response to a request that may not pass, with the challenge that belongs to
    /// it. (The response of a service goes to clients of HTTP as it is, and not to those of gRPC.)
    /// `bare_errors`: as Fabio responds.
    #[must_use]
    pub fn refusal(&self, bare_errors: bool) -> (ProxyError, Option<HeaderValue>) {
        match self {
            Self::Refused(challenge) => (ProxyError::Unauthorized, Some(challenge.clone())),
            Self::Forbidden(challenge) => (ProxyError::Forbidden, Some(challenge.clone())),
            Self::KeysMissing => (ProxyError::AuthKeysMissing, None),
            // With a challenge, which Fabio forgets.
            Self::Unknown if bare_errors => (
                ProxyError::Unauthorized,
                Some(HeaderValue::from_static("Basic realm=\"lb\"")),
            ),
            Self::Unknown => (ProxyError::AuthUnknown, None),
            Self::Busy => (ProxyError::AuthBusy, None),
            Self::Unavailable => (ProxyError::AuthUnavailable, None),
            Self::Granted(_) | Self::Denied(_) => (ProxyError::Unauthorized, None),
        }
    }
}

/// What a response changes in the request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// Replaced, or taken away where there is no value.
    set: Vec<(HeaderName, Option<HeaderValue>)>,
    /// Added to what the client sent.
    append: Vec<(HeaderName, Vec<HeaderValue>)>,
}

impl Granted {
    /// The fields that it is about.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        let append = self.append.iter().map(|(name, _)| name);
        self.set.iter().map(|(name, _)| name).chain(append)
    }

    /// Changes the fields that an instance gets. What the client sent under names that could be
    /// taken for these goes.
    pub fn apply(&self, fields: &mut HeaderMap) {
        // All of them first: two of the names may be like each other.
        for name in self.names() {
            remove_lookalikes(fields, name);
        }
        for (name, value) in &self.set {
            match value {
                Some(value) => fields.insert(name, value.clone()),
                None => fields.remove(name),
            };
        }
        for (name, values) in &self.append {
            for value in values {
                fields.append(name, value.clone());
            }
        }
    }

    /// Both, the changes of `second` after those of `first`.
    #[must_use]
    pub fn one_after_another(
        first: Option<Box<Self>>,
        second: Option<Box<Self>>,
    ) -> Option<Box<Self>> {
        match (first, second) {
            (Some(mut first), Some(second)) => {
                // Of one name the later counts.
                let is_set = |name: &HeaderName| second.set.iter().any(|(other, _)| other == name);
                first.append.retain(|(name, _)| !is_set(name));
                first.set.extend(second.set);
                first.append.extend(second.append);
                Some(first)
            }
            (first, second) => first.or(second),
        }
    }

    /// Sets these, and takes away those without a value.
    pub(super) fn setting(set: Vec<(HeaderName, Option<HeaderValue>)>) -> Self {
        Self {
            set,
            append: Vec::new(),
        }
    }

    /// How long the values are, together.
    pub(super) fn length(&self) -> usize {
        let set = self.set.iter().filter_map(|(_, value)| value.as_ref());
        let append = self.append.iter().flat_map(|(_, values)| values);
        set.chain(append).map(HeaderValue::len).sum()
    }

    /// What the configuration takes over of a response.
    pub(super) fn of(config: &ExternalAuth, answer: &HeaderMap) -> Self {
        let set = config
            .set_headers
            .iter()
            .map(|name| (name.clone(), answer.get(name).cloned()));
        let values = |name: &HeaderName| answer.get_all(name).iter().cloned().collect::<Vec<_>>();
        let append = config
            .append_headers
            .iter()
            .map(|name| (name.clone(), values(name)));
        Self {
            set: set.collect(),
            append: append.collect(),
        }
    }
}

/// The response that the client gets instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Status that the client gets.
    pub status: StatusCode,
    /// Fields, those of the connection included.
    pub headers: HeaderMap,
    /// Content that the client gets.
    pub body: bytes::Bytes,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_an_earlier_scheme_sets_a_later_one_does_not_change() {
        let name = |name: &'static str| HeaderName::from_static(name);
        let value = HeaderValue::from_static;
        let later = Granted {
            set: vec![
                (name("x-user"), Some(value("later"))),
                (name("x-own"), Some(value("1"))),
            ],
            append: vec![
                (name("x-gone"), vec![value("later")]),
                (name("x-list"), vec![value("b")]),
            ],
        };
        let earlier = Granted {
            set: vec![
                (name("x-user"), Some(value("earlier"))),
                (name("x-gone"), None),
            ],
            append: vec![(name("x-list"), vec![value("a")])],
        };
        let [later, earlier] = [later, earlier].map(|it| Some(Box::new(it)));
        let both = Granted::one_after_another(later.clone(), earlier.clone()).unwrap();
        let mut fields = HeaderMap::new();
        fields.insert("x-gone", value("client"));
        both.apply(&mut fields);
        let mut shown: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        shown.sort();
        assert_eq!(
            shown,
            ["x-list: a", "x-list: b", "x-own: 1", "x-user: earlier"]
        );
        assert_eq!(Granted::one_after_another(later.clone(), None), later);
        assert_eq!(Granted::one_after_another(None, earlier.clone()), earlier);
    }

    #[test]
    fn fields_are_replaced_taken_away_and_added() {
        let names = |names: &[&'static str]| {
            names
                .iter()
                .map(|name| HeaderName::from_static(name))
                .collect()
        };
        let config = ExternalAuth {
            endpoint: crate::config::Secret::new("http://h/"),
            set_headers: names(&["x-user", "x-gone"]),
            append_headers: names(&["x-group", "x-none"]),
            timeout: Duration::from_secs(1),
        };
        let map = |fields: &[(&'static str, &'static str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in fields {
                map.append(*name, HeaderValue::from_static(value));
            }
            map
        };
        let granted = Granted::of(
            &config,
            &map(&[
                ("x-user", "ann"),
                ("x-group", "b"),
                ("x-group", "c"),
                ("x", "y"),
            ]),
        );
        let mut fields = map(&[
            ("x-user", "forged"),
            ("x-gone", "forged"),
            ("x-group", "a"),
            ("x-none", "1"),
            ("k", "v"),
        ]);
        for name in ["x_user", "x.user", "x_gone", "x~gone", "x_group", "x.none"] {
            fields.append(name, HeaderValue::from_static("forged"));
        }
        granted.apply(&mut fields);
        let wanted = map(&[
            ("x-user", "ann"),
            ("x-group", "a"),
            ("x-group", "b"),
            ("x-group", "c"),
            ("x-none", "1"),
            ("k", "v"),
        ]);
        assert_eq!(fields, wanted);
    }
}
