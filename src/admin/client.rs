//! The other end of the admin listener: `lb routes` and `lb explain` send requests to a running
//! `lb` and lay out what it says.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::http::Admin;
pub use super::http::{Access, AdminClientError, DEFAULT_ADMIN};
use super::tabular::{aligned, printable};

/// Everything but what RFC 3986 calls unreserved.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Form of `lb routes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoutesFormat {
    /// Columns for people.
    #[default]
    Table,
    /// The API's JSON.
    Json,
    /// Route commands.
    Fabio,
}

/// The live table of the `lb` at `admin`, ready to be printed.
///
/// # Errors
/// When it cannot be reached or responds with an error.
pub async fn routes(admin: &Access, format: RoutesFormat) -> Result<String, AdminClientError> {
    let admin = Admin::new(admin)?;
    match format {
        RoutesFormat::Json => admin.get("/api/routes?pretty").await,
        RoutesFormat::Fabio => admin
            .get("/api/routes?raw")
            .await
            .map(|text| printable(&text)),
        RoutesFormat::Table => {
            let rows: Vec<Row> = admin.read(&admin.get("/api/routes?empty").await?)?;
            let services: Vec<Service> = admin.read(&admin.get("/api/services").await?)?;
            Ok(table(&rows, &services) + &failing(&sources(&admin).await))
        }
    }
}

/// The response of `/api/routes` of an admin listener, ours or Fabio's. A path in its address
/// stands before that.
///
/// # Errors
/// When it cannot be reached or responds with an error.
pub async fn api_routes(admin: &Access) -> Result<String, AdminClientError> {
    Admin::new(admin)?.get("/api/routes").await
}

/// A request to be explained.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// As a client would write it.
    pub url: &'a str,
    /// Its method.
    pub method: &'a str,
    /// Its header fields, `Name: value` each.
    pub headers: &'a [String],
    /// Where it comes from; none: the address that the running `lb` sees.
    pub from: Option<std::net::IpAddr>,
}

/// What the `lb` at `admin` would do with a request. With `json`, the API's JSON.
///
/// # Errors
/// When it cannot be reached or responds with an error.
pub async fn explain(
    admin: &Access,
    question: &Question<'_>,
    json: bool,
) -> Result<String, AdminClientError> {
    let admin = Admin::new(admin)?;
    let mut path = format!(
        "/api/explain?pretty&url={}",
        utf8_percent_encode(question.url, QUERY)
    );
    // Writing to a String cannot fail.
    let _ = write!(
        path,
        "&method={}",
        utf8_percent_encode(question.method, QUERY)
    );
    for header in question.headers {
        let _ = write!(path, "&header={}", utf8_percent_encode(header, QUERY));
    }
    if let Some(from) = question.from {
        let _ = write!(
            path,
            "&from={}",
            utf8_percent_encode(&from.to_string(), QUERY)
        );
    }
    let answer = admin.get(&path).await?;
    if json {
        return Ok(answer);
    }
    Ok(printable(&admin.read::<Explained>(&answer)?.text))
}

/// The services of the `lb` at `admin`, ready to be printed. With `json`, the API's JSON.
///
/// # Errors
/// When it cannot be reached or responds with an error.
pub async fn services(admin: &Access, json: bool) -> Result<String, AdminClientError> {
    let admin = Admin::new(admin)?;
    let answer = admin.get("/api/services?pretty").await?;
    if json {
        return Ok(answer);
    }
    let services: Vec<Service> = admin.read(&answer)?;
    Ok(all_services(&services) + &failing(&sources(&admin).await))
}

/// What happened at the `lb` at `admin`, ready to be printed. With `json`, the API's JSON.
///
/// # Errors
/// When it cannot be reached or responds with an error.
pub async fn events(
    admin: &Access,
    since: Option<&str>,
    json: bool,
) -> Result<String, AdminClientError> {
    let admin = Admin::new(admin)?;
    let mut path = "/api/events?pretty".to_owned();
    if let Some(since) = since {
        let _ = write!(path, "&since={}", utf8_percent_encode(since, QUERY));
    }
    let answer = admin.get(&path).await?;
    if json {
        Ok(answer)
    } else {
        Ok(all_events(&admin.read::<Vec<Event>>(&answer)?))
    }
}

/// How the sources are; none from an `lb` that does not tell.
async fn sources(admin: &Admin) -> Vec<Source> {
    match admin.get("/api/sources").await {
        Ok(answer) => admin.read(&answer).unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}

#[derive(Deserialize)]
struct Source {
    since: Option<String>,
    trouble: Option<String>,
}

#[derive(Deserialize)]
struct Event {
    time: Option<String>,
    kind: String,
    service: Option<String>,
    instance: Option<String>,
    address: Option<String>,
    from: Option<String>,
    to: Option<String>,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Explained {
    text: String,
}

#[derive(Deserialize)]
struct Row {
    service: String,
    src: String,
    dst: String,
    opts: String,
    weight: f64,
}

#[derive(Deserialize)]
struct Service {
    name: String,
    source: String,
    age_seconds: Option<f64>,
    instances: Vec<Instance>,
    rejected: Vec<Rejected>,
    #[serde(default)]
    unknown_options: Vec<String>,
}

#[derive(Deserialize)]
struct Instance {
    node: String,
    id: String,
    address: String,
    state: String,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Rejected {
    tag: String,
    reason: String,
}

/// Routes; below them, if there are any, the instances that are out, those that are held, the tags
/// that were rejected, and warnings about others.
fn table(rows: &[Row], services: &[Service]) -> String {
    let shown: Vec<[String; 5]> = rows
        .iter()
        .map(|row| {
            if row.dst.is_empty() {
                let answer = if row.src.starts_with(':') {
                    "closed at once"
                } else {
                    "503"
                };
                return [
                    row.src.clone(),
                    row.service.clone(),
                    "no instance".into(),
                    answer.into(),
                    row.opts.clone(),
                ];
            }
            let share = format!("{:.1}%", row.weight * 100.0);
            [
                row.src.clone(),
                row.service.clone(),
                row.dst.clone(),
                share,
                row.opts.clone(),
            ]
        })
        .collect();
    let mut text = aligned(["ROUTE", "SERVICE", "TARGET", "SHARE", "OPTIONS"], &shown);
    let not_healthy = services
        .iter()
        .flat_map(|service| {
            service
                .instances
                .iter()
                .map(move |instance| (service, instance))
        })
        .filter(|(_, instance)| instance.state != "healthy");
    // Those that are held get traffic.
    let (held, out): (Vec<_>, Vec<_>) =
        not_healthy.partition(|(_, instance)| instance.state.starts_with("held"));
    for (title, list) in [("INSTANCE OUT", out), ("INSTANCE HELD", held)] {
        let row = |(service, instance): (&Service, &Instance)| {
            let name = format!("{}/{}", instance.node, instance.id);
            let reason = instance.reason.clone().unwrap_or_default();
            [
                service.name.clone(),
                name,
                instance.address.clone(),
                instance.state.clone(),
                reason,
            ]
        };
        let shown: Vec<[String; 5]> = list.into_iter().map(row).collect();
        if !shown.is_empty() {
            text.push('\n');
            text.push_str(&aligned(
                ["SERVICE", title, "ADDRESS", "STATE", "WHY"],
                &shown,
            ));
        }
    }
    text.push_str(&rejected(services));
    text
}

/// The sources that cannot be read now; nothing while all can.
fn failing(sources: &[Source]) -> String {
    let rows: Vec<[String; 2]> = sources
        .iter()
        .filter_map(|source| {
            Some([
                source.since.clone().unwrap_or_default(),
                source.trouble.clone()?,
            ])
        })
        .collect();
    if rows.is_empty() {
        String::new()
    } else {
        format!("\n{}", aligned(["SINCE", "SOURCE CANNOT BE READ"], &rows))
    }
}

fn all_services(services: &[Service]) -> String {
    let row = |service: &Service, instance: Option<&Instance>| {
        let age = service
            .age_seconds
            .map_or_else(String::new, |age| format!("{age:.0} s"));
        let of = |text: fn(&Instance) -> String| instance.map_or_else(String::new, text);
        [
            service.name.clone(),
            service.source.clone(),
            age,
            of(|instance| format!("{}/{}", instance.node, instance.id)),
            of(|instance| instance.address.clone()),
            instance.map_or_else(
                || "no instance".to_owned(),
                |instance| instance.state.clone(),
            ),
            of(|instance| instance.reason.clone().unwrap_or_default()),
        ]
    };
    let rows: Vec<[String; 7]> = services
        .iter()
        .flat_map(|service| {
            let instances = service
                .instances
                .iter()
                .map(move |instance| row(service, Some(instance)));
            instances.chain(service.instances.is_empty().then(|| row(service, None)))
        })
        .collect();
    let mut text = aligned(
        [
            "SERVICE", "SOURCE", "AGE", "INSTANCE", "ADDRESS", "STATE", "WHY",
        ],
        &rows,
    );
    text.push_str(&rejected(services));
    text
}

/// Tags and lines that make no route; nothing while there are none.
fn rejected(services: &[Service]) -> String {
    let rows: Vec<[String; 3]> = services
        .iter()
        .flat_map(|service| service.rejected.iter().map(move |bad| (service, bad)))
        .map(|(service, bad)| [service.name.clone(), bad.tag.clone(), bad.reason.clone()])
        .collect();
    let mut text = if rows.is_empty() {
        String::new()
    } else {
        format!("\n{}", aligned(["SERVICE", "REJECTED TAG", "WHY"], &rows))
    };
    let remarks: Vec<[String; 2]> = services
        .iter()
        .flat_map(|service| {
            service
                .unknown_options
                .iter()
                .map(move |remark| [service.name.clone(), remark.clone()])
        })
        .collect();
    if !remarks.is_empty() {
        text.push('\n');
        text.push_str(&aligned(["SERVICE", "REMARK"], &remarks));
    }
    text
}

fn all_events(events: &[Event]) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let row = |event: &Event| {
        let change = match (&event.from, &event.to) {
            (Some(from), Some(to)) => format!("{from} -> {to}"),
            (None, Some(to)) => to.clone(),
            _ => String::new(),
        };
        let instance = match (&event.instance, &event.address) {
            (Some(instance), Some(address)) => format!("{instance} {address}"),
            _ => text(&event.instance),
        };
        [
            text(&event.time),
            event.kind.clone(),
            text(&event.service),
            instance,
            change,
            text(&event.reason),
        ]
    };
    let rows: Vec<[String; 6]> = events.iter().map(row).collect();
    aligned(["TIME", "KIND", "NAME", "INSTANCE", "CHANGE", "WHY"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_routes_then_what_is_out_then_rejected_tags() {
        let rows: Vec<Row> = serde_json::from_value(serde_json::json!([
            { "service": "web", "src": "a/", "dst": "http://10.0.0.1:80/", "opts": "", "weight": 1.0 },
            { "service": "web", "src": "b/", "dst": "", "opts": "", "weight": 0.0 },
        ]))
        .unwrap();
        let services: Vec<Service> = serde_json::from_value(serde_json::json!([{
            "name": "web",
            "source": "consul",
            "age_seconds": 1.4,
            "instances": [
                { "node": "n", "id": "1", "address": "10.0.0.1:80", "state": "healthy", "reason": null },
                { "node": "n", "id": "2", "address": "10.0.0.2:80", "state": "excluded", "reason": "critical" },
                { "node": "n", "id": "3", "address": "10.0.0.3:80", "state": "held, not confirmed", "reason": "no rights" },
            ],
            "rejected": [{ "tag": "urlprefix-\u{1b}", "reason": "no path" }],
            "unknown_options": ["urlprefix-/a auth=x: no such scheme"],
        }]))
        .unwrap();
        assert_eq!(
            table(&rows, &services),
            "ROUTE  SERVICE  TARGET               SHARE   OPTIONS\n\
             a/     web      http://10.0.0.1:80/  100.0%  -\n\
             b/     web      no instance          503     -\n\
             \n\
             SERVICE  INSTANCE OUT  ADDRESS      STATE     WHY\n\
             web      n/2           10.0.0.2:80  excluded  critical\n\
             \n\
             SERVICE  INSTANCE HELD  ADDRESS      STATE                WHY\n\
             web      n/3            10.0.0.3:80  held, not confirmed  no rights\n\
             \n\
             SERVICE  REJECTED TAG      WHY\n\
             web      urlprefix-\\u{1b}  no path\n\
             \n\
             SERVICE  REMARK\n\
             web      urlprefix-/a auth=x: no such scheme\n"
        );
        assert_eq!(
            all_services(&services),
            "SERVICE  SOURCE  AGE  INSTANCE  ADDRESS      STATE                WHY\n\
             web      consul  1 s  n/1       10.0.0.1:80  healthy              -\n\
             web      consul  1 s  n/2       10.0.0.2:80  excluded             critical\n\
             web      consul  1 s  n/3       10.0.0.3:80  held, not confirmed  no rights\n\
             \n\
             SERVICE  REJECTED TAG      WHY\n\
             web      urlprefix-\\u{1b}  no path\n\
             \n\
             SERVICE  REMARK\n\
             web      urlprefix-/a auth=x: no such scheme\n"
        );
    }

    #[test]
    fn events_and_failing_sources_are_tables() {
        let events: Vec<Event> = serde_json::from_value(serde_json::json!([
            { "time": "2026-11-30T03:14:00.000Z", "kind": "instance", "service": "web", "instance": "n/1",
              "address": "10.0.0.1:80", "from": "healthy", "to": "excluded", "reason": "a\u{1b}b" },
            { "time": null, "kind": "config", "service": null, "instance": null, "address": null, "from": null,
              "to": "reloaded", "reason": null },
        ]))
        .unwrap();
        assert_eq!(
            all_events(&events),
            "TIME                      KIND      NAME  INSTANCE         CHANGE               WHY\n\
             2026-11-30T03:14:00.000Z  instance  web   n/1 10.0.0.1:80  healthy -> excluded  a\\u{1b}b\n\
             -                         config    -     -                reloaded             -\n"
        );
        let sources: Vec<Source> = serde_json::from_value(serde_json::json!([
            { "since": null, "trouble": null },
            { "since": "2026-11-30T03:14:00.000Z", "trouble": "consul: refused" },
        ]))
        .unwrap();
        assert_eq!(
            failing(&sources),
            "\nSINCE                     SOURCE CANNOT BE READ\n2026-11-30T03:14:00.000Z  consul: refused\n"
        );
        assert_eq!(failing(&sources[..1]), "");
    }
}
