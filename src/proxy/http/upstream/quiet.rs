//! Instances that fall silent inside a response (`proxy.response_idle_timeout`).

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Media types whose responses pause for as long as they like.
const PAUSING: [&[u8]; 2] = [b"text/event-stream", b"application/grpc"];

/// What the log says of one that did.
pub const FELL_SILENT: &str = "nothing came for proxy.response_idle_timeout";

/// How long the instance of a response may be waited for between two of its bytes. None: without
/// end.
#[must_use]
pub fn quiet_max(limit: Duration, content_type: Option<&[u8]>) -> Option<Duration> {
    let pauses = |kind: &[u8]| {
        PAUSING.iter().any(|pausing| {
            kind.get(..pausing.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(pausing))
        })
    };
    (!limit.is_zero() && !content_type.is_some_and(pauses)).then_some(limit)
}

/// The clock of one response. It runs only while its instance is waited for.
#[derive(Debug)]
pub struct QuietClock {
    max: Duration,
    waits: bool,
    /// Bytes of the request that the instance had taken.
    sent: u64,
    /// Made by the first wait: most responses have none.
    timer: Option<Pin<Box<Sleep>>>,
}

impl QuietClock {
    /// One that allows `max` between two bytes.
    #[must_use]
    pub fn new(max: Duration) -> Self {
        Self {
            max,
            waits: false,
            sent: 0,
            timer: None,
        }
    }

    /// Something came, or nothing is waited for.
    pub fn stop(&mut self) {
        self.waits = false;
    }

    /// Ready when nothing has come for too long, and no more than `sent` bytes of the request were
    /// taken meanwhile.
    pub fn poll_waiting(&mut self, sent: u64, cx: &mut Context<'_>) -> Poll<()> {
        let fresh = !std::mem::replace(&mut self.waits, true)
            | (std::mem::replace(&mut self.sent, sent) != sent);
        match &mut self.timer {
            Some(timer) if fresh => timer.as_mut().reset(Instant::now() + self.max),
            Some(_) => {}
            None => self.timer = Some(Box::pin(sleep_until(Instant::now() + self.max))),
        }
        self.timer
            .as_mut()
            .map_or(Poll::Pending, |timer| timer.as_mut().poll(cx))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[test]
    fn streams_of_events_and_grpc_may_pause() {
        let limit = Duration::from_secs(60);
        let cases: [(&[u8], bool); 7] = [
            (b"text/html", true),
            (b"", true),
            (b"text/event-streams", false),
            (b"text/event-stream", false),
            (b"Text/Event-Stream; charset=utf-8", false),
            (b"application/grpc", false),
            (b"application/grpc+proto", false),
        ];
        for (kind, limited) in cases {
            assert_eq!(
                quiet_max(limit, Some(kind)).is_some(),
                limited,
                "{}",
                String::from_utf8_lossy(kind)
            );
        }
        assert_eq!(
            (quiet_max(limit, None), quiet_max(Duration::ZERO, None)),
            (Some(limit), None)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_that_counts_is_that_of_one_wait() {
        let mut clock = QuietClock::new(Duration::from_secs(3));
        for _ in 0..3 {
            assert!(
                poll_fn(|cx| Poll::Ready(clock.poll_waiting(0, cx)))
                    .await
                    .is_pending()
            );
            tokio::time::advance(Duration::from_secs(2)).await;
            assert!(
                poll_fn(|cx| Poll::Ready(clock.poll_waiting(0, cx)))
                    .await
                    .is_pending()
            );
            clock.stop();
        }
        let begun = Instant::now();
        poll_fn(|cx| clock.poll_waiting(0, cx)).await;
        assert_eq!(begun.elapsed().as_secs(), 3);
    }
}
