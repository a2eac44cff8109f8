//! From values as written to values with a type, by the key's kind.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::Location;
use super::key::{Key, Kind};
use super::networks::Networks;
use super::ports::Ports;
use super::raw::{Entry, Placed, RawValue};
use crate::catalog::duration::parse_duration;
use crate::catalog::options::Strategy;

/// A value with its type.
#[derive(PartialEq)]
pub(crate) enum Typed {
    Text(String),
    Bool(bool),
    Count(u64),
    Time(Duration),
    Path(PathBuf),
    Socket(SocketAddr),
    List(Vec<String>),
    Sockets(Vec<SocketAddr>),
    Ports(Ports),
    Networks(Networks),
    Numbers(Vec<f64>),
    Free(Placed),
}

pub(super) fn default_of(key: &Key) -> Option<Typed> {
    let entry = Entry {
        value: RawValue::Bare(key.default?.to_owned()),
        place: Location::Absent,
        layer: 0,
    };
    Some(convert(key, &entry).expect("declared defaults fit their kinds"))
}

/// Whether two entries of a key say the same; false where one of them does not fit.
pub(super) fn same_value(key: &Key, one: &Entry, other: &Entry) -> bool {
    matches!((convert(key, one), convert(key, other)), (Ok(one), Ok(other)) if one == other)
}

/// `Name: value`.
pub(super) fn header_of(text: &str) -> Option<(http::HeaderName, http::HeaderValue)> {
    let (name, value) = text.split_once(':')?;
    let mut value = http::HeaderValue::from_str(value.trim()).ok()?;
    value.set_sensitive(true);
    Some((name.trim().parse().ok()?, value))
}

/// The value of an entry by the kind of its key, or what is wrong with it.
pub(super) fn convert(key: &Key, entry: &Entry) -> Result<Typed, String> {
    let value = &entry.value;
    let text = match value {
        RawValue::Bare(text) | RawValue::Text(text) => Some(text.trim()),
        _ => None,
    };
    let bare = matches!(value, RawValue::Bare(_));
    match key.kind {
        Kind::Text | Kind::Secret => text
            .map(|text| Typed::Text(text.to_owned()))
            .ok_or("is not a text"),
        Kind::Path => match (text, &entry.place) {
            (None, _) => Err("is not a text"),
            (Some(""), _) => Ok(Typed::Text(String::new())),
            (Some(text), Location::File(file, _)) => {
                let folder = file.parent().unwrap_or(Path::new(""));
                Ok(Typed::Path(folder.join(text)))
            }
            (Some(text), _) => Ok(Typed::Path(text.into())),
        },
        Kind::Bool => match (value, text) {
            (RawValue::Bool(value), _) => Ok(Typed::Bool(*value)),
            (_, Some(text)) if bare => parse_bool(text)
                .map(Typed::Bool)
                .ok_or("is neither true nor false"),
            _ => Err("is neither true nor false"),
        },
        Kind::Count(min, max) => {
            let number = match (value, text) {
                (RawValue::Integer(text), _) => text.replace('_', ""),
                (_, Some(text)) if bare => text.to_owned(),
                (_, Some(_)) => return Err("is a text, not a number".to_owned()),
                _ => return Err("is not a whole number".to_owned()),
            };
            match number.trim_start_matches('+').parse::<i128>() {
                Ok(number) if number < i128::from(min) => Err("is too small"),
                Ok(number) if number > i128::from(max) => Err("is too large"),
                Ok(number) => u64::try_from(number)
                    .map(Typed::Count)
                    .map_err(|_| "is too large"),
                Err(_) => Err("is not a whole number"),
            }
        }
        Kind::Time(min, max) => {
            let Some(text) = text else {
                return Err(if matches!(value, RawValue::Integer(_)) {
                    "has no unit"
                } else {
                    "is not a duration"
                }
                .into());
            };
            match parse_duration(text)? {
                time if time < Duration::from_millis(min) => Err("is too short"),
                time if time > Duration::from_millis(max) => Err("is too long"),
                time => Ok(Typed::Time(time)),
            }
        }
        Kind::Socket => parse_socket(text.unwrap_or_default(), None).map(Typed::Socket),
        Kind::Ports => {
            let items = items(value).ok_or("is not a range of ports, nor a list of them")?;
            return items.join(",").parse().map(Typed::Ports);
        }
        Kind::Networks => {
            let items = items(value).ok_or("is not a list of networks")?;
            return Networks::parse(&items).map(Typed::Networks);
        }
        Kind::Sockets => {
            let items = items(value).ok_or("is not a list")?;
            let parsed: Result<Vec<_>, _> = items
                .iter()
                .map(|item| parse_socket(item, Some(53)))
                .collect();
            parsed.map(Typed::Sockets)
        }
        Kind::Headers => {
            let items = items(value).ok_or("is not a list of headers")?;
            match items.iter().all(|item| header_of(item).is_some()) {
                true => Ok(Typed::List(items)),
                false => Err("holds something that is not a header"),
            }
        }
        Kind::List | Kind::Urls => items(value)
            .map(Typed::List)
            .ok_or("is not a list of texts"),
        Kind::Word(words) => match text {
            Some(text) if words.contains(&text) => Ok(Typed::Text(text.to_owned())),
            _ => Err("is not one of the known words"),
        },
        Kind::Words(words) => {
            let items = items(value).ok_or("is not a list of texts")?;
            if items.is_empty() {
                return Err("is empty".to_owned());
            }
            match items.iter().find(|item| !words.contains(&item.as_str())) {
                Some(_) => Err("names something unknown"),
                None => Ok(Typed::List(items)),
            }
        }
        Kind::Header => match text {
            Some(text) if text.parse::<http::HeaderName>().is_ok() => {
                Ok(Typed::Text(text.to_owned()))
            }
            _ => Err("is not the name of a header"),
        },
        Kind::Numbers => return numbers(value).map(Typed::Numbers),
        Kind::Free => Ok(Typed::Free(entry.placed())),
        Kind::Strategy => match text {
            Some(text) if text.parse::<Strategy>().is_ok() => Ok(Typed::Text(text.to_owned())),
            _ => Err("is not a strategy"),
        },
    }
    .map_err(str::to_owned)
}

/// Numbers that rise, as a list of numbers or of texts, or separated by commas.
fn numbers(value: &RawValue) -> Result<Vec<f64>, String> {
    let texts: Vec<String> = match value {
        RawValue::Bare(text) | RawValue::Text(text) => {
            let text = text.trim();
            text.strip_prefix('[')
                .and_then(|text| text.strip_suffix(']'))
                .unwrap_or(text)
                .split(',')
                .map(str::to_owned)
                .collect()
        }
        RawValue::List(items) => {
            let number = |item: &RawValue| match item {
                RawValue::Text(text) | RawValue::Integer(text) | RawValue::Other(text) => {
                    Some(text.clone())
                }
                _ => None,
            };
            items
                .iter()
                .map(|item| number(&item.value))
                .collect::<Option<_>>()
                .ok_or("is not a list of numbers")?
        }
        _ => return Err("is not a list of numbers".to_owned()),
    };
    let texts = texts
        .iter()
        .map(|text| text.trim())
        .filter(|text| !text.is_empty());
    let parsed: Result<Vec<f64>, _> = texts.map(|text| text.replace('_', "").parse()).collect();
    let numbers = parsed.map_err(|_| "is not a list of numbers")?;
    let finite = numbers
        .iter()
        .all(|number| number.is_finite() && *number > 0.0);
    match (finite, numbers.is_sorted_by(|a, b| a < b)) {
        (true, true) => Ok(numbers),
        (true, false) => Err("is not in ascending order".to_owned()),
        (false, _) => Err("holds something other than positive numbers".to_owned()),
    }
}

/// A list of texts: from a file, or separated by commas, or a TOML list inside a text. One text is
/// a list of one.
fn items(value: &RawValue) -> Option<Vec<String>> {
    match value {
        RawValue::List(items) => items
            .iter()
            .map(|item| match &item.value {
                RawValue::Text(text) => Some(text.clone()),
                _ => None,
            })
            .collect(),
        RawValue::Text(text) => Some(vec![text.clone()]),
        RawValue::Bare(text) if text.trim_start().starts_with('[') => {
            let value: toml::Value = text.parse().ok()?;
            value
                .as_array()?
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect()
        }
        RawValue::Bare(text) => Some(list_items(text).map(str::to_owned).collect()),
        _ => None,
    }
}

/// Items between commas, trimmed, without empty ones.
pub fn list_items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn parse_socket(text: &str, default_port: Option<u16>) -> Result<SocketAddr, &'static str> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let (Some(port), Ok(ip)) = (default_port, text.parse::<IpAddr>()) {
        return Ok(SocketAddr::new(ip, port));
    }
    if text.parse::<IpAddr>().is_ok() {
        return Err("has no port");
    }
    match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => match host {
            "" => Ok(SocketAddr::from((
                Ipv4Addr::UNSPECIFIED,
                port.parse().unwrap_or(0),
            ))),
            _ => Err("has a name where an IP address belongs"),
        },
        _ => Err("is not an address with a port"),
    }
}

/// `true`, `false`, `1`, `0` and their like, as Consul's own tools take them (Go's
/// `strconv.ParseBool`).
#[must_use]
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_read_or_refused_with_a_reason() {
        assert_eq!(
            parse_socket(":9999", None),
            Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 9999)))
        );
        assert_eq!(
            parse_socket("[::1]:80", None),
            "[::1]:80".parse().map_err(|_| "")
        );
        assert_eq!(
            parse_socket("127.0.0.1", Some(53)),
            "127.0.0.1:53".parse().map_err(|_| "")
        );
        assert_eq!(parse_socket("127.0.0.1", None), Err("has no port"));
        assert_eq!(
            parse_socket("localhost:80", None),
            Err("has a name where an IP address belongs")
        );
        assert_eq!(
            parse_socket("1.2.3.4:99999", None),
            Err("is not an address with a port")
        );
    }

    #[test]
    fn numbers_rise() {
        let bare = |text: &str| numbers(&RawValue::Bare(text.to_owned()));
        assert_eq!(bare(".005, 1,2.5"), Ok(vec![0.005, 1.0, 2.5]));
        assert_eq!(bare("[1]"), Ok(vec![1.0]));
        let placed = |value| Placed {
            value,
            place: Location::Absent,
        };
        let list = RawValue::List(vec![
            placed(RawValue::Integer("1".into())),
            placed(RawValue::Other("2.5".into())),
        ]);
        assert_eq!(numbers(&list), Ok(vec![1.0, 2.5]));
        for text in ["2,1", "1,1", "0,1", "a", "inf", "-1"] {
            assert!(bare(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lists_take_commas_or_toml() {
        let list = |value| items(&value);
        assert_eq!(
            list(RawValue::Bare("a, b,".into())),
            Some(vec!["a".into(), "b".into()])
        );
        assert_eq!(
            list(RawValue::Bare("[\"a,b\"]".into())),
            Some(vec!["a,b".into()])
        );
        assert_eq!(list(RawValue::Bare("[a".into())), None);
        assert_eq!(list(RawValue::Bare(String::new())), Some(vec![]));
    }
}
