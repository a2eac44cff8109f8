//! Waits for a condition: it is looked at again and again, until it holds.

use std::fmt::Display;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Longest wait for anything that should come by itself. A wait ends with its condition, so much
/// patience costs a test that passes nothing, and a busy machine needs it.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Pauses between two looks grow with what was waited already, within these bounds: what comes at
/// once is seen at once, and looks that start a process do not fill the machine.
const STEPS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// What a look returns: `bool`, an `Option` of what was waited for, or a `Result` whose error says
/// what was seen in its place.
pub trait Look {
    /// What was waited for.
    type Found;
    /// It, or a word on what was seen in its place.
    fn found(self) -> Result<Self::Found, String>;
}

impl Look for bool {
    type Found = ();
    fn found(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(String::new)
    }
}

impl<T> Look for Option<T> {
    type Found = T;
    fn found(self) -> Result<T, String> {
        self.ok_or_else(String::new)
    }
}

impl<T, E: Display> Look for Result<T, E> {
    type Found = T;
    fn found(self) -> Result<T, String> {
        self.map_err(|seen| format!(": {seen}"))
    }
}

/// Waits until `look` sees what is waited for, and returns that; fails the test after [`PATIENCE`].
#[track_caller]
pub fn wait_until<L: Look>(what: impl Display, look: impl FnMut() -> L) -> L::Found {
    match try_wait(PATIENCE, what, look) {
        Ok(found) => found,
        Err(unseen) => panic!("{unseen}"),
    }
}

/// The same up to this limit; after it, the error says what was waited for.
pub fn try_wait<L: Look>(
    limit: Duration,
    what: impl Display,
    mut look: impl FnMut() -> L,
) -> Result<L::Found, String> {
    let begun = Instant::now();
    loop {
        let seen = match look().found() {
            Ok(found) => return Ok(found),
            Err(seen) => seen,
        };
        sleep(pause(begun.elapsed(), limit).ok_or_else(|| unseen(&what, limit, &seen))?);
    }
}

/// [`wait_until`] for tests that run on the thread of what they wait for.
pub async fn wait_until_async<L: Look>(
    what: impl Display,
    mut look: impl AsyncFnMut() -> L,
) -> L::Found {
    let begun = Instant::now();
    loop {
        let seen = match look().await.found() {
            Ok(found) => return found,
            Err(seen) => seen,
        };
        let Some(pause) = pause(begun.elapsed(), PATIENCE) else {
            panic!("{}", unseen(&what, PATIENCE, &seen));
        };
        tokio::time::sleep(pause).await;
    }
}

/// How long to wait for the next look; none after the limit.
fn pause(waited: Duration, limit: Duration) -> Option<Duration> {
    (waited < limit).then(|| (waited / 8).clamp(STEPS.0, STEPS.1))
}

fn unseen(what: &impl Display, limit: Duration, seen: &str) -> String {
    format!("not seen within {limit:?}: {what}{seen}")
}
