//! The end of a connection that its requests do not bring about: clients that do not do their part,
//! and the drain.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use http::Version;

use super::downstream::{Downstream, Watch};
use crate::log::AccessRecord;
use crate::metrics::{CLIENT_FAULTS, ClientFault};
use crate::proxy::drain::{LocalPhase, Phase};
use crate::proxy::http::client_io::{Activity, HangUp};
use crate::proxy::listener::ClientLimits;
use crate::proxy::worker::Worker;
use crate::table::clock::ms;

/// How long a client that was active when the drain began may take to send one more request.
pub(crate) const LAST_CALL: Duration = Duration::from_secs(1);
/// Grace after the request deadline before a client that is not reading is cut off.
const OVERDUE_MAX: Duration = Duration::from_secs(1);
/// What a client is told whose head does not come to its end.
pub(crate) const TOO_SLOW: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Completes when no more is expected of the client: its listener stops, and it has been silent for
/// a moment before that or after it. A client that was active just now may be about to send again,
/// and a connection that is closed while a request is on its way to it is a failed request;
/// responses that are sent meanwhile say that the connection ends with them.
pub(crate) async fn idle_or_draining(phase: &LocalPhase, activity: &Activity) {
    phase.reached(Phase::Draining).await;
    tokio::time::sleep(LAST_CALL.saturating_sub(activity.silent())).await;
}

/// Why the head of a request is not waited for any longer.
pub(crate) const HEAD_TOO_SLOW: &str = "the head did not come to its end in time";

/// How a request is refused that never became one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    pub(crate) fault: ClientFault,
    /// The status that it was told, or would have been.
    pub(crate) status: u16,
    pub(crate) version: Version,
}

impl Refusal {
    /// Bytes that are not a request of HTTP/1.
    pub(crate) const MALFORMED: Self = Self {
        fault: ClientFault::Malformed,
        status: 400,
        version: Version::HTTP_11,
    };
    /// A head of HTTP/1 that takes too long.
    pub(crate) const HEAD_TOO_SLOW: Self = Self {
        fault: ClientFault::TooSlow,
        status: 408,
        version: Version::HTTP_11,
    };
}

/// Counts a refusal with its listener and among the errors of the proxy, and logs it as far as it
/// is known.
pub(crate) fn log_rejected(
    worker: &Worker,
    downstream: &Downstream,
    refusal: Refusal,
    reason: &dyn fmt::Display,
) {
    let remote = downstream.client.ip();
    let error = CLIENT_FAULTS[refusal.fault as usize];
    downstream.listener.client_fault(
        SocketAddr::new(remote, downstream.port),
        refusal.fault,
        reason,
    );
    worker.metrics.unrouted().record_error(error);
    worker.access.log(&AccessRecord {
        time: SystemTime::now(),
        remote,
        method: "-",
        host: "",
        uri: "-",
        version: refusal.version,
        status: refusal.status,
        bytes_out: 0,
        duration: Duration::ZERO,
        service: None,
        instance: None,
        upstream: None,
        attempts: 0,
        upstream_duration: None,
        route: None,
        error: Some(error),
        request_id: None,
        user_agent: None,
        referer: None,
        tls: downstream.tls_version(),
        grpc_status: None,
        tcp: None,
        more: None,
    });
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WatchdogAction {
    /// No request came for too long.
    Idle,
    /// A request's head did not come to its end.
    HeadTooSlow,
    /// The client neither sends what it announced nor reads its response.
    Stalled,
    /// The client left while its request was running.
    Gone,
}

/// Looks at the connection now and then; a verdict comes up to one look after its limit. `hangs_up`
/// looks in the kernel for the client's end, for a connection of HTTP/1.
pub(crate) async fn watchdog(
    worker: &Worker,
    limits: ClientLimits,
    watch: &Watch,
    hangs_up: impl Fn() -> HangUp,
) -> WatchdogAction {
    let shortest = limits
        .header
        .min(limits.idle)
        .min(limits.body)
        .min(limits.request.unwrap_or(Duration::MAX));
    let look_every = (shortest / 2).clamp(Duration::from_millis(10), Duration::from_secs(5));
    let mut head = HeadClock::new(worker.clock.now_ms());
    let mut quiet = QuietClock {
        since_ms: worker.clock.now_ms(),
        begun: 0,
        busy: false,
    };
    loop {
        tokio::select! {
            () = tokio::time::sleep(look_every) => {}
            () = watch.gone() => return WatchdogAction::Gone,
        }
        let now_ms = worker.clock.now_ms();
        let passed = |since: u64, limit: Duration| now_ms.saturating_sub(since) >= ms(limit);
        if watch
            .activity()
            .write_waits_since_ms()
            .is_some_and(|since| passed(since, limits.body))
        {
            return WatchdogAction::Stalled;
        }
        if watch
            .overdue_since_ms()
            .is_some_and(|since| passed(since, OVERDUE_MAX))
        {
            return WatchdogAction::Stalled;
        }
        if !watch.is_h1() {
            // HTTP/2: pings get their responses for ever and are not a sign of use.
            if passed(quiet.since(now_ms, watch), limits.idle) {
                return WatchdogAction::Idle;
            }
            continue;
        }
        let between = watch.is_between_requests();
        if !watch.is_idle() {
            head.reset();
            // A read sees it, but not behind bytes for which there is no room.
            match if watch.has_ended() {
                HangUp::No
            } else {
                hangs_up()
            } {
                HangUp::No => {}
                HangUp::Ended => watch.set_ended(),
                HangUp::Gone => return WatchdogAction::Gone,
            }
            let stuck = watch
                .activity()
                .read_waits_since_ms()
                .is_some_and(|since| passed(since, limits.body));
            // A response may come while its request does: then the client is not what nothing moves
            // for.
            if stuck && !between && passed(watch.activity().last_ms(), limits.body) {
                return WatchdogAction::Stalled;
            }
            continue;
        }
        if between {
            let limit = if watch.begun() == 0 {
                limits.header.min(limits.idle)
            } else {
                limits.idle
            };
            head.reset();
            if passed(watch.activity().last_ms(), limit) {
                return WatchdogAction::Idle;
            }
        } else if passed(head.since(now_ms), limits.header) {
            return WatchdogAction::HeadTooSlow;
        }
    }
}

/// Since when an HTTP/2 connection has had no request.
struct QuietClock {
    since_ms: u64,
    begun: u64,
    busy: bool,
}

impl QuietClock {
    fn since(&mut self, now_ms: u64, watch: &Watch) -> u64 {
        // What was busy at the last look may have become quiet just now.
        let busy = !watch.is_idle();
        if busy || self.busy || watch.begun() != self.begun {
            self.begun = watch.begun();
            self.since_ms = now_ms;
        }
        self.busy = busy;
        self.since_ms
    }
}

/// Since when a head has been coming in. The first head counts from the accept, so that
/// drip-feeding the first byte gains nothing.
struct HeadClock {
    since_ms: Option<u64>,
}

impl HeadClock {
    fn new(accepted_ms: u64) -> Self {
        Self {
            since_ms: Some(accepted_ms),
        }
    }

    fn since(&mut self, now_ms: u64) -> u64 {
        *self.since_ms.get_or_insert(now_ms)
    }

    fn reset(&mut self) {
        self.since_ms = None;
    }
}
