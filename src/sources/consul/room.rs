//! Whether there is room for a blocking query per watched service, or only for a few that report
//! what changed.
//!
//! ```text
//! slots (requests that fit at once)
//! ├── enough for every watch, and SPARE           each service has a blocking query of its own
//! ├── not enough, but FEED_MIN or more            few watches report which services changed, which are then read (`feed`)
//! └── fewer than FEED_MIN                         watches take turns (`blocking::turn_wait`)
//! ```
//! Over HTTP/2 hundreds of requests share a connection, so the first case is the rule there. Over
//! plain HTTP each blocking query has a connection to itself, of which an agent grants 200 to all
//! programs of a host together (`limits.http_max_conns_per_client`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Slots kept free for reads that confirm a response, and for the registration.
pub(super) const SPARE: usize = 4;
/// Fewest slots with which reporting what changed works: four watches, one for a node, and some for
/// reads.
const FEED_MIN: usize = 8;
/// Watches of services have to fit with this much to spare before they get blocking queries again.
const HYSTERESIS: usize = 8;

/// Counts watches and slots, and says which of the three cases it is.
#[derive(Debug)]
pub(super) struct Room {
    counts: Mutex<Counts>,
    scarce: watch::Sender<bool>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Watches of services.
    services: usize,
    /// All others: they block in every case.
    others: usize,
    /// Watches that report which services changed: they come and go with the scarcity, and must not
    /// decide about it.
    feed: usize,
    slots: usize,
}

/// What a watch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The instances of one service.
    Service,
    /// Which services changed.
    Feed,
    /// Anything else.
    Other,
}

/// Counts one watch for as long as it lives.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    purpose: Purpose,
}

impl Room {
    pub(super) fn new(slots: usize) -> Arc<Self> {
        let counts = Counts {
            slots,
            ..Counts::default()
        };
        Arc::new(Self {
            counts: Mutex::new(counts),
            scarce: watch::Sender::new(false),
        })
    }

    /// How many requests fit at once has changed.
    pub(super) fn set_slots(&self, slots: usize) {
        self.change(|counts| counts.slots = slots);
    }

    /// Requests that fit at once.
    pub(super) fn slots(&self) -> usize {
        self.counts().slots
    }

    /// Counts a watch until the place is dropped.
    pub(super) fn enter(self: &Arc<Self>, purpose: Purpose) -> Place {
        self.change(|counts| *counts.of(purpose) += 1);
        Place {
            room: self.clone(),
            purpose,
        }
    }

    /// Whether services have to wait until a change is reported; changes with the counts.
    pub(super) fn scarce(&self) -> watch::Receiver<bool> {
        self.scarce.subscribe()
    }

    /// Watches that block in the present case.
    pub(super) fn blocking(&self) -> usize {
        let Counts {
            services,
            others,
            feed,
            ..
        } = self.counts();
        if *self.scarce.borrow() {
            others + feed
        } else {
            services + others
        }
    }

    fn counts(&self) -> Counts {
        *self.lock()
    }

    fn change(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.lock();
        change(&mut counts);
        self.scarce.send_if_modified(|scarce| {
            let before = *scarce;
            *scarce = is_scarce(before, *counts);
            *scarce != before
        });
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // A panic leaves three numbers whole.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn of(&mut self, purpose: Purpose) -> &mut usize {
        match purpose {
            Purpose::Service => &mut self.services,
            Purpose::Feed => &mut self.feed,
            Purpose::Other => &mut self.others,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.change(|counts| *counts.of(self.purpose) -= 1);
    }
}

/// `before`: what it was.
fn is_scarce(before: bool, counts: Counts) -> bool {
    let needed = counts.services + counts.others + SPARE + if before { HYSTERESIS } else { 0 };
    counts.slots >= FEED_MIN && needed > counts.slots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_scarce_between_two_bounds() {
        // before, services, other watches, slots -> scarce
        let cases = [
            (false, 14, 1, 20, false),
            (false, 15, 1, 20, false),
            (false, 16, 1, 20, true),
            (false, 1000, 1, 100, true),
            (false, 1000, 1, 20_000, false),
            // It is not given up for the first one that leaves.
            (true, 16, 1, 20, true),
            (true, 8, 1, 20, true),
            (true, 7, 1, 20, false),
            // Too few to report anything.
            (false, 1000, 1, 7, false),
            (true, 1000, 1, 7, false),
            (false, 1000, 1, 8, true),
        ];
        for (before, services, others, slots, expected) in cases {
            // What tells of changes has no say, else the scarcity would end by its own end.
            let counts = Counts {
                services,
                others,
                feed: 80,
                slots,
            };
            assert_eq!(is_scarce(before, counts), expected, "{before} {counts:?}");
        }
    }

    #[test]
    fn places_are_given_back() {
        let room = Room::new(10);
        let scarce = room.scarce();
        let list = room.enter(Purpose::Other);
        let mut services: Vec<_> = (0..6).map(|_| room.enter(Purpose::Service)).collect();
        assert_eq!((*scarce.borrow(), room.blocking()), (true, 1));
        services.truncate(1);
        assert_eq!(
            (*scarce.borrow(), room.blocking()),
            (true, 1),
            "it is not given up for the first one that leaves"
        );
        room.set_slots(20);
        assert_eq!((*scarce.borrow(), room.blocking()), (false, 2));
        drop(list);
        assert_eq!(room.blocking(), 1);
    }
}
