//! A collector whose families are built anew for each scrape.

use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::names::Family;

/// Adds families to a registry. `collect` builds them, and no others, for each scrape.
///
/// # Errors
/// The registry has a family of that name already, or a name has characters that Prometheus does
/// not allow.
pub(crate) fn register<'a>(
    registry: &Registry,
    families: impl IntoIterator<Item = Family<'a>>,
    collect: impl Fn() -> Vec<MetricFamily> + Send + Sync + 'static,
) -> prometheus::Result<()> {
    let descs = families.into_iter().map(|family| family.desc());
    registry.register(Box::new(ScrapeCollector {
        descs: descs.collect::<prometheus::Result<_>>()?,
        collect,
    }))
}

/// Families of one subject. Nothing is kept between two scrapes: what is counted lies in atomics
/// and locked figures elsewhere, and `collect` reads them.
struct ScrapeCollector<F> {
    descs: Vec<Desc>,
    collect: F,
}

impl<F> Collector for ScrapeCollector<F>
where
    F: Fn() -> Vec<MetricFamily> + Send + Sync,
{
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        (self.collect)()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;
    use crate::metrics::exposition::encode;
    use crate::metrics::family::one;
    use crate::metrics::names::Kind;

    const HITS: Family<'static> = Family {
        name: "hits_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Hits.",
    };

    #[test]
    fn each_scrape_reads_anew() {
        let (registry, count) = (Registry::new(), Arc::new(AtomicU64::new(1)));
        let read = Arc::clone(&count);
        register(&registry, [HITS], move || {
            vec![one(HITS, &[], read.load(Relaxed) as f64)]
        })
        .unwrap();
        assert!(encode(&registry).unwrap().ends_with("\nhits_total 1\n"));
        count.store(2, Relaxed);
        assert!(encode(&registry).unwrap().ends_with("\nhits_total 2\n"));
    }

    #[test]
    fn a_name_is_registered_once_and_has_to_be_one() {
        let registry = Registry::new();
        register(&registry, [HITS], Vec::new).unwrap();
        register(&registry, [HITS], Vec::new).unwrap_err();
        let bad = Family {
            name: "9 hits",
            ..HITS
        };
        register(&registry, [bad], Vec::new).unwrap_err();
    }
}
