//! `/routes`: the routing table as Fabio's users know it, in one HTML file that needs nothing from
//! elsewhere. Rows are filtered and cut into pages here, whatever their number; a script sends
//! requests while a person types.

use std::fmt::Write as _;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::html::{fill, push_element, push_html};
use super::query::{Part, Query, words};
use super::routes::{self, RouteRow};
use crate::config::{AdminConfig, SourceLinks};
use crate::metrics::build_info::VERSION;
use crate::table::RouteTable;

const TEMPLATE: &str = include_str!("routes.html");
const STYLE: &str = include_str!("frame.css");
/// Targets on a page: what a browser lays out without a pause.
const ROWS_MAX: usize = 500;

/// Which rows are shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Shown {
    filter: String,
    /// From 1.
    page: usize,
}

impl Shown {
    /// `filter` and `page` of a request.
    pub(super) fn of(query: &Query) -> Self {
        let page = query
            .first("page")
            .and_then(|page| page.parse().ok())
            .unwrap_or(1);
        Self {
            filter: query.first("filter").unwrap_or_default().to_owned(),
            page,
        }
    }

    fn link(&self, page: usize) -> String {
        format!(
            "?filter={}&page={page}",
            utf8_percent_encode(&self.filter, NON_ALPHANUMERIC)
        )
    }
}

/// The colours that a configuration can name.
const COLORS: &[(&str, &str)] = &[
    ("red", "#f44336"),
    ("pink", "#e91e63"),
    ("purple", "#9c27b0"),
    ("deep-purple", "#673ab7"),
    ("indigo", "#3f51b5"),
    ("blue", "#2196f3"),
    ("light-blue", "#03a9f4"),
    ("cyan", "#00bcd4"),
    ("teal", "#009688"),
    ("green", "#4caf50"),
    ("light-green", "#8bc34a"),
    ("lime", "#cddc39"),
    ("yellow", "#ffeb3b"),
    ("amber", "#ffc107"),
    ("orange", "#ff9800"),
    ("deep-orange", "#ff5722"),
    ("brown", "#795548"),
    ("grey", "#9e9e9e"),
    ("blue-grey", "#607d8b"),
    ("black", "#000000"),
    ("white", "#ffffff"),
];

/// The page. `host` is the request's, without a port: where links lead that have no host of their
/// own.
pub(super) fn render(
    table: &RouteTable,
    config: &AdminConfig,
    host: &str,
    shown: &Shown,
    nonce: &str,
) -> String {
    let all = routes::list(table.routes());
    let targets = all.len();
    let part = Part {
        words: words(&shown.filter),
        offset: 0,
        limit: None,
    };
    let (rows, total) = part.take(all, routes::searched);
    let pages = total.div_ceil(ROWS_MAX).max(1);
    let page = shown.page.clamp(1, pages);
    let from = (page - 1) * ROWS_MAX;
    fill(TEMPLATE, |html, marker| match marker {
        "ROUTES" => {
            for (at, row) in rows.iter().enumerate().skip(from).take(ROWS_MAX) {
                push_row(html, at + 1, row, &config.links(), host);
            }
        }
        "FILTER" => push_html(html, &shown.filter),
        "MORE_ROUTES" if targets == 0 => html.push_str("There is no route."),
        "MORE_ROUTES" if total == 0 => html.push_str("Nothing matches."),
        "MORE_ROUTES" => push_pages(
            html,
            shown,
            (page, pages),
            (from + 1, (from + ROWS_MAX).min(total)),
            total,
        ),
        other => push_frame(html, other, config, nonce),
    })
}

/// Which rows these are, and where the others are.
fn push_pages(
    html: &mut String,
    shown: &Shown,
    (page, pages): (usize, usize),
    rows: (usize, usize),
    total: usize,
) {
    if pages == 1 {
        return;
    }
    let _ = write!(html, "{} to {} of {total} ", rows.0, rows.1);
    for (to, name) in [(page - 1, "previous"), (page + 1, "next")] {
        if (1..=pages).contains(&to) {
            html.push_str("<a href=\"");
            push_html(html, &shown.link(to));
            let _ = write!(html, "\">{name}</a> ");
        }
    }
}

/// What all pages in this frame have.
pub(super) fn push_frame(html: &mut String, marker: &str, config: &AdminConfig, nonce: &str) {
    match marker {
        "NONCE" => html.push_str(nonce),
        "VERSION" => html.push_str(VERSION),
        "BASE" => push_html(html, &config.path),
        "TITLE" => push_html(html, &config.title),
        "DASH_TITLE" if config.title.is_empty() => {}
        "DASH_TITLE" => {
            html.push_str(" - ");
            push_html(html, &config.title);
        }
        "STYLE" => {
            html.push_str(STYLE);
            if let Some((_, color)) = COLORS
                .iter()
                .find(|(name, _)| Some(*name) == config.color.as_deref())
            {
                let _ = write!(html, ":root {{ --bar: {color}; }}");
            }
        }
        "OVERRIDES" => {
            if config.writable {
                html.push_str("<a href=\"");
                push_html(html, &config.path);
                html.push_str("/manual\">overrides</a>");
            }
        }
        // The templates are ours: tests fill them in, so a marker without value never gets out.
        other => debug_assert!(false, "the page has an unknown marker {other}"),
    }
}

fn push_row(html: &mut String, number: usize, row: &RouteRow, links: &SourceLinks, host: &str) {
    // A host that begins so is a scheme, put in front of the place by mistake.
    let wrong = is_url(&row.src);
    match wrong {
        true => html.push_str("<tr><td class=\"wrong\" title=\"a source has no scheme\">"),
        false => html.push_str("<tr><td>"),
    }
    let _ = write!(html, "{number}</td><td>");
    push_html(html, &row.service);
    html.push_str("</td><td class=\"mono\">");
    if links.enabled && is_url(&row.dst) && !wrong {
        push_link(
            html,
            &source_url(&row.src, links, host),
            &row.src,
            links.new_tab,
        );
    } else {
        push_html(html, &row.src);
    }
    html.push_str("</td><td class=\"mono\">");
    match is_url(&row.dst) {
        true => push_link(html, &row.dst, &row.dst, false),
        false => push_html(html, &row.dst),
    }
    html.push_str("</td>");
    push_element(html, "td class=\"mono\"", "td", &row.opts);
    let _ = write!(
        html,
        "<td class=\"number\">{:.2}%</td></tr>",
        row.weight * 100.0
    );
}

fn push_link(html: &mut String, to: &str, text: &str, new_tab: bool) {
    html.push_str("<a href=\"");
    push_html(html, to);
    html.push_str(if new_tab {
        "\" target=\"_blank\" rel=\"noopener\">"
    } else {
        "\">"
    });
    push_html(html, text);
    html.push_str("</a>");
}

fn is_url(text: &str) -> bool {
    let begins = |scheme: &str| {
        text.get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    begins("http://") || begins("https://")
}

/// Where a place of a route is reached by a browser.
fn source_url(src: &str, links: &SourceLinks, host: &str) -> String {
    let scheme = &links.scheme;
    if !src.starts_with('/') {
        return format!("{scheme}://{src}");
    }
    let host = links.host.as_deref().unwrap_or(host);
    let port = links
        .port
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    format!("{scheme}://{host}{port}{src}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::routes::tests::table;
    use crate::config::ADMIN_COLORS;

    #[test]
    fn every_color_that_can_be_named_is_known() {
        assert_eq!(
            COLORS.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ADMIN_COLORS
        );
    }

    fn page(routes: &str, config: &AdminConfig) -> String {
        render(
            &table(routes),
            config,
            "lb.example",
            &Shown::default(),
            "NONCE123",
        )
    }

    #[test]
    fn routes_are_rows_and_every_marker_is_filled_in() {
        let config = AdminConfig {
            path: "/lb".to_owned(),
            title: "east & west".to_owned(),
            color: Some("red".to_owned()),
            ..AdminConfig::default()
        };
        let html = page(
            "route add web a.example/a http://10.0.0.1:80/ weight 0.25 opts \"strip=/a\"",
            &config,
        );
        assert!(
            !html.contains("{{") && !html.contains("}}"),
            "a marker is left"
        );
        for part in [
            "<title>lb - east &amp; west</title>",
            "<b>east &amp; west</b>",
            "--bar: #f44336",
            "href=\"/lb/routes\"",
            "<tr><td>1</td><td>web</td><td class=\"mono\">a.example/a</td>",
            "<a href=\"http://10.0.0.1:80/\">",
            "strip=/a",
            "100.00%",
        ] {
            assert!(html.contains(part), "{part}\n{html}");
        }
        assert!(!html.contains("/manual"), "nothing can be changed");
        assert!(
            page(
                "",
                &AdminConfig {
                    writable: true,
                    ..config
                }
            )
            .contains("href=\"/lb/manual\"")
        );
    }

    #[test]
    fn every_route_is_found_and_pages_lead_to_all() {
        let text: String = (0..1200)
            .map(|n| {
                format!(
                    "route add svc-{n:05} h{n}.test/ http://10.0.{}.{}:80/\n",
                    n / 250,
                    n % 250
                )
            })
            .collect();
        let table = table(&text);
        let shown = |query: &str| {
            let shown = Shown::of(&Query::parse(query));
            render(
                &table,
                &AdminConfig::default(),
                "lb.example",
                &shown,
                "NONCE123",
            )
        };
        let rows = |html: &str| html.matches("<tr><td>").count();
        let first = shown("");
        assert_eq!(rows(&first), ROWS_MAX);
        assert!(
            first.contains("1 to 500 of 1200") && first.contains("page=2\">next"),
            "{first}"
        );
        assert!(!first.contains("previous"));
        let last = shown("page=3");
        assert_eq!(rows(&last), 200);
        assert!(last.contains("1001 to 1200 of 1200") && last.contains("page=2\">previous"));
        assert_eq!(
            (rows(&shown("page=99")), rows(&shown("page=0"))),
            (200, ROWS_MAX)
        );
        let found = shown("filter=SVC-01199");
        assert_eq!(rows(&found), 1);
        assert!(found.contains("svc-01199") && found.contains("value=\"SVC-01199\""));
        assert!(shown("filter=nothing").contains("Nothing matches."));
        let attack = shown("filter=%22%3E%3Cscript%3Ealert(1)%3C/script%3E");
        assert_eq!(attack.matches("<script").count(), 1);
    }

    #[test]
    fn strangers_cannot_put_markup_or_links_into_the_page() {
        let attack = "<script>alert(1)</script>{{NONCE}}";
        let routes = format!(
            "route add {attack} host/{attack} http://10.0.0.1:80/ opts \"strip=/{attack}\""
        );
        let config = AdminConfig {
            link_sources: true,
            ..AdminConfig::default()
        };
        let links = config.links();
        let html = page(&routes, &config);
        assert_eq!(html.matches("<script").count(), 1, "{html}");
        assert_eq!(html.matches("NONCE123").count(), 2);
        assert!(html.contains("href=\"http://host/&lt;script&gt;"), "{html}");

        let mut row =
            routes::list(table("route add web /a http://10.0.0.1:80/").routes()).remove(0);
        row.src = "/\"><b>'&".to_owned();
        row.dst = "https://x/\" onclick=\"y".to_owned();
        let mut html = String::new();
        push_row(&mut html, 1, &row, &links, "a\"b");
        assert!(
            html.contains("href=\"http://a&quot;b/&quot;&gt;&lt;b&gt;&#39;&amp;\""),
            "{html}"
        );
        assert!(
            html.contains("href=\"https://x/&quot; onclick=&quot;y\""),
            "{html}"
        );
        row.dst = "javascript:alert(1)".to_owned();
        html.clear();
        push_row(&mut html, 1, &row, &links, "h");
        assert!(!html.contains("<a "), "{html}");
    }

    #[test]
    fn sources_are_links_where_that_is_wanted() {
        let links = |host: Option<&str>, port| SourceLinks {
            enabled: true,
            new_tab: true,
            scheme: "https".to_owned(),
            host: host.map(str::to_owned),
            port,
        };
        let cases = [
            ("/a", links(None, None), "https://lb.example/a"),
            ("/a", links(Some("www"), Some(8443)), "https://www:8443/a"),
            (
                "a.test/x",
                links(Some("www"), Some(8443)),
                "https://a.test/x",
            ),
            ("a.test:81/", links(None, Some(1)), "https://a.test:81/"),
        ];
        for (src, links, expected) in cases {
            assert_eq!(source_url(src, &links, "lb.example"), expected);
        }
        let config = AdminConfig {
            link_sources: true,
            link_scheme: "https".to_owned(),
            ..AdminConfig::default()
        };
        let html = page(
            "route add web /a http://10.0.0.1:80/\nroute add raw :1 tcp://10.0.0.1:81",
            &config,
        );
        assert!(
            html.contains(
                "<a href=\"https://lb.example/a\" target=\"_blank\" rel=\"noopener\">/a</a>"
            ),
            "{html}"
        );
        assert!(
            !html.contains("href=\"https://:1"),
            "the place of a TCP route is not a link"
        );
    }
}
