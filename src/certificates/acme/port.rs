//! What the rest of the process is to ordering certificates: which hosts are routed, where responses
//! to challenges are shown, and what is told.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::challenge::Answer;
use super::failure::Kind;

/// The data path met a challenge that it does not know. The sender is dropped once it
/// knows all there are.
pub(crate) type Ask = oneshot::Sender<()>;

/// Queries outlive the task that serves them: a reload starts it anew.
pub(crate) type Asks = Arc<Mutex<mpsc::Receiver<Ask>>>;

/// The way to the rest of the process.
pub(crate) trait Port: Send + Sync + 'static {
    /// Hosts of the routes that are served as HTTP, as routes have them.
    fn hosts(&self) -> Arc<BTreeSet<String>>;

    /// Shows these responses and no others.
    fn show(&self, answers: Vec<(String, Answer)>);

    /// An order has come to its end.
    fn ordered(&self, issued: bool);

    /// Something has failed.
    fn failed(&self, kind: Kind);

    /// What is to be said of each name.
    fn tell(&self, names: Vec<NameState>);
}

/// What is to be said of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct NameState {
    /// The host.
    pub name: String,
    /// `valid`, `ordering`, `waiting`, `failing`, `refused` or `unused`.
    pub state: &'static str,
    /// Why, where it is not well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Unix time (s) at which its certificate ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<i64>,
    /// Unix time (s) before which nothing is done about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_try: Option<i64>,
}

/// Both ends that a source of this kind has beside its sink.
#[derive(Clone)]
pub(crate) struct Ports {
    pub(crate) port: Arc<dyn Port>,
    pub(crate) asks: Asks,
}
