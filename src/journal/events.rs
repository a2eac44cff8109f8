//! The last things that happened, numbered.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use tokio::sync::watch;

use super::text::{TEXT_MAX, bounded};

/// How many are kept.
pub const EVENTS_MAX: usize = 1000;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An instance came, left, or changed its state.
    Instance,
    /// A service got its first usable instance, lost its last one, or left.
    Service,
    /// A tag or a route command was rejected, or is accepted again.
    Tag,
    /// A source of routes cannot be read, or can be read again.
    Source,
    /// The configuration was read again.
    Config,
    /// Certificates were loaded, issued, or could not be.
    Certificate,
    /// The process itself: started, draining.
    Process,
}

impl Kind {
    /// The word in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Service => "service",
            Self::Tag => "tag",
            Self::Source => "source",
            Self::Config => "config",
            Self::Certificate => "certificate",
            Self::Process => "process",
        }
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Rises by one with each event of this process, from 1.
    pub id: u64,
    /// When, as RFC 3339 with milliseconds.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// What it is about, and the rest.
    #[serde(flatten)]
    pub what: Draft,
}

/// An event before it has its number and time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Draft {
    /// What it is about.
    pub kind: Kind,
    /// Name of the service; for other kinds, of the source or the certificates.
    pub service: Option<String>,
    /// `NODE/ID` of the instance.
    pub instance: Option<String>,
    /// `address:port` of the instance.
    pub address: Option<String>,
    /// State before; none for something that has no state.
    pub from: Option<Cow<'static, str>>,
    /// State now; none for something that has no state.
    pub to: Option<Cow<'static, str>>,
    /// Why, in words for the operator; bounded, control characters escaped.
    pub reason: Option<String>,
}

impl Draft {
    /// Nothing but the kind.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            service: None,
            instance: None,
            address: None,
            from: None,
            to: None,
            reason: None,
        }
    }

    /// About what has this name.
    #[must_use]
    pub fn of(mut self, name: &str) -> Self {
        self.service = Some(name.to_owned());
        self
    }

    /// What it was, and what it is now.
    #[must_use]
    pub fn states(
        mut self,
        from: impl Into<Cow<'static, str>>,
        to: impl Into<Cow<'static, str>>,
    ) -> Self {
        (self.from, self.to) = (Some(from.into()), Some(to.into()));
        self
    }

    /// What it is now.
    #[must_use]
    pub fn to(mut self, to: impl Into<Cow<'static, str>>) -> Self {
        self.to = Some(to.into());
        self
    }

    /// Why. Bounded, control characters escaped.
    #[must_use]
    pub fn because(mut self, reason: &str) -> Self {
        self.reason = Some(bounded(reason, 3 * TEXT_MAX));
        self
    }
}

/// The store of all events.
#[derive(Debug)]
pub struct Events {
    kept: Mutex<VecDeque<Arc<Event>>>,
    /// Number of the last event.
    last: watch::Sender<u64>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            last: watch::Sender::new(0),
        }
    }
}

/// From where on events are wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Since {
    /// Those with a higher number.
    Id(u64),
    /// Those that happened later.
    Time(SystemTime),
}

impl Events {
    /// Adds an event; the oldest gives way.
    pub fn push(&self, draft: Draft) {
        let mut kept = self.kept();
        let id = self.last_id() + 1;
        if kept.len() >= EVENTS_MAX {
            kept.pop_front();
        }
        kept.push_back(Arc::new(Event {
            id,
            time: SystemTime::now(),
            what: draft,
        }));
        // Under the lock, so that numbers only rise.
        self.last.send_replace(id);
    }

    /// Those that are kept and wanted, the oldest first.
    #[must_use]
    pub fn list(&self, since: Option<Since>) -> Vec<Arc<Event>> {
        let wanted = |event: &&Arc<Event>| match since {
            None => true,
            Some(Since::Id(id)) => event.id > id,
            Some(Since::Time(time)) => event.time > time,
        };
        self.kept().iter().filter(wanted).cloned().collect()
    }

    /// Number of the last event; 0: none yet.
    #[must_use]
    pub fn last_id(&self) -> u64 {
        *self.last.borrow()
    }

    /// How many follow the events.
    #[must_use]
    pub fn watchers(&self) -> usize {
        self.last.receiver_count()
    }

    /// The number of the last event as it rises.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<Event>>> {
        // Each change is one step, so whatever panicked left it whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Since {
    /// Reads `?since=`: the number of an event, an RFC 3339 time, a Unix time in seconds, or an age
    /// like `15m`.
    #[must_use]
    pub fn parse(text: &str, now: SystemTime) -> Option<Self> {
        /// Numbers from here on are times: no process has a thousand million events.
        const TIMES_FROM: f64 = 1e9;
        if let Ok(number) = text.parse::<u64>()
            && (number as f64) < TIMES_FROM
        {
            return Some(Self::Id(number));
        }
        if let Ok(seconds) = text.parse::<f64>() {
            let since = std::time::Duration::try_from_secs_f64(seconds).ok()?;
            return UNIX_EPOCH.checked_add(since).map(Self::Time);
        }
        if let Ok(time) = text.parse::<jiff::Timestamp>() {
            let since =
                std::time::Duration::from_millis(u64::try_from(time.as_millisecond()).ok()?);
            return UNIX_EPOCH.checked_add(since).map(Self::Time);
        }
        let (digits, unit) = text.split_at(
            text.len()
                .checked_sub(1)
                .filter(|&at| text.is_char_boundary(at))?,
        );
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return None,
        };
        let age = std::time::Duration::from_secs(digits.parse::<u64>().ok()?.checked_mul(seconds)?);
        Some(Self::Time(now.checked_sub(age).unwrap_or(UNIX_EPOCH)))
    }
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    match timestamp(*time) {
        Some(text) => serializer.serialize_str(&text),
        None => serializer.serialize_none(),
    }
}

/// RFC 3339 with milliseconds, UTC; none for times that no calendar has.
#[must_use]
pub fn timestamp(time: SystemTime) -> Option<String> {
    let millisecond = i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()?;
    jiff::Timestamp::from_millisecond(millisecond)
        .ok()
        .map(|time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_last_thousand_are_kept_in_order() {
        let events = Events::default();
        assert_eq!((events.last_id(), events.list(None).len()), (0, 0));
        let watch = events.watch();
        for number in 0..EVENTS_MAX + 5 {
            events.push(
                Draft::new(Kind::Instance)
                    .of(&number.to_string())
                    .states("new", "healthy")
                    .because("a\nb"),
            );
        }
        let all = events.list(None);
        assert_eq!(
            (all.len(), all[0].id, all[EVENTS_MAX - 1].id),
            (EVENTS_MAX, 6, EVENTS_MAX as u64 + 5)
        );
        assert_eq!(*watch.borrow(), EVENTS_MAX as u64 + 5);
        let later = events.list(Some(Since::Id(EVENTS_MAX as u64 + 3)));
        assert_eq!(
            later.iter().map(|event| event.id).collect::<Vec<_>>(),
            [1004, 1005]
        );
        let json = serde_json::to_value(&*later[0]).unwrap();
        assert_eq!(
            (json["kind"].as_str(), json["from"].as_str()),
            (Some("instance"), Some("new"))
        );
        assert_eq!(
            (json["to"].as_str(), json["reason"].as_str()),
            (Some("healthy"), Some("a\\nb"))
        );
        assert!(
            json["instance"].is_null() && json["time"].as_str().unwrap().ends_with('Z'),
            "{json}"
        );
        assert!(
            events
                .list(Some(Since::Time(
                    SystemTime::now() + Duration::from_secs(1)
                )))
                .is_empty()
        );
        assert_eq!(events.list(Some(Since::Time(UNIX_EPOCH))).len(), EVENTS_MAX);
    }

    #[test]
    fn since_is_a_number_a_time_or_an_age() {
        let now = UNIX_EPOCH + Duration::from_secs(1_795_377_816);
        let at = |seconds| Some(Since::Time(UNIX_EPOCH + Duration::from_secs(seconds)));
        for (text, expected) in [
            ("0", Some(Since::Id(0))),
            ("17", Some(Since::Id(17))),
            ("1795377800", at(1_795_377_800)),
            (
                "1795377800.5",
                Some(Since::Time(
                    UNIX_EPOCH + Duration::from_millis(1_795_377_800_500),
                )),
            ),
            ("2026-11-22T20:03:36Z", at(1_795_377_816)),
            ("2026-11-22T21:03:36+01:00", at(1_795_377_816)),
            ("90s", at(1_795_377_726)),
            ("15m", at(1_795_376_916)),
            ("2h", at(1_795_370_616)),
            ("", None),
            ("m", None),
            ("-1", None),
            ("yesterday", None),
            ("1ä", None),
            ("99999999999999999999d", None),
        ] {
            assert_eq!(Since::parse(text, now), expected, "{text}");
        }
    }
}
