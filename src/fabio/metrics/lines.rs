//! A report as lines, in the form of each receiver.
//!
//! The forms are those that a running Fabio sends, oddities included: no dot behind the prefix, and
//! DogStatsD's histograms in seconds where they have tags.

use super::Taken;
use super::report::{Labels, Point, Value};
use crate::config::prefix_template::clean;
use crate::metrics::observer::TargetLabels;

/// What the receiver of a report reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// StatsD: labels in the name, durations in milliseconds.
    Statsd,
    /// DogStatsD: labels as tags.
    Dogstatsd,
    /// Graphite's plain text: quantiles in milliseconds.
    Graphite,
    /// For people: labels in the name, whole milliseconds.
    Flat,
    /// For people: labels behind.
    Label,
}

impl Form {
    /// Whether people read it line by line, and want none again that says what was said before.
    #[must_use]
    pub(crate) fn is_for_people(self) -> bool {
        matches!(self, Self::Flat | Self::Label)
    }
}

/// Quantiles that Graphite gets.
const QUANTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p95", 0.95), ("p99", 0.99)];

/// The lines of a report, without line breaks. `unix_seconds` is the time of the report.
#[must_use]
pub(crate) fn lines(form: Form, prefix: &str, points: &[Point], unix_seconds: u64) -> Vec<String> {
    let mut lines = Vec::new();
    for point in points {
        match form {
            Form::Statsd => statsd(prefix, point, &mut lines),
            Form::Dogstatsd => dogstatsd(prefix, point, &mut lines),
            Form::Graphite => graphite(prefix, point, unix_seconds, &mut lines),
            Form::Flat => local(
                &format!("{prefix}.{}", dotted(point)),
                "",
                &point.value,
                &mut lines,
            ),
            Form::Label => {
                local(
                    &format!("{prefix}.{}", point.name),
                    &tags(&point.labels, str::to_owned),
                    &point.value,
                    &mut lines,
                );
            }
        }
    }
    lines
}

fn statsd(prefix: &str, point: &Point, lines: &mut Vec<String>) {
    let name = safe(&format!("{prefix}{}", dotted(point)), &[':', '|', '@', '#']);
    match &point.value {
        Value::Counter(growth) if growth.since == 0 => {}
        Value::Counter(growth) => lines.push(format!("{name}:{:.6}|c", growth.since as f64)),
        Value::Gauge(value) => lines.push(format!("{name}:{value:.6}|g", value = *value as f64)),
        Value::Times(taken) => {
            let rate = rate(taken);
            lines.extend(
                taken
                    .kept
                    .iter()
                    .map(|ns| format!("{name}:{:.6}|ms{rate}", *ns as f64 / 1e6)),
            );
        }
    }
}

fn dogstatsd(prefix: &str, point: &Point, lines: &mut Vec<String>) {
    let name = safe(&format!("{prefix}{}", point.name), &[':', '|', '@', '#']);
    let tags = tags(&point.labels, |name| match name {
        // Names that the agent keeps for itself.
        "host" | "service" => format!("fabio-{name}"),
        other => other.to_owned(),
    });
    match &point.value {
        Value::Counter(growth) if growth.since == 0 => {}
        Value::Counter(growth) => lines.push(format!("{name}:{:.6}|c{tags}", growth.since as f64)),
        Value::Gauge(value) => {
            lines.push(format!("{name}:{value:.6}|g{tags}", value = *value as f64))
        }
        Value::Times(taken) => {
            let (rate, unit_ns) = (rate(taken), if point.labels.is_empty() { 1e6 } else { 1e9 });
            lines.extend(
                taken
                    .kept
                    .iter()
                    .map(|ns| format!("{name}:{:.6}|h{rate}{tags}", *ns as f64 / unit_ns)),
            );
        }
    }
}

fn graphite(prefix: &str, point: &Point, unix_seconds: u64, lines: &mut Vec<String>) {
    let name = safe(&format!("{prefix}{}", dotted(point)), &[]);
    match &point.value {
        Value::Counter(growth) => {
            lines.push(format!("{name} {:.6} {unix_seconds}", growth.since as f64))
        }
        Value::Gauge(value) => lines.push(format!("{name} {:.6} {unix_seconds}", *value as f64)),
        Value::Times(taken) => {
            let mut sorted = taken.kept.clone();
            sorted.sort_unstable();
            for (suffix, quantile) in QUANTILES {
                // The smallest duration that at least this share does not exceed.
                let rank = (quantile * sorted.len() as f64).ceil() as usize;
                let Some(ns) = sorted.get(rank.saturating_sub(1)) else {
                    continue;
                };
                lines.push(format!(
                    "{name}.{suffix} {:.6} {unix_seconds}",
                    *ns as f64 / 1e6
                ));
            }
        }
    }
}

fn local(name: &str, tags: &str, value: &Value, lines: &mut Vec<String>) {
    let name = safe(name, &[]);
    match value {
        Value::Counter(growth) if growth.since == 0 => {}
        Value::Counter(growth) => lines.push(format!("{name}:{}|c{tags}", growth.total)),
        Value::Gauge(value) => lines.push(format!("{name}:{value}|g{tags}")),
        Value::Times(taken) => {
            let rate = rate(taken);
            lines.extend(
                taken
                    .kept
                    .iter()
                    .map(|ns| format!("{name}:{:.0}|ms{rate}{tags}", *ns as f64 / 1e6)),
            );
        }
    }
}

/// Says of how many durations each that is sent stands for.
fn rate(taken: &Taken) -> String {
    let kept = taken.kept.len() as u64;
    if kept < taken.seen {
        format!("|@{:.6}", kept as f64 / taken.seen as f64)
    } else {
        String::new()
    }
}

/// The name with its labels: `http.status.code.200.service.web`; that of a route's metric begins
/// with its target.
fn dotted(point: &Point) -> String {
    match &point.labels {
        Labels::Pairs(pairs) => pairs
            .iter()
            .fold(point.name.to_owned(), |name, (label, value)| {
                format!("{name}.{label}.{value}")
            }),
        Labels::Route(TargetLabels {
            service,
            host,
            path,
            target,
        }) => {
            let target = authority(target);
            let name = [service, host, path, target].map(clean).join(".");
            // Of `route.rx` the last word says which it is.
            point
                .name
                .rsplit_once('.')
                .map_or(name.clone(), |(_, last)| format!("{name}.{last}"))
        }
    }
}

/// `HOST:PORT` of a URL.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    rest[..end]
        .rsplit_once('@')
        .map_or(&rest[..end], |(_, host)| host)
}

/// `|#service:web,code:200`; empty without labels.
fn tags(labels: &Labels, rename: impl Fn(&'static str) -> String) -> String {
    let pairs: Vec<String> = labels
        .pairs()
        .into_iter()
        .map(|(name, value)| format!("{}:{}", rename(name), safe(value, &['|', ','])))
        .collect();
    if pairs.is_empty() {
        String::new()
    } else {
        format!("|#{}", pairs.join(","))
    }
}

/// Names come from registrations: they must not end a line, or mean something in it.
fn safe(text: &str, special: &[char]) -> String {
    let bad = |c: char| c.is_whitespace() || c.is_control() || special.contains(&c);
    text.chars().map(|c| if bad(c) { '_' } else { c }).collect()
}

/// Lines in packets of at most `bytes_max`, each line with its line break; a longer line has a
/// packet of its own.
#[must_use]
pub(crate) fn packets(lines: &[String], bytes_max: usize) -> Vec<Vec<u8>> {
    let mut packets: Vec<Vec<u8>> = Vec::new();
    for line in lines {
        match packets.last_mut() {
            Some(last) if last.len() + line.len() < bytes_max => {
                last.extend_from_slice(line.as_bytes());
                last.push(b'\n');
            }
            _ => packets.push([line.as_bytes(), b"\n"].concat()),
        }
    }
    packets
}

#[cfg(test)]
mod tests {
    use super::super::tests::{busy, labels};
    use super::super::{Growth, report};
    use super::*;
    use crate::metrics::observer::TrafficObserver as _;

    /// Lines as a running Fabio (1.7.3) sent them for the same traffic, but for times.
    #[test]
    fn lines_are_fabios() {
        let points = report::take(&busy());
        for (form, expected) in [
            (
                Form::Statsd,
                &[
                    "vm.fabionotfound:2.000000|c",
                    "vm.fabiows.conn:0.000000|g",
                    "vm.fabiorequests.service.web:4.000000|ms",
                    "vm.fabiohttp.status.code.200.service.web:4.000000|ms",
                    "vm.fabioweb.www_a_com./.127_0_0_1_7801:50.000000|ms",
                    "vm.fabiodead._./dead.127_0_0_1_9:1.000000|ms",
                    "vm.fabiodb._7811._.127_0_0_1_7803.tx:6.000000|c",
                    "vm.fabiohttp.redirect.count.code.301:1.000000|c",
                    "vm.fabiogrpc.requests:1.000000|ms",
                    "vm.fabiogrep.status.code.NotFound:1.000000|ms",
                ][..],
            ),
            (
                Form::Dogstatsd,
                &[
                    "vm.fabionotfound:2.000000|c",
                    "vm.fabiorequests:0.004000|h|#fabio-service:web",
                    "vm.fabiohttp.status:0.004000|h|#code:200,fabio-service:web",
                    "vm.fabioroute:0.001000|h|#fabio-service:dead,fabio-host:,path:/dead,target:http://127.0.0.1:9/",
                    "vm.fabiogrpc.requests:1.000000|h",
                ],
            ),
            (
                Form::Graphite,
                &[
                    "vm.fabionotfound 2.000000 77",
                    "vm.fabiows.conn 0.000000 77",
                    "vm.fabioweb.www_a_com./.127_0_0_1_7801.p50 50.000000 77",
                    "vm.fabiohttp.status.code.200.service.web.p50 4.000000 77",
                    "vm.fabiohttp.status.code.200.service.web.p90 50.000000 77",
                    "vm.fabiodb._7811._.127_0_0_1_7803.rx 12.000000 77",
                ],
            ),
            (
                Form::Label,
                &[
                    "vm.fabio.notfound:2|c",
                    "vm.fabio.requests:4|ms|#service:web",
                    "vm.fabio.http.status:1|ms|#code:502,service:dead",
                    "vm.fabio.route:1|ms|#service:dead,host:,path:/dead,target:http://127.0.0.1:9/",
                ],
            ),
            (
                Form::Flat,
                &["vm.fabio.requests.service.web:4|ms", "vm.fabio.ws.conn:0|g"],
            ),
        ] {
            let lines = lines(form, "vm.fabio", &points, 77);
            for line in expected {
                assert!(
                    lines.iter().any(|found| found == line),
                    "{line} not in {lines:#?}"
                );
            }
        }
    }

    #[test]
    fn a_second_report_holds_only_news() {
        let metrics = busy();
        let _ = report::take(&metrics);
        let points = report::take(&metrics);
        assert_eq!(lines(Form::Statsd, "", &points, 0), ["ws.conn:0.000000|g"]);
        let graphite = lines(Form::Graphite, "", &points, 0);
        assert!(
            graphite.contains(&"notfound 0.000000 0".to_owned()),
            "a counter goes on: {graphite:?}"
        );
        let mut news = report::News::default();
        let said = |points: &[Point], news: &mut report::News| {
            lines(Form::Label, "p", &news.of(points), 0)
        };
        assert_eq!(said(&points, &mut news), ["p.ws.conn:0|g"]);
        assert_eq!(said(&report::take(&metrics), &mut news), [""; 0]);
        metrics.redirect(301);
        let lines = lines(Form::Label, "p", &report::take(&metrics), 0);
        assert!(
            lines.contains(&"p.http.redirect.count:2|c|#code:301".to_owned()),
            "{lines:?}"
        );
    }

    #[test]
    fn a_sample_says_what_it_stands_for() {
        let value = Value::Times(Taken {
            seen: 8,
            kept: vec![1_000_000, 2_000_000],
        });
        let point = Point {
            name: "grpc.requests",
            labels: Labels::Pairs(vec![]),
            value,
        };
        let expected = [
            "grpc.requests:1.000000|ms|@0.250000",
            "grpc.requests:2.000000|ms|@0.250000",
        ];
        assert_eq!(lines(Form::Statsd, "", &[point], 0), expected);
    }

    #[test]
    fn names_of_strangers_break_no_line() {
        let strange = Labels::Route(labels("a b", "x\ny", "/p|q#,r", "http://u:p@h:1/?x"));
        let value = Value::Counter(Growth { total: 1, since: 1 });
        let point = [Point {
            name: "route.rx",
            labels: strange,
            value,
        }];
        assert_eq!(
            lines(Form::Statsd, "", &point, 0),
            ["a_b.x_y./p_q_,r.h_1.rx:1.000000|c"]
        );
        assert_eq!(
            lines(Form::Graphite, "", &point, 1),
            ["a_b.x_y./p|q#,r.h_1.rx 1.000000 1"]
        );
        let tagged = lines(Form::Dogstatsd, "", &point, 0);
        assert_eq!(
            tagged,
            [
                "route.rx:1.000000|c|#fabio-service:a_b,fabio-host:x_y,path:/p_q#_r,target:http://u:p@h:1/?x"
            ]
        );
    }

    #[test]
    fn packets_are_bounded() {
        let lines: Vec<String> = ["aaaa", "bbb", "c", "ddddddddddddd", "e"]
            .map(str::to_owned)
            .into();
        let packets: Vec<String> = packets(&lines, 10)
            .into_iter()
            .map(|packet| String::from_utf8(packet).unwrap())
            .collect();
        assert_eq!(packets, ["aaaa\nbbb\n", "c\n", "ddddddddddddd\n", "e\n"]);
    }
}
