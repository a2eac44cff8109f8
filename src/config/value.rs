//! Types that a setting can have: what is written for one, how it is read, and how it is shown.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::error::Location;
use super::format_duration;
use super::key::Kind;
use super::mask::{MASK, without_password};
use super::networks::Networks;
use super::ports::Ports;
use super::raw::{Placed, RawValue};
use super::secret::Secret;
use super::typed::{Typed, header_of};
use super::words::Words;
use crate::catalog::options::Strategy;

/// A type that a setting can have.
pub(crate) trait SettingValue: Sized {
    /// What is written for it. A declaration may add bounds.
    const KIND: Kind;

    /// From a value of its kind.
    ///
    /// # Errors
    /// What is wrong with the value that its kind does not know of.
    fn from_typed(value: Typed) -> Result<Self, Problem>;

    /// The value of a key that is not set and has no default.
    fn unset() -> Self;

    /// For `/api/config`, without secrets.
    fn show(&self) -> Value;
}

/// What is wrong with a value, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) problem: String,
    pub(crate) advice: String,
}

/// Header fields with values that are marked as secret.
pub type Headers = Vec<(HeaderName, HeaderValue)>;

/// URLs, written as one text with commas between them, or as a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Urls(pub Vec<String>);

impl<const N: usize> PartialEq<[&str; N]> for Urls {
    fn eq(&self, other: &[&str; N]) -> bool {
        self.0 == *other
    }
}

impl From<Vec<String>> for Urls {
    fn from(urls: Vec<String>) -> Self {
        Self(urls)
    }
}

impl std::ops::Deref for Urls {
    type Target = Vec<String>;

    fn deref(&self) -> &Vec<String> {
        &self.0
    }
}

/// Implements [`SettingValue`]: the kind, the variant of [`Typed`] with what becomes of its value,
/// the value when unset, and how it is shown.
macro_rules! setting_values {
    ($($type:ty: $kind:expr, $variant:ident($value:ident) => $read:expr, $unset:expr, |$this:ident| $show:expr;)+) => {
        $(impl SettingValue for $type {
            const KIND: Kind = $kind;

            fn from_typed(value: Typed) -> Result<Self, Problem> {
                // The kind lets nothing else through.
                Ok(if let Typed::$variant($value) = value { $read } else { $unset })
            }

            fn unset() -> Self {
                $unset
            }

            fn show(&self) -> Value {
                let $this = self;
                $show
            }
        })+
    };
}

setting_values! {
    bool: Kind::Bool, Bool(it) => it, false, |it| json!(it);
    u16: COUNT, Count(it) => it.try_into().unwrap_or(Self::MAX), 0, |it| json!(it);
    u32: COUNT, Count(it) => it.try_into().unwrap_or(Self::MAX), 0, |it| json!(it);
    u64: COUNT, Count(it) => it, 0, |it| json!(it);
    usize: COUNT, Count(it) => it.try_into().unwrap_or(Self::MAX), 0, |it| json!(it);
    Duration: Kind::Time(0, u64::MAX), Time(it) => it, Self::ZERO, |it| json!(format_duration(*it));
    String: Kind::Text, Text(it) => it, Self::new(), |it| json!(it);
    Secret: Kind::Secret, Text(it) => Self::new(it), Self::default(), |_it| json!(MASK);
    PathBuf: Kind::Path, Path(it) => it, Self::new(), |it| json!(it);
    SocketAddr: Kind::Socket, Socket(it) => it, Self::from((Ipv4Addr::LOCALHOST, 0)), |it| json!(it);
    Vec<SocketAddr>: Kind::Sockets, Sockets(it) => it, Self::new(), |it| json!(it);
    Ports: Kind::Ports, Ports(it) => it, Self::default(), |it| json!(it.to_string());
    Networks: Kind::Networks, Networks(it) => it, Self::default(), |it| json!(it.texts());
    Vec<f64>: Kind::Numbers, Numbers(it) => it, Self::new(), |it| json!(it);
    Placed: Kind::Free, Free(it) => it, Self::nothing(), |it| json!(it.value.to_string());
    Vec<String>: Kind::List, List(it) => it, Self::new(), |it| json!(it);
    Urls: Kind::Urls, List(it) => Self(it), Self::default(), |urls| {
        json!(urls.iter().map(|url| without_password(url)).collect::<Vec<_>>().join(","))
    };
    Headers: Kind::Headers, List(it) => it.iter().filter_map(|it| header_of(it)).collect(), Self::new(), |headers| {
        headers.iter().map(|(name, _)| format!("{name}: {MASK}")).collect()
    };
    Strategy: Kind::Strategy, Text(it) => it.parse().unwrap_or_default(), Self::default(), |it| json!(it.to_string());
}

impl Placed {
    fn nothing() -> Self {
        Self {
            value: RawValue::Text(String::new()),
            place: Location::Absent,
        }
    }
}

/// Any number; declarations say which ones.
const COUNT: Kind = Kind::Count(0, u64::MAX);

impl SettingValue for Option<HeaderName> {
    const KIND: Kind = Kind::Header;

    fn from_typed(value: Typed) -> Result<Self, Problem> {
        Ok(match value {
            Typed::Text(name) => name.parse().ok(),
            _ => None,
        })
    }

    fn unset() -> Self {
        None
    }

    fn show(&self) -> Value {
        json!(self.as_ref().map(HeaderName::as_str))
    }
}

impl<T: SettingValue> SettingValue for Option<T> {
    const KIND: Kind = T::KIND;

    fn from_typed(value: Typed) -> Result<Self, Problem> {
        T::from_typed(value).map(Some)
    }

    fn unset() -> Self {
        None
    }

    fn show(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::show)
    }
}

impl<T: Words> SettingValue for T {
    const KIND: Kind = Kind::Word(T::WORDS);

    fn from_typed(value: Typed) -> Result<Self, Problem> {
        Ok(match value {
            Typed::Text(word) => T::from_word(&word).unwrap_or_else(T::unset),
            _ => T::unset(),
        })
    }

    fn unset() -> Self {
        T::ALL[0]
    }

    fn show(&self) -> Value {
        json!(self.word())
    }
}

impl<T: Words> SettingValue for Vec<T> {
    const KIND: Kind = Kind::Words(T::WORDS);

    fn from_typed(value: Typed) -> Result<Self, Problem> {
        Ok(match value {
            Typed::List(words) => words.iter().filter_map(|it| T::from_word(it)).collect(),
            _ => Vec::new(),
        })
    }

    fn unset() -> Self {
        Vec::new()
    }

    fn show(&self) -> Value {
        self.iter().map(|it| it.word()).collect()
    }
}
