//! Builds the families of a scrape: counters that are kept elsewhere, as the crate's values.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, Summary,
};

use super::names::{Family, Kind};

/// A family to which samples are added. Label values stand in the order of the family's labels.
#[derive(Debug)]
pub(crate) struct FamilyBuilder<'a> {
    family: Family<'a>,
    samples: Vec<Metric>,
}

impl<'a> FamilyBuilder<'a> {
    /// Without samples. A family that has none at the end is left out of the scrape.
    #[must_use]
    pub(crate) fn new(family: Family<'a>) -> Self {
        Self {
            family,
            samples: Vec::new(),
        }
    }

    /// Adds a sample of a counter or a gauge.
    pub(crate) fn sample(&mut self, values: &[&str], value: f64) {
        let mut metric = self.labelled(values);
        if self.family.kind == Kind::Counter {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            debug_assert_eq!(self.family.kind, Kind::Gauge, "{}", self.family.name);
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.samples.push(metric);
    }

    /// Adds a histogram. `bounds` are the upper ones, in seconds; of `buckets` there is one more,
    /// and each counts what is in it alone.
    pub(crate) fn histogram(
        &mut self,
        values: &[&str],
        bounds: &[f64],
        buckets: &[u64],
        sum_seconds: f64,
    ) {
        debug_assert_eq!(self.family.kind, Kind::Histogram, "{}", self.family.name);
        let mut cumulative = 0;
        let bounded = bounds.iter().zip(buckets).map(|(&bound, count)| {
            cumulative += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(cumulative);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(bounded.collect());
        // The encoder writes the last bucket and the count from this: they agree while requests
        // go on.
        histogram.set_sample_count(buckets.iter().sum());
        histogram.set_sample_sum(sum_seconds);
        let mut metric = self.labelled(values);
        metric.set_histogram(histogram);
        self.samples.push(metric);
    }

    /// Adds a summary without quantiles.
    pub(crate) fn summary(&mut self, values: &[&str], count: u64, sum_seconds: f64) {
        debug_assert_eq!(self.family.kind, Kind::Summary, "{}", self.family.name);
        let mut summary = Summary::default();
        summary.set_sample_count(count);
        summary.set_sample_sum(sum_seconds);
        let mut metric = self.labelled(values);
        metric.set_summary(summary);
        self.samples.push(metric);
    }

    /// The family with its samples.
    #[must_use]
    pub(crate) fn build(self) -> MetricFamily {
        let mut family = MetricFamily::default();
        family.set_name(self.family.name.to_owned());
        family.set_help(self.family.help.to_owned());
        family.set_field_type(self.family.kind.into());
        family.set_metric(self.samples);
        family
    }

    fn labelled(&self, values: &[&str]) -> Metric {
        debug_assert_eq!(
            self.family.labels.len(),
            values.len(),
            "{}",
            self.family.name
        );
        let pairs = self.family.labels.iter().zip(values).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        Metric::from_label(pairs.collect())
    }
}

/// A counter or gauge with one sample.
#[must_use]
pub(crate) fn one(family: Family<'_>, values: &[&str], value: f64) -> MetricFamily {
    let mut builder = FamilyBuilder::new(family);
    builder.sample(values, value);
    builder.build()
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    fn family(kind: Kind, labels: &'static [&'static str]) -> Family<'static> {
        Family {
            name: "f",
            kind,
            labels,
            help: "Help.",
        }
    }

    fn text(builder: FamilyBuilder<'_>) -> String {
        TextEncoder::new()
            .encode_to_string(&[builder.build()])
            .unwrap()
    }

    #[test]
    fn counters_and_gauges_have_their_labels_in_the_order_of_the_family() {
        let mut counter = FamilyBuilder::new(family(Kind::Counter, &["z", "a"]));
        counter.sample(&["1", "a\"\\\n"], 7.0);
        assert_eq!(
            text(counter),
            "# HELP f Help.\n# TYPE f counter\nf{z=\"1\",a=\"a\\\"\\\\\\n\"} 7\n"
        );
        let mut gauge = FamilyBuilder::new(family(Kind::Gauge, &[]));
        gauge.sample(&[], -0.25);
        assert_eq!(text(gauge), "# HELP f Help.\n# TYPE f gauge\nf -0.25\n");
    }

    #[test]
    fn buckets_are_cumulated_and_the_last_is_the_count() {
        let mut histogram = FamilyBuilder::new(family(Kind::Histogram, &["s"]));
        histogram.histogram(&["x"], &[0.5, 10.0], &[1, 2, 4], 1.5);
        assert_eq!(
            text(histogram),
            "# HELP f Help.\n# TYPE f histogram\nf_bucket{s=\"x\",le=\"0.5\"} 1\n\
             f_bucket{s=\"x\",le=\"10\"} 3\nf_bucket{s=\"x\",le=\"+Inf\"} 7\n\
             f_sum{s=\"x\"} 1.5\nf_count{s=\"x\"} 7\n"
        );
    }

    #[test]
    fn a_summary_has_sum_and_count() {
        let mut summary = FamilyBuilder::new(family(Kind::Summary, &[]));
        summary.summary(&[], 3, 0.5);
        assert_eq!(
            text(summary),
            "# HELP f Help.\n# TYPE f summary\nf_sum 0.5\nf_count 3\n"
        );
    }
}
