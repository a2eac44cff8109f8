//! The page of responses without a route.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use bytes::Bytes;

/// A page that is kept up to date from elsewhere; none while there is none. Cheap to clone, all
/// clones are one.
#[derive(Clone, Debug, Default)]
pub struct LivePage(Arc<ArcSwapOption<Bytes>>);

impl LivePage {
    /// Takes the page for all responses from now on; none: the configured one counts.
    pub fn set(&self, page: Option<Bytes>) {
        self.0.store(page.map(Arc::new));
    }
}

/// The page that is sent: the live one, else the configured one.
#[derive(Clone, Debug, Default)]
pub struct NoRoutePage {
    /// As configured.
    configured: Bytes,
    live: LivePage,
}

impl NoRoutePage {
    /// `live` where it holds a page, else `configured`.
    #[must_use]
    pub fn new(configured: Bytes, live: LivePage) -> Self {
        Self { configured, live }
    }

    /// The present page; empty where there is none.
    #[must_use]
    pub fn present(&self) -> Bytes {
        self.live
            .0
            .load()
            .as_ref()
            .map_or_else(|| self.configured.clone(), |page| Bytes::clone(page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_page_goes_before_the_configured_one_while_there_is_one() {
        let live = LivePage::default();
        let page = NoRoutePage::new(Bytes::from_static(b"configured"), live.clone());
        assert_eq!(page.present(), "configured");
        live.set(Some(Bytes::from_static(b"live")));
        assert_eq!(page.clone().present(), "live");
        live.set(Some(Bytes::new()));
        assert_eq!(page.present(), "");
        live.set(None);
        assert_eq!(page.present(), "configured");
    }
}
