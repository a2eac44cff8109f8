//! When keys are fetched: in time, when there are none, and when a token names an unknown one; one
//! request at a time.

use std::time::{Duration, Instant};

/// How often an unknown key may cause a request.
const UNKNOWN_EVERY: Duration = Duration::from_secs(10);
/// How long keys are taken for fresh where the response does not say.
const FRESH: Duration = Duration::from_secs(300);
/// Bounds of what it may say.
const FRESH_BOUNDS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3600));
/// Bounds of the pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Why keys are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// To be fresh.
    Due,
    /// There are none.
    Missing,
    /// A token is signed with a key that is not among them.
    Unknown,
}

/// What becomes of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// A request is made now.
    Start,
    /// One is under way.
    Join,
    /// None is made.
    Refuse,
}

/// The requests so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turns {
    is_running: bool,
    due: Instant,
    unknown_at: Option<Instant>,
    pause: Duration,
}

impl Turns {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            is_running: false,
            due: now,
            unknown_at: None,
            pause: PAUSE.0,
        }
    }

    /// Decides about a wish; [`Turn::Start`] counts as begun.
    pub(super) fn decide(&mut self, wish: Wish, now: Instant) -> Turn {
        if self.is_running {
            return match wish {
                Wish::Due => Turn::Refuse,
                Wish::Missing | Wish::Unknown => Turn::Join,
            };
        }
        let begins = match wish {
            Wish::Due | Wish::Missing => now >= self.due,
            Wish::Unknown => self
                .unknown_at
                .is_none_or(|at| now.saturating_duration_since(at) >= UNKNOWN_EVERY),
        };
        if !begins {
            return Turn::Refuse;
        }
        if wish == Wish::Unknown {
            self.unknown_at = Some(now);
        }
        self.is_running = true;
        Turn::Start
    }

    /// The request brought keys; `max_age`: how long they are fresh, as the response says.
    pub(super) fn succeed(&mut self, max_age: Option<Duration>, now: Instant) {
        let fresh = max_age.unwrap_or(FRESH);
        self.is_running = false;
        self.due = now + fresh.clamp(FRESH_BOUNDS.0, FRESH_BOUNDS.1);
        self.pause = PAUSE.0;
    }

    /// It did not.
    pub(super) fn fail(&mut self, now: Instant) {
        self.is_running = false;
        self.due = now + self.pause;
        self.pause = (self.pause * 2).min(PAUSE.1);
    }
}

/// `max-age` of a Cache-Control field.
pub(super) fn max_age(cache_control: &str) -> Option<Duration> {
    let mut parts = cache_control.split(',').map(str::trim);
    parts.find_map(|part| {
        let (name, seconds) = part.split_once('=')?;
        let seconds = seconds.trim_matches('"').parse().ok()?;
        name.eq_ignore_ascii_case("max-age")
            .then(|| Duration::from_secs(seconds))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_fetched_in_time_and_one_at_a_time() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut turns = Turns::new(start);
        assert_eq!(turns.decide(Wish::Due, at(0)), Turn::Start);
        for (wish, turn) in [
            (Wish::Due, Turn::Refuse),
            (Wish::Missing, Turn::Join),
            (Wish::Unknown, Turn::Join),
        ] {
            assert_eq!(turns.decide(wish, at(0)), turn);
        }
        turns.succeed(None, at(0));
        assert_eq!(turns.decide(Wish::Due, at(299)), Turn::Refuse);
        assert_eq!(turns.decide(Wish::Due, at(300)), Turn::Start);
        turns.succeed(Some(Duration::ZERO), at(300));
        assert_eq!(turns.decide(Wish::Due, at(304)), Turn::Refuse);
        assert_eq!(turns.decide(Wish::Due, at(305)), Turn::Start);
        turns.succeed(Some(Duration::MAX), at(305));
        assert_eq!(turns.decide(Wish::Due, at(305 + 3600)), Turn::Start);
    }

    #[test]
    fn an_unknown_key_asks_once_in_ten_seconds() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut turns = Turns::new(start);
        let asked = (0..100)
            .filter(|s| {
                let turn = turns.decide(Wish::Unknown, at(*s));
                match s % 2 {
                    0 => turns.succeed(None, at(*s)),
                    _ => turns.fail(at(*s)),
                }
                turn == Turn::Start
            })
            .count();
        assert_eq!(asked, 10);
    }

    #[test]
    fn failures_are_repeated_later_and_later() {
        let mut now = Instant::now();
        let mut turns = Turns::new(now);
        let pauses: Vec<u64> = (0..8)
            .map(|_| {
                assert_eq!(turns.decide(Wish::Missing, now), Turn::Start);
                turns.fail(now);
                let pause = turns.due - now;
                assert_eq!(turns.decide(Wish::Missing, now), Turn::Refuse);
                now = turns.due;
                pause.as_secs()
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn ages_are_read() {
        for (text, seconds) in [
            ("max-age=60", Some(60)),
            ("public, Max-Age=15, must-revalidate", Some(15)),
            ("max-age=\"9\"", Some(9)),
            ("no-store", None),
            ("s-maxage=5", None),
            ("max-age=x", None),
            ("", None),
        ] {
            assert_eq!(max_age(text), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
