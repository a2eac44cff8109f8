//! The route command language: `route add`, `route del`, `route weight`.

use std::sync::Arc;

use super::tag::{RouteKey, RouteSpec};
use super::{Endpoint, ServiceName};

/// One command, parsed.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Adds a target.
    Add(AddRoute),
    /// Removes targets; every part that is given must match.
    Del {
        /// Of this service.
        service: Option<ServiceName>,
        /// On this route only.
        key: Option<RouteKey>,
        /// With this URL only, compared as text after parsing.
        url: Option<Arc<str>>,
        /// That carry all these tags.
        tags: Vec<Arc<str>>,
    },
    /// Splits a fixed share evenly over the targets that match.
    Weight {
        /// Of this service, or of all.
        service: Option<ServiceName>,
        /// On this route.
        key: RouteKey,
        /// Share to split; above 0.
        weight: f64,
        /// That carry all these tags.
        tags: Vec<Arc<str>>,
    },
}

/// `route add SERVICE SRC URL …`, or one `[[static.route]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct AddRoute {
    /// Service the target counts for.
    pub service: ServiceName,
    /// Place and options.
    pub spec: RouteSpec,
    /// Destination as written.
    pub url: Arc<str>,
    /// Where the target listens (never resolved yet when the URL holds a name).
    pub endpoint: Endpoint,
    /// Query of the URL, put before the request's own.
    pub query: Option<Arc<str>>,
    /// The endpoint's name is an SRV name (`srv+http://NAME`): answers give address, port and weight.
    pub srv: bool,
    /// Plain tags.
    pub tags: Vec<Arc<str>>,
}

/// A line that could not be understood; the others are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandError {
    /// Line number, from 1.
    pub line: usize,
    /// The line.
    pub text: String,
    /// Why, and what would be right.
    pub reason: String,
}
