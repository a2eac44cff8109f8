//! The source `routes_http`: an endpoint that responds with route commands as JSON, and is polled.
//!
//! A response that cannot be used (no connection, another status, no JSON list) says nothing about
//! the services behind it: the last good commands stay, and the trouble is reported. An entry that
//! makes no command costs itself only, but a list of nothing else cannot be used; and a list that
//! is suddenly empty is believed when a second one confirms it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ETAG, IF_NONE_MATCH};
use http::{HeaderValue, StatusCode};
use tokio::sync::mpsc;
use tokio::time;

use super::context::Context;
use super::look::Look;
use super::source::{RunningSource, Source, SourceError};
use super::task::SourceTask;
use super::update::Update;
use crate::catalog::command::CommandError;
use crate::catalog::command_list::CommandList;
use crate::catalog::definitions::parse_definitions;
use crate::catalog::source::SourceName;
use crate::config::{Config, RoutesHttpConfig};
use crate::http_client::trust::{Trust, TrustError};
use crate::http_client::{self, Client, HttpError, Limits, Request};
use crate::metrics::Metrics;

pub(crate) const SOURCE: SourceName = "routes_http";

/// Kind of its errors in `lb_registry_errors_total`.
const KIND: &str = "routes_http";
/// Largest response, in bytes.
const BODY_BYTES_MAX: usize = 64 << 20;
/// How long an emptied list is given to be filled again.
const CONFIRM_EMPTY: Duration = Duration::from_millis(500);

/// Why a response is not taken.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{0}")]
    Http(#[from] HttpError),
    #[error("routes_http.ca_file: {0}")]
    Trust(#[from] TrustError),
    #[error("{url}: status {status}, where 200 is expected")]
    Status { url: String, status: StatusCode },
    #[error("{url}: the response is not a JSON list of route commands: {reason}")]
    Body {
        url: String,
        reason: serde_json::Error,
    },
    #[error("{url}: none of the {count} entries is a route command; the first, {first}")]
    AllRefused {
        url: String,
        count: usize,
        first: Box<CommandError>,
    },
}

/// A list that makes sense.
#[derive(Debug)]
struct Listing {
    commands: CommandList,
    errors: Arc<[CommandError]>,
    body: Bytes,
    tag: Option<HeaderValue>,
}

/// The source `routes_http`.
#[derive(Debug)]
pub(crate) struct RoutesHttp;

impl Source for RoutesHttp {
    fn name(&self) -> SourceName {
        SOURCE
    }

    fn is_on(&self, config: &Config) -> bool {
        config.routes_http.is_some()
    }

    fn start(
        &self,
        config: &Config,
        context: &Context,
    ) -> Result<Box<dyn RunningSource>, SourceError> {
        let endpoint = config.routes_http.as_ref().ok_or_else(|| {
            SourceError::new("routes_http.url is missing: write the URL of the endpoint")
        })?;
        let (metrics, updates) = (context.metrics.clone(), context.updates.clone());
        Ok(Box::new(Running(spawn(endpoint, metrics, updates))))
    }

    fn restart_keys(&self, present: &Config, next: &Config) -> Vec<&'static str> {
        match (&present.routes_http, &next.routes_http) {
            (Some(present), Some(next)) => present.restart_keys(next),
            (None, None) => Vec::new(),
            _ => vec!["routes_http"],
        }
    }

    fn looks<'a>(&self, config: &'a Config) -> Vec<Look<'a>> {
        let endpoint = config.routes_http.as_ref();
        let ca_file = endpoint.and_then(|endpoint| endpoint.ca_file.as_deref());
        ca_file
            .map(|path| Look::File("routes_http.ca_file", path))
            .into_iter()
            .collect()
    }
}

/// The endpoint is polled all the time; a reload changes nothing of that.
struct Running(#[allow(dead_code, reason = "held for its drop")] SourceTask);

impl RunningSource for Running {}

/// Starts the source on the current runtime. It sends its commands after the first good response
/// and whenever they differ, and is synced after the first good response. A `ca_file` that cannot
/// be used is read again each time.
fn spawn(config: &RoutesHttpConfig, metrics: Metrics, updates: mpsc::Sender<Update>) -> SourceTask {
    // Shown before the first error: a series that begins with it never rises.
    metrics.control().registry_errors.entry(KIND).or_default();
    let mut request = Request::get(
        config
            .url
            .reveal()
            .parse()
            .expect("the configuration has looked at it"),
    );
    request
        .headers
        .push((ACCEPT, HeaderValue::from_static("application/json")));
    request.headers.extend(config.headers.iter().cloned());
    let limits = Limits {
        time: config.timeout,
        bytes: BODY_BYTES_MAX,
    };
    metrics
        .journal()
        .sources()
        .expect(SOURCE, Some(http_client::shown(&request.url)));
    let (ca_file, skip_verify) = (config.ca_file.clone(), config.skip_verify);
    let source = HttpSource {
        client: None,
        ca_file,
        skip_verify,
        request,
        limits,
        metrics,
        updates,
        known: None,
        trouble: None,
    };
    SourceTask::spawn(source.run(config.refresh))
}

struct HttpSource {
    client: Option<Client>,
    ca_file: Option<PathBuf>,
    skip_verify: bool,
    request: Request,
    limits: Limits,
    metrics: Metrics,
    updates: mpsc::Sender<Update>,
    /// What the last good response said.
    known: Option<Listing>,
    /// Present trouble, as logged.
    trouble: Option<String>,
}

impl HttpSource {
    async fn run(mut self, refresh: Duration) {
        loop {
            if self.look().await.is_err() {
                return;
            }
            tokio::select! {
                () = time::sleep(refresh) => {}
                () = self.updates.closed() => return,
            }
        }
    }

    /// Reads the list and sends what is new; fails when nothing takes updates any more.
    async fn look(&mut self) -> Result<(), mpsc::error::SendError<Update>> {
        match self.read_confirmed().await {
            Ok(listing) => {
                self.metrics.journal().source_read(SOURCE, "");
                if self.trouble.take().is_some() {
                    tracing::info!(url = self.shown(), "routes can be fetched again");
                }
                match listing {
                    Some(listing) => self.take(listing).await,
                    None => Ok(()),
                }
            }
            Err(error) => {
                self.report(error.to_string());
                Ok(())
            }
        }
    }

    /// The present list; none when it is the one that is known. An emptied one is read twice.
    async fn read_confirmed(&mut self) -> Result<Option<Listing>, ReadError> {
        let listing = self.read().await?;
        let was_full = self
            .known
            .as_ref()
            .is_some_and(|known| !known.commands.is_empty());
        if !was_full
            || listing
                .as_ref()
                .is_none_or(|listing| !listing.commands.is_empty())
        {
            return Ok(listing);
        }
        time::sleep(CONFIRM_EMPTY).await;
        self.read().await
    }

    async fn read(&mut self) -> Result<Option<Listing>, ReadError> {
        let mut request = self.request.clone();
        request.headers.extend(
            self.known
                .iter()
                .filter_map(|known| Some((IF_NONE_MATCH, known.tag.clone()?))),
        );
        let client = match self.client.take() {
            Some(client) => client,
            None => {
                let (ca_file, skip_verify) = (self.ca_file.as_deref(), self.skip_verify);
                let trust = Trust {
                    ca_file,
                    skip_verify,
                    ..Trust::default()
                };
                Client::new(&*trust.client_config()?, None)?
            }
        };
        let client = self.client.insert(client);
        let response = client.send(request, self.limits).await?;
        let url = self.shown();
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED if self.known.is_some() => return Ok(None),
            status => return Err(ReadError::Status { url, status }),
        }
        if self
            .known
            .as_ref()
            .is_some_and(|known| known.body == *response.body())
        {
            return Ok(None);
        }
        let tag = response.headers().get(ETAG).cloned();
        let body = response.into_body();
        let (commands, errors) = parse_definitions(&body).map_err(|reason| ReadError::Body {
            url: url.clone(),
            reason,
        })?;
        match errors.first() {
            Some(first) if commands.is_empty() => Err(ReadError::AllRefused {
                url,
                count: errors.len(),
                first: Box::new(first.clone()),
            }),
            _ => Ok(Some(Listing {
                commands: commands.into(),
                errors: errors.into(),
                body,
                tag,
            })),
        }
    }

    async fn take(&mut self, listing: Listing) -> Result<(), mpsc::error::SendError<Update>> {
        let (commands, errors) = (listing.commands.clone(), Arc::clone(&listing.errors));
        let before = self.known.replace(listing);
        // Only the order of fields or white space may have changed.
        if before
            .as_ref()
            .is_some_and(|before| before.commands == commands && before.errors == errors)
        {
            return Ok(());
        }
        // Which entries are wrong is logged where the commands are taken, as for every source.
        tracing::info!(
            url = self.shown(),
            commands = commands.len(),
            rejected = errors.len(),
            "routes fetched"
        );
        self.updates
            .send(Update::Commands {
                source: SOURCE,
                commands,
                errors,
                seen_at: std::time::Instant::now(),
            })
            .await?;
        if before.is_none() {
            self.updates.send(Update::Synced { source: SOURCE }).await?;
        }
        Ok(())
    }

    fn report(&mut self, reason: String) {
        *self
            .metrics
            .control()
            .registry_errors
            .entry(KIND)
            .or_default() += 1;
        self.metrics.journal().source_failed(SOURCE, "", &reason);
        if self.trouble.as_ref() != Some(&reason) {
            let kept = if self.known.is_some() {
                "the last commands stay in force"
            } else {
                "there are no commands yet"
            };
            tracing::warn!(reason, "routes cannot be fetched; {kept}");
            self.trouble = Some(reason);
        }
    }

    /// The URL without its secrets.
    fn shown(&self) -> String {
        http_client::shown(&self.request.url)
    }
}
