//! The other end of the admin listener: `lb routes` and `lb explain` ask a running `lb` and lay out what it says.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::net::TcpStream;

use super::tabular::{aligned, printable};

/// Where `lb` listens unless told otherwise.
pub const DEFAULT_ADMIN: &str = "http://127.0.0.1:9998";

/// Its port: also that of an address without one, because nobody keeps the admin listener on port 80.
const DEFAULT_PORT: u16 = 9998;

/// Limit for the whole exchange.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Largest answer taken, in bytes: a table of some 100,000 routes.
const ANSWER_BYTES_MAX: usize = 256 << 20;

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

/// Why a running `lb` could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AdminClientError {
    /// The address makes no sense.
    #[error("admin address `{address}`: {reason}; it looks like {DEFAULT_ADMIN}")]
    Address {
        /// As given.
        address: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Nothing is there.
    #[error("nothing listens on {address}: is lb running? (`--admin` says where its admin listener is)")]
    Refused {
        /// Host and port.
        address: String,
    },
    /// The exchange failed.
    #[error("asking lb on {address}: {reason}")]
    Exchange {
        /// Host and port.
        address: String,
        /// What failed.
        reason: String,
    },
    /// It took too long.
    #[error("lb on {address} gave no answer within {} s", TIMEOUT.as_secs())]
    Timeout {
        /// Host and port.
        address: String,
    },
    /// The answer is an error.
    #[error("lb on {address} says {status}: {message}")]
    Answer {
        /// Host and port.
        address: String,
        /// Its status.
        status: StatusCode,
        /// Its words.
        message: String,
    },
}

/// The live table of the `lb` at `admin`, ready to be printed.
///
/// # Errors
/// When it cannot be asked or answers with an error.
pub async fn routes(admin: &str, format: RoutesFormat) -> Result<String, AdminClientError> {
    let admin = Admin::parse(admin)?;
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
pub async fn api_routes(admin: &str) -> Result<String, AdminClientError> {
    let below = admin.split_once("://").map_or(admin, |(_, rest)| rest).split_once('/').map_or("", |(_, path)| path);
    let below = below.trim_end_matches('/');
    let slash = if below.is_empty() { "" } else { "/" };
    Admin::parse(admin)?.get(&format!("{slash}{below}/api/routes")).await
}

/// What the `lb` at `admin` would do with a request; `headers` are `Name: value`. With `json`, the API's JSON.
///
/// # Errors
/// When it cannot be asked or answers with an error.
pub async fn explain(
    admin: &str,
    url: &str,
    method: &str,
    headers: &[String],
    json: bool,
) -> Result<String, AdminClientError> {
    let admin = Admin::parse(admin)?;
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

/// Routes; below them, if there are any, the instances that are out and the tags that were rejected.
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
    let out: Vec<[String; 5]> = services
        .iter()
        .flat_map(|service| service.instances.iter().map(move |instance| (service, instance)))
        .filter(|(_, instance)| instance.state != "healthy")
        .map(|(service, instance)| {
            let name = format!("{}/{}", instance.node, instance.id);
            let reason = instance.reason.clone().unwrap_or_default();
            [service.name.clone(), name, instance.address.clone(), instance.state.clone(), reason]
        })
        .collect();
    if !out.is_empty() {
        text.push('\n');
        text.push_str(&aligned(["SERVICE", "INSTANCE OUT", "ADDRESS", "STATE", "WHY"], &out));
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
    text
}

/// An address that was understood.
struct Admin {
    /// `host:port`, brackets around IPv6.
    address: String,
}

impl Admin {
    fn parse(given: &str) -> Result<Self, AdminClientError> {
        let wrong = |reason| AdminClientError::Address { address: given.to_owned(), reason };
        let text = if given.contains("://") { given.to_owned() } else { format!("http://{given}") };
        let uri: Uri = text.parse().map_err(|_| wrong("not a URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("only http is spoken there"));
        }
        let authority =
            uri.authority().filter(|authority| !authority.host().is_empty()).ok_or_else(|| wrong("no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("a user name is not used there"));
        }
        Ok(Self { address: format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(DEFAULT_PORT)) })
    }

    async fn get(&self, path: &str) -> Result<String, AdminClientError> {
        match tokio::time::timeout(TIMEOUT, self.exchange(path)).await {
            Ok(answer) => answer,
            Err(_) => Err(AdminClientError::Timeout { address: self.address.clone() }),
        }
    }

    async fn exchange(&self, path: &str) -> Result<String, AdminClientError> {
        let stream = TcpStream::connect(&self.address).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::ConnectionRefused => AdminClientError::Refused { address: self.address.clone() },
            _ => self.failed(&error),
        })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.failed(&error))?;
        let request = Request::get(path)
            .header("host", &self.address)
            .body(Empty::<Bytes>::new())
            .map_err(|error| self.failed(&error))?;
        let exchange = async {
            let answer = sender.send_request(request).await.map_err(|error| self.failed(&error))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| self.failed(error.as_ref()))?.to_bytes();
            Ok((status, String::from_utf8_lossy(&body).into_owned()))
        };
        // The connection is driven here instead of in a task, so that nothing is left behind.
        let mut connection = std::pin::pin!(connection);
        let mut exchange = std::pin::pin!(exchange);
        let (status, body) = tokio::select! {
            biased;
            done = &mut exchange => done?,
            _ = &mut connection => exchange.await?,
        };
        if status.is_success() { Ok(body) } else { Err(self.refused(status, &body)) }
    }

    fn refused(&self, status: StatusCode, body: &str) -> AdminClientError {
        #[derive(Deserialize)]
        struct Problem {
            error: String,
        }
        let message = serde_json::from_str::<Problem>(body)
            .map_or_else(|_| body.trim().chars().take(200).collect(), |problem| problem.error);
        AdminClientError::Answer { address: self.address.clone(), status, message: printable(&message) }
    }

    fn failed(&self, error: &(impl std::error::Error + ?Sized)) -> AdminClientError {
        let mut reason = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let _ = write!(reason, ": {cause}");
            source = cause.source();
        }
        AdminClientError::Exchange { address: self.address.clone(), reason }
    }

    fn read<T: serde::de::DeserializeOwned>(&self, text: &str) -> Result<T, AdminClientError> {
        serde_json::from_str(text).map_err(|error| AdminClientError::Exchange {
            address: self.address.clone(),
            reason: format!("the answer is not lb's ({error})"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (given, address) in [
            (DEFAULT_ADMIN, "127.0.0.1:9998"),
            ("localhost:1", "localhost:1"),
            ("http://[::1]:9998/", "[::1]:9998"),
            ("http://lb.example", "lb.example:9998"),
            ("lb.example", "lb.example:9998"),
            ("http://lb.example:80/", "lb.example:80"),
        ] {
            assert_eq!(Admin::parse(given).unwrap().address, address);
        }
        for bad in ["https://x:1", "http://", "unix:///x", "a b", "http://u:p@x:1", ""] {
            let error = Admin::parse(bad).map(|admin| admin.address).unwrap_err().to_string();
            assert!(error.contains("it looks like http://127.0.0.1:9998"), "{error}");
        }
    }

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
            ],
            "rejected": [{ "tag": "urlprefix-\u{1b}", "reason": "no path" }],
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
             SERVICE  REJECTED TAG      WHY\n\
             web      urlprefix-\\u{1b}  no path\n"
        );
    }
}
