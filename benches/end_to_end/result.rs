//! Samples, what is made of them (medians of paired ratios), and the table and JSON they are shown
//! in.

use std::fmt::Write as _;

use crate::cases::{Case, WORKERS_THROUGHPUT};
use crate::outcome::Outcome;
use crate::proxies::Proxy;

/// What one proxy showed in one case.
pub(crate) struct Series {
    pub(crate) proxy: Proxy,
    /// One figure per round: CPU µs per good request, MB resident, or ms. `None`: no good request
    /// in that round.
    pub(crate) rounds: Vec<Option<f64>>,
    /// Good requests per second, of each round.
    pub(crate) per_second: Vec<f64>,
    /// CPU time by time, of each round: how many cores were busy.
    pub(crate) cores: Vec<f64>,
    /// Failed requests in all rounds: with any, there is no figure.
    pub(crate) failed: u64,
    /// Good requests in all rounds.
    pub(crate) good: u64,
    /// Why it could not be measured.
    pub(crate) problem: Option<String>,
}

/// One row.
pub(crate) struct Row {
    pub(crate) case: Case,
    /// Requests per second that were to be sent, where the case is one of a constant load that had
    /// to be found; else 0.
    pub(crate) rate: u64,
    pub(crate) series: Vec<Series>,
}

/// The middle one; of an even number the mean of the middle two.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

impl Series {
    /// Before the first round.
    pub(crate) fn new(proxy: Proxy) -> Self {
        let (rounds, per_second, cores) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            proxy,
            rounds,
            per_second,
            cores,
            failed: 0,
            good: 0,
            problem: None,
        }
    }

    /// One round more.
    pub(crate) fn add(&mut self, outcome: &Outcome, figure: f64, per_second: f64, cores: f64) {
        self.good += outcome.good;
        self.failed += outcome.failed;
        self.rounds.push((outcome.good > 0).then_some(figure));
        self.per_second.push(per_second);
        self.cores.push(cores);
    }

    /// Its median, if nothing failed.
    pub(crate) fn figure(&self) -> Option<f64> {
        if self.failed > 0 || self.problem.is_some() {
            None
        } else {
            median(self.rounds.iter().flatten().copied().collect())
        }
    }
}

impl Row {
    pub(crate) fn of(&self, proxy: Proxy) -> Option<&Series> {
        self.series.iter().find(|series| series.proxy == proxy)
    }

    /// Median over the rounds of what `proxy` cost by what `other` cost in the same round.
    pub(crate) fn ratio(&self, proxy: Proxy, other: Proxy) -> Option<f64> {
        let (one, other) = (self.of(proxy)?, self.of(other)?);
        let _ = (one.figure()?, other.figure()?);
        median(
            one.rounds
                .iter()
                .zip(&other.rounds)
                .filter_map(|(a, b)| Some((*a)? / (*b)?))
                .collect(),
        )
    }

    /// Ratio of `lb` to the better of HAProxy and nginx: the larger of the two ratios.
    pub(crate) fn to_best(&self) -> Option<f64> {
        let ratios = [Proxy::Haproxy, Proxy::Nginx].map(|other| self.ratio(Proxy::Lb, other));
        ratios.into_iter().flatten().max_by(f64::total_cmp)
    }

    /// Ratio of the second of a pair of forms of `lb` to the plain one.
    pub(crate) fn to_plain(&self) -> Option<f64> {
        let [plain, other] = self.case.pair()?;
        self.ratio(other, plain)
    }

    /// The figure of `proxy`, or why there is none.
    pub(crate) fn shown(&self, proxy: Proxy) -> String {
        let Some(series) = self.of(proxy) else {
            return "–".to_owned();
        };
        match series.figure() {
            Some(figure) if self.case.unit() == "ms" => format!("{figure:.2}"),
            Some(figure) => format!("{figure:.1}"),
            None if series.problem.is_some() => "did not run".to_owned(),
            None if series.failed > 0 => format!("{} failed", series.failed),
            None => "no answers".to_owned(),
        }
    }

    /// What two workers of `lb` get done by what one gets done in the same round.
    fn throughput_of_two(&self) -> Option<f64> {
        let (one, two) = (self.of(Proxy::Lb)?, self.of(Proxy::LbTwo)?);
        let _ = (one.figure()?, two.figure()?);
        median(
            two.per_second
                .iter()
                .zip(&one.per_second)
                .map(|(two, one)| two / one)
                .collect(),
        )
    }
}

/// The Markdown table: the ratio of `lb` to each, and the figures behind. Cases with a varied `lb`
/// have a table of their own; empty without any other.
pub(crate) fn table(rows: &[Row], proxies: &[Proxy]) -> String {
    let rows: Vec<&Row> = rows.iter().filter(|row| !row.case.is_varied()).collect();
    if rows.is_empty() {
        return String::new();
    }
    let mut text = String::from("| case | lb | to the best of haproxy, nginx | goal |");
    // Some stand in a few cases only.
    let stands =
        |proxy: Proxy| proxy != Proxy::Lb && rows.iter().any(|row| row.of(proxy).is_some());
    let others: Vec<Proxy> = proxies
        .iter()
        .copied()
        .filter(|&proxy| stands(proxy))
        .collect();
    for proxy in &others {
        write!(text, " {} |", proxy.name()).unwrap();
    }
    text.push_str("\n|---|---|---|---|");
    text.push_str(&"---|".repeat(others.len()));
    text.push('\n');
    for row in rows {
        let best = row
            .to_best()
            .map_or("–".to_owned(), |ratio| format!("**{ratio:.2}**"));
        let goal = row
            .case
            .goal
            .map_or("–".to_owned(), |goal| format!("{goal:.2}"));
        write!(
            text,
            "| {} | {} {} | {best} | {goal} |",
            row.case.name,
            row.shown(Proxy::Lb),
            row.case.unit()
        )
        .unwrap();
        for &proxy in &others {
            let ratio = row
                .ratio(Proxy::Lb, proxy)
                .map_or(String::new(), |ratio| format!(" ({ratio:.2})"));
            write!(text, " {}{ratio} |", row.shown(proxy)).unwrap();
        }
        text.push('\n');
    }
    text
}

/// The rate of requests, and how busy it kept each proxy, for cases whose figure means nothing without
/// it; and what two workers do. Empty without such a case.
pub(crate) fn loads(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        if row.rate > 0 {
            write!(text, "\n{}: {} requests a second;", row.case.name, row.rate).unwrap();
            for series in row.series.iter().filter(|series| series.figure().is_some()) {
                let busy = median(series.cores.clone()).unwrap_or(0.0) * 100.0;
                write!(text, " {} {busy:.0} % busy", series.proxy.name()).unwrap();
            }
            text.push('\n');
        }
        if let Some(throughput) = row.throughput_of_two() {
            let cost = row.to_plain().unwrap_or(0.0);
            // At a constant load both get the same done.
            let done = if row.case.name == WORKERS_THROUGHPUT {
                format!(" get {throughput:.2} times as much done, and")
            } else {
                String::new()
            };
            writeln!(
                text,
                "\n{}: two workers{done} cost {cost:.2} times as much per request",
                row.case.name
            )
            .unwrap();
        }
    }
    text
}

/// Everything, for a program to read.
pub(crate) fn json(rows: &[Row], about: &serde_json::Value) -> serde_json::Value {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let series: Vec<_> = row
                .series
                .iter()
                .map(|series| {
                    serde_json::json!({
                        "proxy": series.proxy.name(), "median": series.figure(), "rounds": series.rounds,
                        "per_second": series.per_second, "cores": series.cores,
                        "good": series.good, "failed": series.failed, "problem": series.problem,
                        "lb_to_it": row.ratio(Proxy::Lb, series.proxy),
                    })
                })
                .collect();
            serde_json::json!({"case": row.case.name, "unit": row.case.unit(), "goal": row.case.goal, "rate": row.rate,
                "lb_to_best": row.to_best(), "to_plain": row.to_plain(), "series": series})
        })
        .collect();
    serde_json::json!({"about": about, "cases": rows})
}
