//! Where the watches of services wait to hear that their service changed, while there are too few
//! connections for a blocking query each. `feed` finds out what changed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch};

use crate::catalog::ServiceName;

/// Up to this many services named together are each sure to have changed; more are read without
/// waiting, as one cause (a node that went) may concern services in which nothing changes.
const CERTAIN_MAX: usize = 16;

/// All services that are watched.
#[derive(Debug, Default)]
pub(super) struct Notices {
    by_name: Mutex<HashMap<ServiceName, Arc<Notice>>>,
    /// Moves when the list of services was woken.
    list: watch::Sender<u64>,
}

/// That a service changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// When the first sign of it was seen.
    pub(super) seen_at: Instant,
    /// The service is known to have changed; otherwise it may have.
    pub(super) certain: bool,
}

/// The place of one service.
#[derive(Debug, Default)]
struct Notice {
    change: Mutex<Option<Change>>,
    bell: Notify,
}

/// The place of one service, given up when dropped.
#[derive(Debug)]
pub(super) struct Subscription {
    notices: Arc<Notices>,
    name: ServiceName,
    notice: Arc<Notice>,
}

impl Notices {
    /// A place for this service. A second one for the same name replaces the first.
    pub(super) fn subscribe(self: &Arc<Self>, name: &ServiceName) -> Subscription {
        let notice = Arc::new(Notice::default());
        lock(&self.by_name).insert(name.clone(), notice.clone());
        Subscription {
            notices: self.clone(),
            name: name.clone(),
            notice,
        }
    }

    /// These services changed, as was seen at this moment. Names that are not watched are passed
    /// over.
    pub(super) fn report<'a>(
        &self,
        names: impl Iterator<Item = &'a ServiceName>,
        seen_at: Instant,
    ) {
        let by_name = lock(&self.by_name);
        let notices: Vec<_> = names.filter_map(|name| by_name.get(name)).collect();
        let certain = notices.len() <= CERTAIN_MAX;
        notices
            .iter()
            .for_each(|notice| notice.report(Change { seen_at, certain }));
    }

    /// Every service may have changed since this moment.
    pub(super) fn report_all(&self, seen_at: Instant) {
        lock(&self.by_name).values().for_each(|notice| {
            notice.report(Change {
                seen_at,
                certain: false,
            })
        });
    }

    /// The blocking query for the list of services was woken.
    pub(super) fn list_woken(&self) {
        self.list.send_modify(|times| *times += 1);
    }

    /// Changes with [`Notices::list_woken`].
    pub(super) fn list_wakes(&self) -> watch::Receiver<u64> {
        self.list.subscribe()
    }
}

impl Notice {
    fn report(&self, change: Change) {
        let mut pending = lock(&self.change);
        *pending = Some(match *pending {
            Some(before) => Change {
                seen_at: before.seen_at.min(change.seen_at),
                certain: before.certain || change.certain,
            },
            None => change,
        });
        self.bell.notify_one();
    }
}

impl Subscription {
    /// What was reported since the last call. A read that begins after it sees all of that.
    pub(super) fn take(&self) -> Option<Change> {
        lock(&self.notice.change).take()
    }

    /// Waits for a change. Cancel safe.
    pub(super) async fn changed(&self) -> Change {
        loop {
            if let Some(change) = self.take() {
                return change;
            }
            self.notice.bell.notified().await;
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut by_name = lock(&self.notices.by_name);
        if by_name
            .get(&self.name)
            .is_some_and(|notice| Arc::ptr_eq(notice, &self.notice))
        {
            by_name.remove(&self.name);
        }
    }
}

/// A panic leaves these values whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn changes_add_up_until_they_are_taken() {
        let notices = Arc::new(Notices::default());
        let (web, other) = (ServiceName::from("web"), ServiceName::from("other"));
        let [web_place, other_place] = [&web, &other].map(|name| notices.subscribe(name));
        let start = Instant::now();
        notices.report_all(start + Duration::from_secs(1));
        notices.report([&web, &"unknown".into()].into_iter(), start);
        assert_eq!(
            web_place.take(),
            Some(Change {
                seen_at: start,
                certain: true
            })
        );
        assert_eq!(web_place.take(), None);
        let maybe = Change {
            seen_at: start + Duration::from_secs(1),
            certain: false,
        };
        assert_eq!(other_place.changed().now_or_never(), Some(maybe));
        assert_eq!(
            other_place.changed().now_or_never(),
            None,
            "the bell of what was taken wakes nothing"
        );
    }

    #[test]
    fn of_many_services_named_at_once_none_is_certain() {
        let notices = Arc::new(Notices::default());
        let names: Vec<_> = (0..=CERTAIN_MAX)
            .map(|number| ServiceName::from(format!("s{number}").as_str()))
            .collect();
        let places: Vec<_> = names.iter().map(|name| notices.subscribe(name)).collect();
        notices.report(names.iter(), Instant::now());
        assert!(
            places
                .iter()
                .all(|place| place.take().is_some_and(|change| !change.certain))
        );
    }

    #[test]
    fn a_place_is_given_up_by_its_last_owner_only() {
        let notices = Arc::new(Notices::default());
        let name = ServiceName::from("web");
        let first = notices.subscribe(&name);
        let second = notices.subscribe(&name);
        drop(first);
        notices.report_all(Instant::now());
        assert!(second.take().is_some());
        drop(second);
        assert!(lock(&notices.by_name).is_empty());
    }
}
