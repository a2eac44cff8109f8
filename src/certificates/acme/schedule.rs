//! When something is due: renewals, and tries after failures. Pure: time and randomness are
//! arguments. All times are unix times in seconds.

use super::failure::Kind;

/// Longest pause between tries of a name that the CA refuses.
const REFUSED_MAX: i64 = 6 * 3600;
/// Shortest pause once a name was tried three times.
const REFUSED_MIN: i64 = 600;
/// Longest pause after a failure that is not about the name.
const AWAY_MAX: i64 = 60;
/// No server may impose a longer pause than this.
const RETRY_AFTER_MAX: i64 = 30 * 86_400;
/// By how much of its life a renewal is spread, so that many names do not fall due at once.
const SPREAD: f64 = 0.01;
const SPREAD_MAX: f64 = 3600.0;

/// When a certificate begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

/// A failure of a name, and when it is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tries {
    /// Failures in a row.
    pub(super) count: u32,
    pub(super) retry_at: i64,
}

/// When a certificate is renewed: `renew_before` its end, or after two thirds of its life if that is
/// later, or earlier when the CA suggests so. `jitter`: of the name, from 0 to 1.
pub(super) fn renew_at(
    validity: Validity,
    renew_before: i64,
    suggested: Option<i64>,
    jitter: f64,
) -> i64 {
    let life = validity
        .not_after
        .saturating_sub(validity.not_before)
        .max(0);
    let by_life = validity.not_before.saturating_add(life / 3 * 2);
    let spread = (life as f64 * SPREAD).min(SPREAD_MAX) * jitter;
    let own = validity
        .not_after
        .saturating_sub(renew_before)
        .max(by_life)
        .saturating_add(spread as i64);
    suggested.map_or(own, |suggested| own.min(suggested))
}

/// The moment within the window that a CA suggests.
pub(super) fn within(start: i64, end: i64, random: f64) -> i64 {
    let width = end.saturating_sub(start).max(0);
    start.saturating_add((width as f64 * random) as i64)
}

/// When to try again after one more failure. `asked`: the earliest time by the server's Retry-After.
pub(super) fn after_failure(
    before: Option<Tries>,
    kind: Kind,
    asked: Option<i64>,
    now: i64,
    random: f64,
) -> Tries {
    let count = before.map_or(0, |it| it.count).saturating_add(1);
    let spread = |pause: i64, part: f64| pause + (pause as f64 * part * random) as i64;
    let grown =
        |first: i64, max: i64, failures: u32| first.saturating_mul(1 << failures.min(30)).min(max);
    let own = match kind {
        // Three tries within the first minute, for what needed a moment to settle.
        Kind::Refused if count < 3 => spread(10 * i64::from(count), 0.5),
        Kind::Refused => spread(grown(REFUSED_MIN, REFUSED_MAX, count - 3), 0.1),
        Kind::Limited if asked.is_some() => 0,
        Kind::Limited => spread(grown(REFUSED_MIN, REFUSED_MAX, count - 1), 0.1),
        Kind::Passphrase => AWAY_MAX,
        Kind::Server | Kind::Store | Kind::Lock | Kind::Account | Kind::Hook => {
            // From half of it to all of it, never at once.
            let bound = grown(2, AWAY_MAX, count - 1);
            bound / 2 + (bound as f64 / 2.0 * random) as i64
        }
    };
    let latest = now.saturating_add(RETRY_AFTER_MAX);
    let retry_at = now
        .saturating_add(own)
        .max(asked.unwrap_or(i64::MIN).min(latest));
    Tries { count, retry_at }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;

    #[test]
    fn renewals_by_end_by_life_and_by_the_ca() {
        let life = |length| Validity {
            not_before: 0,
            not_after: length,
        };
        // Life, renew_before, suggested; when.
        let cases = [
            (90 * DAY, 30 * DAY, None, 60 * DAY),
            (90 * DAY, 10 * DAY, None, 80 * DAY),
            (6 * DAY, 30 * DAY, None, 4 * DAY),
            (90 * DAY, 30 * DAY, Some(50 * DAY), 50 * DAY),
            (90 * DAY, 30 * DAY, Some(70 * DAY), 60 * DAY),
            (60, 30 * DAY, None, 40),
            (0, HOUR, None, 0),
        ];
        for (length, renew_before, suggested, wanted) in cases {
            let found = renew_at(life(length), renew_before, suggested, 0.0);
            assert_eq!(found, wanted, "{length} {renew_before} {suggested:?}");
            let late = renew_at(life(length), renew_before, None, 1.0);
            assert!(late <= length.max(1) && late - found.max(wanted) <= 21 * DAY);
        }
        assert_eq!(
            renew_at(life(90 * DAY), 30 * DAY, None, 1.0),
            60 * DAY + HOUR
        );
        assert_eq!((within(10, 20, 0.5), within(20, 10, 0.5)), (15, 20));
    }

    #[test]
    fn a_refused_name_is_tried_three_times_in_a_minute_and_then_seldom() {
        for random in [0.0, 1.0] {
            let (mut now, mut tries, mut at) = (0, None, vec![0]);
            for _ in 0..12 {
                let next = after_failure(tries, Kind::Refused, None, now, random);
                (now, tries) = (next.retry_at, Some(next));
                at.push(now);
            }
            assert_eq!(at.iter().filter(|at| **at <= 60).count(), 3, "{at:?}");
            let pauses: Vec<i64> = at.windows(2).skip(2).map(|it| it[1] - it[0]).collect();
            assert!(pauses.iter().all(|it| *it >= 600), "{pauses:?}");
            assert!(pauses.is_sorted() && pauses.iter().all(|it| *it <= 7 * HOUR));
        }
    }

    #[test]
    fn what_is_away_is_tried_at_least_once_a_minute() {
        for kind in [
            Kind::Server,
            Kind::Store,
            Kind::Lock,
            Kind::Account,
            Kind::Hook,
        ] {
            let mut tries = None;
            for _ in 0..100 {
                let next = after_failure(tries, kind, None, 0, 1.0);
                assert!((1..=60).contains(&next.retry_at), "{kind:?} {next:?}");
                tries = Some(next);
            }
        }
    }

    #[test]
    fn the_server_says_when_to_the_second() {
        for kind in [Kind::Limited, Kind::Server] {
            let next = after_failure(None, kind, Some(1_090), 1_000, 0.5);
            assert_eq!(next.retry_at, 1_090, "{kind:?}");
        }
        let next = after_failure(None, Kind::Limited, Some(i64::MAX), 0, 0.5);
        assert_eq!(next.retry_at, RETRY_AFTER_MAX);
        // A name that is refused is not tried sooner because a server names an early time.
        let third = Some(Tries {
            count: 2,
            retry_at: 0,
        });
        assert!(after_failure(third, Kind::Refused, Some(1), 0, 0.0).retry_at >= 600);
    }
}
