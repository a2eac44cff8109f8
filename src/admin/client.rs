//! The other end of the admin listener: `lb routes` and `lb explain` ask a running `lb` and lay out what it says.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::dial::Admin;
pub use super::dial::{Access, AdminClientError, DEFAULT_ADMIN};
use super::tabular::{aligned, printable};

/// Everything but what RFC 3986 calls unreserved.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

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
/// When it cannot be asked or answers with an error.
pub async fn routes(admin: &Access, format: RoutesFormat) -> Result<String, AdminClientError> {
    let admin = Admin::new(admin)?;
    match format {
        RoutesFormat::Json => admin.get("/api/routes?pretty").await,
        RoutesFormat::Fabio => admin.get("/api/routes?raw").await.map(|text| printable(&text)),
        RoutesFormat::Table => {
            let rows: Vec<Row> = admin.read(&admin.get("/api/routes?empty").await?)?;
            let services: Vec<Service> = admin.read(&admin.get("/api/services").await?)?;
            Ok(table(&rows, &services))
        }
    }
}

/// The answer of `/api/routes` of an admin listener, ours or Fabio's. A path in its address stands before that.
///
/// # Errors
/// When it cannot be asked or answers with an error.
pub async fn api_routes(admin: &Access) -> Result<String, AdminClientError> {
    Admin::new(admin)?.get("/api/routes").await
}

/// What the `lb` at `admin` would do with a request; `headers` are `Name: value`. With `json`, the API's JSON.
///
/// # Errors
/// When it cannot be asked or answers with an error.
pub async fn explain(
    admin: &Access,
    url: &str,
    method: &str,
    headers: &[String],
    json: bool,
) -> Result<String, AdminClientError> {
    let admin = Admin::new(admin)?;
    let mut path = format!("/api/explain?pretty&url={}", utf8_percent_encode(url, QUERY));
    // Writing to a String cannot fail.
    let _ = write!(path, "&method={}", utf8_percent_encode(method, QUERY));
    for header in headers {
        let _ = write!(path, "&header={}", utf8_percent_encode(header, QUERY));
    }
    let answer = admin.get(&path).await?;
    if json {
        return Ok(answer);
    }
    Ok(printable(&admin.read::<Explained>(&answer)?.text))
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

/// Routes; below them, if there are any, the instances that are out, those that are held, the tags that were rejected, and
/// remarks on others.
fn table(rows: &[Row], services: &[Service]) -> String {
    let shown: Vec<[String; 5]> = rows
        .iter()
        .map(|row| {
            if row.dst.is_empty() {
                let answer = if row.src.starts_with(':') { "closed at once" } else { "503" };
                return [row.src.clone(), row.service.clone(), "no instance".into(), answer.into(), row.opts.clone()];
            }
            let share = format!("{:.1}%", row.weight * 100.0);
            [row.src.clone(), row.service.clone(), row.dst.clone(), share, row.opts.clone()]
        })
        .collect();
    let mut text = aligned(["ROUTE", "SERVICE", "TARGET", "SHARE", "OPTIONS"], &shown);
    let not_healthy = services
        .iter()
        .flat_map(|service| service.instances.iter().map(move |instance| (service, instance)))
        .filter(|(_, instance)| instance.state != "healthy");
    // Those that are held get traffic.
    let (held, out): (Vec<_>, Vec<_>) = not_healthy.partition(|(_, instance)| instance.state.starts_with("held"));
    for (title, list) in [("INSTANCE OUT", out), ("INSTANCE HELD", held)] {
        let row = |(service, instance): (&Service, &Instance)| {
            let name = format!("{}/{}", instance.node, instance.id);
            let reason = instance.reason.clone().unwrap_or_default();
            [service.name.clone(), name, instance.address.clone(), instance.state.clone(), reason]
        };
        let shown: Vec<[String; 5]> = list.into_iter().map(row).collect();
        if !shown.is_empty() {
            text.push('\n');
            text.push_str(&aligned(["SERVICE", title, "ADDRESS", "STATE", "WHY"], &shown));
        }
    }
    let rejected: Vec<[String; 3]> = services
        .iter()
        .flat_map(|service| service.rejected.iter().map(move |bad| (service, bad)))
        .map(|(service, bad)| [service.name.clone(), bad.tag.clone(), bad.reason.clone()])
        .collect();
    if !rejected.is_empty() {
        text.push('\n');
        text.push_str(&aligned(["SERVICE", "REJECTED TAG", "WHY"], &rejected));
    }
    let remarks: Vec<[String; 2]> = services
        .iter()
        .flat_map(|service| service.unknown_options.iter().map(move |remark| [service.name.clone(), remark.clone()]))
        .collect();
    if !remarks.is_empty() {
        text.push('\n');
        text.push_str(&aligned(["SERVICE", "REMARK"], &remarks));
    }
    text
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
    }
}
