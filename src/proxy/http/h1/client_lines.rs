//! The lines of clients that were here a moment ago, for their next connections.

use std::cell::RefCell;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::FixedState;
use http::Version;

use super::write_head::ClientLines;
use crate::proxy::http::headers::{ClientContext, TlsDetails};
use crate::proxy::settings::Settings;

/// Clients remembered; about 300 bytes for each.
const CLIENTS_MAX: usize = 256;

/// Which client got which lines. One slot for each remainder of a hash: the last client has it.
#[derive(Debug, Default)]
pub struct Lines(RefCell<Option<Remembered>>);

#[derive(Debug)]
struct Remembered {
    /// What all of them were made from.
    settings: Arc<Settings>,
    places: Vec<Option<Recent>>,
}

#[derive(Debug)]
struct Recent {
    ip: IpAddr,
    tls: Option<TlsDetails>,
    version: Version,
    lines: Rc<ClientLines>,
}

impl Lines {
    /// The lines for a client that speaks `version`.
    #[must_use]
    pub fn of(
        &self,
        settings: &Arc<Settings>,
        client: &ClientContext,
        version: Version,
    ) -> Rc<ClientLines> {
        let (ip, tls) = (client.ip(), client.tls());
        let mut remembered = self.0.borrow_mut();
        let current = remembered
            .take()
            .filter(|remembered| Arc::ptr_eq(&remembered.settings, settings));
        let places = &mut remembered
            .insert(current.unwrap_or_else(|| Remembered::of(settings)))
            .places;
        #[expect(clippy::cast_possible_truncation, reason = "the remainder is small")]
        let at = (FixedState::default().hash_one((ip, version)) % CLIENTS_MAX as u64) as usize;
        if let Some(recent) = &places[at]
            && (recent.ip, recent.tls, recent.version) == (ip, tls, version)
        {
            return Rc::clone(&recent.lines);
        }
        let lines = Rc::new(ClientLines::new(settings, client, version));
        places[at] = Some(Recent {
            ip,
            tls,
            version,
            lines: Rc::clone(&lines),
        });
        lines
    }
}

impl Remembered {
    fn of(settings: &Arc<Settings>) -> Self {
        Self {
            settings: Arc::clone(settings),
            places: (0..CLIENTS_MAX).map(|_| None).collect(),
        }
    }
}
