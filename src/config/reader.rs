//! From values as written to values with a type, by the key's kind.
//!
//! A value that does not fit is noted, and the key's default takes its place, so that one pass
//! finds every mistake.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::duration::parse_duration;
use super::keys::{Key, Kind, Section, Shape};
use super::mistake::{Findings, Mistake, Place, nearest};
use super::overlay::{ConsulEnvironment, parse_bool};
use super::ports::Ports;
use super::raw::{Entry, Group, Written};
use super::value::SettingValue;
use crate::catalog::options::Strategy;

/// What a section's checks need to know beside its keys.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReadContext {
    /// Standard error is a terminal: `log.format = "auto"` means text.
    pub(crate) terminal: bool,
    /// What `CONSUL_*` says beyond keys.
    pub(crate) consul: ConsulEnvironment,
    /// There is a `[consul]`.
    pub(crate) has_consul: bool,
}

/// Reads the keys of one group.
pub(crate) struct Reader<'a> {
    section: &'static Section,
    /// `listener.0`, `certificates.main`, `consul`: what messages call the group.
    path: String,
    group: &'a Group,
    left_out: Vec<&'static str>,
    pub(crate) context: ReadContext,
    findings: &'a mut Findings,
}

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
    Numbers(Vec<f64>),
}

impl<'a> Reader<'a> {
    pub(crate) fn new(
        section: &'static Section,
        path: String,
        group: &'a Group,
        context: ReadContext,
        findings: &'a mut Findings,
    ) -> Self {
        Self {
            section,
            path,
            group,
            left_out: Vec::new(),
            context,
            findings,
        }
    }

    /// The value of a key, by the type that its declaration gives it.
    pub(crate) fn value<T: SettingValue>(&mut self, name: &str) -> T {
        let Some(typed) = self.typed(name) else {
            return T::unset();
        };
        T::from_typed(typed).unwrap_or_else(|error| {
            self.wrong(name, &error.problem, &error.advice);
            T::unset()
        })
    }

    /// The value of a key that other keys depend on, before its turn. What is wrong with it is said
    /// then.
    pub(crate) fn peek<T: SettingValue>(&self, name: &str) -> T {
        let key = self.key(name);
        let written = self.group.entries.get(name);
        let written = written.and_then(|entry| convert(key, entry).ok());
        let typed = written.or_else(|| default_of(key));
        let value = typed.map(T::from_typed);
        value.and_then(Result::ok).unwrap_or_else(T::unset)
    }

    /// Takes a key for unset, whatever is written: another key says that it has no meaning.
    pub(crate) fn leave_out(&mut self, name: &'static str) {
        self.left_out.push(name);
    }

    /// The name of a repetition by name: `main` of `[certificates.main]`.
    pub(crate) fn own_name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }

    /// Where the group begins.
    fn group_place(&self) -> Place {
        self.group.place.clone()
    }

    /// Where a key is written, if it is.
    pub(crate) fn place(&self, name: &str) -> Option<&Place> {
        self.group.entries.get(name).map(|entry| &entry.place)
    }

    /// Whether a key is written.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.group.entries.contains_key(name)
    }

    /// The mistake about a key of this group, with its value and place.
    fn about(&self, name: &str, problem: &str, advice: &str) -> Mistake {
        let entry = self.group.entries.get(name);
        let secret = self
            .section
            .key(name)
            .is_some_and(|key| matches!(key.kind, Kind::Secret | Kind::Headers));
        Mistake {
            key: match self.group.old_names.get(name) {
                Some(old) => old.clone(),
                None if self.section.shape == Shape::Top => name.to_owned(),
                None => format!("{}.{name}", self.path),
            },
            value: entry.map(|entry| {
                if secret {
                    "***".to_owned()
                } else {
                    first_line(entry.value.to_string())
                }
            }),
            place: entry.map_or_else(|| self.group_place(), |entry| entry.place.clone()),
            problem: problem.to_owned(),
            advice: advice.to_owned(),
        }
    }

    /// As [`Reader::wrong`], for a value that is not to be shown.
    pub(crate) fn wrong_secret(&mut self, name: &str, problem: &str, advice: &str) {
        let mistake = self.about(name, problem, advice);
        let value = mistake.value.is_some().then(|| "***".to_owned());
        self.findings.mistakes.push(Mistake { value, ..mistake });
    }

    /// Notes a mistake about a key of this group.
    pub(crate) fn wrong(&mut self, name: &str, problem: &str, advice: &str) {
        let mistake = self.about(name, problem, advice);
        self.findings.mistakes.push(mistake);
    }

    /// Notes what is odd about a key of this group.
    pub(crate) fn warn(&mut self, name: &str, problem: &str, advice: &str) {
        let warning = self.about(name, problem, advice);
        self.findings.warnings.push(warning);
    }

    fn key(&self, name: &str) -> &'static Key {
        self.section
            .key(name)
            .expect("names of keys in this crate are declared")
    }

    /// The value of a key, or its default. An empty text says nothing.
    fn typed(&mut self, name: &str) -> Option<Typed> {
        let key = self.key(name);
        if self.left_out.contains(&name) {
            return None;
        }
        let says = |typed: &Typed| !matches!(typed, Typed::Text(text) if text.is_empty());
        if let Some(entry) = self.group.entries.get(name) {
            match convert(key, entry) {
                Ok(value) => return Some(value).filter(says),
                Err(problem) => {
                    let mut advice = key.kind.wants();
                    if let (Kind::Word(words), Written::Text(text) | Written::Bare(text)) =
                        (key.kind, &entry.value)
                        && let Some(near) = nearest(text, words.iter().copied())
                    {
                        advice = format!("did you mean {near}? {advice}");
                    }
                    self.wrong(name, &problem, &advice);
                }
            }
        }
        default_of(key).filter(says)
    }
}

/// The default of a key.
fn default_of(key: &Key) -> Option<Typed> {
    let entry = Entry {
        value: Written::Bare(key.default?.to_owned()),
        place: Place::Absent,
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

fn convert(key: &Key, entry: &Entry) -> Result<Typed, String> {
    let value = &entry.value;
    let text = match value {
        Written::Bare(text) | Written::Text(text) => Some(text.trim()),
        _ => None,
    };
    let bare = matches!(value, Written::Bare(_));
    match key.kind {
        Kind::Text | Kind::Secret => text
            .map(|text| Typed::Text(text.to_owned()))
            .ok_or("is not a text"),
        Kind::Path => match (text, &entry.place) {
            (None, _) => Err("is not a text"),
            (Some(""), _) => Ok(Typed::Text(String::new())),
            (Some(text), Place::File(file, _)) => {
                let folder = file.parent().unwrap_or(Path::new(""));
                Ok(Typed::Path(folder.join(text)))
            }
            (Some(text), _) => Ok(Typed::Path(text.into())),
        },
        Kind::Bool => match (value, text) {
            (Written::Bool(value), _) => Ok(Typed::Bool(*value)),
            (_, Some(text)) if bare => parse_bool(text)
                .map(Typed::Bool)
                .ok_or("is neither true nor false"),
            _ => Err("is neither true nor false"),
        },
        Kind::Count(min, max) => {
            let number = match (value, text) {
                (Written::Integer(text), _) => text.replace('_', ""),
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
                return Err(if matches!(value, Written::Integer(_)) {
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
                false => Err("holds something that is no header"),
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
        Kind::Strategy => match text {
            Some(text) if text.parse::<Strategy>().is_ok() => Ok(Typed::Text(text.to_owned())),
            _ => Err("is not a strategy"),
        },
    }
    .map_err(str::to_owned)
}

/// Numbers that rise, as a list of numbers or of texts, or separated by commas.
fn numbers(value: &Written) -> Result<Vec<f64>, String> {
    let texts: Vec<&str> = match value {
        Written::Bare(text) | Written::Text(text) => {
            let text = text.trim();
            text.strip_prefix('[')
                .and_then(|text| text.strip_suffix(']'))
                .unwrap_or(text)
                .split(',')
                .collect()
        }
        Written::List(items) => {
            let number = |item| match item {
                &Written::Text(ref text)
                | &Written::Integer(ref text)
                | &Written::Other(ref text) => Some(text.as_str()),
                _ => None,
            };
            items
                .iter()
                .map(number)
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
        (true, false) => Err("does not rise".to_owned()),
        (false, _) => Err("holds something else than positive numbers".to_owned()),
    }
}

/// A list of texts: from a file, or separated by commas, or a TOML list inside a text. One text is
/// a list of one.
fn items(value: &Written) -> Option<Vec<String>> {
    match value {
        Written::List(items) => items
            .iter()
            .map(|item| match item {
                Written::Text(text) => Some(text.clone()),
                _ => None,
            })
            .collect(),
        Written::Text(text) => Some(vec![text.clone()]),
        Written::Bare(text) if text.trim_start().starts_with('[') => {
            let value: toml::Value = text.parse().ok()?;
            value
                .as_array()?
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect()
        }
        Written::Bare(text) => Some(
            text.split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(str::to_owned)
                .collect(),
        ),
        _ => None,
    }
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

/// A text of many lines, such as a certificate, would bury what is said about it.
fn first_line(text: String) -> String {
    match text
        .split_once('\n')
        .filter(|(_, rest)| !rest.trim().is_empty())
    {
        Some((first, _)) => format!("{first}…"),
        None => text,
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
        let bare = |text: &str| numbers(&Written::Bare(text.to_owned()));
        assert_eq!(bare(".005, 1,2.5"), Ok(vec![0.005, 1.0, 2.5]));
        assert_eq!(bare("[1]"), Ok(vec![1.0]));
        let list = Written::List(vec![
            Written::Integer("1".into()),
            Written::Other("2.5".into()),
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
            list(Written::Bare("a, b,".into())),
            Some(vec!["a".into(), "b".into()])
        );
        assert_eq!(
            list(Written::Bare("[\"a,b\"]".into())),
            Some(vec!["a,b".into()])
        );
        assert_eq!(list(Written::Bare("[a".into())), None);
        assert_eq!(list(Written::Bare(String::new())), Some(vec![]));
    }
}
