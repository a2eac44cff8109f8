//! A small fuzzer for any compiler: it changes good inputs at random, by words and characters that
//! mean something, and catches what panics or takes long. It does not see what code an input
//! reaches; libFuzzer does that.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::targets::Target;

/// Longest input, in bytes.
const INPUT_MAX: usize = 4096;
/// Changed inputs that are changed further.
const POOL_MAX: usize = 256;
/// A single input may not take longer, without optimization and on a busy machine.
const RUN_MAX: Duration = Duration::from_secs(10);
/// Bytes that often mean something.
const SPECIAL: &[u8] = b"\0\t\n\r =;,:/\\%\"'#$*?[]{}()<>@&|!.-_+~^0129azAZ\x7f\x80\xc3\xff";

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The input.
    pub input: Vec<u8>,
    /// The message of the panic, or how long it took.
    pub what: String,
}

/// Runs `target` on its seeds, then on changed ones for `limit`; the same `seed` makes the same
/// inputs. Returns how many were run.
///
/// # Errors
/// The first finding.
pub fn run(target: &Target, limit: Duration, seed: u64) -> Result<u64, Finding> {
    let mut random = Random(seed);
    let mut pool: Vec<Vec<u8>> = target.seeds.iter().map(|seed| seed.to_vec()).collect();
    let seeds = pool.len();
    let watch = Watch::begin(target.name);
    for input in &pool {
        try_one(target, input, &watch)?;
    }
    let (begun, mut runs) = (Instant::now(), seeds as u64);
    while begun.elapsed() < limit {
        let mut input = random.one_of(&pool).cloned().unwrap_or_default();
        for _ in 0..=random.below(6) {
            change(&mut input, &pool, target.words, &mut random);
        }
        input.truncate(INPUT_MAX);
        try_one(target, &input, &watch)?;
        runs += 1;
        // Some are changed further, so that changes add up; the seeds stay.
        if random.below(16) == 0 {
            if pool.len() < seeds + POOL_MAX {
                pool.push(input);
            } else {
                let at = seeds + random.below(POOL_MAX);
                pool[at] = input;
            }
        }
    }
    Ok(runs)
}

fn try_one(target: &Target, input: &[u8], watch: &Watch) -> Result<(), Finding> {
    let begun = Instant::now();
    watch.look_at(Some(input));
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    watch.look_at(None);
    let what = match outcome {
        Ok(()) if begun.elapsed() < RUN_MAX => return Ok(()),
        Ok(()) => format!("took {:?}", begun.elapsed()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            text.or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("a panic")
                .to_owned()
        }
    };
    Err(Finding {
        input: input.to_vec(),
        what,
    })
}

fn change(input: &mut Vec<u8>, pool: &[Vec<u8>], words: &[&str], random: &mut Random) {
    let at = random.below(input.len() + 1);
    let some = random.below(8) + 1;
    let end = (at + some).min(input.len());
    match random.below(10) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = SPECIAL[random.below(SPECIAL.len())],
        2 => input.insert(at, SPECIAL[random.below(SPECIAL.len())]),
        3 => drop(input.drain(at..end)),
        4 => {
            let copy = input[at..end].to_vec();
            let to = random.below(input.len() + 1);
            input.splice(to..to, copy);
        }
        5 => {
            let other = random.one_of(pool).cloned().unwrap_or_default();
            let from = random.below(other.len() + 1);
            let piece = &other[from..(from + random.below(64)).min(other.len())];
            input.splice(at..end, piece.iter().copied());
        }
        6 => input.truncate(at),
        7 => {
            let number =
                [0, 1, 127, 255, 256, 65_535, 65_536, u64::MAX >> 1, u64::MAX][random.below(9)];
            input.splice(at..end, number.to_string().into_bytes());
        }
        _ => {
            let word = random.one_of(words).copied().unwrap_or_default();
            let end = if random.below(2) == 0 { at } else { end };
            input.splice(at..end, word.bytes());
        }
    }
}

/// splitmix64: enough to choose, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.below(all.len()))
    }
}

/// Ends the process when one input never comes to its end, which no other part could tell.
struct Watch(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    running: Option<(Instant, Vec<u8>)>,
    over: bool,
}

impl Watch {
    fn begin(name: &'static str) -> Self {
        let shared = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let watched = Arc::clone(&shared);
        std::thread::spawn(move || {
            let (state, changed) = &*watched;
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            while !state.over {
                if let Some((since, input)) = &state.running
                    && since.elapsed() > 6 * RUN_MAX
                {
                    eprintln!(
                        "{name}: no end after {:?} for {}",
                        since.elapsed(),
                        input.escape_ascii()
                    );
                    std::process::abort();
                }
                state = changed
                    .wait_timeout(state, RUN_MAX)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        });
        Self(shared)
    }

    fn look_at(&self, input: Option<&[u8]>) {
        let mut state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.running = input.map(|input| (Instant::now(), input.to_vec()));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        self.0.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planted(input: &[u8]) {
        let text = String::from_utf8_lossy(input);
        if let Some((_, options)) = text.split_once(' ') {
            assert!(
                !options.split(' ').any(|word| word.starts_with('=')),
                "an option without a name"
            );
        }
    }

    #[test]
    fn it_finds_what_is_there_and_the_same_again_from_the_same_seed() {
        let target = Target {
            name: "planted",
            run: planted,
            seeds: &[b"a/b c=d"],
            words: &["e=f"],
        };
        let find = |seed| run(&target, Duration::from_secs(60), seed).unwrap_err();
        let finding = find(1);
        assert_eq!(finding.what, "an option without a name");
        assert_eq!(find(1), finding);
        assert!(
            run(
                &Target {
                    run: |_| (),
                    ..target
                },
                Duration::from_millis(10),
                1
            )
            .unwrap()
                > 10
        );
    }

    #[test]
    fn seeds_are_run_as_they_are() {
        let target = Target {
            name: "planted",
            run: planted,
            seeds: &[b"a/b =d"],
            words: &[],
        };
        assert_eq!(
            run(&target, Duration::ZERO, 1).unwrap_err().input,
            b"a/b =d"
        );
    }
}
