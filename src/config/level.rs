//! The filter of the program log, as far as it can be judged without the log.
//!
//! The directive language takes a bare word for the name of a target: `log.level = "loud"` would be
//! a fine filter that lets nothing through. Here a bare word has to be a level, or a path of ours.

use tracing_subscriber::filter::targets::Targets;

use super::error::nearest;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
const ADVICE: &str = "write off, error, warn, info, debug or trace, or \"info,lb::sources=debug\"";

/// What is wrong with a filter, and what to do about it.
pub(super) fn problem(filter: &str) -> Option<(String, String)> {
    for directive in filter.split(',').map(str::trim) {
        let (target, level) = match directive.split_once('=') {
            Some((target, level)) => (target.trim(), level.trim()),
            None if directive == "lb" || directive.starts_with("lb::") => continue,
            None => ("lb", directive),
        };
        let known = LEVELS.iter().any(|word| word.eq_ignore_ascii_case(level));
        if target.is_empty() || !known {
            let problem = format!("is not a filter ({level:?} is not a level)");
            let advice = nearest(level, LEVELS).map(|near| format!("did you mean {near}? "));
            return Some((problem, format!("{}{ADVICE}", advice.unwrap_or_default())));
        }
    }
    let error = filter.parse::<Targets>().err()?;
    Some((format!("is not a filter ({error})"), ADVICE.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives() {
        for good in [
            "info",
            "OFF",
            "info,lb::sources=debug",
            "lb",
            "lb::sources",
            "warn, hyper=trace",
        ] {
            assert_eq!(problem(good), None, "{good}");
        }
        for bad in [
            "loud",
            "lbx",
            "hyper",
            "info,loud",
            "lb=loud",
            "=info",
            "info,",
            "lb=debug=x",
            "3",
        ] {
            assert!(
                problem(bad).is_some_and(|(problem, _)| problem.contains("is not a filter")),
                "{bad}"
            );
        }
        for (near, meant) in [
            ("inof", "info"),
            ("warning", "warn"),
            ("lb=debgu", "debug"),
            ("errors", "error"),
        ] {
            let (_, advice) = problem(near).unwrap();
            assert!(
                advice.starts_with(&format!("did you mean {meant}?")),
                "{near}: {advice}"
            );
        }
    }
}
