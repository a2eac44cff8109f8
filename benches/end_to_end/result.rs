//! Samples, what is made of them (medians of paired ratios), and the table and JSON they are shown in.

use std::fmt::Write as _;

use crate::cases::{Case, Kind};
use crate::proxies::Proxy;

/// What one proxy showed in one case.
pub(crate) struct Series {
    pub(crate) proxy: Proxy,
    /// One figure per round: CPU µs per good request, or MB resident. `None`: no good request in that round.
    pub(crate) rounds: Vec<Option<f64>>,
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
        median(one.rounds.iter().zip(&other.rounds).filter_map(|(a, b)| Some((*a)? / (*b)?)).collect())
    }

    /// Ratio of `lb` to the better of HAProxy and nginx: the larger of the two ratios.
    pub(crate) fn to_best(&self) -> Option<f64> {
        let ratios = [Proxy::Haproxy, Proxy::Nginx].map(|other| self.ratio(Proxy::Lb, other));
        ratios.into_iter().flatten().max_by(f64::total_cmp)
    }

    fn unit(&self) -> &'static str {
        if matches!(self.case.kind, Kind::Idle(_)) { "MB" } else { "µs" }
    }
}

/// The Markdown table: the ratio of `lb` to each, and the figures behind.
pub(crate) fn table(rows: &[Row], proxies: &[Proxy]) -> String {
    let mut text = String::from("| case | lb | to the best of haproxy, nginx | goal |");
    let others: Vec<Proxy> = proxies.iter().copied().filter(|&proxy| proxy != Proxy::Lb).collect();
    for proxy in &others {
        write!(text, " {} |", proxy.name()).unwrap();
    }
    text.push_str("\n|---|---|---|---|");
    text.push_str(&"---|".repeat(others.len()));
    text.push('\n');
    let shown = |row: &Row, proxy: Proxy| -> String {
        let Some(series) = row.of(proxy) else { return "–".to_owned() };
        match series.figure() {
            Some(figure) => format!("{figure:.1}"),
            None if series.problem.is_some() => "did not run".to_owned(),
            None if series.failed > 0 => format!("{} failed", series.failed),
            None => "no answers".to_owned(),
        }
    };
    for row in rows {
        let best = row.to_best().map_or("–".to_owned(), |ratio| format!("**{ratio:.2}**"));
        let goal = row.case.goal.map_or("–".to_owned(), |goal| format!("{goal:.2}"));
        write!(text, "| {} | {} {} | {best} | {goal} |", row.case.name, shown(row, Proxy::Lb), row.unit()).unwrap();
        for &proxy in &others {
            let ratio = row.ratio(Proxy::Lb, proxy).map_or(String::new(), |ratio| format!(" ({ratio:.2})"));
            write!(text, " {}{ratio} |", shown(row, proxy)).unwrap();
        }
        text.push('\n');
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
                        "good": series.good, "failed": series.failed, "problem": series.problem,
                        "lb_to_it": row.ratio(Proxy::Lb, series.proxy),
                    })
                })
                .collect();
            serde_json::json!({"case": row.case.name, "unit": row.unit(), "goal": row.case.goal,
                "lb_to_best": row.to_best(), "series": series})
        })
        .collect();
    serde_json::json!({"about": about, "cases": rows})
}
