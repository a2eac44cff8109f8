//! The plot: for each case one bar per proxy, in units of what the best of HAProxy and nginx costs
//! there.

use std::fmt::Write as _;

use crate::proxies::Proxy;
use crate::result::Row;

/// Where a bar is cut off, in units of the best.
const LONGEST: f64 = 4.0;
/// Pixels per unit.
const UNIT: f64 = 130.0;
/// Pixels left of the bars.
const LEFT: f64 = 180.0;
/// Pixels per bar.
const BAR: f64 = 11.0;

fn colour(proxy: Proxy) -> &'static str {
    match proxy {
        Proxy::Lb => "#c0392b",
        Proxy::LbLog | Proxy::LbTwo | Proxy::LbVaried => "#e59866",
        Proxy::Floor => "#999999",
        Proxy::Haproxy => "#2471a3",
        Proxy::Nginx => "#1e8449",
        Proxy::Envoy => "#a569bd",
        Proxy::Fabio => "#b7950b",
        Proxy::Caddy => "#5dade2",
    }
}

/// The SVG.
pub(crate) fn svg(rows: &[Row]) -> String {
    let mut bars = String::new();
    let mut y = 30.0;
    for row in rows {
        let figures = [Proxy::Haproxy, Proxy::Nginx].map(|proxy| row.of(proxy)?.figure());
        let Some(best) = figures.into_iter().flatten().min_by(f64::total_cmp) else {
            continue;
        };
        writeln!(
            bars,
            r#"<text x="4" y="{}">{}</text>"#,
            y + BAR,
            row.case.name
        )
        .unwrap();
        for series in &row.series {
            let Some(figure) = series.figure() else {
                continue;
            };
            let ratio = figure / best;
            let (width, colour) = (ratio.min(LONGEST) * UNIT, colour(series.proxy));
            writeln!(
                bars,
                r#"<rect x="{LEFT}" y="{y}" width="{width:.0}" height="{}" fill="{colour}"/><text x="{:.0}" y="{:.0}">{} {ratio:.2}</text>"#,
                BAR - 2.0,
                LEFT + width + 4.0,
                y + BAR - 3.0,
                series.proxy.name(),
            )
            .unwrap();
            y += BAR;
        }
        y += BAR;
    }
    let one = LEFT + UNIT;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"800\" height=\"{y}\" font-family=\"sans-serif\" \
         font-size=\"10\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"14\">cost per request, the best of HAProxy and nginx = 1 (less is better)</text>\n\
         <line x1=\"{one}\" x2=\"{one}\" y1=\"20\" y2=\"{y}\" stroke=\"#cccccc\"/>\n{bars}</svg>\n"
    )
}
