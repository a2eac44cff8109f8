//! The table of the cases in which `lb` is compared with itself: what a setting, or unusual
//! requests among the usual ones, may not make dear.

use std::fmt::Write as _;

use crate::proxies::Proxy;
use crate::result::Row;

/// The Markdown table; empty without such a case.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows.iter().filter(|row| row.case.is_varied()) {
        let Some([plain, varied]) = row.case.pair() else {
            continue;
        };
        if text.is_empty() {
            text.push_str(
                "\n| case | plain | varied | varied to plain | goal |\n|---|---|---|---|---|\n",
            );
        }
        let against = if plain == Proxy::Lb {
            String::new()
        } else {
            format!(" ({})", plain.name())
        };
        let ratio = row
            .to_plain()
            .map_or("–".to_owned(), |ratio| format!("**{ratio:.2}**"));
        let goal = row
            .case
            .goal
            .map_or("–".to_owned(), |goal| format!("{goal:.2}"));
        let (name, unit) = (row.case.name, row.case.unit());
        writeln!(
            text,
            "| {name} | {} {unit}{against} | {} | {ratio} | {goal} |",
            row.shown(plain),
            row.shown(varied)
        )
        .unwrap();
    }
    text
}
