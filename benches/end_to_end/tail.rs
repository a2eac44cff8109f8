//! Requests at a constant rate, and how long each waits for its response.
//!
//! A clock thread says when requests are due; whichever connection is free sends. A request's time
//! counts from when it was due, not from when it could be sent, so that a proxy that stops for a
//! moment has the whole queue behind it counted, and not the one request that it held up.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::clients::{connect, exchange};
use crate::outcome::Outcome;

/// Connections that send requests.
pub(crate) const CONNECTIONS: usize = 64;
/// Pause of the clock between two looks: far below what is measured.
const TICK: Duration = Duration::from_micros(100);

/// What is due when.
struct Clock {
    begun: Instant,
    gap: Duration,
    /// Requests that are due and not taken.
    due: Semaphore,
    taken: AtomicU64,
    /// How many there are in all, once that is known.
    all: AtomicU64,
}

impl Clock {
    /// Lets requests become due until the time is over.
    fn run(&self, length: Duration) {
        let mut released = 0;
        while self.begun.elapsed() < length {
            let now = u64::try_from(self.begun.elapsed().as_nanos() / self.gap.as_nanos())
                .unwrap_or(u64::MAX);
            self.due
                .add_permits(usize::try_from(now - released).unwrap_or(0));
            released = now;
            std::thread::sleep(TICK);
        }
        // Those that still wait are woken, and find that there is nothing more.
        self.all.store(released, Release);
        self.due.add_permits(CONNECTIONS);
    }

    /// Waits for the next request that is due, and tells since when; none: no more.
    async fn next(&self) -> Option<Instant> {
        let permit = self.due.acquire().await.ok()?;
        permit.forget();
        let number = self.taken.fetch_add(1, Relaxed);
        let since = self.begun + self.gap * u32::try_from(number).unwrap_or(u32::MAX);
        (number < self.all.load(Acquire)).then_some(since)
    }
}

/// Requests for `/64` at this many per second; also the times of all that got a response, in order
/// of their length. What is due at the end and waits is still sent. The clock starts when every
/// connection has had a response: what it takes to connect, on both sides of the proxy, is not the
/// question here.
pub(crate) fn run(port: u16, per_second: u64, length: Duration) -> (Outcome, Vec<Duration>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut outcome = Outcome::default();
    let mut times = Vec::new();
    runtime.block_on(async {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            match Client::connect(port).await {
                Ok(client) => clients.push(client),
                Err(_) => outcome.failed += 1,
            }
        }
        let clock = Arc::new(Clock {
            begun: Instant::now(),
            gap: Duration::from_secs(1) / u32::try_from(per_second.max(1)).unwrap_or(u32::MAX),
            due: Semaphore::new(0),
            taken: AtomicU64::new(0),
            all: AtomicU64::new(u64::MAX),
        });
        let ticking = std::thread::spawn({
            let clock = Arc::clone(&clock);
            move || clock.run(length)
        });
        let asking: Vec<_> = clients
            .into_iter()
            .map(|client| tokio::spawn(client.ask(Arc::clone(&clock))))
            .collect();
        for one in asking {
            // A request that hangs is a failed one.
            let patience = (length + Duration::from_secs(5)).saturating_sub(clock.begun.elapsed());
            match tokio::time::timeout(patience, one).await {
                Ok(Ok(Ok(some))) => times.extend(some),
                _ => outcome.failed += 1,
            }
        }
        ticking.join().unwrap();
    });
    times.sort_unstable();
    outcome.good = times.len() as u64;
    (outcome, times)
}

/// One connection.
struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    /// One that has had a response.
    async fn connect(port: u16) -> io::Result<Self> {
        let mut client = Self {
            stream: connect(port).await?,
            buffer: Vec::new(),
        };
        client.exchange().await?;
        Ok(client)
    }

    async fn exchange(&mut self) -> io::Result<()> {
        exchange(
            &mut self.stream,
            b"GET /64 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            &mut self.buffer,
        )
        .await
    }

    /// Sends whatever is due; how long each response took.
    async fn ask(mut self, clock: Arc<Clock>) -> io::Result<Vec<Duration>> {
        let mut times = Vec::new();
        while let Some(since) = clock.next().await {
            self.exchange().await?;
            times.push(since.elapsed());
        }
        Ok(times)
    }
}

/// The 99th of a hundred, in milliseconds; 0 of nothing.
pub(crate) fn p99_ms(sorted: &[Duration]) -> f64 {
    let at = (sorted.len() * 99).div_ceil(100).saturating_sub(1);
    sorted.get(at).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}
