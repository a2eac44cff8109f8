//! The web page: one HTML file without outside resources, filled in here so that it says the
//! essential without scripts; with them it refreshes itself from the API.
//!
//! Names, tags and reasons are strangers' text. Here they pass through [`push_html`], in the script
//! they become text nodes, and the content security policy lets nothing run but the one script with
//! this response's nonce.

use std::fmt::Write as _;
use std::sync::Arc;

use super::html::{fill, push_element, push_html};
use super::routes::{self, RouteRow};
use super::services::{InstanceRow, ServiceRow, unready_reason};
use super::sources::warnings;
use crate::control::Readiness;
use crate::journal::events::timestamp;
use crate::journal::{Event, SourceStatus};
use crate::metrics::build_info::VERSION;
use crate::table::RouteTable;

const TEMPLATE: &str = include_str!("page.html");

/// Most services, and most routes, that are filled in; the script and the API show all.
const ROWS_MAX: usize = 100;

/// The first routes, and how many there are in all.
#[derive(Debug, Default)]
pub(super) struct FirstRoutes {
    rows: Vec<RouteRow>,
    routes_left: usize,
}

/// Takes what the page shows of the table.
pub(super) fn first_routes(table: &RouteTable) -> FirstRoutes {
    let all = table.routes();
    let routes_left = all.len().saturating_sub(ROWS_MAX);
    FirstRoutes {
        rows: routes::list(all.into_iter().take(ROWS_MAX)),
        routes_left,
    }
}

pub(super) struct Content<'a> {
    pub(super) services: &'a [ServiceRow],
    pub(super) routes: &'a FirstRoutes,
    pub(super) readiness: &'a Readiness,
    pub(super) sources: &'a [SourceStatus],
    /// The last ones, the oldest first.
    pub(super) events: &'a [Arc<Event>],
    /// What paths of the listener begin with.
    pub(super) base: &'a str,
    pub(super) nonce: &'a str,
}

pub(super) fn render(content: &Content<'_>) -> String {
    fill(TEMPLATE, |html, marker| push_marker(html, marker, content))
}

fn push_marker(html: &mut String, marker: &str, content: &Content<'_>) {
    let Content {
        services,
        routes,
        readiness,
        sources,
        events,
        base,
        nonce,
    } = *content;
    let instances = || services.iter().flat_map(|service| &service.instances);
    let serving = |instance: &&InstanceRow| instance.is_serving();
    let number = match marker {
        "IN_FLIGHT" => services
            .iter()
            .map(|service| service.in_flight)
            .sum::<i64>()
            .to_string(),
        "HEALTHY" => instances().filter(serving).count().to_string(),
        "OUT" => instances()
            .filter(|instance| !serving(instance))
            .count()
            .to_string(),
        "REJECTED" => services
            .iter()
            .map(|service| service.rejected.len())
            .sum::<usize>()
            .to_string(),
        "NONCE" => nonce.to_owned(),
        "BASE" => base.to_owned(),
        "VERSION" => VERSION.to_owned(),
        "READY_CLASS" => if readiness.is_ready() {
            "ready"
        } else {
            "unready"
        }
        .to_owned(),
        "READY_WORD" => if readiness.is_ready() {
            "ready"
        } else {
            "not ready"
        }
        .to_owned(),
        "READY_REASON" => unready_reason(readiness, sources).unwrap_or_default(),
        "WARNINGS" => {
            return warnings(sources)
                .iter()
                .for_each(|text| push_element(html, "p class=\"note bad\"", "p", text));
        }
        "SERVICES" => return push_services(html, services),
        "ROUTES" => return routes.rows.iter().for_each(|row| push_route(html, row)),
        "EVENTS" => {
            return events
                .iter()
                .rev()
                .for_each(|event| push_event(html, event));
        }
        "MORE_ROUTES" => more(routes.routes_left),
        other => unreachable_marker(other),
    };
    push_html(html, &number);
}

/// The template is ours: a test fills it in, so a marker without value never gets out.
fn unreachable_marker(marker: &str) -> String {
    debug_assert!(false, "the page has an unknown marker {marker}");
    String::new()
}

fn more(left: usize) -> String {
    if left == 0 {
        String::new()
    } else {
        format!("{left} more routes: see /api/routes")
    }
}

fn push_services(html: &mut String, services: &[ServiceRow]) {
    if services.is_empty() {
        html.push_str("<div class=\"empty\">No service is known yet.</div>");
    }
    for service in services.iter().take(ROWS_MAX) {
        push_service(html, service);
    }
    if let Some(left) = services
        .len()
        .checked_sub(ROWS_MAX)
        .filter(|&left| left > 0)
    {
        // Writing to a String cannot fail, here and below.
        let _ = write!(
            html,
            "<div class=\"empty\">{left} more services: see /api/services</div>"
        );
    }
}

fn push_service(html: &mut String, service: &ServiceRow) {
    html.push_str("<section class=\"service\"><div><h3>");
    push_html(html, &service.name);
    let serving = service
        .instances
        .iter()
        .filter(|instance| instance.is_serving())
        .count();
    let _ = write!(
        html,
        "</h3><span class=\"facts\">{serving} of {} serving · ",
        service.instances.len()
    );
    push_html(html, service.source);
    match service.age_seconds {
        Some(age) => {
            let _ = write!(html, " · answer {age:.0} s old");
        }
        None => html.push_str(" · no answer yet"),
    }
    html.push_str("</span></div>");
    if let Some(held) = &service.held {
        push_element(html, "p class=\"note warn\"", "p", held);
    }
    for rejected in &service.rejected {
        html.push_str("<p class=\"note bad\">Rejected tag ");
        push_element(html, "code", "code", &rejected.tag);
        html.push_str(": ");
        push_html(html, &rejected.reason);
        html.push_str("</p>");
    }
    for remark in &service.unknown_options {
        html.push_str("<p class=\"note warn\">Tag ");
        push_html(html, remark);
        html.push_str("</p>");
    }
    push_instances(html, &service.instances);
    html.push_str("</section>");
}

fn push_instances(html: &mut String, instances: &[InstanceRow]) {
    if instances.is_empty() {
        html.push_str("<div class=\"empty\">No instance is registered.</div>");
        return;
    }
    html.push_str(
        "<div class=\"scroll\"><table><thead><tr><th>Instance</th><th>Address</th><th>State</th>\
         <th class=\"number\">In flight</th><th class=\"number\">Failures</th><th>Why</th></tr></thead><tbody>",
    );
    for instance in instances {
        html.push_str("<tr><td>");
        push_element(
            html,
            "span class=\"mono\"",
            "span",
            &format!("{}/{}", instance.node, instance.id),
        );
        html.push_str("</td><td>");
        push_element(html, "span class=\"mono\"", "span", &instance.address);
        let class = instance.state.split(',').next().unwrap_or_default();
        let _ = write!(
            html,
            "</td><td><span class=\"pill {class}\">{}</span></td>",
            instance.state
        );
        let _ = write!(html, "<td class=\"number\">{}</td>", instance.in_flight);
        let _ = write!(html, "<td class=\"number\">{}</td><td>", instance.failures);
        push_html(html, instance.reason.as_deref().unwrap_or_default());
        html.push_str("</td></tr>");
    }
    html.push_str("</tbody></table></div>");
}

fn push_event(html: &mut String, event: &Event) {
    let what = &event.what;
    let change: Vec<&str> = [&what.from, &what.to]
        .into_iter()
        .filter_map(Option::as_deref)
        .collect();
    let instance: Vec<&str> = [&what.instance, &what.address]
        .into_iter()
        .filter_map(Option::as_deref)
        .collect();
    html.push_str("<tr>");
    push_element(html, "td", "td", &timestamp(event.time).unwrap_or_default());
    push_element(html, "td", "td", what.kind.word());
    push_element(
        html,
        "td",
        "td",
        what.service.as_deref().unwrap_or_default(),
    );
    push_element(html, "td class=\"mono\"", "td", &instance.join(" "));
    push_element(html, "td", "td", &change.join(" \u{2192} "));
    push_element(html, "td", "td", what.reason.as_deref().unwrap_or_default());
    html.push_str("</tr>");
}

fn push_route(html: &mut String, row: &RouteRow) {
    html.push_str("<tr><td>");
    push_element(html, "span class=\"mono\"", "span", &row.src);
    html.push_str("</td><td>");
    push_html(html, &row.service);
    html.push_str("</td><td>");
    push_element(html, "span class=\"mono\"", "span", &row.dst);
    let percent = row.weight * 100.0;
    let _ = write!(
        html,
        "</td><td><meter min=\"0\" max=\"1\" value=\"{}\"></meter> {percent:.1} %</td><td>",
        row.weight
    );
    push_element(html, "span class=\"mono\"", "span", &row.opts);
    html.push_str("</td></tr>");
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::admin::routes::tests::table;
    use crate::admin::services::{list, tests::status};
    use crate::journal::{Draft, Kind};
    use crate::metrics::Metrics;

    fn rendered(name: &str, routes: &str) -> String {
        let services = list(&[status(name)], &Metrics::default(), SystemTime::now());
        let rows = routes::list(table(routes).routes());
        let journal = crate::journal::Journal::default();
        let event = Draft::new(Kind::Instance)
            .of(name)
            .states("healthy", "excluded")
            .because(name);
        journal.events().push(event);
        let events = journal.events().list(None);
        render(&Content {
            services: &services,
            routes: &FirstRoutes {
                rows,
                routes_left: 7,
            },
            readiness: &Readiness::default(),
            sources: &[],
            events: &events,
            base: "/base",
            nonce: "NONCE123",
        })
    }

    #[test]
    fn every_marker_is_filled_in() {
        let html = rendered("web", "route add web a.example/ http://10.0.0.1:80/");
        assert!(
            !html.contains("{{") && !html.contains("}}"),
            "a marker is left"
        );
        for expected in [
            "<h3>web</h3>",
            "1 of 2 serving",
            "check `web` is critical",
            "<code>urlprefix-/a b</code>: blank in path",
            "Tag urlprefix-/: colour=red has no effect",
            "a.example/",
            "http://10.0.0.1:80/",
            "100.0 %",
            "7 more routes",
            "<script nonce=\"NONCE123\">",
            "<style nonce=\"NONCE123\">",
            "href=\"/base/routes\"",
            "action=\"/base/api/explain\"",
        ] {
            assert!(html.contains(expected), "{expected}");
        }
    }

    #[test]
    fn strangers_cannot_put_markup_or_markers_into_the_page() {
        let attack = "<script>alert(1)</script>\"'&{{NONCE}}<img src=x onerror=alert(1)>";
        let compact = "<script>alert(1)</script>{{NONCE}}";
        let routes = format!(
            "route add {compact} host/{compact} http://10.0.0.1:80/ opts \"strip=/{compact}\""
        );
        let html = rendered(attack, &routes);
        assert!(html.contains("host/&lt;script&gt;"), "the route is shown");
        let scripts = TEMPLATE.matches("<script").count();
        assert_eq!(html.matches("<script").count(), scripts);
        assert!(!html.contains("<img"));
        assert!(
            html.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#39;&amp;{{NONCE}}&lt;img")
        );
        assert_eq!(
            html.matches("NONCE123").count(),
            2,
            "the nonce stands at the style and the script only"
        );
    }

    #[test]
    fn the_template_needs_nothing_from_elsewhere_and_no_inline_style_or_handler() {
        for banned in [
            "http://www",
            "https://",
            "//cdn",
            " style=",
            " onclick",
            "innerHTML",
            "outerHTML",
            "eval(",
            "document.write",
        ] {
            assert!(!TEMPLATE.contains(banned), "{banned}");
        }
    }
}
