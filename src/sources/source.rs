//! What a source is: the one door through which services and route commands come in.

use std::error::Error;
use std::path::PathBuf;

use futures_util::future::LocalBoxFuture;

use super::context::Context;
use super::healthy_count::HealthyCount;
use super::key_store::{CommandKeys, KeyStore};
use super::look::Look;
use super::probe_step::ProbeStep;
use super::registration::Registrar;
use crate::catalog::source::SourceName;
use crate::config::{Config, Draft};

/// A kind of source. What it says follows from the configuration that it is given; what runs is the
/// [`RunningSource`].
pub trait Source: Send + Sync {
    /// Its name in updates, logs, metrics and the API.
    fn name(&self) -> SourceName;

    /// Whether this configuration has it.
    fn is_on(&self, config: &Config) -> bool;

    /// Starts it, within a Tokio runtime; called only where it is on. It sends
    /// [`Update::Synced`](super::Update::Synced) once what it has sent is complete: until all
    /// sources have done so, lb is not ready. That a server cannot be reached is not an error: it is
    /// tried until it can be.
    ///
    /// # Errors
    /// The configuration cannot be used as it is.
    fn start(
        &self,
        config: &Config,
        context: &Context,
    ) -> Result<Box<dyn RunningSource>, SourceError>;

    /// Its keys that differ from `next` and take effect only after a restart. A source that comes or
    /// goes is one too: sources are started with the process.
    fn restart_keys(&self, present: &Config, next: &Config) -> Vec<&'static str>;

    /// Whether `next` takes away something that it has now: such a configuration counts only when a
    /// second look finds the same.
    fn takes_away(&self, present: &Config, next: &Config) -> bool {
        self.is_on(present) && !self.is_on(next)
    }

    /// The files that it reads at the start and at each reload: a change of one is a reason to
    /// reload. Files that it watches by itself are not among them.
    fn files(&self, _config: &Config) -> Vec<PathBuf> {
        Vec::new()
    }

    /// What `lb check` shall look at.
    fn looks<'a>(&self, _config: &'a Config) -> Vec<Look<'a>> {
        Vec::new()
    }

    /// One attempt to read it, step by step, for `lb check --live`; none where there is nothing to
    /// dial.
    fn probe<'a>(&self, _draft: &'a Draft) -> Option<LocalBoxFuture<'a, Vec<ProbeStep>>> {
        None
    }
}

/// A source that runs. It ends when this is dropped, and leaves nothing to wait for.
pub trait RunningSource: Send + Sync {
    /// Reads what `next` names, and judges it. Called beside the control thread, because files may
    /// hang.
    ///
    /// # Errors
    /// `next` cannot be used: nothing of it is taken over then, neither here nor elsewhere.
    fn prepare(&self, _next: &Config) -> Result<Reload, SourceError> {
        Ok(Reload::Unchanged)
    }

    /// The route commands that it keeps, if they can be changed through it.
    fn command_keys(&self) -> Option<CommandKeys> {
        None
    }

    /// Where it keeps secrets that all lb share, if it can.
    fn secrets(&self) -> Option<Box<dyn KeyStore>> {
        None
    }

    /// What registers lb itself with it, if it can; nothing is registered yet. Called within a Tokio
    /// runtime.
    fn registrar(&self) -> Option<Box<dyn Registrar>> {
        None
    }

    /// What counts the healthy instances of a service of it, if it can; nothing is counted yet.
    /// Called within a Tokio runtime.
    fn healthy_count(&self) -> Option<Box<dyn HealthyCount>> {
        None
    }
}

/// What a new configuration means for a running source, beside what needs a restart
/// ([`Source::restart_keys`]).
pub enum Reload {
    /// Nothing.
    Unchanged,
    /// To be called once every part of lb has agreed to the configuration. Cannot fail, and blocks
    /// nothing.
    Apply(Box<dyn FnOnce() + Send>),
}

impl Reload {
    /// Takes over what was prepared.
    pub fn apply(self) {
        match self {
            Self::Unchanged => {}
            Self::Apply(apply) => apply(),
        }
    }
}

impl std::fmt::Debug for Reload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unchanged => "Unchanged",
            Self::Apply(_) => "Apply",
        })
    }
}

/// Why a source cannot use a configuration.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct SourceError {
    what: String,
    #[source]
    cause: Option<Box<dyn Error + Send + Sync>>,
}

impl SourceError {
    /// Says it all in `what`.
    #[must_use]
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            cause: None,
        }
    }

    /// `what` is the part of the configuration, `cause` what is wrong with it.
    #[must_use]
    pub fn of(what: impl Into<String>, cause: impl Error + Send + Sync + 'static) -> Self {
        Self {
            what: what.into(),
            cause: Some(Box::new(cause)),
        }
    }
}
