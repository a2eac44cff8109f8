//! Two routing tables side by side, as `/api/routes` shows them: Fabio's, and ours made from the
//! same settings.
//!
//! Pure. A target is the same in both when service, place, destination, options and tags are; then
//! its share is compared too. The order of targets and of options makes no difference.

use std::collections::{BTreeMap, BTreeSet};

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

/// An instance that ours leaves out of its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its service.
    pub service: String,
    /// `address:port`.
    pub address: String,
    /// Why, in words.
    pub reason: String,
    /// It is never routed to, whatever its checks say, and Fabio is wrong to do so.
    pub never: bool,
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

/// Compares two responses of `/api/routes`. `left_out`: what ours has reasons to leave out;
/// differences that come from there say so.
///
/// # Errors
/// One of them is not such a response.
pub fn compare(
    fabio: &str,
    ours: &str,
    left_out: &[LeftOut],
) -> Result<Comparison, serde_json::Error> {
    let (mut fabio, mut ours) = (rows(fabio)?, rows(ours)?);
    let causes = Causes::new(fabio.keys().filter(|key| !ours.contains_key(key)), left_out);
    let mut comparison = Comparison::default();
    let mut lines: Vec<(String, String)> = Vec::new();
    let all: BTreeSet<Key> = fabio.keys().chain(ours.keys()).cloned().collect();
    for key in all {
        let (theirs, own) = (
            fabio.remove(&key).unwrap_or_default(),
            ours.remove(&key).unwrap_or_default(),
        );
        for at in 0..theirs.len().max(own.len()) {
            let line = match (theirs.get(at), own.get(at)) {
                (Some(theirs), Some(own)) if (theirs - own).abs() < SHARE_ERROR => {
                    comparison.same += 1;
                    continue;
                }
                (Some(theirs), Some(own)) => {
                    let cause = causes.of_share(&key);
                    format!(
                        "share {theirs:.4} in Fabio, {own:.4} in lb: {}{cause}",
                        key.command()
                    )
                }
                (Some(_), None) => {
                    format!("only in Fabio: {}{}", key.command(), causes.of_target(&key))
                }
                _ => format!("only in lb: {}", key.command()),
            };
            lines.push((key.src.clone(), line));
        }
    }
    lines.sort();
    comparison.differences = lines.into_iter().map(|(_, line)| line).collect();
    Ok(comparison)
}

/// Why targets are in Fabio's table alone, and why shares of others differ: as text to put behind a
/// line.
#[derive(Default)]
struct Causes {
    targets: BTreeMap<Key, String>,
    /// Places with a target that Fabio is wrong to have.
    places: BTreeSet<String>,
}

impl Causes {
    fn new<'a>(only_fabios: impl Iterator<Item = &'a Key>, left_out: &[LeftOut]) -> Self {
        let mut causes = Self::default();
        for key in only_fabios {
            let is_it =
                |out: &&LeftOut| out.service == key.service && out.address == address(&key.dst);
            let Some(LeftOut { reason, never, .. }) = left_out.iter().find(is_it) else {
                continue;
            };
            let text = if *never {
                format!(" (lb is right: {reason})")
            } else {
                format!(" (left out by lb: {reason})")
            };
            causes.targets.insert(key.clone(), printable(&text));
            if *never {
                causes.places.insert(key.src.clone());
            }
        }
        causes
    }

    fn of_target(&self, key: &Key) -> &str {
        self.targets.get(key).map_or("", String::as_str)
    }

    fn of_share(&self, key: &Key) -> &'static str {
        if self.places.contains(&key.src) {
            " (lb is right: some of Fabio's targets here cannot serve)"
        } else {
            ""
        }
    }
}

/// `address:port` of a destination.
fn address(destination: &str) -> &str {
    destination
        .split_once("://")
        .map_or(destination, |(_, rest)| rest)
        .trim_end_matches('/')
}

/// On one line whatever stands in it.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
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
        printable(&text)
    }
}

/// Shares by target, the larger first where one stands there twice. Fabio writes `null` for an
/// empty table.
fn rows(json: &str) -> Result<BTreeMap<Key, Vec<f64>>, serde_json::Error> {
    let rows: Option<Vec<Row>> = serde_json::from_str(json)?;
    let mut shares: BTreeMap<Key, Vec<f64>> = BTreeMap::new();
    for row in rows.unwrap_or_default() {
        let mut opts: Vec<String> = row.opts.split_whitespace().map(str::to_owned).collect();
        opts.sort_unstable();
        let tags = row.tags.unwrap_or_default();
        let key = Key {
            src: row.src,
            service: row.service,
            dst: row.dst,
            tags,
            opts,
        };
        shares.entry(key).or_default().push(row.weight);
    }
    shares
        .values_mut()
        .for_each(|shares| shares.sort_by(|a, b| b.total_cmp(a)));
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
        let fabio = list(&[
            row("a/", "http://1/", "x=1 strip=/a", 0.5),
            row("a/", "http://2/", "", 0.5),
        ]);
        let ours = list(&[
            row("a/", "http://2/", "", 0.50001),
            row("a/", "http://1/", "strip=/a x=1", 0.49999),
        ]);
        assert_eq!(
            compare(&fabio, &ours, &[]).unwrap(),
            Comparison {
                same: 2,
                differences: Vec::new()
            }
        );
        assert!(compare("null", "[]", &[]).unwrap().is_equal());
    }

    #[test]
    fn every_kind_of_difference_is_reported() {
        let fabio = list(&[
            row("a/", "http://1/", "", 0.25),
            row("b/", "http://2/", "k=v", 1.0),
        ]);
        let ours = list(&[
            row("a/", "http://1/", "", 1.0),
            row("b/", "http://2/", "", 1.0),
        ]);
        let comparison = compare(&fabio, &ours, &[]).unwrap();
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
    fn what_ours_leaves_out_is_said_with_the_reason() {
        let fabio = list(&[
            row("a/", "http://10.0.0.1:1/", "", 0.5),
            row("a/", "http://10.0.0.1:2/", "", 0.5),
            row(":5432", "tcp://10.0.0.1:2", "", 1.0),
            row("b/", "http://10.0.0.1:3/", "", 1.0),
            row("c/", "http://10.0.0.1:4/", "", 1.0),
        ]);
        let ours = list(&[row("a/", "http://10.0.0.1:1/", "", 1.0)]);
        let out = |port: u16, service: &str, reason: &str, never| LeftOut {
            service: service.to_owned(),
            address: format!("10.0.0.1:{port}"),
            reason: reason.to_owned(),
            never,
        };
        let left_out = [
            out(2, "s", "Connect\nproxy", true),
            out(3, "s", "check x is critical", false),
            out(4, "other", "Connect proxy", true),
        ];
        assert_eq!(
            compare(&fabio, &ours, &left_out).unwrap().differences,
            [
                "only in Fabio: route add s :5432 tcp://10.0.0.1:2 (lb is right: Connect proxy)",
                "only in Fabio: route add s a/ http://10.0.0.1:2/ (lb is right: Connect proxy)",
                "share 0.5000 in Fabio, 1.0000 in lb: route add s a/ http://10.0.0.1:1/ \
                 (lb is right: some of Fabio's targets here cannot serve)",
                "only in Fabio: route add s b/ http://10.0.0.1:3/ (left out by lb: check x is critical)",
                "only in Fabio: route add s c/ http://10.0.0.1:4/",
            ]
        );
    }

    #[test]
    fn twice_the_same_target_is_counted() {
        let twice = list(&[
            row("a/", "http://1/", "", 0.5),
            row("a/", "http://1/", "", 0.5),
        ]);
        let once = list(&[row("a/", "http://1/", "", 1.0)]);
        assert_eq!(compare(&twice, &once, &[]).unwrap().differences.len(), 2);
    }

    #[test]
    fn something_else_is_an_error() {
        for text in ["", "{}", "<html>", r#"[{"service":"s"}]"#] {
            assert!(compare(text, "[]", &[]).is_err(), "{text}");
        }
    }
}
