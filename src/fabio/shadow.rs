//! Two routing tables side by side, as `/api/routes` tells them: Fabio's, and ours made from the same settings.
//!
//! Pure. A target is the same in both when service, place, destination, options and tags are; then its share is
//! compared too. The order of targets and of options is no difference.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Shares that differ by less say the same: Fabio deals in slots of a ten-thousandth.
const SHARE_ERROR: f64 = 0.0002;

/// One target of one route.
#[derive(Clone, Debug, Deserialize)]
struct Row {
    service: String,
    src: String,
    dst: String,
    #[serde(default)]
    opts: String,
    #[serde(default)]
    tags: Option<Vec<String>>,
    weight: f64,
}

/// What two tables have in common, and what not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Targets that both have.
    pub same: usize,
    /// One line for each difference, those of one route together.
    pub differences: Vec<String>,
}

impl Comparison {
    /// Whether there is no difference.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.differences.is_empty()
    }
}

/// Compares two answers of `/api/routes`.
///
/// # Errors
/// One of them is no such answer.
pub fn compare(fabio: &str, ours: &str) -> Result<Comparison, serde_json::Error> {
    let (mut fabio, mut ours) = (rows(fabio)?, rows(ours)?);
    let mut comparison = Comparison::default();
    let mut lines: Vec<(String, String)> = Vec::new();
    let all: std::collections::BTreeSet<Key> = fabio.keys().chain(ours.keys()).cloned().collect();
    for key in all {
        let (theirs, own) = (fabio.remove(&key).unwrap_or_default(), ours.remove(&key).unwrap_or_default());
        for at in 0..theirs.len().max(own.len()) {
            let line = match (theirs.get(at), own.get(at)) {
                (Some(theirs), Some(own)) if (theirs - own).abs() < SHARE_ERROR => {
                    comparison.same += 1;
                    continue;
                }
                (Some(theirs), Some(own)) => format!("share {theirs:.4} in Fabio, {own:.4} in lb: {}", key.command()),
                (Some(_), None) => format!("only in Fabio: {}", key.command()),
                _ => format!("only in lb: {}", key.command()),
            };
            lines.push((key.src.clone(), line));
        }
    }
    lines.sort();
    comparison.differences = lines.into_iter().map(|(_, line)| line).collect();
    Ok(comparison)
}

/// What makes a target that target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    src: String,
    service: String,
    dst: String,
    tags: Vec<String>,
    opts: Vec<String>,
}

impl Key {
    /// In the route language, on one line whatever stands in it.
    fn command(&self) -> String {
        let mut text = format!("route add {} {} {}", self.service, self.src, self.dst);
        for (clause, words, separator) in [("tags", &self.tags, ","), ("opts", &self.opts, " ")] {
            if !words.is_empty() {
                text.push_str(&format!(" {clause} \"{}\"", words.join(separator)));
            }
        }
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

/// Shares by target, the larger first where one stands there twice. Fabio writes `null` for an empty table.
fn rows(json: &str) -> Result<BTreeMap<Key, Vec<f64>>, serde_json::Error> {
    let rows: Option<Vec<Row>> = serde_json::from_str(json)?;
    let mut shares: BTreeMap<Key, Vec<f64>> = BTreeMap::new();
    for row in rows.unwrap_or_default() {
        let mut opts: Vec<String> = row.opts.split_whitespace().map(str::to_owned).collect();
        opts.sort_unstable();
        let tags = row.tags.unwrap_or_default();
        let key = Key { src: row.src, service: row.service, dst: row.dst, tags, opts };
        shares.entry(key).or_default().push(row.weight);
    }
    shares.values_mut().for_each(|shares| shares.sort_by(|a, b| b.total_cmp(a)));
    Ok(shares)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(src: &str, dst: &str, opts: &str, weight: f64) -> String {
        format!(
            r#"{{"service":"s","host":"h","path":"/","src":"{src}","dst":"{dst}","opts":"{opts}","cmd":"route add","weight":{weight}}}"#
        )
    }

    fn list(rows: &[String]) -> String {
        format!("[{}]", rows.join(","))
    }

    #[test]
    fn order_says_nothing() {
        let fabio = list(&[row("a/", "http://1/", "x=1 strip=/a", 0.5), row("a/", "http://2/", "", 0.5)]);
        let ours = list(&[row("a/", "http://2/", "", 0.50001), row("a/", "http://1/", "strip=/a x=1", 0.49999)]);
        assert_eq!(compare(&fabio, &ours).unwrap(), Comparison { same: 2, differences: Vec::new() });
        assert!(compare("null", "[]").unwrap().is_equal());
    }

    #[test]
    fn every_kind_of_difference_is_told() {
        let fabio = list(&[row("a/", "http://1/", "", 0.25), row("b/", "http://2/", "k=v", 1.0)]);
        let ours = list(&[row("a/", "http://1/", "", 1.0), row("b/", "http://2/", "", 1.0)]);
        let comparison = compare(&fabio, &ours).unwrap();
        assert_eq!(
            comparison.differences,
            [
                "share 0.2500 in Fabio, 1.0000 in lb: route add s a/ http://1/",
                "only in Fabio: route add s b/ http://2/ opts \"k=v\"",
                "only in lb: route add s b/ http://2/",
            ]
        );
        assert_eq!(comparison.same, 0);
    }

    #[test]
    fn twice_the_same_target_is_counted() {
        let twice = list(&[row("a/", "http://1/", "", 0.5), row("a/", "http://1/", "", 0.5)]);
        let once = list(&[row("a/", "http://1/", "", 1.0)]);
        assert_eq!(compare(&twice, &once).unwrap().differences.len(), 2);
    }

    #[test]
    fn something_else_is_an_error() {
        for text in ["", "{}", "<html>", r#"[{"service":"s"}]"#] {
            assert!(compare(text, "[]").is_err(), "{text}");
        }
    }
}
