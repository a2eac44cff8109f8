//! Registration of `lb` itself, with a source that can do it.

use std::time::Duration;

use futures_util::future::LocalBoxFuture;

use crate::config::RegisterConfig;

/// Where the admin listener is, as others see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdvertisedAddress {
    /// Address and port; neither is 0.
    pub address: std::net::SocketAddr,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// Name of this machine.
    pub hostname: String,
}

/// `lb` under one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Announcement {
    /// The name that it is found under.
    pub name: String,
    /// Tags and checks.
    pub config: RegisterConfig,
    /// Where it is.
    pub at: AdvertisedAddress,
}

/// Keeps registrations. Ends when dropped, and leaves what is registered to its checks.
pub trait Registrar {
    /// These are wanted from now on, and no others.
    fn set(&self, wanted: &[Announcement]);

    /// Removes all of them; returns after `limit` at the latest, and whether nothing is left.
    fn withdraw(&self, limit: Duration) -> LocalBoxFuture<'_, bool>;
}
