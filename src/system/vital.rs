//! Tasks and threads that have to run for as long as the process does: what becomes of it when one
//! of them panics.
//!
//! A runtime catches the panic of a task, and nothing else notices it. That is right for a
//! connection, which ends alone. Where nothing else could do the work, the process says so and ends
//! in order ([`failed`]), so that its supervisor starts a whole one; where the work is about one
//! thing of many, it begins anew ([`again`]). See docs/decisions/0010.

use std::panic::AssertUnwindSafe;
use std::sync::LazyLock;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::watch;

/// Pauses before what panicked is begun anew.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The first that failed.
static FAILED: LazyLock<watch::Sender<Option<&'static str>>> =
    LazyLock::new(|| watch::Sender::new(None));

/// Waits until something fails that has to run, and returns its name. Cancel safe.
pub async fn failed() -> &'static str {
    let mut failed = FAILED.subscribe();
    let name = failed
        .wait_for(Option::is_some)
        .await
        .ok()
        .and_then(|name| *name);
    name.unwrap_or("an unknown part")
}

/// Reports a panic of the thread or task that holds it.
#[derive(Debug)]
#[must_use = "it reports when it is dropped"]
pub struct Guard(&'static str);

/// A guard for a thread or a task of this name.
pub fn guard(name: &'static str) -> Guard {
    Guard(name)
}

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            FAILED.send_if_modified(|failed| failed.is_none() && failed.replace(self.0).is_none());
        }
    }
}

/// `work`, without which the process cannot go on.
pub async fn task<T>(name: &'static str, work: impl Future<Output = T>) -> T {
    let _guard = guard(name);
    trapped(name, work).await
}

/// The work that `make` begins, which is begun anew when it panics: for one of many things that
/// others feed.
pub async fn again<F: Future<Output = ()>>(name: &'static str, mut make: impl FnMut() -> F) {
    let (mut pause, longest) = PAUSES;
    // What it shares with others is behind locks that a panic leaves whole, as everywhere.
    while AssertUnwindSafe(trapped(name, make()))
        .catch_unwind()
        .await
        .is_err()
    {
        tracing::error!(
            part = name,
            pause_s = pause.as_secs(),
            "it panicked; it begins anew after a pause"
        );
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(longest);
    }
}

/// For tests of the debug build: `LB_TEST_PANIC` names a part, which panics once there is a file
/// `LB_TEST_PANIC_WHEN`, and takes that away.
#[cfg(debug_assertions)]
async fn trapped<T>(name: &'static str, work: impl Future<Output = T>) -> T {
    let path = std::env::var_os("LB_TEST_PANIC_WHEN")
        .filter(|_| std::env::var_os("LB_TEST_PANIC") == Some(name.into()));
    let Some(path) = path else { return work.await };
    let spring = async {
        loop {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if std::fs::remove_file(&path).is_ok() {
                panic!("a test wants {name} to panic");
            }
        }
    };
    tokio::select! {
        done = work => done,
        never = spring => never,
    }
}

#[cfg(not(debug_assertions))]
fn trapped<F: Future>(_name: &'static str, work: F) -> F {
    work
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[test]
    fn what_panics_is_reported_wherever_it_runs_and_what_ends_is_not() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            tokio::task::spawn_local(task("that ends", async {}))
                .await
                .unwrap();
            let endless =
                tokio::task::spawn_local(task("that is aborted", std::future::pending::<()>()));
            tokio::task::yield_now().await;
            endless.abort();
            endless.await.unwrap_err();
            assert!(
                tokio::time::timeout(Duration::from_millis(1), failed())
                    .await
                    .is_err()
            );
            // The runtime catches the panic: without this line nothing would report it.
            tokio::task::spawn_local(task("that panics", async { panic!("on purpose") }));
            assert_eq!(
                tokio::time::timeout(PATIENCE, failed()).await.unwrap(),
                "that panics"
            );
            // The first is the cause of others.
            let thread = std::thread::spawn(|| {
                let _guard = guard("another");
                panic!("on purpose");
            });
            thread.join().unwrap_err();
            assert_eq!(failed().await, "that panics");
        });
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_begin_anew_does_so_with_growing_pauses_until_it_ends() {
        let (mut begun, start) = (0, tokio::time::Instant::now());
        again("one of many", || {
            begun += 1;
            let round = begun;
            async move { assert!(round >= 4, "on purpose") }
        })
        .await;
        assert_eq!((begun, start.elapsed().as_secs()), (4, 1 + 2 + 4));
    }
}
